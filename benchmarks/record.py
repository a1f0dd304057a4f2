"""What every row of a CSV says about where it comes from, and how rows and checkpoints are written."""

import csv
import ctypes
import datetime
import gc
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

import tgo_kernels as tgo
from benchmarks import processor

RESULTS = Path(__file__).parent / "results"
MEASURED = ("case", "network", "layer", "T", "N", "extras", "dtype", "mode", "engine", "version", "differs", "threads")
FIGURES = ("p20_ms", "p50_ms", "p80_ms", "GB/s", "of_clone", "held_B_per_step", "peak_MiB", "first_call_ms")
ORIGIN = ("machine", "cores", "torch", "allocator", "commit", "date")
COLUMNS = (*MEASURED, *FIGURES, *ORIGIN)


def tune() -> str:
    """One allocator for all alike, and its name."""
    kept = "glibc, pages kept (M_MMAP_MAX 0, M_TRIM_THRESHOLD -1)"
    return kept if tgo.tune_allocator() else "the platform's default"


def release() -> None:
    """Give pages back to the system that are free, where glibc keeps them."""
    gc.collect()
    if platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).malloc_trim(0)


def ask(module: str, *arguments: str, timeout: float | None = None, **environment: str) -> str:
    """The last line that a module of the benchmarks prints, run in a process of its own. Its errors are shown."""
    command = [sys.executable, "-m", module, *arguments]
    where, environment = RESULTS.parents[1], os.environ | environment
    about: dict[str, Any] = {"text": True, "check": True, "cwd": where, "env": environment, "timeout": timeout}
    output = subprocess.run(command, stdout=subprocess.PIPE, **about)
    return output.stdout.splitlines()[-1]


def origin(allocator: str) -> dict[str, object]:
    values = (machine(), os.cpu_count(), torch.__version__, allocator, commit(), datetime.date.today())
    return dict(zip(ORIGIN, values, strict=True))


def commit() -> str:
    """The last one, and whether anything but results differs from it."""

    def git(*arguments: str) -> str:
        where = RESULTS.parents[1]
        return subprocess.run(
            ["git", *arguments], capture_output=True, text=True, check=False, cwd=where
        ).stdout.strip()

    changed = git("status", "--porcelain", "--untracked-files=no", "--", ":!benchmarks/results", ":!figures")
    return git("describe", "--always") + ("-dirty" if changed else "")


def machine() -> str:
    capability = torch.backends.cpu.get_cpu_capability()
    return ", ".join([processor.described(processor.text_of(processor.CPUINFO)), capability, *processor.frequency()])


def write(path: Path, rows: list[dict[str, object]], columns: tuple[str, ...] = COLUMNS) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(rows)


def read(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def keep(path: Path, state: dict[str, Any]) -> None:
    """A checkpoint, written whole or not at all."""
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    with part.open("wb") as file:
        torch.save(state, file)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)


def agree(path: Path, was: dict[str, Any], now: dict[str, Any]) -> None:
    """Raises ValueError where a checkpoint is of other settings, naming them."""
    if other := [key for key in was | now if was.get(key) != now.get(key)]:
        said = ", ".join(f"{key} {was.get(key)!r}, now {now.get(key)!r}" for key in other)
        raise ValueError(f"{path} is of another training ({said}): move it away, or choose another --out")
