"""Max pools that keep little: torch's outputs and gradients, and those of a norm's input."""

import itertools
import pickle

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import tgo_kernels as tgo
from tgo_kernels import native

APART = [(2, None, 0, 1, False), (2, None, 0, 1, True), ((3, 2), (3, 4), 0, 1, False), (1, 3, 0, 1, False)]
LARGE = (16, 1, 8, 1, False)  # more taps than a byte tells apart: torch's
OVERLAPPING = [
    LARGE,
    (3, 2, 1, 1, False),
    (3, 1, 1, 1, False),
    (2, 1, 1, 2, True),
    ((2, 3), (1, 2), (1, 0), (2, 1), True),
]


def both(x, about, dtype=torch.float32, layout="contiguous"):
    """Output and gradient of this pool and of torch's."""
    x = x.to(dtype)
    if layout == "channels_last":
        x = x.to(memory_format=torch.channels_last)
    if layout == "strided":
        x = torch.stack((x, x), -1)[..., 0]
    found = []
    for pool in (tgo.MaxPool2d, nn.MaxPool2d):
        leaf = x.detach().requires_grad_()
        y = pool(*about[:4], ceil_mode=about[4])(leaf)
        grad = torch.randn(y.shape, generator=torch.Generator().manual_seed(3)).to(dtype)
        y.backward(grad)
        found += [y.detach(), leaf.grad]
    if layout != "strided" and x.shape[1] > 1:  # which alone tells the layouts apart
        assert found[0].stride() == found[2].stride()
    return found


def spikes(*shape):
    return (torch.rand(shape) < 0.3).float()


@pytest.mark.parametrize("layout", ["contiguous", "channels_last", "strided"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("about", [*APART, *OVERLAPPING], ids=str)
def test_as_torch(about, dtype, layout):
    for values, shape in itertools.product((spikes, torch.randn), ((3, 5, 16, 12), (2, 33, 7, 9), (1, 1, 6, 35))):
        y, g_x, expected, g_expected = both(values(*shape), about, dtype, layout)
        assert torch.equal(y, expected)
        if about in APART or dtype == torch.float32:
            assert torch.equal(g_x, g_expected)
        else:  # torch rounds every sum of a 16-bit gradient
            tolerance = {torch.float16: 1e-2, torch.bfloat16: 1e-1}[dtype]
            torch.testing.assert_close(g_x, g_expected, rtol=tolerance, atol=tolerance)


def test_winners_among_what_is_no_number():
    x = torch.tensor([[float("nan"), 1, float("-inf"), float("-inf")], [float("nan"), 2, float("-inf"), float("-inf")]])
    y, g_x, expected, g_expected = both(x[None, None].repeat(1, 1, 2, 2), (2, None, 0, 1, False))
    assert torch.equal(y.isnan(), expected.isnan())
    assert torch.equal(y.nan_to_num(), expected.nan_to_num())
    assert torch.equal(g_x, g_expected)


def test_one_image_without_a_batch_and_an_empty_batch():
    for shape in ((5, 8, 8), (0, 5, 8, 8)):
        y, g_x, expected, g_expected = both(spikes(*shape), (2, None, 0, 1, False))
        assert torch.equal(y, expected)
        assert torch.equal(g_x, g_expected)


@pytest.mark.skipif(native.ERROR is not None, reason="the compiled extension's")
def test_a_byte_of_each_output_is_saved():
    x, saved = spikes(4, 8, 16, 16).requires_grad_(), []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: saved.append(tensor) or tensor, lambda tensor: tensor):
        y = tgo.MaxPool2d(2)(x)
    assert [tensor.untyped_storage().nbytes() for tensor in saved] == [y.numel()]


@pytest.mark.parametrize(
    "about", [{"kernel_size": 2, "padding": 2}, {"kernel_size": 9}, {"kernel_size": 2, "stride": 0}]
)
def test_what_torch_refuses_is_refused(about):
    messages = []
    for pool in (tgo.MaxPool2d, nn.MaxPool2d):
        with pytest.raises(RuntimeError) as error:
            pool(**about)(torch.zeros(2, 3, 4, 4))
        messages.append(str(error.value).splitlines()[0].split(": ")[-1][:20])
    assert messages[0] == messages[1]


def test_on_every_road():
    x, pool, torchs = torch.randn(2, 3, 8, 8, requires_grad=True), tgo.MaxPool2d(3, 2, 1), nn.MaxPool2d(3, 2, 1)
    expected = torch.autograd.grad(torchs(x).pow(3).sum(), x)[0]
    compiled = torch.compile(pool, fullgraph=True, backend="aot_eager")
    for run in (pool, compiled, pickle.loads(pickle.dumps(pool))):
        torch.testing.assert_close(torch.autograd.grad(run(x).pow(3).sum(), x)[0], expected)
    grads = torch.func.grad(lambda x: pool(x).pow(3).sum())(x)
    torch.testing.assert_close(grads, expected)
    _, tangent = torch.func.jvp(pool, (x,), (torch.ones_like(x),))
    assert torch.equal(tangent, torch.ones_like(tangent))
    (first,) = torch.autograd.grad(pool(x).pow(3).sum(), x, create_graph=True)
    (second,) = torch.autograd.grad(first.pow(2).sum(), x)
    (plain,) = torch.autograd.grad(torchs(x).pow(3).sum(), x, create_graph=True)
    torch.testing.assert_close(second, torch.autograd.grad(plain.pow(2).sum(), x)[0])
    y = pool(x)
    many = torch.autograd.grad(
        y, x, torch.randn(4, *y.shape, generator=torch.Generator().manual_seed(1)), is_grads_batched=True
    )
    y = torchs(x)
    grads = torch.randn(4, *y.shape, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(many, torch.autograd.grad(y, x, grads, is_grads_batched=True))
    traced = torch.jit.trace(pool, x.detach())
    assert torch.equal(traced(x), F.max_pool2d(x, 3, 2, 1))
    exported = torch.export.export(pool, (x.detach(),)).module()
    assert torch.equal(exported(x), F.max_pool2d(x, 3, 2, 1))


@pytest.mark.parametrize(
    "about", [{"kernel_size": [2, 2]}, {"kernel_size": (3,)}, {"kernel_size": 2, "stride": [2, 1]}]
)
def test_windows_as_torch_takes_them(about):
    x = torch.randn(2, 3, 8, 8)
    assert torch.equal(tgo.MaxPool2d(**about)(x), nn.MaxPool2d(**about)(x))


def test_indices_and_doubles_are_torchs():
    _, indices = tgo.MaxPool2d(2, return_indices=True)(torch.randn(1, 2, 4, 4))
    assert indices.dtype == torch.int64
    assert torch.autograd.gradcheck(tgo.MaxPool2d(2), torch.randn(1, 2, 4, 4, dtype=torch.float64, requires_grad=True))


@pytest.mark.skipif(native.ERROR is not None, reason="the compiled extension's")
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("about", [(2,), (3, 2, 1)])
def test_of_a_norms_input(about, dtype, layout):
    """Channels of negative weight take the smallest."""
    torch.manual_seed(0)
    x, found = torch.randn(12, 5, 9, 8).to(dtype), []
    x = x.to(memory_format=torch.channels_last) if layout == "channels_last" else x
    for fuses in (True, False):
        model = nn.Sequential(nn.BatchNorm2d(5), nn.MaxPool2d(*about), tgo.LIF())
        with torch.no_grad():
            model[0].weight.copy_(torch.tensor([1.0, -0.5, 0.2, -2.0, 0.7]))
        if fuses:
            assert tgo.fuse(model).fused == {"0": "2"}
            given = model[1](model[0](x))
            assert given.x.shape == given.tensor().shape  # which nobody made
            model[0].reset_running_stats()
        leaf = x.detach().requires_grad_()
        y = model(leaf)
        y.backward(torch.linspace(-1, 1, y.numel()).view_as(y).to(dtype))
        found.append([y.detach(), leaf.grad, *(p.grad for p in model.parameters()), *model.buffers()])
    same = (found[0][0] == found[1][0]).float().mean()
    if dtype != torch.float32:  # which rounds the norm's output
        assert same > 0.97
        return
    assert same == 1
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)
