"""Whatever can be written on a converted layer acts as on its original, or raises."""

import copy

import pytest
import snntorch
import torch
from models import results, x_of
from snntorch import surrogate as snn_surrogate
from spikingjelly.activation_based import layer as sj_layer
from spikingjelly.activation_based import neuron, surrogate
from torch import nn

import tgo_kernels as tgo
from tgo_kernels.interop import snntorch as from_snntorch
from tgo_kernels.interop import spikingjelly as from_spikingjelly


def annealed(node: nn.Module) -> None:
    node.surrogate_function.alpha = 1.0


def with_other(surrogate_function: nn.Module):
    def write(node: nn.Module) -> None:
        node.surrogate_function = surrogate_function

    return write


def with_attribute(name: str, value):
    return lambda node: setattr(node, name, value)


WRITES = [
    annealed,
    with_other(surrogate.Erf(3.0)),
    *(with_attribute(*pair) for pair in [("v_threshold", 0.6), ("v_reset", None), ("detach_reset", True)]),
    *(with_attribute(*pair) for pair in [("tau", 3.0), ("decay_input", False)]),
]


@pytest.mark.parametrize("kind", [neuron.LIFNode, neuron.IFNode, neuron.ParametricLIFNode])
@pytest.mark.parametrize("step_mode", ["s", "m"])
@pytest.mark.parametrize("compiles", [False, True])
def test_what_is_written_on_a_spikingjelly_node_acts(kind, step_mode, compiles):
    torch.compiler.reset()
    x = x_of()
    theirs = kind(step_mode=step_mode, surrogate_function=surrogate.ATan())
    net = nn.Sequential(copy.deepcopy(theirs))
    from_spikingjelly.convert(net)
    ours, before = net[0], None
    call = torch.compile(ours, fullgraph=True, backend="aot_eager") if compiles else ours

    def run(node):
        return node if step_mode == "m" else lambda x: torch.stack([node(step) for step in x])

    for i, write in enumerate((lambda node: None, *WRITES)):
        if (compiles and i not in (0, 1, 3)) or (i > 5 and kind is not neuron.LIFNode):
            continue
        write(theirs)
        write(ours)
        theirs.reset()
        ours.reset()
        found, expected = results(ours, x, run(call)), results(theirs, x, run(theirs))
        torch.testing.assert_close(found, expected)
        assert before is None or any(not torch.equal(a, b) for a, b in zip(found, before, strict=True)), i
        before = found
    torch.compiler.reset()


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (with_other(surrogate.PiecewiseLeakyReLU()), "surrogate PiecewiseLeakyReLU"),
        (lambda node: node.surrogate_function.set_spiking_mode(False), "no engine knows it"),
        (with_attribute("tau", 0.5), "tau must be finite and >= 1"),
        (with_attribute("v_threshold", float("nan")), "v_threshold must be"),
    ],
)
def test_what_cannot_be_done_on_a_spikingjelly_node_raises(write, message):
    node = neuron.LIFNode(step_mode="m", surrogate_function=surrogate.ATan())
    from_spikingjelly.convert(node)
    node(x_of())
    write(node)
    for _ in range(2):
        with pytest.raises(ValueError, match=message):
            node(x_of())


def test_set_writes_what_spikingjelly_has():
    node = neuron.LIFNode(step_mode="m", surrogate_function=surrogate.ATan())
    from_spikingjelly.convert(node)
    ours = tgo.Rectangle(0.5) if hasattr(surrogate, "Rect") else tgo.Erf(2.0)
    node.set(tau=4.0, v_threshold=0.7, v_reset=None, surrogate=ours, noise_std=0.2, guard_margin=0.5)
    assert (node.tau, node.v_threshold, node.v_reset) == (4.0, 0.7, None) and node.surrogate_function.alpha == 2.0
    assert node.neuron == tgo.LIF(4.0, True, 0.7, None, ours, noise_std=0.2, guard_margin=0.5).neuron
    node.tau = 3.0
    assert node.neuron.noise_std == node.noise_std == 0.2 and node.neuron.decay == 1 - 1 / 3
    with pytest.raises(AttributeError, match=r"layer\.set\(noise_std"):
        node.noise_std = 0.1
    before = node.neuron
    refused = [{"surrogate": tgo.Triangle()}, {"gain": 0.3}, {"noise_std": -1.0}, {"decay": 1.5}, {"v_reset": "no"}]
    for change in refused:
        with pytest.raises((ValueError, TypeError), match=next(iter(change))):
            node.set(v_threshold=0.1, **change)
        assert node.v_threshold == 0.7 and node.neuron == before
    learns = neuron.ParametricLIFNode(step_mode="m")
    from_spikingjelly.convert(learns)
    w = learns.w
    learns.set(decay=0.75)
    assert learns.w is w and torch.allclose(w.sigmoid(), torch.tensor(0.25))
    plain = neuron.IFNode()
    from_spikingjelly.convert(plain)
    with pytest.raises(ValueError, match="IFNode has no tau"):
        plain.set(tau=3.0)


def leaky(**options) -> snntorch.Leaky:
    usual = {"beta": 0.5, "init_hidden": True, "reset_delay": False, "reset_mechanism": "zero"}
    return snntorch.Leaky(**usual | options)


def beta_in_place(node: nn.Module) -> None:
    node.beta.fill_(0.25)


def threshold_of_each(node: nn.Module) -> None:
    node.threshold = torch.tensor([0.5, 0.75, 1.0, 1.25, 1.5, 2.0])


SNN_WRITES = [
    beta_in_place,
    with_attribute("beta", torch.tensor(0.75)),
    with_attribute("threshold", torch.tensor(0.6)),
    with_attribute("spike_grad", snn_surrogate.sigmoid(slope=3)),
    threshold_of_each,
    with_attribute("threshold", torch.tensor(1.5)),
]


@pytest.mark.parametrize("compiles", [False, True])
def test_what_is_written_on_a_snntorch_node_acts(compiles):
    torch.compiler.reset()
    theirs, x = leaky(), x_of()[0] / 2
    ours, before = copy.deepcopy(theirs), None
    from_snntorch.convert(nn.Sequential(ours))
    call = torch.compile(ours, fullgraph=True, backend="aot_eager") if compiles else ours
    for i, write in enumerate((lambda node: None, *SNN_WRITES)):
        write(theirs)
        write(ours)
        for node in (theirs, ours):
            node.mem = torch.full_like(x, 0.3)
        found = results(ours, x, call)
        torch.testing.assert_close(found, results(theirs, x), msg=f"{i}")
        assert before is None or any(not torch.equal(a, b) for a, b in zip(found, before, strict=True)), i
        before = found
    theirs.reset_mechanism = ours.reset_mechanism = "subtract"
    for node in (theirs, ours):
        node.mem = torch.zeros_like(x)
    torch.testing.assert_close(results(ours, x, call), results(theirs, x))
    torch.testing.assert_close(ours.mem, theirs.mem)
    torch.compiler.reset()


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (with_attribute("spike_grad", snn_surrogate.triangular()), "surrogate triangular"),
        (with_attribute("state_quant", torch.round), "state_quant"),
        (lambda node: node.graded_spikes_factor.fill_(2.0), "graded_spikes_factor"),
        (with_attribute("inhibition", True), "inhibition"),
    ],
)
def test_what_cannot_be_done_on_a_snntorch_node_raises(write, message):
    node = leaky()
    from_snntorch.convert(node)
    node(x_of()[0])
    write(node)
    with pytest.raises(ValueError, match=message):
        node(x_of()[0])


def test_set_writes_what_snntorch_has():
    node = leaky(threshold=1)
    from_snntorch.convert(node)
    beta = node.beta
    node.set(decay=0.75, v_threshold=0.5, v_reset=None, surrogate=tgo.FastSigmoid(10.0), noise_std=0.2)
    assert node.beta is beta and beta == 0.75 and node.threshold == 0.5 and node.reset_mechanism == "subtract"
    assert node.neuron.decay == 0.75 and node.neuron.noise_std == 0.2 and node.surrogate == tgo.FastSigmoid(10.0)
    for change in ({"gain": 0.3}, {"detach_reset": True}, {"surrogate": tgo.Erf()}, {"v_reset": -0.5}, {"decay": 1.5}):
        with pytest.raises(ValueError, match=next(iter(change))):
            node.set(noise_std=0.1, v_threshold=0.1, **change)
        assert node.threshold == 0.5 and node.noise_std == 0.2
    learns = leaky(learn_beta=True, learn_threshold=True)
    from_snntorch.convert(learns)
    beta = learns.beta
    learns.set(decay=0.75, v_threshold=0.5)
    assert learns.beta is beta and beta == 0.75 and learns.threshold == 0.5


@pytest.mark.parametrize("how", [{}, {"reset_delay": True}, {"reset_delay": True, "reset_mechanism": "subtract"}])
def test_constants_given_to_a_functional_call_learn(how):
    """They are then no Parameters, but tensors in their place."""
    theirs = leaky(learn_beta=True, learn_threshold=True, **how)
    ours = copy.deepcopy(theirs)
    from_snntorch.convert(ours)
    x, found = x_of()[0] / 2, []
    for node in (theirs, ours):
        node.mem = torch.full_like(x, 0.3)
        given = {"beta": torch.tensor(0.75, requires_grad=True), "threshold": torch.tensor(0.9, requires_grad=True)}
        spikes = torch.func.functional_call(node, given, (x,))
        found.append((spikes, *torch.autograd.grad(spikes.sum(), given.values())))
    torch.testing.assert_close(*found)
    assert found[0][1] != 0


def test_a_second_conversion_takes_the_options():
    net = nn.Sequential(sj_layer.Linear(6, 6), neuron.LIFNode(step_mode="m"), neuron.IFNode(step_mode="m"))
    from_spikingjelly.convert(net)
    assert not from_spikingjelly.convert(net).converted
    report = from_spikingjelly.convert(net, noise_std=0.5, guard_margin=0.5, impl="reference", noise_in_eval=True)
    assert list(report.converted) == ["1", "2"] and "converted before: now" in str(report)
    assert all(f"{option}=0.5" in report.converted["1"] for option in ("noise_std", "guard_margin"))
    assert net[1].noise_std == net[1].guard_margin == 0.5 and net[2].impl == "reference" and net[2].noise_in_eval
    spikes = net(x_of())
    assert not torch.equal(spikes, net(x_of())) and tgo.guard_penalty(net) > 0
    with pytest.raises(ValueError, match="noise_std"):
        from_spikingjelly.convert(net, noise_std=-1.0)
    assert net[1].noise_std == 0.5

    node = leaky(init_hidden=False)
    from_snntorch.convert(node)
    report = from_snntorch.convert(node, sequence=True, guard_margin=0.5)
    assert "sequence=True" in report.converted[""] and "guard_margin=0.5" in report.converted[""]
    spikes, mem = node(x_of())
    assert spikes.shape == x_of().shape and mem.shape == x_of().shape and tgo.guard_penalty(node) > 0


@pytest.mark.parametrize("name, value", [("graded_spikes_factor", 2.0), ("reset_mechanism_val", 0)])
@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_what_compiled_code_cannot_follow_raises_there_too(name, value, backend):
    torch.compiler.reset()
    net, x = (
        nn.Sequential(
            nn.Linear(5, 7), snntorch.Leaky(0.9, reset_delay=False, reset_mechanism="zero", init_hidden=True)
        ),
        torch.rand(4, 3, 5),
    )
    from_snntorch.convert(net, sequence=True)
    compiled = torch.compile(net, backend=backend, fullgraph=True)
    compiled(x)
    former = getattr(net[1], name).clone()
    getattr(net[1], name).fill_(value)
    with pytest.raises(RuntimeError, match="reset_mechanism_val of a compiled Leaky has changed"):
        compiled(x)
    getattr(net[1], name).copy_(former)
    compiled(x)
    torch.compiler.reset()
