"""What a layer put out, computed again in the backward: the same gradients, and nothing kept."""

import gc
import weakref

import pytest
import torch
from torch import nn

import tgo_kernels as tgo
from tgo_kernels import native, recompute

pytestmark = pytest.mark.skipif(native.ERROR is not None, reason="the compiled extension's")


def spikes(*shape):
    return (torch.rand(shape) < 0.3).float()


def net(bias=False, pool=False, layout=torch.contiguous_format):
    """Two convolutions and a linear layer, each with a norm and a neuron, fused."""
    layers = [nn.Conv2d(4, 8, 3, padding=1, bias=bias), nn.BatchNorm2d(8)]
    model = nn.Sequential(
        tgo.OverTime(*layers, *([nn.MaxPool2d(2)] if pool else [])),
        tgo.LIF(detach_reset=True),
        tgo.OverTime(nn.Conv2d(8, 16, 3, padding=1, bias=bias), nn.BatchNorm2d(16)),
        tgo.LIF(),
        tgo.OverTime(nn.Flatten(), nn.Linear(16 * (16 if pool else 64), 32, bias=bias), nn.BatchNorm1d(32)),
        tgo.LIF(2.0),
    )
    assert len(tgo.fuse(model).fused) == 3
    with torch.no_grad():
        model[0][1].weight[::2] *= -1
    return model.to(memory_format=layout)


def gradients(model, x, level, dtype=None):
    """Of all parameters and of x, and the bytes that were kept."""
    x, kept = x.detach().requires_grad_(), {}

    def keep(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor.detach()  # or its own node keeps it for ever

    others = {each.untyped_storage().data_ptr() for each in (*model.parameters(), *model.buffers(), x)}
    cast = torch.autocast("cpu", dtype, dtype is not None)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t), tgo.pack_spikes(level=level), cast:
        y = model(x)
    y.backward(torch.linspace(-1, 1, y.numel()).view_as(y))
    found = [x.grad, *(p.grad for p in model.parameters())]
    model.zero_grad()
    return found, sum(size for place, size in kept.items() if place not in others)


@pytest.mark.parametrize("steps", [4, 19])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("pool", [False, True])
@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
def test_the_same_gradients_from_bits_alone(dtype, pool, bias, layout, steps):
    torch.manual_seed(0)
    model, x = net(bias, pool, layout), spikes(steps, 8, 4, 8, 8)
    if layout == torch.channels_last:
        x = x.flatten(0, 1).to(memory_format=layout).unflatten(0, x.shape[:2])
    (expected, held), (found, held_as_bits) = (gradients(model, x, level, dtype) for level in ("output", "bits"))
    for a, b in zip(found, expected, strict=True):
        assert torch.equal(a, b)
    # Bits of the inputs: 256, 512 (128 behind the pool) and 1024 elements of each sample and step, and of outputs 512,
    # 1024 (256) and 32; with a pool a byte for each of 128. Beside that channels, and states where T > 8.
    samples, size = steps * 8, 4 if dtype is None else 2
    inputs, outputs = (640, 800) if pool else (1792, 1568)
    few = 4096 if steps <= 8 else 4096 + (steps // 8) * 8 * (416 if pool else 1568) * 4
    if dtype:  # copies of the parameters
        few += 2 * sum(each.numel() for each in model.parameters())
    assert held > size * outputs * samples
    assert held_as_bits < samples * (inputs / 8 + (128 if pool else 0)) + few


def test_level_of_a_model_and_of_a_copy():
    model, x = net(), spikes(4, 8, 4, 8, 8)
    with pytest.raises(ValueError, match="level must be 'output' or 'bits', got 'none'"):
        tgo.pack_spikes(model, level="none")
    asked = []
    packing = tgo.pack_spikes(model, level="bits")
    model(x)
    weights = {each.untyped_storage().data_ptr() for each in model.parameters()}

    def ask(tensor):
        if tensor.untyped_storage().data_ptr() not in weights:
            asked.append(tensor.numel())
        return tensor.detach()  # or its own node keeps it for ever

    with torch.autograd.graph.saved_tensors_hooks(ask, lambda tensor: tensor):
        model(x)
    packing.remove()
    assert asked and max(asked) < 2000


def test_a_graph_twice_and_in_parts():
    model, x = net(True, True), spikes(4, 8, 4, 8, 8).requires_grad_()
    expected, _ = gradients(model, x, "output")
    with tgo.pack_spikes(level="bits"):
        y = model(x)
    grad = torch.linspace(-1, 1, y.numel()).view_as(y)
    first = torch.autograd.grad(y, [model[2][0].weight, x], grad, retain_graph=True)
    second = torch.autograd.grad(y, [x, *model.parameters()], grad, retain_graph=True)
    y.backward(grad)
    assert torch.equal(first[1], expected[0])
    assert all(torch.equal(a, b) for a, b in zip(second, expected, strict=True))
    assert all(torch.equal(a.grad, b) for a, b in zip(model.parameters(), expected[1:], strict=True))


@pytest.mark.parametrize("what", ["weight", "bias"])
def test_what_has_changed_raises(what):
    model, x = net(True), spikes(4, 8, 4, 8, 8)
    with tgo.pack_spikes(level="bits"):
        y = model(x)
    with torch.no_grad():
        getattr(model[2][0], what).mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


@pytest.mark.parametrize("what", ["weight", "bias"])
def test_what_was_freed_is_named(what):
    """As FSDP frees what it has gathered."""
    model, x = net(True), spikes(4, 8, 4, 8, 8)
    with tgo.pack_spikes(level="bits"):
        y = model(x)
    getattr(model[2][0], what).untyped_storage().resize_(0)
    with pytest.raises(RuntimeError, match=r"is freed whose layer's output is computed again .*reshard_after_forward"):
        y.sum().backward()


@pytest.mark.parametrize("way", ["frozen weight", "frozen bias", "written to", "first", "scaled", "no graph"])
def test_what_cannot_be_made_again_is_kept(way):
    """Or is made of what there is: the gradients are those of level "output"."""
    torch.manual_seed(0)
    conv, norm, neuron = nn.Conv2d(4, 8, 3, padding=1), nn.BatchNorm2d(8), tgo.LIF()
    x = spikes(32, 4, 8, 8).requires_grad_(way not in ("first", "no graph"))
    conv.weight.requires_grad_(way not in ("frozen weight", "no graph"))
    conv.bias.requires_grad_(way not in ("frozen bias", "no graph"))
    found = []
    for level in ("output", "bits"):
        with tgo.pack_spikes(level=level):
            y = conv(x)
            if way == "written to":
                with torch.no_grad():
                    y.add_(1)
            if way == "scaled":
                y = y * 2
            y = tgo.Block(norm, neuron)(y.unflatten(0, (4, 8)))
        y.backward(torch.linspace(-1, 1, y.numel()).view_as(y))
        found.append([each.grad for each in (x, *conv.parameters(), *norm.parameters())])
        for each in (x, *conv.parameters(), *norm.parameters()):
            each.grad = None
    for a, b in zip(*found, strict=True):
        assert (a is None) == (b is None)
        assert a is None or torch.equal(a, b)


@pytest.mark.parametrize("backward", [True, False])
def test_nothing_stays(backward):
    gc.collect()
    assert not recompute._known
    model, x = net(True, True), spikes(4, 8, 4, 8, 8)
    with tgo.pack_spikes(level="bits"):
        y = model(x)
    nodes = [weakref.ref(each) for each in recompute._known.values()]
    assert len(nodes) == 4  # a convolution, what is pooled of it, another one, and a linear layer
    if backward:
        y.sum().backward()
        assert all(node() is None or node().made is None for node in nodes)
    del y
    gc.collect()
    assert all(node() is None for node in nodes)
    assert not recompute._known


def test_a_neuron_without_a_norm():
    """A neuron without a norm: its input is the convolution's output."""
    torch.manual_seed(0)
    conv, neuron, x = nn.Conv2d(4, 8, 3, padding=1), tgo.LIF(), spikes(32, 4, 8, 8)
    grads = []
    for level in ("output", "bits"):
        with tgo.pack_spikes(level=level):
            y = neuron(conv(x).unflatten(0, (4, 8)))
        y.sum().backward()
        grads.append(conv.weight.grad)
        conv.weight.grad = None
    assert torch.equal(*grads)
