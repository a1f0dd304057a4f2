"""Threshold guarding over a whole model: the penalty, its weight over the epochs, and its diagnostics (TGO)."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from tgo_kernels.layer import Layer
from tgo_kernels.neurons import check_number
from tgo_kernels.penalties import MOST, in_compiled_transform, keep, mean, unwrapped


def guard_penalty(model: nn.Module) -> Tensor:
    """``sum_l C_l``: the penalties of the model's LIF layers in this training step, a scalar (TGO, eq. 13).

    Add it to the task's loss, weighted by :class:`GuardSchedule`. Layers with ``guard_margin == 0`` add 0. A layer's
    penalty is the mean over all neurons and steps of its calls since it was last taken, by this function: of chunks
    of a sequence, or of two views of a batch, as of one call on all of them. A layer that others have run without since
    adds 0; once more without any forward in between, it returns the same value. Calls with gradient count alone where
    there are any, and not those whose graph a backward has freed, such as those of adversarial examples; without
    gradient, the last one counts (or the last sequence).

    Raises:
        ValueError: the model has no LIF layer.
        RuntimeError: a guarded layer has not run since it was made, or reset after its penalty was taken; or several of
            its calls would have to be counted in ``eval()`` with gradient, more than two under ``torch.compile``, or
            more than 64.
    """
    layers = _layers(model)
    if not layers:
        raise ValueError("guard_penalty needs a model with LIF layers; this one has none")
    again = all(layer._taken for layer in layers.values())
    lost = [name for name, layer in layers.items() if layer._lost and (again or not layer._taken)]
    if lost:
        for layer in layers.values():
            layer._taken = True  # the next forward starts anew
        raise RuntimeError(
            f"LIF layer {lost[0]!r} ran with gradient more often since its penalty was last taken than is kept (once "
            f"in eval(), twice under torch.compile, {MOST} times otherwise): take guard_penalty(model) after each "
            "call, add up what counts, and run under torch.no_grad() what does not"
        )
    penalties: list[Tensor] = []
    for name, layer in layers.items():
        if layer.neuron.guard_margin == 0:
            if layer.penalty is not None:
                penalties.append(torch.zeros_like(layer.penalty))
            continue
        if not layer._calls:
            raise RuntimeError(f"LIF layer {name!r} has not run yet: call the model before guard_penalty(model)")
        if layer._taken and not again:
            continue
        call = mean(layer._calls)
        penalties.append(unwrapped(call.penalty))
        keep(layer, "_calls", (call,))
        keep(layer, "_taken", True)
        if in_compiled_transform():
            layer._calls, layer._penalty, layer._counts = (), None, None
    return (
        torch.stack([penalty.to(penalties[0].device) for penalty in penalties]).sum() if penalties else torch.zeros(())
    )


@dataclass(frozen=True)
class GuardSchedule:
    """``lambda(e) = lambda_max/2 (1 - cos(pi e/total))``: the penalty's weight, a cosine from 0 to ``lambda_max``.

    TGO raises the weight by a cosine from small to ``lambda_max`` (0.4 for WRN-16, 0.6 for VGG-11); this closed form,
    and staying at ``lambda_max`` after ``total``, are our decision.
    """

    lambda_max: float = 0.4
    total: int = 100

    def __post_init__(self) -> None:
        check_number("lambda_max", self.lambda_max)
        check_number("total", self.total)
        if self.total == 0:
            raise ValueError("total must be > 0, got 0")

    def weight(self, epoch: float) -> float:
        """The weight at ``epoch``, counted from 0; fractions of an epoch are allowed."""
        check_number("epoch", epoch)
        return self.lambda_max / 2 * (1 - math.cos(math.pi * min(epoch / self.total, 1.0)))


def neighbor_rates(model: nn.Module) -> dict[str, float]:
    """Share of threshold neighbours by the layer's name in the model, for the LIF layers that have run.

    It is that of the last call, or, where that went on from a state, of all since the last start (see :class:`LIF`).
    """
    rates = {name: layer.neighbor_rate for name, layer in _layers(model).items()}
    return {name: float(rate) for name, rate in rates.items() if rate is not None}


def flip_probability(h: Tensor, v_threshold: float, noise_std: float) -> Tensor:
    """``Phi(-|h - v_threshold| / noise_std)``: how likely noise flips the firing of a membrane at ``h`` [*].

    TGO, theorem 1, for Gaussian noise; the closed form is ours.
    """
    check_number("noise_std", noise_std)
    if noise_std == 0:
        raise ValueError("noise_std must be > 0, got 0")
    return torch.erfc((h - v_threshold).abs() / (noise_std * math.sqrt(2))) / 2


def _layers(model: nn.Module) -> dict[str, Layer]:
    return {name: module for name, module in model.named_modules() if isinstance(module, Layer)}
