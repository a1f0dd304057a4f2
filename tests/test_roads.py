"""Every road that torch offers to a gradient gives that of eager mode, or an error that says so.

In Triton's interpreter (TRITON_INTERPRET=1) for Triton, else for the other engines.
"""

import os
from functools import partial

import pytest
import torch
from torch import func, nn
from torch.autograd import forward_ad
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils.checkpoint import checkpoint

import tgo_kernels as tgo

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
ENGINES = [("triton", "cpu")] if INTERPRETED else [("native", "cpu"), ("reference", "cpu")]
ENGINES += [("triton", "cuda"), ("native", "cuda")] if torch.cuda.is_available() else []
on_every_engine = pytest.mark.parametrize(("impl", "device"), ENGINES)


def compilers(*names: str) -> tuple[str, ...]:
    """All of them; in the interpreter, where a graph takes a minute, the last one, which has the most to do."""
    return names[-1:] if INTERPRETED else names


ALL = compilers("eager", "aot_eager", "inductor")
on_every_compiler = pytest.mark.parametrize("backend", ALL)
ONCE, NO_JVP, NO_VMAP = "differentiable once", "no forward-mode derivative", "has no vmap"


@pytest.fixture(autouse=True)
def fresh_compiler():
    """No graph of an earlier run: the compiler's cache on disk does not know when an operator changes."""
    torch.compiler.reset()
    with torch._inductor.utils.fresh_cache():
        yield
    torch.compiler.reset()
    torch._C._autograd._saved_tensors_hooks_enable()  # which torch leaves disabled where compiling a transform fails
    assert torch._C._functorch.peek_interpreter_stack() is None


class Everything:
    """A loss of all that has a gradient, by all that has one: x, v_init and the constants of the neurons."""

    def __init__(self, impl: str, device: str) -> None:
        steps = 3 if impl == "reference" else 9  # past a checkpoint; a compiler unrolls the reference, and its noise
        self.noise = {} if impl == "reference" else {"noise_std": 0.2, "noise_seed": 3}
        shape = (1, 3) if INTERPRETED else (3, 6)  # the interpreter takes milliseconds for a step
        self.given = torch.rand(steps, *shape, device=device) * 4, torch.rand(shape, device=device)
        self.given += torch.full(shape[1:], 0.5, device=device), torch.tensor(1.1, device=device)
        self.weight = torch.randn(steps, *shape, device=device)
        self.impl = impl

    def spikes(self, x, v_init, decay, v_threshold):
        constants = {"decay": decay, "v_threshold": v_threshold, "guard_margin": 0.5, "membrane": "u", **self.noise}
        return tgo.lif(2 * x, v_init, **constants, impl=self.impl)

    def of_x(self, x):
        return self.spikes(x, *self.given[1:]).spikes

    def loss(self, *given):
        out = self.spikes(*given)
        return (out.spikes * self.weight).sum() + out.v_final.square().sum() + out.penalty + out.membrane.square().sum()

    def gradients(self, *given):
        return func.grad(self.loss, argnums=(0, 1, 2, 3))(*given)

    def expected(self):
        leaves = [a.clone().requires_grad_() for a in self.given]
        found = torch.autograd.grad(self.loss(*leaves), leaves)
        assert all(g.any() for g in found)
        return found


def same(found, expected) -> None:
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


@on_every_engine
def test_functional_transforms(impl, device):
    every = Everything(impl, device)
    expected = every.expected()
    same(every.gradients(*every.given), expected)
    value, pull = func.vjp(every.loss, *every.given)
    same(pull(torch.ones_like(value)), expected)
    same(func.jacrev(every.loss, argnums=(0, 1, 2, 3))(*every.given), expected)
    total = func.jacrev(every.of_x)(every.given[0])
    x = every.given[0].clone().requires_grad_()
    spikes = every.of_x(x)
    for i in ((0, 0, 0), (1, 0, 2), (-1, -1, 1)):
        same([total[i]], torch.autograd.grad(spikes[i], x, retain_graph=True))


@on_every_engine
@on_every_compiler
def test_functional_transforms_compiled(impl, device, backend):
    every = Everything(impl, device)
    expected = every.expected()
    same(torch.compile(every.gradients, backend=backend, fullgraph=True)(*every.given), expected)

    def pulled(*given):
        value, pull = func.vjp(every.loss, *given)
        return pull(torch.ones_like(value))

    same(torch.compile(pulled, backend=backend)(*every.given), expected)
    same(torch.compile(func.jacrev(every.loss, argnums=(0, 1, 2, 3)), backend=backend)(*every.given), expected)


@on_every_engine
@on_every_compiler
def test_functional_transforms_around_what_is_compiled(impl, device, backend):
    every = Everything(impl, device)
    expected = every.expected()
    every.spikes = torch.compile(every.spikes, backend=backend)
    same(every.gradients(*every.given), expected)
    value, pull = func.vjp(every.loss, *every.given)
    same(pull(torch.ones_like(value)), expected)
    same(func.jacrev(every.loss, argnums=(0, 1, 2, 3))(*every.given), expected)


@on_every_engine
def test_a_transform_within_a_graph_leaves_it_whole(impl, device):
    """The value of an inner transform is differentiated once more from outside, in eager mode and by a transform."""
    every = Everything(impl, device)
    x, *others = every.given
    weight = torch.rand(x.shape[-1], device=device, requires_grad=True)

    def value(weight):
        return func.vjp(lambda x: every.loss(x * weight, *others), x)[0]

    (expected,) = torch.autograd.grad(every.loss(x * weight, *others), weight)
    same(torch.autograd.grad(value(weight), [weight]), [expected])
    same([func.grad(value)(weight.detach())], [expected])
    assert expected.any()


def network(impl: str, guard_margin: float = 0.0) -> nn.Module:
    torch.manual_seed(0)
    learns = {"learn_decay": True, "learn_threshold": True, "channels": 16, "guard_margin": guard_margin}
    net = nn.Sequential(nn.Linear(6, 16), tgo.LIF(impl=impl, **learns), nn.Linear(16, 4), tgo.LIF(impl=impl))
    with torch.no_grad():
        net[0].weight *= 8
        net[2].weight *= 8
    return net


def gradients(net: nn.Module, call, x: torch.Tensor) -> list[torch.Tensor]:
    net.zero_grad()
    call(x).square().sum().backward()
    found = [p.grad.clone() for p in net.parameters()]
    assert all(g.any() for g in found)
    return found


@on_every_engine
@on_every_compiler
@pytest.mark.parametrize("guard_margin", [0.0, 0.5])
def test_functional_call(impl, device, backend, guard_margin):
    net, x = network(impl, guard_margin).to(device), torch.rand(4, 3, 6, device=device)
    params = dict(net.named_parameters())

    def loss(net, params, x):
        return func.functional_call(net, params, (x,)).square().sum() + tgo.guard_penalty(net)

    expected = torch.autograd.grad(loss(net, params, x), list(params.values()))
    assert all(g.any() for g in expected)
    for call in (func.grad(partial(loss, net)), torch.compile(func.grad(partial(loss, net)), backend=backend)):
        same(call(params, x).values(), expected)
    renamed = {f"_orig_mod.{name}": p for name, p in params.items()}
    same(func.grad(partial(loss, torch.compile(net, backend=backend)))(renamed, x).values(), expected)


@on_every_engine
@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize("grad", [True, False])
def test_an_exported_graph_trains(impl, device, strict, grad, tmp_path):
    net, x = network(impl).to(device), torch.rand(9, 3, 6, device=device)
    expected = gradients(net, net, x)
    with torch.set_grad_enabled(grad):
        exported = torch.export.export(net, (x,), strict=strict)
    torch.export.save(exported, tmp_path / "net.pt2")
    for program in (exported, exported.run_decompositions(), torch.export.load(tmp_path / "net.pt2")):
        found = program.module()
        same(gradients(found, found, x), expected)


@on_every_engine
@pytest.mark.parametrize("strict", [True, False])
def test_an_exported_graph_takes_any_number_of_steps(impl, device, strict):
    if impl == "reference":
        pytest.skip("plain torch unrolls the steps")
    net, x = network(impl).to(device), torch.rand(4, 3, 6, device=device)
    sizes = {0: torch.export.Dim("T", min=2), 1: torch.export.Dim("batch", min=2)}
    program = torch.export.export(net, (x,), dynamic_shapes=(sizes,), strict=strict).module()
    for given in (x, torch.rand(7, 5, 6, device=device)):  # more than 8 are another graph
        same(gradients(program, program, given), gradients(net, net, given))


@on_every_engine
def test_a_traced_graph_has_its_gradient(impl, device):
    every = Everything(impl, device)
    for pre_dispatch in (False, True):
        graph = make_fx(every.loss, pre_dispatch=pre_dispatch)(*every.given)
        leaves = [a.clone().requires_grad_() for a in every.given]
        same(torch.autograd.grad(graph(*leaves), leaves), every.expected())


@on_every_engine
@pytest.mark.parametrize("backend", [None, *compilers("aot_eager", "inductor")])
@pytest.mark.parametrize("reentrant", [True, False])
def test_activation_checkpointing(impl, device, backend, reentrant):
    net, x = network(impl).to(device), torch.rand(9, 3, 6, device=device)
    expected = gradients(net, net, x)

    def call(x):
        for part in (net[:2], net[2:]):
            x = checkpoint(part, x, use_reentrant=reentrant)
        return x

    call = torch.compile(call, backend=backend) if backend else call
    same(gradients(net, call, x.requires_grad_()), expected)


@on_every_engine
@pytest.mark.parametrize("backend", [None, *compilers("aot_eager", "inductor")])
def test_saved_tensor_hooks(impl, device, backend):
    every = Everything(impl, device)
    expected = every.expected()
    loss = torch.compile(every.loss, backend=backend) if backend else every.loss
    leaves = [a.clone().requires_grad_() for a in every.given]
    packed = []

    def pack(t):
        packed.append(t.shape)
        return t.detach().cpu().clone().numpy()

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda a: torch.from_numpy(a).to(device)):
        value = loss(*leaves)
    same(torch.autograd.grad(value, leaves), expected)
    assert packed


@on_every_engine
@pytest.mark.parametrize("backend", [None, *compilers("eager", "aot_eager")])
def test_batched_gradients(impl, device, backend):
    every = Everything(impl, device)
    leaves = [a.clone().requires_grad_() for a in every.given]
    spikes = torch.compile(every.spikes, backend=backend) if backend else every.spikes
    out = spikes(*leaves).spikes
    rows = torch.randn(3, *out.shape, device=device)
    found = torch.autograd.grad(out, leaves, rows, is_grads_batched=True, retain_graph=True)
    for i, row in enumerate(rows):
        same([g[i] for g in found], torch.autograd.grad(out, leaves, row, retain_graph=True))


def refused(call, *arguments, match: str) -> None:
    with pytest.raises(Exception, match=match) as error:
        call(*arguments)
    assert isinstance(error.value, RuntimeError)


@on_every_engine
@pytest.mark.parametrize("backend", [None, *ALL])
def test_forward_mode_is_refused(impl, device, backend):
    every = Everything(impl, device)
    x, spikes = every.given[0], every.of_x
    compiled = partial(torch.compile, backend=backend) if backend else lambda call: call
    around = compiled(spikes)
    around(x)  # a graph for eager mode is there
    refused(compiled(lambda x: func.jvp(spikes, (x,), (x,))), x, match=NO_JVP)
    refused(lambda x: func.jvp(around, (x,), (x,)), x, match=NO_JVP)
    refused(func.jacfwd(around), x, match=NO_JVP)
    with forward_ad.dual_level():
        refused(around, forward_ad.make_dual(x, x), match=NO_JVP)
    assert torch.equal(around(x), spikes(x))


@on_every_engine
@pytest.mark.parametrize("backend", [None, *ALL])
def test_vmap_is_refused(impl, device, backend):
    every = Everything(impl, device)
    x, spikes = every.given[0], every.of_x
    compiled = partial(torch.compile, backend=backend) if backend else lambda call: call
    for call in (compiled(func.vmap(spikes)), func.vmap(compiled(spikes))):
        refused(call, torch.stack([x, x]), match=NO_VMAP)
    refused(compiled(func.vmap(func.grad(lambda x: spikes(x).sum()))), torch.stack([x, x]), match=NO_VMAP)


@pytest.mark.parametrize(("impl", "device"), [engine for engine in ENGINES if engine[0] != "reference"])
def test_a_second_derivative_is_refused(impl, device):
    every = Everything(impl, device)
    x, *others = every.given

    def loss(x):
        return every.loss(x, *others)

    def twice(x):
        return func.grad(lambda x: func.grad(loss)(x).square().sum())(x)

    refused(twice, x, match=ONCE)
    for backend in ALL:
        refused(torch.compile(twice, backend=backend), x, match=ONCE)
    refused(func.hessian(loss), x, match=NO_JVP)
    refused(func.jacrev(func.jacrev(loss)), x, match=ONCE)
    for backend in (None, *ALL):
        called = torch.compile(tgo.lif, backend=backend) if backend else tgo.lif
        leaf = x.clone().requires_grad_()
        (g,) = torch.autograd.grad(called(leaf, impl=impl).spikes.sum(), leaf, create_graph=True)
        refused(torch.autograd.grad, (g * leaf).sum(), leaf, match=f"{ONCE}|not currently support double backward")
    leaf = torch.rand(4, 3, 6, device=device, requires_grad=True)
    program = torch.export.export(network(impl).to(device), (leaf.detach(),)).module()
    (g,) = torch.autograd.grad(program(leaf).sum(), leaf, create_graph=True)
    refused(torch.autograd.grad, g.square().sum(), leaf, match=ONCE)


@pytest.mark.skipif(INTERPRETED, reason="of the reference alone")
def test_the_reference_has_second_derivatives():
    every = Everything("reference", "cpu")
    x, *others = every.given

    def loss(x):
        return every.loss(x, *others)

    def twice(x):
        return func.grad(lambda x: func.grad(loss)(x).square().sum())(x)

    leaf = x.clone().requires_grad_()
    (g,) = torch.autograd.grad(loss(leaf), leaf, create_graph=True)
    (expected,) = torch.autograd.grad(g.square().sum(), leaf)
    same([twice(x), torch.compile(twice, backend="aot_eager")(x)], [expected, expected])
    assert expected.any()


@on_every_engine
def test_what_an_ended_transform_left_can_be_used(impl, device):
    left = []

    def loss(x):
        left.append(2 * x)
        return left[-1].sum()

    x = torch.rand(4, 6, device=device)
    func.grad(loss)(x)
    v_init = torch.rand(6, device=device, requires_grad=True)
    gradients = []
    for given in (left[0], 2 * x):
        out = tgo.lif(given, v_init, impl=impl)
        gradients += torch.autograd.grad(out.v_final.sum(), v_init)
    assert torch.equal(*gradients) and gradients[0].any()
    assert not tgo.lif(left[0], impl=impl).spikes.requires_grad
