"""``make family``: every neuron beside plain LIF and beside its own loop in torch, and the guide's table of them.

    python -m benchmarks.family [--rounds 15] [--threads 2] [--small] [--out CSV]

Training (forward and backward) in fp32, constants that are numbers; an oscillation has a value of each step, and is
made anew in each call. What is compared takes turns in the same rounds; a figure is a ratio of medians. ``long``: the
time of a neuron-step at T = 1000 beside that at T = 8, at as many neuron-steps. The rest of the table is read from the
neurons.
"""

import argparse
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

import tgo_kernels as tgo
from benchmarks import costs, record
from benchmarks.cases import HEADLINES
from benchmarks.learned import step_of
from tgo_kernels import neurons

SHAPES, SMALL = HEADLINES, ((4, 4096), (16, 1024))
LONG, SHORT = 1000, 8
FIGURES = {"plain": "time / LIF", "eager": "torch / it", "long": "T=1000 / T=8"}
COLUMNS = ("neuron", "figure", "T", "N", "threads", "ms", "of_ms", "value", *record.ORIGIN)
PAGE = record.RESULTS.parents[1] / "docs" / "neurons.md"
BETWEEN = re.compile(r"(?<=<!-- make family -->\n).*?(?=<!-- -->)", re.DOTALL)
Call = Callable[[], object]


def step(kind: type[neurons.Neuron], steps: int, size: int, impl: str = "auto") -> Call:
    neuron, generator = kind(), torch.Generator().manual_seed(0)
    streams = [torch.randn(steps, size, generator=generator) for _ in kind.INPUTS]
    if "divided" in kind.INPUTS:
        streams[-1].abs_().add_(1.0)
    grad = torch.randn(steps, size, generator=generator)

    def run(_: Tensor) -> Tensor:
        return tgo.scan(neuron, streams, impl=impl).spikes

    return step_of(run, [each.requires_grad_() for each in streams], grad)


def row(kind: type[neurons.Neuron], figure: str, steps: int, size: int, ms: float, of_ms: float) -> dict[str, object]:
    value = of_ms / ms if figure == "eager" else ms / of_ms
    values = (kind.__name__, figure, steps, size, torch.get_num_threads(), f"{ms:.3f}", f"{of_ms:.3f}", f"{value:.2f}")
    return dict(zip(COLUMNS, values, strict=False))


def beside_plain(steps: int, size: int, rounds: int) -> list[dict[str, object]]:
    """All in turn, so that a slow moment of the machine is no neuron's alone."""
    found = costs.medians({kind.__name__: step(kind, steps, size) for kind in neurons.HOUSE}, rounds)
    return [row(kind, "plain", steps, size, found[kind.__name__], found["LIF"]) for kind in neurons.HOUSE[1:]]


def beside_eager(steps: int, size: int, rounds: int) -> list[dict[str, object]]:
    rows = []
    for kind in neurons.HOUSE:
        calls = {impl: step(kind, steps, size, impl) for impl in ("auto", "reference")}
        found = costs.medians(calls, min(rounds, costs.OTHER_ROUNDS))
        rows.append(row(kind, "eager", steps, size, found["auto"], found["reference"]))
    return rows


def long_beside_short(size: int, rounds: int) -> list[dict[str, object]]:
    rows = []
    for kind in neurons.HOUSE:
        calls = {str(steps): step(kind, steps, size * LONG // steps) for steps in (LONG, SHORT)}
        found = costs.medians(calls, rounds)
        rows.append(row(kind, "long", LONG, size, found[str(LONG)], found[str(SHORT)]))
    return rows


def table(rows: list[dict[str, str]]) -> str:
    """Of the registry, with what was measured of each."""
    figures = {(r["neuron"], r["figure"], r["T"]): r["value"] for r in rows}
    columns = [("plain", steps) for steps in sorted({r["T"] for r in rows if r["figure"] == "plain"}, key=int)]
    columns += [(r, steps) for r, steps in dict.fromkeys((r["figure"], r["T"]) for r in rows) if r != "plain"]
    heads = [FIGURES[figure] + (f", T={steps}" if figure != "long" else "") for figure, steps in columns]
    lines = ["| neuron | states | may learn | source | " + " | ".join(heads) + " |"]
    lines.append("|---" * (4 + len(heads)) + "|")
    for kind in neurons.HOUSE:
        measured = [figures.get((kind.__name__, *column), "1" if kind is neurons.LIF else "") for column in columns]
        about = f"`{kind.__name__}`", ", ".join(kind.STATES), ", ".join(kind.OWN), kind.SOURCE
        lines.append("| " + " | ".join([*about, *measured]) + " |")
    return "\n".join(lines) + "\n"


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--small", action="store_true", help="a few thousand neurons: what it says is not kept")
    parser.add_argument("--out", type=Path, default=record.RESULTS / "family.csv", help="default: %(default)s")
    options = parser.parse_args(arguments)
    if options.rounds < 1:
        parser.error("--rounds must be at least 1")
    torch.set_num_threads(options.threads)
    about, shapes = record.origin(record.tune()), SMALL if options.small else SHAPES
    stages = [partial(beside_plain, *shape, options.rounds) for shape in shapes]
    stages += [partial(beside_eager, *shapes[-1], options.rounds)]
    stages += [partial(long_beside_short, shapes[-1][1] // 64, options.rounds)]
    rows: list[dict[str, object]] = []
    for stage in tqdm(stages, desc="family"):
        record.release()
        rows += [each | about for each in stage()]
        record.write(options.out, rows, COLUMNS)
    text = table(record.read(options.out))
    print(text)
    if not options.small:
        PAGE.write_text(BETWEEN.sub(lambda _: text, PAGE.read_text()))


if __name__ == "__main__":
    main()
