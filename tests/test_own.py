"""Neurons of a user's own: a step in plain torch, on every engine, compiled where there is one, and as a layer."""

from dataclasses import dataclass

import pytest
import torch
from cases import dyadic
from torch import Tensor

import tgo_kernels as tgo
from tgo_kernels import neurons, own
from tgo_kernels.neurons import LIF, Neuron


@dataclass(frozen=True)
class Izhikevich(Neuron):
    """Izhikevich 2003, in steps of a millisecond, in units of 100 mV."""

    a: float | Tensor = 0.125
    b: float | Tensor = 0.25
    jump: float | Tensor = 0.5
    rest: float | Tensor = -0.25

    @staticmethod
    def step(n, v, u, x):
        h = v + n.a * (v * v - n.rest * v) - u + x
        after = n.fire(h, n.v_threshold, n.reset_by)
        return after, u + n.a * (n.b * v - u) + n.jump * n.spikes


def loop(x, a=0.125, b=0.25, jump=0.5, rest=-0.25):
    v, u, spikes = torch.zeros_like(x[0]), torch.zeros_like(x[0]), []
    for x_t in x:
        h = v + a * (v * v - rest * v) - u + x_t
        s = (h >= 1).to(x.dtype)
        v, u = h * (1 - s), u + a * (b * v - u) + jump * s
        spikes.append(s)
    return torch.stack(spikes), (v, u)


def serves(engine):
    return tgo.ops.why_not(engine, torch.device("cpu")) is None


def engines():
    """The reference, and Triton's in its interpreter, where the compiled one is not asked again."""
    return [next(filter(serves, ("triton", "native", "reference"))), "reference"]


def test_what_a_class_has_follows_from_its_step():
    assert (Izhikevich.STATES, Izhikevich.INPUTS) == (("v", "u"), ("x",))
    assert Izhikevich.OWN == Izhikevich.CONSTANTS == ("v_threshold", "reset_by", "noise_std", "a", "b", "jump", "rest")

    class Of(LIF):
        more: float = 2.0

        @staticmethod
        def step(n, v, x):
            return LIF.step(n, v, n.more * x)

    assert Of.STATES == ("v",) and (*LIF.CONSTANTS, "more") == Of.CONSTANTS and not LIF.ITS_OWN
    assert not neurons.LeakyIntegrator.ITS_OWN and Of.ITS_OWN


@pytest.mark.parametrize("impl", engines())
def test_it_is_that_of_its_equations(impl):
    x = dyadic(12, 3, 40)
    spikes, state = loop(x.double())
    out = tgo.scan(Izhikevich(), x, impl=impl)
    assert torch.equal(out.spikes.double(), spikes) and 0.05 < spikes.mean() < 0.9
    for a, b in zip(out.state, state, strict=True):
        torch.testing.assert_close(a.double(), b, rtol=1e-5, atol=1e-5)


@dataclass(frozen=True)
class Every(LIF):
    """All that steps may have, by names that are words of the languages."""

    rho: float | Tensor = 0.5
    double: float | Tensor = 1.0
    t0: float | Tensor = 0.0

    @staticmethod
    def step(n, h, s, F):
        v, a, x = h, s, F
        x = x * n.double + n.t0 + 1e-3 * ((x > 0) & ~(v > 1) | torch.logical_not(a > 0)) - torch.zeros_like(x)
        h = n.decay * v + n.gain * torch.relu(x) + torch.exp(-a) * 0.25 - torch.minimum(a, 0.5 * v) ** 3
        h = torch.clamp(h, -2.0, 4.0) + torch.maximum(0.25 * a, x).clamp(max=3.0)
        after = n.fire(h, n.v_threshold + torch.where(a > 0.5, a, 0.0) / (1 + a * a), n.reset_by)
        return after, n.rho * a + (x**2).clamp_min(0.1) * n.spikes + torch.where(v != x, v, -x).abs() * 0.125


def results(neuron, x, impl, g, **options):
    """All that a call computes, and the gradients of all that has some."""
    leaf = x.detach().clone().requires_grad_()
    out = tgo.scan(neuron, leaf, impl=impl, noise_seed=3, **options)
    loss = (out.spikes * g).sum() + out.penalty + sum(each.square().sum() for each in out.state)
    loss = loss if out.membrane is None else loss + out.membrane.square().sum()
    learned = [each for each in vars(neuron).values() if isinstance(each, Tensor)]
    return out, torch.autograd.grad(loss, [leaf, *learned])


@pytest.mark.parametrize("impl", [each for each in engines() if each != "reference"])
@pytest.mark.parametrize("kind", [Izhikevich, Every])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_engines_are_the_reference(impl, kind, dtype):
    """With noise, guard, a membrane, sequences that end, and constants of its own that learn, one with a time axis."""
    x, g = torch.randn(2, 9, 4, 30).to(dtype)
    a = torch.full((30,), 0.2).requires_grad_()
    line = torch.rand(9, 1, 1).requires_grad_()
    name, timed = ("a", "jump") if kind is Izhikevich else ("rho", "gain")
    for settings, options in (
        ({}, {}),
        ({"v_reset": None, "strict": True}, {}),
        ({name: a, timed: line, "noise_std": 0.2, "guard_margin": 0.3, "membrane": "u"}, {"noise_step": 3}),
        ({name: a, "v_reset": None, "reset_by": 0.5}, {"valid": torch.tensor([9, 4, 1, 0])}),
    ):
        neuron = kind(**settings)
        (one, g_one), (other, g_other) = (results(neuron, x, each, g, **options) for each in ("reference", impl))
        if kind is Izhikevich or dtype is torch.float32:  # exp is to rounding
            assert torch.equal(one.spikes, other.spikes) and 0.02 < one.spikes.float().mean() < 0.95
        torch.testing.assert_close(one.penalty, other.penalty)
        for left, right in zip((*one.state, *g_one), (*other.state, *g_other), strict=True):
            torch.testing.assert_close(left, right, rtol=1e-3 if dtype is torch.float32 else 2e-2, atol=1e-4)
    assert own.number_of(kind) >= 2**16


def a_step(body):
    return type("Odd", (LIF,), {"step": staticmethod(body)})


@pytest.mark.parametrize(
    ("step", "message"),
    [
        (lambda n, v, x: (n.fire(torch.erfinv(n.decay * v) + x, n.v_threshold, n.reset_by),), "torch's erfinv"),
        (lambda n, v, x: (n.fire(v + x if v.sum() > 0 else x, n.v_threshold, n.reset_by),), "torch's sum"),
        (lambda n, v, x: (n.fire(v + x if v > 0 else x, n.v_threshold, n.reset_by),), "the value of a tensor"),
        (lambda n, v, x: (n.fire(v.add_(x), n.v_threshold, n.reset_by),), "torch's add_"),
        (lambda n, v, x: (n.fire(torch.add(v, x, alpha=2), n.v_threshold, n.reset_by),), "torch's add with alpha"),
        (lambda n, v, x: (n.fire(torch.div(v, x, rounding_mode="floor"), 1.0, 1.0),), "torch's div with rounding_mode"),
        (lambda n, v, x: (n.fire(v.int() + x, n.v_threshold, n.reset_by),), "torch's _to_copy"),
        (lambda n, v, x: (n.fire(v**n.decay + x, n.v_threshold, n.reset_by),), "torch's pow"),
        (lambda n, v, x: (n.fire(v**0.5 + x, n.v_threshold, n.reset_by),), "torch's pow"),
    ],
)
def test_what_no_engine_knows_is_named_with_its_line(step, message):
    line = step.__code__.co_firstlineno
    named = rf"Odd\.step, line {line} of .*test_own\.py: .*knows {message}"
    odd = a_step(step)
    with pytest.raises(TypeError, match=named):
        own.number_of(odd)
    with pytest.warns(UserWarning, match=f"Odd runs in plain torch on cpu: {named}"):
        assert own.choose(odd, "auto", torch.device("cpu")) == "reference"


@pytest.mark.parametrize("impl", engines())
def test_constants_are_reckoned_with_in_fp32(impl):
    """``1 - a`` of a Python number would be rounded once, and not twice."""
    leaky = type("Leak", (LIF,), {"step": staticmethod(lambda n, v, x: (n.fire((1 - n.gain) * v + x, 5.0, 1.0),))})
    a = torch.tensor(0.058)
    v = torch.zeros(())
    for _ in range(6):
        v = (1 - a) * v + 1
    out = tgo.scan(leaky(gain=0.058, v_threshold=5.0), torch.ones(6, 64), impl=impl)
    assert torch.equal(out.state[0], v.where(v < 5, torch.tensor(0.0)).expand(64))


def test_what_fires_is_part_of_a_neuron():
    step = staticmethod(lambda n, v, x: LIF.step(n, v, 2 * x))
    kinds = [type("Same", (of,), {"step": step}) for of in (LIF, neurons.TernaryLIF)]
    assert len(set(map(own.number_of, kinds))) == 2


OUTSIDE = torch.ones(1)


def test_what_is_too_much_or_no_state_is_named():
    many = type("Many", (LIF,), {"step": staticmethod(lambda n, a, b, c, d, x: a), "STATES": ("a", "b", "c", "d")})
    with pytest.raises(TypeError, match="Many: the compiled engines take 1 to 3 STATES, got 4"):
        own.number_of(many)
    with pytest.raises(TypeError, match=r"Odd\.step must return its states"):
        own.number_of(a_step(lambda n, v, x: n.fire(v + x, n.v_threshold, n.reset_by)))
    with pytest.raises(TypeError, match=r"Odd\.step must fire once, .* it does 0 times"):
        own.number_of(a_step(lambda n, v, x: (v + x,)))
    with pytest.raises(TypeError, match=r"Odd\.step must fire once, .* it does 2 times"):
        own.number_of(a_step(lambda n, v, x: (n.fire(n.fire(v, 1.0, 1.0) + x, 1.0, 1.0),)))
    with pytest.raises(TypeError, match=r"Odd\.step must return what n.fire gave as its first state, v"):
        own.number_of(a_step(lambda n, v, x: (0.9 * n.fire(v + x, 1.0, 1.0),)))
    with pytest.raises(TypeError, match=r"Odd\.step: .* knows its reverse: "):
        own.number_of(a_step(lambda n, v, x: (n.fire(v + x * OUTSIDE, 1.0, 1.0),)))
    with pytest.raises(AttributeError, match=r"a step has no n.tau; it has decay, gain, "):
        own.number_of(a_step(lambda n, v, x: (n.fire(v + x / n.tau, 1.0, 1.0),)))


def test_a_layer_of_any_neuron():
    x = torch.randn(6, 3, 4, 5)
    neuron = Izhikevich(a=torch.nn.Parameter(torch.full((5,), 0.2)), rest=torch.tensor(-0.5), guard_margin=0.3)
    layer = tgo.Layer(neuron, learn=["v_threshold"], channels=4, stateful=True)
    assert set(layer.state_dict()) == {"a", "rest", "v_threshold"} and layer.v_threshold.shape == (4,)
    spikes = torch.cat([layer(x[:2]), layer(x[2:])])
    out = tgo.scan(neuron, x, v_threshold=torch.ones(4, 1))
    assert torch.equal(spikes, out.spikes) and all(map(torch.equal, layer.state, out.state)) and spikes.any()
    (spikes.sum() + layer.penalty).backward()
    assert all(p.grad.abs().sum() > 0 for p in layer.parameters())
    with torch.no_grad():
        layer.a.fill_(0.75)
    assert "Izhikevich(" in repr(layer) and "a=0.75..0.75, b=0.25" in repr(layer)
    assert tgo.guard_penalty(layer) is not None
    two = tgo.Layer(neurons.InhibitedLIF())
    a, b, c = torch.rand(3, 3, 5) + 0.5
    assert torch.equal(two(a, b, c), two(a, divided=c, subtracted=b)) and two(a, b, c).shape == (3, 5)
    for make, message in (
        (lambda: tgo.Layer(neurons.LIF), "neuron must be one of"),
        (lambda: tgo.Layer(neurons.LIF(), learn="tau"), "learn must name constants that are numbers"),
        (lambda: tgo.Layer(neurons.LIF(), channels=3), "channels must be a number >= 1"),
        (lambda: two(torch.rand(3, 5)), "the neuron has 3 inputs, excitation"),
    ):
        with pytest.raises((TypeError, ValueError), match=message):
            make()


def test_a_norm_in_front_is_no_part_of_it():
    """What its step does with x is not known, so that a line of x is made."""

    class Twice(LIF):
        @staticmethod
        def step(n, v, x):
            return LIF.step(n, v, 2 * x)

    def net():
        torch.manual_seed(0)
        norm = torch.nn.BatchNorm1d(6)
        torch.nn.init.uniform_(norm.weight), torch.nn.init.uniform_(norm.bias)
        return torch.nn.Sequential(tgo.OverTime(norm), tgo.Layer(Twice(v_threshold=0.7)))

    x, plain, fused = torch.randn(5, 9, 6), net(), net()
    report = tgo.fuse(fused)
    assert not report.fused and "not to a neuron alone" in str(report)
    expected = plain(x)
    assert torch.equal(fused(x), expected) and 0 < expected.mean() < 1
    other = net()
    assert torch.equal(tgo.Block(other[0][0], other[1])(x), expected)
    expected.sum().backward()
    assert plain[0][0].weight.grad.abs().sum() > 0
