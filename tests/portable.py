"""The CPU kernels on another processor: the bits that are recorded, in a few hundred calls by chance.

    python tests/portable.py arm       cross-compiled for aarch64, and run under qemu-user
    python tests/portable.py record    writes the record, by this machine's compiler

The record is ``portable.txt``, made on x86-64. The calls are those of ``portable.cpp``: every neuron with noise, reset,
the penalty, surrogates, its states, membranes and gradients, and what there is beside the scan.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from tgo_kernels import compiler

ROOT = Path(__file__).parents[1]
RECORD = ROOT / "tests" / "portable.txt"
LANES = {  # compiler, further options, and what runs the result
    "arm": (["aarch64-linux-gnu-g++"], ["-static"], ["qemu-aarch64"]),
    "record": ([os.environ.get("CXX", "c++")], [], []),
}
PACKAGES = {"arm": "g++-aarch64-linux-gnu qemu-user"}


def lines_of(lane: str) -> list[str]:
    """What the lane computes, built in ``build/portable``."""
    found, options, runner = LANES[lane]
    for program in (*found, *runner):
        if shutil.which(program) is None:
            raise FileNotFoundError(f"{program} is missing; Debian has it: apt-get install {PACKAGES.get(lane, 'g++')}")
    folder = ROOT / "build" / "portable"
    folder.mkdir(parents=True, exist_ok=True)
    sources = [ROOT / "csrc" / "cpu" / "kernels_generic.cpp", ROOT / "tests" / "portable.cpp"]
    commands, objects = [], []
    for source in sources:
        made = folder / f"{lane}_{source.stem}.o"
        commands.append([*found, *compiler.FLAGS, "-DKERNELS=generic", "-c", str(source), "-o", str(made)])
        objects.append(str(made))
    running = [subprocess.Popen(command) for command in commands]
    if any(each.wait() for each in running):
        raise subprocess.SubprocessError(f"{lane}: the kernels do not compile")
    subprocess.run([*found, *objects, *options, "-o", str(folder / lane)], check=True)
    run = subprocess.run([*runner, str(folder / lane)], check=True, capture_output=True, text=True)
    return run.stdout.splitlines()


def differences(found: list[str], expected: list[str]) -> list[str]:
    if len(found) != len(expected):
        return [f"{len(found)} calls in the place of {len(expected)}"]
    return [f"{mine}, recorded {other}" for mine, other in zip(found, expected, strict=True) if mine != other]


def main() -> int:
    if sys.argv[1:] not in [[lane] for lane in LANES]:
        print(__doc__, file=sys.stderr)
        return 2
    (lane,) = sys.argv[1:]
    try:
        found = lines_of(lane)
    except (OSError, subprocess.SubprocessError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    if lane == "record":
        RECORD.write_text("\n".join([*found, ""]))
        return 0
    wrong = differences(found, RECORD.read_text().splitlines())
    print("\n".join([*wrong[:20], f"{lane}: {len(wrong)} of {len(found)} calls differ from the record"]))
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
