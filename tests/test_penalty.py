"""Which calls the penalty of a training step is of."""

import copy
import gc
import weakref

import pytest
import snntorch
import torch
from spikingjelly.activation_based import neuron, surrogate
from torch import nn
from torch.utils.checkpoint import checkpoint

import tgo_kernels as tgo
from tgo_kernels.interop import snntorch as from_snntorch
from tgo_kernels.interop import spikingjelly as from_spikingjelly
from tgo_kernels.penalties import MOST, node_of

every_engine = pytest.mark.parametrize("impl", ["native", "reference"])


def data(requires_grad: bool = True) -> torch.Tensor:
    return (3 * torch.rand(8, 6, 5, generator=torch.Generator().manual_seed(0))).requires_grad_(requires_grad)


def whole(x: torch.Tensor, **options) -> tuple[torch.Tensor, torch.Tensor]:
    """The penalty of one call on all of x, and its gradient."""
    layer = tgo.LIF(guard_margin=0.7, **options)
    layer(x)
    penalty = tgo.guard_penalty(layer)
    return penalty.detach(), torch.autograd.grad(penalty, x)[0] if penalty.requires_grad else None


def assert_is_whole(layer: nn.Module, x: torch.Tensor, **options) -> None:
    penalty, gradient = whole(x, **options)
    found = tgo.guard_penalty(layer)
    torch.testing.assert_close(found.detach(), penalty)
    if gradient is not None:
        torch.testing.assert_close(torch.autograd.grad(found, x)[0], gradient)
    assert torch.equal(tgo.guard_penalty(layer), found)


@every_engine
def test_two_views_equal_one_call_on_both(impl):
    x, layer = data(), tgo.LIF(guard_margin=0.7, impl=impl)
    for _ in range(2):
        layer(x[:, :2])
        layer(x[:, 2:])
        assert_is_whole(layer, x)


@every_engine
@pytest.mark.parametrize("grad", [True, False])
def test_chunks_equal_the_whole(impl, grad):
    x, layer = data(grad), tgo.LIF(guard_margin=0.7, impl=impl, stateful=True)
    for _ in range(2):
        for chunk in (x[:3], x[3:4], x[4:]):
            layer(chunk)
        rates = layer.firing_rate, layer.neighbor_rate
        assert_is_whole(layer, x)
        layer.reset()
        layer(x)
        torch.testing.assert_close(rates, (layer.firing_rate, layer.neighbor_rate))
        tgo.guard_penalty(layer)
        layer.reset()


def test_truncated_chunks_equal_the_whole():
    x, layer = data(), tgo.LIF(guard_margin=0.7, stateful=True)
    for chunk in (x[:3], x[3:]):
        layer(chunk)
        layer.detach()
    torch.testing.assert_close(tgo.guard_penalty(layer), whole(x)[0])


def test_a_reset_within_the_forward_does_not_lose_it():
    x, layer = data(), tgo.LIF(guard_margin=0.7, stateful=True)
    for view in (x[:, :2], x[:, 2:]):
        layer(view)
        layer.reset()
        assert layer.penalty is None
    assert_is_whole(layer, x)
    layer.reset()
    with pytest.raises(RuntimeError, match="has not run yet"):
        tgo.guard_penalty(layer)


@pytest.mark.parametrize("framework", ["spikingjelly", "snntorch"])
def test_steps_of_converted_models_count_alike(framework):
    x = data()
    if framework == "spikingjelly":
        node = neuron.LIFNode(surrogate_function=surrogate.ATan())
        from_spikingjelly.convert(node, guard_margin=0.7)
    else:
        node = snntorch.Leaky(0.5, init_hidden=True, reset_delay=False, reset_mechanism="zero")
        from_snntorch.convert(node, guard_margin=0.7)
    for view in (x[:, :2], x[:, 2:]):
        node.reset()
        for step in view:
            node(step if framework == "spikingjelly" else step / 2)
    penalty, gradient = whole(x)
    found = tgo.guard_penalty(node)
    torch.testing.assert_close(found.detach(), penalty, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(torch.autograd.grad(found, x)[0], gradient)


@every_engine
@pytest.mark.parametrize("takes", ["all", "the last"])
def test_what_a_backward_has_been_through_does_not_count(impl, takes):
    """Weight 0 and no guard_penalty, then an attack, then a step: neither an error nor a graph that grows."""
    x, layer = data(), tgo.LIF(guard_margin=0.7, impl=impl)
    nodes = []
    for _ in range(5):
        spikes = layer(1.0 * x)
        nodes.append(weakref.ref(node_of(spikes)))
        torch.autograd.grad(spikes.sum(), x)
        del spikes
    gc.collect()
    assert sum(node() is not None for node in nodes) <= 1
    if takes == "all":
        clean = layer(x[:, :2])
        attacked = x.detach().requires_grad_()
        torch.autograd.grad(layer(attacked).sum(), attacked)
        layer(x[:, 2:])
        assert clean.requires_grad
        assert_is_whole(layer, x)
    else:
        layer(x)
        assert_is_whole(layer, x)


def test_calls_without_gradient_do_not_count_beside_those_with():
    x, layer = data(), tgo.LIF(guard_margin=0.7)
    with torch.no_grad():
        layer(x[:, :1])
    layer(x)
    with torch.no_grad():
        layer(x[:, :1])
    assert_is_whole(layer, x)
    with torch.no_grad():
        layer(x)
        layer(x[:, :2])
        assert torch.equal(tgo.guard_penalty(layer), whole(x[:, :2])[0])


def test_evaluation_with_gradient_piles_nothing_up():
    x, layer = data(), tgo.LIF(guard_margin=0.7).eval()
    nodes = []
    for _ in range(5):
        nodes.append(weakref.ref(layer(1.0 * x).grad_fn))
    gc.collect()
    assert sum(node() is not None for node in nodes) == 1
    for _ in range(2):
        with pytest.raises(RuntimeError, match=r"'' ran with gradient more often.*once in eval\(\)"):
            tgo.guard_penalty(layer)
    layer(x)
    assert_is_whole(layer, x)
    layer(x)
    layer.train()
    layer(x)  # what was only looked at gives way
    layer.eval()
    torch.autograd.grad(layer(x[:1]).sum(), x)  # and an attack in eval() does not count
    assert_is_whole(layer, x)


@every_engine
def test_recomputation_does_not_count(impl):
    x, layer = data(), tgo.LIF(guard_margin=0.7, impl=impl)
    for _ in range(2):
        spikes = checkpoint(layer, x, use_reentrant=False)
        spikes.sum().backward(retain_graph=True)
        assert len(layer._calls) == 1
        assert torch.equal(tgo.guard_penalty(layer).detach(), whole(x)[0])


def test_taking_it_late_or_from_a_copy():
    x, layer = data(), tgo.LIF(guard_margin=0.7)
    for view in (x[:, :2], x[:, 2:]):
        layer(view)
    copied = copy.deepcopy(layer)
    torch.testing.assert_close(tgo.guard_penalty(copied), whole(x)[0])
    assert not tgo.guard_penalty(copied).requires_grad
    torch.testing.assert_close(tgo.guard_penalty(layer), whole(x)[0])
    gradient, _ = torch.func.grad_and_value(lambda x: (layer(x), tgo.guard_penalty(layer))[1])(x.detach())
    torch.testing.assert_close(gradient, whole(x)[1])
    layer(x).sum().backward()
    torch.testing.assert_close(tgo.guard_penalty(layer), whole(x)[0])  # after the backward, for a log


def test_a_margin_that_is_switched_off():
    x, layer = data(), tgo.LIF(guard_margin=0.7)
    layer(x)
    layer.set(guard_margin=0.0)
    assert tgo.guard_penalty(layer) == 0


class Twice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.fc, self.lif = nn.Linear(5, 7), tgo.LIF(guard_margin=0.7)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([self.lif(self.fc(view)) for view in x.chunk(2, 1)], 1)


def trained(model: nn.Module, call, x: torch.Tensor, guards: bool = True) -> tuple[torch.Tensor, ...]:
    model.zero_grad()
    loss = call(x).mean()
    if guards:
        loss = loss + tgo.guard_penalty(model)
    loss.backward()
    return loss.detach(), *(p.grad for p in model.parameters())


@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_compiled_steps_are_one_graph(backend):
    torch.compiler.reset()
    model, x = Twice(), data(False)
    expected = trained(model, model, x)
    compiled = torch.compile(model, fullgraph=True, backend=backend)
    for i in range(4):
        with torch._dynamo.config.patch(error_on_recompile=i > 0):
            torch.testing.assert_close(trained(model, compiled, x), expected)
    torch.compiler.reset()

    step = torch.compile(lambda x: model(x).mean() + tgo.guard_penalty(model), fullgraph=True, backend=backend)
    for i in range(3):
        model.zero_grad()
        with torch._dynamo.config.patch(error_on_recompile=i > 0):
            step(x).backward()
        torch.testing.assert_close(tuple(p.grad for p in model.parameters()), expected[1:])
    torch.compiler.reset()


def test_compiled_steps_without_guard_penalty_end_in_an_error_not_in_a_number():
    torch.compiler.reset()
    model, x = Twice(), data(False)
    expected = trained(model, model, x)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    for i in range(6):  # the weight is 0
        with torch._dynamo.config.patch(error_on_recompile=i > 2):
            trained(model, compiled, x, guards=False)
    with pytest.raises(RuntimeError, match=r"twice under torch\.compile"):
        tgo.guard_penalty(model)
    torch.testing.assert_close(trained(model, compiled, x), expected)
    torch.compiler.reset()


def test_compiled_training_and_evaluation_in_turns():
    torch.compiler.reset()
    model, x = Twice(), data(False)
    expected = trained(model, model, x)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    for i in range(3):
        with torch._dynamo.config.patch(error_on_recompile=i > 1):
            torch.testing.assert_close(trained(model, compiled, x), expected)
            for call in (compiled, model):
                with torch.no_grad():
                    call(x)
                    call(x[:4])
                    call(x)
    torch.compiler.reset()


class Branched(nn.Module):
    """A trunk with two heads, of which the second may be left out."""

    def __init__(self, **options) -> None:
        super().__init__()
        self.trunk, self.head, self.other = (tgo.LIF(guard_margin=0.7, **options) for _ in range(3))

    def forward(self, x: torch.Tensor, both: bool = True) -> tuple[torch.Tensor, torch.Tensor | None]:
        y = self.trunk(x)
        return self.head(2 * y), self.other(3 * y) if both else None


@every_engine
def test_a_head_that_no_loss_took_does_not_count(impl):
    """Its own graph was not freed, but that of the trunk was."""
    net, fresh, x = Branched(impl=impl), Branched(impl=impl), data()
    for _ in range(3):
        net(0.3 * x)[0].sum().backward()
    for model in (net, fresh):
        x.grad = None
        (model(x)[0].sum() + tgo.guard_penalty(model)).backward()
    assert torch.equal(tgo.guard_penalty(net), tgo.guard_penalty(fresh))


@every_engine
@pytest.mark.parametrize("grad", [True, False])
def test_a_layer_that_did_not_run_adds_nothing(impl, grad):
    net, x = Branched(impl=impl), data(grad)
    net(x)
    tgo.guard_penalty(net)
    net(x, both=False)
    expected = net.trunk.penalty + net.head.penalty
    assert torch.equal(tgo.guard_penalty(net), expected) and net.other.penalty > 0
    if grad:
        tgo.guard_penalty(net).backward()


def test_calls_that_nobody_takes_end_somewhere():
    layer, x = tgo.LIF(guard_margin=0.7), data()
    for _ in range(MOST + 3):
        layer(x).sum().backward(retain_graph=True)
    assert len(layer._calls) == 3
    with pytest.raises(RuntimeError, match="64 times otherwise"):
        tgo.guard_penalty(layer)
    layer(x)
    assert_is_whole(layer, x)


def test_what_eval_lost_is_no_matter_while_training():
    """Adversarial training with both views of an attack in eval()."""
    net, x = nn.Sequential(tgo.LIF(guard_margin=0.7)), data()
    for _ in range(2):
        net.eval()
        net(x.detach() + 0 * x)
        net(x).sum().backward()
        net.train()
        net(x)
        assert_is_whole(net, x)


def test_after_a_refusal_all_layers_start_anew():
    net, x = nn.Sequential(*(tgo.LIF(guard_margin=0.7) for _ in range(3))).eval(), data()
    net(x)
    net(x)
    with pytest.raises(RuntimeError, match="LIF layer '0' ran with gradient more often"):
        tgo.guard_penalty(net)
    net(x)
    assert torch.equal(tgo.guard_penalty(net), sum(layer.penalty for layer in net))
