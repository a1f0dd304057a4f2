"""LIF with a second variable that its membrane and its spikes drive, and that inhibits it."""

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from tgo_kernels.neurons.base import Filtering, Leaky, check_bool


@dataclass(frozen=True)
class AdLIF(Filtering):
    """Adaptive LIF with subthreshold coupling, in two discretisations::

        h[t] = decay v[t-1] + gain ((scale x[t] + shift) - w[t-1]) + leak_bias
        v[t] = fire(h[t], v_threshold, reset_by)
        w[t] = rho w[t-1] + a h[t] + b s[t]                        Euler's
        w[t] = rho w[t-1] + (1 - rho) a v[t] + (1 - rho) b s[t]    symplectic

    The first is that of Bittar and Garner (2022, doi 10.3389/fnins.2022.865897), of which ``w`` is one step ahead here:
    what they take from the last step in the next one is taken at once. Theirs has ``gain = 1 - decay`` and a soft
    reset. The second is SE-adLIF (Baronig et al. 2024, arXiv 2408.07517), with a hard reset. Both start at rest.

    Args:
        gain: of the input; ``1 - decay`` if None.
        rho: decay of ``w`` in a step.
        a: how the membrane drives ``w``; may be negative.
        b: how a spike does. With ``a = b = 0`` it is LIF, to the bit.
        symplectic: the second form, which is stable wherever the continuous one is.
        scale, shift: of the input, as a norm in front of the neuron makes it.
        others: as of :class:`LIF`. All of these may be tensors that learn.
    """

    number = 3
    SOURCE = "Bittar and Garner 2022; Baronig et al. 2024, arXiv 2408.07517"
    STATES, INPUTS = ("v", "w"), ("x",)
    CONSTANTS = (*Leaky.CONSTANTS, "rho", "of_charged", "of_reset", "of_spike", "scale", "shift")
    OWN = (*Leaky.OWN, "rho", "a", "b", "scale", "shift")

    gain: float | Tensor | None = None  # type: ignore[assignment]
    rho: float | Tensor = 0.98
    a: float | Tensor = 0.0
    b: float | Tensor = 1.0
    symplectic: bool = False

    def __post_init__(self) -> None:
        check_bool("symplectic", self.symplectic)
        self._derive("gain", "decay")
        super().__post_init__()

    @property
    def of_charged(self) -> float | Tensor:
        return 0.0 if self.symplectic else self.a

    @property
    def of_reset(self) -> float | Tensor:
        return (1.0 - self.rho) * self.a if self.symplectic else 0.0

    @property
    def of_spike(self) -> float | Tensor:
        return (1.0 - self.rho) * self.b if self.symplectic else self.b

    @staticmethod
    def step(n: Any, v: Tensor, w: Tensor, x: Tensor) -> tuple[Tensor, ...]:
        h = n.decay * v + n.gain * ((n.scale * x + n.shift) - w) + n.leak_bias
        v = n.fire(h, n.v_threshold, n.reset_by)
        return v, n.rho * w + n.of_charged * h + n.of_reset * v + n.of_spike * n.spikes
