"""Adaptive surrogates, SA-PGD's bounds, the rules along rates, and the search."""

import pytest
import torch
from victims import Bowl, Scale, grey, images, network

import tgo_kernels as tgo
from benchmarks.robustness.models import lif_layers
from tgo_kernels.robustness import AdaptiveATan, Victim, attacks, local_search, rates, sa_pgd, search
from tgo_kernels.robustness.adaptive import FEW, WIDTH, bounds
from tgo_kernels.robustness.search import patched


def test_adaptive_surrogates_follow_their_equations():
    """Two iterations by hand; a frozen draw changes nothing; images that are done take their moments along."""
    surrogate = AdaptiveATan.new()
    assert pytest.approx(2.652, abs=1e-3) == WIDTH
    m, deviation = torch.ones(2, 3), torch.zeros(2, 3)
    for d in (torch.randn(2, 3), torch.randn(2, 3)):
        m = 0.9 * m + 0.1 * d.abs()
        deviation = 0.9 * deviation + 0.1 * (d.abs() - m).abs()
        alpha = WIDTH / (m + 1.5 * deviation + 1e-4)
        expected = alpha / 2 / (1 + (torch.pi / 2 * alpha * d).square())
        surrogate.begin()
        torch.testing.assert_close(surrogate.derivative(d), expected)
    surrogate.freeze(True)
    surrogate.begin()
    torch.testing.assert_close(surrogate.derivative(d), expected)
    surrogate.keep(torch.tensor([False, True]))
    surrogate.begin()
    torch.testing.assert_close(surrogate.derivative(d[1:]), expected[1:])


def test_the_layers_ask_an_adaptive_surrogate_once_a_step():
    model, (x, y) = network().eval(), images(4)
    victim = Victim(model)
    with victim.surrogates(AdaptiveATan.new, impl="reference") as made:
        attacks.gradient(victim, x, y, draws=3)
        assert [surrogate.memory.calls for surrogate in made] == [model.steps] * len(made)
        assert [set(surrogate.memory.moments) for surrogate in made] == [set(range(model.steps))] * len(made)
        assert all(surrogate.memory.frozen for surrogate in made)  # by the last two draws
        before = made[0].memory.moments[0][0].clone()
        attacks.gradient(victim, x, y)
        assert not torch.equal(before, made[0].memory.moments[0][0])
    assert all(layer.impl == "auto" and layer.neuron.surrogate == tgo.ATan(2.0) for layer in lif_layers(model))


def test_bounds_halve_as_the_paper_says():
    etas = list(bounds(1.0, 100))
    assert len(etas) == 100 and etas[:22] == [1.0] * 22 and etas[22:41] == [0.5] * 19 and etas[41] == 0.25
    assert etas[87:93] == [0.5**6] * 6 and etas[93:99] == [0.5**7] * 6  # not sooner than after 6


def test_sa_pgd_follows_its_equations():
    """By hand, on a bowl whose bottom it jumps over, so that momentum and step sizes count; the best point is kept."""
    victim, eps = Victim(Bowl(-1.0)), 0.1
    images, labels = 0.5 + (torch.rand(5, 1, 2, 2) - 0.5) / 10, torch.zeros(5, dtype=torch.int64)
    start = attacks.somewhere(images, eps)
    x, m, q, seen = start, 0, 0, [start]
    for eta in bounds(eps, 4):
        g, _ = attacks.gradient(victim, x, labels)
        m = 0.5 * m + g / g.abs().mean((1, 2, 3), keepdim=True)
        q = 0.8 * q + g**2 / (g**2).mean((1, 2, 3), keepdim=True)
        x = attacks.within(x + (eta * m / (q.sqrt() + 1e-12)).clamp(-eta, eta), images, eps)
        seen.append(x)
    ahead = torch.stack([victim.margins(x, labels) for x in seen])
    best = torch.stack(seen)[ahead.argmax(0), torch.arange(5)]
    torch.testing.assert_close(sa_pgd(eps, iterations=4)(victim, images, labels, start), best)


def test_images_that_are_done_leave_the_others_their_moments():
    """On the way to the bottom of a bowl what SA-PGD makes of an image is the same alone and beside others."""
    victim, eps = Victim(Bowl(0.003)), 0.1
    images, labels = 0.5 + (torch.rand(8, 1, 2, 2) - 0.5) / 10, torch.zeros(8, dtype=torch.int64)
    start, sizes = attacks.somewhere(images, eps), []
    victim.model.register_forward_pre_hook(lambda model, inputs: sizes.append(len(inputs[0])))
    attack = sa_pgd(eps, iterations=16)
    together = attack(victim, images, labels, start)
    assert len(set(sizes)) > 3 and sizes[3] > sizes[-1] > 0  # some are done sooner, later, never
    alone = [attack(victim, *(each[i : i + 1] for each in (images, labels, start))) for i in range(8)]
    torch.testing.assert_close(together, torch.cat(alone))


def test_what_few_draws_get_wrong_is_asked_twice_of_many():
    """Nothing that FEW draws, or the first ANSWERS alone, get wrong ends the attack."""

    class Lucky(Victim):
        answers = iter([])

        def margins(self, images, labels, draws=None):
            return torch.full((len(images),), next(self.answers)[draws])

    class Sure(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.stack([x.sum((1, 2, 3)), 0 * x.sum((1, 2, 3)) + 1e3], 1)

    victim, x, y = Lucky(Sure()), torch.full((1, 1, 2, 2), 0.5), torch.zeros(1, dtype=torch.int64)
    victim.random = True
    few, many = ({FEW: 1.0}, {FEW: 2.0}), ({None: -2.0}, {None: 1.0}, {None: -1.0})
    victim.answers = iter([few[0], many[0], few[1], *many[1:], few[1], {None: 3.0}, {None: 4.0}])
    at = []
    victim.model.register_forward_pre_hook(lambda model, inputs: at.append(inputs[0].detach()))
    found = sa_pgd(iterations=10)(victim, x, y)
    assert len(at) == 3 and torch.equal(found, at[-1]) and not list(victim.answers)


def test_the_surrogates_adapt_to_where_the_membranes_are():
    """Of thresholds that are far from the membranes: those that never adapt reach nothing."""
    model = Scale(neurons=4, surrogate=tgo.Rectangle(0.01))
    victim, (x, y) = Victim(model), grey()
    assert (victim.margins(sa_pgd(iterations=20)(victim, x, y), y) > 0).float().mean() > 0.9


RULES = (rates.bptr, rates.rga)


@pytest.mark.parametrize("rule", RULES)
def test_straight_through_rules_leave_the_spikes(rule):
    layer = tgo.LIF.from_decay(0.5)
    victim, x = Victim(layer), torch.rand(4, 50, requires_grad=True)
    spikes = layer(x)
    with rates.straight_through(rule, victim):
        replaced = layer(x)
    assert torch.equal(replaced, spikes) and not layer._forward_hooks
    weight = torch.randn(4, 50)
    (g,) = torch.autograd.grad((replaced * weight).sum(), x)
    slope = rule(victim.neurons[0], x.detach().mean(0), spikes.detach().mean(0))
    torch.testing.assert_close(g, (weight.mean(0) * slope).expand(4, 50))
    assert len(slope.unique()) == 2


def test_the_slopes_of_the_rules():
    """By hand, of inputs below 0, below what fires, above it, and beyond what a rate follows."""
    (each,) = Victim(tgo.LIF(tau=4.0, v_threshold=2.0)).neurons  # a decay of 3/4 and a gain of 1/4
    current, rate = torch.tensor([-0.1, 0.1, 0.3, 1.9, 2.1]) * 2 / 0.25, torch.tensor([0.0, 0.0, 0.2, 0.9, 1.0])
    above = (1 - 0.2 + 0.2 * 0.75) / 1.75
    torch.testing.assert_close(rates.rga(each, current, rate), torch.tensor([0.0, 0.2, above, above, 0.0]))
    assert rates.bptr(each, current, rate).tolist() == [0, 0, 1, 1, 1]


def test_an_attack_along_a_rule_has_it():
    """Of membranes that no surrogate reaches."""
    victim, (x, y) = Victim(Scale(neurons=3, surrogate=tgo.Rectangle(0.001))), grey()
    left = {rule: victim.wrong(rates.along(rule, attacks.pgd())(victim, x, y), y)[0].float().mean() for rule in RULES}
    assert victim.wrong(attacks.pgd()(victim, x, y), y)[0].float().mean() < 0.2 and min(left.values()) > 0.9, left


def test_rates_are_of_models_whose_neurons_all_see_time():
    both = [tgo.LIF(), tgo.LIF()]
    assert rates.applies(Victim(torch.nn.Sequential(*both)))
    both[0].step_mode = "s"
    assert not rates.applies(Victim(torch.nn.Sequential(*both)))


@pytest.mark.parametrize("side", [4, 3, 2, 1])
def test_a_patch_is_at_the_ends_of_eps_and_always_a_change(side):
    torch.manual_seed(0)
    images = torch.rand(600, 3, 9, 7) / 2 + 0.25
    x = patched(images, images, 0.1, side)
    assert len((x - images).sign().amax((2, 3)).unique(dim=0)) == 2**3  # each channel has a sign of its own
    moved = (x != images).any(1)
    assert (moved.flatten(1).sum(1) == side**2).all() and (moved.any(1).sum(1) == side).all()
    torch.testing.assert_close((x - images).abs()[(x != images)], torch.full((int((x != images).sum()),), 0.1))
    assert moved.any(0).all()  # anywhere, to the edges
    x = images + 0.1
    assert (patched(x, images, 0.1, side) != x).flatten(1).any(1).all()


def test_the_search_moves_along_ties():
    """Few neurons make a staircase, on which no patch alone gets anywhere."""
    victim, (x, y) = Victim(Scale(neurons=3)), grey(side=12)
    torch.manual_seed(0)
    found = local_search(queries=1000)(victim, x, y)
    assert (victim.margins(found, y) >= victim.margins(x, y)).all() and (found - x).abs().max() <= attacks.EPS + 1e-6
    assert victim.wrong(found, y)[0].float().mean() > 0.9


def test_the_search_never_falls_back_and_ends_with_single_pixels(monkeypatch):
    sides, made = [], patched
    monkeypatch.setattr(search, "patched", lambda *given: sides.append(given[-1]) or made(*given))
    victim, (x, y) = Victim(Scale()), grey()
    start = attacks.within(x + (0.5 - y.view(-1, 1, 1, 1)) * 2 / 255, x, attacks.EPS)
    found = local_search(2 / 255, queries=40)(victim, x, y, start)
    before, after = victim.margins(start, y), victim.margins(found, y)
    assert (after >= before).all() and (found - x).abs().max() <= 2 / 255 + 1e-6
    assert sides == [4] * 10 + [3] * 10 + [2] * 10 + [1] * 10


def test_the_search_goes_on_from_where_others_ended():
    victim, (x, y) = Victim(Scale()), grey(side=20)
    near = attacks.within(x + (0.5 - y.view(-1, 1, 1, 1)) * 5 / 255, x, attacks.EPS)
    left = {}
    for name, start in {"image": None, "near": near}.items():
        torch.manual_seed(0)
        left[name] = (~victim.wrong(local_search(queries=16)(victim, x, y, start), y)[0]).float().mean().item()
    assert left["near"] < left["image"] - 0.2, left
