"""Poisson encoding: rates, independence, the same spikes on every road, and three gradients."""

from dataclasses import dataclass

import pytest
import torch
from packed import bits_of
from torch import nn

import tgo_kernels as tgo
from tgo_kernels import encoding, kernels, native
from tgo_kernels.layout import outermost_first
from tgo_kernels.noise import philox

DTYPES = (torch.float32, torch.float16, torch.bfloat16)
LAYOUTS = {"contiguous": (0, 1, 2, 3), "channels last": (0, 2, 3, 1), "odd": (3, 1, 0, 2)}
SEED = 2**40 + 7


def lying(x, order):
    """The values of x, in memory in that order of its dimensions."""
    return x.permute(order).contiguous().permute([order.index(d) for d in range(x.dim())])


def rates(*shape, signed=False, dtype=torch.float32):
    x = torch.rand(shape, generator=torch.Generator().manual_seed(0))
    x.view(-1)[:3] = torch.tensor([0.0, 1.0, 0.5])
    return (2 * x - 1 if signed else x).to(dtype)


@pytest.mark.parametrize("signed", [False, True])
def test_each_spike_is_what_the_formula_says(signed):
    """One by one, from the words of the generator."""
    x, steps, step = rates(3, 5, signed=signed), 7, 6
    spikes = tgo.poisson(x, steps, signed, SEED, step)
    for n, value in enumerate(x.flatten().tolist()):
        for t in range(steps):
            words = philox(torch.tensor(SEED), torch.tensor(n // 2), (step + t) // 4, 1)
            word = int(words[2 * (n % 2) + (step + t) % 4 // 2])
            number = word >> 16 if (step + t) % 2 else word & 0xFFFF
            fires = number < int(abs(value) * 65536 + 0.5)
            assert spikes.flatten(1)[t, n] == fires * (-1 if value < 0 else 1)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("shape", [(2, 3, 5, 7), (4, 16, 8, 8), (1, 1, 1, 3), (3, 40, 33, 17)])
def test_spikes_are_the_specification_s_in_every_layout(shape, signed, dtype):
    x = rates(*shape, signed=signed, dtype=dtype)
    expected = encoding.reference(x, 6, signed, torch.tensor(SEED), 3)
    for order in LAYOUTS.values():
        given = lying(x, order)
        spikes = tgo.poisson(given, 6, signed, SEED, 3)
        assert spikes.dtype == dtype
        assert torch.equal(spikes, expected)
        assert spikes[0].stride() == given.stride()
    sliced = torch.stack((x, x), -1)[..., 1]
    spikes = tgo.poisson(sliced, 6, signed, SEED, 3)
    assert spikes.is_contiguous()
    assert torch.equal(spikes, expected)


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_neither_threads_nor_chunks_change_a_spike(threads):
    x, before = rates(64, 3, 32, 32), torch.get_num_threads()  # more than the caches of one core are written past
    whole = tgo.poisson(x, 13, seed=SEED)
    torch.set_num_threads(threads)
    try:
        parts = [tgo.poisson(x, steps, seed=SEED, step=step) for steps, step in ((1, 0), (4, 1), (2, 5), (6, 7))]
    finally:
        torch.set_num_threads(before)
    assert torch.equal(torch.cat(parts), whole)
    assert torch.equal(tgo.poisson(x, 13, seed=torch.tensor(SEED)), whole)


@pytest.mark.skipif(native.ERROR is not None, reason="the compiled extension's")
def test_kernels_are_what_is_called():
    assert kernels.serve(rates(3))
    with torch.profiler.profile() as profile:
        tgo.poisson(rates(3), 4)
    assert "tgo_kernels::poisson_spikes" in {event.name for event in profile.events()}


def test_rates_are_means():
    """Within five standard errors, of all probabilities at once within three."""
    p, count, steps = torch.linspace(0, 1, 65), 2**12, 32
    spikes = tgo.poisson(p.repeat(count, 1), steps, seed=1)
    mean, n = spikes.mean((0, 1)), count * steps
    error = (mean - p)[1:-1] / (p * (1 - p) / n).sqrt()[1:-1]
    assert mean[0] == 0
    assert mean[-1] == 1
    assert error.abs().max() < 5
    assert abs(error.mean()) * 63**0.5 < 3
    signed = tgo.poisson(torch.tensor([-0.25, 0.75]).repeat(2**14, 1), 8, signed=True, seed=2)
    assert torch.allclose(signed.mean((0, 1)), torch.tensor([-0.25, 0.75]), atol=0.007)
    assert set(signed[..., 0].unique().tolist()) == {-1.0, 0.0}


def test_spikes_are_independent():
    """Of steps, of neighbours, of the two of a pair, of seeds, and of the noise of the same seed."""
    n = 2**17
    spikes = tgo.poisson(torch.full((n,), 0.5), 8, seed=3).double() - 0.5
    other = tgo.poisson(torch.full((n,), 0.5), 8, seed=4).double() - 0.5
    noise = tgo.noise.standard_normal(3, 8, n).double()
    pairs = [(spikes[i], spikes[j]) for i in range(8) for j in range(i)]
    pairs += [(spikes[i, 1:], spikes[j, :-1]) for i in range(8) for j in range(8)]
    pairs += [(spikes[i], other[j]) for i in range(8) for j in range(8)]
    pairs += [(spikes[i], noise[j] / 2) for i in range(8) for j in range(8)]
    scores = torch.stack([4 * (a * b).mean() * len(a) ** 0.5 for a, b in pairs])
    assert scores.abs().max() < 5
    assert scores.std() < 1.2


def test_seeds():
    x = rates(100)
    torch.manual_seed(5)
    first, second = tgo.poisson(x, 4), tgo.poisson(x, 4)
    torch.manual_seed(5)
    assert torch.equal(tgo.poisson(x, 4), first)
    assert not torch.equal(first, second)
    assert torch.equal(tgo.poisson(x, 4, seed=-1), tgo.poisson(x, 4, seed=2**64 - 1))


def gradient_of(x, kind, weights, signed=False, seed=SEED):
    leaf = x.detach().requires_grad_()
    spikes = tgo.poisson(leaf, len(weights), signed, seed, gradient=kind)
    (spikes * weights).sum().backward()
    return leaf.grad, spikes.detach()


@pytest.mark.parametrize("signed", [False, True])
def test_gradients_are_what_they_say(signed):
    x = lying(rates(4, 6, 5, 3, signed=signed), (0, 2, 3, 1))
    weights = torch.randn(7, *x.shape, generator=torch.Generator().manual_seed(1))
    straight, _ = gradient_of(x, "straight", weights, signed)
    assert torch.equal(straight, weights.sum(0))
    masked, spikes = gradient_of(x, "masked", weights, signed)
    assert torch.allclose(masked, (weights * spikes.abs()).sum(0), atol=1e-6)
    score, _ = gradient_of(x, "score", weights, signed)
    silent = x == 0
    assert silent.any()
    assert (score[silent] == 0).all()
    assert torch.allclose(score[~silent], (masked / x.abs())[~silent], atol=1e-5)


def test_the_score_has_the_mean_of_the_straight_gradient():
    """Of a loss that is linear in the spikes, where that is the gradient of the expected loss."""
    x, weights = torch.tensor([0.1, 0.5, 0.9]), torch.tensor([[1.0, 2.0, -1.0], [0.5, -3.0, 2.0]])
    rows = x.repeat(2**16, 1)
    score, _ = gradient_of(rows, "score", weights[:, None].expand(2, *rows.shape))
    assert torch.allclose(score.mean(0), weights.sum(0), atol=0.05)
    masked, _ = gradient_of(rows, "masked", weights[:, None].expand(2, *rows.shape))
    assert torch.allclose(masked.mean(0), x * weights.sum(0), atol=0.02)


@pytest.mark.parametrize("kind", encoding.GRADIENTS)
def test_what_is_kept_for_the_gradient(kind):
    kept = []
    x = rates(8, 3).requires_grad_()
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.shape) or t, lambda t: t):
        tgo.poisson(x, 5, gradient=kind)
    assert kept == {"straight": [], "masked": [(5, 8, 3)], "score": [(5, 8, 3), (8, 3)]}[kind]


@pytest.mark.parametrize("kind", encoding.GRADIENTS)
def test_compiled_functional_and_exported(kind):
    x, w = rates(4, 6), torch.randn(6, 5, generator=torch.Generator().manual_seed(2))

    def loss(x):
        return (tgo.poisson(x, 4, seed=SEED, gradient=kind) @ w).square().sum()

    leaf = x.clone().requires_grad_()
    expected = loss(leaf)
    (g,) = torch.autograd.grad(expected, leaf)
    again = x.clone().requires_grad_()
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")(again)
    assert torch.equal(compiled, expected)
    assert torch.allclose(torch.autograd.grad(compiled, again)[0], g)
    assert torch.allclose(torch.func.grad(loss)(x), g)
    assert torch.allclose(torch.func.jacrev(loss)(x), g)

    class Encoder(nn.Module):
        def forward(self, x):
            return tgo.poisson(x, 4, seed=SEED, gradient=kind)

    exported = torch.export.export(Encoder(), (x,))
    assert torch.equal(exported.module()(x), tgo.poisson(x, 4, seed=SEED))


def test_compiled_code_keeps_the_layout():
    x = lying(rates(2, 16, 4, 4), (0, 2, 3, 1))
    compiled = torch.compile(lambda x: tgo.poisson(x, 4, seed=SEED), fullgraph=True)(x)
    expected = tgo.poisson(x, 4, seed=SEED)
    assert torch.equal(compiled, expected)
    assert compiled.stride() == expected.stride()


def test_fp64_and_second_derivatives_are_plain_torch_s():
    x = rates(3, 4, dtype=torch.float64).clamp(0.2, 0.8).requires_grad_()
    spikes = tgo.poisson(x, 4, seed=SEED, gradient="score")
    assert spikes.dtype == torch.float64
    assert torch.equal(spikes.float(), tgo.poisson(x.detach().float(), 4, seed=SEED))
    weights = torch.randn(spikes.shape, dtype=torch.float64, requires_grad=True)
    (g,) = torch.autograd.grad((spikes * weights).sum(), x, create_graph=True)
    (second,) = torch.autograd.grad(g.sum(), weights)
    assert torch.allclose(second, spikes / x)


def test_spikes_are_kept_as_bits():
    """Those of either sign take two bits; a convolution's gradients are the same."""
    if native.ERROR is not None:
        pytest.skip("the compiled extension's")
    x = rates(2, 8, 16, 16)
    for signed, planes in ((False, 1), (True, 2)):
        conv, grads = nn.Conv2d(8, 4, 3), []
        spikes = tgo.poisson(x, 4, signed, SEED).flatten(0, 1)
        for level in (None, "output"):
            conv.zero_grad()
            if level:
                with tgo.pack_spikes(level=level):
                    y = conv(spikes)
                assert len(bits_of(spikes.shape)) == 1
            else:
                y = conv(spikes)
            y.square().sum().backward()
            grads.append(conv.weight.grad.clone())
        assert torch.equal(*grads)
        packed = torch.ops.tgo_kernels.pack(spikes)
        assert packed.numel() * 8 <= planes * spikes.numel() // 8 + 64


@pytest.mark.parametrize(
    ("arguments", "error", "said"),
    [
        (([0.5], 4), TypeError, "x must be a torch.Tensor, got list"),
        ((torch.arange(3), 4), TypeError, r"x / 255"),
        ((torch.rand(3).to_sparse(), 4), TypeError, "dense"),
        ((torch.rand(3), 4.0), TypeError, "steps must be an int, got float"),
        ((torch.rand(3), True), TypeError, "steps must be an int, got bool"),
        ((torch.rand(3), 0), ValueError, "steps must be at least 1, got 0"),
        ((torch.rand(3), 4, 1), TypeError, "signed"),
        ((torch.rand(3), 4, False, 2**64), ValueError, "seed must fit in 64 bits"),
        ((torch.rand(3), 4, False, "1"), TypeError, "seed must be an int"),
        ((torch.rand(3), 4, False, 1, -1), ValueError, "step must be >= 0"),
        ((torch.rand(3), 4, False, 1, 2**34 - 3), ValueError, "within 2.34 steps"),
        ((torch.rand(3), 4, False, 1, 0, "surrogate"), ValueError, "gradient must be"),
        ((torch.tensor([0.5, 1.01]), 4), ValueError, r"x must be rates in \[0, 1\], got values from 0.5 to 1.01"),
        ((torch.tensor([-0.5, 1.0]), 4), ValueError, r"signed=True is for values in \[-1, 1\]"),
        ((torch.tensor([-1.5, 1.0]), 4, True), ValueError, r"x must be rates in \[-1, 1\], got values from -1.5 to 1"),
        ((torch.tensor([0.5, float("nan")]), 4), ValueError, "nan"),
    ],
    ids=str,
)
def test_bad_input_is_named(arguments, error, said):
    with pytest.raises(error, match=said):
        tgo.poisson(*arguments)


def test_what_is_not_looked_at_is_bounded():
    """As on a GPU, and within a transform: nothing is undefined."""
    x = torch.tensor([-0.5, 1.5, float("nan"), float("inf"), -float("inf"), -float("nan")])
    for of in (encoding.reference, encoding._kernel) if native.ERROR is None else (encoding.reference,):
        assert of(x, 2, False, torch.tensor(1), 0).tolist() == [[0, 1, 0, 1, 0, 0]] * 2
        signed = of(x.clamp(-9, 9), 2, True, torch.tensor(1), 0)
        assert signed[:, 1:].tolist() == [[1, 0, 1, -1, 0]] * 2


def test_forward_mode_and_vmap_raise():
    x = rates(3, 4)
    with pytest.raises(RuntimeError, match="poisson has no vmap"):
        torch.func.vmap(lambda x: tgo.poisson(x, 2, seed=1))(x)
    with pytest.raises(RuntimeError, match="forward-mode"):
        torch.func.jvp(lambda x: tgo.poisson(x, 2, seed=1), (x,), (x,))


def test_an_empty_batch():
    assert tgo.poisson(torch.empty(0, 3), 4).shape == (4, 0, 3)
    assert outermost_first(tgo.poisson(rates(2, 3).t(), 4)) == [0, 2, 1]


@dataclass(frozen=True)
class Linear(tgo.surrogate.Surrogate):
    """``0.3 / width max(0, 1 - |d| / width)``."""

    curve = tgo.surrogate.Curve.TRIANGLE
    width: float = 1.0

    def constants(self):
        return 0.3 / self.width, 0.3 / self.width**2


class Fire(torch.autograd.Function):
    @staticmethod
    def forward(ctx, relative, threshold):
        ctx.save_for_backward(relative)
        ctx.threshold = threshold
        return (relative > 0).to(relative.dtype)

    @staticmethod
    def backward(ctx, grad):
        (relative,) = ctx.saved_tensors
        return grad * 0.3 * (1 - relative.abs()).clamp(min=0), None


def in_their_order(x, leak, threshold):
    """The neuron of arXiv 2003.10399 as its code has it: a spike is of the membrane before the input."""
    memory, spikes = torch.zeros_like(x[0]), []
    for current in x:
        out = Fire.apply(memory / threshold - 1, threshold)
        memory = leak * memory + current - threshold * out.detach()
        spikes.append(out)
    return torch.stack(spikes)


@pytest.mark.parametrize(("leak", "threshold"), [(0.99, 1.0), (0.9, 0.7), (0.5, 14.53)])
def test_the_delayed_neuron_is_a_lif_whose_reset_is_larger(leak, threshold):
    """Spikes and gradients, over 200 steps; the last input reaches no spike."""
    generator = torch.Generator().manual_seed(0)
    x = (threshold * torch.randn(200, 64, generator=generator, dtype=torch.float64)).requires_grad_()
    weights = torch.randn(200, 64, generator=generator, dtype=torch.float64)
    about = {"decay": leak, "v_threshold": threshold, "v_reset": None, "reset_by": threshold / leak, "strict": True}
    spikes = tgo.lif(x, surrogate=Linear(threshold), detach_reset=True, impl="reference", **about).spikes
    delayed = torch.cat((torch.zeros_like(spikes[:1]), spikes[:-1]))
    (g,) = torch.autograd.grad((delayed * weights).sum(), x)
    expected = in_their_order(x, leak, threshold)
    (g_expected,) = torch.autograd.grad((expected * weights).sum(), x)
    assert 0.01 < expected.mean() < 0.9
    assert torch.equal(delayed, expected)
    assert torch.allclose(g, g_expected, rtol=1e-9, atol=1e-12)
    assert (g[-1] == 0).all()
