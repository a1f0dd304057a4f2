"""LIF whose threshold moves so that its membrane stays near a signature."""

from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor

from tgo_kernels.neurons.base import Leaky, check_choice


@dataclass(frozen=True)
class HomeostaticLIF(Leaky):
    """The threshold-adapting LIF of HoSNN (arXiv 2308.10373)::

        h[t] = decay v[t-1] + gain x[t] + leak_bias
        e[t] = e[t-1] + theta (h[t] - target[t])
        v[t] = fire(h[t], v_threshold + e[t], reset_by)

    ``e``, by which the threshold is raised, starts at 0, moves before the spike of the same step, and is not reset. A
    soft reset is by the moving threshold, unless ``reset_by``; the guard's distance is to it, too. The gradient is the
    exact one; the released code's has neither leak nor threshold in it.

    Args:
        theta: how fast the threshold follows, one a neuron in the paper; 0 is LIF, to the bit.
        target: the neuron's dynamic signature, that is the mean ``h`` of a network without adaptation on clean inputs:
            a number, or a tensor [*] or, with a value of each step, [T, *].
        adapt_grad: "full", or "none": the threshold's movement is taken for a constant, and theta and target learn
            nothing.
        others: as of :class:`LIF`; theirs are ``strict=True``. All numbers may be tensors that learn.
    """

    number = 4
    SOURCE = "HoSNN, arXiv 2308.10373"
    STATES, INPUTS = ("v", "e"), ("x",)
    CONSTANTS = (*Leaky.CONSTANTS, "theta", "target", "adapts")
    OWN = (*Leaky.OWN, "theta", "target")

    theta: float | Tensor = 0.2
    target: float | Tensor = 0.0
    adapt_grad: Literal["full", "none"] = "full"

    def __post_init__(self) -> None:
        check_choice("adapt_grad", self.adapt_grad, ("full", "none"))
        super().__post_init__()

    @property
    def adapts(self) -> float:
        """What share of the threshold's movement has a gradient."""
        return float(self.adapt_grad == "full")

    @staticmethod
    def step(n: Any, v: Tensor, e: Tensor, x: Tensor) -> tuple[Tensor, ...]:
        h = n.decay * v + n.gain * x + n.leak_bias
        e = e + n.theta * (h - n.target)
        moved = n.adapts * e + (1.0 - n.adapts) * e.detach()
        return n.fire(h, n.v_threshold + moved, n.reset_by), e
