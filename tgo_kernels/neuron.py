"""One neuron: its validated constants, and what a call takes and returns."""

from dataclasses import dataclass, replace
from typing import ClassVar, Literal, NamedTuple

import torch
from torch import Tensor

from tgo_kernels.surrogate import FLOAT32, ATan, NoisePDF, Surrogate

DTYPES = (torch.float32, torch.float16, torch.bfloat16)
NoiseMode = Literal["membrane", "threshold"]
GUARD_MARGIN = 8  # its place in Neuron.constants
MINIMUM = dict.fromkeys(("v_threshold", "v_reset"), -FLOAT32.max)  # of the others it is 0
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

    Raises TypeError or ValueError, naming the constant, for what is no finite number, or negative (``v_threshold`` and
    ``v_reset`` may be), or too large for fp32. The values of tensors are not looked at, which would wait for the GPU.
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
    tensors: ClassVar[tuple[str, ...]] = ()  #: which of them were given as tensors

    def __post_init__(self) -> None:
        given = {name: value for name in OWN if isinstance(value := getattr(self, name), Tensor)}
        tensors = list(given.values())
        for name in OWN:
            value = getattr(self, name)
            if not isinstance(value, Tensor):
                check_number(name, value, MINIMUM.get(name, 0.0), "float or a tensor")
                if tensors:  # so that leak_bias is computed as where they learn
                    dtype, device = state_dtype(tensors[0].dtype), tensors[0].device
                    object.__setattr__(self, name, torch.full((), value, dtype=dtype, device=device))
        if tensors:
            object.__setattr__(self, "own", (self.decay, self.gain, self.v_threshold))
            object.__setattr__(self, "tensors", tuple(given))
        for name in ("noise_std", "guard_margin"):
            check_number(name, getattr(self, name))
        if self.v_reset is not None:
            check_number("v_reset", self.v_reset, MINIMUM["v_reset"])
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


def state_dtype(dtype: torch.dtype) -> torch.dtype:
    """Of the state, the constants and the arithmetic for an x of ``dtype``."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def check_tensors(x: Tensor, v_init: Tensor | None, neuron: Neuron, impl: str = "auto") -> None:
    """The tensors of a call: x is [T, *] with T >= 1, v_init [*] and the neuron's own are fp32 on the same device.

    With impl="reference" all of them may be fp64.
    """
    if not isinstance(x, Tensor):
        if isinstance(x, torch.fx.Proxy):
            raise TypeError("torch.fx must take LIF layers as leaves: Tracer.is_leaf_module returns True for a tgo.LIF")
        raise TypeError(f"x must be a torch.Tensor of shape [T, *], got {type(x).__name__}")
    if x.dtype not in DTYPES and not (x.dtype == torch.float64 and impl == "reference"):
        raise TypeError(f"x must be float32, float16 or bfloat16 (or float64 with impl='reference'), got {x.dtype}")
    if x.is_nested or x.layout != torch.strided:
        raise not_dense("x", x)
    if x.dim() == 0:
        raise ValueError("x must have a time axis first, shape [T, *]; got a scalar")
    if x.shape[0] == 0:
        raise ValueError(f"x must have at least one time step, got shape {tuple(x.shape)}")
    for name in neuron.tensors:
        check_own(name, getattr(neuron, name), x)
    if v_init is None:
        return
    if not isinstance(v_init, Tensor):
        raise TypeError(f"v_init must be a torch.Tensor or None, got {type(v_init).__name__}")
    if v_init.is_nested or v_init.layout != torch.strided:
        raise not_dense("v_init", v_init)
    if v_init.dtype != state_dtype(x.dtype):
        raise TypeError(f"v_init must be {named(state_dtype(x.dtype))} for x in {named(x.dtype)}, got {v_init.dtype}")
    if v_init.shape != x.shape[1:]:
        raise ValueError(f"v_init must have shape {tuple(x.shape[1:])} (x without time), got {tuple(v_init.shape)}")
    if v_init.device != x.device:
        raise ValueError(f"v_init must be on {x.device} as x is, got {v_init.device}")


def not_dense(name: str, value: Tensor) -> TypeError:
    nested = "a nested one; torch.nested.to_padded_tensor makes it dense"
    what = nested if value.is_nested else f"{value.layout}; its to_dense() is one"
    return TypeError(f"{name} must be a dense (strided) tensor, got {what}")


def check_own(name: str, value: Tensor, x: Tensor) -> None:
    if value.is_nested or value.layout != torch.strided:
        raise not_dense(name, value)
    if value.dtype != state_dtype(x.dtype):
        raise TypeError(f"{name} must be {named(state_dtype(x.dtype))} for x in {named(x.dtype)}, got {value.dtype}")
    if value.device != x.device:
        raise ValueError(f"{', '.join(OWN)} that are tensors must be on {x.device} as x is, got {value.device}")
    sizes = x.shape[1:]
    pairs = zip(value.shape, sizes[len(sizes) - value.dim() :], strict=False)  # dynamo takes no "in" for a symbol
    if value.dim() > len(sizes) or any(n != 1 and n != size for n, size in pairs):
        raise ValueError(
            f"{name} must broadcast to {tuple(sizes)} (x without time), got {tuple(value.shape)}; "
            "one value for each channel of [T, B, C, H, W] has shape [C, 1, 1]"
        )


def named(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
