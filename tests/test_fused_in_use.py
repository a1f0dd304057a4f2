"""What users do to a fused norm's input and output: the same as without fuse, or an error."""

import copy

import pytest
import torch
from torch import nn

import tgo_kernels as tgo


class Chain(nn.Module):
    """conv, norm and neuron, with something done between them."""

    def __init__(self, between=lambda x, y: y):
        super().__init__()
        self.conv, self.bn, self.lif = nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3), tgo.LIF()
        self.between = None  # while it is fused, so that it is not foreseen
        self.later = between

    def forward(self, x):
        x = self.conv(x)
        y = self.bn(x)
        if self.between is not None:
            y = self.between(x, y)
        return self.lif(y.unflatten(0, (4, 2)))


def fused_and_not(between):
    net = Chain(between)
    other = copy.deepcopy(net)
    assert "bn" in tgo.fuse(other).fused
    for each in (net, other):
        each.between = each.later
    return net, other


def results(net, x):
    x = x.clone().requires_grad_()
    spikes = net(x)
    weights = torch.linspace(-1, 1, spikes.numel()).view_as(spikes)
    gradients = torch.autograd.grad((spikes * weights).sum(), [x, *net.parameters()])
    return spikes.detach(), gradients


X = 2 * torch.randn(8, 3, 5, 5, generator=torch.Generator().manual_seed(0))


def scaled(x, y):
    y.mul_(3.0)
    return y


def hooked(x, y):
    y.register_hook(lambda g: 0.5 * g)
    return y


@pytest.mark.parametrize("between", [scaled, hooked, lambda x, y: (y.relu_(), y)[1]], ids=["scaled", "hooked", "relu"])
def test_what_is_done_to_the_output_is_not_lost(between):
    net, fused = fused_and_not(between)
    (expected, wanted), (found, gradients) = results(net, X), results(fused, X)
    assert torch.equal(found, expected) and found.any()
    for a, b in zip(gradients, wanted, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


def test_a_retained_gradient_of_the_output():
    kept = []
    _, fused = fused_and_not(lambda x, y: (y.retain_grad(), kept.append(y), y)[2])
    fused(X).sum().backward()
    assert kept[0].grad.any()


@pytest.mark.parametrize("training", [True, False])
def test_an_input_written_to_in_place_is_an_error(training):
    net, fused = fused_and_not(lambda x, y: (x.add_(1.5), y)[1])
    with torch.no_grad():
        net.train(training)(X)
        with pytest.raises(RuntimeError, match="input of a fused norm was written to in place"):
            fused.train(training)(X)


@pytest.mark.parametrize("register", ["register_full_backward_hook", "register_full_backward_pre_hook"])
@pytest.mark.parametrize("when", ["before", "after"])
def test_a_norm_with_backward_hooks_runs_by_itself(register, when):
    net, calls = Chain(), []
    if when == "after":
        tgo.fuse(net)
    getattr(net.bn, register)(lambda *given: calls.append(len(given)))
    if when == "before":
        assert "hooks" in tgo.fuse(net).left["bn"]
    net(X).sum().backward()
    assert len(calls) == 1


def test_a_container_with_backward_hooks_keeps_its_norm():
    net = nn.Sequential(tgo.OverTime(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)), tgo.LIF())
    calls = []
    net[0].register_full_backward_hook(lambda *given: calls.append(given[2][0].shape))
    assert "0 (OverTime) has hooks of the backward" in tgo.fuse(net).left["0.1"]
    net(X.unflatten(0, (4, 2))).sum().backward()
    assert calls == [(4, 2, 3, 5, 5)]


@pytest.mark.parametrize("weight", [0.0, -0.0])
def test_a_pool_of_a_channel_with_weight_zero(weight):
    net = nn.Sequential(tgo.OverTime(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.MaxPool2d(2)), tgo.LIF())
    with torch.no_grad():
        net[0][1].weight[:2] = weight
        net[0][1].bias.fill_(1.5)
    fused, x = copy.deepcopy(net), torch.randn(4, 2, 3, 8, 8)
    tgo.fuse(fused)
    for each in (net, fused):
        each(x).sum().backward()
    for a, b in zip(fused.parameters(), net.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-4, atol=1e-4)
    assert net[0][1].weight.grad[:2].all()


def test_an_empty_batch():
    net = Chain()
    fused = copy.deepcopy(net)
    tgo.fuse(fused)
    assert torch.equal(fused.bn(X[:0]), net.bn(X[:0])) and fused.bn.num_batches_tracked == 1


@pytest.mark.parametrize("inside", [False, True])
def test_what_is_computed_again_within_autocast_is_what_it_was(inside):
    """The forward in fp32, the backward under autocast."""
    fire = [tgo.LIF(decay_input=False, v_threshold=0.2) for _ in range(2)]
    net = nn.Sequential(nn.Linear(16, 32), fire[0], nn.Linear(32, 32), fire[1], nn.Linear(32, 5))
    x, found = 3 * torch.randn(4, 6, 16), []
    for level in ("output", "bits"):
        each = copy.deepcopy(net)
        tgo.pack_spikes(each, level=level)
        with torch.autocast("cpu", torch.bfloat16):
            with torch.autocast("cpu", enabled=False):
                loss = each(x).square().mean()
            if inside:
                loss.backward()
        if not inside:
            loss.backward()
        found.append([parameter.grad for parameter in each.parameters()])
    for a, b in zip(*found, strict=True):
        assert torch.equal(a, b) and a.any()
