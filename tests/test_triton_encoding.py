"""Poisson encoding by Triton, in its interpreter: a process of its own with TRITON_INTERPRET=1."""

import os

import pytest
import torch
from test_encoding import LAYOUTS, SEED, lying, rates

from tgo_kernels import encoding

if os.environ.get("TRITON_INTERPRET") != "1":
    pytest.skip("needs TRITON_INTERPRET=1, before triton is imported (make test runs it so)", allow_module_level=True)
pytest.importorskip("triton")

from tgo_kernels._triton.encoding import poisson_spikes


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("shape", [(2, 3, 5, 7), (2, 16, 8, 8), (1, 1, 1, 3)])
def test_spikes_are_the_specification_s(shape, signed, dtype):
    """One element a thread and several, whole spans of four steps and parts of them."""
    x, seed = rates(*shape, signed=signed, dtype=dtype), torch.tensor(SEED)
    for steps, step in ((4, 0), (7, 3), (8, 4), (1, 2)):
        expected = encoding.reference(x, steps, signed, seed, step)
        for order in LAYOUTS.values():
            given = lying(x, order)
            spikes = poisson_spikes(given, steps, signed, seed, step)
            assert torch.equal(spikes, expected)
            assert spikes[0].stride() == given.stride()


def test_more_dimensions_than_a_thread_follows():
    x = rates(2, 3, 2, 3, 2, 3)
    given = lying(x, (5, 3, 1, 4, 2, 0))
    spikes = poisson_spikes(given, 4, False, torch.tensor(SEED), 0)
    assert torch.equal(spikes, encoding.reference(x, 4, False, torch.tensor(SEED), 0))
    assert spikes[0].stride() == given.stride()


def test_rows_that_begin_anywhere():
    x = rates(16 * 16 + 1)[1:]
    assert torch.equal(
        poisson_spikes(x, 4, False, torch.tensor(SEED), 0), encoding.reference(x, 4, False, torch.tensor(SEED), 0)
    )


def test_what_is_out_of_range_is_bounded():
    x = torch.tensor([-0.5, 1.5, float("nan"), float("inf"), -float("inf")])
    assert poisson_spikes(x, 2, False, torch.tensor(1), 0).tolist() == [[0, 1, 0, 1, 0]] * 2
    assert poisson_spikes(x, 2, True, torch.tensor(1), 0)[:, 1:].tolist() == [[1, 0, 1, -1]] * 2
