"""``python -m tgo_kernels info``: versions, devices, and which engines serve them or why not."""

import argparse
import importlib.metadata
import os
import platform
import subprocess
from pathlib import Path

import torch

import tgo_kernels
from tgo_kernels import compiler, native, ops

# What of the environment changes which code runs, or how fast.
VARIABLES = ("ATEN_CPU_CAPABILITY", "CXX", "CXXFLAGS", "GLIBC_TUNABLES", "LD_PRELOAD", "TRITON_INTERPRET")
PREFIXES = ("KMP_", "MALLOC_", "OMP_", "TGO_KERNELS_")


def info() -> str:
    lines = [
        f"tgo_kernels {tgo_kernels.__version__}, torch {torch.__version__}, triton {_triton_version()}, "
        f"Python {platform.python_version()}, {platform.machine()}",
        f"compiled extension: {native.description()}",
        f"compiler of neurons of one's own: {_compiler()}",
        f"system: {platform.platform()}, {_processor()}",
        f"environment: {_environment() or 'nothing that matters here'}",
    ]
    devices = [torch.device("cpu")]
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    if accelerator:
        devices += [torch.device(accelerator.type, index) for index in range(torch.accelerator.device_count())]
    for device in devices:
        lines.append(f"\n{device}: {_device_name(device)}")
        available = ops.available_impls(device)
        for engine in ops.ENGINES:
            reason = ops.why_not(engine, device)
            status = f"no: {reason}" if reason else 'yes, taken by impl="auto"' if engine == available[0] else "yes"
            lines.append(f"  {engine:<9} {status}")
    return "\n".join(lines)


def _triton_version() -> str:
    try:
        return importlib.metadata.version("triton")
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _compiler() -> str:
    try:
        command = compiler.compiler()
        said = subprocess.run([*command, "--version"], capture_output=True, text=True, timeout=10, check=True).stdout
    except (OSError, subprocess.SubprocessError) as error:
        return f"none ({error})"
    return f"{' '.join(command)}: {said.splitlines()[0] if said else 'no version'}"


def _processor() -> str:
    """Its name, and the widest vectors that torch takes it to have."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        name = next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):  # not Linux; Arm
        name = platform.processor() or platform.machine()
    return f"{name} ({torch.backends.cpu.get_cpu_capability()})"


def _environment() -> str:
    """The allocator's settings among them."""
    found = {k: v for k, v in sorted(os.environ.items()) if k in VARIABLES or k.startswith(PREFIXES)}
    return ", ".join(f"{name}={value}" for name, value in found.items())


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{torch.get_num_threads()} threads" if device.type == "cpu" else device.type


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tgo_kernels")
    parser.add_argument("command", choices=["info"], help="what is installed, and which engines can run here")
    parser.parse_args()
    print(info())


if __name__ == "__main__":
    main()
