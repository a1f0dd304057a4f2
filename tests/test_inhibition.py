"""E-I layers: the formulas of DeepEISNN in a loop of their own, what they start from, and what they may not become."""

import copy
import pickle

import pytest
import torch
from models import descent
from torch import nn
from torch.nn import functional as F

import tgo_kernels as tgo

LAYERS = {
    "linear": (lambda **options: tgo.EILinear(12, 8, **options), (5, 3, 12)),
    "conv": (lambda **options: tgo.EIConv2d(2, 8, 3, 2, 1, **options), (5, 3, 2, 6, 7)),
    "narrow": (lambda **options: tgo.EIConv2d(2, 3, (1, 2), **options), (5, 3, 2, 6, 7)),
}


class Spike(torch.autograd.Function):
    """Heaviside; backward the derivative of sigmoid(4 d)."""

    @staticmethod
    def forward(ctx, d):
        ctx.save_for_backward(d)
        return (d >= 0).to(d.dtype)

    @staticmethod
    def backward(ctx, g):
        p = torch.sigmoid(4 * ctx.saved_tensors[0])
        return g * 4 * p * (1 - p)


class Replace(torch.autograd.Function):
    """Zeros by the smallest of the slice that is none; infinity where there is none; backward the identity."""

    @staticmethod
    def forward(ctx, div):
        out = div.clone()
        for each in out:
            others = each[each != 0]
            each[each == 0] = others.min() if others.numel() else float("inf")
        return out

    @staticmethod
    def backward(ctx, g):
        return g


def by_hand(layer, x):
    """Spikes [T, B, n_E, *], step by step, of a layer's parameters in x's precision."""
    weights = {name: p.detach().to(x.dtype).requires_grad_() for name, p in layer.named_parameters()}
    conv = isinstance(layer, tgo.EIConv2d)

    def seen(x_t, w):
        return F.conv2d(x_t, w, None, layer.stride, layer.padding) if conv else x_t @ w.T

    def channels(w):
        return w[:, None, None] if conv else w

    v, out = 0.0, []
    for x_t in x:
        current, s_i = seen(x_t, weights["W_EE"]), seen(x_t, weights["W_IE"])  # >= 0 without a max, and its gradient
        current = current - torch.einsum("ei,bi...->be...", weights["W_EI"], s_i)
        if layer.readout:
            out.append(current)
            continue
        div = torch.einsum("ei,bi...->be...", weights["W_EI"], channels(weights["g_I"]) * s_i)
        current = current / Replace.apply(div)
        h = 0.5 * v + channels(weights["neuron.gain"]) * current + channels(weights["neuron.bias"])
        s = Spike.apply(h - 1)
        v = h - s.detach()
        out.append(s)
    return torch.stack(out), weights


def inputs(*shape):
    """With zeros, whole receptive fields of zeros, and a sample of zeros alone at one step."""
    x = torch.rand(shape) * (torch.rand(shape) < 0.6)
    x[:, 1, ..., : shape[-1] // 2] = 0
    x[2, 0] = 0
    return x


def learnt(make, x, **options):
    """A layer that is not as it was initialised; some of W_EI is 0, so that div is, too."""
    layer = make(**options)
    layer(x)
    with torch.no_grad():
        for p in layer.parameters():
            p.mul_(0.5 + torch.rand_like(p)).add_(0.02)
        layer.W_EI[: layer.W_EI.shape[0] // 2].mul_(torch.rand_like(layer.W_EI[: layer.W_EI.shape[0] // 2]) < 0.5)
    return layer


def gradients(y, x, weights, fan_in=1):
    y.mul(torch.linspace(-1, 2, y.numel(), dtype=y.dtype).reshape(y.shape)).sum().backward()
    found = {name: p.grad for name, p in weights.items()} | {"x": x.grad}
    return found | {"W_EI": found["W_EI"] / fan_in}


@pytest.mark.parametrize("readout", [False, True])
@pytest.mark.parametrize("kind", LAYERS)
def test_is_what_the_formulas_say_in_double_precision(kind, readout):
    make, shape = LAYERS[kind]
    x = inputs(*shape).double()
    options = {"readout": True} if readout else {"impl": "reference"}
    layer = make(**options).double()
    layer = learnt(lambda: layer, x)
    layer.zero_grad()
    ours, theirs = x.clone().requires_grad_(), x.clone().requires_grad_()
    y, (expected, weights) = layer(ours), by_hand(layer, theirs)
    torch.testing.assert_close(y, expected)
    assert readout or 0.05 < y.mean() < 0.8
    found = gradients(y, ours, dict(layer.named_parameters()))
    for name, wanted in gradients(expected, theirs, weights, layer.fan_in).items():
        assert wanted.abs().max() > 0, name
        torch.testing.assert_close(found[name], wanted, rtol=1e-9, atol=1e-12, msg=name)


@pytest.mark.parametrize("kind", LAYERS)
def test_in_single_precision_it_is_as_exact_as_plain_torch(kind):
    make, shape = LAYERS[kind]
    x = inputs(*shape)
    layer = learnt(make, x)
    ours, plain, exact = (each.requires_grad_() for each in (x.clone(), x.clone(), x.double()))
    y, (same, weights), (truth, precise) = layer(ours), by_hand(layer, plain), by_hand(layer, exact)
    assert torch.equal(y.double(), truth) and torch.equal(same.double(), truth)
    found = gradients(y, ours, dict(layer.named_parameters()))
    like = gradients(same, plain, weights, layer.fan_in)
    for name, wanted in gradients(truth, exact, precise, layer.fan_in).items():
        error, theirs = ((each[name].double() - wanted).abs().max() for each in (found, like))
        assert error <= 2 * theirs + 1e-6 * wanted.abs().max(), name


@pytest.mark.parametrize("kind", LAYERS)
def test_autocast(kind):
    make, shape = LAYERS[kind]
    x = inputs(*shape)
    layer = learnt(make, x)
    exact = layer(x)
    with torch.autocast("cpu", torch.bfloat16):
        y = layer(x)
    y.float().mean().backward()
    assert y.dtype == torch.bfloat16
    assert (y != exact).float().mean() < 0.05
    assert all(p.grad.dtype == torch.float32 and p.grad.isfinite().all() for p in layer.parameters())


@pytest.mark.parametrize("kind", LAYERS)
def test_where_nothing_comes_in_b_E_is_all_the_current(kind):
    make, shape = LAYERS[kind]
    layer = learnt(make, inputs(*shape))
    x = torch.zeros(shape, requires_grad=True)
    with torch.no_grad():
        layer.b_E.fill_(-1).view(-1)[0] = 0.75
    y = layer(x)
    y.sum().backward()
    expected = torch.tensor([0.0, 1, 0, 1, 0])  # h is 0.75, 1.125, 0.8125, 1.156, 0.828
    assert torch.equal(y[:, :, 0], expected.view(-1, *[1] * (y.dim() - 2)).expand_as(y[:, :, 0]))
    assert not y[:, :, 1:].any()
    for p in (x, layer.W_EE, layer.W_IE, layer.W_EI, layer.g_I, layer.g_E):
        assert torch.equal(p.grad, torch.zeros_like(p))
    assert layer.b_E.grad.abs().min() > 0


@pytest.mark.parametrize("make", [lambda p: torch.optim.SGD(p, 1.0, 0.9), lambda p: torch.optim.AdamW(p, 0.1)])
def test_a_hook_keeps_weights_from_being_negative(make):
    x = torch.rand(4, 6, 12)
    model = nn.Sequential(tgo.EILinear(12, 8), tgo.EILinear(8, 4, readout=True))
    model(x)
    optimizer = make(model.parameters())
    handle = tgo.keep_nonnegative(optimizer, model)

    def negative(times):
        for _ in range(times):
            optimizer.zero_grad()
            model(x).square().mean().backward()
            optimizer.step()
        return {name for name, p in model.named_parameters() if (p < 0).any()}

    assert negative(5) <= {"0.neuron.bias"}
    with torch.no_grad():
        for p in model.parameters():
            p.view(-1)[0] = -9
    assert negative(1) == {"0.neuron.bias"}
    handle.remove()
    assert len(negative(5)) > 1


@pytest.mark.parametrize("kind", LAYERS)
def test_what_is_negative_all_the_same_counts_as_zero_and_may_come_back(kind):
    make, shape = LAYERS[kind]
    x = inputs(*shape)
    layer = learnt(make, x)
    clamped = copy.deepcopy(layer)
    for name in ("W_EE", "W_IE", "W_EI", "g_I", "g_E"):
        with torch.no_grad():
            getattr(layer, name).view(-1)[1::3] = -0.5
            getattr(clamped, name).view(-1)[1::3] = 0
    for each in (layer, clamped):
        each.zero_grad()
        y = each(x)
        y.mul(torch.linspace(-1, 2, y.numel()).reshape(y.shape)).sum().backward()
    assert torch.equal(layer(x), clamped(x))
    for (name, p), wanted in zip(layer.named_parameters(), clamped.parameters(), strict=True):
        assert torch.equal(p.grad, wanted.grad), name
    assert layer.W_EE.grad[layer.W_EE < 0].any()


@pytest.mark.parametrize("way", ["state_dict", "deepcopy", "pickle"])
@pytest.mark.parametrize("kind", LAYERS)
def test_what_is_loaded_or_copied_is_not_made_again(kind, way):
    make, shape = LAYERS[kind]
    x = inputs(*shape)
    layer, other = learnt(make, x), make()
    if way == "state_dict":
        assert not other.initialised
        other.load_state_dict(layer.state_dict())
    else:
        other = copy.deepcopy(layer) if way == "deepcopy" else pickle.loads(pickle.dumps(layer))
    assert other.initialised
    assert torch.equal(other(x), layer(x))
    assert torch.equal(other.W_EE, layer.W_EE) and other.W_EE is not layer.W_EE
    if way == "state_dict":
        other.load_state_dict(make().state_dict())
        other(x)
        assert other.W_EE.any(), "one that was not made yet is made by the first batch"
        bare, other = {k: v for k, v in layer.state_dict().items() if k != "initialised"}, make()
        other.load_state_dict(bare, strict=False)
        assert torch.equal(other(x), layer(x)), "weights without that buffer are made"


@pytest.mark.parametrize("kind", LAYERS)
def test_the_first_batch_after_loading_is_looked_at(kind):
    make, shape = LAYERS[kind]
    x = inputs(*shape)
    layer, other = learnt(make, x), make()
    other.load_state_dict(layer.state_dict())
    for bad in (x - 1, torch.full_like(x, torch.nan)):
        with pytest.raises(ValueError, match="x must be >= 0"):
            other(bad)
    assert torch.equal(other(x), layer(x))
    other(x - 1)  # from then on nobody waits for a look


def test_what_is_no_floating_point_number_is_refused_before_anything_is_made():
    layer = tgo.EILinear(3, 2)
    with pytest.raises(TypeError, match="images of 0 to 255 are x / 255"):
        layer(torch.ones(2, 2, 3, dtype=torch.uint8))
    assert not layer.initialised


def test_it_learns():
    torch.manual_seed(1)
    x, y = torch.rand(64, 2, 6, 6), torch.arange(64) % 2
    x[torch.arange(64), y] *= 0.2
    model = nn.Sequential(
        tgo.EIConv2d(2, 8, 3, padding=1),
        tgo.OverTime(nn.AvgPool2d(2), nn.Flatten()),
        tgo.EILinear(72, 16),
        tgo.EILinear(16, 2, readout=True),
    )
    x = x.expand(4, -1, -1, -1, -1)
    model(x)
    losses = descent(model, x, y, 25)
    assert losses[-1] < 0.5 * losses[0], losses
    assert tgo.neighbor_rates(model).keys() == {"0.neuron", "2.neuron"}


def test_options_are_the_neurons_and_chunks_are_the_whole():
    x = torch.rand(6, 3, 12)
    layer = learnt(
        lambda: tgo.EILinear(12, 8, inhibitory=5, decay=0.75, v_reset=0.0, guard_margin=0.3, stateful=True), x
    )
    assert layer.W_IE.shape == (5, 12)
    n = layer.neuron.neuron
    assert (n.decay, n.v_reset, n.detach_reset, n.surrogate) == (0.75, 0.0, True, tgo.Sigmoid(4.0))
    layer.neuron.reset()
    whole = layer(x)
    layer.neuron.reset()
    assert torch.equal(torch.cat((layer(x[:2]), layer(x[2:]))), whole)
    assert tgo.guard_penalty(layer) > 0


def test_compiled_it_is_the_same():
    make, shape = LAYERS["conv"]
    x = inputs(*shape)
    layer = learnt(make, x)
    found = []
    for call in (layer, torch.compile(layer, backend="aot_eager", fullgraph=True)):
        layer.zero_grad()
        leaf = x.clone().requires_grad_()
        y = call(leaf)
        found.append([y.detach(), *gradients(y, leaf, dict(layer.named_parameters())).values()])
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b)


def test_channels_last_goes_through():
    make, shape = LAYERS["conv"]
    x = inputs(*shape)
    layer = learnt(make, x)
    last = x.movedim(2, -1).contiguous().movedim(-1, 2)
    y = layer(last)
    assert torch.equal(y, layer(x))
    assert y.stride(2) == 1
