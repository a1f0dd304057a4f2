"""What is the same for converted models of both frameworks."""

import copy

import pytest
import snntorch
import torch
from cases import dyadic
from spikingjelly.activation_based import neuron

import tgo_kernels as tgo
from tgo_kernels.interop import snntorch as from_snntorch
from tgo_kernels.interop import spikingjelly as from_spikingjelly


@pytest.mark.parametrize("framework", ["spikingjelly", "snntorch"])
def test_truncated_backpropagation_with_a_penalty(framework):
    if framework == "spikingjelly":
        node = neuron.LIFNode()
        from_spikingjelly.convert(node, guard_margin=1.0)
    else:
        node = snntorch.Leaky(beta=0.5, init_hidden=True, reset_delay=False)
        from_snntorch.convert(node, guard_margin=1.0)
    penalties = []
    for _ in range(3):
        weight = torch.ones((), requires_grad=True)
        for step in dyadic(4, 6):
            node(weight * step)
        penalties.append(node.penalty.detach())
        tgo.guard_penalty(node).backward()  # raises where a former graph is left
        node.detach()
    assert len(set(penalties)) == 3
    state = node.v
    node.reset()
    assert not (isinstance(node.v, torch.Tensor) and node.v is state)
    fresh = copy.deepcopy(node)
    x = torch.full((6,), 0.8)
    assert torch.equal(node(x), fresh(x)) and torch.equal(node(x[:3]), fresh(x[:3]))
    assert torch.equal(node.penalty, fresh.penalty)
