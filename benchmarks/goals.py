"""``make bench``: what noise, penalty and layouts cost the fused layer, and whether that is within its goals.

    python -m benchmarks.goals [--rounds 15] [--out CSV]

Training (forward and backward) in fp32 on two threads, for which the goals were set. What is compared takes turns in
the same rounds; a figure is a ratio of medians. AVX2 is measured in a process of its own that is denied AVX-512. A
figure that misses its goal is no error: it is printed, and the exit status says only whether all engines were right.
"""

import argparse
import json
import statistics
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from benchmarks import processor, record
from benchmarks.cases import BOTH, PLAIN, Case
from benchmarks.peers import OURS, PEERS, Peer, fused, step_of
from benchmarks.run import tensors, times_of
from benchmarks.verify import gate
from tgo_kernels import native

COST, TIME = "noise + penalty / plain", "noise + penalty, ns per neuron-step"
OTHERS = {name: f"noise + penalty, {name} / fused" for name in ("torch.compile", "eager")}
AVX512, AVX2 = "AVX-512", "AVX2"  # as the compiled engine names its kernels
CONTIGUOUS = "contiguous"
Shape = tuple[int, ...]  # T, batch, channels, height, width
Row = dict[str, object]


@dataclass(frozen=True)
class Goal:
    """What a figure of a contiguous x is to be, on kernels for these vectors."""

    figure: str
    steps: int
    relation: str
    limit: float
    vectors: str = AVX512
    processor: str = ""  # on this microarchitecture alone

    def holds(self, value: float) -> bool:
        return value <= self.limit if self.relation == "<=" else value >= self.limit


GOALS = (
    Goal(COST, 4, "<=", 1.5),
    Goal(COST, 16, "<=", 1.9),
    Goal(COST, 4, "<=", 1.9, AVX2),
    Goal(COST, 16, "<=", 2.1, AVX2),
    Goal(OTHERS["torch.compile"], 4, ">=", 18),
    Goal(OTHERS["torch.compile"], 16, ">=", 18),
    Goal(OTHERS["eager"], 4, ">=", 9),
    Goal(OTHERS["eager"], 16, ">=", 9),
    Goal(TIME, 4, "<=", 0.9, processor="Zen 4"),
)
THREADS = 2
OTHER_ROUNDS = 5  # of engines that take twenty times as long
AXES = "TBCHW"
LAYOUTS = {CONTIGUOUS: AXES, "channels-last": "TBHWC", "batch first": "BTCHW", "H and W swapped": "TBCWH"}  # in memory
SHAPES: dict[Shape, tuple[str, ...]] = {(4, 16, 64, 64, 64): tuple(LAYOUTS), (16, 1, 64, 64, 64): (CONTIGUOUS,)}
FIGURES = ("figure", "layout", "T", "N", "vectors", "threads", "ms", "of_ms", "value")
COLUMNS = (*FIGURES, "goal", "result", *record.ORIGIN)


def case_of(shape: Shape) -> Case:
    return Case("goals", "x", shape[0], shape[1:], BOTH)


def laid(x: Tensor, order: str) -> Tensor:
    """A tensor of x's shape in x's memory, in which the axes lie in this order."""
    return x.view([x.shape[AXES.index(axis)] for axis in order]).permute([order.index(axis) for axis in AXES])


def kernels() -> str:
    """For which vectors those are that this process takes."""
    return str(torch.ops.tgo_kernels.cpu_kernels())


def row_of(figure: str, layout: str, shape: Shape, ms: float, of_ms: float | None) -> Row:
    """A figure: the ratio of two medians, or the time of a neuron-step."""
    case = case_of(shape)
    value = ms / of_ms if of_ms else 1e6 * ms / case.size
    times = (f"{ms:.3f}", f"{of_ms:.3f}" if of_ms else "", f"{value:.3f}")
    values = (figure, layout, case.steps, case.neurons, kernels(), torch.get_num_threads(), *times)
    return dict(zip(FIGURES, values, strict=True))


def medians(calls: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    return {name: statistics.median(times) for name, times in times_of(calls, rounds).items()}


def costs(shape: Shape, rounds: int) -> list[Row]:
    """Noise and penalty beside the plain neuron, in each layout of x."""
    case = case_of(shape)
    x, grad = tensors(case)
    calls: dict[str, Callable[[], object]] = {}
    for layout in SHAPES[shape]:
        leaf, upstream = (laid(tensor.detach(), LAYOUTS[layout]) for tensor in (x, grad))
        leaf.requires_grad_()
        for extras in (PLAIN, BOTH):
            calls[f"{layout}, {extras.name}"] = step_of(fused, replace(case, extras=extras), leaf, upstream)
    found = medians(calls, rounds)
    pairs = {layout: [found[f"{layout}, {extras.name}"] for extras in (BOTH, PLAIN)] for layout in SHAPES[shape]}
    rows = [row_of(COST, layout, shape, *pair) for layout, pair in pairs.items()]
    return [*rows, row_of(TIME, CONTIGUOUS, shape, pairs[CONTIGUOUS][0], None)]


def ratios(shape: Shape, peers: list[Peer], rounds: int) -> list[Row]:
    """Other engines with noise and penalty beside the fused layer with both."""
    x, grad = tensors(case_of(shape))
    calls: dict[str, Callable[[], object]] = {
        peer.name: step_of(peer.make(), case_of(shape), x, grad) for peer in peers
    }
    found = medians(calls, rounds)
    return [row_of(OTHERS[name], CONTIGUOUS, shape, ms, found[OURS]) for name, ms in found.items() if name in OTHERS]


def denied_avx512(rounds: int) -> list[Row]:
    answer = record.ask("benchmarks.goals", "--json", "--rounds", str(rounds), ATEN_CPU_CAPABILITY="avx2")
    rows: list[Row] = json.loads(answer)
    return rows


def judged(rows: list[Row], microarchitecture: str) -> list[Row]:
    """Each with its goal and whether it holds, where it has one."""
    found = []
    for row in rows:
        for goal in GOALS:
            named = (goal.figure, goal.steps, CONTIGUOUS, goal.vectors)
            here = goal.processor in ("", microarchitecture)
            if here and named == tuple(row[name] for name in ("figure", "T", "layout", "vectors")):
                result = "holds" if goal.holds(float(str(row["value"]))) else "misses"
                row = row | {"goal": f"{goal.relation} {goal.limit:g}", "result": result}
        found.append(row)
    return found


def line(row: Row) -> str:
    what = f"{row['figure']:<40} T={row['T']:<3} N={row['N']:<8} {row['layout']:<16} {row['vectors']:<8}"
    goal = f"goal {row['goal']:<7} {row['result']}" if "goal" in row else "no goal"
    times = f"{row['ms']} / {row['of_ms']} ms" if row["of_ms"] else f"{row['ms']} ms"
    return f"{what} {row['value']:>7}  {goal:<20} ({times})"


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--out", type=Path, default=record.RESULTS / "goals.csv", help="default: %(default)s")
    parser.add_argument("--json", action="store_true", help="the fused layer alone, printed as JSON")
    options = parser.parse_args(arguments)
    if options.rounds < 1:
        parser.error("--rounds must be at least 1")
    if reason := native.serves(torch.device("cpu")):
        raise SystemExit(f"the goals are those of the compiled engine: {reason}")
    torch.set_num_threads(THREADS)
    about, vectors = record.origin(record.tune()), kernels()
    measured = [replace(PEERS[OURS], extras=(PLAIN, BOTH))]
    if not options.json:
        measured += [replace(PEERS[name], extras=(BOTH,)) for name in OTHERS]
    peers, reasons = gate(measured)
    if OURS in reasons:
        raise SystemExit(f"{OURS}: {reasons[OURS]}")
    for name, reason in reasons.items():
        print(f"{name}: {reason}")
    stages: list[Callable[[], list[Row]]] = [partial(costs, shape, options.rounds) for shape in SHAPES]
    if not options.json:
        stages += [partial(ratios, shape, peers, min(options.rounds, OTHER_ROUNDS)) for shape in SHAPES]
    rows: list[Row] = []
    for stage in tqdm(stages, desc=f"goals, {vectors}"):
        record.release()
        rows += [row | about for row in stage()]
    if options.json:
        print(json.dumps(rows, default=str))
        return 0
    if vectors == AVX512:
        rows += denied_avx512(options.rounds)
    rows = judged(rows, processor.microarchitecture(processor.text_of(processor.CPUINFO)))
    record.write(options.out, rows, COLUMNS)
    print(*map(line, rows), about["machine"], sep="\n")
    if vectors not in (AVX512, AVX2):
        print(f"there are no goals for {vectors} kernels, only for {AVX512} and {AVX2}")
    print(f"written to {options.out}")
    return any(reason.startswith("RED") for reason in reasons.values())


if __name__ == "__main__":
    sys.exit(main())
