"""What E-I layers start from, and which inputs and arguments they refuse."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import tgo_kernels as tgo


def currents(layer, x):
    """x_E, of what the layer hands on to its neuron."""
    seen = []
    handle = layer.neuron.register_forward_pre_hook(lambda _, inputs: seen.extend(inputs))
    layer(x)
    handle.remove()
    excitation, subtracted, divided = seen
    return (excitation - subtracted) / divided


@pytest.mark.parametrize("rate", [0.1, 0.5, None])
@pytest.mark.parametrize("fan_in", [27, 512, 4608])
def test_at_first_currents_are_about_standard(fan_in, rate):
    x = torch.rand(4, 128, fan_in)
    x = x if rate is None else (x < rate).float()
    layer = tgo.EILinear(fan_in, 256)
    current = currents(layer, x)
    assert layer.W_IE.shape[0] == 64
    assert abs(current.mean()) < 0.16
    assert 0.72 < current.std() < 0.95
    assert 0.07 < (current > 1).float().mean() < 0.18
    scale = (x.var((0, 1)).mean() / (fan_in * (x.square().mean() + x.flatten(0, 1).var(0).mean()))).sqrt()
    for weight in (layer.W_EE, layer.W_IE):  # of an exponential distribution mean and deviation are the same
        torch.testing.assert_close(weight.mean(), scale, rtol=0.1, atol=0)
        torch.testing.assert_close(weight.std(), scale, rtol=0.1, atol=0)
    torch.testing.assert_close(layer.W_EI, torch.full((256, 64), 1 / 64))
    if rate is not None:
        torch.testing.assert_close(
            layer.g_I, torch.full((64,), ((2 - rate) / (fan_in * rate)) ** 0.5), rtol=0.05, atol=0
        )


def test_what_it_starts_from_is_of_the_generator_and_the_data():
    first, again, other, brighter = (tgo.EIConv2d(2, 8, 3) for _ in range(4))
    x = torch.rand(4, 3, 2, 5, 5)
    for seed, layer, seen in ((1, first, x), (1, again, x), (2, other, x), (1, brighter, 2 * x + 1)):
        torch.manual_seed(seed)
        layer.eval()(seen)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters(), strict=True))
    assert not torch.equal(first.W_EE, other.W_EE)
    assert first.g_I[0] != brighter.g_I[0]
    kept = first.W_EE.clone()
    first(2 * x)
    assert torch.equal(first.W_EE, kept)
    first.initialise(2 * x)
    assert not torch.equal(first.W_EE, kept)


NOTHING = torch.zeros(4, 3, 12)
NONE = nn.Linear(1, 1)
REFUSED = [
    (lambda: tgo.EILinear(12, 8)(torch.randn(4, 3, 12)), ValueError, r"x must be >= 0, .*-\d.*Normalize\(\)"),
    (lambda: tgo.EILinear(12, 8)(NOTHING), ValueError, "0 everywhere.*layers in front fire"),
    (lambda: tgo.EILinear(12, 8)(NOTHING + torch.arange(12)), ValueError, "the same in every sample"),
    (lambda: tgo.EILinear(12, 8)(NOTHING + float("inf")), ValueError, "not finite"),
    (lambda: tgo.EILinear(12, 8)(NOTHING + float("nan")), ValueError, "x must be >= 0, but its smallest is nan"),
    (lambda: tgo.EILinear(12, 8)(NOTHING[:1, :1]), ValueError, "two samples"),
    (lambda: tgo.EILinear(12, 8)(NOTHING[0]), ValueError, r"takes x \[T, B, 12\], got \(3, 12\)"),
    (lambda: tgo.EIConv2d(2, 8, 3)(torch.rand(4, 3, 1, 5, 5)), ValueError, r"\[T, B, 2, H, W\], got \(4, 3, 1, 5, 5\)"),
    (lambda: tgo.EILinear(12, 8)("x"), TypeError, "x must be a torch.Tensor, got str"),
    (lambda: tgo.EILinear(12, 0), ValueError, "the number of outputs must be an int >= 1, got 0"),
    (lambda: tgo.EILinear(12, 8, inhibitory=0), ValueError, "inhibitory must be an int >= 1, got 0"),
    (lambda: tgo.EILinear(12, 8, readout=1), TypeError, "readout must be a bool"),
    (lambda: tgo.EILinear(12, 8, check=1), TypeError, "check must be a bool"),
    (lambda: tgo.EILinear(12, 8, readout=True, decay=0.5), TypeError, "a readout has no neuron, and no decay"),
    (lambda: tgo.EILinear(12, 8, gain=2.0), TypeError, "g_E and b_E, which learn"),
    (lambda: tgo.EILinear(12, 8, tau=2.0), TypeError, "tau"),
    (lambda: tgo.keep_nonnegative(torch.optim.SGD(NONE.parameters()), NONE), ValueError, "with E-I layers"),
]  # fmt: skip


@pytest.mark.parametrize("call, error, message", REFUSED)
def test_what_is_refused(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_every_call_is_checked_on_request():
    x = torch.rand(4, 3, 12)
    layer, checking = tgo.EILinear(12, 8), tgo.EILinear(12, 8, check=True)
    layer(x), checking(x)
    layer(x - 0.5)
    with pytest.raises(ValueError, match="smallest is -0"):
        checking(x - 0.5)


def test_what_is_negative_does_not_inhibit():
    x = torch.rand(4, 3, 12)
    layer = tgo.EILinear(12, 8, readout=True)
    layer(x)
    torch.testing.assert_close(layer(-x), F.linear(-x, layer.W_EE))
