"""snnTorch's models on fused layers: the same spikes, losses and checkpoints, and what is refused."""

import copy

import numpy as np
import pytest
import snntorch
import torch
from cases import dyadic
from models import losses, made_exact
from snntorch import surrogate as snn_surrogate
from snntorch import utils
from torch import nn

import tgo_kernels as tgo
from tgo_kernels.interop import snntorch as from_snntorch


class Tutorial(nn.Module):
    """snnTorch's tutorial 5: two layers, the state handed on by hand, one step a call."""

    def __init__(self, **options) -> None:
        super().__init__()
        self.fc1, self.lif1 = nn.Linear(64, 100), snntorch.Leaky(**options)
        self.fc2, self.lif2 = nn.Linear(100, 10), snntorch.Leaky(**options)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        mem1, mem2 = self.lif1.init_leaky(), self.lif2.init_leaky()
        spikes, membranes = [], []
        for step in x:
            spk1, mem1 = self.lif1(self.fc1(step), mem1)
            spk2, mem2 = self.lif2(self.fc2(spk1), mem2)
            spikes.append(spk2)
            membranes.append(mem2)
        return torch.stack([torch.stack(spikes), torch.stack(membranes)])


class AllSteps(Tutorial):
    """The same, all time steps in one call."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        spk1, _ = self.lif1(self.fc1(x), self.lif1.init_leaky())
        return torch.stack(self.lif2(self.fc2(spk1), self.lif2.init_leaky()))


@pytest.mark.parametrize("delay", [True, False], ids=["delayed", "at once"])
@pytest.mark.parametrize("reset", ["zero", "subtract", "none"])
def test_a_snntorch_tutorial(reset, delay):
    torch.manual_seed(0)
    how = {"reset_mechanism": reset, "reset_delay": delay}
    theirs = made_exact(Tutorial(beta=0.5, **how))
    with torch.no_grad():  # below twice the threshold, where snnTorch's soft reset is that of everybody
        theirs.fc1.weight *= 0.0625
        theirs.fc2.weight *= 0.25
        ours = copy.deepcopy(theirs)
        report = from_snntorch.convert(ours).converted
        differs = reset == "subtract" and not delay
        assert list(report) == ["lif1", "lif2"] and ("differs where" in report["lif1"]) == differs
        x = dyadic(6, 8, 64) / 2
        expected, found = theirs(x), ours(x)
    assert torch.equal(found[0], expected[0]) and 0.01 < expected[0].mean() < 0.9
    torch.testing.assert_close(found[1], expected[1])


@pytest.mark.parametrize("sequence", [False, True])
@pytest.mark.parametrize("reset", ["zero", "subtract", "none"])
@pytest.mark.parametrize("spike_grad", [None, snn_surrogate.fast_sigmoid(slope=25)], ids=["default", "fast_sigmoid"])
def test_a_snntorch_tutorial_trains_to_the_same_losses(spike_grad, reset, sequence):
    """With snnTorch's defaults, and the loss that its tutorial 5 takes: of the membranes of all steps."""
    torch.manual_seed(0)
    theirs = Tutorial(beta=0.95, reset_mechanism=reset, spike_grad=spike_grad)
    ours = copy.deepcopy(theirs)
    if sequence:
        ours.__class__ = AllSteps
    assert not from_snntorch.convert(ours, sequence=sequence).left
    x, y = torch.rand(10, 16, 64), torch.arange(16) % 10
    curve = losses(theirs, lambda model, x: model(x)[1].mean(0), x, y, lr=0.01)
    assert curve[-1] < 0.95 * curve[0]
    assert losses(ours, lambda model, x: model(x)[1].mean(0), x, y, lr=0.01) == pytest.approx(curve, rel=1e-3)


@pytest.mark.parametrize("reset", ["zero", "subtract", "none"])
def test_snntorchs_membrane_is_handed_on_as_it_is(reset):
    """A delayed reset is of the membrane that a call is given, whoever made it; detached, it starts a graph anew."""
    theirs = snntorch.Leaky(0.5, reset_mechanism=reset)
    ours = copy.deepcopy(theirs)
    from_snntorch.convert(ours)
    x, before, found = dyadic(4, 3, 50), 3 * dyadic(3, 50), []
    for node in (theirs, ours):
        given, mem, out = x.clone().requires_grad_(), before, []
        for t, step in enumerate(given):
            spk, mem = node(step, mem)
            out.append((spk * (t + 1)).sum() + (mem * mem).sum())
            if t == 1:
                mem = mem.detach()
            elif t == 2:
                mem = copy.copy(mem)
        torch.stack(out).sum().backward()
        found.append((torch.stack(out), given.grad))
    assert torch.equal(found[0][0], found[1][0])
    torch.testing.assert_close(found[1][1], found[0][1])


@pytest.mark.parametrize("hidden", [False, True])
@pytest.mark.parametrize("delay", [True, False])
@pytest.mark.parametrize("reset", ["zero", "subtract", "none"])
def test_a_conversion_amid_a_sequence_goes_on(reset, delay, hidden):
    theirs = snntorch.Leaky(0.5, reset_mechanism=reset, reset_delay=delay, init_hidden=hidden, output=True)
    x = dyadic(2, 3, 50).clamp(max=1.5)
    given = () if hidden else (theirs(x[0])[1],)
    spikes, _ = theirs(x[0], *given)
    ours = copy.deepcopy(theirs)
    from_snntorch.convert(ours)
    assert spikes.any() and all(map(torch.equal, ours(x[1], *given), theirs(x[1], *given)))


@pytest.mark.parametrize("reset", ["zero", "subtract"])
def test_a_delayed_reset_is_by_the_constants_of_its_step(reset):
    """Those that an optimizer, a checkpoint or a hand wrote since the membrane went over the threshold."""
    theirs = snntorch.Leaky(0.5, reset_mechanism=reset, init_hidden=True, learn_beta=True)
    ours, other = copy.deepcopy(theirs), snntorch.Leaky(0.25, 0.5, reset_mechanism="none", learn_beta=True)
    from_snntorch.convert(ours)
    x = dyadic(5, 3, 50)
    for node in (theirs, ours):
        node(x[0])
        with torch.no_grad():
            node.beta.fill_(1.0)
        node(x[1])
        with torch.no_grad():
            node.beta.mul_(0.5)
        node.threshold = torch.tensor(0.5)
    for step in x[2:4]:
        assert torch.equal(ours(step), theirs(step))
    for node in (theirs, ours):
        node.load_state_dict(other.state_dict())
    theirs.state_function = theirs._base_int  # which snnTorch forgets
    assert torch.equal(ours(x[4]), theirs(x[4]))
    torch.testing.assert_close(ours.mem, theirs.mem)


@pytest.mark.parametrize("delay", [True, False])
def test_a_state_that_was_reset_is_detached(delay):
    ours = snntorch.Leaky(0.5, reset_delay=delay, init_hidden=True)
    from_snntorch.convert(ours)
    x = dyadic(3, 8)
    expected = ours(x)
    ours.reset()
    ours.detach()
    assert torch.equal(ours(x), expected)


def test_snntorchs_hidden_states_are_detached_in_place():
    found = []
    for fused in (False, True):
        net = nn.Sequential(snntorch.Leaky(0.5, init_hidden=True))
        if fused:
            from_snntorch.convert(net)
        x = torch.linspace(0, 2, 12).reshape(2, 6).requires_grad_()
        utils.reset(net)
        net(x[0])
        snntorch.Leaky.detach_hidden()
        net(x[1]).sum().backward()
        found.append(x.grad)
    assert not found[1][0].any()
    torch.testing.assert_close(found[1], found[0])


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

    whole = tgo.LIF.from_decay(0.5, 1.0, strict=True, guard_margin=0.5)
    whole(x)
    assert torch.allclose(ours[0].penalty, whole.penalty) and ours[0].firing_rate == whole.firing_rate

    ours[0].load_state_dict({**theirs[0].state_dict(), "beta": torch.tensor(0.25)})
    assert ours[0].neuron.decay == 0.25 and ours.state_dict().keys() == theirs.state_dict().keys()
    with pytest.raises(TypeError, match="init_hidden"):
        ours[0](x[0], torch.zeros(3, 40))


@pytest.mark.parametrize("many", [False, True], ids=["one for all", "of each neuron"])
@pytest.mark.parametrize("learns", [False, True])
@pytest.mark.parametrize("reset", ["zero", "subtract", "none"])
@pytest.mark.parametrize("delay", [True, False], ids=["delayed", "at once"])
def test_snntorchs_constants_learn_as_before(delay, reset, learns, many):
    torch.manual_seed(0)
    beta = torch.tensor([0.25, 0.5, 0.75, 0.5, 1.0]) if many else 0.5
    threshold = torch.tensor([1.0, 0.75, 1.0, 1.5, 1.25]) if many else 1.0
    options = {"learn_beta": learns, "learn_threshold": learns, "reset_mechanism": reset, "reset_delay": delay}
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


@pytest.mark.parametrize("delay", [True, False])
def test_a_sequence_goes_on_from_the_membranes_it_gave(delay):
    model = nn.Sequential(snntorch.Leaky(0.8, reset_delay=delay, reset_mechanism="zero"))
    from_snntorch.convert(model, sequence=True)
    leaky, x = model[0], dyadic(10, 3, 4)
    whole, _ = leaky(x, leaky.init_leaky())
    first, mem_rec = leaky(x[:6], leaky.init_leaky())
    leaky(x)  # something else in between
    assert torch.equal(torch.cat([first, leaky(x[6:], mem_rec)[0]]), whole) and whole.any()


def test_snntorch_fires_above_its_threshold_and_takes_sequences():
    theirs = snntorch.Leaky(beta=1.0, reset_delay=False, reset_mechanism="zero")
    ours = copy.deepcopy(theirs)
    from_snntorch.convert(ours, sequence=True)
    x = torch.tensor([[0.5, 1.0], [0.5, 0.0], [0.5, 0.5]])  # exactly at the threshold, twice
    spikes, mem = ours(x)
    state = theirs.init_leaky()
    for t in range(3):
        expected, state = theirs(x[t], state)
        assert torch.equal(spikes[t], expected) and torch.equal(mem[t], state)
    assert spikes.sum() == 2
    with pytest.raises(TypeError, match="sequence must be a bool"):
        from_snntorch.convert(nn.Sequential(theirs), sequence=1)


@pytest.mark.parametrize("threshold", [1, np.float64(1.0), torch.tensor(1.0, dtype=torch.bfloat16)], ids=repr)
def test_snntorchs_threshold_is_that_in_fp32(threshold):
    node = snntorch.Leaky(1.0, threshold=threshold, reset_delay=False)
    from_snntorch.convert(nn.Sequential(node))
    assert node.neuron.v_threshold == 1 and node.neuron.strict


def test_snntorchs_constants_learn_in_half_precision():
    node = snntorch.Leaky(0.5, learn_beta=True, learn_threshold=True, reset_delay=False)
    from_snntorch.convert(nn.Sequential(node), sequence=True)
    node.half()(dyadic(4, 8).half())[0].sum().backward()
    assert node.beta.grad.dtype == torch.float16 and node.beta.grad != 0 and node.threshold.grad != 0


def test_what_snntorch_has_and_we_have_not_is_named():
    made = {"beta": 0.9, "reset_delay": False}
    model = nn.ModuleDict(
        {
            "inhibited": snntorch.Leaky(**made, inhibition=True),
            "learnable": snntorch.Leaky(**made, learn_graded_spikes_factor=True),
            "forgetful": snntorch.Leaky(beta=0.0),
            "negative": snntorch.Leaky(**made, reset_mechanism="zero", threshold=-0.3),
            "graded": snntorch.Leaky(**made, graded_spikes_factor=2.0),
            "quantised": snntorch.Leaky(**made, state_quant=torch.round),
            "surrogate": snntorch.Leaky(**made, spike_grad=snn_surrogate.triangular()),
            "parallel": snntorch.LeakyParallel(4, 4),
            "alpha": snntorch.Alpha(alpha=0.9, beta=0.8),
            "plain": snntorch.Leaky(**made, spike_grad=snn_surrogate.sigmoid(slope=5)),
        }
    )
    with pytest.warns(UserWarning, match="1 neurons converted, 9 left"):
        report = from_snntorch.convert(model)
    assert "beta=0" in report.left["forgetful"] and "triangular" in report.left["surrogate"]
    assert report.left.keys() == model.keys() - {"plain"} and model["plain"].neuron.surrogate == tgo.Sigmoid(5.0)
