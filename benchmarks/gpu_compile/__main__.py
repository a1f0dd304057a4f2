"""``make gpu-compile``: what GPUs would run, read from the compiled kernels, against the budgets.

    python -m benchmarks.gpu_compile [--quick] [--engine triton|cuda] [--target sm_90] [--json FILE]

The kernels are compiled for five targets, without any of them, as T = 4 steps of N neurons call them. For NVIDIA's the
machine code is then walked as one thread would (see ``sass``), which counts the instructions and the bytes of a
neuron-step; for AMD's the table has static counts alone, of vector instructions.

    regs, spill, shared   registers of a thread, what of it spilled, bytes of shared memory of a block
    bar                   barriers, + of them before the last row is stored; the rest belong to the final sum
    loads, stores         accesses to x, spikes and their gradients: how many of 128 bits, and so on
    instr                 instructions issued for a neuron-step
    normal                of them, for a normal: the noisy kernel's less the same kernel's without noise
    bytes                 of x, spikes and their gradients for a neuron-step
    mem, issue            picoseconds of a neuron-step on an H100, from its bandwidth (with the final state's bytes) and
                          from its rate of instructions: whatever else, it cannot run faster than the larger of the two

A second table is of the other neurons' kernels (see ``family``), and a third of those beside the scan (see ``beside``):
registers, spills and, of these, accesses.

Ends with status 1 where a kernel is over budget in a way that is not listed in ``known``, or no longer as listed there.
"""

import argparse
import json
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tqdm import tqdm

from benchmarks.gpu_compile import beside, cuda_code, family, triton_code
from benchmarks.gpu_compile.budgets import judge, misses
from benchmarks.gpu_compile.code import NVIDIA, SIZES_OF, TARGETS, Case, cases
from benchmarks.gpu_compile.known import KNOWN
from benchmarks.gpu_compile.report import Row, add_noise, read

COMPILERS = {"triton": triton_code.compiled, "cuda": cuda_code.compiled}
COLUMNS = ("engine", "kernel", "target", "dtype", "call", "regs", "spill", "shared", "bar", "loads", "stores", "instr")
COLUMNS += ("normal", "bytes", "mem", "issue", "binds", "over")
FAMILY = ("neuron", "kernel", "target", "dtype", "call", "regs", "spill", "budget", "over")
BESIDE = ("kernel", "target", "dtype", "regs", "spill", "shared", "loads", "stores")


def measure(chosen: list[Case]) -> list[Row]:
    """A row for every case. nvcc takes half a minute for an architecture, so that runs beside Triton."""
    with ThreadPoolExecutor(2) as pool, tqdm(total=len(chosen), desc="kernels", disable=None) as bar:
        cubins = {case.target: None for case in chosen if case.engine == "cuda"}
        waiting = {target: pool.submit(cuda_code.cubin, target) for target in cubins}
        rows = {}
        for case in sorted(chosen, key=lambda case: case.engine == "cuda"):
            if case.engine == "cuda":
                waiting[case.target].result()
            rows[case] = read(case, COMPILERS[case.engine](case))
            bar.update()
    ordered = [rows[case] for case in chosen]
    add_noise(ordered)
    return ordered


def number(value: float | None, digits: int = 1) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def widths(counts: dict[int, int]) -> str:
    return " ".join(f"{count}x{width}" for width, count in sorted(counts.items(), reverse=True)) or "-"


def line(row: Row) -> tuple[str, ...]:
    case = row.case
    barriers = f"{row.barriers}" + (f"+{row.early_barriers}" if row.early_barriers else "")
    over = ", ".join(miss.budget for miss in misses(row))
    floors = (number(row.memory_ps, 2), number(row.issue_ps, 2), row.binds or "-")
    floors = floors if case.target == "sm_90" else ("-", "-", "-")
    return (
        *(case.engine, case.kernel, case.target, case.dtype, case.flags),
        *(str(row.registers), str(row.spilled), str(row.shared), barriers, widths(row.loads), widths(row.stores)),
        *(number(row.instructions), number(row.per_normal), number(row.bytes), *floors, over),
    )


def family_line(row: family.Read) -> tuple[str, ...]:
    of, why = row.of, row.of.known[1] if row.of.known else ""
    numbers = (str(each) for each in (row.registers, row.spilled, of.budget))
    return of.neuron.__name__, of.kernel, of.target, of.dtype, of.call, *numbers, why


def beside_line(row: beside.Read) -> tuple[str, ...]:
    numbers = (str(each) for each in (row.registers, row.spilled, row.shared))
    return row.call.name, row.call.target, row.call.dtype, *numbers, widths(row.loads), widths(row.stores)


def table(*lines: tuple[str, ...]) -> str:
    width = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join("  ".join(cell.ljust(n) for cell, n in zip(cells, width, strict=True)).rstrip() for cells in lines)


def engines() -> tuple[str, ...]:
    if cuda_code.available():
        return ("triton", "cuda")
    print(f"The CUDA kernels are left out: there is no {cuda_code.NVCC} (CUDA_HOME).")
    return ("triton",)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="what the tests check: fp32 and bf16, the usual calls")
    parser.add_argument("--engine", choices=tuple(COMPILERS), help="one engine alone")
    parser.add_argument("--target", choices=TARGETS, help="one target alone")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every row there")
    arguments = parser.parse_args()
    available = tuple(engine for engine in engines() if arguments.engine in (None, engine))
    targets = (arguments.target,) if arguments.target else TARGETS
    rows = measure(list(cases(arguments.quick, available, targets)))
    if not rows:
        parser.error(f"nothing to compile; the CUDA kernels are for {', '.join(NVIDIA)}")
    print(table(COLUMNS, *map(line, rows)))
    others: list[beside.Read | family.Read] = []
    if "triton" in available:
        dtypes = ("fp32", "bf16") if arguments.quick else tuple(SIZES_OF)
        narrow = dtypes[:1] if arguments.quick else dtypes
        members = [kernel for target in targets for dtype in narrow for kernel in family.kernels(target, dtype)]
        found = [family.read(kernel) for kernel in tqdm(members, desc="other neurons", disable=None)]
        print("", table(FAMILY, *map(family_line, found)), sep="\n")
        asked = [call for target in targets for dtype in dtypes for call in beside.calls(target, dtype)]
        rest = [beside.read(call) for call in tqdm(asked, desc="kernels beside the scan", disable=None)]
        print("", table(BESIDE, *map(beside_line, rest)), sep="\n")
        others = [*found, *rest]
    if arguments.json:
        arguments.json.write_text(json.dumps([row.as_dict() for row in rows], indent=1))
    complaints, accepted = judge(rows, KNOWN)
    complaints += [miss for row in others for miss in row.over()]
    print("\nKnown to be over budget:", *(f"\n  {known}" for known in accepted))
    print("\nOver budget, or no longer as listed:" if complaints else "\nNothing else is over budget.")
    print(*(f"  {complaint}" for complaint in complaints), sep="\n")
    return 1 if complaints else 0


if __name__ == "__main__":
    sys.exit(main())
