"""``make bench``: what the fused layer costs beside itself and beside torch.compile, and whether within its goals.

    python -m benchmarks.goals [--rounds 15] [--grid] [--out CSV]

Noise, penalty, layouts, constants that learn, a second state and bf16 are set beside the plain neuron, and
torch.compile's loop beside the fused layer, also on a grid of T and N (``--grid``: a finer one, up to N = 2^26).
Training (forward and backward) in fp32 on two threads, unless a figure says otherwise. What is compared takes turns in
the same rounds; a figure is a ratio of medians. AVX2 is measured in a process of its own that is denied AVX-512. A
figure that misses its goal is no error: it is printed, and the exit status says only whether all engines were right.
"""

import argparse
import json
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from tqdm import tqdm

from benchmarks import costs, processor, record
from benchmarks.cases import BOTH, HEADLINES, PLAIN
from benchmarks.costs import BF16, CONTIGUOUS, COST, INFERENCE, LEARNED, OTHERS, TIME, TRAINING, TWO_STATES, Row
from benchmarks.peers import OURS, PEERS
from benchmarks.verify import gate
from tgo_kernels import native

AVX512, AVX2 = "AVX-512", "AVX2"  # as the compiled engine names its kernels


@dataclass(frozen=True)
class Goal:
    """What a figure of a contiguous x is to be, on kernels for these vectors. What is None may be any."""

    figure: str
    steps: int | None
    relation: str
    limit: float
    vectors: str | None = AVX512
    processor: str | None = None  # on this microarchitecture alone
    neurons: int | None = None
    threads: int | None = None

    def holds(self, value: float) -> bool:
        return value <= self.limit if self.relation == "<=" else value >= self.limit

    @property
    def wanted(self) -> Row:
        """What a row must say for this to be its goal, by column."""
        where = {"figure": self.figure, "T": self.steps, "N": self.neurons, "layout": CONTIGUOUS}
        how = {"vectors": self.vectors, "threads": self.threads, "processor": self.processor}
        return {name: value for name, value in (where | how).items() if value is not None}


BESIDE_PLAIN = {
    LEARNED["one for all"]: 1.3,
    LEARNED["one a channel"]: 1.3,
    LEARNED["one a neuron"]: 2.2,
    TWO_STATES: 1.6,
    BF16: 1.0,
}
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
    Goal(TRAINING, None, ">=", 1.0, None),
    Goal(TRAINING, 4, ">=", 1.15, None, neurons=4194304, threads=2),
    Goal(TRAINING, 16, ">=", 1.4, None, neurons=262144, threads=2),
    *(Goal(INFERENCE, steps, ">=", 1.15, None, neurons=neurons, threads=2) for steps, neurons in HEADLINES),
    *(Goal(name, None, "<=", limit, on) for name, limit in BESIDE_PLAIN.items() for on in (AVX512, AVX2)),
)
COLUMNS = (*costs.FIGURES, "goal", "result", *record.ORIGIN)


def denied_avx512(rounds: int) -> list[Row]:
    answer = record.ask("benchmarks.goals", "--json", "--rounds", str(rounds), ATEN_CPU_CAPABILITY="avx2")
    rows: list[Row] = json.loads(answer)
    return rows


def judged(rows: list[Row], microarchitecture: str) -> list[Row]:
    """Each with its goal and whether it holds, where it has one; where several fit, the one that says most."""
    found = []
    for row in rows:
        known = (row | {"processor": microarchitecture}).items()
        fitting = [goal for goal in GOALS if goal.wanted.items() <= known]
        if fitting:
            goal = max(fitting, key=lambda goal: len(goal.wanted))
            result = "holds" if goal.holds(float(str(row["value"]))) else "misses"
            row = row | {"goal": f"{goal.relation} {goal.limit:g}", "result": result}
        found.append(row)
    return found


def line(row: Row) -> str:
    what = f"{row['figure']:<40} T={row['T']:<3} N={row['N']:<8} {row['layout']:<16} {row['vectors']:<8}"
    goal = f"goal {row['goal']:<7} {row['result']}" if "goal" in row else "no goal"
    times = f"{row['ms']} / {row['of_ms']} ms" if row["of_ms"] else f"{row['ms']} ms"
    threads = "" if row["threads"] == costs.THREADS else f", threads: {row['threads']}"
    return f"{what} {row['value']:>7}  {goal:<20} ({times}{threads})"


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--out", type=Path, default=record.RESULTS / "goals.csv", help="default: %(default)s")
    parser.add_argument("--json", action="store_true", help="the fused layer alone, printed as JSON")
    parser.add_argument("--grid", action="store_true", help="torch.compile's loop at N = 2^10 to 2^26, T N up to 2^27")
    options = parser.parse_args(arguments)
    if options.rounds < 1:
        parser.error("--rounds must be at least 1")
    if reason := native.serves(torch.device("cpu")):
        raise SystemExit(f"the goals are those of the compiled engine: {reason}")
    torch.set_num_threads(costs.THREADS)
    about, vectors = record.origin(record.tune()), costs.kernels()
    others = [] if options.json else [*OTHERS]
    peers, reasons = gate([replace(PEERS[name], extras=(PLAIN, BOTH)) for name in (OURS, *others)])
    if OURS in reasons:
        raise SystemExit(f"{OURS}: {reasons[OURS]}")
    for name, reason in reasons.items():
        print(f"{name}: {reason}")
    stages = costs.beside_itself(options.rounds)
    if not options.json:
        stages += costs.beside_others(peers, options.rounds, options.grid)
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
        print(f"there are no goals for {vectors} kernels, only for {AVX512} and {AVX2},")
        print("except for those beside torch.compile's plain loop")
    print(f"written to {options.out}")
    return any(reason.startswith("RED") for reason in reasons.values())


if __name__ == "__main__":
    sys.exit(main())
