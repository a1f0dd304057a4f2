"""Builds the compiled engine under sanitizers, beside the usual build, and runs its tests: ``make sanitize``.

The kernels are those of the baseline alone: one text, whatever the instruction set, takes minutes to compile.

``address``: AddressSanitizer and UndefinedBehaviorSanitizer. ``thread``: ThreadSanitizer, on two threads.
"""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
FLAGS = {
    "address": "-fsanitize=address,undefined,float-cast-overflow -fno-sanitize-recover=all",
    "thread": "-fsanitize=thread -Wno-tsan",
}
RUNTIMES = {"address": ["libasan.so", "libubsan.so"], "thread": ["libtsan.so"]}
TESTED = "sanitize", "lif", "cuda_host", "packing", "pools", "encoding", "blocks", "recompute", "table"
TESTS = [f"test_{name}.py" for name in TESTED]
# Slower by the sanitizers, and by the loops over threads of the CUDA engine on the host.
EXAMPLES = {"NATIVE_EXAMPLES": "150", "CUDA_HOST_EXAMPLES": "150"}


def sanitize(name: str) -> int:
    build = ROOT / "build" / name
    flags = f"{FLAGS[name]} -O0 -g1 -DTGO_BASELINE"  # optimised, they take three times as long to compile
    environment = os.environ | {"CXXFLAGS": flags, "TGO_KERNELS_NATIVE": "1", "TGO_KERNELS_CUDA": "0"}
    command = [sys.executable, "setup.py", "--quiet", "build", "--force"]
    command += ["--build-base", str(build), "--build-lib", str(build / "lib")]
    subprocess.run(command, cwd=ROOT, env=environment, check=True)

    # The runtimes go before everything else that Python loads; the exceptions that they follow are libstdc++'s.
    preload = [gcc_library(library) for library in [*RUNTIMES[name], "libstdc++.so.6"]]
    if name == "thread":
        threads = build / "tsan_threads.so"
        source = ROOT / "tests" / "tsan_threads.cpp"
        subprocess.run(["g++", *flags.split(), "-shared", "-fPIC", source, "-o", threads], check=True)
        preload.append(str(threads))
    environment |= EXAMPLES | {
        "LD_PRELOAD": ":".join(preload),
        "TGO_SANITIZER": name,
        "ASAN_OPTIONS": "detect_leaks=0",  # Python's own
        "UBSAN_OPTIONS": "print_stacktrace=1",
        "TSAN_OPTIONS": "halt_on_error=1:ignore_noninstrumented_modules=1",
        "OMP_NUM_THREADS": "1",  # torch's threads are not instrumented
    }
    # The CUDA engine's code, of which UBSan makes minutes more for the compiler.
    environment["CXXFLAGS"] += " -fno-sanitize=undefined,float-cast-overflow" if name == "address" else ""
    # From there, `-m` finds this build of the package before any other.
    command = [sys.executable, "-m", "pytest", *(str(ROOT / "tests" / test) for test in TESTS)]
    # Gigabytes, at ten times their size, and what takes minutes then; what compilers make, and other processes, which
    # are not instrumented.
    left_out = "not 2_31 and not many_blocks and not thousands_of_steps"
    left_out += " and not compiled and not road and not processes and not instruction_sets"
    command += ["-k", left_out, *sys.argv[2:]]
    return subprocess.run(command, cwd=build / "lib", env=environment).returncode


def gcc_library(name: str) -> str:
    command = ["gcc", f"-print-file-name={name}"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


if __name__ == "__main__":
    sys.exit(sanitize(sys.argv[1]))
