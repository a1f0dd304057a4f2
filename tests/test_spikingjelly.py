"""SpikingJelly's models on fused layers: the same spikes, losses and checkpoints, and what is refused."""

import copy
import io
import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from cases import dyadic
from models import lif_layers, losses, made_exact
from spikingjelly.activation_based import functional, layer, neuron, surrogate
from torch import nn

import tgo_kernels as tgo
from tgo_kernels.interop import spikingjelly as from_spikingjelly


@pytest.fixture
def zoo(torchvision):
    from spikingjelly.activation_based.model import sew_resnet, spiking_vgg

    return {
        "vgg": lambda **o: spiking_vgg.spiking_vgg11_bn(num_classes=10, **o),
        "sew": lambda **o: sew_resnet.sew_resnet18(cnf="ADD", num_classes=10, **o),
    }


def all_steps(model: nn.Module, x: torch.Tensor) -> torch.Tensor:
    functional.reset_net(model)
    return model(x).mean(0)


@pytest.mark.parametrize("name", ["vgg", "sew"])
def test_spikingjellys_own_models(zoo, name):
    torch.manual_seed(0)
    options = {"spiking_neuron": neuron.LIFNode, "surrogate_function": surrogate.ATan(), "detach_reset": True}
    theirs = made_exact(zoo[name](**options)).eval()
    functional.set_step_mode(theirs, "m")
    ours = copy.deepcopy(theirs)
    report = from_spikingjelly.convert(ours)
    neurons = sum(isinstance(module, neuron.LIFNode) for module in theirs.modules())
    assert len(report.converted) == neurons >= 10 and not report.left

    x = dyadic(4, 2, 3, 32, 32)
    with torch.no_grad():
        expected = theirs(x)
        assert torch.equal(ours(x), expected)
    assert expected.std() > 0 and all(node.firing_rate > 0.001 for node in lif_layers(ours))

    torch.manual_seed(1)
    theirs = zoo[name](**options).train()
    if name == "vgg":
        theirs.avgpool, theirs.classifier = layer.AdaptiveAvgPool2d(1), nn.Sequential(layer.Linear(512, 10))
    functional.set_step_mode(theirs, "m")
    ours = copy.deepcopy(theirs)
    from_spikingjelly.convert(ours)
    x, y = torch.randn(2, 4, 3, 32, 32), torch.arange(4)
    curve = losses(theirs, all_steps, x, y)
    assert curve[-1] < curve[0]
    assert losses(ours, all_steps, x, y) == pytest.approx(curve, rel=1e-3, abs=1e-4)


def pair(**options) -> tuple[nn.Module, nn.Module]:
    theirs = neuron.LIFNode(**options)
    model = nn.Sequential(copy.deepcopy(theirs))
    from_spikingjelly.convert(model)
    return theirs, model[0]


@pytest.mark.parametrize("v_reset", [0.0, None, -0.25])
@pytest.mark.parametrize("decay_input", [True, False])
@pytest.mark.parametrize("step_mode", ["s", "m"])
def test_a_spikingjelly_node_goes_on_as_before(step_mode, decay_input, v_reset):
    options = {"decay_input": decay_input, "v_reset": v_reset, "step_mode": step_mode, "detach_reset": True}
    theirs, ours = pair(surrogate_function=surrogate.Sigmoid(3.0), v_threshold=0.75, **options)
    assert isinstance(ours, neuron.LIFNode) and isinstance(ours, tgo.LIF) and ours.v == theirs.v
    x = dyadic(3, 4, 5) if step_mode == "m" else dyadic(4, 5)
    grads = []
    for node in (theirs, ours):
        given = x.clone().requires_grad_()
        outs = [node(given) for _ in range(3)]
        sum((k + 1) * out.sum() for k, out in enumerate(outs)).backward()
        grads.append((torch.stack(outs), node.v, given.grad))
    for a, b in zip(*grads, strict=True):
        torch.testing.assert_close(b, a)
    assert torch.equal(grads[0][0], grads[1][0]) and 0 < grads[0][0].mean() < 1
    functional.detach_net(ours)
    assert ours.v.grad_fn is None and torch.equal(ours.v, theirs.v)
    theirs.v = ours.v = 0.5
    assert torch.equal(ours(x), theirs(x))
    functional.reset_net(ours)
    functional.reset_net(theirs)
    assert ours.v == theirs.v


@pytest.mark.parametrize("v_reset", [0.0, None, -0.25])
@pytest.mark.parametrize("decay_input", [True, False])
@pytest.mark.parametrize("step_mode", ["s", "m"])
def test_a_parametric_spikingjelly_node_learns_as_before(step_mode, decay_input, v_reset):
    options = {"decay_input": decay_input, "v_reset": v_reset, "step_mode": step_mode, "detach_reset": True}
    theirs = neuron.ParametricLIFNode(2.0, surrogate_function=surrogate.Sigmoid(3.0), v_threshold=0.75, **options)
    model = nn.Sequential(copy.deepcopy(theirs))
    assert from_spikingjelly.convert(model).converted
    ours, w = model[0], model[0].w
    assert isinstance(ours, neuron.ParametricLIFNode) and isinstance(ours, tgo.LIF) and [*model.parameters()] == [w]
    xs = [dyadic(3, 4, 5) if step_mode == "m" else dyadic(4, 5) for _ in range(3)]
    results = []
    for node in (theirs, ours):
        given = [x.clone().requires_grad_() for x in xs]
        outs = [node(x) for x in given]
        sum((k + 1) * out.sum() for k, out in enumerate(outs)).backward()
        results.append((torch.stack(outs), node.v, node.w.grad, *(x.grad for x in given)))
    assert torch.equal(results[0][0], results[1][0]) and 0 < results[0][0].mean() < 1
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(b, a)

    torch.manual_seed(0)
    nets = [nn.Sequential(layer.Linear(5, 32), node, layer.Linear(32, 3)) for node in (theirs, ours)]
    functional.set_step_mode(nets[0], "m")
    functional.set_step_mode(nets[1], "m")
    nets[1].load_state_dict(nets[0].state_dict())
    x, y = torch.randn(4, 8, 5), torch.arange(8) % 3
    curves = [losses(net, all_steps, x, y, lr=0.2) for net in nets]
    assert curves[1] == pytest.approx(curves[0], rel=1e-3, abs=1e-4) and curves[0][-1] < curves[0][0]
    torch.testing.assert_close(ours.w, theirs.w, rtol=1e-3, atol=1e-4)
    assert w is ours.w and abs(w.item()) > 1e-3  # it began at 0


@pytest.mark.parametrize("step_mode", ["s", "m"])
@pytest.mark.parametrize("reset_value", [None, 0.5])
@pytest.mark.parametrize("v_reset", [0.0, None, -0.25])
def test_inputs_of_another_shape_spikingjelly_node(step_mode, reset_value, v_reset):
    """They start a new sequence, at rest, whatever the reset value; in 0.0.0.0.14 the state broadcasts, or raises."""
    theirs, ours = pair(step_mode=step_mode, v_reset=v_reset)
    first, *others = (dyadic(3, 1, 5), dyadic(3, 4, 5), dyadic(3, 4, 2))
    for node in (theirs, ours):
        if reset_value is not None:
            node.set_reset_value("v", reset_value)
        node.reset()
        node(first if step_mode == "m" else first[0])
    for x in others:
        x = x if step_mode == "m" else x[0]
        try:
            expected = theirs(x)
        except RuntimeError:
            with pytest.raises(RuntimeError):
                ours(x)
            continue
        assert torch.equal(ours(x), expected) and torch.equal(ours.v, theirs.v)
    assert expected.any()


def test_a_neuron_is_converted_in_the_middle_of_a_sequence():
    node = neuron.IFNode(v_reset=None, step_mode="m")
    x = dyadic(4, 6)
    node(x)
    expected = copy.deepcopy(node)
    shared = nn.ModuleDict({"a": node, "again": node})
    seen = []
    hook = node.register_forward_hook(lambda module, args, out: seen.append(out))
    from_spikingjelly.convert(shared)
    assert shared["a"] is shared["again"] is node
    assert torch.equal(node(x), expected(x)) and torch.equal(node.v, expected.v) and len(seen) == 1
    hook.remove()
    assert torch.equal(copy.deepcopy(node)(x), expected(x))
    file = io.BytesIO()
    torch.save(shared, file)
    file.seek(0)
    again = torch.load(file, weights_only=False)["a"]
    functional.reset_net(again)
    assert isinstance(again, tgo.LIF) and again(x).shape == x.shape


def test_the_state_is_one_of_spikingjellys_memories():
    theirs, ours = pair(step_mode="m", detach_reset=True)
    x = dyadic(4, 3, 5)
    for node in (theirs, ours):
        assert [name for name, _ in node.named_memories()] == ["v"]
        node.set_reset_value("v", 0.5)
        functional.reset_net(node)
    assert torch.equal(ours(x), theirs(x)) and torch.equal(ours.v, theirs.v)
    assert ours.__getattr__("v") is ours.v  # as monitors of 0.0.0.0.14 ask
    if hasattr(ours, "functional_forward"):
        (a,), (v,) = theirs.functional_forward((x,), (0.25,))
        state = ours.v
        (b,), (w,) = ours.functional_forward((x,), (0.25,))
        assert torch.equal(a, b) and torch.equal(v, w) and ours.v is state


def test_a_state_that_is_recomputed():
    memopt = pytest.importorskip("spikingjelly.activation_based.memopt")
    theirs = nn.Sequential(layer.Linear(5, 8), neuron.LIFNode(step_mode="m"))
    functional.set_step_mode(theirs, "m")
    ours = copy.deepcopy(theirs)
    from_spikingjelly.convert(ours)
    x, found = dyadic(4, 3, 5), []
    for model in (theirs, ours):
        recomputed = memopt.checkpoint_module(model)
        with torch.no_grad():
            recomputed(x)
        recomputed(x).sum().backward()
        found.append(model[0].weight.grad)
    torch.testing.assert_close(found[1], found[0])


def test_resetting_a_converted_model_warns_of_nothing(caplog, capfd):
    functional_reset = functional.reset_net
    model = nn.Sequential(neuron.LIFNode(step_mode="m"), neuron.IFNode(step_mode="m"))
    functional_reset(model)
    from_spikingjelly.convert(model, noise_std=0.5, guard_margin=2.0)
    functional.set_step_mode(model, "m")
    model(dyadic(2, 3))
    assert tgo.guard_penalty(model) > 0 and model[0].neuron.noise_std == 0.5
    with caplog.at_level(logging.WARNING):
        functional_reset(model)
    assert not caplog.records and "reset()" not in capfd.readouterr().err
    assert model[0].v == 0.0 and model[0].penalty is None


def test_the_former_spikingjelly():
    """The same tests, less those of its models, beside version 0.0.0.0.14."""
    former = Path(sys.prefix) / "former"
    if not former.exists():
        pytest.skip(f"needs SpikingJelly 0.0.0.0.14 in {former}")
    files = [__file__, str(Path(__file__).with_name("test_converted_settings.py"))]
    chosen = "spikingjelly_node or middle or warns_of_nothing or spikingjelly_has"
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *files, "-k", chosen]
    done = subprocess.run(command, env=os.environ | {"PYTHONPATH": str(former)}, capture_output=True, text=True)
    assert done.returncode == 0 and "." * 15 in done.stdout, done.stdout + done.stderr


def test_what_spikingjelly_has_and_we_have_not_is_named():
    class Mine(neuron.LIFNode):
        pass

    model = nn.ModuleDict(
        {
            "plain": neuron.LIFNode(),
            "subclass": Mine(),
            "klif": neuron.KLIFNode(),
            "izhikevich": neuron.IzhikevichNode(),
            "psn": getattr(neuron, "PSN", neuron.QIFNode)(**({"T": 4} if hasattr(neuron, "PSN") else {})),
            "surrogate": neuron.IFNode(surrogate_function=surrogate.PiecewiseLeakyReLU()),
            "relaxed": neuron.IFNode(surrogate_function=surrogate.ATan(spiking=False)),
        }
    )
    with pytest.warns(UserWarning, match="1 neurons converted, 6 left"):
        report = from_spikingjelly.convert(model)
    assert list(report.converted) == ["plain"] and report.left.keys() == model.keys() - {"plain"}
    assert "PiecewiseLeakyReLU" in report.left["surrogate"]
    assert all(name in str(report) for name in model)
    assert type(model["subclass"]) is Mine and not isinstance(model["klif"], tgo.LIF)
    assert not from_spikingjelly.convert(nn.Sequential(model["plain"])).converted  # it is one already, just so
    with pytest.raises(ValueError, match="noise_std must be finite and >= 0"):
        from_spikingjelly.convert(nn.Sequential(neuron.LIFNode()), noise_std=-1.0)


@pytest.mark.parametrize("step_mode", ["s", "m"])
@pytest.mark.parametrize("v_reset", [0.0, None])
def test_spikingjellys_membranes_are_kept(v_reset, step_mode):
    options = {"v_reset": v_reset, "step_mode": step_mode, "store_v_seq": True, "surrogate_function": surrogate.ATan()}
    theirs, ours = (neuron.LIFNode(**options) for _ in range(2))
    assert from_spikingjelly.convert(nn.Sequential(ours)).converted
    x, found = dyadic(6, 3, 20), []
    for node in (theirs, ours):
        given = x.clone().requires_grad_()
        node(given) if step_mode == "m" else [node(step) for step in given]
        (node.v_seq * torch.linspace(-1, 2, 20)).sum().backward()
        found.append((node.v_seq, given.grad))
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(b, a)
    assert ours.v_seq.shape == x.shape
    functional.detach_net(ours)
    assert not ours.v_seq.requires_grad
    functional.reset_net(ours)
    assert ours.v_seq is None
    ours.store_v_seq = False
    ours(x if step_mode == "m" else x[0])
    assert ours.v_seq is None


@pytest.mark.skipif(not hasattr(neuron, "NonSpikingLIFNode"), reason="this SpikingJelly has none")
@pytest.mark.parametrize("decode", [None, "max-mem", "max-abs-mem", "mean-mem", "last_mem"])
@pytest.mark.parametrize("kind", ["NonSpikingLIFNode", "NonSpikingIFNode"])
def test_a_spikingjelly_read_out(kind, decode):
    theirs, ours = (getattr(neuron, kind)(decode=decode) for _ in range(2))
    model = nn.Sequential(ours)
    assert from_spikingjelly.convert(model, noise_std=0.3, guard_margin=0.5).converted
    assert isinstance(ours, type(theirs)) and not from_spikingjelly.convert(model).converted
    x, found = torch.randn(6, 3, 20), []
    for node in (theirs, ours):
        given, out = x.clone().requires_grad_(), []
        for _ in range(2):  # it starts at 0 each time
            out = node(given)
        out = torch.stack(out) if decode is None else out
        (out * torch.linspace(-1, 2, 20)).sum().backward()
        found.append((out, given.grad, node.v))
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(b, a)
    if kind == "NonSpikingLIFNode":
        ours.tau = theirs.tau = 5.0
        torch.testing.assert_close(ours(x)[-1], theirs(x)[-1])
        ours.set(tau=3.0)
        assert ours.tau == 3.0 and ours.neuron.decay == 1 - 1 / 3
    with pytest.raises(ValueError, match=f"{kind} has no v_threshold"):
        ours.set(v_threshold=2.0)
