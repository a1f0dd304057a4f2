"""Models of tgo_kernels, SpikingJelly and snnTorch as they are: reset, called, and given other surrogates."""

import copy
import subprocess
import sys
from pathlib import Path

import pytest
import snntorch
import torch
from spikingjelly.activation_based import functional, layer, neuron, surrogate
from torch import nn
from victims import images

import tgo_kernels as tgo
from benchmarks.robustness.models import Classifier
from tgo_kernels.interop import snntorch as convert_snntorch
from tgo_kernels.interop import spikingjelly as convert_spikingjelly
from tgo_kernels.robustness import AdaptiveATan, Effort, Victim, attacks, evaluate, suite

EFFORT = Effort(draws=2, margin_steps=5, search=40, iterations=10, many=2)
ATTACKS = (
    "FGSM",
    "PGD20",
    "PGD20, ATan(4)",
    "PGD20, Triangle(1)",
    "SA-PGD + ASSG",
    "margin, ATan(8)",
    "margin, ATan(8) to ATan(2) by layer",
    "local search",
)


def jelly(mode: str = "m") -> nn.Module:
    """A small convolutional network of SpikingJelly, on 28 x 28, without time inside."""

    def node() -> nn.Module:
        return neuron.LIFNode(tau=2.0, surrogate_function=surrogate.ATan(), detach_reset=True)

    torch.manual_seed(0)
    net = nn.Sequential(
        layer.Conv2d(1, 4, 3, padding=1, bias=False),
        layer.BatchNorm2d(4),
        node(),
        layer.AvgPool2d(4),
        layer.Flatten(),
        layer.Linear(4 * 49, 10),
        node(),
    )
    functional.set_step_mode(net, mode)
    with torch.no_grad():
        net[0].weight.mul_(4)
        net[5].weight.mul_(8)
    return net


def right(victim: Victim, count: int = 12) -> tuple[torch.Tensor, torch.Tensor]:
    """Images, and what the model says of them."""
    x, _ = images(count)
    with victim.evaluating(False), torch.no_grad():
        return x, victim(x).argmax(1)


class Timed(nn.Module):
    """Ten logits of spikes over time, each a little ahead of the next, so that there are no ties."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.net(x.expand(4, *x.shape)).mean(0) - torch.arange(10) * 1e-3


def test_a_spikingjelly_network_and_its_conversion_have_the_same_worst_case():
    """Every attack finds the same images, and the original is what it was: surrogates, state, mode."""
    original = Timed(jelly()).train()
    converted = copy.deepcopy(original)
    convert_spikingjelly.convert(converted)
    before, nodes = str(original), [m for m in original.modules() if isinstance(m, neuron.LIFNode)]
    x, y = right(Victim(original))
    a, b = (evaluate(model, x, y, effort=EFFORT, attacks=ATTACKS) for model in (original, converted))
    assert a.stood.keys() == b.stood.keys() >= set(ATTACKS)
    assert {name: (a.stood[name] != b.stood[name]).sum().item() for name in a.stood} == dict.fromkeys(a.stood, 0)
    assert a.worst < 0.7 and a.shares["SA-PGD + ASSG"] < 1
    assert str(original) == before and original.training and all(node.training for node in nodes)
    assert all("surrogate_function" not in vars(node) and node.v == 0.0 for node in nodes)


@pytest.mark.parametrize("mode", ["s", "m"])
def test_steps_outside_of_the_model(mode):
    """One call in one line, whatever the step mode; both the same logits, and those of time inside."""
    victim = Victim(jelly(mode), steps=4)
    x, y = right(victim)
    inside = Timed(jelly("m")).eval()
    expected = inside(x) + torch.arange(10) * 1e-3
    with victim.evaluating(False):
        torch.testing.assert_close(victim(x), expected)
        torch.testing.assert_close(victim(x), expected)
    outcome = evaluate(jelly(mode), x, y, steps=4, effort=EFFORT, attacks=ATTACKS)
    assert outcome.shares["clean"] == 1 > outcome.worst


def test_rates_are_of_neurons_that_see_all_steps():
    names = {mode: evaluate_names(jelly(mode)) for mode in ("s", "m")}
    assert names["m"] - names["s"] == {"PGD20, BPTR", "PGD20, RGA"}


def evaluate_names(model: nn.Module) -> set[str]:
    return set(suite(Victim(model, steps=4), EFFORT, False))


def test_a_leak_is_that_of_the_neuron():
    """Decay, gain and threshold, which the rule of RGA is made of; learned ones as they are by now."""
    ours, theirs = tgo.LIF(tau=4.0, learn_decay=True), neuron.ParametricLIFNode(init_tau=4.0, v_threshold=3.0)
    with torch.no_grad():
        ours.w.zero_(), theirs.w.zero_()
    expected = {
        ours: (0.5, 0.5, 1.0),
        theirs: (0.5, 0.5, 3.0),
        tgo.LIF(tau=4.0, v_threshold=2.0): (0.75, 0.25, 2.0),
        neuron.LIFNode(tau=4.0): (0.75, 0.25, 1.0),
        neuron.LIFNode(tau=4.0, decay_input=False): (0.75, 1.0, 1.0),
        neuron.IFNode(): (1.0, 1.0, 1.0),
        snntorch.Leaky(beta=0.75, threshold=2.0): (0.75, 1.0, 2.0),
    }
    for module, leak in expected.items():
        (each,) = Victim(module).neurons
        with torch.no_grad():
            found = [float(value) for value in each.leak()]
        assert found == pytest.approx(leak), module


def test_an_answer_without_gradients_is_nothing_to_adapt_to():
    victim, (x, y) = Victim(Timed(jelly())), images(3)
    with victim.evaluating(False), victim.surrogates(AdaptiveATan.new) as made:
        with torch.no_grad():
            victim(x)
        assert not any(each.memory.moments for each in made)
        attacks.gradient(victim, x, y)
        assert all(len(each.memory.moments) == 4 for each in made)


def snn(hidden: bool) -> nn.Module:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            options = {"beta": 0.9, "init_hidden": hidden}
            self.fc1, self.lif1 = nn.Linear(784, 20), snntorch.Leaky(**options)
            self.fc2, self.lif2 = nn.Linear(20, 10), snntorch.Leaky(**options, output=hidden)
            with torch.no_grad():
                self.fc1.weight.mul_(4)
                self.fc2.weight.mul_(4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x, spikes = x.flatten(1), []
            mem1, mem2 = ((), ()) if hidden else ((self.lif1.init_leaky(),), (self.lif2.init_leaky(),))
            for _ in range(4):
                s = self.lif1(self.fc1(x), *mem1)
                s, mem1 = (s, ()) if hidden else (s[0], (s[1],))
                s, m = self.lif2(self.fc2(s), *mem2)
                mem2 = () if hidden else (m,)
                spikes.append(s)
            return torch.stack(spikes).mean(0) - torch.arange(10) * 1e-3

    return Net()


@pytest.mark.parametrize("hidden", [False, True])
def test_a_snntorch_network_in_one_call(hidden):
    model = snn(hidden)
    function = model.lif1.spike_grad
    victim = Victim(model)
    x, y = right(victim)
    with victim.evaluating(False):
        assert torch.equal(victim(x), victim(x))  # hidden states are reset
    outcome = evaluate(model, x, y, effort=EFFORT, attacks=ATTACKS)
    assert outcome.worst < 0.6 and model.lif1.spike_grad is function and not model.lif1.mem.any()
    converted = snn(hidden)
    convert_snntorch.convert(converted)
    again = evaluate(converted, x, y, effort=EFFORT, attacks=ATTACKS)
    differ = [name for name in outcome.stood if not torch.equal(outcome.stood[name], again.stood[name])]
    assert not differ


def test_a_sequential_of_snntorch_with_steps():
    net = nn.Sequential(nn.Flatten(), nn.Linear(784, 10), snntorch.Leaky(0.9, init_hidden=True, output=True))
    victim = Victim(net, steps=3)
    x, _ = images(5)
    with victim.evaluating(False):
        logits = victim(x)
        assert torch.equal(victim(x), logits) and logits.shape == (5, 10)


def test_logits_are_as_they_are_read():
    x, _ = images(5)
    net = nn.Sequential(nn.Flatten(), nn.Linear(784, 10), snntorch.Leaky(0.9, init_hidden=True, output=True))
    mean, total = Victim(net, steps=3), Victim(net, steps=3, read=lambda out: out.sum(0))
    torch.testing.assert_close(total(x), 3 * mean(x))
    assert torch.equal(Victim(nn.Flatten(), read=lambda out: out[:, :4])(x), x.flatten(1)[:, :4])


@pytest.mark.parametrize("make", [lambda: Timed(jelly()), lambda: snn(False), lambda: tgo_network()])
def test_other_surrogates_leave_the_spikes_and_change_the_gradient(make):
    """Of all three the gradient is that of plain autograd with this surrogate."""
    victim, (x, y) = Victim(make()), images(4)
    with victim.evaluating(False):
        logits, own = victim(x), attacks.gradient(victim, x, y)[0]
        with victim.surrogates(lambda depth: tgo.ATan(8.0)) as made:
            assert torch.equal(victim(x), logits) and len(made) == 2
            other = attacks.gradient(victim, x, y)[0]
            victim.wrong(x, y)  # by the neurons as they are
            assert torch.equal(attacks.gradient(victim, x, y)[0], other) and victim.made is made
        victim.wrong(x, y)
        assert torch.equal(attacks.gradient(victim, x, y)[0], own)
    assert not torch.allclose(own, other) and other.abs().max() > 0


def tgo_network() -> nn.Module:
    torch.manual_seed(0)
    lif = lambda: tgo.LIF(tau=2.0)  # noqa: E731
    first = tgo.OverTime(nn.Conv2d(1, 4, 3, stride=4))
    return Classifier(nn.Sequential(first, lif(), tgo.OverTime(nn.Flatten(), nn.Linear(196, 10)), lif()))


def test_smooth_and_multi_level_surrogates_are_left():
    smooth = neuron.LIFNode(surrogate_function=surrogate.ATan(spiking=False))
    levels = neuron.ILIFNode()
    model = nn.Sequential(smooth, levels, neuron.LIFNode(), tgo.IntegerLIF(), tgo.LeakyIntegrator(), tgo.LIF())
    with Victim(model).surrogates(lambda depth: tgo.ATan(8.0)) as made:
        assert len(made) == 2 and model[0].surrogate_function is smooth.surrogate_function


def test_the_density_of_the_noise_is_for_layers_that_have_noise():
    noisy, quiet = tgo.LIF(noise_std=0.1, surrogate=tgo.NoisePDF()), tgo.LIF()
    with Victim(nn.Sequential(noisy, quiet)).surrogates(lambda depth: tgo.ATan(8.0)):
        assert noisy.neuron.surrogate == quiet.neuron.surrogate == tgo.ATan(8.0)
    noisy.set(noise_std=0.2)
    assert noisy.neuron.surrogate == tgo.LIF(noise_std=0.2, surrogate=tgo.NoisePDF()).neuron.surrogate  # follows it
    noisy = tgo.LIF(noise_std=0.1)
    with Victim(nn.Sequential(noisy, quiet)).surrogates(lambda depth: tgo.NoisePDF()):
        assert isinstance(noisy.neuron.surrogate, tgo.NoisePDF) and quiet.neuron.surrogate == tgo.LIF().neuron.surrogate
    assert noisy.neuron.surrogate == tgo.LIF().neuron.surrogate


FORMER = """
import sys; sys.path.insert(0, sys.argv[1]); sys.path.insert(1, sys.argv[2])
import torch
from test_robustness_victim import ATTACKS, EFFORT, Timed, jelly, right
from tgo_kernels.robustness import Victim, evaluate
import spikingjelly
assert "former" in spikingjelly.__file__
model = Timed(jelly())
x, y = right(Victim(model))
print(evaluate(model, x, y, effort=EFFORT, attacks=ATTACKS).shares["SA-PGD + ASSG"] < 1)
"""


def test_the_former_spikingjelly_has_gradients_in_eval():
    former = Path(sys.prefix) / "former"
    if not former.exists():
        pytest.skip("the former SpikingJelly is not installed")
    run = [sys.executable, "-c", FORMER, str(former), str(Path(__file__).parent)]
    said = subprocess.run(run, capture_output=True, text=True, cwd=Path(__file__).parents[1])
    assert said.stdout.strip().endswith("True"), said.stdout + said.stderr


def test_what_a_victim_cannot_be_says_so():
    with pytest.raises(TypeError, match=r"model must be an nn\.Module, got str"):
        Victim("net")
    with pytest.raises(ValueError, match="steps must be None or an int >= 1, got 0"):
        Victim(nn.Identity(), steps=0)
    x, y = images(4)
    with pytest.raises(ValueError, match=r"must give logits \[B, classes\] for 4 images, got \(4, 1, 28, 28\)"):
        evaluate(nn.Identity(), x, y)
