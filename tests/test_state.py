"""What a layer keeps of a forward outlives what the forward ran in: transforms, inference mode, copies and files."""

import copy
import io
import pickle
from collections.abc import Callable

import pytest
import snntorch
import torch
from spikingjelly.activation_based import neuron
from torch import Tensor, nn

import tgo_kernels as tgo
from tgo_kernels.interop import snntorch as from_snntorch
from tgo_kernels.interop import spikingjelly as from_spikingjelly

KINDS = ("plain", "stateful", "spikingjelly s", "spikingjelly m", "snntorch s", "snntorch m")
KINDS += ("snntorch synaptic s", "snntorch synaptic m")
every_kind = pytest.mark.parametrize("kind", KINDS)
every_stateful_kind = pytest.mark.parametrize("kind", KINDS[1:])


def original(kind: str, **options) -> nn.Module:
    if "spikingjelly" in kind:
        return neuron.LIFNode(step_mode=kind[-1])
    if "synaptic" in kind:
        return snntorch.Synaptic(0.25, 0.5, init_hidden=True)
    if "snntorch" in kind:
        return snntorch.Leaky(0.5, init_hidden=True, reset_delay=False, reset_mechanism="zero")
    return tgo.LIF(stateful=kind == "stateful", **options)


def made(kind: str, **options) -> nn.Module:
    """The layer of that kind, as a network."""
    net = nn.Sequential(original(kind, **options))
    if "spikingjelly" in kind:
        from_spikingjelly.convert(net, **options)
    elif "snntorch" in kind:
        from_snntorch.convert(net, sequence=kind[-1] == "m", **options)
    return net


def called(kind: str) -> Callable[[nn.Module, Tensor], Tensor]:
    """How [T, *] goes through it."""
    return (lambda net, x: torch.stack([net(step) for step in x])) if kind[-2:] == " s" else lambda net, x: net(x)


def x_of(seed: int = 0) -> Tensor:
    return 3 * torch.rand(4, 3, 6, generator=torch.Generator().manual_seed(seed))


def twice(kind: str, net: nn.Module, first: Callable) -> tuple[Tensor, ...]:
    """Spikes and gradient of a second call; ``first`` makes the first."""
    first(net)
    x = x_of(1).requires_grad_()
    spikes = called(kind)(net, x)
    spikes.sum().backward()
    return spikes, x.grad


@every_kind
def test_the_state_outlives_a_transform(kind):
    net, plain, x = made(kind, guard_margin=0.5), made(kind, guard_margin=0.5), x_of()
    torch.func.grad(lambda x: called(kind)(net, x).sum())(x)
    with torch.no_grad():
        called(kind)(plain, x)
    torch.save(net.state_dict() if "snntorch" in kind else net, io.BytesIO())
    for layer in (net[0], copy.deepcopy(net)[0]):
        assert torch.equal(layer.v + 0, plain[0].v) and torch.equal(layer.penalty + 0, plain[0].penalty)
        assert torch.equal(layer.firing_rate, plain[0].firing_rate) and layer.firing_rate > 0
        assert torch.equal(layer.neighbor_rate, plain[0].neighbor_rate)
        assert torch.equal(tgo.guard_penalty(layer), tgo.guard_penalty(plain))
    if "snntorch" in kind:
        assert all(map(torch.equal, net[0].states(), plain[0].states()))
    expected = twice(kind, plain, lambda net: None)
    assert all(map(torch.equal, twice(kind, net, lambda net: None), expected)) and expected[1].any()


@every_kind
def test_training_goes_on_from_a_state_of_inference_mode(kind):
    def first(kind, mode):
        def run(net):
            with mode():
                called(kind)(net, x_of())

        return run

    theirs = f"{kind[:-1]}s" if "snntorch" in kind else kind  # which takes no sequences
    mode = torch.no_grad if kind in KINDS[:2] else torch.inference_mode
    theirs = twice(theirs, nn.Sequential(original(kind)), first(theirs, mode))
    for options in ({}, {"noise_std": 1e-6, "guard_margin": 0.5}):
        ours = twice(kind, made(kind, **options), first(kind, torch.inference_mode))
        assert torch.equal(ours[0], theirs[0]) and ours[0].any()
        torch.testing.assert_close(ours[1], theirs[1], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("kind", ["stateful", "spikingjelly m", "spikingjelly s", "snntorch m", KINDS[-1]])
@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_compiled_training_goes_on_from_a_state_of_inference_mode(kind, backend):
    torch.compiler.reset()
    found = []
    for compiles in (False, True):
        net = made(kind).eval()
        call = torch.compile(net, backend=backend, fullgraph=True) if compiles else net
        with torch.inference_mode():
            called(kind)(call, x_of())
        net.train()
        x = x_of(1).requires_grad_()
        spikes = called(kind)(call, x)
        spikes.sum().backward()
        found.append((spikes, x.grad))
    torch.testing.assert_close(*found)
    torch.compiler.reset()


@every_stateful_kind
def test_a_state_within_a_compiled_transform(kind):
    """No tensor of a transform may leave compiled code: what keeps a state runs in eager mode, or says why not."""
    torch.compiler.reset()
    found = []
    for compiles in (False, True):
        net = made(kind)
        grad = torch.func.grad(lambda x, net=net: called(kind)(net, x).sum())
        call = torch.compile(grad, backend="aot_eager") if compiles else grad
        found.append((call(x_of()), call(x_of(1)), net[0].v + 0))
    assert all(map(torch.equal, *found)) and all(part.any() for part in found[0])
    torch.compiler.reset()
    with pytest.raises(torch._dynamo.exc.Unsupported, match="a stateful layer keeps its state"):
        torch.compile(grad, backend="aot_eager", fullgraph=True)(x_of())
    torch.compiler.reset()


@every_kind
@pytest.mark.parametrize("how", ["deepcopy", "pickle"])
def test_a_copy_goes_on_as_the_original(kind, how):
    if "snntorch" in kind and how == "pickle":
        pytest.skip("surrogates of snnTorch are local functions, which nobody pickles")
    net = made(kind, noise_std=0.3, guard_margin=0.5)
    weight = torch.ones((), requires_grad=True)
    spikes = called(kind)(net, weight * x_of())
    other = copy.deepcopy(net) if how == "deepcopy" else pickle.loads(pickle.dumps(net))
    assert other[0].v.grad_fn is None and torch.equal(other[0].v, net[0].v)
    assert torch.equal(tgo.guard_penalty(other), tgo.guard_penalty(net))
    found = []
    for model in (net, other):
        torch.manual_seed(3)  # where each call draws its own
        found.append(called(kind)(model, x_of(1)))
    assert torch.equal(*found) and found[0].any()
    spikes.sum().backward()  # the original keeps its graph
    assert weight.grad != 0


@every_kind
def test_an_average_of_weights_is_made_of_a_model_that_has_run(kind):
    net = nn.Sequential(nn.Linear(6, 6), *made(kind))
    called(kind)(net, x_of()).sum().backward()
    averaged = torch.optim.swa_utils.AveragedModel(net)
    averaged.update_parameters(net)
    assert torch.equal(averaged.module[0].weight, net[0].weight)


@every_stateful_kind
def test_a_seed_outlives_the_transform_that_drew_it(kind):
    net = made(kind, noise_std=0.3)
    torch.func.grad(lambda x: called(kind)(net, x).sum())(x_of())
    other = copy.deepcopy(net)
    assert torch.equal(called(kind)(other, x_of(1)), called(kind)(net, x_of(1)))


def test_noise_goes_on_after_a_trace():
    net = made("stateful", noise_std=0.3).eval()
    net[0].set(noise_in_eval=True)
    torch.jit.trace(net, (x_of(),), check_trace=False)
    assert net(x_of()).shape == x_of().shape


@pytest.mark.parametrize("kind", ["spikingjelly s", "spikingjelly m"])
def test_a_state_of_converted_neurons_in_fp64(kind):
    net, plain, x = made(kind, impl="reference"), nn.Sequential(original(kind)), x_of().double()
    for _ in range(2):
        assert torch.equal(called(kind)(net, x), called(kind)(plain, x))
    for model in (net, plain):
        model[0].reset()
        model[0].v = 0.5
    assert torch.equal(called(kind)(net, x), called(kind)(plain, x)) and net[0].v.dtype == torch.float64
