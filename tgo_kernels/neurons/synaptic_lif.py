"""LIF behind a synapse, which filters the current."""

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from tgo_kernels.neurons.base import Filtering, Leaky


@dataclass(frozen=True)
class SynapticLIF(Filtering):
    """LIF with a synaptic current: snnTorch's ``Synaptic``, SpikingJelly's ``CUBALIFNode``, NIR's ``CubaLIF``::

        i[t] = current_decay i[t-1] + (scale x[t] + shift)
        h[t] = decay v[t-1] + gain i[t] + leak_bias
        v[t] = fire(h[t], v_threshold, reset_by)

    ``i`` starts at 0.

    Args:
        current_decay: decay of the synaptic current in a step; 0 is LIF, to the bit.
        scale, shift: of the input, as a norm in front of the neuron makes it.
        others: as of :class:`LIF`. All of these may be tensors that learn.
    """

    number = 2
    SOURCE = "current-based LIF: snnTorch, SpikingJelly, NIR"
    STATES, INPUTS = ("v", "i"), ("x",)
    CONSTANTS = (*Leaky.CONSTANTS, "current_decay", "scale", "shift")
    OWN = (*Leaky.OWN, "current_decay", "scale", "shift")

    current_decay: float | Tensor = 0.5

    @staticmethod
    def step(n: Any, v: Tensor, i: Tensor, x: Tensor) -> tuple[Tensor, ...]:
        i = n.current_decay * i + (n.scale * x + n.shift)
        h = n.decay * v + n.gain * i + n.leak_bias
        return n.fire(h, n.v_threshold, n.reset_by), i
