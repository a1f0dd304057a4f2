"""LIF that three currents reach: an excitatory one, and two of lateral inhibition."""

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from tgo_kernels.neurons.base import Leaky


@dataclass(frozen=True)
class InhibitedLIF(Leaky):
    """LIF of excitatory and inhibitory circuits (DeepEISNN, arXiv 2509.23253)::

        h[t] = decay v[t-1] + gain (excitation[t] - subtracted[t]) / divided[t] + leak_bias
        v[t] = fire(h[t], v_threshold, reset_by)

    where ``leak_bias = (1 - decay) v_rest + bias``; ``gain`` and ``bias`` are the paper's g_E and b_E. Nothing keeps
    ``divided`` from 0; where it is infinite the current is 0.

    Args:
        all: as of :class:`LIF`. They may be tensors that learn.
    """

    number = 7
    SOURCE = "DeepEISNN, arXiv 2509.23253"
    STATES, INPUTS = ("v",), ("excitation", "subtracted", "divided")

    @staticmethod
    def step(n: Any, v: Tensor, excitation: Tensor, subtracted: Tensor, divided: Tensor) -> tuple[Tensor, ...]:
        h = n.decay * v + n.gain * ((excitation - subtracted) / divided) + n.leak_bias
        return (n.fire(h, n.v_threshold, n.reset_by),)
