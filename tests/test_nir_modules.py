"""What stands beside the neurons of a graph: written as it computes and runs as it is read, or refused by name."""

import warnings

import nir
import pytest
import snntorch
import torch
from cases import dyadic
from spikingjelly.activation_based import layer, neuron
from torch import nn
from torch.nn.utils import fusion, parametrizations, prune

import tgo_kernels as tgo
from tgo_kernels.interop import snntorch as from_snntorch
from tgo_kernels.interop import spikingjelly
from tgo_kernels.interop.nir import from_nir, to_nir

T, B = 5, 3


def again(model: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """What the model gives after a round trip, in evaluation, which must be what it gives before."""
    found = from_nir(to_nir(model, x))(x)[0]
    assert torch.equal(found, model.eval()(x)) and found.min() < found.max()
    return found


class Block(nn.Module):
    """Written by hand, with a sum."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = tgo.OverTime(nn.Conv2d(2, 4, 3, padding=1), nn.Dropout(0.5), nn.Conv2d(4, 4, 3, padding=1))
        self.short, self.fire = tgo.OverTime(nn.Conv2d(2, 4, 1)), tgo.LIF()
        self.pool, self.lost = tgo.OverTime(nn.AvgPool2d(2, divisor_override=1), nn.Flatten()), nn.Dropout()
        self.head, self.loss = nn.Linear(64, 10), nn.CrossEntropyLoss()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(input=self.lost(self.pool(self.fire(self.conv(x) + self.short(x)))))


def test_a_network_by_hand():
    x = dyadic(T, B, 2, 8, 8)
    model = Block()
    again(model, x)
    assert again(torch.compile(model, backend="eager"), x).shape == (T, B, 10)
    kinds = [type(node).__name__ for node in to_nir(model, x).nodes.values()]
    assert sorted(kinds) == ["Affine", *["Conv2d"] * 3, "Flatten", "Input", "LIF", "Output", "SumPool2d"]


def test_spikingjellys_containers_and_dropout():
    model = nn.Sequential(
        layer.SeqToANNContainer(nn.Conv2d(2, 4, 3), nn.AvgPool2d(2), nn.Flatten()),
        layer.Dropout(0.5, step_mode="m"),
        layer.Linear(36, 10, step_mode="m"),
        nn.Identity(),
        tgo.LIF(),
    )
    again(model, dyadic(T, B, 2, 8, 8))


def test_a_module_that_is_called_twice():
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.pool, self.fire, self.conv = tgo.OverTime(nn.AvgPool2d(2)), tgo.LIF(), tgo.OverTime(nn.Conv2d(2, 2, 1))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.fire(self.conv(self.pool(self.fire(self.conv(self.pool(x))))))

    model = Twice()
    nn.init.constant_(model.conv[0].weight, 2.0)
    again(model, dyadic(T, B, 2, 8, 8))


def test_snntorch_with_states():
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc1, self.lif1 = nn.Linear(20, 30), snntorch.Leaky(0.5, reset_delay=False, reset_mechanism="zero")
            self.fc2, self.lif2 = nn.Linear(30, 10), snntorch.Leaky(0.5, reset_delay=False, reset_mechanism="zero")

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            spikes, _ = self.lif1(self.fc1(x), self.lif1.init_leaky())
            return self.lif2(self.fc2(spikes), self.lif2.init_leaky())[0]

    model, x = Net(), dyadic(T, B, 20)
    from_snntorch.convert(model, sequence=True)
    model(x)  # with a graph, which is not copied
    again(model, x)


class Own(nn.Linear):
    """A name and a way to start of its own, the same computation."""


class Pruned(nn.Linear):
    def __init__(self, *sizes: int) -> None:
        super().__init__(*sizes)
        prune.l1_unstructured(self, "weight", amount=0.5)


def old_weight_norm(linear: nn.Linear) -> nn.Linear:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return nn.utils.weight_norm(linear)


@pytest.mark.parametrize(
    "linear",
    [
        lambda: parametrizations.weight_norm(nn.Linear(20, 30)),
        lambda: parametrizations.spectral_norm(layer.Linear(20, 30, step_mode="m")),
        lambda: old_weight_norm(nn.Linear(20, 30)),
        lambda: Pruned(20, 30),
        lambda: Own(20, 30),
        lambda: nn.Linear(20, 30).double(),
        lambda: nn.Linear(20, 30).bfloat16(),
    ],
    ids=["weight_norm", "spectral_norm", "old weight_norm", "pruned", "own", "double", "bfloat16"],
)
def test_weights_in_effect_are_written(linear):
    model = nn.Sequential(linear(), tgo.LIF())
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(3)
    x = dyadic(T, B, 20).to(next(model.parameters()).dtype)
    model.eval()[0](x)
    (affine,) = (node for node in to_nir(model, x).nodes.values() if isinstance(node, nir.Affine))
    assert torch.equal(torch.tensor(affine.weight), model[0].weight.float())


class Scaled(nn.Conv2d):
    def _conv_forward(self, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        return super()._conv_forward(x, 2 * weight, bias)


class Sleepy(tgo.LIF):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 0 * super().forward(x)


@pytest.mark.parametrize(
    "module, message",
    [
        (layer.WSConv2d(2, 2, 3), "2.0: WSConv2d computes by code of its own, .* a Conv2d with"),
        (Scaled(2, 2, 3), "2.0: Scaled computes by code of its own, .* a Conv2d with"),
        (nn.BatchNorm2d(2), r"2.0: NIR holds no BatchNorm2d; fold it into the layer before, with torch\.nn"),
        (nn.MaxPool2d(2), "2.0: NIR holds no MaxPool2d; of spikes it is AvgPool2d"),
        (nn.AdaptiveAvgPool2d(1), "2.0: NIR holds no AdaptiveAvgPool2d; use AvgPool2d"),
        (nn.ReLU(), "2.0: NIR holds no ReLU; it holds Linear, "),
        (nn.AvgPool1d(2), "2.0: NIR holds no AvgPool1d; use a Conv1d"),
        (nn.MaxPool1d(2), "2.0: NIR holds no MaxPool1d; it holds Linear, "),
    ],
)
def test_modules_that_nir_does_not_hold(module, message):
    shape = (T, B, 2, 8) if "1d" in message else (T, B, 2, 8, 8)
    model = nn.Sequential(nn.Identity(), tgo.LIF(), tgo.OverTime(module))
    with pytest.raises(NotImplementedError, match=message):
        to_nir(model, torch.zeros(shape))  # that nothing fires must not matter


@pytest.mark.parametrize(
    "module, shape, message",
    [
        (layer.WSLinear(4, 4), (4,), "1: WSLinear computes by code of its own, .* a Linear with"),
        (Sleepy(), (4,), "1: Sleepy computes by code of its own, .* a LIF with"),
        (neuron.LIFNode(step_mode="m"), (4,), "1: LIFNode is no layer of tgo_kernels; .* converts"),
        (nn.Conv2d(2, 2, 3), (2, 8, 8), r"1: Conv2d takes no time axis; tgo.OverTime\(Conv2d\(...\)\) runs it"),
        (tgo.OverTime(nn.Conv2d(2, 2, 3, groups=2)), (2, 8, 8), "1.0: a file of NIR loses the channels of groups=2; "),
        (
            tgo.OverTime(nn.Conv2d(2, 2, (3, 5))),
            (2, 8, 8),
            r"1.0: NIR takes kernels for square, and this is of \(3, 5\)",
        ),
        (tgo.OverTime(nn.AvgPool2d(2, ceil_mode=True)), (2, 8, 8), "1.0: NIR's pools have no ceil_mode"),
        (tgo.OverTime(nn.AvgPool2d(2, divisor_override=3)), (2, 8, 8), "1.0: NIR's pools .* no divisor_override but 1"),
        (layer.SeqToANNContainer(tgo.LIF()), (4,), r"1.0: it would take the T\*B samples for time steps"),
        (neuron.IFNode(), (4,), r"1: it takes one time step .* functional.set_step_mode\(model, 'm'\) is missing"),
        (
            snntorch.Leaky(0.5, init_hidden=True, reset_delay=False, reset_mechanism="zero"),
            (4,),
            r"1: it takes one time step .* convert\(model, sequence=True\) is missing",
        ),
    ],
)
def test_settings_that_nir_does_not_hold(module, shape, message):
    model = nn.Sequential(nn.Identity(), module)
    if isinstance(module, neuron.IFNode):
        spikingjelly.convert(model)
    if isinstance(module, snntorch.Leaky):
        from_snntorch.convert(model)
    with pytest.raises((ValueError, NotImplementedError), match=message):
        to_nir(model, torch.rand(T, B, *shape))


@pytest.mark.parametrize(
    "name, function",
    [("flatten", lambda x: torch.flatten(x, 2)), ("getitem", lambda x: x[:2]), ("mean", lambda x: x.mean(-1))],
)
def test_functions_are_named(name, function):
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fire = tgo.LIF()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.fire(function(x))

    with pytest.raises(ValueError, match=rf"^{name}: NIR holds modules .* tgo.OverTime\(nn.Flatten\(\)\)"):
        to_nir(Net(), torch.rand(T, B, 4, 4))


def test_an_initial_state_is_refused():
    model = nn.Sequential(nn.Linear(4, 6), neuron.LIFNode(step_mode="m"))
    spikingjelly.convert(model)
    model[1].set_reset_value("v", 0.15)
    with pytest.raises(ValueError, match=r"1: NIR has no initial state \(v=0.15 after a reset\)"):
        to_nir(model, 3 * torch.randn(T, B, 4))


def test_the_example_has_time_and_batch():
    with pytest.raises(ValueError, match=r"example must have shape \[T, B, \*\], got \(4,\)"):
        to_nir(tgo.LIF(), torch.rand(4))


@pytest.mark.parametrize("level, what", [(-9.0, "no neuron of 1 fires"), (9.0, "all neurons of 1 fire in every step")])
def test_what_the_example_does_not_show_is_compared_or_said(level, what):
    """A layer that is changed from outside is found though all spikes are the same; without it, they are said to be."""
    model, x = nn.Sequential(nn.Linear(4, 6), tgo.LIF(), nn.Linear(6, 2)), torch.rand(T, B, 4)
    nn.init.constant_(model[0].bias, level)
    with pytest.warns(UserWarning, match=what) as said:
        to_nir(model, x)
    assert said[0].filename == __file__
    handle = model[0].register_forward_hook(lambda module, given, gave: 2 * gave)
    with pytest.raises(ValueError, match=r"^0: what it computes is not what NIR holds of it"):
        to_nir(model, x)
    handle.remove()
    handle = model[0].register_forward_pre_hook(lambda module, given: (2 * given[0],))
    with pytest.warns(UserWarning, match="all that 0 is given is 0"):
        to_nir(model, torch.zeros_like(x))
    handle.remove()
    nn.init.constant_(model[0].bias, 1.0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        to_nir(model, 3 * torch.rand(T, B, 4))


def test_the_ways_round():
    """Normalisation folded into the layer before, and the maximum of spikes as the sum that reaches one."""
    torch.manual_seed(1)
    parts = layer.Conv2d(2, 4, 3, step_mode="m"), layer.BatchNorm2d(4, step_mode="m")
    nn.init.uniform_(parts[1].running_mean, -1, 1)
    nn.init.uniform_(parts[1].running_var, 0.5, 2)
    pool = tgo.OverTime(nn.AvgPool2d(2, divisor_override=1)), tgo.LIF.from_decay(0.0)
    model = nn.Sequential(fusion.fuse_conv_bn_eval(*(p.eval() for p in parts)), tgo.LIF(), *pool)
    x = 2 * dyadic(T, B, 2, 8, 8)
    torch.testing.assert_close(model[0](x), parts[1](parts[0](x)))
    found = again(model, x)
    assert torch.equal(found, tgo.OverTime(nn.MaxPool2d(2))(model[:2](x)))
    assert not torch.equal(found, model[:3](x))


def integrator(model: nn.Module) -> tgo.LeakyIntegrator:
    return next(module for module in model.modules() if isinstance(module, tgo.LeakyIntegrator))


def test_options_of_read_outs():
    graph = to_nir(nn.Sequential(nn.Linear(6, 4), tgo.LeakyIntegrator(tau=4.0)), torch.rand(5, 2, 6))
    assert integrator(from_nir(graph, learn_decay=True, noise_std=0.1)).learn_decay
    with pytest.raises(TypeError, match="nonsense"):
        from_nir(graph, nonsense=3)


def test_read_outs_are_integrators():
    x = dyadic(T, B, 6)
    model = nn.Sequential(nn.Linear(6, 4), tgo.LIF(), tgo.LeakyIntegrator(tau=4.0, v_rest=0.25))
    again(model, x)
    graph = to_nir(model, x)
    node = next(node for node in graph.nodes.values() if isinstance(node, nir.LI))
    assert node.v_leak.tolist() == [0.25] * 4 and isinstance(integrator(from_nir(graph)), tgo.LeakyIntegrator)
    no_leak = nn.Sequential(nn.Linear(6, 4), tgo.LeakyIntegrator.from_decay(1.0, 0.5))
    again(no_leak, x)
    assert any(isinstance(node, nir.I) for node in to_nir(no_leak, x).nodes.values())
    node.tau = node.tau * torch.tensor([1.0, 2.0, 3.0, 4.0]).numpy()
    read = from_nir(graph, noise_std=0.3)
    assert integrator(read).decay.shape == (4,) and torch.isfinite(read(x)[0]).all()
    with pytest.raises(ValueError, match="LIF that never fires"):
        to_nir(nn.Sequential(tgo.LIF(v_threshold=float("inf"))), x)


def test_an_integrator_of_nir_is_that_of_its_equation():
    """tau dv/dt = v_leak - v + r x, a step of dt."""
    ones = torch.ones(2).numpy()
    graph = nir.NIRGraph(
        nodes={
            "input": nir.Input({"input": (2,)}),
            "li": nir.LI(tau=4e-4 * ones, r=3 * ones, v_leak=0.5 * ones),
            "output": nir.Output({"output": (2,)}),
        },
        edges=[("input", "li"), ("li", "output")],
    )
    x, v, expected = torch.randn(T, B, 2), torch.full((B, 2), 0.5), []
    for x_t in x:
        v = v + 0.25 * (0.5 - v + 3 * x_t)
        expected.append(v)
    torch.testing.assert_close(from_nir(graph, dt=1e-4)(x)[0], torch.stack(expected))
