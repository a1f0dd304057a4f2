"""The layer: conventions, modes, state, copies."""

import copy
import io
import pickle

import pytest
import torch

import tgo_kernels as tgo


@pytest.mark.parametrize(("tau", "decay_input", "decay", "gain"), [(2.0, True, 0.5, 0.5), (4.0, False, 0.75, 1.0)])
@pytest.mark.parametrize("v_reset", [0.0, -0.3, None])
def test_constants_of_the_field(tau, decay_input, decay, gain, v_reset):
    x = torch.randn(6, 40)
    layer = tgo.LIF(tau, decay_input, 0.8, v_reset, tgo.Sigmoid(4.0), True)
    other = tgo.LIF.from_decay(decay, gain, 0.8, v_reset, tgo.Sigmoid(4.0), True)
    out = tgo.lif(
        x, decay=decay, gain=gain, v_threshold=0.8, v_reset=v_reset, surrogate=tgo.Sigmoid(4.0), detach_reset=True
    )
    assert torch.equal(layer(x), out.spikes) and torch.equal(other(x), out.spikes)
    assert torch.equal(layer.v, out.v_final) and layer.neuron == other.neuron


def test_noise_is_off_in_eval():
    x = torch.randn(4, 2000)
    layer, plain = tgo.LIF(noise_std=0.5), tgo.LIF()
    assert not torch.equal(layer(x), layer(x))
    assert torch.equal(layer.eval()(x), plain(x))
    noisy = tgo.LIF(noise_std=0.5, noise_in_eval=True).eval()
    assert not torch.equal(noisy(x), noisy(x))


def test_noise_pdf_keeps_its_width_in_eval():
    x = torch.randn(4, 50, requires_grad=True)
    layer = tgo.LIF(noise_std=0.4, surrogate=tgo.NoisePDF()).eval()
    layer(x).sum().backward()
    (expected,) = torch.autograd.grad(tgo.LIF(surrogate=tgo.NoisePDF(0.4))(x).sum(), x)
    assert torch.equal(x.grad, expected)


def test_rates_and_penalty():
    x = torch.randn(4, 3000)
    layer = tgo.LIF(guard_margin=0.25)
    spikes = layer(x)
    h = tgo.reference.membrane(x, neuron=layer.neuron)
    near = (h - 1).abs() < 0.25
    assert float(layer.firing_rate) == pytest.approx(float(spikes.mean()))
    assert float(layer.neighbor_rate) == pytest.approx(float(near.float().mean()))
    assert float(layer.penalty) == pytest.approx(float(torch.relu(0.25 - (h - 1).abs()).mean()))
    assert layer.penalty.requires_grad is False and tgo.LIF()(x) is not None


def test_before_the_first_forward():
    layer = tgo.LIF()
    assert layer.penalty is layer.v is layer.firing_rate is layer.neighbor_rate is None


def test_reset_forgets_the_penalty():
    layer = tgo.LIF(guard_margin=0.5)
    layer(torch.randn(4, 3, requires_grad=True))
    tgo.guard_penalty(layer).backward()
    layer.reset()
    with pytest.raises(RuntimeError, match="not run yet"):
        tgo.guard_penalty(layer)


def test_from_decay_of_a_subclass():
    class Named(tgo.LIF):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            self.name = "mine"

    layer = Named.from_decay(0.9, 0.2, guard_margin=0.5)
    assert layer.name == "mine" and (layer.neuron.decay, layer.neuron.gain) == (0.9, 0.2)


@pytest.mark.parametrize("noise_std", [0.0, 0.4])
def test_stateful_chunks_equal_the_whole(noise_std):
    x = torch.randn(11, 30)
    layer = tgo.LIF(stateful=True, noise_std=noise_std, guard_margin=0.2)
    torch.manual_seed(3)
    chunks = torch.cat([layer(x[:3]), layer(x[3:4]), layer(x[4:])])
    state = layer.v
    layer.reset()
    torch.manual_seed(3)
    assert torch.equal(layer(x), chunks) and torch.equal(layer.v, state)
    if noise_std:
        layer.reset()
        assert not torch.equal(layer(x), chunks)


def test_stateful_gradient_flows_until_detached_or_reset():
    layer = tgo.LIF(stateful=True)
    first, second = torch.randn(3, 5, requires_grad=True), torch.randn(3, 5, requires_grad=True)
    layer(first)
    layer(second).sum().backward()
    assert first.grad.abs().sum() > 0
    with pytest.raises(RuntimeError, match="second time"):
        layer(second.detach()).sum().backward()
    for forget in (layer.detach, layer.reset):
        forget()
        layer(second).sum().backward()
        forget()
        layer(second).sum().backward()
    layer.reset()
    assert layer.v is None


def test_stateful_shape_change_is_explained():
    layer = tgo.LIF(stateful=True)
    layer(torch.randn(2, 5))
    with pytest.raises(ValueError, match=r"shape \(5,\).*reset\(\)"):
        layer(torch.randn(2, 6))
    layer.reset()
    layer(torch.randn(2, 6))


@pytest.mark.parametrize("stateful", [False, True])
def test_copies_pickles_and_state_dicts(stateful):
    net = torch.nn.Sequential(torch.nn.Linear(5, 8), tgo.LIF(stateful=stateful, guard_margin=0.5, noise_std=0.1))
    x = torch.randn(3, 2, 5)
    net(x).sum()  # leaves a graph behind
    file = io.BytesIO()
    torch.save(net, file)
    file.seek(0)
    for other in (copy.deepcopy(net), pickle.loads(pickle.dumps(net)), torch.load(file, weights_only=False)):
        torch.manual_seed(1)
        expected = net(x)
        for layer in (net, other):
            layer[1].reset()
        torch.manual_seed(1)
        expected = net(x)
        torch.manual_seed(1)
        assert torch.equal(other(x), expected)
        assert other[1].neuron == net[1].neuron
    assert list(net.state_dict()) == ["0.weight", "0.bias"]
    net.load_state_dict(copy.deepcopy(net).state_dict())
    assert (net[1].v.grad_fn is not None) == stateful  # the original keeps its graph


def test_a_plain_layer_does_not_keep_the_graph():
    layer = tgo.LIF()
    layer(torch.randn(3, 5, requires_grad=True))
    assert not layer.penalty.requires_grad and not layer.v.requires_grad


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"tau": 0.5}, ValueError, "tau must be finite and >= 1"),
        ({"stateful": "no"}, TypeError, "stateful must be a bool"),
        ({"noise_in_eval": 3}, TypeError, "noise_in_eval must be a bool"),
        ({"decay_input": "False"}, TypeError, "decay_input must be a bool"),
        ({"tau": "2"}, TypeError, "tau must be a Python float"),
        ({"impl": "fast"}, ValueError, "impl must be"),
        ({"noise_std": -0.1}, ValueError, "noise_std"),
        ({"surrogate": tgo.NoisePDF()}, ValueError, "noise_std > 0"),
    ],
)
def test_bad_constants_are_named(arguments, error, message):
    with pytest.raises(error, match=message):
        tgo.LIF(**arguments)


def test_repr_names_the_constants():
    text = repr(tgo.LIF(noise_std=0.3, guard_margin=0.5))
    assert "decay=0.5" in text and "noise_std=0.3" in text and "guard_margin=0.5" in text


def test_a_subclass_may_watch_its_state():
    seen = []

    class Watched(tgo.LIF):
        @property
        def v(self):
            return seen[-1] if seen else None

        @v.setter
        def v(self, value):
            seen.append(value)

    layer = Watched(2.0)
    layer(torch.ones(2, 3))
    assert layer.v is not None and layer.v.shape == (3,)


@pytest.mark.parametrize("channels", [None, 5])
@pytest.mark.parametrize("decay_input", [True, False])
def test_decay_and_threshold_learn(decay_input, channels):
    learns = {"learn_decay": True, "learn_threshold": True, "channels": channels}
    layer = tgo.LIF(4.0, decay_input, 0.8, **learns, guard_margin=0.5)
    assert {name: p.shape for name, p in layer.named_parameters()} == dict.fromkeys(
        ("w", "v_threshold"), torch.Size(() if channels is None else (channels,))
    )
    x = torch.randn(6, 3, 5, 4, 4)
    same = tgo.LIF(4.0, decay_input, 0.8, guard_margin=0.5)
    assert torch.equal(layer(x), same(x)) and torch.equal(layer.penalty, same.penalty)

    with torch.no_grad():
        layer.w += torch.linspace(-1, 1, 5) if channels else 0.5
        layer.v_threshold *= torch.linspace(0.5, 1.5, 5) if channels else 0.7
    shape = (5, 1, 1) if channels else ()
    w, threshold = (p.detach().reshape(shape).requires_grad_() for p in (layer.w, layer.v_threshold))
    rate = w.sigmoid()
    out = tgo.lif(x, decay=1 - rate, gain=rate if decay_input else 1.0, v_threshold=threshold, guard_margin=0.5)
    assert torch.equal(layer(x), out.spikes) and torch.equal(layer.penalty, out.penalty) and out.spikes.any()
    (layer(x).sum() + layer.penalty).backward()
    (out.spikes.sum() + out.penalty).backward()
    assert torch.equal(layer.w.grad, w.grad.reshape(layer.w.shape)) and layer.w.grad.abs().min() > 0
    assert torch.equal(layer.v_threshold.grad, threshold.grad.reshape(layer.w.shape))


def test_what_learns_is_stored_and_shown():
    layer = tgo.LIF.from_decay(0.9, 1.0, learn_decay=True, learn_threshold=True, channels=3)
    assert torch.allclose(1 - layer.w.sigmoid(), torch.tensor(0.9)) and layer.neuron.gain == 1.0
    assert "decay=0.9..0.9, gain=1, v_threshold=1..1" in repr(layer)
    assert "decay=0.5, gain=0.5, v_threshold=1," in repr(tgo.LIF(learn_decay=True, learn_threshold=True))
    with torch.no_grad():
        layer.w.copy_(torch.tensor([-1.0, 0.0, 1.0]))
    x, other = torch.randn(4, 2, 3, 2), tgo.LIF.from_decay(0.5, 1.0, learn_decay=True, learn_threshold=True, channels=3)
    other.load_state_dict(layer.state_dict())
    assert torch.equal(other(x), layer(x)) and torch.equal(copy.deepcopy(layer)(x), layer(x))
    assert torch.equal(layer.bfloat16()(x.bfloat16()), other(x.bfloat16()))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: tgo.LIF(1.0, learn_decay=True), "learn_decay needs a decay between 0 and 1, or tau > 1; got decay=0"),
        (lambda: tgo.LIF.from_decay(1.0, learn_decay=True), "got decay=1"),
        (lambda: tgo.LIF(channels=3), "channels must be a number >= 1 of channels with constants that learn"),
        (lambda: tgo.LIF(learn_decay=True, channels=0), "channels must be"),
        (lambda: tgo.LIF(learn_decay=True, channels=3)(torch.ones(2, 1, 4, 5)), r"decay must broadcast to \(1, 4, 5\)"),
    ],
)
def test_what_cannot_learn_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    "make", [lambda t: tgo.LIF(v_threshold=t), tgo.LIF.from_decay, lambda t: tgo.LIF.from_decay(0.5, t)]
)
def test_a_layer_takes_numbers(make):
    """A tensor would be neither parameter nor buffer."""
    with pytest.raises(TypeError, match="must be a Python float, got Tensor"):
        make(torch.tensor(0.5))


def test_learning_channels_compile_for_all_sizes():
    torch.compiler.reset()
    for channels in (8, 16):
        layer = tgo.LIF(learn_decay=True, channels=channels)
        compiled = torch.compile(layer, dynamic=True, fullgraph=True, backend="aot_eager")
        for batch in (2, 3):
            x, grads = torch.randn(4, batch, channels), []
            for call in (layer, compiled):
                layer.zero_grad()
                call(x).sum().backward()
                grads.append(layer.w.grad.clone())
            assert torch.equal(*grads) and grads[0].any()
    torch.compiler.reset()
