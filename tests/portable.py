"""The CPU kernels by other compilers and on other processors: the recorded bits, in some hundred calls by chance.

    python tests/portable.py arm       cross-compiled for aarch64, and run under qemu-user
    python tests/portable.py clang     by clang, for each instruction set; those that this machine has are run
    python tests/portable.py record    writes the record, by this machine's compiler

The record is ``portable.txt``, made on x86-64. The calls are those of ``portable.cpp``: every neuron with noise, reset,
the penalty, surrogates, its states, membranes and gradients, and what there is beside the scan. What Arm gets is read,
too: its loops hold vectors of four floats, and call nothing. With ``--planted`` products and sums are contracted, as
compilers like to, and the lane must fail.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from tgo_kernels import compiler

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "build" / "portable"
RECORD = ROOT / "tests" / "portable.txt"
PLANTED = "-ffp-contract=fast"
NEEDED = {"generic": set(), "avx2": {"avx2", "fma", "bmi2"}, "avx512": {"avx512f", "avx512bw", "avx512dq", "avx512vl"}}
LOOPS = {"forward": r"\bforward<", "backward": r"\bbackward<", "noise": r"\(anonymous namespace\)::noise\("}


@dataclass(frozen=True)
class Lane:
    compiler: str
    packages: str  # of Debian
    options: tuple[str, ...] = ()
    runner: tuple[str, ...] = ()
    sets: tuple[str, ...] = ("generic",)
    objdump: str = ""


LANES = {
    "arm": Lane(
        "aarch64-linux-gnu-g++",
        "g++-aarch64-linux-gnu qemu-user",
        ("-static",),
        ("qemu-aarch64",),
        objdump="aarch64-linux-gnu-objdump",
    ),
    "clang": Lane("clang++", "clang", sets=("generic", "avx2", "avx512")),
    "record": Lane(os.environ.get("CXX", "c++"), "g++"),
}


class Failed(Exception):
    """What a lane found."""


def build(name: str, lane: Lane, more: tuple[str, ...] = ()) -> dict[str, Path]:
    """A program for each instruction set. Raises Failed."""
    for program in (lane.compiler, *lane.runner, *filter(None, [lane.objdump])):
        if shutil.which(program) is None:
            raise Failed(f"{program} is missing; Debian has it: apt-get install {lane.packages}")
    FOLDER.mkdir(parents=True, exist_ok=True)

    def compiled(task: tuple[str, Path]) -> Path:
        isa, source = task
        made = FOLDER / f"{name}_{isa}_{source.stem}.o"
        run(lane.compiler, *compiler.FLAGS, *more, f"-DKERNELS={isa}", "-c", str(source), "-o", str(made))
        return made

    tasks = [(isa, ROOT / "csrc" / "cpu" / f"kernels_{isa}.cpp") for isa in lane.sets]
    tasks += [(isa, ROOT / "tests" / "portable.cpp") for isa in lane.sets]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        objects = list(pool.map(compiled, tasks))
    programs = {isa: FOLDER / f"{name}_{isa}" for isa in lane.sets}
    for i, program in enumerate(programs.values()):
        run(lane.compiler, *map(str, objects[i :: len(programs)]), *lane.options, "-o", str(program))
    return programs


def run(*command: str) -> str:
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    if ran.returncode:
        raise Failed(f"{' '.join(command)}: {(ran.stderr or ran.stdout).strip()[-2000:] or ran.returncode}")
    return ran.stdout


def differences(found: list[str], expected: list[str]) -> list[str]:
    if len(found) != len(expected):
        return [f"{len(found)} calls in the place of {len(expected)}"]
    return [f"{mine}, recorded {other}" for mine, other in zip(found, expected, strict=True) if mine != other]


def runs_here(isa: str) -> bool:
    flags = re.search(r"^flags\s*:(.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    return set(flags[1].split() if flags else ()) >= NEEDED[isa]


@dataclass
class Counted:
    """What a function's loop has: arithmetic on four floats, on a single one (a constant that is spread), and calls."""

    function: str
    vectors: int = 0
    singles: int = 0
    calls: int = 0

    def good(self) -> bool:
        return self.vectors > 10 * self.singles and not self.calls


def counted(listing: str) -> Iterator[Counted]:
    """The loops of kernels for aarch64: in each function the shortest way back that half of its vectors lie on, since
    there may be two, for rows that are written past the caches and for others."""
    instruction = re.compile(r"^ *([0-9a-f]+):\t(\S+)\t?(.*)$", re.MULTILINE)
    arithmetic = re.compile(r"f(?:add|sub|mul|div|sqrt|abs|neg|cm..|max\w*|min\w*|ml[as])$")
    jump, to = re.compile(r"(b|b\..*|cbn?z|tbn?z)$"), re.compile(r"\b([0-9a-f]+) <")
    for text in listing.split("\n\n"):
        head = re.match(r"[0-9a-f]+ <(.+)>:\n", text)
        if head is None or not any(re.search(loop, head[1]) for loop in LOOPS.values()):
            continue
        code = [(int(at, 16), name, operands) for at, name, operands in instruction.findall(text)]

        def inside(first: int, last: int, code: list = code, name: str = head[1]) -> Counted:
            lines = [(what, operands) for at, what, operands in code if first <= at <= last]
            on = [operands for what, operands in lines if arithmetic.match(what)]
            vectors, singles = sum(".4s" in each for each in on), sum(each.startswith("s") for each in on)
            return Counted(name, vectors, singles, sum(what == "bl" for what, _ in lines))

        leads = [(to.search(operands), at) for at, name, operands in code if jump.match(name)]
        back = sorted((at - int(found[1], 16), int(found[1], 16), at) for found, at in leads if found)
        half = inside(0, code[-1][0]).vectors / 2
        loops = (inside(first, at) for size, first, at in back if size >= 0)
        yield from [loop for loop in loops if half and loop.vectors >= half][:1]


def check_vectors(objdump: str, object_file: Path) -> str:
    """Says what is in the loops, or raises Failed."""
    found = list(counted(run(objdump, "-drC", "--no-show-raw-insn", str(object_file))))
    missing = [name for name, loop in LOOPS.items() if not any(re.search(loop, each.function) for each in found)]
    wrong = [each for each in found if not each.good()]
    if missing or wrong:
        raise Failed("\n".join([f"no {name} is there" for name in missing] + [str(each) for each in wrong]))
    vectors, singles = sum(each.vectors for each in found), sum(each.singles for each in found)
    return f"the loops of {len(found)} kernels: {vectors} instructions on four floats, {singles} on one, no calls"


def check(name: str, lane: Lane, more: tuple[str, ...]) -> None:
    """Raises Failed."""
    programs, wrong = build(name, lane, more), []
    if lane.objdump:
        print(f"{name}: {check_vectors(lane.objdump, FOLDER / f'{name}_generic_kernels_generic.o')}")
    for isa, program in programs.items():
        if not lane.runner and not runs_here(isa):
            print(f"{name}, {isa}: compiled, and not run: this machine has none")
            continue
        found = run(*lane.runner, str(program)).splitlines()
        different = differences(found, RECORD.read_text().splitlines())
        wrong += different[:20]
        print(f"{name}, {isa}: {len(different)} of {len(found)} calls differ from the record")
    if wrong:
        raise Failed("\n".join(wrong))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("lane", choices=LANES)
    parser.add_argument("--planted", action="store_true", help=f"with {PLANTED}: must fail")
    options = parser.parse_args()
    lane, more = LANES[options.lane], (PLANTED,) if options.planted else ()
    try:
        if options.lane == "record":
            RECORD.write_text(run(str(build("record", lane)["generic"])))
        else:
            check(options.lane, lane, more)
    except (OSError, Failed) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
