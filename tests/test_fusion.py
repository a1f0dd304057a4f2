"""Norms that go straight into a neuron are found, in any module, and become part of its pass."""

import copy
import pickle

import pytest
import torch
from models import exact, gradients
from packed import assert_equal
from torch import nn
from torch.utils.checkpoint import checkpoint

import tgo_kernels as tgo


def conv(a, b, size=3):
    return nn.Conv2d(a, b, size, padding=size // 2, bias=False)


class Unit(nn.Module):
    """Its norm is in a container, its neuron beside it."""

    def __init__(self, a, b):
        super().__init__()
        self.conv = tgo.OverTime(conv(a, b), nn.BatchNorm2d(b), nn.Identity())
        self.fire = tgo.LIF()

    def forward(self, x):
        return self.fire(self.conv(x))


class Residual(nn.Module):
    """A residual that joins the spikes, and one that joins the current: its norm is left."""

    def __init__(self, a, add):
        super().__init__()
        self.first, self.conv, self.norm, self.fire = Unit(a, a), conv(a, a), nn.BatchNorm2d(a), tgo.LIF()
        self.add = add

    def forward(self, x):
        y = self.first(x)
        y = self.norm(self.conv(y.flatten(0, 1))).unflatten(0, x.shape[:2])
        return self.fire(y) + x if self.add == "spikes" else self.fire(y + x)


class Untraceable(nn.Module):
    def __init__(self, a):
        super().__init__()
        self.unit, self.norm, self.fire = Unit(a, a), nn.BatchNorm2d(a), tgo.LIF()

    def forward(self, x):
        x = torch.stack(list(self.unit(x)))
        return self.fire(self.norm(x.flatten(0, 1)).unflatten(0, x.shape[:2]))


def net():
    return nn.Sequential(
        Unit(3, 8),
        nn.Sequential(tgo.OverTime(nn.MaxPool2d(2), conv(8, 8), nn.BatchNorm2d(8)), tgo.LIF()),
        Residual(8, "spikes"),
        Residual(8, "current"),
        Untraceable(8),
        tgo.OverTime(nn.Flatten(), nn.Linear(128, 16), nn.BatchNorm1d(16)),
        tgo.LIF(),
        tgo.OverTime(nn.Linear(16, 10), nn.BatchNorm1d(10)),
    )


FUSED = {
    "0.conv.1": "0.fire",
    "1.0.2": "1.1",
    "2.first.conv.1": "2.first.fire",
    "2.norm": "2.fire",
    "3.first.conv.1": "3.first.fire",
    "4.unit.conv.1": "4.unit.fire",
    "5.2": "6",
}


def assert_alike(found, expected, **tolerance):
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, **tolerance)


def test_what_is_found_and_what_is_left():
    model = net()
    keys, report = list(model.state_dict()), tgo.fuse(model)
    assert report.fused == FUSED
    assert report.pools == ["1.0.0"]
    assert set(report.left) == {"3.norm", "4.norm", "7.1"}
    assert "add" in report.left["3.norm"]
    assert "cannot be traced" in report.left["4.norm"]
    assert "the model's" in report.left["7.1"]
    assert list(model.state_dict()) == keys
    for line in ("fused  5.2 -> 6", "pool   1.0.0", "left   7.1: "):
        assert line in str(report)


@pytest.mark.parametrize("training", [True, False])
def test_the_same_outputs_and_gradients(training):
    model, x = exact(net()).train(training), torch.randn(4, 3, 3, 8, 8, dtype=torch.float64)
    expected = gradients(copy.deepcopy(model), x)
    tgo.fuse(model)
    assert_alike(gradients(model, x), expected, rtol=1e-7, atol=1e-9)
    plain = copy.deepcopy(exact(net()))
    plain.load_state_dict(model.state_dict())
    assert_alike([model.eval()(x)], [plain.eval()(x)], rtol=1e-7, atol=1e-9)


def test_in_single_precision_it_trains():
    model, x = net(), torch.randn(4, 3, 3, 8, 8)
    other = copy.deepcopy(model)
    tgo.fuse(model)
    for module in (model, other):
        optimizer = torch.optim.SGD(module.parameters(), 0.1)
        for _ in range(3):
            optimizer.zero_grad()
            module(x).square().mean().backward()
            optimizer.step()
    for a, b in zip(model.parameters(), other.parameters(), strict=True):
        assert (a - b).norm() <= 0.05 * b.norm() + 1e-3


def test_copies_and_pickles_are_fused():
    model, x = exact(net()), torch.randn(4, 3, 3, 8, 8, dtype=torch.float64)
    tgo.fuse(model)
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert_alike(gradients(other, x), gradients(copy.deepcopy(model), x))
        assert other[5][2] is not model[5][2]
        before = other[5][2].running_mean.clone()
        other(x)
        assert not torch.equal(other[5][2].running_mean, before)
        assert not torch.equal(other[5][2].running_mean, model[5][2].running_mean)


def test_once_is_enough():
    model = net()
    tgo.fuse(model)
    again = tgo.fuse(model)
    assert not again.fused
    assert not again.pools
    assert set(again.left) == {"3.norm", "4.norm", "7.1"}


def test_what_replaces_a_norm_or_a_neuron_computes_the_same():
    model, x = exact(net()), torch.randn(4, 3, 3, 8, 8, dtype=torch.float64)
    expected = gradients(copy.deepcopy(model), x)
    tgo.fuse(model)
    neurons = copy.deepcopy(model)
    neurons[6], neurons[1][1] = (exact(tgo.LIF()) for _ in range(2))
    assert_alike(gradients(neurons, x), expected, rtol=1e-7, atol=1e-9)
    model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
    assert type(model[5][2]) is nn.SyncBatchNorm
    assert_alike(gradients(model, x), expected, rtol=1e-7, atol=1e-9)


class Uses(nn.Module):
    """A norm, a neuron, and what else a forward does with them."""

    def __init__(self, run):
        super().__init__()
        self.chain = nn.Sequential(tgo.OverTime(nn.BatchNorm2d(3)), tgo.LIF())
        self.norm, self.fire, self.run, self.seen, self.calls = self.chain[0], self.chain[1], run, [], 0

    def forward(self, x):
        self.calls += 1
        return self.run(self, x)


class Second(tgo.LIF):
    """Its input is the second argument."""

    def forward(self, other, x=None):
        return other if x is None else super().forward(x) + other


class Scaled(tgo.LIF):
    def forward(self, x):
        return super().forward(x * 2)


def looked_at(y):
    with torch.no_grad():
        y.mean()
    return y


def reached_into(self, x):
    for layer in self.chain:
        x = layer(x)
        self.seen.append(x)
    return self.seen[-2] + self.seen[-1]


def out_of_it(self, x):
    y = self.norm(x)
    return self.fire(y) if self.training else y


def kept(self, x):
    self.seen = self.norm(x)
    return self.fire(self.seen)


USES = {
    "reached into": reached_into,
    "used once more": lambda self, x: self.chain(x) + self.chain[1](x),
    "called first": lambda self, x: self.chain[0](x).mean() + self.chain(x),
    "an attribute": lambda self, x: self.fire(y := self.norm(x)) + y.mT,
    "in training alone": lambda self, x: self.fire(self.norm(x)) if self.training else self.norm(x) - 1,
    "operators": lambda self, x: 1 - (-self.norm(x) * 2 + x) / 3,
    "a function": lambda self, x: torch.where(self.norm(x) > 0, self.norm(x), torch.stack([self.norm(x)] * 2)[0]),
    "in place": lambda self, x: self.norm(x).add_(1),
    "indexed": lambda self, x: self.norm(x)[1:, ..., 2] + len(self.norm(x)),
    "cut in time": lambda self, x: torch.cat([self.fire(part) for part in self.norm(x).split(2)]),
    "kept": kept,
    "out of it": out_of_it,
    "looked at": lambda self, x: self.fire(looked_at(self.norm(x))),
    "checkpointed": lambda self, x: checkpoint(self.chain, x, use_reentrant=False),
    "half of it": lambda self, x: self.fire(checkpoint(self.norm, x, use_reentrant=False)),
    "no fold": lambda self, x: self.fire(self.norm[0](x.flatten(0, 1))),
    "folded otherwise": lambda self, x: self.fire(self.norm[0](x.flatten(0, 1)).unflatten(0, (6, 2))),
    "channels folded": lambda self, x: self.fire(self.norm(x).flatten(2)),
}


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", USES)
def test_whatever_is_done_with_a_norm_it_computes_the_same(name, training):
    model, x = exact(Uses(USES[name])).train(), torch.randn(4, 3, 3, 5, 5, dtype=torch.float64) + 2
    other = copy.deepcopy(model).train(training)
    tgo.fuse(model)
    assert model.calls == 0
    assert model.seen == []
    expected = gradients(other, x)
    assert_alike(gradients(model.train(training), x), expected, rtol=1e-7, atol=1e-9)
    if name == "kept":
        torch.testing.assert_close(model.seen.mean(), other.seen.mean())
    if name != "half of it":  # torch's norm counts a checkpoint's batch twice, ours stops before it
        for found, wanted in zip(model.buffers(), other.buffers(), strict=True):
            torch.testing.assert_close(found, wanted)


@pytest.mark.parametrize(
    "change",
    [
        lambda chain: chain[0][0].register_forward_hook(lambda module, args, y: y * 2),
        lambda chain: chain[0].register_forward_hook(lambda module, args, y: y * 2),
        lambda chain: chain[1].register_forward_pre_hook(lambda module, args: (args[0] * 2,)),
        lambda chain: setattr(chain[0][0], "forward", lambda y: y * 2),
        lambda chain: chain.__setitem__(1, exact(Scaled())),
        lambda chain: chain[0].append(nn.Dropout(0.0)),
    ],
)
@pytest.mark.parametrize("late", [True, False])
def test_hooks_and_forwards_of_ones_own(change, late):
    x = torch.randn(4, 3, 3, 5, 5, dtype=torch.float64) + 2
    model, other = (exact(Uses(lambda self, x: self.chain(x))) for _ in range(2))
    change(other.chain)
    expected = gradients(other, x)
    if late:
        tgo.fuse(model)
    change(model.chain)
    tgo.fuse(model)
    assert_alike(gradients(model, x), expected, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("half", ["norm", "fire"])
def test_a_gradient_that_would_be_lost_is_an_error(half, training):
    def run(self, x):
        call = lambda name, x: checkpoint(getattr(self, name), x, use_reentrant=True)  # noqa: E731
        return self.fire(call("norm", x)) if half == "norm" else call("fire", self.norm(x))

    model = Uses(run).train(training)
    assert tgo.fuse(model).fused
    with pytest.raises(RuntimeError, match="use_reentrant=False"):
        model(torch.randn(4, 3, 3, 5, 5, requires_grad=True))
    x = torch.randn(4, 3, 3, 5, 5)
    with torch.no_grad():
        assert model.fire(model.norm(x)).shape == x.shape


def test_arguments_other_than_the_first():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm, self.fire = tgo.OverTime(nn.BatchNorm2d(3)), Second()

        def forward(self, x):
            return self.fire(x, self.norm(x))

    model, x = exact(Two()), torch.randn(4, 3, 3, 5, 5, dtype=torch.float64)
    other = copy.deepcopy(model)
    assert not tgo.fuse(model).fused
    assert_alike(gradients(model, x), gradients(other, x), rtol=1e-7, atol=1e-9)


def test_without_a_batch_axis_it_computes_the_same():
    for model, x in (
        (nn.Sequential(nn.Conv1d(2, 8, 1), nn.BatchNorm1d(8), tgo.LIF()), torch.randn(5, 2, 8)),
        (nn.Sequential(nn.Conv2d(2, 8, 1), nn.BatchNorm2d(8), tgo.LIF()), torch.randn(5, 2, 4, 4)),
        (nn.Sequential(nn.Linear(2, 8), nn.BatchNorm1d(8), tgo.LIF()), torch.randn(5, 2)),
    ):
        model, x = exact(model), x.double()
        other = copy.deepcopy(model)
        tgo.fuse(model)
        assert_alike(gradients(model, x), gradients(other, x), rtol=1e-7, atol=1e-9)


def test_shared_modules():
    fire, x = tgo.LIF(), torch.randn(4, 3, 3, 5, 5, dtype=torch.float64)
    neuron = nn.Sequential(tgo.OverTime(nn.BatchNorm2d(3)), fire, tgo.OverTime(nn.BatchNorm2d(3)), fire)
    unit = Unit(3, 3)
    for model in map(exact, (neuron, nn.Sequential(unit, unit, tgo.OverTime(nn.MaxPool2d(2))))):
        other = copy.deepcopy(model)
        assert tgo.fuse(model).fused
        assert_alike(gradients(model, x), gradients(other, x), rtol=1e-7, atol=1e-9)
    report = tgo.fuse(nn.Sequential(tgo.OverTime(conv(3, 3), nn.BatchNorm2d(3), nn.ReLU()), tgo.LIF()))
    assert "ReLU" in report.left["0.1"]


def test_a_norm_whose_output_is_used_twice_is_left():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm, self.fire = nn.BatchNorm1d(4), tgo.LIF()

        def forward(self, x):
            y = self.norm(x.flatten(0, 1)).unflatten(0, x.shape[:2])
            return self.fire(y) * y

    report = tgo.fuse(Twice())
    assert not report.fused
    assert report.left == {"norm": "its output goes to 2 places"}


def test_fused_and_packed_and_compiled():
    model, x = net().eval(), torch.randn(4, 3, 3, 8, 8)
    expected = gradients(copy.deepcopy(model), x)
    tgo.fuse(model)
    fused = gradients(model, x)
    with tgo.pack_spikes():
        assert_equal(gradients(model, x), fused)
    compiled = torch.compile(copy.deepcopy(model), backend="aot_eager", fullgraph=True)
    torch._dynamo.reset()
    torch.testing.assert_close(compiled(x), model(x))
    assert expected[0].shape == fused[0].shape


def test_what_is_no_module_is_refused():
    with pytest.raises(TypeError, match=r"model must be a torch\.nn\.Module, got list"):
        tgo.fuse([])
