"""SpikingJelly's neurons beside the LIF on those of the family: the same spikes, states and gradients."""

import copy
import pickle

import pytest
import torch
from cases import dyadic
from spikingjelly.activation_based import functional, neuron, surrogate
from torch import nn

import tgo_kernels as tgo
from tgo_kernels.interop import spikingjelly as from_spikingjelly

RECT = surrogate.Rect(alpha=1.0)  # of no width at the other threshold


def cuba(v_reset=0.0, **options):
    return neuron.CUBALIFNode(0.5, 0.75, 0.5, v_reset, RECT)


def ternary(v_reset=0.0, **options):
    return neuron.TernaryLIFNode(4.0, False, 1.0, v_reset, RECT, **options)


def integer(v_reset=None, **options):
    return neuron.ILIFNode(surrogate_function=surrogate.MultiLevelSpikeCount(3), **options)


NODES = [(cuba, 0.0), (cuba, None), (cuba, -0.25), (ternary, 0.0), (ternary, None), (ternary, -0.25), (integer, None)]
OURS = {cuba: tgo.neurons.SynapticLIF, ternary: tgo.neurons.TernaryLIF, integer: tgo.neurons.IntegerLIF}


def both(make, v_reset, step_mode, **options):
    theirs = make(v_reset, **options)
    theirs.step_mode = step_mode
    model = nn.Sequential(copy.deepcopy(theirs))
    report = from_spikingjelly.convert(model)
    assert report.converted and not report.left and "differs" not in str(report)
    return theirs, model[0]


@pytest.mark.parametrize("step_mode", ["s", "m"])
@pytest.mark.parametrize(("make", "v_reset"), NODES)
def test_a_node_goes_on_as_before(make, v_reset, step_mode):
    theirs, ours = both(make, v_reset, step_mode)
    assert isinstance(ours, type(theirs)) and isinstance(ours.neuron, OURS[make])
    x, results = 2 * (dyadic(6, 4, 50) if step_mode == "m" else dyadic(4, 50)), []
    for node in (theirs, ours):
        given = x.clone().requires_grad_()
        outs = [node(given) for _ in range(3)]
        sum(((k + 1) * out).square().sum() for k, out in enumerate(outs)).backward()
        results.append((torch.stack(outs), *node._memories.values(), given.grad))
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(b, a)
    assert torch.equal(results[0][0], results[1][0]) and 0.1 < (results[0][0] != 0).float().mean() < 1
    assert results[0][-1].any()
    again = pickle.loads(pickle.dumps(ours))
    assert torch.equal(again(x), theirs(x))
    for net in (theirs, ours):
        functional.detach_net(net)
        functional.reset_net(net)
    assert list(ours._memories.values()) == list(theirs._memories.values())
    assert torch.equal(ours(x), theirs(x))
    other = x[..., :7]  # another shape starts anew
    assert torch.equal(ours(other), theirs(other))


def test_a_reset_that_is_detached():
    for make in (ternary, integer):
        theirs, ours = both(make, None, "m", detach_reset=True)
        x = 2 * dyadic(6, 4, 50)
        found = [
            torch.autograd.grad(node(given := x.clone().requires_grad_()).square().sum(), given)[0]
            for node in (theirs, ours)
        ]
        torch.testing.assert_close(*found)


def test_a_current_that_was_set():
    theirs, ours = both(cuba, 0.0, "m")
    x = dyadic(5, 4, 6)
    theirs.c = ours.c = 0.75
    assert torch.equal(ours(x), theirs(x)) and torch.equal(ours.c, theirs.c)
    theirs.c, ours.c = theirs.c + 0.5, ours.c + 0.5
    assert torch.equal(ours(x), theirs(x))
    (spikes, other) = (
        node.multi_step_functional_forward((x,), (torch.zeros(4, 6), torch.ones(4, 6))) for node in (theirs, ours)
    )
    assert torch.equal(spikes[0][0], other[0][0]) and all(map(torch.equal, spikes[1], other[1]))


def test_constants_that_change():
    theirs, ours = both(cuba, 0.0, "m")
    x = dyadic(5, 4, 6)
    theirs.c_decay = ours.c_decay = 0.25
    assert torch.equal(ours(x), theirs(x))
    ours.set(decay=0.5, current_decay=0.75)
    assert (ours.v_decay, ours.c_decay) == (0.5, 0.75)
    for refused in ({"tau": 2.0}, {"scale": 2.0}):
        with pytest.raises(ValueError, match="a CUBALIFNode has no"):
            ours.set(**refused)
    _, integers = both(integer, None, "m")
    with pytest.raises(ValueError, match="levels of an ILIFNode is its surrogate_function's"):
        integers.set(levels=3)
    integers.surrogate_function.max_spike_count = 2
    with pytest.raises(ValueError, match="slope must be 1 from 0"):
        integers(x)


def test_what_is_not_the_same_is_left_or_named():
    left = nn.ModuleDict(
        {
            "height": neuron.ILIFNode(v_threshold=0.5),
            "window": neuron.ILIFNode(surrogate_function=surrogate.MultiLevelSpikeCount(4, grad_window=(-1.0, 5.0))),
            "complementary": neuron.ComplementaryLIFNode(),
        }
    )
    with pytest.warns(UserWarning, match="left"):
        report = from_spikingjelly.convert(left)
    assert not report.converted and set(report.left) == set(left)
    assert "levels are 1 apart" in report.left["height"] and "slope must be 1" in report.left["window"]
    with pytest.warns(UserWarning, match="guard_margin of an IntegerLIF is 0"):
        assert from_spikingjelly.convert(nn.Sequential(neuron.ILIFNode()), guard_margin=0.5).left
    report = from_spikingjelly.convert(nn.Sequential(neuron.TernaryLIFNode(4.0, False)), guard_margin=0.5)
    assert "differs where the surrogate of the other threshold" in report.converted["0"]
