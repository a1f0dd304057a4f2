"""The specification against neurons not written here: SpikingJelly's LIFNode and snnTorch's Leaky."""

import pytest
import snntorch
import torch
from spikingjelly.activation_based import neuron, surrogate

import tgo_kernels as tgo

PAIRS = [
    (tgo.ATan(2.0), surrogate.ATan(2.0)),
    (tgo.Sigmoid(4.0), surrogate.Sigmoid(4.0)),
    (tgo.PiecewiseQuadratic(1.0), surrogate.PiecewiseQuadratic(1.0)),
    (tgo.PiecewiseExp(1.0), surrogate.PiecewiseExp(1.0)),
    (tgo.SoftSign(2.0), surrogate.SoftSign(2.0)),
    (tgo.SuperSpike(1.0), surrogate.SuperSpike(1.0)),
    (tgo.Erf(2.0), surrogate.Erf(2.0)),
    (tgo.Rectangle(1.0), surrogate.Rect(1.0)),
]


def dyadic(*shape):
    """Inputs on a coarse binary grid, where every order of the same arithmetic is exact at first."""
    return torch.randint(-24, 40, shape).float() / 16


@pytest.mark.parametrize("impl", ["reference", "native"])
@pytest.mark.parametrize(("ours", "theirs"), PAIRS, ids=lambda s: type(s).__name__)
@pytest.mark.parametrize("decay_input", [True, False])
@pytest.mark.parametrize("v_reset", [0.0, None, -0.25])
@pytest.mark.parametrize("detach_reset", [False, True])
def test_spikingjelly(impl, ours, theirs, decay_input, v_reset, detach_reset):
    x = dyadic(6, 5, 40).requires_grad_()
    peer = neuron.LIFNode(2.0, decay_input, 1.0, v_reset, theirs, detach_reset, step_mode="m", store_v_seq=True)
    expected = peer(x)
    layer = tgo.LIF(2.0, decay_input, 1.0, v_reset, ours, detach_reset, impl=impl, stateful=True)
    spikes = layer(x)
    assert torch.equal(spikes, expected) and 0.05 < float(spikes.mean()) < 0.95
    torch.testing.assert_close(layer.v, peer.v)
    grad = torch.randn(6, 5, 40)
    (g_expected,) = torch.autograd.grad((expected * grad).sum() + 0.3 * peer.v.sum(), x)
    (g_found,) = torch.autograd.grad((spikes * grad).sum() + 0.3 * layer.v.sum(), x)
    torch.testing.assert_close(g_found, g_expected)


@pytest.mark.parametrize("impl", ["reference", "native"])
@pytest.mark.parametrize("mechanism", ["subtract", "zero"])
def test_snntorch(impl, mechanism):
    # It fires at > where we fire at >=: inputs off the grid, so that no membrane meets the threshold exactly; and below
    # twice the threshold, since after a soft reset that leaves the membrane above it, snnTorch fires later.
    x = 1.5 * torch.rand(7, 5, 40) - 0.4
    leaky = snntorch.Leaky(
        beta=0.9, threshold=1.0, reset_mechanism=mechanism, reset_delay=False, spike_grad=snntorch.surrogate.atan(2.0)
    )
    x.requires_grad_()
    mem, spikes = leaky.init_leaky(), []
    for step in x:
        spike, mem = leaky(step, mem)
        spikes.append(spike)
    expected = torch.stack(spikes)
    layer = tgo.LIF.from_decay(0.9, 1.0, v_reset=None if mechanism == "subtract" else 0.0, impl=impl)
    found = layer(x)
    assert torch.equal(found, expected) and 0.05 < float(found.mean()) < 0.95
    torch.testing.assert_close(layer.v, mem)
    grad = torch.randn(7, 5, 40)
    (g_expected,) = torch.autograd.grad(expected, x, grad)
    (g_found,) = torch.autograd.grad(found, x, grad)
    torch.testing.assert_close(g_found, g_expected)
