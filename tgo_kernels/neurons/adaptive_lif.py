"""LIF whose threshold rises with each spike, and decays."""

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from tgo_kernels.neurons.base import Leaky


@dataclass(frozen=True)
class AdaptiveLIF(Leaky):
    """LIF with an adaptive threshold (Bellec et al. 2018, arXiv 1803.09574)::

        h[t] = decay v[t-1] + gain x[t] + leak_bias
        v[t] = fire(h[t], v_threshold + beta a[t-1], reset_by)
        a[t] = rho a[t-1] + increment s[t]

    ``a`` starts at 0; a soft reset is by the moving threshold, unless ``reset_by``. The guard's distance is to the
    moving threshold, too. That ``increment`` may differ from the paper's ``1 - rho`` is our decision.

    Args:
        rho: decay of the adaptation in a step.
        beta: how far the threshold rises with it; 0 is LIF, to the bit.
        increment: what a spike adds to it; ``1 - rho`` if None.
        others: as of :class:`LIF`. All of these may be tensors that learn.
    """

    number = 1
    SOURCE = "Bellec et al. 2018, arXiv 1803.09574"
    STATES, INPUTS = ("v", "a"), ("x",)
    CONSTANTS = (*Leaky.CONSTANTS, "rho", "beta", "increment")
    OWN = (*Leaky.OWN, "rho", "beta", "increment")

    rho: float | Tensor = 0.9
    beta: float | Tensor = 1.0
    increment: float | Tensor | None = None

    def __post_init__(self) -> None:
        self._derive("increment", "rho")
        super().__post_init__()

    @staticmethod
    def step(n: Any, v: Tensor, a: Tensor, x: Tensor) -> tuple[Tensor, ...]:
        h = n.decay * v + n.gain * x + n.leak_bias
        v = n.fire(h, n.v_threshold + n.beta * a, n.reset_by)
        return v, n.rho * a + n.increment * n.spikes
