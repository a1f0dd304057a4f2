"""LIF whose spikes are small integers."""

from dataclasses import dataclass, field
from typing import Any, ClassVar

from torch import Tensor

from tgo_kernels.neurons.base import Leaky, Spikes, check_bool
from tgo_kernels.surrogate import Rectangle, Surrogate

WINDOW = Rectangle(1.0)
MOST = 256  # that bf16 has exactly


@dataclass(frozen=True)
class IntegerLIF(Leaky):
    """The integer LIF of SpikeYOLO (Luo et al. 2024, arXiv 2407.20708), which fires up to D spikes at once::

        h[t] = decay v[t-1] + gain x[t] + leak_bias
        n[t] = round(clamp(u[t], 0, D))                 half to even; u = h, with its noise
        v[t] = w - n[t]                                 w = u, or h
        s[t] = n[t], or n[t]/D if normalize

    The slope of ``n`` is 1 where 0 <= u <= D, and 0 elsewhere; the reset is detached by default, as the released code
    has it. ``fired`` counts ``n``. A membrane that is NaN gives 0.

    Args:
        levels: D, from 1 to 256.
        normalize: whether the output is a share of D, as in E-SpikeFormer (Yao et al. 2025, arXiv 2411.16061).
        v_threshold, v_reset, reset_by, strict, surrogate, guard_margin: fixed: levels are 1 apart, and none is a
            threshold to be kept away from. For levels of another height scale the input.
        others: as of :class:`LIF`. All numbers may be tensors that learn.

    Raises:
        ValueError: for what is fixed, and levels that are none.
    """

    number = 9
    SOURCE = "SpikeYOLO, arXiv 2407.20708"
    SPIKES = Spikes.INTEGER
    LAYER: ClassVar = {
        "tau": 4 / 3,
        "decay_input": False,
        "v_reset": None,
        "surrogate": WINDOW,
        "detach_reset": True,
    }
    STATES, INPUTS = ("v",), ("x",)
    CONSTANTS = ("decay", "gain", "leak_bias", "most", "unit", "noise_std")
    OWN = ("decay", "gain", "bias", "noise_std")

    decay: float | Tensor = 0.25
    v_reset: float | None = None
    surrogate: Surrogate = field(default=WINDOW, repr=False)
    detach_reset: bool = True
    levels: int = 4
    normalize: bool = False

    def __post_init__(self) -> None:
        fixed = {"v_threshold": 1.0, "v_reset": None, "reset_by": None, "strict": False, "guard_margin": 0.0}
        for name, value in fixed.items():
            given = getattr(self, name)
            if isinstance(given, Tensor) or given != value:
                raise ValueError(f"{name} of an IntegerLIF is {value}, its levels are 1 apart; got {given!r}")
        if self.surrogate != WINDOW:
            raise ValueError(f"the surrogate of an IntegerLIF is fixed, 1 from 0 to levels; got {self.surrogate}")
        if type(self.levels) is not int or not 1 <= self.levels <= MOST:
            raise ValueError(f"levels must be an int from 1 to {MOST}, got {self.levels!r}")
        check_bool("normalize", self.normalize)
        super().__post_init__()

    @property
    def largest(self) -> int:
        return 0 if self.normalize else self.levels

    @property
    def most(self) -> float:
        return float(self.levels)

    @property
    def unit(self) -> float:
        """What each spike is in the output."""
        return 1.0 / self.levels if self.normalize else 1.0

    @staticmethod
    def step(n: Any, v: Tensor, x: Tensor) -> tuple[Tensor, ...]:
        h = n.decay * v + n.gain * x + n.leak_bias
        return (n.fire(h, n.most, n.unit),)
