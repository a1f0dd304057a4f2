"""The neurons of the family as NIR: SynapticLIF is CubaLIF, and the others are refused by name."""

import nir
import numpy as np
import pytest
import snntorch
import torch
from cases import dyadic
from snntorch.export_nir import export_to_nir
from snntorch.import_nir import import_from_nir
from spikingjelly.activation_based import functional, neuron, nir_exchange, surrogate
from torch import nn

import tgo_kernels as tgo
from tgo_kernels.interop import snntorch as from_snntorch
from tgo_kernels.interop import spikingjelly
from tgo_kernels.interop.nir import from_nir, to_nir

T, B = 6, 3
THRESHOLD = 1 + 2**-12  # at which no dyadic membrane stands
NAMES = ("tau_syn", "tau_mem", "r", "v_leak", "v_threshold", "v_reset", "w_in")
OTHERS = (tgo.AdaptiveLIF, tgo.AdLIF, tgo.HomeostaticLIF, tgo.SelfPredictingLIF, tgo.OscillatingLIF, tgo.IntegerLIF)


def a_ternary_node() -> nn.Module:
    node = neuron.TernaryLIFNode(surrogate_function=surrogate.Rect(alpha=1.0), step_mode="m")
    spikingjelly.convert(node)
    return node


class Inhibited(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fire = tgo.InhibitedLIF()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fire(x, x, x)


@pytest.mark.parametrize(
    ("make", "name", "kind"),
    [(lambda kind=kind: kind(), "1", kind.__name__) for kind in OTHERS]
    + [
        (lambda: tgo.TernaryLIF(v_threshold=1.5, v_reset=0.0), "1", "TernaryLIF"),  # a LIF on inputs above 0
        (a_ternary_node, "1", "TernaryLIF"),
        (Inhibited, "1.fire", "InhibitedLIF"),
    ],
    ids=[*(kind.__name__ for kind in OTHERS), "TernaryLIF", "TernaryLIFNode", "InhibitedLIF"],
)
def test_what_nir_does_not_hold_is_refused_by_name(make, name, kind):
    with pytest.raises(NotImplementedError, match=f"^{name}: NIR holds no {kind}; "):
        to_nir(nn.Sequential(nn.Identity(), make()), dyadic(5, 3, 6).abs())


def exact(model: nn.Module) -> nn.Module:
    with torch.no_grad():
        for p in model.parameters():
            if p.dim():
                p.copy_((p * 3 * 64).round() / 64)
    return model


def dense(*neurons: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    return exact(nn.Sequential(nn.Linear(20, 30), neurons[0], nn.Linear(30, 10, bias=False), neurons[-1]))


def synaptic(gain=1.0, v_reset=0.0, **options) -> nn.Module:
    return tgo.SynapticLIF.from_decay(0.5, gain, v_threshold=THRESHOLD, v_reset=v_reset, **options)


def cubas(graph: nir.NIRGraph) -> list[nir.CubaLIF]:
    return [node for node in graph.nodes.values() if isinstance(node, nir.CubaLIF)]


@pytest.mark.parametrize(
    "options",
    [{}, {"gain": 0.5, "v_reset": -0.25, "current_decay": 0.75, "scale": 0.5}, {"current_decay": 0.0, "strict": True}],
)
def test_round_trip_by_a_file(options, tmp_path):
    model, x = dense(synaptic(**options)), dyadic(T, B, 20) * (2 if "gain" in options else 0.5)
    nir.write(tmp_path / "model.nir", graph := to_nir(model, x, dt=1e-3))
    again = from_nir(tmp_path / "model.nir", dt=1e-3, surrogate=tgo.Sigmoid(4.0))
    assert torch.equal(again(x)[0], model(x)) and again(x)[0].any()
    layers = [module for module in again.modules() if isinstance(module, tgo.SynapticLIF)]
    assert len(layers) == len(cubas(graph)) == 2
    for name in ("decay", "gain", "v_threshold", "current_decay", "scale"):
        assert getattr(layers[0], name) == pytest.approx(getattr(model[1], name), rel=1e-6, abs=1e-12)
    assert layers[0].surrogate == tgo.Sigmoid(4.0)
    for former, new in zip(cubas(graph), cubas(to_nir(again, x, dt=1e-3)), strict=True):
        for name in NAMES:
            np.testing.assert_allclose(getattr(new, name), getattr(former, name), rtol=1e-6)


def test_a_step_is_eulers_with_the_new_current():
    """Written out: an input drives the membrane in its own step."""
    node = nir.CubaLIF(*(np.full(2, value) for value in (3e-4, 5e-4, 1.5, 0.25, 0.5, 0.25)), w_in=np.array([2.0, -1.0]))
    layer, x, dt = from_nir(alone(node)), torch.rand(T, B, 2), 1e-4
    i, v, expected = np.zeros((B, 2)), np.full((B, 2), 0.25), []
    for step in x.double().numpy():
        i = i + dt / node.tau_syn * (-i + node.w_in * step)
        v = v + dt / node.tau_mem * (node.v_leak - v + node.r * i)
        expected.append(v >= node.v_threshold)
        v = np.where(expected[-1], node.v_reset, v)
    spikes = layer(x)[0]
    assert np.array_equal(spikes.numpy(), np.stack(expected)) and 0 < spikes.mean() < 1


def alone(node: nir.CubaLIF) -> nir.NIRGraph:
    size = np.array(node.r.shape)
    nodes = {"input": nir.Input(size), "neurons": node, "output": nir.Output(size)}
    return nir.NIRGraph(nodes, [("input", "neurons"), ("neurons", "output")])


def test_constants_of_each_neuron():
    """Those that learnt are written, and read as they are."""
    learns = {f"learn_{name}": True for name in ("decay", "threshold", "current_decay", "scale")}
    model, x = dense(synaptic(channels=30, **learns), synaptic()), dyadic(T, B, 20) / 2
    with torch.no_grad():
        model[1].w.copy_(torch.linspace(-1.0, 2.0, 30))
        model[1].v_threshold.copy_(torch.linspace(0.5, 1.5, 30))
        model[1].current_decay.copy_(torch.linspace(0.0, 0.9, 30))
        model[1].scale.copy_(torch.linspace(-0.5, 1.0, 30))
    graph = to_nir(model, x)
    again = from_nir(graph, noise_std=0.1, learn_noise=True).eval()
    assert torch.equal(again(x)[0], model(x)) and again(x)[0].any()
    held = next(module for module in again.modules() if isinstance(module, tgo.SynapticLIF))
    assert {name for name, _ in held.named_buffers()} == {"decay", "gain", "v_threshold", "current_decay", "scale"}
    copied = from_nir(graph)
    copied.load_state_dict(again.state_dict(), strict=False)
    for former, new in zip(cubas(graph), cubas(to_nir(copied, x)), strict=True):
        for name in NAMES:
            np.testing.assert_allclose(getattr(new, name), getattr(former, name), rtol=1e-5)
    held.set(current_decay=0.25)
    assert (held.current_decay == 0.25).all() and not (held.scale == held.scale[0]).all()
    again.train()(x)[0].sum().backward()
    assert held.noise_std.grad != 0
    for name in ("learn_decay", "learn_current_decay"):
        with pytest.raises(ValueError, match="constants that differ between neurons are held and do not learn"):
            from_nir(graph, **{name: True})


def test_what_is_read_can_learn():
    """An option of one kind of layers is for these."""
    x = dyadic(T, B, 20) / 2
    graph = to_nir(dense(synaptic(), tgo.LIF.from_decay(0.5, v_threshold=THRESHOLD)), x)
    again = from_nir(graph, learn_current_decay=True, learn_scale=True, learn_decay=True)
    again(x)[0].sum().backward()
    learnt = {name.rpartition(".")[2]: p.grad for name, p in again.named_parameters() if p.dim() == 0}
    assert learnt.keys() == {"w", "current_decay", "scale"} and all(grad != 0 for grad in learnt.values())
    with pytest.raises(TypeError, match="current_decay: NIR says it of each layer"):
        from_nir(graph, current_decay=0.5)
    with pytest.raises(TypeError, match="learn_currents"):
        from_nir(graph, learn_currents=True)


def test_snntorch_reads_what_we_write():
    model, x = dense(synaptic()), dyadic(T, B, 20) / 2
    theirs = import_from_nir(to_nir(model, x))
    state, found = None, []
    for step in x:
        out, state = theirs(step, state)
        found.append(out)
    assert torch.equal(torch.stack(found), model(x)) and model(x).any()


def test_we_read_what_snntorch_writes():
    def node(size: int) -> nn.Module:  # snnTorch writes no neurons without a size
        constants = (torch.full((size,), value) for value in (0.25, 0.5, THRESHOLD))
        return snntorch.Synaptic(*constants, init_hidden=True, reset_mechanism="zero", reset_delay=False)

    model, x = dense(node(30), node(10)), dyadic(T, B, 20) / 4
    graph = export_to_nir(model, x[0], ignore_dims=[0])
    for module in (model[1], model[3]):
        module.reset_mem()
    expected = torch.stack([model(step) for step in x])
    assert torch.equal(from_nir(graph)(x)[0], expected) and expected.any()


def test_spikingjelly_reads_what_we_write_and_we_what_it_writes():
    model, x = dense(*(neuron.CUBALIFNode(0.5, 0.75, THRESHOLD) for _ in range(2))), dyadic(T, B, 20) / 2
    functional.set_step_mode(model, "m")
    expected = model(x)
    functional.reset_net(model)
    read = from_nir(nir_exchange.export_to_nir(model, x))
    assert torch.equal(read(x)[0], expected) and expected.any()
    functional.reset_net(model)
    spikingjelly.convert(model)
    theirs = nir_exchange.import_from_nir(to_nir(model, x), step_mode="m")
    assert torch.equal(theirs(x)[0], expected)


def test_snntorch_with_states():
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            how = {"reset_delay": False, "reset_mechanism": "zero", "threshold": THRESHOLD}
            self.fc1, self.lif1 = nn.Linear(20, 30), snntorch.Synaptic(0.5, 0.5, **how)
            self.fc2, self.lif2 = nn.Linear(30, 10), snntorch.Synaptic(0.5, 0.5, **how)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            spikes, _, _ = self.lif1(self.fc1(x), *self.lif1.init_synaptic())
            return self.lif2(self.fc2(spikes), *self.lif2.init_synaptic())[0]

    torch.manual_seed(0)
    model, x = exact(Net()), dyadic(T, B, 20) / 2
    from_snntorch.convert(model, sequence=True)
    expected = model(x)
    graph = to_nir(model, x)
    assert torch.equal(from_nir(graph)(x)[0], expected) and expected.any() and len(cubas(graph)) == 2


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (tgo.SynapticLIF(v_reset=None), "1: NIR has no soft reset"),
        (tgo.SynapticLIF(shift=0.5), r"1: NIR has no neuron with a constant current \(shift=0.5\)"),
        (tgo.SynapticLIF(current_decay=1.0), r"1: a CubaLIF leaks, and so does its current \(current_decay=1\)"),
        (tgo.SynapticLIF.from_decay(1.0), r"1: a CubaLIF leaks, and so does its current \(decay=1\)"),
    ],
)
def test_what_a_cubalif_does_not_compute_is_refused(layer, message):
    with pytest.raises(ValueError, match=message):
        to_nir(nn.Sequential(nn.Identity(), layer), dyadic(T, B, 6))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"v_leak": 0.5}, "neurons: a layer leaks to v_reset, but v_leak is 0.5 and v_reset 0"),
        ({"tau_mem": 1e-5}, "neurons: tau_mem=1e-05 is less than dt=0.0001"),
        ({"tau_syn": 1e-5}, "neurons: tau_syn=1e-05 is less than dt=0.0001"),
        ({"v_reset": np.array([0.0, 2.0])}, "neurons: v_reset differs between neurons"),
    ],
)
def test_what_a_layer_does_not_compute_is_refused(changes, message):
    values = dict.fromkeys(NAMES, 0.0) | {"tau_syn": 2e-4, "tau_mem": 2e-4, "r": 1.0, "v_threshold": 1.0} | changes
    node = nir.CubaLIF(**{name: np.broadcast_to(value, 2).copy() for name, value in values.items()})
    with pytest.raises(ValueError, match=message):
        from_nir(alone(node))
