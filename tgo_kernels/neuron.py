"""One neuron: its validated constants, and what a call takes and returns."""

from dataclasses import dataclass, replace
from typing import ClassVar, Literal, NamedTuple

import torch
from torch import Tensor

from tgo_kernels.surrogate import FLOAT32, ATan, NoisePDF, Surrogate

DTYPES = (torch.float32, torch.float16, torch.bfloat16)
NoiseMode = Literal["membrane", "threshold"]
GUARD_MARGIN = 8  # its place in Neuron.constants
OWN = ("decay", "gain", "v_threshold")  # constants that each neuron can have of its own


class LIFOutput(NamedTuple):
    """What one pass over all time steps returns."""

    spikes: Tensor  #: 0 or 1, in x's shape [T, *], dtype and strides
    v_final: Tensor  #: [*] fp32, the state after the last step
    penalty: Tensor  #: scalar fp32, mean over T*N of max(0, guard_margin - |h - v_threshold|)
    neighbors: Tensor  #: int64 scalar, how many |h - v_threshold| < guard_margin; no gradient
    fired: Tensor  #: int64 scalar, how many spikes; no gradient


@dataclass(frozen=True)
class Neuron:
    """The constants of a neuron model in canonical form (see :func:`tgo_kernels.lif` for the equations).

    Raises TypeError or ValueError, naming the constant, for what is no finite number, or negative (``v_reset`` alone
    may be), or too large for fp32. The values of tensors are not looked at, which would wait for the GPU.
    """

    decay: float | Tensor = 0.5
    gain: float | Tensor = 1.0
    v_threshold: float | Tensor = 1.0
    v_reset: float | None = 0.0
    surrogate: Surrogate = ATan(2.0)
    detach_reset: bool = False
    noise_std: float = 0.0
    noise_mode: NoiseMode = "membrane"
    guard_margin: float = 0.0
    constants: ClassVar[tuple[float, ...]]  #: of all neurons, in the order that the operators expect
    own: ClassVar[tuple[Tensor, ...] | None] = None  #: decay, gain and v_threshold, if one of them is a tensor

    def __post_init__(self) -> None:
        tensors = [value for value in (self.decay, self.gain, self.v_threshold) if isinstance(value, Tensor)]
        for name in OWN:
            value = getattr(self, name)
            if not isinstance(value, Tensor):
                check_number(name, value, kind="float or a tensor")
                if tensors:  # so that leak_bias is computed as where they learn
                    object.__setattr__(self, name, torch.full((), value, dtype=torch.float32, device=tensors[0].device))
        if tensors:
            object.__setattr__(self, "own", (self.decay, self.gain, self.v_threshold))
        for name in ("noise_std", "guard_margin"):
            check_number(name, getattr(self, name))
        if self.v_reset is not None:
            check_number("v_reset", self.v_reset, minimum=-FLOAT32.max)
        if not isinstance(self.surrogate, Surrogate):
            raise TypeError(f"surrogate must be a tgo_kernels.Surrogate such as ATan(2.0), got {self.surrogate!r}")
        check_bool("detach_reset", self.detach_reset)
        if self.noise_mode not in ("membrane", "threshold"):
            raise ValueError(f"noise_mode must be 'membrane' or 'threshold', got {self.noise_mode!r}")
        if isinstance(self.surrogate, NoisePDF) and self.surrogate.std is None:
            if self.noise_std == 0:
                raise ValueError("surrogate=NoisePDF() needs noise_std > 0, or NoisePDF(std=...); got noise_std=0")
            object.__setattr__(self, "surrogate", NoisePDF(self.noise_std))
        if not tensors:
            check_number("(1 - decay) * v_reset", self.leak_bias, minimum=-FLOAT32.max)
        constants = (
            *((0.0,) * 4 if tensors else (self.decay, self.gain, self.leak_bias, self.v_threshold)),
            self.v_rest,
            self.v_reset is None,
            self.noise_std,
            self.noise_mode == "membrane",
            self.guard_margin,
            int(self.surrogate.curve),
            *self.surrogate.constants(),
            self.surrogate_at_h,
            self.detach_reset,
        )
        object.__setattr__(self, "constants", tuple(map(float, constants)))

    @property
    def v_rest(self) -> float:
        """Where the membrane starts and leaks to: ``v_reset``, or 0 under soft reset."""
        return 0.0 if self.v_reset is None else self.v_reset

    @property
    def leak_bias(self) -> float | Tensor:
        return (1.0 - self.decay) * self.v_rest

    @property
    def surrogate_at_h(self) -> bool:
        """Whether the surrogate is taken at the noise-free ``h`` instead of ``u``."""
        return isinstance(self.surrogate, NoisePDF)

    def without_noise(self) -> "Neuron":
        """The same neuron with the noise switched off; its surrogate keeps its width."""
        return replace(self, noise_std=0.0) if self.noise_std > 0 else self


def check_number(name: str, value: object, minimum: float = 0.0, kind: str = "float") -> None:
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        raise TypeError(f"{name} must be a Python {kind}, got {type(value).__name__}")
    if not minimum <= value <= FLOAT32.max:
        raise ValueError(f"{name} must be finite and >= {minimum:g} in fp32, got {value}")


def check_bool(name: str, value: object) -> None:
    if not isinstance(value, bool):
        raise TypeError(f"{name} must be a bool, got {type(value).__name__}")


def check_tensors(x: Tensor, v_init: Tensor | None, neuron: Neuron) -> None:
    """The tensors of a call: x is [T, *] with T >= 1, v_init [*] and the neuron's own are fp32 on the same device."""
    if not isinstance(x, Tensor):
        raise TypeError(f"x must be a torch.Tensor of shape [T, *], got {type(x).__name__}")
    if x.dtype not in DTYPES:
        raise TypeError(f"x must be float32, float16 or bfloat16, got {x.dtype}")
    if x.layout != torch.strided or x.is_nested:
        raise TypeError(f"x must be a dense (strided) tensor, got {x.layout}")
    if x.dim() == 0:
        raise ValueError("x must have a time axis first, shape [T, *]; got a scalar")
    if x.shape[0] == 0:
        raise ValueError(f"x must have at least one time step, got shape {tuple(x.shape)}")
    if neuron.own is not None:
        for name, value in zip(OWN, neuron.own, strict=True):
            check_own(name, value, x)
    if v_init is None:
        return
    if not isinstance(v_init, Tensor):
        raise TypeError(f"v_init must be a torch.Tensor or None, got {type(v_init).__name__}")
    if v_init.layout != torch.strided:
        raise TypeError(f"v_init must be a dense (strided) tensor, got {v_init.layout}")
    if v_init.dtype != torch.float32:
        raise TypeError(f"v_init must be float32, got {v_init.dtype}")
    if v_init.shape != x.shape[1:]:
        raise ValueError(f"v_init must have shape {tuple(x.shape[1:])} (x without time), got {tuple(v_init.shape)}")
    if v_init.device != x.device:
        raise ValueError(f"v_init must be on {x.device} as x is, got {v_init.device}")


def check_own(name: str, value: Tensor, x: Tensor) -> None:
    if value.layout != torch.strided or value.dtype != torch.float32:
        raise TypeError(f"{name} must be a dense float32 tensor, got {value.dtype}, {value.layout}")
    if value.device != x.device:
        raise ValueError(f"{', '.join(OWN)} that are tensors must be on {x.device} as x is, got {value.device}")
    sizes = x.shape[1:]
    pairs = zip(value.shape, sizes[len(sizes) - value.dim() :], strict=False)  # dynamo takes no "in" for a symbol
    if value.dim() > len(sizes) or any(n != 1 and n != size for n, size in pairs):
        raise ValueError(
            f"{name} must broadcast to {tuple(sizes)} (x without time), got {tuple(value.shape)}; "
            "one value for each channel of [T, B, C, H, W] has shape [C, 1, 1]"
        )
