"""Diagnostics of any model, and of LIF layers."""

import pytest
import torch
from victims import images, network

from tgo_kernels.robustness import diagnostics


def test_flips_are_those_of_the_closed_form():
    torch.manual_seed(0)
    found = diagnostics.flips(network().eval(), images(20)[0], noise_std=0.3)
    assert found.largest_deviation < 5 and found.count[0] > 100
    assert list(found.expected) == sorted(found.expected, reverse=True)


def test_gradients_of_a_linear_model_are_known():
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 3, bias=False))
    x = torch.rand(5, 1, 2, 2)
    found = diagnostics.gradients(model, x, torch.zeros(5, dtype=torch.int64))
    assert found.jacobian == pytest.approx(model[1].weight.detach().norm().item(), rel=1e-5)
    assert 0 <= found.sparsity < 1 and found.norm > 0
    with pytest.raises(ValueError, match=r"layers of tgo_kernels\.LIF; Sequential has none"):
        diagnostics.measure(model, x, 0.5)
