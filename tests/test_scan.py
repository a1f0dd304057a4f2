"""The walk of any neuron: a step against an independent loop, printed steps, and what lif() has beyond a plain one."""

import math

import pytest
import torch
from cases import dyadic

import tgo_kernels as tgo
from tgo_kernels import printer
from tgo_kernels.neurons import HOUSE, LIF, AdaptiveLIF

ENGINES = tgo.available_impls("cpu")


def test_adaptive_lif_adapts():
    few, many = (tgo.scan(AdaptiveLIF(beta=beta), torch.full((100, 1), 2.0)).fired for beta in (2.0, 0.0))
    assert 0 < few < many


def test_printed_steps_are_current():
    for path, text in printer.house().items():
        assert path.read_text() == text, f"{path.name} is not what its step prints: python -m tgo_kernels.printer"


def test_an_operator_that_cannot_be_printed_is_named():
    class Odd(LIF):
        @staticmethod
        def step(n, v, x):
            return (n.fire(torch.erfinv(n.decay * v) + x, n.v_threshold, n.reset_by),)

    with pytest.raises(NotImplementedError, match="erfinv"):
        printer.cpp("odd", Odd)


def test_a_neuron_changed_follows_anew():
    assert AdaptiveLIF(rho=0.9).changed(rho=0.5).increment == 0.5
    assert AdaptiveLIF(rho=0.9, increment=1.0).changed(rho=0.5).increment == 1.0
    assert LIF(surrogate=tgo.NoisePDF(), noise_std=0.2).changed(noise_std=0.5).surrogate.std == 0.5
    x = 2 * torch.ones(3, 4)
    changed, made = tgo.scan(AdaptiveLIF(rho=0.9), x, rho=0.5), tgo.scan(AdaptiveLIF(rho=0.5), x)
    assert torch.equal(changed.state[1], made.state[1]) and made.state[1].all()


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_scan_compiles_in_one_graph(backend):
    def both(x, decay):
        strided = tgo.lif(x[..., ::2], decay=decay, membrane="u")
        return *tgo.scan(AdaptiveLIF(rho=0.8), x, membrane="h").state, strided.membrane

    x, decay = torch.randn(5, 3, 16), torch.rand(8)
    for found, expected in zip(
        torch.compile(both, fullgraph=True, backend=backend)(x, decay), both(x, decay), strict=True
    ):
        assert torch.equal(found, expected)


@pytest.mark.parametrize("impl", ENGINES)
def test_an_infinite_threshold_is_not_reached_by_an_infinite_membrane(impl):
    x = torch.tensor([[math.inf], [1.0]])
    out = tgo.lif(x, v_threshold=math.inf, membrane="v", impl=impl)
    assert out.fired == 0 and torch.equal(out.membrane, torch.full((2, 1), math.inf))
    some = tgo.lif(torch.full((3, 2), 0.9), v_threshold=torch.tensor([1.0, math.inf]), v_reset=None, impl=impl)
    assert some.fired == 2 and some.v_final.isfinite().all()


def test_numbers_of_neurons_are_their_places():
    assert [neuron.number for neuron in HOUSE] == list(range(len(HOUSE)))


@pytest.mark.parametrize("impl", ENGINES)
def test_a_neuron_that_never_fires(impl):
    x = torch.randn(6, 50)
    given = x.clone().requires_grad_()
    out = tgo.lif(given, decay=0.5, v_threshold=math.inf, v_reset=None, membrane="v", impl=impl)
    expected, v = [], torch.zeros(50)
    for x_t in x:
        v = 0.5 * v + x_t
        expected.append(v)
    assert out.fired == 0 and torch.equal(out.membrane, torch.stack(expected))
    (g,) = torch.autograd.grad(out.membrane.sum(), given)
    torch.testing.assert_close(g[:, 0], 2 - 0.5 ** torch.arange(5.0, -1, -1))


@pytest.mark.parametrize("impl", ENGINES)
@pytest.mark.parametrize("side", ["both", "below"])
@pytest.mark.parametrize("power", [1, 2])
def test_the_penalty_of_a_side_and_a_power(power, side, impl):
    x = (2 * torch.rand(1, 500)).requires_grad_()  # one step from rest: h = x
    out = tgo.lif(x, guard_margin=0.3, guard_power=power, guard_side=side, impl=impl)
    d = x.detach().double() - 1
    counted = (d.abs() < 0.3) & ((d < 0) | (side == "both"))
    term = torch.where(counted, (0.3 - d.abs()) ** power, 0)
    torch.testing.assert_close(out.penalty.double(), term.mean(), rtol=1e-5, atol=0)
    assert out.neighbors == (d.abs() < 0.3).sum()
    (g,) = torch.autograd.grad(out.penalty, x)
    slope = torch.where(counted, -d.sign() * (1 if power == 1 else 2 * (0.3 - d.abs())), 0) / 500
    torch.testing.assert_close(g.double(), slope, rtol=1e-4, atol=1e-8)


@pytest.mark.parametrize("impl", ENGINES)
def test_noise_learns_by_what_it_moves(impl):
    """dL/dsigma = sum dL/du xi: of the potential itself that is the sum of the noise."""
    sigma, x = torch.tensor(0.2, requires_grad=True), torch.zeros(4, 1000)
    out = tgo.lif(x, decay=0.0, v_threshold=math.inf, noise_std=sigma, noise_seed=9, membrane="u", impl=impl)
    (g,) = torch.autograd.grad(out.membrane.sum(), sigma)
    xi = tgo.noise.standard_normal(torch.tensor(9), 4, 1000)
    torch.testing.assert_close(g.double(), xi.double().sum(), rtol=1e-5, atol=1e-3)


@pytest.mark.parametrize("impl", ENGINES)
@pytest.mark.parametrize("neuron", [LIF, AdaptiveLIF])
def test_constants_with_a_time_axis(neuron, impl):
    """Those of a step are what a call of that step alone would be given, and so are their gradients."""
    x, g = torch.randn(2, 9, 3, 5, 7)
    own = {"decay": torch.rand(9, 1, 5, 1), "v_threshold": 0.5 + torch.rand(9, 3, 5, 7), "gain": torch.rand(5, 1)}
    own |= {"noise_std": 0.3 * torch.rand(9, 1, 1, 1)}
    found = []
    for ends in ([9], [*range(1, 10)]):
        state, spikes, begin, leaves = None, [], 0, [value.clone().requires_grad_() for value in own.values()]
        for end in ends:
            given = [value[begin:end] if value.dim() == 4 else value for value in leaves]
            of_steps = neuron(**dict(zip(own, given, strict=True)), v_reset=-0.1)
            out = tgo.scan(of_steps, x[begin:end], state, noise_seed=3, noise_step=begin, impl=impl)
            state, begin = out.state, end
            spikes.append(out.spikes)
        found.append((torch.cat(spikes), *torch.autograd.grad(torch.cat(spikes), leaves, g)))
    assert torch.equal(found[0][0], found[1][0]) and 0 < found[0][0].mean() < 1
    for whole, of_steps in zip(*(gradients[1:] for gradients in found), strict=True):
        torch.testing.assert_close(whole, of_steps, rtol=1e-4, atol=1e-5)
        assert whole.abs().amin(tuple(range(1, whole.dim()))).max() > 0
    over_time = tgo.lif(x, decay=torch.full((9, 1, 1, 1), 0.5), impl=impl)
    assert torch.equal(over_time.spikes, tgo.lif(x, decay=0.5, impl=impl).spikes)


X = torch.ones(3, 2, 4)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: tgo.scan("LIF", X), TypeError, "neuron must be one of tgo_kernels.neurons"),
        (lambda: tgo.scan(LIF(), X, rho=0.5), TypeError, "LIF has no constant rho"),
        (lambda: tgo.scan(LIF(), [X, X]), ValueError, "1 inputs, x; got 2"),
        (lambda: tgo.scan(AdaptiveLIF(), X, X[0]), ValueError, "2 states, v, a; got 1"),
        (lambda: tgo.scan(AdaptiveLIF(), X, (X[0], X)), ValueError, r"a must have shape \(2, 4\)"),
        (lambda: tgo.scan(AdaptiveLIF(), X, (X[0], X[0].double())), TypeError, "a must be float32"),
        (lambda: AdaptiveLIF(rho=-1.0), ValueError, "rho must be finite and >= 0"),
        (lambda: AdaptiveLIF(beta="much"), TypeError, "beta must be a Python float or a tensor"),
        (lambda: tgo.lif(X, strict=1), TypeError, "strict must be a bool"),
        (lambda: tgo.lif(X, reset_by=0.5), ValueError, "reset_by is of a soft reset"),
        (lambda: tgo.lif(X, v_reset=None, reset_by=math.inf), ValueError, "reset_by must be finite"),
        (lambda: tgo.lif(X, membrane="w"), ValueError, "membrane must be None, 'h', 'u' or 'v', got 'w'"),
        (lambda: tgo.lif(X, guard_side="above"), ValueError, "guard_side must be 'both' or 'below'"),
        (lambda: tgo.lif(X, guard_power=3), ValueError, "guard_power must be 1 or 2"),
        (lambda: tgo.lif(X, guard_power=2, guard_margin=1e30), ValueError, r"guard_margin \*\* 2 must be finite"),
        (lambda: tgo.lif(X, v_threshold=math.nan), ValueError, "v_threshold must be"),
        (lambda: tgo.lif(X, surrogate=tgo.NoisePDF(), noise_std=torch.ones(())), ValueError, "a number"),
        (lambda: tgo.lif(X, noise_std=torch.ones(3)), ValueError, r"noise_std must broadcast to \(2, 4\)"),
        (lambda: tgo.lif(X, decay=torch.ones(1, 2, 4)), ValueError, r"got \(1, 2, 4\); .* each step"),
        (lambda: tgo.scan(tgo.LIF(), X), TypeError, r"such as neurons.LIF\(\), got tgo_kernels.layers.LIF"),
        (lambda: tgo.lif(X, valid=torch.ones(2).long().to_sparse()), TypeError, "valid must be a dense"),
        (lambda: tgo.lif(X, valid=[3, 2]), TypeError, "valid must be a torch.Tensor"),
        (lambda: tgo.lif(X, valid=torch.tensor([3.0, 2.0])), TypeError, "valid must be integers"),
        (lambda: tgo.lif(X, valid=torch.tensor([3])), ValueError, r"valid must have shape \(2,\)"),
        (lambda: tgo.lif(X, valid=torch.ones(2, 3, dtype=torch.bool)), ValueError, r"valid must have shape \(3, 2\)"),
        (lambda: tgo.lif(X[0, 0], valid=torch.tensor(3)), ValueError, "valid needs x with a batch"),
        (
            lambda: tgo.lif(X, valid=torch.tensor([[True, False], [True, True], [False, True]])),
            ValueError,
            "hold up to a sequence's end",
        ),
    ],
)
def test_bad_arguments_are_named(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_a_read_out_layer():
    layer = tgo.LeakyIntegrator(tau=4.0, v_rest=0.5, learn_decay=True)
    x = torch.randn(6, 3, 5, requires_grad=True)
    out = layer(x)
    assert out.shape == x.shape and torch.equal(out[-1], layer.v)
    v = torch.full((3, 5), 0.5)
    for t in range(6):
        v = v + (x[t] - (v - 0.5)) / 4
        torch.testing.assert_close(out[t], v)
    out.mean(0).sum().backward()
    assert layer.w.grad != 0 and x.grad[0].any()
    layer.set(tau=8.0)
    assert layer.tau.item() == pytest.approx(8.0)
    with pytest.raises(ValueError, match="v_threshold is of neurons that fire"):
        layer.set(v_threshold=1.0)
    no_leak = tgo.LeakyIntegrator.from_decay(1.0, 0.5)
    torch.testing.assert_close(no_leak(x)[-1], 0.5 * x.sum(0))
    with pytest.raises(TypeError, match="v_rest must be a Python float"):
        tgo.LeakyIntegrator(v_rest=None)


def test_a_read_out_in_a_compiled_transform():
    """It keeps nothing of former calls."""
    net = torch.nn.Sequential(torch.nn.Linear(6, 5), tgo.LIF(), torch.nn.Linear(5, 4), tgo.LeakyIntegrator())
    x, parameters = 3 * torch.randn(7, 3, 6), dict(net.named_parameters())
    loss = lambda p: torch.func.functional_call(net, p, (x,)).square().sum()  # noqa: E731
    expected = torch.autograd.grad(loss(parameters), list(parameters.values()))
    compiled = torch.compile(lambda p: torch.func.grad(loss)(p), backend="aot_eager")
    found = compiled({name: value.detach() for name, value in parameters.items()})
    for a, b in zip(found.values(), expected, strict=True):
        torch.testing.assert_close(a, b)
        assert b.abs().max() > 0
    layer = tgo.LIF(membrane="u")
    layer(x)

    def of_its_membrane(x):
        layer(x)
        return layer.membrane.sum()

    with pytest.raises(Exception, match="keeps no membrane of a compiled transform"):
        torch.compile(lambda x: torch.func.grad(of_its_membrane)(x), backend="aot_eager")(x)


def test_a_layer_with_noise_that_learns():
    layer = tgo.LIF(noise_std=0.3, learn_noise=True, channels=4, membrane="h", guard_margin=0.5)
    x = torch.randn(5, 3, 4, requires_grad=True)
    layer(x).sum().backward()
    assert layer.noise_std.shape == (4,) and layer.noise_std.grad.all()
    assert layer.membrane.shape == x.shape and layer.membrane.requires_grad
    layer.set(noise_std=0.5)
    assert (layer.noise_std == 0.5).all() and layer.neuron.membrane == "h"
    layer.eval()
    assert torch.equal(layer(x), layer(x)) and "noise_std=0.5" in repr(layer)
    layer.reset()
    assert layer.membrane is None
    with pytest.raises(ValueError, match="learn_noise needs a noise_std > 0"):
        tgo.LIF(learn_noise=True)


def test_a_layer_with_all_that_lif_has():
    layer = tgo.LIF(v_reset=None, reset_by=0.5, strict=True, guard_margin=0.2, guard_side="below", guard_power=2)
    x = dyadic(5, 3, 4)
    n = {"decay": 0.5, "gain": 0.5, "v_reset": None, "reset_by": 0.5, "strict": True}
    out = tgo.lif(x, **n, guard_margin=0.2, guard_side="below", guard_power=2)
    assert torch.equal(layer(x), out.spikes) and torch.equal(layer.penalty, out.penalty)
    assert "strict=True, reset_by=0.5, guard_side='below', guard_power=2" in repr(layer)
    layer.set(reset_by=0.25, strict=False, guard_power=1)
    assert (layer.reset_by, layer.strict, layer.guard_power) == (0.25, False, 1)
    with pytest.raises(ValueError, match="reset_by is of a soft reset"):
        layer.set(v_reset=0.0)
