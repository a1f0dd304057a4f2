"""LIF with a current that it predicts from its own input and output."""

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from tgo_kernels.neurons.base import Filtering, Leaky


@dataclass(frozen=True)
class SelfPredictingLIF(Filtering):
    """Self-prediction, in a form of our own (the equations of arXiv 2601.21823 are not published)::

        h[t] = decay v[t-1] + gain (x[t] + p[t-1]) + leak_bias
        v[t] = fire(h[t], v_threshold, reset_by)
        p[t] = (1 - rate) p[t-1] + rate (of_output s[t] - of_input x[t])

    where ``x`` is ``scale x + shift``. The prediction ``p`` starts at 0; through it a gradient reaches x past the
    surrogate.

    Args:
        rate: how fast the prediction follows; 0 is LIF, to the bit.
        of_output: what a spike adds to it: predicts the neuron's own output, or with a negative sign suppresses it.
        of_input: what of the input is subtracted; 0 is plain feedback of the output.
        scale, shift: of the input, as a norm in front of the neuron makes it.
        others: as of :class:`LIF`. All of these may be tensors that learn.
    """

    number = 5
    SOURCE = "our form of arXiv 2601.21823"
    STATES, INPUTS = ("v", "p"), ("x",)
    CONSTANTS = (*Leaky.CONSTANTS, "rate", "of_output", "of_input", "scale", "shift")
    OWN = (*Leaky.OWN, "rate", "of_output", "of_input", "scale", "shift")

    rate: float | Tensor = 0.5
    of_output: float | Tensor = 1.0
    of_input: float | Tensor = 1.0

    @staticmethod
    def step(n: Any, v: Tensor, p: Tensor, x: Tensor) -> tuple[Tensor, ...]:
        x = n.scale * x + n.shift
        h = n.decay * v + n.gain * (x + p) + n.leak_bias
        v = n.fire(h, n.v_threshold, n.reset_by)
        return v, (1.0 - n.rate) * p + n.rate * (n.of_output * n.spikes - n.of_input * x)
