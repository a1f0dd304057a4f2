"""Adaptive surrogates, SA-PGD's bounds, the rules along rates, and the search."""

import pytest
import torch
from victims import Scale, grey, images, network

import tgo_kernels as tgo
from benchmarks.robustness.models import lif_layers
from tgo_kernels.robustness import AdaptiveATan, Victim, attacks, local_search, rates, sa_pgd
from tgo_kernels.robustness.adaptive import WIDTH, bounds
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


def test_sa_pgd_follows_its_equations():
    """By hand, on a bowl whose bottom it jumps over, so that momentum and step sizes count; the best point is kept."""

    class Bowl(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            ahead = ((x - 0.5).square() * torch.tensor([[9.0, 1.0], [0.3, 2.0]])).sum((1, 2, 3))
            return torch.stack([ahead, torch.full_like(ahead, -1.0)], 1)

    victim, eps = Victim(Bowl()), 0.1
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


def test_the_surrogates_adapt_to_where_the_membranes_are():
    """Of thresholds that are far from the membranes: those that never adapt reach nothing."""
    model = Scale(neurons=4, surrogate=tgo.Rectangle(0.01))
    victim, (x, y) = Victim(model), grey()
    assert (victim.margins(sa_pgd(iterations=20)(victim, x, y), y) > 0).float().mean() > 0.9


@pytest.mark.parametrize("rule", [rates.bptr, rates.rga])
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


@pytest.mark.parametrize("side", [4, 3, 2, 1])
def test_a_patch_is_at_the_ends_of_eps_and_always_a_change(side):
    torch.manual_seed(0)
    images = torch.rand(30, 3, 9, 7) / 2 + 0.25
    x = patched(images, images, 0.1, side)
    moved = (x != images).any(1)
    assert (moved.flatten(1).sum(1) == side**2).all() and (moved.any(1).sum(1) == side).all()
    torch.testing.assert_close((x - images).abs()[(x != images)], torch.full((int((x != images).sum()),), 0.1))
    x = images + 0.1
    assert (patched(x, images, 0.1, side) != x).flatten(1).any(1).all()


def test_the_search_moves_along_ties():
    """Few neurons make a staircase, on which no patch alone gets anywhere."""
    victim, (x, y) = Victim(Scale(neurons=3)), grey(side=12)
    torch.manual_seed(0)
    found = local_search(queries=1000)(victim, x, y)
    assert (victim.margins(found, y) >= victim.margins(x, y)).all() and (found - x).abs().max() <= attacks.EPS + 1e-6
    assert victim.wrong(found, y)[0].float().mean() > 0.9


def test_the_search_goes_on_from_where_others_ended():
    victim, (x, y) = Victim(Scale()), grey(side=20)
    near = attacks.within(x + (0.5 - y.view(-1, 1, 1, 1)) * 5 / 255, x, attacks.EPS)
    left = {}
    for name, start in {"image": None, "near": near}.items():
        torch.manual_seed(0)
        left[name] = (~victim.wrong(local_search(queries=16)(victim, x, y, start), y)[0]).float().mean().item()
    assert left["near"] < left["image"] - 0.2, left
