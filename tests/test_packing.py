"""Spikes kept as bits: what comes back is what was saved, and gradients are those of the plain model, to the bit."""

import copy
import gc
import pickle

import numpy as np
import pytest
import torch
from models import gradients
from packed import assert_equal, bits_of, net
from torch import nn
from torch.multiprocessing.reductions import StorageWeakRef

import tgo_kernels as tgo
from tgo_kernels import native, packing

pytestmark = pytest.mark.skipif(native.ERROR is not None, reason="packing is the compiled extension's")

pack, unpack = torch.ops.tgo_kernels.pack, torch.ops.tgo_kernels.unpack
HEADER = 5  # words of 64 bits


def held(model, x):
    """Bytes of the storages that wait for a backward, less those of parameters and buffers and of x."""
    seen = {t.untyped_storage().data_ptr(): 0 for t in (*model.parameters(), *model.buffers(), x)}
    before = {id(each) for each in gc.get_objects() if type(each) in (packing._Kept, packing._Bits)}
    y = model(x)
    for each in gc.get_objects():
        if type(each) is packing._Kept and id(each) not in before:
            storage = each.tensor.untyped_storage()
            seen.setdefault(storage.data_ptr(), storage.nbytes())
    del y
    return sum(seen.values())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("size", [1, 63, 64, 65, 1000, 300_001])
@pytest.mark.parametrize("values", [1, 2, 3, 4, 5, 8])
def test_what_is_packed_comes_back(dtype, size, values):
    kinds = torch.tensor([0.0, 1.0, -0.0, float("nan"), 3.5, float("inf"), -2.0, 1e-7])[:values].to(dtype)
    x = kinds[torch.randint(values, (size,))]
    x[-1] = kinds[-1]  # met late, wherever that is
    packed = pack(x)
    planes = 0 if size == 1 else (values - 1).bit_length()
    assert HEADER <= packed.numel() <= HEADER + planes * -(-size // 64)
    if size > 64:
        assert packed.numel() == HEADER + planes * -(-size // 64)
    back = torch.empty_like(x)
    unpack(packed, back)
    bits = torch.int32 if dtype == torch.float32 else torch.int16
    assert torch.equal(back.view(bits), x.view(bits))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("at", [0, 511, 512, 100_000, 299_999, 300_000])
def test_a_rare_value_is_found_wherever_it_is(dtype, at):
    x = (torch.arange(300_001) % 8).to(dtype)
    x[at] = 9 if x.unique().numel() == 8 else 0
    assert pack(x).numel() == 0  # the ninth
    x = (torch.arange(300_001) % 4).to(dtype)
    x[at] = 9
    back = torch.empty_like(x)
    unpack(pack(x), back)
    assert torch.equal(back, x)


def test_what_has_more_values_is_left():
    assert pack(torch.randn(100_000)).numel() == 0
    assert pack(torch.empty(0)).numel() == 0


def test_packed_bits_of_another_size_are_refused():
    with pytest.raises(RuntimeError, match="as large as x"):
        unpack(pack(torch.zeros(1000).index_fill(0, torch.tensor([3]), 1)), torch.empty(2000))
    with pytest.raises(RuntimeError, match="what pack returned"):
        unpack(torch.zeros(2, dtype=torch.int64), torch.empty(0))
    with pytest.raises(RuntimeError, match="2 or 4 bytes"):
        pack(torch.zeros(4, dtype=torch.float64))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("channels_last", [False, True])
def test_gradients_are_equal_to_the_bit(dtype, channels_last):
    model, x = net().to(dtype), torch.randn(4, 2, 3, 8, 8, dtype=dtype)
    if channels_last:
        model, x = (
            model.to(memory_format=torch.channels_last),
            x.permute(0, 1, 3, 4, 2).contiguous().permute(0, 1, 4, 2, 3),
        )
    expected = gradients(model, x)
    running = copy.deepcopy(model[0][1].running_mean)
    packing = tgo.pack_spikes(model)
    assert_equal(gradients(model, x), expected)
    packing.remove()
    assert not torch.equal(model[0][1].running_mean, running)
    assert not model._forward_hooks and not model._forward_pre_hooks
    with tgo.pack_spikes():
        assert_equal(gradients(model, x), expected)


def test_less_is_held():
    model, x = net(64, 32), torch.randn(4, 8, 3, 32, 32)
    steps = 4 * 8 * 64
    with tgo.pack_spikes():
        found = held(model, x)
    # Convolution's output for the norm, norm's for the neuron; after the second convolution the pool has indices, and
    # norm and neuron a quarter of the neurons.
    expected = steps * (32 * 32 * (4 + 4 + 1 / 8) + 32 * 32 * 4 + 16 * 16 * (8 + 4 + 4 + 1 / 8))
    assert found == pytest.approx(expected, rel=0.02)


def test_residual_sums_of_spikes_are_bits_too():
    weight, planes = torch.randn(16, 64, requires_grad=True), []
    for most in (1, 3, 7):
        x = torch.randint(most + 1, (128, 64)).float()
        with tgo.pack_spikes():
            y = nn.functional.linear(x, weight)
        (kept,) = bits_of(x.shape)
        planes.append((kept.packed.tensor.numel() - HEADER) / (x.numel() / 64))
        expected = x.clone()
        del x
        weight.grad = None
        y.sum().backward()
        assert torch.equal(weight.grad, torch.ones(128, 16).T @ expected)
        del kept, y
    assert planes == [1, 2, 3]


@pytest.mark.parametrize(
    "view",
    [
        lambda s: s[1],
        lambda s: s[:, ::2],
        lambda s: s.flatten(0, 1),
        lambda s: s.transpose(0, 2),
        lambda s: s[:, 3:, 5:9],
        lambda s: s.unsqueeze(0).expand(3, -1, -1, -1),
        lambda s: s.permute(2, 0, 1)[1:],
        lambda s: s.chunk(2, -1)[1],
    ],
)
def test_views(view):
    spikes = (torch.rand(8, 64, 32) < 0.3).float()
    found = []
    for context in (tgo.pack_spikes(), tgo.pack_spikes(nn.Identity())):  # the second does nothing here
        other = torch.randn(view(spikes).shape, generator=torch.Generator().manual_seed(1)).requires_grad_()
        with context:
            y = view(spikes).clone() * 0 + view(spikes) * other
        y.square().sum().backward()
        found.append(other.grad)
    assert torch.equal(*found)


def test_a_tensor_that_two_operators_save_is_packed_once():
    spikes = (torch.rand(72, 64) < 0.3).float()
    weights = [torch.randn(64, 64, requires_grad=True) for _ in range(3)]
    with tgo.pack_spikes():
        outs = [spikes @ weight for weight in weights]
    kept = bits_of(spikes.shape)
    assert len(kept) == 1
    spikes.zero_()  # another version of it is another tensor
    with tgo.pack_spikes():
        outs.append(spikes @ weights[0])
    kept = bits_of(spikes.shape)
    assert len(kept) == 2
    sum(out.sum() for out in outs[:3]).backward()
    assert weights[0].grad.any()
    weights[0].grad = None
    outs[3].sum().backward()
    assert not weights[0].grad.any()


def test_a_write_after_saving_is_a_copy_or_an_error():
    weight = torch.randn(64, 64, requires_grad=True)
    spikes, real = (torch.rand(64, 64) < 0.3).float(), torch.randn(64, 64)
    expected = torch.ones(64, 64) @ spikes
    with tgo.pack_spikes():
        kept, left = weight @ spikes.T, weight @ real
    spikes.fill_(7)
    kept.sum().backward()
    assert torch.allclose(weight.grad, expected)
    real.fill_(7)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        left.sum().backward()


def test_a_buffer_that_is_filled_again_is_another_tensor():
    """By numpy, or through ``.data``: torch counts no version."""
    layer, buffer = nn.Linear(64, 1, bias=False), np.zeros((64, 64), np.float32)
    x = torch.from_numpy(buffer)
    buffer[:, ::2] = 1
    with tgo.pack_spikes():
        first = layer(x)
        buffer[:] = 1 - buffer
        second = layer(x)
    second.sum().backward()
    assert torch.equal(layer.weight.grad, 64 * x[:1])
    layer.weight.grad = None
    first.sum().backward()
    assert torch.equal(layer.weight.grad, 64 * (1 - x[:1]))


def test_nothing_is_left_of_a_forward_without_a_backward():
    for function in (torch.sigmoid, lambda x: (x > 0).float() * x):
        with tgo.pack_spikes():
            x = torch.randn(2000, requires_grad=True)
            y = function(x)
        storages = [StorageWeakRef(each.untyped_storage()) for each in (x, y)]
        del x, y
        assert all(storage.expired() for storage in storages)


def test_autocast():
    model, x = net(), torch.randn(4, 2, 3, 8, 8)

    def run(x):
        with torch.autocast("cpu", torch.bfloat16):
            return model(x).float()

    expected = gradients(model, x, run)
    tgo.pack_spikes(model)
    assert_equal(gradients(model, x, run), expected)


@pytest.mark.parametrize("where", ["within", "around"])
def test_compiled(where):
    model, x = net(), torch.randn(4, 2, 3, 8, 8)
    model.eval()
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    expected = gradients(model, x, compiled)
    if where == "within":
        torch._dynamo.reset()
        tgo.pack_spikes(model)
        assert_equal(gradients(model, x, torch.compile(model, backend="aot_eager")), expected)
    else:
        with tgo.pack_spikes():
            assert_equal(gradients(model, x, compiled), expected)


def test_transforms_are_left_alone():
    model, x = net(), torch.randn(4, 2, 3, 8, 8)
    model.eval()
    tgo.pack_spikes(model)
    values = dict(model.named_parameters())
    loss = lambda values: torch.func.functional_call(model, values, (x,)).square().sum()  # noqa: E731
    found = torch.func.grad(loss)(values)
    model(x).square().sum().backward()
    for name, p in values.items():
        assert torch.allclose(found[name], p.grad, rtol=1e-4, atol=1e-4)


def test_second_derivatives_and_a_kept_graph():
    spikes, w = (torch.rand(64, 64) < 0.3).float(), torch.randn(64, 64, requires_grad=True)
    with tgo.pack_spikes():
        y = (spikes @ w).pow(3).sum()
        (first,) = torch.autograd.grad(y, w, create_graph=True)
        (again,) = torch.autograd.grad(y, w, retain_graph=True)
        first.square().sum().backward()
    found, w.grad = w.grad, None
    (plain,) = torch.autograd.grad((spikes @ w).pow(3).sum(), w, create_graph=True)
    plain.square().sum().backward()
    assert torch.equal(first, again)
    assert torch.equal(found, w.grad)


def test_spikes_that_the_user_saved():
    class Mine(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x, spikes):
            ctx.save_for_backward(spikes)
            return x * spikes

        @staticmethod
        def backward(ctx, grad):
            return grad * ctx.saved_tensors[0], None

    x, spikes = torch.randn(64, 64, requires_grad=True), (torch.rand(64, 64) < 0.3).float()
    with tgo.pack_spikes():
        y = Mine.apply(x, spikes)
    y.sum().backward()
    assert torch.equal(x.grad, spikes)


def test_a_packed_model_is_copied_and_pickled():
    model, x = net(), torch.randn(4, 2, 3, 8, 8)
    tgo.pack_spikes(model)
    expected = gradients(copy.deepcopy(model), x)
    assert_equal(gradients(pickle.loads(pickle.dumps(model)), x), expected)
    assert list(model.state_dict()) == list(net().state_dict())


def test_what_is_no_module_is_refused():
    with pytest.raises(TypeError, match=r"model must be a torch\.nn\.Module or None"):
        tgo.pack_spikes([])
