"""Attacks along rates instead of spike times: straight-through rules in the place of the surrogate gradient."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

import tgo_kernels as tgo
from benchmarks.robustness.attacks import Attack
from benchmarks.robustness.models import watched

Rule = Callable[[tgo.neurons.LIF, Tensor, Tensor], Tensor]  # neuron, mean input, firing rate -> d rate / d mean input


def bptr(neuron: tgo.neurons.LIF, current: Tensor, rate: Tensor) -> Tensor:
    """Backpropagation through rates (Ding et al., NeurIPS 2022): 1 where a neuron fires."""
    return (rate > 0).to(rate.dtype)


def rga(neuron: tgo.neurons.LIF, current: Tensor, rate: Tensor, g: float = 0.2) -> Tensor:
    """Rate gradient approximation (Bu et al., CVPR 2023): the slope of a leaky neuron's rate in its input.

    With the input in units of the threshold and ``tau`` the decay: (1 - g + g tau) / (tau + 1) for 1 - tau <= r <= 2,
    and ``g`` for 0 <= r < 1 - tau.
    """
    tau, r = neuron.decay, neuron.gain * current / neuron.v_threshold
    above = ((1 - tau <= r) & (r <= 2)).to(r.dtype)
    below = ((r >= 0) & (r < 1 - tau)).to(r.dtype)
    return above * (1 - g + g * tau) / (tau + 1) + below * g


def along(rule: Rule, model: nn.Module, attack: Attack) -> Attack:
    """``attack`` with this rule as the derivative of every LIF layer; the spikes stay the same."""

    def attacked(images: Tensor, labels: Tensor) -> Tensor:
        with straight_through(rule, model):
            return attack(images, labels)

    return attacked


@contextmanager
def straight_through(rule: Rule, model: nn.Module) -> Iterator[None]:
    def hook(layer: tgo.LIF, inputs: tuple[Tensor], spikes: Tensor) -> Tensor:
        x, rate = inputs[0], spikes.detach().float().mean(0)
        return _Replace.apply(x, spikes.detach(), rule(layer.neuron, x.detach().float().mean(0), rate))

    with watched(model, hook):
        yield


class _Replace(torch.autograd.Function):
    """The spikes; to each step of x goes the mean of the steps' gradients, times the rule's slope."""

    @staticmethod
    def forward(x: Tensor, spikes: Tensor, slope: Tensor) -> Tensor:
        return spikes.clone()

    @staticmethod
    def setup_context(ctx, inputs, output) -> None:
        ctx.save_for_backward(inputs[2])

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None, None]:
        (slope,) = ctx.saved_tensors
        return (grad.mean(0) * slope).expand_as(grad), None, None
