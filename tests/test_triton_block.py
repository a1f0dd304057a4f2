"""The GPU kernels beside the scan, in Triton's interpreter: a process of its own with TRITON_INTERPRET=1.

Against the compiled extension's, to the bit but for sums in another order; and that what is known to be spikes is
packed on a GPU, and nothing else, with CPU tensors that are treated as a GPU's.
"""

import itertools
import os

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional as F

import tgo_kernels as tgo
from tgo_kernels import kernels, native, packing, pools
from tgo_kernels import norm as norms

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
        of_torch = F.max_pool2d(x, *about)
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
            assert scale is not None or same(results[0][0], of_torch)


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


def test_packing_needs_one_of_both(monkeypatch):
    monkeypatch.setattr(native, "ERROR", "not here")
    with pytest.raises(RuntimeError, match="needs the compiled extension: not here"):
        tgo.pack_spikes()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    weight = torch.randn(64, 64, requires_grad=True)
    with tgo.pack_spikes():
        y = torch.ones(64, 64) @ weight  # on the CPU then nothing is packed
    y.sum().backward()
    assert torch.equal(weight.grad, torch.full((64, 64), 64.0))


@pytest.fixture
def as_on_a_gpu(monkeypatch):
    """Nothing is looked for, and all kernels are Triton's."""

    def below(operator, *arguments):
        name = operator._schema.name.removeprefix("tgo_kernels::")
        (module,) = (module for module, names in kernels._TRITON.items() if name in names)
        return kernels._call(module, name, *arguments)

    monkeypatch.setattr(packing, "_is_known", lambda tensor: True)
    for module in (packing, norms, pools):
        monkeypatch.setattr(module, "below", below)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = (tgo.OverTime(nn.Conv2d(c, 16, 3, padding=1)) for c in (3, 16))
        self.blocks = nn.ModuleList(
            tgo.Block(nn.BatchNorm2d(16), tgo.LIF(), pool, add=add)
            for pool, add in ((tgo.MaxPool2d(2), None), (None, "spikes"))
        )
        self.last = nn.Linear(16 * 16, 10)

    def forward(self, x):
        x = self.blocks[0](self.first(x))
        return self.last(self.blocks[1](self.second(x), x).flatten(2))


def gradients(model, x):
    model.zero_grad()
    model(x).square().sum().backward()
    return [p.grad.clone() for p in model.parameters()]


def saved(run):
    """What is packed while it runs: sizes and planes."""
    found, make = [], packing._Bits.__init__

    def init(self, tensor, packed):
        make(self, tensor, packed)
        found.append((tuple(tensor.shape), packed.tensor.shape[0]))

    with pytest.MonkeyPatch.context() as patch, tgo.pack_spikes():
        patch.setattr(packing._Bits, "__init__", init)
        run()
    return found


def test_a_network(as_on_a_gpu):
    model, x = Net(), torch.randn(4, 2, 3, 8, 8)
    expected = gradients(model, x)
    found = []
    kept = saved(lambda: found.extend(gradients(model, x)))
    for a, b in zip(found, expected, strict=True):
        assert torch.equal(a, b)
    assert kept == [((8, 16, 4, 4), 1), ((8, 256), 2)]  # pooled spikes for a convolution, sums of spikes for a linear
    assert not packing._integers


def test_as_the_compiled_kernels(as_on_a_gpu):
    model, x = Net(), torch.randn(4, 2, 3, 8, 8)
    found = gradients(model, x)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(norms, "below", lambda operator, *arguments: operator(*arguments))
        patch.setattr(pools, "below", lambda operator, *arguments: operator(*arguments))
        for a, b in zip(found, gradients(model, x), strict=True):
            torch.testing.assert_close(a, b)


def product(made, written=None):
    """What is packed of a tensor times another one, and the other one's gradient, which is the tensor."""
    result = []

    def run():
        x = made()
        other = torch.ones(x.shape, requires_grad=True)
        result.extend((x.clone(), other, x * other))
        if written:
            written(x)

    kept = saved(run)
    x, other, y = result
    y.sum().backward()
    assert torch.equal(other.grad.to(x.dtype), x)
    return kept


def spikes(*shape):
    return tgo.lif(torch.randn(shape or (4, 64, 32))).spikes


@pytest.mark.parametrize(
    "view",
    [
        lambda s: s,
        lambda s: s[1:],
        lambda s: s[:, ::2],
        lambda s: s.flatten(0, 1),
        lambda s: s.transpose(0, 2),
        lambda s: s[:, 3:, 5:31].permute(2, 0, 1),
    ],
)
def test_views_are_packed(as_on_a_gpu, view):
    """Also where nobody but the view holds the spikes."""
    assert product(lambda: view(spikes())) == [(view(torch.empty(4, 64, 32)).shape, 1)]


def test_several_operators_share_the_bits(as_on_a_gpu):
    def run():
        s = spikes()
        outs.extend(s.flatten(0, 1) @ weight for weight in torch.randn(3, 32, 8, requires_grad=True))
        held.append(s)

    outs, held = [], []
    assert saved(run) == [((256, 32), 1)]
    assert len(packing._integers) == 1
    held.clear()
    outs.clear()
    assert not packing._integers and not packing._packed


def test_bits_are_of_what_it_was(as_on_a_gpu):
    assert product(spikes, lambda s: s.mul_(3)) == [((4, 64, 32), 1)]


def written_through_a_view(s):
    s[2].mul_(3)
    return s


def with_other_data(s):
    s.data = torch.randn(4, 64, 32)
    return s


def at_the_same_address(s):
    """Of a storage that is gone, since its tensor has another one."""
    address = s.untyped_storage()._cdata
    s.data = torch.randn(4, 64, 32)
    others = [torch.randn(4, 64, 32) for _ in range(100)]
    (found,) = (each for each in others if each.untyped_storage()._cdata == address)
    return found


def summed_with(s, other):
    summed = s + other
    packing.note_integers(summed, s, other)
    return summed


NOT_KNOWN = {
    "written to": lambda s: s.mul_(3),
    "written to through a view": written_through_a_view,
    "written to, with another counter": lambda s: s.mul_(3).data,
    "another counter, by which it was written to": lambda s: s.data.mul_(3),
    "another tensor": lambda s: s.set_(torch.randn(4, 64, 32)),
    "other data": with_other_data,
    "another dtype": lambda s: s.view(torch.float16),
    "another value": lambda s: s + 0.5,
    "at the address of what is gone": at_the_same_address,
    "a sum with what is not known": lambda s: summed_with(s, torch.randn(4, 64, 32)),
    "repeated": lambda s: s[:1].expand(3, -1, -1),
    "of a pool that may have no input": lambda s: tgo.MaxPool2d(2, 2, 1, dilation=2)(s),
}


@pytest.mark.parametrize("change", NOT_KNOWN.values(), ids=NOT_KNOWN)
def test_what_is_not_known_is_kept(as_on_a_gpu, change):
    held = []  # so that the spikes are known as long as they could be

    def made():
        held.append(spikes())
        return change(held[0])

    assert product(made) == []
    assert held


def test_spikes_from_before_are_not_known(as_on_a_gpu):
    s = spikes()
    assert not packing._integers
    assert product(lambda: s) == []


def test_sums_of_at_most_seven(as_on_a_gpu):
    def made(count):
        total = spikes()
        for _ in range(count - 1):
            total = summed_with(total, spikes())
        return total

    shape = (4, 64, 32)
    assert [product(lambda n=n: made(n)) for n in (2, 3, 4, 7, 8)] == [*([(shape, p)] for p in (2, 2, 3, 3)), []]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_narrow_spikes(as_on_a_gpu, dtype):
    assert product(lambda: tgo.lif(torch.randn(4, 64, 32).to(dtype)).spikes) == [((4, 64, 32), 1)]
