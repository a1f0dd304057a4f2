"""The GPU kernels beside the scan, in Triton's interpreter: a process of its own with TRITON_INTERPRET=1.

Against the compiled extension's, to the bit but for sums in another order.
"""

import itertools
import os

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional as F

from tgo_kernels import kernels, pools

if os.environ.get("TRITON_INTERPRET") != "1":
    pytest.skip("needs TRITON_INTERPRET=1, before triton is imported (make test runs it so)", allow_module_level=True)
pytest.importorskip("triton")

from tgo_kernels._triton import bits, norm, pool

OURS = torch.ops.tgo_kernels
DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
# Kernel, stride, padding, dilation and ceil_mode.
POOLS = [
    (2, 2, 0, 1, False),
    (2, 2, 0, 1, True),
    ((3, 2), (3, 4), 0, 1, False),
    (1, 3, 0, 1, False),
    (3, 2, 1, 1, False),
    (3, 1, 1, 1, False),
    ((2, 3), (1, 2), (1, 0), (2, 1), True),
    (4, 3, 2, 1, True),
    (2, 2, 1, 2, False),
]


@DTYPES
@pytest.mark.parametrize("planes", [1, 2, 3])
@pytest.mark.parametrize("size", [1, 31, 4096, 4097, 140_001])
def test_what_is_packed_comes_back(dtype, planes, size):
    x = torch.randint(2**planes, (size,)).to(dtype)
    words = OURS.pack_integers(x, planes)
    assert words.shape == (planes, 128 * -(-size // 4096)) and words.dtype == torch.int32
    back = torch.empty_like(x)
    OURS.unpack_integers(words, back)
    assert torch.equal(back, x)


def test_words_of_another_size_are_refused():
    with pytest.raises(ValueError, match="as large as x"):
        bits.unpack_integers(torch.zeros(1, 128, dtype=torch.int32), torch.empty(4097))


@DTYPES
@pytest.mark.parametrize(
    "outer, channels, inner", [(1, 1, 1), (37, 5, 1), (6, 3, 7), (9, 40, 16), (300, 130, 1), (3, 7, 49)]
)
def test_sums_of_channels(dtype, outer, channels, inner):
    x = (torch.randn(outer, channels, inner) * 3 + 100).to(dtype)
    found, expected = (each(x, channels, inner) for each in (norm.channel_moments, OURS.channel_moments))
    assert found.dtype == torch.float64
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-9)
    g, slope, offset = torch.randn(x.shape).to(dtype), torch.randn(channels), torch.randn(channels)
    ours, theirs = g.clone(), g.clone()
    norm.add_affine(ours, x, slope, offset, inner)
    OURS.add_affine(theirs, x, slope, offset, inner)
    assert torch.equal(ours, theirs)


@pytest.mark.parametrize("inner", [1, 64])
def test_several_parts_and_a_mean_far_from_zero(inner, monkeypatch):
    monkeypatch.setattr(norm, "INTERPRETED", False)
    x = torch.randn(1000 // inner + 30, 20, inner) + 1e4
    expected = torch.stack(torch.var_mean(x.double(), (0, 2), correction=0)[::-1])
    found = norm.channel_moments(x, 20, inner)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=0)
    assert torch.equal(norm.channel_moments(x, 20, inner), found)


def test_a_channel_with_nan_and_one_that_is_constant():
    x = torch.randn(50, 3, 1)
    x[7, 1], x[:, 2] = float("nan"), 0.1
    mean, variance = norm.channel_moments(x, 3, 1)
    assert mean.isnan().tolist() == variance.isnan().tolist() == [False, True, False]
    assert 0 <= variance[2] < 1e-16


@pytest.mark.parametrize("has", list(itertools.product((False, True), repeat=3)), ids=str)
def test_the_line_and_its_gradient(has):
    moments = torch.stack((torch.randn(150), torch.rand(150))).double()
    weight, bias, *running = torch.randn(4, 150).unbind()
    running = running if has[2] else [None, None]
    given = [each.clone() if there else None for each, there in ((weight, has[0]), (bias, has[1]))]
    results = []
    for line in (norm.norm_line, OURS.norm_line):
        updated = [None if each is None else each.clone() for each in running]
        results.append([*line(moments, 77.0, *given, *updated, 0.1, 1e-5, 3), *(each for each in updated if has[2])])
    for found, expected in zip(*results, strict=True):
        assert found.shape == expected.shape
        torch.testing.assert_close(found, expected, rtol=2e-7, atol=2e-7)
    scale, _, mean, inverse = results[0][:4]
    for found, expected in zip(
        *(grad(mean, inverse, scale, *given, 77.0) for grad in (norm.norm_grad, OURS.norm_grad)), strict=True
    ):
        torch.testing.assert_close(found, expected, rtol=2e-7, atol=1e-12)


def test_a_gradient_that_is_one_number_for_all_channels():
    mean, inverse, scale = torch.rand(3, 9)
    for found, expected in zip(
        norm.norm_grad(mean, inverse, scale, torch.tensor(2.0).expand(9), None, 5.0),
        norm.norm_grad(mean, inverse, scale, torch.full((9,), 2.0), None, 5.0),
        strict=True,
    ):
        assert torch.equal(found, expected)


def same(a, b):
    return torch.equal(a.nan_to_num(7), b.nan_to_num(7)) and torch.equal(a.isnan(), b.isnan())


@DTYPES
@pytest.mark.parametrize("about", POOLS, ids=str)
def test_pools(about, dtype):
    """Ties, NaN, windows of -inf alone, sizes that do not fit; the smallest of some channels; both layouts."""
    window = pools._window(*map(pools._two, about[:4]), about[4])
    for k, (shape, memory) in enumerate(
        itertools.product(((3, 5, 9, 12), (2, 16, 7, 6)), (torch.contiguous_format, torch.channels_last))
    ):
        x = (torch.randint(-2, 3, shape) if k % 2 else torch.randn(shape)).to(dtype)
        x[torch.rand(shape) < 0.03], x[torch.rand(shape) < 0.1] = float("nan"), float("-inf")
        x = x.contiguous(memory_format=memory)
        inner = 1 if memory == torch.contiguous_format else shape[1]
        leaf = x.clone().requires_grad_()
        of_torch = F.max_pool2d(leaf, *about)
        grad = torch.randn(of_torch.shape).to(dtype).contiguous(memory_format=memory)
        for scale in (None, torch.randn(shape[1])):
            results = []
            for forward, backward in ((pool.max_pool, pool.max_pool_bwd), (OURS.max_pool, OURS.max_pool_bwd)):
                y, g_x = torch.empty_like(of_torch, memory_format=memory), torch.empty_like(x)
                winners = torch.empty_like(y, dtype=torch.uint8)
                forward(x, y, winners, inner, window, scale)
                backward(grad, winners, g_x, inner, window)
                results.append((y, winners, g_x))
            for found, expected in zip(*results, strict=True):
                assert same(found, expected)
            if scale is None:
                assert same(results[0][0], of_torch)
                if dtype == torch.float32:  # in 16 bits torch rounds every sum
                    assert torch.equal(results[0][2], torch.autograd.grad(of_torch, leaf, grad)[0])


def test_too_large_a_plane_is_refused():
    x = torch.empty(1, 1, device="meta").expand(2**16, 2**15)
    with pytest.raises(ValueError, match=r"less than 2\^31"):
        pool.max_pool(x, x, x, 1, [1] * 4 + [0, 0, 1, 1], None)


def test_what_gpus_have_kernels_for():
    with FakeTensorMode():
        assert kernels.serve(torch.empty(2, device="cuda"))
        assert not kernels.serve(torch.empty(2, device="cuda", dtype=torch.float64))
    for name in ("channel_moments", "norm_line", "norm_grad", "add_affine", "max_pool", "max_pool_bwd"):
        assert torch._C._dispatch_has_kernel_for_dispatch_key(f"tgo_kernels::{name}", "CUDA")
