"""Whatever can be written on a finished layer acts, or raises."""

import copy

import pytest
import torch
from models import results, x_of
from torch import nn

import tgo_kernels as tgo

CHANGES = [
    {"tau": 3.0},
    {"tau": 3.0, "decay_input": False},
    {"decay_input": False},
    {"decay_input": False, "gain": 0.7},
    {"decay": 0.75},
    {"v_threshold": 0.6},
    {"v_reset": None},
    {"v_reset": -0.25},
    {"surrogate": tgo.Sigmoid(3.0), "detach_reset": True},
    {"noise_std": 0.4, "noise_mode": "threshold"},
    {"noise_std": 0.4, "surrogate": tgo.NoisePDF()},
    {"guard_margin": 0.5},
    {"noise_std": 0.3, "noise_in_eval": True, "impl": "reference"},
]


@pytest.mark.parametrize("change", CHANGES, ids=str)
def test_a_set_constant_is_that_of_a_new_layer(change):
    layer = tgo.LIF()
    before = results(layer, x_of())
    layer.set(**change)
    made = dict(change)
    if "decay" in change or "gain" in change:
        new = tgo.LIF.from_decay(change.get("decay", 0.5), change.get("gain", 0.25))
    else:
        new = tgo.LIF(**made)
    found, expected = results(layer, x_of()), results(new, x_of())
    assert all(map(torch.equal, found, expected))
    assert list(change) == ["guard_margin"] or not all(map(torch.equal, found, before))
    assert layer.neuron == new.neuron and repr(layer).split("gain")[1] == repr(new).split("gain")[1]
    for name, value in change.items():
        if not isinstance(value, tgo.NoisePDF):
            assert getattr(layer, name) == value


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"noise_std": -1.0}, ValueError, "noise_std must be finite and >= 0"),
        ({"tau": 0.5}, ValueError, "tau must be finite and >= 1"),
        ({"v_threshold": torch.ones(())}, TypeError, "v_threshold must be a Python float, got Tensor"),
        ({"surrogate": "atan"}, TypeError, "surrogate must be a"),
        ({"noise_mode": "other"}, ValueError, "noise_mode must be"),
        ({"noise_in_eval": 1}, TypeError, "noise_in_eval must be a bool"),
        ({"impl": "fast"}, ValueError, "impl must be"),
        ({"tau": 2.0, "decay": 0.5}, ValueError, "tau and decay are one constant"),
        ({"gain": 0.5}, ValueError, "gain is 1/tau where decay_input=True"),
        ({"threshold": 1.0}, TypeError, "no constant threshold to set; it has tau, decay_input"),
        ({"decay": 1.0}, ValueError, "learn_decay needs a decay between 0 and 1"),
    ],
)
def test_what_is_refused_changes_nothing(change, error, message):
    layer = tgo.LIF(learn_decay=True)
    neuron, state = layer.neuron, copy.deepcopy(layer.state_dict())
    with pytest.raises(error, match=message):
        layer.set(**{"guard_margin": 0.5, "v_reset": None, **change})
    assert layer.neuron is neuron and torch.equal(layer.w, state["w"]) and layer.impl == "auto"


@pytest.mark.parametrize("name", sorted({name for change in CHANGES for name in change} - {"noise_in_eval", "impl"}))
def test_constants_are_read_and_not_written(name):
    layer = tgo.LIF()
    value = getattr(layer, name)
    with pytest.raises(AttributeError, match=rf"{name} of a finished layer is changed by layer.set\({name}="):
        setattr(layer, name, value)
    assert tgo.LIF(tau=3.0).tau == 3.0 and tgo.LIF(tau=1000.0).tau == 1000.0


def test_other_attributes_are_fixed_or_checked():
    layer = tgo.LIF()
    with pytest.raises(AttributeError, match="learn_decay of a finished layer is fixed"):
        layer.learn_decay = True
    with pytest.raises(TypeError, match=r"neuron must be a tgo_kernels\.neurons\.LIF"):
        layer.neuron = 3
    layer.neuron = tgo.neurons.LIF(decay=0.9, v_threshold=0.3)
    assert all(map(torch.equal, results(layer, x_of()), results(tgo.LIF.from_decay(0.9, 1.0, 0.3), x_of())))
    learns = tgo.LIF(learn_threshold=True)
    with pytest.raises(ValueError, match=r"layer\.set\(v_threshold"):
        learns.neuron = tgo.neurons.LIF(v_threshold=0.3)


@pytest.mark.parametrize("channels", [None, 6])
def test_what_learns_is_set_in_place_without_a_new_graph(channels):
    torch.compiler.reset()
    layer = tgo.LIF(learn_decay=True, learn_threshold=True, channels=channels)
    w, threshold = layer.w, layer.v_threshold
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    results(layer, x_of(), compiled)
    layer.set(tau=3.0, v_threshold=0.6)
    assert layer.w is w and layer.v_threshold is threshold
    torch.testing.assert_close(torch.as_tensor(layer.tau), torch.full_like(w, 3.0))
    new = tgo.LIF(3.0, v_threshold=0.6, learn_decay=True, learn_threshold=True, channels=channels)
    with torch._dynamo.config.patch(error_on_recompile=True):
        found = results(layer, x_of(), compiled)
    assert all(map(torch.equal, found, results(new, x_of())))
    layer.set(surrogate=tgo.Sigmoid(3.0))  # a number is a graph of its own
    new.set(surrogate=tgo.Sigmoid(3.0))
    assert all(map(torch.equal, results(layer, x_of(), compiled), results(new, x_of())))
    torch.compiler.reset()


def test_a_parametrized_threshold():
    class Positive(nn.Module):
        def forward(self, raw):
            return raw.exp()

        def right_inverse(self, value):
            return value.log()

    layer = tgo.LIF(learn_threshold=True)
    nn.utils.parametrize.register_parametrization(layer, "v_threshold", Positive())
    layer.set(v_threshold=0.6)
    torch.testing.assert_close(layer.v_threshold, torch.tensor(0.6))
    torch.testing.assert_close(layer(x_of()), tgo.LIF(v_threshold=0.6)(x_of()))
    layer(x_of()).sum().backward()
    assert layer.parametrizations.v_threshold.original.grad != 0


def test_the_width_of_the_noises_own_surrogate_follows_it():
    layer = tgo.LIF(noise_std=0.4, surrogate=tgo.NoisePDF())
    layer.set(noise_std=0.2)
    assert layer.surrogate == tgo.NoisePDF(0.2)
    layer.set(surrogate=tgo.NoisePDF(0.3))
    layer.set(noise_std=0.1)
    assert layer.surrogate == tgo.NoisePDF(0.3)


def test_a_subclass_holds_constants_as_buffers():
    class Held(tgo.LIF):
        def __init__(self) -> None:
            super().__init__(decay_input=False)
            self.register_buffer("v_threshold", torch.linspace(0.5, 1.5, 6))

        def learned(self, dims: int) -> dict[str, torch.Tensor]:
            return {"v_threshold": self.v_threshold}

    layer = Held()
    assert list(layer.state_dict()) == ["v_threshold"] and layer.v_threshold[0] == 0.5
    assert torch.equal(layer(x_of()), tgo.lif(x_of(), v_threshold=torch.linspace(0.5, 1.5, 6)).spikes)
    layer.set(v_threshold=0.6, tau=3.0)
    assert torch.equal(layer(x_of()), tgo.LIF(3.0, False, 0.6)(x_of())) and layer.v_threshold.shape == (6,)


@pytest.mark.parametrize(
    "name, value, wrong", [("noise_in_eval", True, "no"), ("stateful", True, 1), ("impl", "reference", "fast")]
)
def test_settings_that_may_be_written_are_checked(name, value, wrong):
    layer = tgo.LIF()
    former = getattr(layer, name)
    with pytest.raises((TypeError, ValueError), match=f"{name} must be"):
        setattr(layer, name, wrong)
    assert getattr(layer, name) == former
    setattr(layer, name, value)
    assert getattr(copy.deepcopy(layer), name) == value
