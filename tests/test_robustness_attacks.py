"""Attacks on their own: within eps, from starts of their own, and with no lucky draw."""

from collections import Counter

import pytest
import torch

pytest.importorskip("pyautoattack")
pytest.importorskip("matplotlib")

from victims import LITTLE, Bowl, Scale, grey, images, network

import tgo_kernels as tgo
from benchmarks.robustness import study
from benchmarks.robustness.models import lif_layers
from benchmarks.robustness.recipe import Recipe
from tgo_kernels.robustness import ANSWERS, Victim, accuracy, attacks, local_search, rates, sa_pgd, suite
from tgo_kernels.robustness import victim as victim_module
from tgo_kernels.robustness.frameworks import watched
from tgo_kernels.robustness.victim import margin


@pytest.mark.parametrize("noise", [False, True])
def test_every_attack_stays_within_eps(noise, monkeypatch):
    monkeypatch.setattr(victim_module, "ANSWERS", 4)
    victim, (x, y) = Victim(network(noise_std=0.2).eval()), images(10)
    start = attacks.somewhere(x, 4 / 255)
    for name, stage in suite(victim, LITTLE, noise, [Victim(network())], 4 / 255).items():
        eps = float(name.split("eps ")[1].split("/")[0]) if "eps" in name else 4
        with victim.evaluating(noise):
            moved = x if stage.attack is None else stage.attack(victim, x, y, start if stage.start else None)
        assert moved.min() >= 0 and moved.max() <= 1 and (moved - x).abs().max() <= eps / 255 + 1e-6, name
        assert not moved.requires_grad, name
    assert not any(layer.noise_in_eval for layer in lif_layers(victim.model)) and victim.made == []


def test_a_gradient_is_the_mean_over_fresh_draws():
    victim, (x, y) = Victim(network(noise_std=0.3).eval()), images(4)
    with victim.evaluating(True):
        torch.manual_seed(3)
        mean, logits = attacks.gradient(victim, x, y, margin, draws=3)
        torch.manual_seed(3)
        each = [attacks.gradient(victim, x, y, margin) for _ in range(3)]
    assert len({g.sum().item() for g, _ in each}) == 3
    torch.testing.assert_close(mean, sum(g for g, _ in each) / 3)
    torch.testing.assert_close(logits, sum(a for _, a in each) / 3)
    with victim.evaluating(True):
        torch.manual_seed(3)
        torch.testing.assert_close(victim.mean(x, 3).detach(), logits)


def test_a_noisy_model_answers_by_the_mean_of_many_draws():
    """No lucky draw ends an attack: an image that one draw in five gets wrong is right."""
    model, (x, _) = network(noise_std=0.3).eval(), images(100)
    victim = Victim(model)
    torch.manual_seed(0)
    with victim.evaluating(True), torch.no_grad():
        draws = torch.stack([victim(x) for _ in range(ANSWERS)])
        y = draws.mean(0).argmax(1)
        lucky = (draws.argmax(2) != y).float().mean(0)
        sure = (lucky > 0.1) & (lucky < 0.3)
        asked = torch.stack([victim.wrong(x[sure], y[sure])[0] for _ in range(4)])
    assert sure.sum() > 20 and asked.float().mean() < 0.01
    calls = []
    with victim.evaluating(False), watched(lif_layers(model), lambda *_: calls.append(1)):
        victim.wrong(x, y)
    assert len(calls) == len(lif_layers(model))


def test_wrong_is_asked_once_more():
    """Where one mean in two is wrong, two are in a quarter."""

    class Coin(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.stack([torch.zeros(len(x)), torch.randn(len(x))], 1) + 0 * x.mean()

    victim, x = Victim(Coin()), torch.rand(2000, 1, 1, 1)
    victim.random = True
    wrong, margins = victim.wrong(x, torch.zeros(2000, dtype=torch.int64))
    assert 0.2 < wrong.float().mean() < 0.3 and torch.equal(wrong, margins > 0)


def test_of_a_tie_the_first_is_the_answer():
    victim = Victim(torch.nn.Flatten())
    x = torch.zeros(3, 1, 1, 3)
    wrong, margins = victim.wrong(x, torch.tensor([0, 1, 2]))
    assert wrong.tolist() == [False, True, True] and margins.abs().max() < 1e-30


def test_a_margin_is_to_the_best_other_logit():
    logits = torch.tensor([[1.0, 5.0, 3.0], [4.0, 1.0, 2.0]])
    assert margin(logits, torch.tensor([0, 0])).tolist() == [4.0, -2.0]


class Wavering(torch.nn.Module):
    """Right on [B, 1, *] of mean over 1/2; one draw in eight says otherwise, the mean of 64 never."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.bias = tgo.LIF(noise_std=0.1), torch.nn.Parameter(torch.zeros(()))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        sure = (x.mean((1, 2, 3)) - 0.5) * 255 / 4 - 2.5 * (torch.rand(len(x)) < 0.12)
        return torch.stack([sure, self.bias.expand_as(sure)], 1)


@pytest.mark.parametrize(
    "attack",
    [
        attacks.apgd(steps=5),
        attacks.square(queries=100),
        sa_pgd(iterations=10),
        sa_pgd(iterations=10, draws=2),
        local_search(queries=400, draws=1),
    ],
)
def test_no_attack_ends_at_a_lucky_draw(attack):
    """Not on the clean image, which can always be made wrong, nor on an iterate that one draw alone gets wrong."""
    model, x, y = Wavering().eval(), torch.full((100, 1, 8, 8), 0.5 + 4 / 255), torch.zeros(100, dtype=torch.int64)
    assert accuracy(model, x, y, noise=True) > 0.95
    assert accuracy(model, x, y, attack, noise=True) < 0.05


def test_a_start_is_taken_and_the_best_iterate_kept():
    """Steps of nothing leave the start; large steps, which jump past the optimum, do not lose it."""
    victim, (x, y) = Victim(Scale()), grey()
    start = attacks.somewhere(x, attacks.EPS)
    assert torch.equal(attacks.pgd(alpha=0.0, steps=2)(victim, x, y, start), start)
    other = (1 - y).view(-1, 1, 1, 1) * 6 / 255 - 3 / 255  # the image of the other kind
    best = (x + (0.5 + other - x.mean((1, 2, 3), keepdim=True))).clamp(0, 1)
    kept = attacks.pgd(alpha=8 / 255, steps=3, loss=lambda a, y: -margin(a, y), best=True)(victim, x, y, best)
    assert (victim.margins(kept, y) >= victim.margins(best, y)).all()


@pytest.mark.parametrize("best", [False, True])
@pytest.mark.parametrize("alpha", [0.004, 0.06])
def test_pgd_follows_its_equations(alpha, best):
    """By hand, on a bowl: small steps, of which the last is the best, and large ones, which jump over the bottom."""
    victim, eps = Victim(Bowl(-1.0)), 0.1
    x, labels = 0.5 + (torch.rand(5, 1, 2, 2) - 0.5) / 10, torch.zeros(5, dtype=torch.int64)
    seen = [attacks.somewhere(x, eps)]
    for _ in range(4):
        g, _ = attacks.gradient(victim, seen[-1], labels, margin)
        seen.append(attacks.within(seen[-1] + alpha * g.sign(), x, eps))
    ahead = torch.stack([victim.margins(each, labels) for each in seen])
    expected = torch.stack(seen)[ahead.argmax(0), torch.arange(5)] if best else seen[-1]
    made = attacks.pgd(eps, alpha, steps=4, loss=margin, best=best)(victim, x, labels, seen[0])
    torch.testing.assert_close(made, expected)


@pytest.mark.parametrize("attack", [attacks.rfgsm(), attacks.pgd(), sa_pgd(iterations=4), attacks.apgd(steps=4)])
def test_where_nothing_is_given_a_start_is_random(attack):
    """Of images at the bottom of a bowl, where the gradient is 0."""
    victim, x = Victim(Bowl(1e-4)), torch.full((20, 1, 2, 2), 0.5)
    assert victim.wrong(attack(victim, x, torch.ones(20, dtype=torch.int64)), torch.ones(20).long())[0].all()


def test_random_signs_are_of_every_pixel():
    x, _ = grey(4)
    moved = (attacks.random_signs()(Victim(Scale()), x, x) - x) * 255 / 8
    torch.testing.assert_close(moved.abs(), torch.ones_like(x))
    assert 0.3 < (moved > 0).float().mean() < 0.7


def back(x: torch.Tensor) -> torch.Tensor:
    """Itself, with a gradient that leads away."""
    return 2 * x.detach() - x


def flipped(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Images of the other kind."""
    return attacks.within(x + (0.5 - y.view(-1, 1, 1, 1)) * 16 / 255, x, attacks.EPS)


@pytest.mark.parametrize(
    "attack",
    {
        "pgd": attacks.pgd(steps=2, best=True),
        "sa_pgd": sa_pgd(iterations=2),
        "apgd": attacks.apgd(steps=2),
        "search": local_search(queries=1),
        "through": attacks.through(lambda depth: tgo.ATan(8.0), attacks.pgd(steps=2, best=True)),
        "annealed": attacks.annealed([lambda depth: tgo.ATan(8.0)] * 2, attacks.pgd(steps=2, best=True)),
        "quietly": attacks.quietly(attacks.pgd(steps=2, best=True)),
        "along": rates.along(rates.bptr, attacks.pgd(steps=2, best=True)),
    }.items(),
    ids=lambda pair: pair[0],
)
def test_every_attack_takes_the_start_it_is_given(attack):
    """And keeps it, where its gradients lead away."""
    victim, (x, y) = Victim(Scale(before=back)), grey()
    other = flipped(x, y)
    assert victim.wrong(other, y)[0].all() and victim.wrong(attack[1](victim, x, y, other), y)[0].all()
    assert victim.wrong(attack[1](victim, x, y), y)[0].float().mean() < 0.6


@pytest.mark.parametrize("noise", [False, True])
def test_the_last_attacks_keep_what_was_found(noise, monkeypatch):
    monkeypatch.setattr(victim_module, "ANSWERS", 4)
    victim, (x, y) = Victim(Scale(before=back, noise_std=0.01).eval()), grey()
    last = {name: stage.attack for name, stage in suite(victim, LITTLE, noise).items() if stage.start}
    assert len(last) == 4
    with victim.evaluating(noise):
        left = {name: victim.wrong(attack(victim, x, y, flipped(x, y)), y)[0] for name, attack in last.items()}
    assert all(wrong.all() for wrong in left.values()), left


@pytest.mark.parametrize("attack", [attacks.fgsm, attacks.rfgsm, attacks.pgd, attacks.apgd, attacks.square, sa_pgd])
def test_where_nothing_is_wrong_an_attack_ends_nearer(attack):
    """For others to go on from."""
    victim, (x, y) = Victim(Scale()), grey()
    found = attack(2 / 255)(victim, x, y)
    before, after = victim.margins(x, y), victim.margins(found, y)
    assert not (after > 0).any() and (after > before).float().mean() > 0.8


@pytest.mark.parametrize(
    "attack",
    [
        attacks.fgsm(2 / 255, draws=3),
        attacks.rfgsm(2 / 255, draws=3),
        attacks.pgd(2 / 255, steps=3, draws=3),
        attacks.pgd(2 / 255, steps=3, draws=3, best=True),
        attacks.apgd(2 / 255, steps=3, draws=3),
        attacks.square(2 / 255, queries=3, draws=3),
        sa_pgd(2 / 255, iterations=3, draws=3),
    ],
)
def test_every_point_is_asked_in_as_many_draws_as_were_asked_for(attack, monkeypatch):
    monkeypatch.setattr(victim_module, "ANSWERS", 6)
    model, (x, y), asked = Scale(), grey(6), Counter()
    model.register_forward_pre_hook(lambda module, inputs: asked.update([inputs[0].detach().numpy().tobytes()]))
    victim = Victim(model)
    victim.random = True
    attack(victim, x, y)
    assert asked and all(count % 3 == 0 for count in asked.values())


def test_a_restart_is_for_what_is_left():
    """Each finds half of what it is given; a lucky draw is none that counts."""

    def half(victim, images, labels, start=None):
        sizes.append(len(images))
        mine = (torch.arange(len(images)) % 4 < 2).view(-1, 1, 1, 1)
        return torch.where(mine, flipped(images, labels), images)

    victim, (x, y), sizes = Victim(Scale()), grey(16), []
    found = attacks.restarted(half, 3)(victim, x, y)
    assert sizes == [16, 8, 4] and victim.wrong(found, y)[0].sum() == 14
    sizes.clear()
    victim, x = Victim(Wavering().eval()), torch.full((100, 1, 8, 8), 0.5 + 8 / 255)
    with victim.evaluating(True):
        attacks.restarted(lambda v, x, y: sizes.append(len(x)) or x, 3)(victim, x, torch.zeros(100).long())
    assert sizes == [100, 100, 100]


def test_an_annealed_attack_goes_on_along_the_next_surrogate_from_where_it_was():
    def up(victim, images, labels, start):
        seen.append((victim.made[0].alpha, start))
        return start + 1

    seen, x = [], torch.rand(2, 1, 6, 6)
    makes = [lambda depth, alpha=alpha: tgo.ATan(alpha) for alpha in (1.0, 2.0, 4.0)]
    found = attacks.annealed(makes, up)(Victim(Scale()), x, torch.zeros(2), x)
    assert [alpha for alpha, _ in seen] == [1.0, 2.0, 4.0] and torch.equal(found, x + 1 + 1 + 1)
    assert all(torch.equal(start, x + i) for i, (_, start) in enumerate(seen[:2]))


def test_square_goes_on_from_a_tie_that_is_right():
    class Stairs(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            steps = ((x.mean((1, 2, 3)) - 0.5) * 255 - 2).floor()
            return torch.stack([torch.zeros_like(steps), steps], 1)

    victim, x, y = Victim(Stairs()), torch.full((40, 1, 8, 8), 0.5), torch.zeros(40, dtype=torch.int64)
    assert victim.wrong(attacks.square(queries=200)(victim, x, y), y)[0].float().mean() > 0.7


def test_examples_are_made_on_every_source():
    """Each source knows half of the images; both together all."""

    class Half(Scale):
        def __init__(self, label: int) -> None:
            super().__init__()
            self.label = label

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            mine = ((x.mean((1, 2, 3)) > 0.5).long() == self.label).view(-1, 1, 1, 1)
            return super().forward(torch.where(mine, x, x.detach()))

    victim, (x, y) = Victim(Scale()), grey()
    halves = [Victim(Half(label)) for label in (0, 1)]
    attack = attacks.pgd(alpha=1 / 255, steps=10)
    left = {}
    liar = Victim(Scale(before=lambda x: 1 - x))  # goes the wrong way, and is the surer of it
    for name, sources in {"one": halves[:1], "both": halves, "reversed": halves[::-1], "liar": [*halves, liar]}.items():
        torch.manual_seed(0)
        left[name] = accuracy(victim, x, y, attacks.transferred(sources, attack), noise=False)
    one = left.pop("one")
    assert one > 0.6 and max(left.values()) < one - 0.3, (one, left)


def test_a_source_is_in_evaluation_mode_with_its_noise_as_it_was():
    def watched(victim, images, labels):
        seen.append((victim.noisy, victim.model.training))
        return images

    noisy, plain, seen = Scale(noise_std=0.1), Scale(), []
    noisy.lif.noise_in_eval = True
    x, y = grey(4)
    attacks.transferred([Victim(noisy), Victim(plain)], watched)(Victim(Scale()), x, y)
    assert seen == [(True, False), (False, False)] and noisy.training and plain.training


def test_attacks_find_more_than_random_noise():
    """On a trained network of the study, weights and all."""
    model, (x, y) = Recipe().model(), images(60)
    model.load_state_dict(torch.load(study.STUDIES["full"].out / "BPTT-0.pt")["model"])
    made = {"random": attacks.random_signs(), "PGD": attacks.pgd(), "SA-PGD": sa_pgd(iterations=20)}
    left = {name: accuracy(model, x, y, attack, noise=False) for name, attack in made.items()}
    assert left["random"] > 0.7 and left["PGD"] < left["random"] - 0.15 and left["SA-PGD"] <= left["PGD"], left
