"""``make bench`` and ``make bench-peers``: the fused layer beside other engines, in one run.

    python -m benchmarks.run [PATTERN ...] [--engines tgo_kernels eager ...] [--rounds 15] [--threads 2] [--out CSV]

The gate comes first (benchmarks.verify): an engine that is red has no figures. Variants of a case are interleaved, and
so is torch.clone of x, the ceiling. One allocator setting for all. GB/s are the bytes that the fused layer moves, for
all alike.
"""

import argparse
import json
import resource
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from benchmarks import record
from benchmarks.cases import DTYPES, Case, selected
from benchmarks.peers import OURS, PEERS, Peer, Run, step_of
from benchmarks.verify import gate

DEFAULT = ("headline/*/plain/fp32/*", "headline/*/both/fp32/*", "headline/*/plain/bf16/training", "call/*", "T/*")
CLONE = "torch.clone"
WARM_UP, WARM_UP_LIMIT = 3, 20  # rounds before those that count: so many in a row in which the heap does not grow
SETTLED = 256  # page faults of a round, if it does not
PROBED = "headline/N4194304"  # alone, since the first call of torch.compile takes long
LIMIT_S = 30.0  # a case ends after this, with at least three rounds, and so does its warming up
SAMPLE_MS = 10.0  # a shorter call is repeated until it takes this long, so that it is not half cold


def tensors(case: Case) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    x, grad = (torch.randn(case.steps, *case.shape, generator=generator).to(DTYPES[case.dtype]) for _ in range(2))
    return x.requires_grad_(case.training), grad


def milliseconds(call: Callable[[], object], count: int = 1, clock: Callable[[], float] = time.perf_counter) -> float:
    start = clock()
    for _ in range(count):
        call()
    return (clock() - start) * 1e3 / count


def held(run: Run, case: Case, x: Tensor) -> int:
    """Bytes that autograd keeps between forward and backward: each storage once."""
    storages: dict[int, int] = {}
    kept = []

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        storages[storage.data_ptr()] = storage.nbytes()
        kept.append(storage)  # so that no address is used twice
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        run(x, case.extras)
    return sum(storages.values())


def probe(case: str, peer: Peer, threads: int) -> dict[str, str]:
    """First call and peak memory, in a process of its own with the platform's default allocator."""
    anew = {"TORCHINDUCTOR_FORCE_DISABLE_CACHES": "1"}  # what was compiled before is compiled again
    return json.loads(record.ask("benchmarks.probe", case, peer.name, str(threads), **anew))


def times_of(
    calls: dict[Any, Callable[[], object]], rounds: int, clock: Callable[[], float] = time.perf_counter
) -> dict[Any, list[float]]:
    """Milliseconds of each, in rounds that go through all of them, once the heap has grown to what they need."""
    times: dict[Any, list[float]] = {name: [] for name in calls}
    counts = dict.fromkeys(calls, 1)
    settled, start = 0, time.perf_counter()
    for turn in range(WARM_UP_LIMIT):
        before = page_faults()
        for name, call in calls.items():
            counts[name] = max(1, int(SAMPLE_MS / milliseconds(call, counts[name], clock)))
        settled = settled + 1 if page_faults() - before < SETTLED else 0
        if settled == WARM_UP or (turn >= WARM_UP and time.perf_counter() - start > LIMIT_S):
            break
    start = time.perf_counter()
    for turn in range(rounds):
        for name, call in calls.items():
            times[name].append(milliseconds(call, counts[name], clock))
        if turn >= 2 and time.perf_counter() - start > LIMIT_S:
            break
    return times


def page_faults() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt


def percentiles(values: list[float]) -> list[float]:
    """p20, p50 and p80."""
    return statistics.quantiles(values, n=10, method="inclusive")[1:8:3]


def figures(case: Case, values: list[float], ceiling: float, bytes_per_step: int) -> dict[str, object]:
    p20, p50, p80 = percentiles(values)
    rate = bytes_per_step * case.size / p50 / 1e6
    return {
        "p20_ms": f"{p20:.4f}",
        "p50_ms": f"{p50:.4f}",
        "p80_ms": f"{p80:.4f}",
        "GB/s": f"{rate:.2f}",
        "of_clone": f"{rate / ceiling:.3f}",
    }


def measure(case: Case, peers: list[Peer], rounds: int, threads: int) -> list[dict[str, object]]:
    torch.set_num_threads(threads)
    record.release()  # no case inherits the heap of the one before
    x, grad = tensors(case)
    runs = {peer.name: peer.make() for peer in peers if peer.serves(case)}
    calls: dict[str, Callable[[], object]] = {CLONE: x.detach().clone}
    times = times_of(calls | {name: step_of(run, case, x, grad) for name, run in runs.items()}, rounds)
    item = DTYPES[case.dtype].itemsize
    ceiling = 2 * item * case.size / statistics.median(times[CLONE]) / 1e6
    rows = []
    for name, values in times.items():
        mode = "training" if case.training else "inference"
        what = (case.name, case.network, case.layer, case.steps, case.neurons, case.extras.name, case.dtype, mode)
        peer = PEERS.get(name)
        about = (name, peer.version if peer else torch.__version__, peer.difference(case) if peer else "", threads)
        row = dict(zip(record.MEASURED, (*what, *about), strict=True))
        row |= figures(case, values, ceiling, case.bytes_per_step if peer else 2 * item)
        if peer and case.training:
            row["held_B_per_step"] = f"{held(runs[name], case, x) / case.size:.3f}"
        if peer and case.training and case.dtype == "fp32" and case.name.startswith(PROBED):
            row |= probe(case.name, peer, threads)
        rows.append(row)
    return rows


def summary(rows: list[dict[str, object]]) -> str:
    """Milliseconds, and how often the fused layer's time, by case."""
    lines = []
    for case in dict.fromkeys(row["case"] for row in rows):
        mine = [row for row in rows if row["case"] == case]
        for threads in dict.fromkeys(row["threads"] for row in mine):
            at = {str(row["engine"]): float(str(row["p50_ms"])) for row in mine if row["threads"] == threads}
            cells = [
                f"{name} {ms:.4g} ms" + (f" ({ms / at[OURS]:.2f}x)" if OURS in at else "") for name, ms in at.items()
            ]
            lines.append(f"{case}, {threads} threads: " + ", ".join(cells))
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("patterns", nargs="*", default=DEFAULT, metavar="PATTERN", help="names of cases, with * and ?")
    parser.add_argument("--engines", nargs="+", choices=PEERS, default=[OURS, "torch.compile", "eager"])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, nargs="+", default=[torch.get_num_threads()])
    parser.add_argument("--out", type=Path, default=record.RESULTS / "bench.csv", help="default: %(default)s")
    options = parser.parse_args(arguments)
    if options.rounds < 3:
        parser.error("--rounds must be at least 3: percentiles are reported")
    about = record.origin(record.tune())
    peers, reasons = gate([PEERS[name] for name in options.engines])
    for name, reason in reasons.items():
        print(f"{name}: {reason}")
    chosen = selected(list(options.patterns))
    rows: list[dict[str, object]] = []
    for case in tqdm(chosen, desc="cases"):
        for threads in options.threads:
            rows += [row | about for row in measure(case, peers, options.rounds, threads)]
            record.write(options.out, rows)
    print(summary(rows), f"\nwritten to {options.out}")
    return any(reason.startswith("RED") for reason in reasons.values())


if __name__ == "__main__":
    sys.exit(main())
