"""Compiles the CUDA kernels, one call of nvcc for an architecture, and finds each kernel in the result."""

import hashlib
import os
import re
import struct
import subprocess
from functools import cache
from pathlib import Path

import torch

from benchmarks.gpu_compile.code import NEURONS, SIZES_OF, STEPS, THREADS, Case, Code, constant_bank, pointer
from benchmarks.gpu_compile.triton_code import number_after, resource_usage, run

ROOT = Path(__file__).parents[2]
NVCC = Path(os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH") or "/usr/local/cuda") / "bin" / "nvcc"
OPTIONS = ["-std=c++20", "-O3", "-fmad=false", "-DUSE_CUDA", "-DTORCH_TARGET_VERSION=0x020a000000000000"]
STORAGE = {"fp32": "f", "fp16": "NS_4HalfE", "bf16": "NS_8BFloat16E"}
# Pointers of a call, in the order of csrc/arguments.h; None: a null pointer in the usual call.
BOTH = ("seed", None, "x", *[None] * 5)  # lengths, further inputs, states
FORWARD = (*BOTH, "spikes", None, "v_final", None, None, None)  # membrane, further states, checkpoints
BACKWARD = (*BOTH, None, "g_spikes", *[None] * 4, "g_penalty", "g_x", *[None] * 21)


def available() -> bool:
    return NVCC.exists()


def release() -> str:
    """For instance ``13.0``."""
    text = subprocess.run([NVCC, "--version"], capture_output=True, check=True, text=True).stdout
    return text.partition("release ")[2].partition(",")[0]


@cache
def cubin(target: str) -> Path:
    """The compiled kernels, kept in build/ until the sources or the compiler change."""
    sources = sorted([*ROOT.glob("csrc/*.h"), *ROOT.glob("csrc/steps/*.h"), *ROOT.glob("csrc/cuda/*")])
    version = subprocess.run([NVCC, "--version"], capture_output=True, check=True).stdout
    key = hashlib.sha256(b"".join([version, torch.__version__.encode(), *(path.read_bytes() for path in sources)]))
    path = ROOT / "build" / "gpu_compile" / f"{key.hexdigest()[:16]}_{target}.cubin"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_suffix(f".{os.getpid()}")
        include = Path(torch.__file__).parent / "include"
        command = [NVCC, "-cubin", f"-arch={target}", ROOT / "csrc/cuda/walk.cu", "-o", unfinished, f"-I{include}"]
        subprocess.run([*command, *OPTIONS], check=True)
        unfinished.rename(path)
    return path


@cache
def functions(target: str) -> dict[str, tuple[str, str]]:
    """Machine code and resource usage of every kernel, by its mangled name."""
    path = cubin(target)
    usage = dict(re.findall(r"Function (\S+):\n(.*)", resource_usage(path)))
    sections = re.split(r"^\.text\.(\S+):\n", run("nvdisasm", "-c", str(path)), flags=re.MULTILINE)
    return {name: (text, usage[name]) for name, text in zip(sections[1::2], sections[2::2], strict=True)}


def neurons_per_thread(case: Case) -> int:
    return 16 // SIZES_OF[case.dtype] if case.aligned else 1


def pattern(case: Case) -> str:
    """Of the mangled name: Body<Walk<step, storage, count, kind, four, own, curve>>."""
    flags = f"Li{neurons_per_thread(case)}ELNS0_4KindE{1 if case.noise else 0}ELb1ELb0ELNS_5CurveE{case.curve}E"
    return f"{case.kernel.capitalize()}BodyINS0_4WalkINS_3LifE{STORAGE[case.dtype]}{flags}"


def parameters(case: Case) -> tuple[bytes, tuple[str, ...]]:
    """Forward or Backward of arguments.h as it lies in memory, and the names of its pointers."""
    neurons = NEURONS + (0 if case.aligned else 1)
    margin = 0.5 if case.guard else 0.0
    data = struct.pack("<6f4i", 0.0, margin, 1.0, 3.0, 0.0, 0.0, case.curve, int(case.noise), 0, 0)
    data += struct.pack("<5?3x", case.guard, *[False] * 4)
    rests, constants = [0.0] * 3, [0.5, 0.5, 0.0, 1.0, 0.0, 0.3 if case.noise else 0.0, *[0.0] * 10]
    data += struct.pack("<19fI16Qq", *rests, *constants, 0, *[0] * 16, neurons)  # no row of a table
    data += struct.pack("<3qi4x6q6q", STEPS, neurons, neurons, 1, neurons, *[0] * 5, 1, *[0] * 5)
    data += struct.pack("<q", 0)  # noise_step
    names = FORWARD if case.kernel == "forward" else BACKWARD
    tensors = tuple(name for name in names if name)
    data += struct.pack(f"<{len(names)}Q", *(pointer(tensors.index(name)) if name else 0 for name in names))
    return data + struct.pack("<d", 1 / neurons), tensors


def compiled(case: Case) -> Code:
    (name,) = (name for name in functions(case.target) if pattern(case) in name)
    text, usage = functions(case.target)[name]
    spilled = number_after("STACK", usage) + number_after("LOCAL", usage)
    data, tensors = parameters(case)
    blocks = -(-(NEURONS + 1) // (THREADS * neurons_per_thread(case)))
    constants = constant_bank(case.target, data, blocks)
    registers, shared = number_after("REG", usage), number_after("SHARED", usage)
    return Code(text, registers, spilled, shared, neurons_per_thread(case), constants, tensors)
