"""The penalty over a model, its schedule, and the theory behind it."""

import math

import pytest
import torch

import tgo_kernels as tgo


def test_penalty_sums_the_layers():
    net = torch.nn.Sequential(tgo.LIF(guard_margin=0.5), tgo.LIF(), torch.nn.Sequential(tgo.LIF(guard_margin=0.3)))
    x = torch.randn(4, 50, requires_grad=True)
    net(x)
    total = tgo.guard_penalty(net)
    assert float(total) == pytest.approx(float(net[0].penalty + net[2][0].penalty))
    total.backward()
    assert x.grad.abs().sum() > 0
    rates = tgo.neighbor_rates(net)
    assert list(rates) == ["0", "1", "2.0"] and rates["1"] == 0 < rates["0"]


def test_penalty_is_of_the_last_forward():
    layer = tgo.LIF(guard_margin=0.5)
    layer(torch.full((2, 10), 2.0))
    first = float(tgo.guard_penalty(layer))
    layer(torch.full((2, 10), -9.0))
    assert first > 0 and float(tgo.guard_penalty(layer)) == 0


def test_penalty_pushes_membranes_from_the_threshold():
    x = torch.full((1, 1), 1.9).requires_grad_()  # h = 0.95, just below
    layer = tgo.LIF(guard_margin=0.5)
    layer(x)
    tgo.guard_penalty(layer).backward()
    assert float(x.grad) == pytest.approx(0.5)  # descent lowers h: gain * (+1) / (T N)


def test_what_has_no_penalty_is_zero_or_named():
    with pytest.raises(ValueError, match="needs a model with LIF layers"):
        tgo.guard_penalty(torch.nn.Linear(2, 2))
    plain = tgo.LIF()
    assert tgo.guard_penalty(plain) == 0
    plain(torch.randn(4, 3, requires_grad=True))
    assert tgo.guard_penalty(plain) == 0 and not tgo.guard_penalty(plain).requires_grad
    with pytest.raises(RuntimeError, match=r"'0' has not run yet"):
        tgo.guard_penalty(torch.nn.Sequential(tgo.LIF(guard_margin=0.1)))


def test_schedule():
    schedule = tgo.GuardSchedule(lambda_max=0.6, total=10)
    assert schedule.weight(0) == 0 and schedule.weight(10) == pytest.approx(0.6) and schedule.weight(99) == 0.6
    assert schedule.weight(5) == pytest.approx(0.3)
    assert schedule.weight(2) == pytest.approx(0.3 * (1 - math.cos(math.pi * 0.2)))
    for bad in ({"lambda_max": -1.0}, {"total": 0}, {"total": -5}):
        with pytest.raises(ValueError):
            tgo.GuardSchedule(**bad)
    with pytest.raises(ValueError, match="epoch"):
        schedule.weight(-1)


def test_flip_probability_is_what_the_noise_does():
    # Theorem 1 of TGO: the nearer the membrane to the threshold, the likelier a flip.
    previous = 0.0
    for h in (0.2, 0.6, 0.9, 1.0):
        spikes = tgo.lif(torch.full((1, 200_000), h), noise_std=0.4, noise_seed=1).spikes
        flipped = float((spikes != float(h >= 1.0)).float().mean())
        predicted = float(tgo.flip_probability(torch.tensor(h), 1.0, 0.4))
        assert flipped == pytest.approx(predicted, abs=0.005) and predicted > previous
        previous = predicted


@pytest.mark.parametrize("h", [0.2, 0.75, 1.1])
def test_shift_of_the_membrane_and_the_noise(h):
    # dP/dh = phi(z)/sigma, and its derivative in sigma phi(z)(z^2 - 1)/sigma^2: noise protects where z^2 < 1 only.
    sigma, eps, step = 0.4, 1e-3, 1e-3

    def shift(s):
        probability = lambda m: torch.special.ndtr(torch.tensor((m - 1.0) / s, dtype=torch.float64))  # noqa: E731
        return float(probability(h + eps / 2) - probability(h - eps / 2)) / eps

    z = (h - 1.0) / sigma
    phi = math.exp(-z * z / 2) / math.sqrt(2 * math.pi)
    assert shift(sigma) == pytest.approx(phi / sigma, rel=1e-4)
    slope = (shift(sigma + step) - shift(sigma - step)) / (2 * step)
    assert slope == pytest.approx(phi * (z * z - 1) / sigma**2, rel=1e-2, abs=1e-4)
    assert (slope < 0) == (z * z < 1)
