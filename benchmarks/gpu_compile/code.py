"""A compiled kernel, whatever compiled it, and the calls that are looked at."""

import itertools
import struct
from collections.abc import Iterator
from dataclasses import dataclass, replace

from tgo_kernels.surrogate import Curve

SIZES_OF = {"fp32": 4, "fp16": 2, "bf16": 2}
NVIDIA = ("sm_80", "sm_90", "sm_100", "sm_120")
TARGETS = (*NVIDIA, "gfx942")
STEPS = 4
THREADS = 128  # of a block
NEURONS = 2**20
ROW_TENSORS = ("x", "spikes", "g_spikes", "g_x")


@dataclass(frozen=True, order=True)
class Case:
    """One kernel for one kind of call: T = 4 from rest, with the noise beginning at a Philox block."""

    engine: str  # triton or cuda
    kernel: str  # forward or backward
    target: str
    dtype: str = "fp32"
    noise: bool = True
    guard: bool = True
    aligned: bool = True  # N is a multiple of 16
    training: bool = True  # else inference: no checkpoints are asked for
    curve: int = int(Curve.LORENTZ)

    @property
    def flags(self) -> str:
        names = [name for name in ("noise", "guard") if getattr(self, name)] or ["plain"]
        names += [] if self.aligned else ["ragged"]
        names += [] if self.training else ["inference"]
        return "+".join(names) + ("" if self.curve == Curve.LORENTZ else f" {Curve(self.curve).name.lower()}")

    @property
    def quiet(self) -> "Case":
        """The same without noise."""
        return replace(self, noise=False)

    @property
    def budget_bytes(self) -> int:
        """Of a neuron-step: x in and spikes out; or x and g_spikes in, g_x out."""
        return SIZES_OF[self.dtype] * (2 if self.kernel == "forward" else 3)

    def __str__(self) -> str:
        return f"{self.engine} {self.kernel} {self.target} {self.dtype} {self.flags}"


@dataclass(frozen=True)
class Code:
    """Machine code of one kernel, and what its compiler says about it."""

    text: str
    registers: int
    spilled: int  # bytes of local memory (NVIDIA) or registers (AMD)
    shared: int
    neurons_per_thread: int
    constants: dict[int, int]  # bytes of the constant bank as the call fills them
    tensors: tuple[str, ...]  # of the pointers there, in order


def pointer(number: int) -> int:
    """The address of a tensor: its number is found again in every address that is computed from it."""
    return (number + 1) << 40


def place_bytes(at: int, data: bytes, constants: dict[int, int]) -> None:
    constants.update({at + i: byte for i, byte in enumerate(data)})


# Where the parameters of a kernel begin in constant bank 0, and where gridDim.x is.
PARAMETERS_AT = {"sm_80": 0x160, "sm_90": 0x210, "sm_100": 0x380, "sm_120": 0x380}
GRID_AT = {"sm_80": 0xC, "sm_90": 0xC, "sm_100": 0x370, "sm_120": 0x370}


def constant_bank(target: str, parameters: bytes, blocks: int) -> dict[int, int]:
    constants: dict[int, int] = {}
    if target in NVIDIA:
        place_bytes(GRID_AT[target], struct.pack("<I", blocks), constants)
        place_bytes(PARAMETERS_AT[target], parameters, constants)
    return constants


def cases(quick: bool, engines: tuple[str, ...], targets: tuple[str, ...] = TARGETS) -> Iterator[Case]:
    """The usual calls. ``quick``: what a budget speaks of, in fp32 and bf16; else every combination and curve."""
    kernels = ("forward", "backward")
    for engine, target in itertools.product(engines, targets):
        if engine == "cuda" and target not in NVIDIA:
            continue
        for dtype, kernel in itertools.product(("fp32", "bf16") if quick else SIZES_OF, kernels):
            usual = Case(engine, kernel, target, dtype)
            if quick:
                yield from (usual, usual.quiet, replace(usual, noise=False, guard=False), replace(usual, aligned=False))
            else:
                for noise, guard, aligned in itertools.product((True, False), repeat=3):
                    yield replace(usual, noise=noise, guard=guard, aligned=aligned)
                if kernel == "backward":
                    yield from (replace(usual, curve=int(curve)) for curve in Curve if curve != Curve.LORENTZ)
            if kernel == "forward":
                yield replace(usual, noise=False, guard=False, training=False)
