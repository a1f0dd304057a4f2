"""What is read from a compiled kernel, and the time below which it cannot run."""

import re
from collections import Counter
from dataclasses import asdict, dataclass
from statistics import mean
from typing import Any

from benchmarks.gpu_compile import sass
from benchmarks.gpu_compile.code import NVIDIA, ROW_TENSORS, STEPS, THREADS, Case, Code

# An H100: bytes a second, and instructions a second of single threads: 132 multiprocessors issue 4 warp instructions a
# cycle, at 1.755 GHz, for 32 threads each. Whatever has its own, narrower pipe (MUFU, fp64, conversions) costs more.
BYTES_PER_SECOND = 3.35e12
INSTRUCTIONS_PER_SECOND = 132 * 4 * 1.755e9 * 32


@dataclass
class Row:
    """One line of the table. Widths are in bits, and count what one thread executes (NVIDIA) or has (AMD)."""

    case: Case
    registers: int
    spilled: int
    shared: int
    barriers: int  # in the code
    loads: dict[int, int]
    stores: dict[int, int]
    early_barriers: int | None = None  # before the last access to a row: not those of the final sum
    instructions: float | None = None  # of a thread, for each neuron-step; AMD: with what it does once
    per_normal: float | None = None  # of them, for each normal
    bytes: float | None = None  # of x, spikes and their gradients, for each neuron-step
    state_bytes: float | None = None  # of the state that enters and leaves: 4 for each T steps
    divergent: int = 0  # branches on data, executed as by a warp whose threads disagree

    @property
    def memory_ps(self) -> float | None:
        """Picoseconds of a neuron-step, over the whole device."""
        return None if self.bytes is None else (self.bytes + (self.state_bytes or 0)) / BYTES_PER_SECOND * 1e12

    @property
    def issue_ps(self) -> float | None:
        return None if self.instructions is None else self.instructions / INSTRUCTIONS_PER_SECOND * 1e12

    @property
    def binds(self) -> str | None:
        if self.memory_ps is None or self.issue_ps is None:
            return None
        return "memory" if self.memory_ps >= self.issue_ps else "issue"

    def as_dict(self) -> dict[str, Any]:
        floors = {"memory_ps": self.memory_ps, "issue_ps": self.issue_ps, "binds": self.binds}
        return {**asdict(self.case), **asdict(self), "case": str(self.case), **floors}


def read(case: Case, code: Code) -> Row:
    return read_nvidia(case, code) if case.target in NVIDIA else read_amd(case, code)


def read_nvidia(case: Case, code: Code) -> Row:
    # The first thread of each warp: in the final sum, the first warp does what the others do not.
    warps = [sass.walk(code.text, code.constants, index) for index in range(0, THREADS, 32)]
    walk = warps[-1]
    assert not walk.unknown, f"{case}: the walk does not know {walk.unknown}"
    loads, stores, moved = Counter[int](), Counter[int](), Counter[str]()
    for (name, number, width), count in walk.accesses.items():
        assert number and number <= len(code.tensors), f"{case}: {name} at an address that the walk does not know"
        tensor = code.tensors[number - 1]
        if tensor in ROW_TENSORS:
            (loads if name == "LDG" else stores)[8 * width] += count
            moved["rows"] += width * count
        elif tensor == "v_final":  # all else is one number for the whole call
            moved["state"] += width * count
    neuron_steps = code.neurons_per_thread * STEPS
    return Row(
        case,
        code.registers,
        code.spilled,
        code.shared,
        len(re.findall(r"\bBAR\.\w+", code.text)),
        dict(loads),
        dict(stores),
        early_barriers=walk.early_barriers(code.tensors, ROW_TENSORS),
        instructions=mean(warp.executed for warp in warps) / neuron_steps,
        bytes=moved["rows"] / neuron_steps,
        state_bytes=moved["state"] / neuron_steps,
        divergent=walk.divergent,
    )


AMD_WIDTHS = {"dwordx4": 128, "dwordx3": 96, "dwordx2": 64, "dword": 32, "ushort": 16, "short": 16, "short_d16": 16}


def read_amd(case: Case, code: Code) -> Row:
    """Static counts, of all global accesses and vector instructions: the code is not walked.

    It has a thread's loop over its pairs of neurons once, so that what a normal costs is right.
    """
    widths = {}
    for name in ("load", "store"):
        found = re.findall(rf"\b(?:global|buffer|flat)_{name}_(dword(?:x\d)?|u?short)", code.text)
        widths[name] = dict(Counter(AMD_WIDTHS[width] for width in found))
    barriers = len(re.findall(r"\bs_barrier\b", code.text))
    row = Row(case, code.registers, code.spilled, code.shared, barriers, widths["load"], widths["store"])
    vector = len(re.findall(r"^\s+v_", code.text, re.MULTILINE))
    row.instructions = vector / (min(code.neurons_per_thread, 2) * STEPS)
    return row


def add_noise(rows: list[Row]) -> None:
    """Instructions of a normal: those of the noisy call less those of the same call without noise."""
    by_case = {row.case: row for row in rows}
    for row in rows:
        quiet = by_case.get(row.case.quiet)
        if row.case.noise and quiet and row.instructions is not None and quiet.instructions is not None:
            row.per_normal = row.instructions - quiet.instructions
