"""Compiles the Triton kernels for GPUs that are not here."""

import re
import struct
import subprocess
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from benchmarks.gpu_compile.code import NEURONS, SIZES_OF, STEPS, Case, Code, constant_bank, pointer
from tgo_kernels._triton import launch, lif
from tgo_kernels._triton.math import MEMBRANE, NO_NOISE
from tgo_kernels.surrogate import Curve

TARGETS = {
    **{f"sm_{capability}": GPUTarget("cuda", capability, 32) for capability in (80, 90, 100, 120)},
    "gfx942": GPUTarget("hip", "gfx942", 64),
}
KERNELS = {"forward": lif.lif_fwd_kernel, "backward": lif.lif_bwd_kernel}
BINARIES = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
X_POINTERS = ("x_ptr", "spikes_ptr", "g_spikes_ptr", "g_x_ptr")
POINTERS = {"seed_ptr": "*i64", "counts_ptr": "*i64", "penalty_ptr": "*fp64"}

# A training step of the guarded, noisy neuron, T = 4.
USUAL = {
    "ALIGNMENT": 16,
    "TIME_OUTERMOST": True,
    "PERMUTED": False,
    "HAS_V_INIT": False,
    "OWN": False,
    "HAS_G_SPIKES": True,
    "HAS_G_V_FINAL": False,
    "HAS_G_V_INIT": False,
    "SOFT": False,
    "NOISE": MEMBRANE.value,
    "GUARD": True,
    "CURVE": Curve.LORENTZ.value,
    "SURROGATE_AT_H": False,
    "DETACH_RESET": False,
    "SAVES": False,
    "IN_TURN": False,
    **launch.spans(STEPS, 0),
}


def compile_kernel(kernel: Any, target: GPUTarget, dtype: str = "fp32", **flags: Any) -> Any:
    """Triton's compiled kernel, with the constants of USUAL but for ``flags``."""
    flags = {**USUAL, **flags, "IN_TURN": target.warp_size == 64}
    light = flags["ONCE"] and not flags["OWN"]
    flags |= launch.shape(flags["ALIGNMENT"], SIZES_OF[dtype], target.warp_size, light)
    signature, constants, attributes = {}, {}, {}
    for i, name in enumerate(kernel.arg_names):
        if name.isupper():
            signature[name], constants[(i,)] = "constexpr", flags[name]
        elif name.endswith("_ptr"):
            signature[name] = f"*{dtype}" if name in X_POINTERS else POINTERS.get(name, "*fp32")
            attributes[(i,)] = [["tt.divisibility", 16]]
        else:
            signature[name] = "i32" if name in lif.SIZES else "fp32"
    source = ASTSource(kernel, signature, constants, attributes)
    options = launch.options(kernel is lif.lif_bwd_kernel, flags, target.warp_size)
    return triton.compile(source, target=target, options=options)


def disassemble(cubin: bytes) -> str:
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        return run("nvdisasm", "-c", file.name)


def resource_usage(path: str | Path) -> str:
    return run("cuobjdump", "--dump-resource-usage", str(path))


def run(tool: str, *arguments: str) -> str:
    return subprocess.run([BINARIES / tool, *arguments], capture_output=True, text=True, check=True).stdout


def resources(compiled: Any, target: GPUTarget) -> tuple[int, int]:
    """Registers of a thread, and bytes (NVIDIA) or registers (AMD) spilled."""
    if target.backend == "hip":
        found = [re.search(rf"\.{key}:\s*(\d+)", compiled.asm["amdgcn"]) for key in ("vgpr_count", "vgpr_spill_count")]
        registers, spilled = (int(match[1]) for match in found if match)
        return registers, spilled
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(compiled.asm["cubin"])
        file.flush()
        usage = resource_usage(file.name)
    return number_after("REG", usage), number_after("STACK", usage) + number_after("LOCAL", usage)


def number_after(key: str, text: str) -> int:
    match = re.search(rf"{key}:(\d+)", text)
    assert match, f"no {key} in {text!r}"
    return int(match[1])


def flags_of(case: Case) -> dict[str, Any]:
    return {
        "ALIGNMENT": 16 if case.aligned else 1,
        "NOISE": MEMBRANE.value if case.noise else NO_NOISE.value,
        "GUARD": case.guard,
        "CURVE": case.curve,
    }


def shape_of(case: Case) -> dict[str, int]:
    return launch.shape(16 if case.aligned else 1, SIZES_OF[case.dtype], TARGETS[case.target].warp_size, light=True)


def parameters(case: Case) -> tuple[bytes, tuple[str, ...]]:
    """The kernel's arguments as they lie in memory, and the names of its pointers."""
    alignment = 16 if case.aligned else 1
    neurons = (NEURONS + (0 if case.aligned else 1)) // alignment
    shape = shape_of(case)
    turns = shape["COUNT"] // shape["AT_ONCE"]
    sizes = dict(zip(lif.SIZES, (STEPS, neurons, neurons, neurons, turns, 0, 1, 1, 1, 0, 0, 0, 1), strict=True))
    data, tensors = b"", []
    for name in KERNELS[case.kernel].arg_names:
        if name.endswith("_ptr"):
            data += bytes(-len(data) % 8) + struct.pack("<Q", pointer(len(tensors)))
            tensors.append(name.removesuffix("_ptr"))
        elif name in lif.SIZES:
            data += struct.pack("<i", sizes[name])
        elif not name.isupper():
            data += struct.pack("<f", 0.5)
    return data, tuple(tensors)


@cache
def compiled(case: Case) -> Code:
    target = TARGETS[case.target]
    flags = flags_of(case)
    result = compile_kernel(KERNELS[case.kernel], target, case.dtype, **flags)
    registers, spilled = resources(result, target)
    nvidia = target.backend == "cuda"
    text = disassemble(result.asm["cubin"]) if nvidia else result.asm["amdgcn"]
    data, tensors = parameters(case)
    constants = constant_bank(case.target, data, 1)
    return Code(text, registers, spilled, result.metadata.shared, shape_of(case)["COUNT"], constants, tensors)
