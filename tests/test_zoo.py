"""SpikingJelly's models and the benchmarks', fused: every chain that a reader finds, and what they compute."""

import copy
from types import SimpleNamespace

import pytest
import torch
from cases import dyadic
from models import exact, gradients, lif_layers, made_exact
from spikingjelly.activation_based import functional, layer
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from zoo import CASES

import tgo_kernels as tgo
from tgo_kernels.interop import spikingjelly
from tgo_kernels.norm import Normed


@pytest.fixture(params=CASES)
def net(request, torchvision):
    """Converted, its norms' lines on a binary grid, without dropout."""
    about = CASES[request.param]
    network = about.make()
    if not request.param.startswith("ours"):
        functional.set_step_mode(network, "m")
        assert not spikingjelly.convert(network).left
    for module in network.modules():
        if isinstance(module, nn.modules.dropout._DropoutNd | layer.Dropout):
            module.p = 0.0
        if isinstance(module, _BatchNorm):
            for name, values in {
                "weight": [0.5, 1.0, 1.5],
                "bias": [0.5, 1.0, 1.5],
                "running_mean": [-0.25, 0.0, 0.25],
                "running_var": [4.0, 16.0, 64.0],
            }.items():
                if getattr(module, name) is not None:
                    values = torch.tensor(values)[torch.randint(3, (module.num_features,))]
                    getattr(module, name).data.copy_(values)
    return SimpleNamespace(**vars(about), network=made_exact(network))


def run(network, x):
    functional.reset_net(network)
    return gradients(network, x)


def off_the_grid(network):
    """On it, a constant channel is at the threshold."""
    for module in network.modules():
        if isinstance(module, _BatchNorm):
            module.eps = 1e-5
    for p in network.parameters():
        p.data.mul_(torch.empty_like(p).uniform_(0.9, 1.1))
    return network


def assert_learning(network, net):
    """That gradients have come through every neuron that took a norm in."""
    assert not [norm for norm in net.fused if not network.get_submodule(norm).weight.grad.any()]


def test_every_chain_is_found_and_trains_the_same(net):
    network, x = exact(off_the_grid(net.network)), torch.randn(net.shape, dtype=torch.float64)
    plain, keys = copy.deepcopy(network), list(network.state_dict())
    report = tgo.fuse(network)
    assert report.fused == net.fused
    assert report.pools == net.pools
    assert set(report.left) == set(net.left)
    for norm, reason in net.left.items():
        assert reason in report.left[norm]
    for found, expected in zip(run(network, x), run(plain, x), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-7, atol=1e-9)
    assert list(network.state_dict()) == keys
    for found, expected in zip(network.buffers(), plain.buffers(), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)
    assert_learning(network, net)


def test_in_single_precision_it_is_the_same_to_rounding(net):
    """The sums are exact, so that spikes are equal; gradients err from fp64 as the unfused ones do."""
    plain, x = net.network.eval(), dyadic(*net.shape)
    fused, truth = copy.deepcopy(plain), exact(copy.deepcopy(plain))
    taken = set()
    for neuron_name in tgo.fuse(fused).fused.values():
        fused.get_submodule(neuron_name).register_forward_pre_hook(
            lambda _, args, name=neuron_name: taken.add(name) if isinstance(args[0], Normed) else None
        )
    expected, found, right = run(plain, x), run(fused, x), run(truth, x.double())
    assert set(net.fused.values()) - net.pooled <= taken  # a line instead of the norm's output
    assert torch.equal(found[0], expected[0])
    assert_learning(fused, net)
    for ours, theirs, exactly in zip(found, expected, right, strict=True):
        floor = 2 * (theirs - exactly).norm() + 1e-6 * exactly.norm()
        assert (ours - exactly).norm() <= floor


def spikes_and_gradients(network, x):
    spikes = []
    for fire in lif_layers(network):
        fire.register_forward_hook(lambda _, __, y: spikes.append(y.bool()))
    return run(network, x), spikes


def test_in_single_precision_it_trains_the_same(net):
    """Where rounding moves no spike, which is most often."""
    for _ in range(20):
        plain, x = off_the_grid(copy.deepcopy(net.network)), torch.randn(net.shape)
        fused, truth = copy.deepcopy(plain), exact(copy.deepcopy(plain))
        tgo.fuse(fused)
        ours, theirs, right = (spikes_and_gradients(*each) for each in ((fused, x), (plain, x), (truth, x.double())))
        if all(map(torch.equal, ours[1] + theirs[1], 2 * right[1])):
            break
    else:
        pytest.fail("the spikes are others")
    floor = 1e-6 * max(exactly.norm() for exactly in right[0])
    for found, expected, exactly in zip(ours[0], theirs[0], right[0], strict=True):
        assert (found - exactly).norm() <= 2 * (expected - exactly).norm() + 1e-5 * exactly.norm() + floor
    for found, exactly in zip(fused.buffers(), truth.buffers(), strict=True):
        torch.testing.assert_close(found, exactly, check_dtype=False)
