"""What all conversions share: neurons become fused layers where they are, and a report says which, and why not."""

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from tgo_kernels.layers import LIF
from tgo_kernels.neuron import Neuron


class Refused(ValueError):
    """Why a neuron cannot become a fused one that does the same."""


@dataclass(frozen=True)
class Report:
    """What a conversion did, by the name of the module."""

    converted: dict[str, str] = field(default_factory=dict)  #: the neuron that it is now, and where it differs
    left: dict[str, str] = field(default_factory=dict)  #: why it was left as it was

    def __str__(self) -> str:
        lines = [f"{len(self.converted)} neurons converted, {len(self.left)} left"]
        lines += [f"  {name or '(the model)'}: {what}" for name, what in self.converted.items()]
        lines += [f"  {name or '(the model)'}: left: {why}" for name, why in self.left.items()]
        return "\n".join(lines)


class Fused(LIF):
    """A layer that was a neuron of another framework, and still is an instance of its class, with its attributes."""

    def adopted(self) -> str:
        """Called once, on what is no longer the other framework's; returns where the two may differ, if anywhere."""
        return ""

    def one_step(self, x: Tensor) -> Tensor:
        """[*] -> [*]: the next time step. Penalty and rates are those of all steps since the state was reset or cut."""
        self._check_state(x.unsqueeze(0))
        penalty, counts = self.penalty, self._counts
        if penalty is not None and penalty.requires_grad and not (self.v is not None and self.v.requires_grad):
            penalty = None  # truncated backpropagation: the graph of the former steps is gone
        spikes = LIF.forward(self, x.unsqueeze(0)).squeeze(0)
        assert self._counts is not None and self.penalty is not None
        neighbors, fired, _ = self._counts
        of = torch.full_like(fired, x.numel())  # a number that grows would be compiled in, anew in every step
        if penalty is not None and counts is not None:
            steps = counts[2] / of.clamp(min=1)
            self.penalty = (steps * penalty + self.penalty) / (steps + 1)
            neighbors, fired, of = counts[0] + neighbors, counts[1] + fired, counts[2] + of
        self._counts = neighbors, fired, of
        return spikes


Kinds = Mapping[type[nn.Module], tuple[type[Fused], Callable[[Any], Mapping[str, Any]]]]


def convert(
    model: nn.Module,
    kinds: Kinds,
    package: str,
    *,
    impl: str,
    noise_in_eval: bool,
    **guarded: Any,
) -> Report:
    """Every neuron of these ``kinds`` becomes the class beside its own, with the constants that are read from it.

    The module stays the same object, so that whatever refers to it, hooks included, goes on. Other modules whose class,
    or a base of it, comes from ``package`` are neurons too, and named as left.
    """
    ready = LIF(stateful=True, impl=impl, noise_in_eval=noise_in_eval)
    Neuron(**guarded)
    report = Report()
    for name, module in model.named_modules():
        kind = type(module).__name__
        if type(module) in kinds:
            fused, read = kinds[type(module)]
            try:
                ready.neuron = Neuron(**read(module), **guarded)
            except (Refused, TypeError, ValueError) as why:
                report.left[name] = f"{kind}: {why}"
                continue
            for key, value in vars(ready).items():
                vars(module).setdefault(key, value)
            module.__class__ = fused
            differs = module.adopted()  # type: ignore[operator]
            now = f"{kind}: {module.extra_repr()}"
            report.converted[name] = f"{now}; differs where {differs}" if differs else now
            continue
        if not isinstance(module, Fused) and any(base.__module__.startswith(package) for base in type(module).mro()):
            report.left[name] = f"{kind}: no fused layer computes this neuron"
    if report.left:
        warnings.warn(str(report), stacklevel=4)
    return report


def above(threshold: Tensor) -> Tensor:
    """The least fp32 number above ``threshold``: firing at ``>=`` this is firing at ``>`` that."""
    return torch.nextafter(threshold.float(), torch.full_like(threshold, torch.inf, dtype=torch.float32))
