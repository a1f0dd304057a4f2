"""Neurons of a user's own: a step in plain torch, on the reference, in Triton, and as a layer."""

from dataclasses import dataclass

import pytest
import torch
from cases import dyadic
from torch import Tensor

import tgo_kernels as tgo
from tgo_kernels import neurons, own
from tgo_kernels.neurons import LIF, Neuron

TRITON = pytest.mark.skipif(tgo.ops.why_not("triton", torch.device("cpu")) is not None, reason="TRITON_INTERPRET=1")


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


def engines():
    return [*(["triton"] if tgo.ops.why_not("triton", torch.device("cpu")) is None else []), "reference"]


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


@TRITON
def test_triton_is_the_reference():
    """With noise, guard, a membrane, and constants of its own that learn."""
    x, g = torch.randn(2, 9, 4, 30)
    found = []
    for impl in ("reference", "triton"):
        leaves = [x.clone(), torch.full((30,), 0.2), torch.tensor(0.4)]
        leaf, a, threshold = (each.requires_grad_() for each in leaves)
        neuron = Izhikevich(a=a, v_threshold=threshold, noise_std=0.2, guard_margin=0.3, membrane="u")
        out = tgo.scan(neuron, leaf, impl=impl, noise_seed=3)
        loss = (out.spikes * g).sum() + out.penalty + out.membrane.square().sum()
        found.append((out, torch.autograd.grad(loss, [leaf, a, threshold])))
    (one, g_one), (other, g_other) = found
    assert torch.equal(one.spikes, other.spikes) and torch.equal(one.penalty, other.penalty)
    for a, b in zip((*one.state, one.membrane, *g_one), (*other.state, other.membrane, *g_other), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
    assert own.number_of(Izhikevich) >= 2**16


def test_on_a_cpu_it_says_so_once():
    class Once(LIF):
        @staticmethod
        def step(n, v, x):
            return LIF.step(n, v, 2 * x)

    x = torch.randn(5, 30)
    with pytest.warns(UserWarning, match="Once runs in plain torch on CPUs") as found:
        spikes = [tgo.scan(Once(), x).spikes for _ in range(2)]
    assert len(found) == 1 and all(torch.equal(each, tgo.lif(2 * x).spikes) for each in spikes)
    with pytest.raises(TypeError, match="the compiled extension knows no Once"):
        tgo.scan(Once(), x, impl="native")


def a_step(body):
    return type("Odd", (LIF,), {"step": staticmethod(body)})


@pytest.mark.parametrize(
    ("step", "message"),
    [
        (lambda n, v, x: (n.fire(torch.erfinv(n.decay * v) + x, n.v_threshold, n.reset_by),), "torch's erfinv"),
        (lambda n, v, x: (n.fire(v + x if v.sum() > 0 else x, n.v_threshold, n.reset_by),), "torch's sum"),
        (lambda n, v, x: (n.fire(v + x if v > 0 else x, n.v_threshold, n.reset_by),), "the value of a tensor"),
        (lambda n, v, x: (n.fire(v.add_(x), n.v_threshold, n.reset_by),), "torch's add_"),
    ],
)
def test_what_no_engine_knows_is_named_with_its_line(step, message):
    line = step.__code__.co_firstlineno
    with pytest.raises(TypeError, match=rf"Odd\.step, line {line} of .*test_own\.py: .*knows {message}"):
        own.number_of(a_step(step))


def test_what_is_too_much_or_no_state_is_named():
    many = type("Many", (LIF,), {"step": staticmethod(lambda n, a, b, c, d, x: a), "STATES": ("a", "b", "c", "d")})
    with pytest.raises(TypeError, match="Many: the compiled engines take 1 to 3 STATES, got 4"):
        own.number_of(many)
    with pytest.raises(TypeError, match=r"Odd\.step must return its states"):
        own.number_of(a_step(lambda n, v, x: n.fire(v + x, n.v_threshold, n.reset_by)))


@pytest.mark.filterwarnings("ignore:.*runs in plain torch")
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
    assert "Izhikevich" in repr(layer) and tgo.guard_penalty(layer) is not None
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


@pytest.mark.filterwarnings("ignore:.*runs in plain torch")
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
