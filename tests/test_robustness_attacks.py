"""Attacks on their own: within eps, from starts of their own, and with no lucky draw."""

import pytest
import torch

pytest.importorskip("pyautoattack")
pytest.importorskip("matplotlib")

from victims import LITTLE, Scale, grey, images, network

import tgo_kernels as tgo
from benchmarks.robustness import study
from benchmarks.robustness.models import lif_layers
from benchmarks.robustness.recipe import Recipe
from tgo_kernels.robustness import ANSWERS, Victim, accuracy, attacks, sa_pgd, suite
from tgo_kernels.robustness import victim as victim_module
from tgo_kernels.robustness.frameworks import watched
from tgo_kernels.robustness.victim import margin


@pytest.mark.parametrize("noise", [False, True])
def test_every_attack_stays_within_eps(noise, monkeypatch):
    monkeypatch.setattr(victim_module, "ANSWERS", 4)
    victim, (x, y) = Victim(network(noise_std=0.2).eval()), images(10)
    start = attacks.somewhere(x, attacks.EPS)
    for name, stage in suite(victim, LITTLE, noise, [Victim(network())]).items():
        eps = float(name.split("eps ")[1].split("/")[0]) if "eps" in name else 8
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
    [attacks.apgd(steps=5), attacks.square(queries=100), sa_pgd(iterations=10), sa_pgd(iterations=10, draws=2)],
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
    for name, sources in {"one": halves[:1], "both": halves}.items():
        torch.manual_seed(0)
        left[name] = accuracy(victim, x, y, attacks.transferred(sources, attack), noise=False)
    assert left["one"] > 0.1 and left["both"] < left["one"], left


def test_attacks_find_more_than_random_noise():
    """On a trained network of the study, weights and all."""
    model, (x, y) = Recipe().model(), images(60)
    model.load_state_dict(torch.load(study.STUDIES["full"].out / "BPTT-0.pt")["model"])
    made = {"random": attacks.random_signs(), "PGD": attacks.pgd(), "SA-PGD": sa_pgd(iterations=20)}
    left = {name: accuracy(model, x, y, attack, noise=False) for name, attack in made.items()}
    assert left["random"] > 0.7 and left["PGD"] < left["random"] - 0.15 and left["SA-PGD"] <= left["PGD"], left
