"""snnTorch's Synaptic on SynapticLIF: the same spikes, states and gradients in all forms, and what is refused."""

import copy

import pytest
import snntorch
import torch
from cases import dyadic
from snntorch import surrogate as snn_surrogate
from snntorch import utils
from torch import nn

import tgo_kernels as tgo
from tgo_kernels.interop import snntorch as from_snntorch

WAYS = [("subtract", True), ("none", True), ("subtract", False), ("zero", False), ("none", False)]
each_way = pytest.mark.parametrize(("reset", "delay"), WAYS)
FORMS = {"given": {}, "kept": {}, "hidden": {"init_hidden": True}, "output": {"init_hidden": True, "output": True}}


def both(reset, delay, alpha=0.5, beta=0.5, sequence=False, **options):
    theirs = snntorch.Synaptic(alpha, beta, reset_mechanism=reset, reset_delay=delay, **options)
    model = nn.Sequential(copy.deepcopy(theirs))
    report = from_snntorch.convert(model, sequence=sequence)
    assert not report.left and ("differs where" in str(report)) == (reset == "subtract" and not delay)
    assert isinstance(model[0], snntorch.Synaptic) and isinstance(model[0].neuron, tgo.neurons.SynapticLIF)
    return theirs, model[0]


def currents(*shape: int) -> torch.Tensor:
    """That leave no membrane above the threshold after a reset that comes at once."""
    return dyadic(*shape).clamp(max=4.0) / 8


@each_way
@pytest.mark.parametrize("form", FORMS)
def test_a_step_is_that_of_snntorch(form, reset, delay):
    x, found = currents(12, 4, 50), []
    for node in both(reset, delay, **FORMS[form]):
        given, states, outs = x.clone().requires_grad_(), node.init_synaptic(), []
        for step in given:
            out = node(step, *states) if form == "given" else node(step)
            states = out[1:]
            outs.append(out if form == "hidden" else torch.stack(out))
        outs = torch.stack(outs)
        (outs * torch.linspace(-1, 2, 50)).square().sum().backward()
        found.append((outs, node.syn, node.mem, given.grad))
    for theirs, ours in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs)
    spikes = [outs if form == "hidden" else outs[:, 0] for outs, *_ in found]
    assert torch.equal(*spikes) and 0.02 < spikes[0].mean() < 0.9


@each_way
def test_all_steps_in_one_call(reset, delay):
    theirs, ours = both(reset, delay, sequence=True)
    x, weight = currents(12, 4, 50), torch.linspace(-1, 2, 50)
    given, (syn, mem), spikes, membranes = x.clone().requires_grad_(), theirs.reset_mem(), [], []
    for step in given:
        spk, syn, mem = theirs(step, syn, mem)
        spikes.append(spk)
        membranes.append(mem)
    expected = [torch.stack(spikes), syn, torch.stack(membranes)]
    leaf = x.clone().requires_grad_()
    found = ours(leaf, *ours.init_synaptic())
    for outs in (expected, found):
        sum((out * weight).square().sum() for out in outs).backward()
    assert torch.equal(found[0], expected[0]) and found[0].any()
    for a, b in zip((*found[1:], leaf.grad), (*expected[1:], given.grad), strict=True):
        torch.testing.assert_close(a, b)
    with torch.no_grad():
        first, syn, mem_rec = ours(x[:5], *ours.init_synaptic())
        ours(x)  # something else in between
        assert torch.equal(torch.cat([first, ours(x[5:], syn, mem_rec)[0]]), found[0])
        first = ours(x[:5], *ours.init_synaptic())[0]
        assert torch.equal(torch.cat([first, ours(x[5:])[0]]), found[0])


@pytest.mark.parametrize("many", [False, True], ids=["one for all", "of each neuron"])
@pytest.mark.parametrize("learns", [False, True])
@each_way
def test_constants_learn_as_before(reset, delay, learns, many):
    alpha = torch.tensor([0.5, 0.25, 0.5, 0.75, 0.0]) if many else 0.5
    beta = torch.tensor([0.25, 0.5, 0.75, 0.5, 1.0]) if many else 0.5
    threshold = torch.tensor([1.0, 0.75, 1.0, 1.5, 1.25]) if many else 1.0
    options = {"threshold": threshold, "spike_grad": snn_surrogate.sigmoid(slope=3), "init_hidden": True}
    options |= {"learn_alpha": learns, "learn_beta": learns, "learn_threshold": learns}
    nodes, x, found = both(reset, delay, alpha, beta, **options), currents(6, 4, 5), []
    assert nodes[0].state_dict().keys() == nodes[1].state_dict().keys()
    for node in nodes:
        given = x.clone().requires_grad_()
        spikes = torch.stack([node(step) for step in given])
        (spikes * torch.linspace(-1, 2, 5)).sum().backward()
        found.append((spikes, given.grad, *(p.grad for p in node.parameters())))
    assert torch.equal(found[0][0], found[1][0]) and 0 < found[0][0].mean() < 1 and len(found[0]) == 2 + 3 * learns
    for theirs, ours in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


@each_way
def test_states_that_were_set_or_taken_from_another_call(reset, delay):
    """Each for itself: what has another shape than the input is 0, as in snnTorch."""
    x, syn, mem = currents(6, 3, 8), currents(3, 8), 2 * currents(3, 8)
    found = []
    for node in both(reset, delay):
        outs = [node(x[0], syn, mem), node(x[1], syn), node(x[2], None, mem), node(x[3])]
        node.syn = 0.5 * syn
        outs += [node(x[4]), node(x[5], torch.zeros(2), mem), node(x[0], syn, torch.zeros(0))]
        outs += [tuple(torch.cat([out, out]) for out in node(x[1, :, :4]))]
        found.append(outs)
    for theirs, ours in zip(*found, strict=True):
        assert all(map(torch.equal, theirs, ours))


@each_way
@pytest.mark.parametrize("what", ["both", "syn", "mem"])
@pytest.mark.parametrize("how", ["in place", "as another"])
def test_states_are_detached(reset, delay, what, how):
    x, found = currents(4, 3, 8), []
    for node in both(reset, delay):
        given, (syn, mem) = x.clone().requires_grad_(), node.reset_mem()
        for t, step in enumerate(given):
            spk, syn, mem = node(step, syn, mem)
            if t == 1:
                ends = {"both": (syn, mem), "syn": (syn,), "mem": (mem,)}[what]
                if how == "in place":
                    node.detach(*ends)
                else:
                    syn = syn.detach() if what != "mem" else syn
                    mem = mem.detach() if what != "syn" else mem
        (spk.sum() + (mem * mem).sum()).backward()
        found.append(given.grad)
    torch.testing.assert_close(found[1], found[0])
    assert found[0][:2].any() == (what != "both")


@each_way
def test_hidden_states_are_reset_and_detached_by_the_class(reset, delay):
    x, found = currents(6, 3, 8), []
    for node in both(reset, delay, init_hidden=True):
        snntorch.SpikingNeuron.instances, before = [node], snntorch.SpikingNeuron.instances
        given, outs = x.clone().requires_grad_(), []
        try:
            for step, between in zip(
                given,
                (
                    lambda: None,
                    snntorch.Synaptic.detach_hidden,
                    snntorch.Synaptic.reset_hidden,
                    lambda: None,
                    lambda node=node: utils.reset(nn.Sequential(node)),
                    lambda: None,
                ),
                strict=True,
            ):
                outs.append(node(step))
                between()
        finally:
            snntorch.SpikingNeuron.instances = before
        sum((k + 1) * out.sum() for k, out in enumerate(outs)).backward()
        found.append((torch.stack(outs), node.syn, node.mem, given.grad))
    assert torch.equal(found[0][0], found[1][0])
    for theirs, ours in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs)


@each_way
@pytest.mark.parametrize("what", ["converted", "copied", "loaded", "in evaluation", "on the layer's own"])
def test_a_sequence_goes_on(what, reset, delay):
    """After a conversion in its midst, as a copy, with other constants, in evaluation and detached."""
    theirs, x = snntorch.Synaptic(0.5, 0.5, reset_mechanism=reset, reset_delay=delay, init_hidden=True), currents(8, 40)
    ours, other = copy.deepcopy(theirs), snntorch.Synaptic(0.25, 0.75, 0.5, reset_mechanism="none")
    if what != "converted":
        from_snntorch.convert(ours)
    for step in x[:4]:
        theirs(step)
        ours(step)
    if what == "converted":
        theirs(torch.ones(40))
        ours(torch.ones(40))
        from_snntorch.convert(ours)
    elif what == "copied":
        ours = copy.deepcopy(ours)
    elif what == "loaded":
        theirs = both("none", True, 0.25, 0.75, threshold=0.5, init_hidden=True)[0]
        for name in ("syn", "mem"):
            setattr(theirs, name, getattr(ours, name))
        ours.reset_delay = theirs.reset_delay
        ours.load_state_dict(other.state_dict())
    elif what == "in evaluation":
        theirs.eval()
        with torch.inference_mode():
            theirs(x[3])
            ours.eval()(x[3])
        ours.train()
    else:
        ours.detach()
    assert torch.equal(torch.stack([ours(step) for step in x[4:]]), torch.stack([theirs(step) for step in x[4:]]))
    torch.testing.assert_close((ours.syn, ours.mem), (theirs.syn, theirs.mem))


@pytest.mark.parametrize("delay", [True, False])
@pytest.mark.parametrize("sequence", [True, False])
def test_a_converted_model_compiles_for_all_batches(sequence, delay):
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc, self.lif = nn.Linear(6, 8), snntorch.Synaptic(0.8, 0.9, learn_alpha=True, reset_delay=delay)

        def forward(self, x):
            if sequence:
                return self.lif(self.fc(x), *self.lif.init_synaptic())[0]
            (syn, mem), spikes = self.lif.init_synaptic(), []
            for step in x:
                spike, syn, mem = self.lif(self.fc(step), syn, mem)
                spikes.append(spike)
            return torch.stack(spikes)

    torch.compiler.reset()
    model = Net()
    from_snntorch.convert(model, sequence=sequence)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    for i, batch in enumerate((16, 20, 17, 24)):
        x = 4 * torch.randn(4, batch, 6)
        torch._dynamo.mark_dynamic(x, 1)
        with torch._dynamo.config.patch(error_on_recompile=i > 1):
            found = compiled(x)
        found.sum().backward()
        assert torch.equal(found, model(x)) and found.any() and model.lif.alpha.grad
        model.lif.alpha.data.mul_(0.5)  # a value is no guard
    torch.compiler.reset()


def test_what_is_written_and_set_acts():
    theirs, ours = both("subtract", True, init_hidden=True)
    x = currents(8, 40)
    for write in (
        lambda node: node.alpha.fill_(0.25),
        lambda node: setattr(node, "alpha", torch.tensor(0.75)),
        lambda node: setattr(node, "alpha", torch.linspace(0.0, 1.0, 40)),
        lambda node: setattr(node, "beta", torch.tensor(0.25)),
        lambda node: setattr(node, "threshold", torch.tensor(0.75)),
    ):
        found = []
        for node in (theirs, ours):
            write(node)
            node.reset_mem()
            found.append(torch.stack([node(step) for step in x]))
        assert torch.equal(*found) and found[0].any()
    ours.alpha, theirs.alpha = ours.beta.clone(), theirs.beta
    alpha = ours.alpha
    ours.set(current_decay=0.75, decay=0.5, v_threshold=0.5)
    assert ours.alpha is alpha and (ours.alpha, ours.beta, ours.threshold) == (0.75, 0.5, 0.5)
    assert ours.neuron.current_decay == 0.75
    refused = {"current_decay": 1.5, "scale": 2.0, "shift": 0.5, "gain": 0.5, "v_reset": 0.0}
    for name, value in refused.items():
        with pytest.raises(ValueError, match="reset_mechanism='zero'" if name == "v_reset" else name):
            ours.set(v_threshold=0.25, **{name: value})
    assert ours.threshold == 0.5 and ours.reset_mechanism == "subtract"
    with pytest.raises(TypeError, match="current_decay must be a Python float, got str"):
        ours.set(current_decay="slow")
    with pytest.raises(TypeError, match=r"`syn` should not be passed .* `init_hidden=True`"):
        ours(x[0], x[0], x[0])
    ours.reset_mechanism = "zero"
    with pytest.raises(ValueError, match="snnTorch loses the input of the step after a spike"):
        ours(x[0])


def test_what_snntorch_has_and_we_have_not_is_named():
    made = {"alpha": 0.5, "beta": 0.9, "reset_delay": False}
    model = nn.ModuleDict(
        {
            "late": snntorch.Synaptic(0.5, 0.9, reset_mechanism="zero"),
            "forgetful": snntorch.Synaptic(0.5, 0.0),
            "negative": snntorch.Synaptic(**made, reset_mechanism="zero", threshold=-0.3),
            "inhibited": snntorch.Synaptic(**made, inhibition=True),
            "quantised": snntorch.Synaptic(**made, state_quant=torch.round),
            "surrogate": snntorch.Synaptic(**made, spike_grad=snn_surrogate.triangular()),
            "two": snntorch.Alpha(0.9, 0.8),
            "plain": snntorch.Synaptic(**made),
        }
    )
    with pytest.warns(UserWarning, match="1 neurons converted, 7 left"):
        report = from_snntorch.convert(model)
    assert "reset_mechanism='zero' with reset_delay=True" in report.left["late"]
    assert report.left.keys() == model.keys() - {"plain"}
