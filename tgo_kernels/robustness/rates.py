"""Attacks along rates instead of spike times: straight-through rules in the place of the surrogate gradient."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor

from tgo_kernels.robustness.attacks import Attack
from tgo_kernels.robustness.frameworks import Neurons, replaced, watched
from tgo_kernels.robustness.victim import Victim, first

Rule = Callable[[Neurons, Tensor, Tensor], Tensor]  # neurons, mean input, firing rate -> d rate / d mean input


def bptr(neurons: Neurons, current: Tensor, rate: Tensor) -> Tensor:
    """Backpropagation through rates (Ding et al., NeurIPS 2022): 1 where a neuron fires."""
    return (rate > 0).to(rate.dtype)


def rga(neurons: Neurons, current: Tensor, rate: Tensor, g: float = 0.2) -> Tensor:
    """Rate gradient approximation (Bu et al., CVPR 2023): the slope of a leaky neuron's rate in its input.

    With the input in units of the threshold and ``tau`` the decay: (1 - g + g tau) / (tau + 1) for 1 - tau <= r <= 2,
    and ``g`` for 0 <= r < 1 - tau.
    """
    tau, gain, threshold = neurons.leak()
    r = gain * current / threshold
    above = ((1 - tau <= r) & (r <= 2)).to(r.dtype)
    below = ((r >= 0) & (r < 1 - tau)).to(r.dtype)
    return above * (1 - g + g * tau) / (tau + 1) + below * g


def applies(victim: Victim) -> bool:
    """Whether rates are at hand: all neurons that fire see all time steps in one call, and are leaky."""
    firing = [each for each in victim.neurons if each.has_surrogate]
    return bool(firing) and all(each.sees_time and hasattr(each.module, "v_threshold") for each in firing)


def along(rule: Rule, attack: Attack) -> Attack:
    """``attack`` with this rule as the derivative of every layer of neurons; the spikes stay the same."""

    def attacked(victim: Victim, images: Tensor, labels: Tensor, start: Tensor | None = None) -> Tensor:
        with straight_through(rule, victim):
            return attack(victim, images, labels, start)

    return attacked


@contextmanager
def straight_through(rule: Rule, victim: Victim) -> Iterator[None]:
    """To each step of a layer's input goes the mean of the steps' gradients, times the rule's slope."""
    firing = {each.module: each for each in victim.neurons if each.has_surrogate}

    def hook(module: Any, inputs: tuple[Tensor], output: Any) -> Tensor:
        x, spikes = inputs[0], first(output).detach()
        slope = rule(firing[module], x.detach().float().mean(0), spikes.float().mean(0))
        mean = x.mean(0, keepdim=True).expand_as(x)  # whose backward hands every step the mean
        return replaced(mean, spikes, slope.expand_as(x))

    with watched(list(firing), hook):
        yield
