"""LIF whose membrane oscillates."""

from dataclasses import dataclass, field
from math import pi
from typing import Any, Literal

import torch
from torch import Tensor

from tgo_kernels.neurons.base import FLOAT32, Leaky, check_choice, check_number, state_dtype


@dataclass(frozen=True)
class OscillatingLIF(Leaky):
    """An oscillation in the membrane, in forms of our own (the equations of arXiv 2211.02223 are not published)::

        o[t] = amplitude cos(2 pi t / period + phase)
        c[t] = decay v[t-1] + gain x[t] + leak_bias
        h[t] = c[t] + o[t]                      form="additive"
        h[t] = c[t] + c[t] o[t]                 form="multiplicative"
        v[t] = fire(h[t], v_threshold, reset_by)

    where t is counted from ``noise_step`` on. It is a baseline of gradient masking, and no defence.

    Args:
        amplitude: in units of the membrane, or a share of it; 0 is LIF, to the bit.
        period: in steps.
        phase: in radians.
        swapped: another amplitude, period and phase: spikes, states and penalty stay the neuron's, and all gradients
            are those of the neuron that oscillates so; its own three have none. What an attacker follows is then of no
            use to him, unless he asks for the true one, ``swapped=None``.
        others: as of :class:`LIF`. All of these but ``swapped`` may be tensors that learn.
    """

    number = 6
    SOURCE = "our form of arXiv 2211.02223"
    STATES, INPUTS = ("v",), ("x",)
    CONSTANTS = (*Leaky.CONSTANTS, "added", "multiplied")
    OWN = (*Leaky.OWN, "amplitude", "period", "phase")

    COUNTS_STEPS = True

    amplitude: float | Tensor = 0.2
    period: float | Tensor = 4.0
    phase: float | Tensor = 0.0
    form: Literal["additive", "multiplicative"] = "additive"
    swapped: tuple[float, float, float] | None = None

    table: float | Tensor = field(default=0.0, repr=False)  #: o of a call's steps, once it is prepared

    def __post_init__(self) -> None:
        check_choice("form", self.form, ("additive", "multiplicative"))
        if not isinstance(self.period, Tensor):
            check_number("period", self.period, FLOAT32.tiny, "float or a tensor")
        super().__post_init__()
        if self.swapped is not None:
            self.differentiated()  # which says what is wrong with it

    def differentiated(self) -> "OscillatingLIF":
        """The neuron whose gradients are given."""
        if not isinstance(self.swapped, tuple) or len(self.swapped) != 3:
            raise TypeError(f"swapped must be None, or an amplitude, a period and a phase, got {self.swapped!r}")
        amplitude, period, phase = self.swapped
        return self.replaced(amplitude=amplitude, period=period, phase=phase, swapped=None)

    def prepared(self, x: Tensor, first_step: int) -> "OscillatingLIF":
        steps = torch.arange(x.shape[0], dtype=torch.float64, device=x.device) + first_step
        angle = 2 * pi * steps.view(-1, *[1] * (x.dim() - 1)) / self.period + self.phase
        return self.with_own(table=(self.amplitude * angle.cos()).to(state_dtype(x.dtype)))

    @property
    def added(self) -> float | Tensor:
        return self.table if self.form == "additive" else 0.0

    @property
    def multiplied(self) -> float | Tensor:
        return self.table if self.form == "multiplicative" else 0.0

    @staticmethod
    def step(n: Any, v: Tensor, x: Tensor) -> tuple[Tensor, ...]:
        charged = n.decay * v + n.gain * x + n.leak_bias
        h = charged + (n.multiplied * charged + n.added)
        return (n.fire(h, n.v_threshold, n.reset_by),)
