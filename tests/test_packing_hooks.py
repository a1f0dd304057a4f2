"""The hooks of a packing: they come and go with its forward, and leave those of others alone."""

import copy
import threading

import pytest
import torch
from models import gradients
from packed import assert_equal, net
from torch import nn
from torch.utils.checkpoint import checkpoint

import tgo_kernels as tgo
from tgo_kernels import native

pytestmark = pytest.mark.skipif(native.ERROR is not None, reason="packing is the compiled extension's")

top = torch._C._autograd._top_saved_tensors_default_hooks


def test_hooks_that_are_not_ours_stay():
    def fails(*_):
        raise ValueError

    model = nn.Linear(64, 64)
    packing = tgo.pack_spikes(model)
    model.register_forward_pre_hook(fails, prepend=True)  # before the hook of ours
    with torch.autograd.graph.save_on_cpu():
        before = top(True)
        with pytest.raises(ValueError):
            model(torch.ones(64))
        assert top(True) == before
    packing.remove()
    with tgo.pack_spikes() as packing:
        packing.remove()
        assert top(True) is None
    assert top(True) is None


def test_an_interrupted_forward_is_over_with_the_next():
    class Interrupted(nn.Module):
        def forward(self, x):
            if x.numel() == 0:
                raise KeyboardInterrupt
            return x

    model = Interrupted()
    tgo.pack_spikes(model)
    with pytest.raises(KeyboardInterrupt):
        model(torch.zeros(0))
    model(torch.zeros(1))
    assert top(True) is None


def test_checkpointing_and_other_hooks():
    model, x = net(), torch.randn(4, 2, 3, 8, 8)
    model.eval()
    expected = gradients(model, x)
    with tgo.pack_spikes():
        assert_equal(gradients(model, x, lambda x: checkpoint(model, x, use_reentrant=False)), expected)
    packing = tgo.pack_spikes(model)
    assert_equal(gradients(model, x, lambda x: checkpoint(model, x, use_reentrant=False)), expected)
    assert_equal(gradients(model, x, lambda x: checkpoint(model, x, use_reentrant=True)), expected)
    packing.remove()
    kinds = []

    def save(tensor):
        kinds.append(tensor.dtype)
        return tensor.clone()

    with torch.autograd.graph.saved_tensors_hooks(save, lambda tensor: tensor), tgo.pack_spikes(), tgo.pack_spikes():
        assert_equal(gradients(model, x), expected)
    assert {torch.int64, torch.float32} <= set(kinds)  # bits, and what is none
    with tgo.pack_spikes(), torch.autograd.graph.save_on_cpu():
        assert_equal(gradients(model, x), expected)


def test_what_is_computed_again_is_kept_within_a_checkpoint():
    model, x = net(), torch.randn(4, 2, 3, 8, 8)
    model.eval()
    expected = gradients(model, x)
    packing = tgo.pack_spikes(model, level="bits")
    assert_equal(gradients(model, x, lambda x: checkpoint(model, x, use_reentrant=False)), expected)
    packing.remove()
    tgo.pack_spikes(model[0], level="bits")
    assert_equal(gradients(model, x, lambda x: checkpoint(model, x, use_reentrant=False)), expected)
    assert top(True) is None


def test_an_interrupted_forward_of_two_models_is_over_with_the_next():
    inner, interrupts = nn.Linear(8, 8), [True]

    class Outer(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = inner

        def forward(self, x):
            return self.inner(x)

    def interrupt(*_):
        if interrupts.pop():
            raise KeyboardInterrupt

    model = Outer()
    tgo.pack_spikes(model)
    tgo.pack_spikes(inner, level="bits")
    handle = inner.register_forward_hook(interrupt, prepend=True)
    with pytest.raises(KeyboardInterrupt):
        model(torch.ones(2, 8))
    handle.remove()
    model(torch.ones(2, 8))
    assert top(True) is None


def test_packings_end_in_any_order():
    first, second = tgo.pack_spikes(), tgo.pack_spikes()
    first.__enter__(), second.__enter__()
    first.remove()
    assert top(True) is not None
    second.remove()
    assert top(True) is None


def test_a_forward_that_fails_leaves_no_hooks():
    model = nn.Sequential(nn.Linear(64, 64), nn.Linear(3, 3))
    tgo.pack_spikes(model)
    with pytest.raises(RuntimeError, match="cannot be multiplied"):
        model(torch.zeros(64, 64))
    assert top(True) is None


def test_other_threads():
    models, x = [net() for _ in range(4)], torch.randn(4, 2, 3, 8, 8)
    expected = [gradients(copy.deepcopy(model), x) for model in models]
    found = {}

    def train(k):
        tgo.pack_spikes(models[k])
        for _ in range(3):
            models[k].load_state_dict(states[k])
            found[k] = gradients(models[k], x)

    states = [copy.deepcopy(model.state_dict()) for model in models]
    threads = [threading.Thread(target=train, args=(k,)) for k in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for k in range(4):
        assert_equal(found[k], expected[k])
