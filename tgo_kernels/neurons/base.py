"""What all neurons share: firing, the checks of their constants, and the settings that the operators expect."""

import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from enum import IntEnum
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from tgo_kernels.surrogate import FLOAT32, ATan, NoisePDF, Surrogate

NoiseMode = Literal["membrane", "threshold"]
GuardSide = Literal["both", "below"]
Membrane = Literal["h", "u", "v"]


class Spikes(IntEnum):
    """What fires: 0 or 1; -1, 0 or 1; 0, 1, 2 ... up to a bound. In csrc/fire.h by the same numbers."""

    BINARY, TERNARY, INTEGER = range(3)


MEMBRANES = (None, "h", "u", "v")
SWITCHES, GUARD_MARGIN = 2, 3  # their places in the settings
SIGNED = (
    *("v_threshold", "v_reset", "reset_by", "bias", "beta", "increment", "scale", "shift"),
    *("a", "b", "target", "of_output", "of_input", "phase"),
)
FIRING = ("v_threshold", "reset_by", "noise_std")  # the constants of what fires
MINIMUM = dict.fromkeys(SIGNED, -FLOAT32.max)  # of the others it is 0


@dataclass(frozen=True)
class Neuron:
    """A neuron that fires: what its step calls ``fire(h, threshold, by)``, which gives the membrane after the step::

        u = h + noise_std xi;    s = 1 if u >= threshold else 0
        v = v_reset if s else w,    or w - s by,    or w - s threshold

    A subclass has the names of its states, inputs and constants, and its ``step`` in plain torch.

    Raises TypeError or ValueError, naming the constant, for what is no finite number, or negative (``v_threshold``,
    ``v_reset`` and what a reset subtracts may be), or too large for fp32; ``v_threshold=inf`` never fires. The values
    of tensors are not looked at, which would wait for the GPU.
    """

    v_threshold: float | Tensor = 1.0
    v_reset: float | None = 0.0
    reset_by: float | Tensor | None = None
    surrogate: Surrogate = field(default_factory=lambda: ATan(2.0))
    detach_reset: bool = False
    strict: bool = False
    noise_std: float | Tensor = 0.0
    noise_mode: NoiseMode = "membrane"
    guard_margin: float = 0.0
    guard_side: GuardSide = "both"
    guard_power: int = 1
    membrane: Membrane | None = None

    number: ClassVar[int] = -1  #: by which the engines know the step; of a user's own :mod:`tgo_kernels.own` has one
    ITS_OWN: ClassVar[bool] = False  #: whether its step is none of the house's
    SOURCE: ClassVar[str]  #: who published it
    LAYER: ClassVar[dict[str, Any]] = {}  #: what its layer's arguments are by default, where that is not LIF's
    STATES: ClassVar[tuple[str, ...]]
    INPUTS: ClassVar[tuple[str, ...]]
    CONSTANTS: ClassVar[tuple[str, ...]]  #: of the step, in the order that the operators expect
    OWN: ClassVar[tuple[str, ...]]  #: fields that may be tensors
    SPIKES: ClassVar[Spikes] = Spikes.BINARY
    COUNTS_STEPS: ClassVar[bool] = False  #: whether a step depends on its number
    #: the states after a step, from ``n.<constant>``, ``n.fire(h, threshold, by)`` and ``n.spikes``, states and inputs
    step: ClassVar[Callable[..., tuple[Tensor, ...]]]
    settings: ClassVar[tuple[float, ...]]  #: what the operators expect (see :mod:`tgo_kernels.ops`)
    own: ClassVar[tuple[Tensor, ...]]  #: the constants that are tensors, in their order
    tensors: ClassVar[tuple[str, ...]]  #: which of them were given
    derived: ClassVar[dict[str, Any]] = {}  #: fields that follow from others, as they were given
    noisy: ClassVar[bool]

    def __init_subclass__(cls) -> None:
        """A step of a user's own: what it takes beside its inputs are states, and the class's numbers its constants."""
        super().__init_subclass__()
        if "step" not in vars(cls) or "number" in vars(cls):
            return
        cls.ITS_OWN = True
        if not hasattr(cls, "INPUTS"):
            cls.INPUTS = ("x",)
        if "STATES" not in vars(cls):
            cls.STATES = tuple(inspect.signature(cls.step).parameters)[1 : -len(cls.INPUTS)]
        taken = [name for name in ("fire", "spikes") if name in vars(cls).get("__annotations__", {})]
        if taken:
            raise TypeError(f"{cls.__name__}: a step has n.{taken[0]}, no constant can be called so")
        new = tuple(name for name, kind in vars(cls).get("__annotations__", {}).items() if "ClassVar" not in str(kind))
        for group in ("CONSTANTS", "OWN"):
            if group not in vars(cls):
                former = getattr(cls, group, FIRING)
                setattr(cls, group, (*former, *(name for name in new if name not in former)))

    def __post_init__(self) -> None:
        for name in self.OWN:
            value = getattr(self, name)
            if not isinstance(value, Tensor) and not (name == "reset_by" and value is None):
                most = math.inf if name == "v_threshold" else FLOAT32.max
                signed = self.ITS_OWN and name not in ("decay", "gain", "noise_std")
                least = -FLOAT32.max if signed else MINIMUM.get(name, 0.0)
                check_number(name, value, least, "float or a tensor", most)
        if self.v_reset is not None:
            check_number("v_reset", self.v_reset, MINIMUM["v_reset"])
            if self.reset_by is not None:
                raise ValueError(f"reset_by is of a soft reset, v_reset=None; got v_reset={self.v_reset}")
        if not isinstance(self.surrogate, Surrogate):
            raise TypeError(f"surrogate must be a tgo_kernels.Surrogate such as ATan(2.0), got {self.surrogate!r}")
        check_bool("detach_reset", self.detach_reset)
        check_bool("strict", self.strict)
        check_choice("noise_mode", self.noise_mode, ("membrane", "threshold"))
        check_number("guard_margin", self.guard_margin)
        check_choice("guard_side", self.guard_side, ("both", "below"))
        check_choice("guard_power", self.guard_power, (1, 2))
        if self.guard_power == 2 and self.guard_margin > 0:
            check_number("guard_margin ** 2", self.guard_margin**2, FLOAT32.tiny)
        check_choice("membrane", self.membrane, MEMBRANES)
        if isinstance(self.surrogate, NoisePDF) and self.surrogate.std is None:
            if isinstance(self.noise_std, Tensor) or self.noise_std == 0:
                raise ValueError(
                    f"surrogate=NoisePDF() needs noise_std > 0, a number, or NoisePDF(std=...); got noise_std="
                    f"{'a tensor' if isinstance(self.noise_std, Tensor) else 0}"
                )
            object.__setattr__(self, "derived", {**self.derived, "surrogate": self.surrogate})
            object.__setattr__(self, "surrogate", NoisePDF(self.noise_std))
        self._set_settings()

    def _set_settings(self) -> None:
        given = tuple(name for name in self.OWN if isinstance(getattr(self, name), Tensor))
        object.__setattr__(self, "tensors", tuple(name for name in given if name not in self.derived))
        noisy = isinstance(self.noise_std, Tensor) or self.noise_std > 0
        object.__setattr__(self, "noisy", True if noisy else False)  # noqa: SIM210  as in never_fires
        constants = [self.constant(name) for name in self.CONSTANTS]
        own = [isinstance(value, Tensor) for value in constants]
        object.__setattr__(self, "own", tuple(value for value in constants if isinstance(value, Tensor)))
        hard = self.v_reset is not None or self.never_fires
        switches = (
            MEMBRANES.index(self.membrane),
            0 if not self.noisy else 1 if self.noise_mode == "membrane" else 2,
            0 if hard else 1 if self.reset_by is None else 2,
            int(self.surrogate.curve),
            self.strict or self.never_fires,
            self.guard_side == "below",
            self.surrogate_at_h,
            self.detach_reset or self.never_fires,
        )
        settings = (
            self.number,
            sum(1 << k for k, tensor in enumerate(own) if tensor),
            sum(switch << 4 * k for k, switch in enumerate(switches)),
            self.guard_margin,
            self.guard_grid,
            *self.surrogate.constants(),
            *self.rests,
            *(0.0 if isinstance(value, Tensor) else value for value in constants),
        )
        object.__setattr__(self, "settings", tuple(map(float, settings)))

    def constant(self, name: str) -> float | Tensor:
        """What the step knows by this name."""
        value = getattr(self, name)
        return 0.0 if value is None else value

    @property
    def never_fires(self) -> bool:
        finite = isinstance(self.v_threshold, Tensor) or self.v_threshold < math.inf
        return False if finite else True  # noqa: SIM211  decided here, or compilers would trace it as a symbol

    @property
    def takes_line(self) -> bool:
        """Whether :meth:`Leaky.with_input` makes its step that of a line of x: one of a user's own may do anything."""
        return isinstance(self, Leaky) and not self.ITS_OWN and len(self.INPUTS) == 1

    @property
    def largest(self) -> int:
        """The largest integer that its spikes are, from 0 on; 0 if they are others."""
        return 1 if self.SPIKES is Spikes.BINARY else 0

    @property
    def v_rest(self) -> float:
        """Where the membrane starts and leaks to: ``v_reset``, or 0 under soft reset."""
        return 0.0 if self.v_reset is None else self.v_reset

    @property
    def rests(self) -> tuple[float, ...]:
        """Where the states start."""
        return (self.v_rest, *[0.0] * (len(self.STATES) - 1))

    def at_rest(self, v: Tensor) -> tuple[Tensor, ...]:
        """The states beside v, as they are before the first step."""
        return tuple(torch.full_like(v, rest) for rest in self.rests[1:])

    @property
    def guard_grid(self) -> float:
        """Squares of the penalty are rounded to multiples of this power of two's ulp, so that their sum is exact; 0: it
        is of the distances, whose sum is."""
        if self.guard_power == 1 or self.guard_margin == 0:
            return 0.0
        return 2.0 ** math.ceil(math.log2(self.guard_margin**2))

    @property
    def surrogate_at_h(self) -> bool:
        """Whether the surrogate is taken at the noise-free ``h`` instead of ``u``."""
        return isinstance(self.surrogate, NoisePDF)

    def prepared(self, x: Tensor, first_step: int) -> "Neuron":
        """The same neuron for a call with this x [T, *], of which the first step has that number."""
        return self

    def _derive(self, name: str, decay: str) -> None:
        """A constant that is 1 less a decay where it is None."""
        if getattr(self, name) is None:
            value = getattr(self, decay)
            if not isinstance(value, Tensor):
                check_number(decay, value, kind="float or a tensor")
            object.__setattr__(self, name, 1.0 - value)
            object.__setattr__(self, "derived", {**self.derived, name: None})

    def changed(self, **constants: Any) -> "Neuron":
        """The same neuron with other constants; what follows from them does so anew."""
        return replace(self, **self.derived | constants)

    def replaced(self, **constants: Any) -> Any:
        """As :meth:`changed`, but a surrogate that is as wide as the noise stays so."""
        return self.changed(**{"surrogate": self.surrogate} | constants)

    def with_own(self, **tensors: Any) -> Any:
        """The same neuron with these for constants that may be tensors, which take no check of the others."""
        if torch.compiler.is_compiling():
            return replace(self, **tensors)
        neuron = object.__new__(type(self))
        vars(neuron).update(vars(self), **tensors)
        neuron._set_settings()
        return neuron

    def without_noise(self) -> "Neuron":
        """The same neuron with the noise switched off; its surrogate keeps its width."""
        return replace(self, noise_std=0.0) if self.noisy else self


@dataclass(frozen=True)
class Leaky(Neuron):
    """One whose membrane leaks towards rest, ``h = decay v + gain x + leak_bias``, with a constant current ``bias``."""

    decay: float | Tensor = 0.5
    gain: float | Tensor = 1.0
    bias: float | Tensor = 0.0

    CONSTANTS: ClassVar[tuple[str, ...]] = ("decay", "gain", "leak_bias", "v_threshold", "reset_by", "noise_std")
    OWN: ClassVar[tuple[str, ...]] = ("decay", "gain", "bias", "v_threshold", "reset_by", "noise_std")
    LINE: ClassVar = ("gain", "bias")  #: the constants that a line in front of the neuron goes into

    @property
    def leak_bias(self) -> float | Tensor:
        """``(1 - decay) v_rest + bias``, a number where it is the same whatever the decay."""
        return (1.0 - self.decay) * self.v_rest + self.bias if self.v_rest else self.bias

    def with_input(self, scale: Tensor, shift: Tensor) -> "Leaky":
        """The same neuron on ``scale x + shift``."""
        slope, offset = (getattr(self, name) for name in self.LINE)
        if isinstance(slope, Tensor) or slope != 1:
            scale, shift = slope * scale, slope * shift
        if isinstance(offset, Tensor) or offset != 0:
            shift = shift + offset
        return self.with_own(**dict(zip(self.LINE, (scale, shift), strict=True)))

    def _set_settings(self) -> None:
        bias = self.leak_bias
        if not isinstance(bias, Tensor):
            check_number("(1 - decay) * v_reset + bias", bias, minimum=-FLOAT32.max)
        super()._set_settings()


@dataclass(frozen=True)
class Filtering(Leaky):
    """One whose step has its input in more than the membrane's charge, so that a line of it is a pair of its own."""

    scale: float | Tensor = 1.0
    shift: float | Tensor = 0.0

    LINE: ClassVar = ("scale", "shift")


def check_number(
    name: str, value: object, minimum: float = 0.0, kind: str = "float", maximum: float = FLOAT32.max
) -> None:
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        raise TypeError(f"{name} must be a Python {kind}, got {type(value).__name__}")
    if not minimum <= value <= maximum:
        finite = "finite and " if maximum < math.inf else ""
        raise ValueError(f"{name} must be {finite}>= {minimum:g} in fp32, got {value}")


def check_bool(name: str, value: object) -> None:
    if not isinstance(value, bool):
        raise TypeError(f"{name} must be a bool, got {type(value).__name__}")


def check_choice(name: str, value: object, choices: tuple[Any, ...]) -> None:
    if not any(value is choice or (type(value) is type(choice) and value == choice) for choice in choices):
        *others, last = map(repr, choices)
        raise ValueError(f"{name} must be {', '.join(others)} or {last}, got {value!r}")


def state_dtype(dtype: torch.dtype) -> torch.dtype:
    """Of the state, the constants and the arithmetic for an x of ``dtype``."""
    return torch.float64 if dtype == torch.float64 else torch.float32
