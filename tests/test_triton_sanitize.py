"""The Triton kernels under ttsem, which runs their compiled IR on the CPU and raises for an access out of bounds, a
race between programs and an undefined value: ``python -m ttsem.sanitize pytest tests/test_triton_sanitize.py``.
"""

import os
import sys

import pytest
import torch
from cases import Case, assert_agrees, cases, lay
from hypothesis import given, settings
from torch.nn import functional as F

if getattr(sys.modules["__main__"].__spec__, "name", "") != "ttsem.sanitize":
    pytest.skip("needs ttsem, which replaces the launch of kernels (make sanitize-triton)", allow_module_level=True)

import triton
import triton.language as tl

from tgo_kernels._triton import bits, norm, pool

EVERYTHING = {"noise_std": 0.3, "noise_seed": 7, "guard_margin": 0.5}
PLAIN = {"noise_std": 0.0, "noise_seed": 7, "guard_margin": 0.0}


@settings(max_examples=int(os.environ.get("TTSEM_EXAMPLES", "60")), deadline=None, derandomize=True, database=None)
@given(cases())
def test_random_calls(case):
    assert_agrees(case, "triton")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("constants", [EVERYTHING, PLAIN], ids=["noise and guard", "plain"])
@pytest.mark.parametrize("neurons", [1, 16, 255, 300])
@pytest.mark.parametrize(("steps", "noise_step"), [(4, 0), (1, 1), (9, 3), (17, 2)])
def test_ragged_sizes(dtype, constants, neurons, steps, noise_step):
    """Below a block and past it, whole and ragged rows, past two checkpoints, noise that begins within a draw."""
    x, grad = torch.randn(2, steps, neurons).to(dtype)
    for v_init, g_v_final in ((None, None), torch.randn(2, neurons)):
        case = Case(x, v_init, {**constants, "noise_step": noise_step}, grad, g_v_final, 2.0)
        assert_agrees(case, "triton")


@pytest.mark.parametrize("layout", ["channels_last", "batch_first", "reversed"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_several_blocks_of_a_permuted_layout(layout, dtype):
    x, grad, state = torch.randn(9, 2, 5, 7, 17).to(dtype), torch.randn(9, 2, 5, 7, 17), torch.randn(2, 5, 7, 17)
    case = Case(lay(x, layout), state, {**EVERYTHING, "noise_step": 1}, lay(grad, layout), state, 2.0)
    assert_agrees(case, "triton")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("size", [1, 4096, 5000])
def test_packed_integers(dtype, size):
    x = torch.randint(4, (size,)).to("cuda", dtype)
    back = torch.empty_like(x)
    bits.unpack_integers(bits.pack_integers(x, 2), back)
    assert torch.equal(back, x)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("outer, channels, inner", [(1, 1, 1), (50, 20, 1), (5, 3, 7), (9, 5, 16), (3, 2, 150)])
def test_sums_of_channels(dtype, outer, channels, inner):
    x, g = torch.randn(2, outer, channels, inner).to("cuda", dtype)
    slope, offset = torch.randn(2, channels).to("cuda")
    variance, mean = torch.var_mean(x.double(), (0, 2), correction=0)
    moments = norm.channel_moments(x, channels, inner)
    torch.testing.assert_close(moments, torch.stack((mean, variance)), rtol=1e-9, atol=1e-9)
    expected = (g.float() + (slope[:, None] * x.float() + offset[:, None])).to(dtype)
    norm.add_affine(g, x, slope, offset, inner)
    assert torch.equal(g, expected)
    running = torch.zeros(2, channels, device="cuda")
    _, _, mean, inverse = norm.norm_line(moments, 9.0, slope, offset, *running, 0.1, 1e-5, 1)
    norm.norm_grad(mean, inverse, slope, offset, None, 9.0)


@pytest.mark.parametrize("about", [(2, 2, 0, 1), (3, 2, 1, 1), (2, 1, 1, 2)], ids=str)
@pytest.mark.parametrize("channels", [3, 16])
def test_pools(about, channels):
    x = torch.randn(2, channels, 5, 7, device="cuda")
    window = [size for size in about for _ in range(2)]
    for memory, inner in ((torch.contiguous_format, 1), (torch.channels_last, channels)):
        x = x.contiguous(memory_format=memory)
        expected = F.max_pool2d(x, *about)
        y, g_x = torch.empty_like(expected, memory_format=memory), torch.empty_like(x)
        winners = torch.empty_like(y, dtype=torch.uint8)
        pool.max_pool(x, y, winners, inner, window, None)
        assert torch.equal(y, expected)
        pool.max_pool_bwd(torch.ones_like(y), winners, g_x, inner, window)
        assert g_x.sum() == y.isfinite().sum()


@triton.jit
def planted_kernel(out_ptr, neurons, apart, BLOCK: tl.constexpr):
    """Each program fills its block with its number; the blocks begin so many neurons apart."""
    m = tl.program_id(0) * apart + tl.arange(0, BLOCK)
    tl.store(out_ptr + m, tl.program_id(0).to(tl.float32), mask=m < neurons)


def test_a_store_past_the_end_is_found():
    out = torch.empty(70, device="cuda")
    planted_kernel[(3,)](out, 70, 32, BLOCK=32)
    assert torch.equal(out, torch.arange(70) // 32.0)
    with pytest.raises(Exception, match=r"writes 1 element\(s\) past the end of the tensor passed as `out_ptr`"):
        planted_kernel[(3,)](out, 71, 32, BLOCK=32)


def test_a_race_between_programs_is_found():
    out = torch.empty(70, device="cuda")
    with pytest.raises(Exception, match=r"program instances .* both touch element 31"):
        planted_kernel[(3,)](out, 70, 31, BLOCK=32)
