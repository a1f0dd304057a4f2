"""What the allocator costs: the larger headline case with glibc's default, and with ``tune_allocator()``.

    python -m benchmarks.allocator [--engines ...] [--out CSV]

The setting holds for a process, so that each figure comes from one of its own.
"""

import argparse
import statistics
from itertools import product
from pathlib import Path

from tqdm import tqdm

import tgo_kernels as tgo
from benchmarks import record
from benchmarks.cases import selected
from benchmarks.peers import OURS, PEERS, step_of
from benchmarks.run import tensors, times_of

CASE = "headline/N4194304/T4/plain/fp32/training"
SETTINGS = ("default", "tuned")
ROUNDS = 9
COLUMNS = ("case", "engine", "setting", "p50_ms", *record.ORIGIN)


def median_ms(engine: str, setting: str) -> float:
    """In this process."""
    if setting == "tuned" and not tgo.tune_allocator():
        raise SystemExit("there is no glibc here to tune")
    (case,) = selected([CASE])
    step = step_of(PEERS[engine].make(), case, *tensors(case))
    return statistics.median(times_of({engine: step}, ROUNDS)[engine])


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--engines", nargs="+", choices=PEERS, default=[OURS, "torch.compile", "eager"])
    parser.add_argument("--out", type=Path, default=record.RESULTS / "allocator.csv", help="default: %(default)s")
    parser.add_argument("--here", choices=SETTINGS, help="the first engine with this setting, in this process")
    options = parser.parse_args()
    if options.here:
        print(f"{median_ms(options.engines[0], options.here):.2f}")
        return
    rows = []
    for engine, setting in tqdm(list(product(options.engines, SETTINGS)), desc="processes"):
        values = (CASE, engine, setting, record.ask("benchmarks.allocator", "--engines", engine, "--here", setting))
        rows.append(dict(zip(COLUMNS, values, strict=False)) | record.origin("see setting"))
        print(f"{engine:<14} {setting:<8} {rows[-1]['p50_ms']} ms")
    record.write(options.out, rows, COLUMNS)


if __name__ == "__main__":
    main()
