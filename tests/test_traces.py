"""Forwards with branches on tensors: every way through them is looked at, and leaves no trace in the module."""

import copy

import pytest
import torch
from models import exact, gradients
from torch import nn

import tgo_kernels as tgo
from tgo_kernels.traces import WAYS, traced


class Branch(nn.Module):
    """Two norms and two neurons, and a forward of one's own."""

    def __init__(self, run):
        super().__init__()
        self.norm, self.other = tgo.OverTime(nn.BatchNorm2d(3)), tgo.OverTime(nn.BatchNorm2d(3))
        self.fire, self.second, self.run = tgo.LIF(), tgo.LIF(), run

    def forward(self, x):
        return self.run(self, x)


def guarded(self, x):
    if x.dim() != 5:
        raise ValueError(f"x is {x.shape}")
    steps, *_ = x.shape[0], x.shape[1]
    assert steps == 4 or steps == 5
    return self.fire(self.norm(x))


def either(self, x):
    return self.fire(self.norm(x)) if x.sum() > 0 else self.fire(self.other(x))


def two_neurons(self, x):
    return self.fire(self.norm(x)) if x.sum() > 0 else self.second(self.norm(x))


def out_of_it(self, x):
    return self.fire(self.norm(x)) if x.sum() > 0 else self.norm(x)


def skipped(self, x):
    if x.sum() > 1e9:
        x = self.norm(x)
    return self.fire(x)


def until(self, x):
    while not x.sum() > 0:
        x = x + 1
    return self.fire(self.norm(x))


FUSED, CALLED = {"norm.0": "fire"}, {"other.0": "the forward of Branch does not call it"}
SOME = {"norm.0": "its output is that of Branch on some ways through it alone"}
BRANCHES = {
    "a guard": (guarded, FUSED, CALLED),
    "either of two norms": (either, {**FUSED, "other.0": "fire"}, {}),
    "two neurons": (two_neurons, FUSED, CALLED),
    "out of the module": (out_of_it, {}, CALLED | SOME),
    "past the norm": (skipped, FUSED, CALLED),
    "a loop": (until, FUSED, CALLED),
    "a loop over steps": (
        lambda self, x: torch.stack([self.fire(step[None])[0] for step in self.norm(x)]),
        {},
        {
            name: "the forward of Branch cannot be traced (Proxy object cannot be iterated)"
            for name in ("norm.0", "other.0")
        },
    ),
}


@pytest.mark.parametrize("name", BRANCHES)
def test_every_way_through_a_forward(name):
    run, fused, left = BRANCHES[name]
    model, x = exact(Branch(run)), torch.randn(4, 3, 3, 5, 5, dtype=torch.float64)
    plain = copy.deepcopy(model)
    report = tgo.fuse(model)
    assert report.fused == fused
    assert report.left == left
    for shifted in (x + 1, x - 1):
        for a, b in zip(gradients(model, shifted), gradients(plain, shifted), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-7, atol=1e-9)


def test_it_is_bounded():
    def many(self, x):
        for _ in range(WAYS):
            x = x if x.sum() > 0 else -x
        return self.fire(self.norm(x))

    graphs, error = traced(Branch(many))
    assert len(graphs) == WAYS
    assert not error
    graphs, error = traced(Branch(lambda self, x: [None for _ in iter(lambda: bool(x.sum() > 0), True)]))
    assert not error
    endless = Branch(lambda self, x: [None for _ in iter(lambda: bool(x.sum() > 0), None)])
    assert traced(endless) == (
        [],
        "cannot be traced (symbolically traced variables cannot be used as inputs to control flow)",
    )


def test_it_changes_nothing():
    class Counts(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm, self.fire, self.calls, self.seen = tgo.OverTime(nn.BatchNorm2d(3)), tgo.LIF(), 0, []
            self.register_buffer("steps", torch.zeros(1))
            self.register_buffer("last", None)

        def forward(self, x):
            self.calls += 1
            self.steps += torch.rand(1)
            self.seen.append(x)
            self.last = x if x.sum() > 0 else -x
            return self.fire(self.norm(x))

    model, state = Counts(), torch.get_rng_state()
    assert tgo.fuse(model).fused == FUSED
    assert (model.calls, model.seen, model.steps.item(), model.last) == (0, [], 0.0, None)
    assert torch.equal(torch.get_rng_state(), state)


def test_modules_in_a_list_are_those_of_the_module_around_it():
    class Listed(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = nn.ModuleList([nn.BatchNorm2d(3), tgo.OverTime(nn.BatchNorm2d(3)), tgo.LIF()])

        def forward(self, x):
            return self.layers[2](self.layers[1](x))

    report = tgo.fuse(Listed())
    assert report.fused == {"layers.1.0": "layers.2"}
    assert report.left == {"layers.0": "the forward of Listed does not call it"}


@pytest.mark.parametrize("training", [True, False])
def test_pools_between_norm_and_neuron(training):
    model = nn.Sequential(
        tgo.OverTime(nn.BatchNorm2d(3), nn.MaxPool2d(3, 2, 1)),
        nn.Sequential(tgo.OverTime(nn.MaxPool2d(2, 1)), nn.Identity(), nn.Sequential()),
        tgo.LIF(),
        tgo.OverTime(nn.BatchNorm2d(3), nn.AvgPool2d(2)),
        tgo.LIF(),
    )
    model, x = exact(model).train(training), torch.randn(4, 3, 3, 9, 9, dtype=torch.float64) + 2
    plain = copy.deepcopy(model)
    report = tgo.fuse(model)
    assert report.fused == {"0.0": "2"}
    assert report.pools == ["0.1", "1.0.0"]
    assert report.left == {"3.0": "its output goes to 3.1 (AvgPool2d), not to a neuron alone"}
    for a, b in zip(gradients(model, x), gradients(plain, x), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-7, atol=1e-9)
    assert tgo.fuse(nn.Sequential(nn.BatchNorm2d(3), nn.MaxPool2d(2, return_indices=True), tgo.LIF())).fused == {}


def test_pools_between_norm_and_neuron_take_the_input():
    """A line keeps the order of a channel, so that the pool of the norm is the norm of the pool."""
    norm, pool = nn.BatchNorm2d(3), nn.MaxPool2d(2)
    model, given = nn.Sequential(tgo.OverTime(norm, pool), tgo.LIF()), []
    assert tgo.fuse(model).fused
    model[1].register_forward_pre_hook(lambda module, args: given.extend(args))
    x = torch.randn(4, 3, 3, 8, 8)
    model(x)
    assert torch.equal(given[0].x, nn.functional.max_pool2d(x.flatten(0, 1), 2).unflatten(0, (4, 3)))
