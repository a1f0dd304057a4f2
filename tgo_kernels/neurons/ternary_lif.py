"""LIF with spikes of both signs."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from tgo_kernels.neurons.base import Leaky, Spikes, check_number
from tgo_kernels.neurons.lif import LIF


@dataclass(frozen=True)
class TernaryLIF(Leaky):
    """LIF that fires at a threshold of either sign (Guo et al. 2024, Ternary Spike, arXiv 2312.06372)::

        h[t] = decay v[t-1] + gain x[t] + leak_bias
        s[t] = sign(u[t]) if |u[t]| >= v_threshold else 0       u = h, with its noise
        v[t] = w - s[t] by, or v_reset where s[t] != 0          w = u, or h

    The surrogate is taken at ``|u| - v_threshold``, the guard's distance is ``|h| - v_threshold``. A spike of either
    sign counts as one, and is two bits where bits are kept (:func:`tgo_kernels.pack_spikes`). The paper's learned
    height of spikes is a factor of the next layer's weights.

    Args:
        v_threshold: of both signs, >= 0.
        others: as of :class:`LIF`, but a soft reset by default. All numbers may be tensors that learn.
    """

    number = 8
    SOURCE = "Guo et al. 2024, arXiv 2312.06372"
    SPIKES = Spikes.TERNARY
    LAYER: ClassVar = {"v_reset": None}
    STATES, INPUTS = ("v",), ("x",)

    v_reset: float | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.v_threshold, Tensor):
            check_number("v_threshold", self.v_threshold, 0.0, "float or a tensor", float("inf"))
        super().__post_init__()

    step = staticmethod(LIF.step)
