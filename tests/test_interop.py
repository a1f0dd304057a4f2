"""Models of SpikingJelly and snnTorch on fused layers: the same spikes, losses and checkpoints, and what is refused."""

import copy
import io
import logging
import os
import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import snntorch
import torch
from cases import dyadic
from snntorch import surrogate as snn_surrogate
from snntorch import utils
from spikingjelly.activation_based import functional, layer, neuron, surrogate
from torch import nn

import tgo_kernels as tgo
from tgo_kernels.interop import snntorch as from_snntorch
from tgo_kernels.interop import spikingjelly as from_spikingjelly


@pytest.fixture
def zoo(monkeypatch):
    """SpikingJelly's models, which take one function from torchvision that no test calls."""
    for name in ("torchvision", "torchvision.models", "torchvision.models.utils"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    sys.modules["torchvision.models.utils"].load_state_dict_from_url = torch.hub.load_state_dict_from_url
    from spikingjelly.activation_based.model import sew_resnet, spiking_vgg

    return {
        "vgg": lambda **o: spiking_vgg.spiking_vgg11_bn(num_classes=10, **o),
        "sew": lambda **o: sew_resnet.sew_resnet18(cnf="ADD", num_classes=10, **o),
    }


def made_exact(model: nn.Module) -> nn.Module:
    """Weights on a binary grid and norms that do nothing: every order of the same sums has the same bits."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eps = 0.0
        for p in module.parameters(recurse=False):
            scale = 0.1 if p.dim() == 1 else 6 / p[0].numel() ** 0.5
            if not isinstance(module, nn.BatchNorm2d):
                with torch.no_grad():
                    p.copy_((torch.randn_like(p) * scale * 64).round() / 64)
    return model


def losses(model: nn.Module, run, x: torch.Tensor, y: torch.Tensor, lr: float = 0.05) -> list[float]:
    optimizer = torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9)
    found = []
    for _ in range(20):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(run(model, x), y)
        loss.backward()
        optimizer.step()
        found.append(loss.item())
    return found


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


def lif_layers(model: nn.Module) -> list[tgo.LIF]:
    return [module for module in model.modules() if isinstance(module, tgo.LIF)]


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


def test_inputs_of_another_shape_start_a_new_sequence():
    theirs, ours = pair(step_mode="m")
    for x in (dyadic(3, 4, 5), dyadic(3, 4, 2)):
        assert torch.equal(ours(x), theirs(x))


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


@pytest.mark.parametrize("framework", ["spikingjelly", "snntorch"])
def test_truncated_backpropagation_with_a_penalty(framework):
    if framework == "spikingjelly":
        node = neuron.LIFNode()
        from_spikingjelly.convert(node, guard_margin=1.0)
    else:
        node = snntorch.Leaky(beta=0.5, init_hidden=True, reset_delay=False)
        from_snntorch.convert(node, guard_margin=1.0)
    penalties = []
    for _ in range(3):
        weight = torch.ones((), requires_grad=True)
        for step in dyadic(4, 6):
            node(weight * step)
        penalties.append(node.penalty.detach())
        tgo.guard_penalty(node).backward()  # raises where a former graph is left
        node.detach()
    assert len(set(penalties)) == 3
    state = node.v
    node.reset()
    assert not (isinstance(node.v, torch.Tensor) and node.v is state)
    fresh = copy.deepcopy(node)
    x = torch.full((6,), 0.8)
    assert torch.equal(node(x), fresh(x)) and torch.equal(node(x[:3]), fresh(x[:3]))
    assert torch.equal(node.penalty, fresh.penalty)


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
    chosen = "spikingjelly_node or middle or warns_of_nothing or spikingjelly_has"
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", __file__, "-k", chosen]
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
            "sequence": neuron.LIFNode(store_v_seq=True),
            "surrogate": neuron.IFNode(surrogate_function=surrogate.PiecewiseLeakyReLU()),
            "relaxed": neuron.IFNode(surrogate_function=surrogate.ATan(spiking=False)),
        }
    )
    with pytest.warns(UserWarning, match="1 neurons converted, 7 left"):
        report = from_spikingjelly.convert(model)
    assert list(report.converted) == ["plain"] and report.left.keys() == model.keys() - {"plain"}
    assert "store_v_seq" in report.left["sequence"] and "PiecewiseLeakyReLU" in report.left["surrogate"]
    assert all(name in str(report) for name in model)
    assert type(model["subclass"]) is Mine and not isinstance(model["klif"], tgo.LIF)
    assert not from_spikingjelly.convert(nn.Sequential(model["plain"])).converted  # it is one already
    with pytest.raises(ValueError, match="noise_std must be finite and >= 0"):
        from_spikingjelly.convert(nn.Sequential(neuron.LIFNode()), noise_std=-1.0)


class Tutorial(nn.Module):
    """snnTorch's tutorial 5: two layers, the state handed on by hand, one step a call."""

    def __init__(self, **options) -> None:
        super().__init__()
        self.fc1, self.lif1 = nn.Linear(64, 100), snntorch.Leaky(reset_delay=False, **options)
        self.fc2, self.lif2 = nn.Linear(100, 10), snntorch.Leaky(reset_delay=False, **options)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        mem1, mem2 = self.lif1.init_leaky(), self.lif2.init_leaky()
        spikes, membranes = [], []
        for step in x:
            spk1, mem1 = self.lif1(self.fc1(step), mem1)
            spk2, mem2 = self.lif2(self.fc2(spk1), mem2)
            spikes.append(spk2)
            membranes.append(mem2)
        return torch.stack([torch.stack(spikes), torch.stack(membranes)])


@pytest.mark.parametrize("reset", ["zero", "subtract"])
def test_a_snntorch_tutorial(reset):
    torch.manual_seed(0)
    theirs = made_exact(Tutorial(beta=0.5, reset_mechanism=reset))
    with torch.no_grad():  # below twice the threshold, where snnTorch's soft reset is that of everybody
        theirs.fc1.weight *= 0.0625
        theirs.fc2.weight *= 0.25
        ours = copy.deepcopy(theirs)
        report = from_snntorch.convert(ours).converted
        assert list(report) == ["lif1", "lif2"] and ("differs where" in report["lif1"]) == (reset == "subtract")
        x = dyadic(6, 8, 64) / 2
        expected, found = theirs(x), ours(x)
    assert torch.equal(found[0], expected[0]) and 0.01 < expected[0].mean() < 0.9
    torch.testing.assert_close(found[1], expected[1])

    theirs = Tutorial(beta=0.95, reset_mechanism=reset, spike_grad=snn_surrogate.fast_sigmoid(slope=25))
    ours = copy.deepcopy(theirs)
    from_snntorch.convert(ours)
    x, y = torch.rand(10, 16, 64), torch.arange(16) % 10
    curve = losses(theirs, lambda model, x: model(x)[1].mean(0), x, y, lr=0.01)
    assert curve[-1] < 0.95 * curve[0]
    assert losses(ours, lambda model, x: model(x)[1].mean(0), x, y, lr=0.01) == pytest.approx(curve, rel=1e-3)


def test_snntorch_states_are_reset_as_before():
    """Tutorial 6: the state within the neurons, and utils.reset."""
    options = {"beta": 0.5, "init_hidden": True, "reset_delay": False, "reset_mechanism": "zero"}
    theirs, ours = (nn.Sequential(snntorch.Leaky(**options), snntorch.Leaky(**options, output=True)) for _ in range(2))
    from_snntorch.convert(ours, guard_margin=0.5)
    x = dyadic(5, 3, 40)
    for _ in range(2):
        utils.reset(theirs)
        utils.reset(ours)
        for step in x:
            expected, found = theirs(step), ours(step)
            assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
    assert expected[0].any()

    whole = tgo.LIF.from_decay(0.5, 1.0, v_threshold=ours[0].neuron.v_threshold, guard_margin=0.5)
    whole(x)
    assert torch.allclose(ours[0].penalty, whole.penalty) and ours[0].firing_rate == whole.firing_rate

    ours[0].load_state_dict({**theirs[0].state_dict(), "beta": torch.tensor(0.25)})
    assert ours[0].neuron.decay == 0.25 and ours.state_dict().keys() == theirs.state_dict().keys()
    with pytest.raises(TypeError, match="init_hidden"):
        ours[0](x[0], torch.zeros(3, 40))


@pytest.mark.parametrize("many", [False, True], ids=["one for all", "of each neuron"])
@pytest.mark.parametrize("learns", [False, True])
@pytest.mark.parametrize("reset", ["zero", "subtract"])
def test_snntorchs_constants_learn_as_before(reset, learns, many):
    torch.manual_seed(0)
    beta = torch.tensor([0.25, 0.5, 0.75, 0.5, 1.0]) if many else 0.5
    threshold = torch.tensor([1.0, 0.75, 1.0, 1.5, 1.25]) if many else 1.0
    options = {"learn_beta": learns, "learn_threshold": learns, "reset_mechanism": reset, "reset_delay": False}
    theirs = snntorch.Leaky(beta, threshold, spike_grad=snn_surrogate.sigmoid(slope=3), init_hidden=True, **options)
    model = nn.Sequential(copy.deepcopy(theirs))
    assert from_snntorch.convert(model).converted
    ours, x = model[0], dyadic(6, 4, 5).clamp(max=1.0)
    assert ours.state_dict().keys() == theirs.state_dict().keys()
    results = []
    for node in (theirs, ours):
        given = x.clone().requires_grad_()
        spikes = torch.stack([node(step) for step in given])
        (spikes * torch.linspace(-1, 2, 5)).sum().backward()
        results.append((spikes, given.grad, *(p.grad for p in node.parameters())))
    assert torch.equal(results[0][0], results[1][0]) and 0 < results[0][0].mean() < 1
    assert len(results[0]) == 2 + 2 * learns
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(b, a, rtol=1e-4, atol=1e-5)


def test_snntorch_fires_above_its_threshold_and_takes_sequences():
    theirs = snntorch.Leaky(beta=1.0, reset_delay=False, reset_mechanism="zero")
    ours = copy.deepcopy(theirs)
    from_snntorch.convert(ours, sequence=True)
    x = torch.tensor([[0.5, 1.0], [0.5, 0.0], [0.5, 0.5]])  # exactly at the threshold, twice
    spikes, mem = ours(x)
    state = theirs.init_leaky()
    for t in range(3):
        expected, state = theirs(x[t], state)
        assert torch.equal(spikes[t], expected)
    assert torch.equal(mem, state) and spikes.sum() == 2
    with pytest.raises(TypeError, match="sequence must be a bool"):
        from_snntorch.convert(nn.Sequential(theirs), sequence=1)


@pytest.mark.parametrize("threshold", [1, np.float64(1.0), torch.tensor(1.0, dtype=torch.bfloat16)], ids=repr)
def test_snntorchs_threshold_is_that_in_fp32(threshold):
    node = snntorch.Leaky(1.0, threshold=threshold, reset_delay=False)
    from_snntorch.convert(nn.Sequential(node))
    assert node.neuron.v_threshold == 1 + 2**-23


def test_snntorchs_constants_learn_in_half_precision():
    node = snntorch.Leaky(0.5, learn_beta=True, learn_threshold=True, reset_delay=False)
    from_snntorch.convert(nn.Sequential(node), sequence=True)
    node.half()(dyadic(4, 8).half())[0].sum().backward()
    assert node.beta.grad.dtype == torch.float16 and node.beta.grad != 0 and node.threshold.grad != 0


def test_what_snntorch_has_and_we_have_not_is_named():
    made = {"beta": 0.9, "reset_delay": False}
    model = nn.ModuleDict(
        {
            "delayed": snntorch.Leaky(beta=0.9),
            "learnable": snntorch.Leaky(**made, learn_graded_spikes_factor=True),
            "none": snntorch.Leaky(**made, reset_mechanism="none"),
            "graded": snntorch.Leaky(**made, graded_spikes_factor=2.0),
            "quantised": snntorch.Leaky(**made, state_quant=torch.round),
            "surrogate": snntorch.Leaky(**made, spike_grad=snn_surrogate.triangular()),
            "parallel": snntorch.LeakyParallel(4, 4),
            "synaptic": snntorch.Synaptic(alpha=0.5, beta=0.9),
            "plain": snntorch.Leaky(**made, spike_grad=snn_surrogate.sigmoid(slope=5)),
        }
    )
    with pytest.warns(UserWarning, match="1 neurons converted, 8 left"):
        report = from_snntorch.convert(model)
    assert "reset_delay=True" in report.left["delayed"] and "triangular" in report.left["surrogate"]
    assert report.left.keys() == model.keys() - {"plain"} and model["plain"].neuron.surrogate == tgo.Sigmoid(5.0)
