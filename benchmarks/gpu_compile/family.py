"""The scan's kernels of the neurons beside LIF, as compiled by Triton: registers and spills, static counts."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from benchmarks.gpu_compile.triton_code import TARGETS, compile_kernel, resources
from tgo_kernels._triton import walk
from tgo_kernels.neurons import HOUSE, Neuron

KERNELS = {"forward": walk.forward_kernel, "backward": walk.backward_kernel}
ANY_T = {"whole": False, "once": False, "saves": True}
CALLS: dict[str, dict[str, Any]] = {"T=4": {}, "any T": ANY_T, "any T, own": ANY_T}  # constants of its own: all
LIGHT, HEAVY, MOST = 64, 96, 128  # registers; heavy: of several states or inputs
SPILLS = 16  # bytes that do not fit beside all constants and the sums of their gradients, at the most
STREAMS = "Of three streams, each with its gradient, a thread holds 16 bytes of each."
#: by kernel, call and the bits of a value the most registers over the targets where that is over budget
OF_STREAMS = {
    ("backward", "T=4", 32): 109,
    ("backward", "any T", 32): 128,
    ("forward", "any T", 16): 105,
    ("backward", "T=4", 16): 154,
    ("backward", "any T", 16): 128,
}
#: likewise what is spilled: bytes on sm_120, and on gfx942 registers, of eight neurons of half precision a thread
SPILLED = {
    ("InhibitedLIF", "forward", "T=4", 32): 8,
    ("IntegerLIF", "forward", "T=4", 16): 3,
    ("IntegerLIF", "backward", "T=4", 16): 2,
    ("SynapticLIF", "forward", "any T", 16): 4,
    ("HomeostaticLIF", "forward", "any T", 16): 2,
}
KNOWN = {("InhibitedLIF", *which): (most, STREAMS) for which, most in OF_STREAMS.items()}


@dataclass(frozen=True)
class Kernel:
    """A neuron's kernel for a target, and how it is called."""

    neuron: type[Neuron]
    kernel: str
    target: str
    dtype: str
    call: str

    def __str__(self) -> str:
        return f"{self.neuron.__name__} {self.kernel} {self.target} {self.dtype} {self.call}"

    @property
    def budget(self) -> int:
        many = len(self.neuron.STATES) > 1 or len(self.neuron.INPUTS) > 1
        most = self.call.endswith("own") or (self.call == "any T" and not many)  # as of LIF
        return MOST if most else HEAVY if many else LIGHT

    @property
    def which(self) -> tuple[str, str, str, int]:
        return self.neuron.__name__, self.kernel, self.call, 32 if self.dtype == "fp32" else 16

    @property
    def known(self) -> tuple[int, str] | None:
        return KNOWN.get(self.which)


@dataclass(frozen=True)
class Read:
    """What is read of one."""

    of: Kernel
    registers: int
    spilled: int

    def over(self) -> list[str]:
        """Worse than its budget, or than what is known; AMD's threads have registers for more."""
        most = self.of.known[0] if self.of.known else self.of.budget
        high = self.registers > most and TARGETS[self.of.target].backend == "cuda"
        misses = [f"{self.of}: {self.registers} registers, not {most}"] if high else []
        spills = self.spilled > (SPILLS if self.of.call.endswith("own") else SPILLED.get(self.of.which, 0))
        return misses + ([f"{self.of}: {self.spilled} spilled"] if spills else [])


def kernels(target: str, dtype: str) -> Iterator[Kernel]:
    for neuron in HOUSE[1:]:
        for kernel in KERNELS:
            for call in CALLS:
                yield Kernel(neuron, kernel, target, dtype, call)


def read(kernel: Kernel) -> Read:
    flags = dict(CALLS[kernel.call])
    if kernel.call.endswith("own"):
        flags["own"] = (True,) * len(kernel.neuron.CONSTANTS)
    target = TARGETS[kernel.target]
    found = compile_kernel(KERNELS[kernel.kernel], target, kernel.dtype, neuron=kernel.neuron, **flags)
    return Read(kernel, *resources(found, target))
