"""``make gpu``: both GPU engines against the bandwidth of the device and the same neuron composed in torch.

    python -m benchmarks.gpu [--repeats 30] [--out runs/gpu]

Forward and backward with a dense gradient, timed by CUDA events, variants interleaved, medians reported. The ceiling is
torch.clone of x in the same rounds. Writes results.csv and summary.md.
"""

import argparse
import csv
import datetime
import statistics
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from tqdm import tqdm

import tgo_kernels as tgo
from benchmarks.cases import BOTH, PLAIN
from benchmarks.peers import composed, forward_backward, fused

SHAPES = ((4, 4194304), (4, 4194301), (16, 1048576))
DTYPES = (torch.float32, torch.bfloat16)
BYTES_PER_STEP = {torch.float32: 20, torch.bfloat16: 10}  # forward and backward
WARM_UP = 5


def milliseconds(call: Callable[[], object]) -> float:
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    start.record()
    call()
    end.record()
    torch.cuda.synchronize()
    return start.elapsed_time(end)


def measure(steps: int, neurons: int, dtype: torch.dtype, repeats: int, bar: tqdm) -> dict[tuple[str, str], float]:
    """Median milliseconds by (engine, what), and of the copy."""
    torch.compiler.reset()  # or else the cases together pass torch's limit of recompilations
    generator = torch.Generator("cuda").manual_seed(0)
    x, grad = torch.randn(2, steps, neurons, device="cuda", generator=generator).to(dtype).unbind(0)
    x = x.clone().requires_grad_()
    engines = [engine for engine in tgo.available_impls("cuda") if engine != "reference"]
    runs: dict[str, Callable] = {engine: partial(fused, impl=engine) for engine in engines}
    runs |= {"torch.compile": torch.compile(composed, fullgraph=True), "eager": composed}
    variants = {
        (engine, what): partial(forward_backward, run, extras, x, grad)
        for what, extras in (("plain", PLAIN), ("noise+penalty", BOTH))
        for engine, run in runs.items()
    }
    times: dict[tuple[str, str], list[float]] = {}
    for repeat in range(-WARM_UP, repeats):
        for key, call in {("clone", "copy"): x.detach().clone, **variants}.items():
            value = milliseconds(call)
            if repeat >= 0:
                times.setdefault(key, []).append(value)
        bar.update()
    return {key: statistics.median(values) for key, values in times.items()}


def rows(steps: int, neurons: int, dtype: torch.dtype, found: dict[tuple[str, str], float]) -> list[dict[str, object]]:
    size = steps * neurons
    ceiling = 2 * dtype.itemsize * size / found["clone", "copy"] / 1e6
    result = []
    for (engine, what), ms in found.items():
        row = {"T": steps, "N": neurons, "dtype": str(dtype).removeprefix("torch."), "engine": engine, "what": what}
        gigabytes = ceiling if engine == "clone" else BYTES_PER_STEP[dtype] * size / ms / 1e6
        result.append(
            row | {"ms": round(ms, 4), "GB/s": round(gigabytes, 1), "of clone": round(gigabytes / ceiling, 3)}
        )
    return result


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=30)
    parser.add_argument("--out", type=Path, default=Path("runs/gpu"), help="default: %(default)s")
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        print("no GPU is here: nothing was measured")
        return 0
    table: list[dict[str, object]] = []
    cases = [(*shape, dtype) for shape in SHAPES for dtype in DTYPES]
    with tqdm(total=len(cases) * (arguments.repeats + WARM_UP), desc="rounds") as bar:
        for case in cases:
            table += rows(*case, measure(*case, arguments.repeats, bar))
    git = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    about = [
        f"{torch.cuda.get_device_name()}, torch {torch.__version__}, CUDA {torch.version.cuda}, tgo_kernels "
        f"{tgo.__version__} at {git.stdout.strip() or 'no commit'}, {datetime.date.today()}, torch's own allocator.",
        "Forward and backward, dense gradient; GB/s on the bytes that the fused layer moves, for all engines alike.",
    ]
    arguments.out.mkdir(parents=True, exist_ok=True)
    with (arguments.out / "results.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, table[0])
        writer.writeheader()
        writer.writerows(table)
    lines = ["| " + " | ".join(table[0]) + " |", "|" + " --- |" * len(table[0])]
    lines += ["| " + " | ".join(map(str, row.values())) + " |" for row in table]
    (arguments.out / "summary.md").write_text("\n".join(["# On a GPU", "", *about, "", *lines, ""]))
    print("\n".join(["", *about, "", *lines, "", f"written to {arguments.out}: results.csv, summary.md"]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
