"""Compiles the Triton kernels for GPUs that are not here."""

import re
import struct
import subprocess
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import triton
import triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from benchmarks.gpu_compile.code import NEURONS, STEPS, Case, Code, constant_bank, pointer
from tgo_kernels._triton import launch, walk
from tgo_kernels._triton.flags import Flags
from tgo_kernels._triton.math import HARD, MEMBRANE, NO_MEMBRANE, NO_NOISE
from tgo_kernels.neurons import HOUSE, LIF
from tgo_kernels.surrogate import Curve

TARGETS = {
    **{f"sm_{capability}": GPUTarget("cuda", capability, 32) for capability in (80, 90, 100, 120)},
    "gfx942": GPUTarget("hip", "gfx942", 64),
}
KERNELS = {"forward": walk.forward_kernel, "backward": walk.backward_kernel}
DIVISIBLE = [["tt.divisibility", 16]]
BINARIES = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
STORED = ("inputs", "spikes_ptr", "membrane_ptr", "g_spikes_ptr", "g_membrane_ptr", "g_input_ptrs")
POINTERS = {"seed_ptr": "*i64", "partial_ptr": "*i64", "lengths_ptr": "*i32"}

# A training step of the guarded, noisy neuron, T = 4.
USUAL = {
    "alignment": 16,
    "time_outermost": True,
    "permuted": False,
    "noise": MEMBRANE.value,
    "reset": HARD.value,
    "strict": False,
    "membrane": NO_MEMBRANE.value,
    "guard": True,
    "below": False,
    "squared": False,
    "lengths": False,
    **launch.spans(STEPS, 0),
    "saves": False,
    "g_spikes": True,
    "g_init": False,
    "curve": Curve.LORENTZ.value,
    "surrogate_at_h": False,
    "detach_reset": False,
}


def flags_for(
    kernel: Any, target: GPUTarget, dtype: str, neuron: type = LIF, stateful: bool = False, **flags: Any
) -> dict[str, Any]:
    """Those of USUAL but for ``flags``."""
    backward = kernel is walk.backward_kernel
    number, constants = HOUSE.index(neuron), len(neuron.CONSTANTS)
    flags = {
        **USUAL,
        "step": launch.STEPS[number].step,
        "step_back": launch.STEPS[number].step_back,
        "states": len(neuron.STATES),
        "inputs": len(neuron.INPUTS),
        "spikes": int(neuron.SPIKES),
        "own": (False,) * constants,
        "dtype": getattr(tl, {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}[dtype]),
        "g_init": stateful,
        "in_turn": backward and target.warp_size == 64,
        **flags,
    }
    return flags | launch.shape(backward, flags, target.warp_size)


def compile_kernel(kernel: Any, target: GPUTarget, dtype: str = "fp32", stateful: bool = False, **flags: Any) -> Any:
    """Triton's compiled kernel, with the constants of USUAL but for ``flags``."""
    flags = flags_for(kernel, target, dtype, stateful=stateful, **flags)
    f, states = Flags(**flags), flags["states"]
    tuples = {"inputs": flags["inputs"], "g_input_ptrs": flags["inputs"]}
    tuples |= dict.fromkeys(("init_ptrs", "final_ptrs", "g_final_ptrs", "g_init_ptrs"), states)
    missing = set() if stateful else {"init_ptrs", "g_final_ptrs", "g_init_ptrs"}
    missing |= set() if flags["lengths"] else {"lengths_ptr"}
    missing |= {"membrane_ptr", "g_membrane_ptr"} if flags["membrane"] == NO_MEMBRANE.value else set()
    signature: dict[str, Any] = {}
    fixed: dict[tuple[int, ...], Any] = {}
    attributes: dict[tuple[int, ...], Any] = {}
    for i, name in enumerate(kernel.arg_names):
        if name == "F":
            signature[name], fixed[(i,)] = "constexpr", f
        elif name in tuples or name.endswith("_ptr"):
            kind = f"*{dtype}" if name in STORED else POINTERS.get(name, "*fp32")
            kind = "constexpr" if name in missing else kind
            places = [(i, j) for j in range(tuples[name])] if name in tuples else [(i,)]
            signature[name] = (kind,) * len(places) if name in tuples else kind
            for place in places:
                (fixed if name in missing else attributes)[place] = None if name in missing else DIVISIBLE
        elif name in ("numbers", "rests"):
            signature[name] = ("fp32",) * (len(flags["own"]) if name == "numbers" else states)
        else:
            signature[name] = "i32" if name in walk.SIZES else "fp32"
    source = ASTSource(kernel, signature, fixed, attributes)
    options = launch.options(kernel is walk.backward_kernel, flags, target.warp_size)
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
        "alignment": 16 if case.aligned else 1,
        "noise": MEMBRANE.value if case.noise else NO_NOISE.value,
        "guard": case.guard,
        "curve": case.curve,
    }


def flags_of_case(case: Case) -> dict[str, Any]:
    return flags_for(KERNELS[case.kernel], TARGETS[case.target], case.dtype, **flags_of(case))


def parameters(case: Case) -> tuple[bytes, tuple[str, ...]]:
    """The kernel's arguments as they lie in memory, and the names of its pointers."""
    flags = flags_of_case(case)
    neurons = (NEURONS + (0 if case.aligned else 1)) // flags["alignment"]
    turns = flags["count"] // flags["at_once"]
    sizes = dict(zip(walk.SIZES, (STEPS, neurons, neurons, neurons, turns, 0, 1, 1, 1, 0, 0, 0, 1), strict=True))
    data, tensors = b"", []
    names = {"inputs": "x", "final_ptrs": "v_final", "g_input_ptrs": "g_x"}
    missing = {"lengths_ptr", "membrane_ptr", "g_membrane_ptr"}
    for name in KERNELS[case.kernel].arg_names:
        if name in names or (name.endswith("_ptr") and name not in missing):
            data += bytes(-len(data) % 8) + struct.pack("<Q", pointer(len(tensors)))
            tensors.append(names.get(name, name.removesuffix("_ptr")))
        elif name in walk.SIZES:
            data += struct.pack("<i", sizes[name])
        elif name == "numbers":
            data += struct.pack("<6f", *[0.5] * 6)
        elif name != "F" and not name.endswith(("_ptr", "_ptrs")):
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
    return Code(text, registers, spilled, result.metadata.shared, flags_of_case(case)["count"], constants, tensors)
