"""The layers of the family: each is its neuron, with what tgo.LIF has."""

import copy
import inspect
import pickle

import pytest
import torch

import tgo_kernels as tgo
from tgo_kernels import neurons
from tgo_kernels.constants import beside_lif, shown

LAYERS = tuple(getattr(tgo, kind.__name__) for kind in neurons.HOUSE[1:])
EACH = pytest.mark.parametrize("kind", LAYERS, ids=lambda kind: kind.__name__)
DIFFERENT = {"rho": 0.7, "beta": 0.4, "increment": 0.6, "current_decay": 0.8, "scale": 1.5, "shift": 0.2, "a": 0.3}
DIFFERENT |= {"b": 0.5, "symplectic": True, "theta": 0.3, "target": 0.2, "adapt_grad": "none", "rate": 0.25}
DIFFERENT |= {
    "of_output": 0.5,
    "of_input": 0.5,
    "amplitude": 0.4,
    "period": 3.0,
    "phase": 0.5,
    "form": "multiplicative",
    "swapped": (0.2, 2.5, 1.0),
    "levels": 3,
    "normalize": True,
}
FIXED = (tgo.IntegerLIF,)  # whose threshold is


def streams(kind, steps=7):
    return [
        0.5 + torch.rand(steps, 3, 4, 5) if name == "divided" else torch.randn(steps, 3, 4, 5)
        for name in kind.kind.INPUTS
    ]


def test_every_neuron_has_its_layer():
    assert {kind.kind for kind in LAYERS} | {neurons.LIF} == set(neurons.HOUSE)
    assert all(getattr(tgo, neuron.__name__).kind is neuron for neuron in neurons.HOUSE)


@EACH
def test_a_layer_is_its_neuron(kind):
    own = {name: DIFFERENT[name] for name in beside_lif(kind.kind)}
    threshold, margin = (1.0, 0.0) if kind in FIXED else (0.8, 0.3)
    layer = kind(4.0, False, threshold, None, **own, guard_margin=margin, membrane="h")
    shared = {"v_threshold": threshold, "v_reset": None, "guard_margin": margin, "membrane": "h"}
    neuron = kind.kind(decay=0.75, gain=1.0, **own, **shared)
    x = streams(kind)
    out = tgo.scan(neuron, x)
    assert torch.equal(layer(*x), out.spikes) and 0 < (out.spikes != 0).float().mean() < 1
    assert len(layer.state) == len(out.state) and all(map(torch.equal, layer.state, out.state))
    assert torch.equal(layer.membrane, out.membrane) and torch.equal(layer.penalty, out.penalty)
    for name, value in own.items():
        assert getattr(layer, name) == value and f"{name}={shown(value)}" in repr(layer)
    with pytest.raises(AttributeError, match=r"changed by layer.set|fixed when it is made"):
        setattr(layer, next(iter(own), "tau"), 0.1)


@EACH
def test_all_its_constants_learn(kind):
    options = [name for name in inspect.signature(kind).parameters if name.startswith("learn_")]
    if kind in FIXED:
        options.remove("learn_threshold")
    assert len(options) == 3 - (kind in FIXED) + len([name for name in beside_lif(kind.kind) if name in kind.kind.OWN])
    layer = kind(tau=3.0, noise_std=0.2, channels=4, v_reset=None, **dict.fromkeys(options, True))
    torch.optim.SGD(layer.parameters(), lr=0.1).zero_grad()
    (layer(*streams(kind)) * torch.randn(7, 3, 4, 5)).sum().backward()
    for name, parameter in layer.named_parameters():
        assert parameter.shape == (4,) and parameter.grad.abs().sum() > 0, name
    other = kind(tau=3.0, noise_std=0.2, channels=4, v_reset=None, **dict.fromkeys(options, True))
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.add_(0.1)
    other.load_state_dict(layer.state_dict())
    x = streams(kind)
    assert torch.equal(layer.eval()(*x), other.eval()(*x))


@EACH
@pytest.mark.parametrize("noise_std", [0.0, 0.3])
def test_chunks_of_a_stateful_layer_are_the_whole(kind, noise_std):
    layer, x = kind(stateful=True, noise_std=noise_std), streams(kind, 11)
    torch.manual_seed(1)
    whole, last = layer(*x), layer.state
    layer.reset()
    assert layer.state is None
    torch.manual_seed(1)
    first = layer(*(each[:4] for each in x))
    layer.detach()
    for layer in (layer, copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):  # noqa: B020
        assert torch.equal(torch.cat([first, layer(*(each[4:] for each in x))]), whole)
        assert all(map(torch.equal, layer.state, last))


def test_what_follows_from_a_constant_follows_what_it_is_set_to():
    layer = tgo.AdaptiveLIF(rho=0.9, learn_rho=True)
    x = 3 * torch.rand(6, 40)
    layer.set(rho=0.5)
    assert torch.equal(layer(x), tgo.AdaptiveLIF(rho=0.5)(x)) and not torch.equal(layer(x), tgo.AdaptiveLIF(rho=0.9)(x))
    (spikes := layer(x)).sum().backward()
    assert spikes.any() and layer.rho.grad != 0


def test_an_oscillation_is_swapped_for_an_attack():
    torch.manual_seed(0)
    x = torch.randn(6, 50)
    layer = tgo.OscillatingLIF(amplitude=0.4, noise_std=0.2, stateful=True)
    layer.set(swapped=(0.2, 3.0, 0.5))
    found = []
    for swapped in (None, (0.2, 3.0, 0.5)):
        layer.set(swapped=swapped)
        layer.reset()
        torch.manual_seed(1)
        leaf = x.clone().requires_grad_()
        spikes = torch.cat([layer(leaf[:3]), layer(leaf[3:])])
        found.append((spikes, *torch.autograd.grad(spikes.sum(), leaf)))
    (spikes, g), (same, other) = found
    assert torch.equal(spikes, same) and spikes.any() and not torch.allclose(g, other)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: tgo.AdaptiveLIF(roh=0.5), TypeError, "roh"),
        (lambda: tgo.AdaptiveLIF(rho=-0.5), ValueError, "rho must be finite and >= 0"),
        (lambda: tgo.AdaptiveLIF(learn_rho=1), TypeError, "learn_rho must be a bool"),
        (lambda: tgo.AdLIF(symplectic="yes"), TypeError, "symplectic must be a bool"),
        (lambda: tgo.HomeostaticLIF(adapt_grad="some"), ValueError, "adapt_grad must be 'full' or 'none'"),
        (lambda: tgo.OscillatingLIF(period=0.0), ValueError, "period must be finite and >="),
        (lambda: tgo.OscillatingLIF(form="both"), ValueError, "form must be 'additive' or 'multiplicative'"),
        (lambda: tgo.OscillatingLIF(swapped=0.3), TypeError, "swapped must be None, or an amplitude, a period and"),
        (lambda: tgo.OscillatingLIF(swapped=(0.3, 0.0, 0.0)), ValueError, "period must be finite and >="),
        (lambda: tgo.AdaptiveLIF().set(a=0.5), TypeError, "no constant a to set; it has tau, .*rho, beta, increment"),
        (lambda: tgo.AdaptiveLIF().set(rho="x"), TypeError, "rho must be a Python float"),
        (lambda: tgo.TernaryLIF(v_threshold=-1.0), ValueError, "v_threshold must be >= 0"),
        (lambda: tgo.IntegerLIF(levels=0), ValueError, "levels must be an int from 1 to 256, got 0"),
        (lambda: tgo.IntegerLIF(normalize=1), TypeError, "normalize must be a bool"),
        (lambda: tgo.IntegerLIF(v_threshold=2.0), ValueError, r"v_threshold of an IntegerLIF is 1\.0"),
        (lambda: tgo.IntegerLIF(v_reset=0.0), ValueError, "v_reset of an IntegerLIF is None"),
        (lambda: tgo.IntegerLIF(surrogate=tgo.Erf()), ValueError, "the surrogate of an IntegerLIF is fixed"),
        (lambda: tgo.IntegerLIF(guard_margin=0.3), ValueError, "guard_margin of an IntegerLIF is 0"),
        (lambda: tgo.IntegerLIF(learn_threshold=True), ValueError, "v_threshold of IntegerLIF is fixed"),
        (lambda: tgo.IntegerLIF().set(v_threshold=0.5), ValueError, "v_threshold of an IntegerLIF is"),
        (lambda: tgo.InhibitedLIF()(torch.ones(2, 3)), TypeError, "missing 2 required positional arguments"),
    ],
)
def test_bad_constants_are_named(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_a_norm_in_front_is_a_pair_of_constants():
    """In the pass of a neuron whose input is in more than its membrane, too."""
    x = torch.randn(5, 8, 4, 6, 6)
    for kind in LAYERS:
        if len(kind.kind.INPUTS) == 1:
            norm, layer = torch.nn.BatchNorm2d(4), kind(v_threshold=1.0 if kind in FIXED else 0.4)
            torch.nn.init.uniform_(norm.weight), torch.nn.init.uniform_(norm.bias)
            apart = layer(norm(x.flatten(0, 1)).unflatten(0, (5, 8)))
            fused = tgo.Block(norm, layer)(x)
            assert (fused != apart).float().mean() < 1e-3 and 0 < (fused != 0).float().mean() < 1, kind.__name__


def test_constants_that_are_tensors_are_buffers_or_parameters():
    target, theta = torch.randn(7, 1, 4, 5), torch.nn.Parameter(torch.rand(4, 5))
    layer = tgo.HomeostaticLIF(4.0, False, target=target, theta=theta)
    assert list(layer.state_dict()) == ["theta", "target"] and layer.theta is theta and layer.target is target
    x = torch.randn(7, 3, 4, 5)
    spikes = layer(x)
    assert torch.equal(spikes, tgo.scan(neurons.HomeostaticLIF(decay=0.75, target=target, theta=theta), x).spikes)
    spikes.sum().backward()
    assert theta.grad.abs().sum() > 0 and layer.learned(4).keys() == {"theta", "target"}
    other = pickle.loads(pickle.dumps(copy.deepcopy(layer)))
    other.load_state_dict(layer.state_dict())
    assert torch.equal(other(x), spikes) and other.target is not target
    layer.set(target=0.25)
    assert torch.equal(target, torch.full_like(target, 0.25)) and "target=0.25" in repr(layer)
    assert layer.double().target.dtype == torch.float64
    with pytest.raises(ValueError, match=r"a tensor that learns is an nn\.Parameter"):
        tgo.HomeostaticLIF(theta=torch.rand(5), learn_theta=True)
    with pytest.raises(TypeError, match="unexpected keyword argument 'decay'"):
        tgo.HomeostaticLIF(decay=torch.rand(5))


def a_network():
    return torch.nn.Sequential(
        torch.nn.Linear(6, 8),
        tgo.LIF(noise_std=0.3, stateful=True),
        torch.nn.Linear(8, 4),
        tgo.AdaptiveLIF(v_reset=None),
    )


def test_signatures_are_the_mean_membranes():
    net, batches = a_network(), [torch.randn(5, n, 6) * 3 for n in (3, 7)]
    net[0].eval()
    before = [layer.neuron for layer in (net[1], net[3])]
    for given in (batches, [(x, 0) for x in batches]):
        found = tgo.signatures(net, given)
        assert {name: list(mean.shape) for name, mean in found.items()} == {"1": [5, 1, 8], "3": [5, 1, 4]}
    h = tgo.scan(neurons.LIF(membrane="h", gain=0.5), net[0](torch.cat(batches, 1)))
    torch.testing.assert_close(found["1"], h.membrane.mean(1, keepdim=True))
    second = tgo.scan(net[3].neuron, net[2](h.spikes), membrane="h")
    torch.testing.assert_close(found["3"], second.membrane.mean(1, keepdim=True))
    assert [layer.neuron for layer in (net[1], net[3])] == before and net[1].v is None
    assert net[1].training and not net[0].training and not net[1]._forward_hooks
    with torch.no_grad():
        homeostatic = tgo.HomeostaticLIF(target=found["1"])(net[0](batches[0]))
    assert 0 < homeostatic.mean() < 1
    of_any = tgo.signatures(tgo.Layer(neurons.LIF(gain=0.5)), [net[0](x) for x in batches])
    assert torch.equal(of_any[""], found["1"])
    called = []
    tgo.signatures(net, ["a"], run=lambda model, batch: called.append((batch, model(batches[0]))))
    assert called[0][0] == "a" and not called[0][1].requires_grad


def test_what_has_no_signature_is_named():
    net, x = a_network(), torch.randn(5, 3, 6)
    for make, message in (
        (lambda: tgo.signatures(torch.nn.Linear(2, 2), [x]), "model has no layer"),
        (lambda: tgo.signatures(net, []), "batches has none"),
        (lambda: tgo.signatures(net, [x, x[:4]]), r"1: \[T, \*\] was \[5, 1, 8\], and is \[4, 1, 8\]"),
        (lambda: tgo.signatures(torch.nn.Sequential(*[tgo.LIF()] * 2), [x]), "0 is called more than once"),
    ):
        with pytest.raises(ValueError, match=message):
            make()
        assert net.training and net[1].neuron.membrane is None
