"""Models as NIR: round trips, and files that SpikingJelly and snnTorch write and read."""

import nir
import numpy as np
import pytest
import snntorch
import torch
from cases import dyadic
from snntorch.export_nir import export_to_nir
from snntorch.import_nir import import_from_nir
from spikingjelly.activation_based import functional, layer, neuron, nir_exchange
from torch import nn

import tgo_kernels as tgo
from tgo_kernels.interop import spikingjelly
from tgo_kernels.interop.nir import from_nir, to_nir

T, B = 5, 3


def exact(model: nn.Module) -> nn.Module:
    with torch.no_grad():
        for p in model.parameters():
            p.copy_((p * 3 * 64).round() / 64)
    return model


def dense(**options) -> nn.Module:
    """Neurons of a decay that binary numbers hold, which neither fire at equality nor lose bits."""
    torch.manual_seed(0)
    neurons = (tgo.LIF.from_decay(0.5, 0.5, v_threshold=1 + 2**-12, **options) for _ in range(2))
    return exact(nn.Sequential(nn.Linear(20, 30), next(neurons), nn.Linear(30, 10, bias=False), next(neurons)))


def convolutional() -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential(
        layer.Conv2d(2, 4, 3, padding=1, bias=False),
        neuron.IFNode(v_threshold=1 + 2**-12),
        layer.AvgPool2d(2),
        layer.Flatten(),
        layer.Linear(64, 10),
        neuron.LIFNode(tau=2.0, decay_input=False, v_threshold=1 + 2**-12, v_reset=-0.25),
    )
    functional.set_step_mode(model, "m")
    return exact(model)


@pytest.mark.parametrize("model", [dense, convolutional])
def test_round_trip_by_a_file(model, tmp_path):
    ours, x = model(), dyadic(T, B, 20) if model is dense else dyadic(T, B, 2, 8, 8)
    spikingjelly.convert(ours)
    nir.write(tmp_path / "model.nir", to_nir(ours, x))
    functional.reset_net(ours)
    again = from_nir(tmp_path / "model.nir", surrogate=tgo.Sigmoid(4.0))
    assert torch.equal(again(x)[0], ours(x)) and again(x)[0].any()
    assert all(m.neuron.surrogate == tgo.Sigmoid(4.0) for m in again.modules() if isinstance(m, tgo.LIF))
    third = to_nir(again, x)
    assert {type(node) for node in third.nodes.values()} == {type(node) for node in to_nir(ours, x).nodes.values()}


def test_constants_of_each_neuron():
    """Those that learnt are written, and read as they are."""
    learns = {"learn_decay": True, "learn_threshold": True, "channels": 30}
    model, x = exact(nn.Sequential(nn.Linear(20, 30), tgo.LIF(decay_input=False, **learns))), dyadic(T, B, 20)
    neurons = model[1]
    with torch.no_grad():
        neurons.w.copy_(torch.tensor([0.0, 3.0**0.5, -1.0]).repeat(10))
        neurons.v_threshold.copy_(torch.tensor([1 + 2**-12, 2 + 2**-12]).repeat(15))
    expected = model(x)
    graph = to_nir(model, x)
    again = from_nir(graph, guard_margin=0.5)
    assert torch.equal(again(x)[0], expected) and expected.any()
    assert not list(again.parameters())[2:] and tgo.guard_penalty(again) > 0
    copied = from_nir(graph)
    copied.load_state_dict(again.state_dict())
    third = to_nir(copied.double().float(), x)
    for name in ("tau", "r", "v_threshold"):
        values = [getattr(node, name) for g in (graph, third) for node in g.nodes.values() if isinstance(node, nir.LIF)]
        np.testing.assert_allclose(*values, rtol=1e-6)
        assert len(np.unique(values[0])) > 1
    layer = next(module for module in again.modules() if isinstance(module, tgo.LIF))
    gain = layer.gain.clone()
    layer.set(decay=0.75)  # it stands for itself, as in LIF.from_decay
    assert torch.equal(layer.gain, gain) and (layer.decay == 0.75).all()
    with pytest.raises(ValueError, match="constants that differ between neurons are held and do not learn"):
        from_nir(graph, learn_decay=True)


def test_what_is_read_can_learn():
    x = dyadic(T, B, 20)
    again = from_nir(to_nir(dense(), x), learn_decay=True)
    spikes = again(x)[0]
    assert torch.equal(spikes, dense()(x))
    spikes.sum().backward()
    assert all(p.grad.any() for p in again.parameters() if p.dim() == 0) and any(
        p.dim() == 0 for p in again.parameters()
    )


def test_spikingjelly_reads_what_we_write():
    for model, x in ((dense(), dyadic(T, B, 20)), (convolutional(), dyadic(T, B, 2, 8, 8))):
        spikingjelly.convert(model)
        graph = to_nir(model, x)
        functional.reset_net(model)
        theirs = nir_exchange.import_from_nir(graph, step_mode="m")
        expected = model(x)
        assert torch.equal(theirs(x)[0], expected) and expected.any()


def test_we_read_what_spikingjelly_writes():
    model, x = convolutional(), dyadic(T, B, 2, 8, 8)
    graph = nir_exchange.export_to_nir(model, x)
    functional.reset_net(model)
    expected = model(x)
    assert torch.equal(from_nir(graph)(x)[0], expected) and expected.any()


def test_snntorch_reads_what_we_write():
    model, x = dense(), dyadic(T, B, 20)
    theirs = import_from_nir(to_nir(model, x))
    state, found = None, []
    for step in x:
        out, state = theirs(step, state)
        found.append(out)
    expected = model(x)
    assert torch.equal(torch.stack(found), expected) and expected.any()


def test_we_read_what_snntorch_writes():
    torch.manual_seed(0)

    def leaky(size: int) -> nn.Module:  # snnTorch writes no neurons without a size
        constants = {"beta": torch.full((size,), 0.5), "threshold": torch.full((size,), 1 + 2**-12)}
        return snntorch.Leaky(**constants, init_hidden=True, reset_mechanism="zero", reset_delay=False)

    model = exact(nn.Sequential(nn.Linear(20, 30), leaky(30), nn.Linear(30, 10), leaky(10)))
    x = dyadic(T, B, 20) / 2
    graph = export_to_nir(model, x[0], ignore_dims=[0])
    for module in model:
        if isinstance(module, snntorch.Leaky):
            module.reset_mem()
    expected = torch.stack([model(step) for step in x])
    assert torch.equal(from_nir(graph)(x)[0], expected) and expected.any()


def some_leak() -> tgo.LIF:
    layer = tgo.LIF(learn_decay=True, channels=4)
    nn.init.constant_(layer.w[:2], -100.0)
    return layer


@pytest.mark.parametrize(
    "model, message",
    [
        (tgo.LIF(v_reset=None), "1: NIR has no soft reset"),
        (tgo.LIF(noise_std=0.1, noise_in_eval=True), "1: NIR has no noise"),
        (tgo.LIF.from_decay(1.5), "1: NIR has no growing membranes"),
        (some_leak(), "1: NIR has no layer in which some neurons leak and others do not"),
        (nn.Flatten(0), "1: NIR flattens neither time nor batch"),
    ],
)
def test_what_nir_does_not_hold_is_refused(model, message):
    with pytest.raises(ValueError, match=message):
        to_nir(nn.Sequential(nn.Linear(4, 4), model), torch.rand(2, 3, 4))


def test_other_modules_are_refused_and_nothing_is_changed():
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), tgo.LIF())
    with pytest.raises(NotImplementedError, match="1: NIR holds no BatchNorm1d"):
        to_nir(model, torch.rand(2, 3, 4))
    layers = nn.Sequential(nn.Linear(4, 4), tgo.LIF(stateful=True)).train()
    layers(torch.rand(2, 3, 4))
    state = layers[1].v
    to_nir(layers, 4 * torch.rand(2, 5, 4))
    assert layers[1].v is state and layers.training


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"v_leak": 0.5}, "neurons: a layer leaks to v_reset, but v_leak is 0.5 and v_reset 0"),
        ({"tau": 1e-5}, "neurons: tau=1e-05 is less than dt=0.0001"),
        ({"v_reset": np.array([0.0, 2.0])}, "neurons: v_reset differs between neurons"),
    ],
)
def test_what_a_layer_does_not_compute_is_refused(changes, message):
    values = {"tau": 2e-4, "r": 1.0, "v_leak": 0.0, "v_reset": 0.0, "v_threshold": 1.0} | changes
    node = nir.LIF(**{name: np.broadcast_to(value, 2).copy() for name, value in values.items()})
    nodes = {"input": nir.Input(np.array([2])), "neurons": node, "output": nir.Output(np.array([2]))}
    with pytest.raises(ValueError, match=message):
        from_nir(nir.NIRGraph(nodes, [("input", "neurons"), ("neurons", "output")]))


class Odd(nn.Module):
    def __init__(self, what: str) -> None:
        super().__init__()
        self.fc, self.lif, self.what = nn.Linear(4, 4), tgo.LIF(), what

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.fc(x)
        given = {"constant": y + 1, "twice": y + y, "end": y}[self.what]
        return self.lif(given) + (self.what == "end")


@pytest.mark.parametrize("what", ["constant", "twice", "end"])
def test_what_nirtorch_would_write_wrong_is_refused(what):
    torch.manual_seed(0)
    with pytest.raises(ValueError, match="this model computes something else"):
        to_nir(Odd(what), 4 * torch.rand(4, 30, 4))


def test_a_neuron_alone_and_weights_of_ones_own():
    x = 3 * torch.rand(4, 2, 5)
    assert torch.equal(from_nir(to_nir(tgo.LIF(), x))(x)[0], tgo.LIF()(x))
    graph = to_nir(dense(), dyadic(T, B, 20))
    a, b = from_nir(graph), from_nir(graph)
    with torch.no_grad():
        for p in a.parameters():
            p.add_(1.0)
    assert not any(torch.equal(p, q) for p, q in zip(a.parameters(), b.parameters(), strict=True))
    with pytest.raises(TypeError, match="tau: NIR says it of each layer"):
        from_nir(graph, tau=3.0)
    with pytest.raises(ValueError, match="dt must be finite"):
        to_nir(tgo.LIF(), x, dt=0.0)


def test_recurrent_graphs_are_refused():
    node = nir.IF(np.ones(2), np.ones(2))
    nodes = {
        "input": nir.Input(np.array([2])),
        "a": node,
        "w": nir.Linear(np.eye(2)),
        "output": nir.Output(np.array([2])),
    }
    edges = [("input", "a"), ("a", "w"), ("w", "a"), ("a", "output")]
    with pytest.raises(ValueError, match="this graph is recurrent: "):
        from_nir(nir.NIRGraph(nodes, edges))
