"""The pictures of the guide, drawn from the CSV of a run.

python -m benchmarks.plot bench|peers [--results benchmarks/results] [--figures figures]
"""

import argparse
import math
from collections.abc import Callable
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes

from benchmarks import record
from benchmarks.peers import PEERS

Rows = list[dict[str, str]]
GREY = "#808080"  # legible on white and on black
COLOURS = dict(zip(PEERS, ("#e8590c", "#4c8dd6", "#8a8f98", "#2f9e8f", "#b06ad1", "#c2a000", "#d1557a"), strict=True))


def panel(title: str, x: str, y: str) -> Axes:
    _, axes = plt.subplots(figsize=(7, 3.6), layout="constrained")
    style(axes, title, x, y)
    return axes


def style(axes: Axes, title: str, x: str, y: str) -> None:
    axes.set_title(title, color=GREY)
    axes.set_xlabel(x, color=GREY)
    axes.set_ylabel(y, color=GREY)
    axes.tick_params(colors=GREY, which="both")
    axes.grid(color=GREY, alpha=0.25)
    axes.set_axisbelow(True)
    for spine in axes.spines.values():
        spine.set_color(GREY)


def finish(axes: Axes, path: Path, legend: bool = True) -> None:
    if legend:
        axes.figure.legend(loc="outside right center", frameon=False, labelcolor=GREY, fontsize="small")
    axes.figure.savefig(path, dpi=150, transparent=True)
    plt.close(axes.figure)


def engines(rows: Rows) -> list[str]:
    return [name for name in PEERS if any(row["engine"] == name for row in rows)]


def threads_of(count: str) -> str:
    return f"{count} thread{'' if count == '1' else 's'}"


def bars(rows: Rows, path: Path, column: str, title: str, label: str) -> None:
    """One bar an engine at the larger headline shape, in training."""
    rows = [row for row in rows if row["network"] == "headline" and row["mode"] == "training" and row[column]]
    rows = [row for row in rows if row["extras"] == "plain" and row["dtype"] == "fp32" and row["engine"] in PEERS]
    largest = max(rows, key=lambda row: (int(row["T"]) * int(row["N"]), int(row["threads"])))
    rows = [row for row in rows if (row["case"], row["threads"]) == (largest["case"], largest["threads"])]
    at = {row["engine"]: float(row[column]) for row in rows}
    names = engines(rows)[::-1]
    axes = panel(f"{title}, T={largest['T']}, N={largest['N']}, {threads_of(largest['threads'])}", label, "")
    drawn = axes.barh(names, [at[name] for name in names], color=[COLOURS[name] for name in names])
    axes.bar_label(drawn, fmt="%.3g", color=GREY, padding=3)
    axes.margins(x=0.12)
    finish(axes, path, legend=False)


def speed(rows: Rows, path: Path) -> None:
    bars(rows, path, "p50_ms", "Plain LIF, forward + backward, fp32", "ms (median)")


def memory(rows: Rows, path: Path) -> None:
    bars(rows, path, "held_B_per_step", "Held between forward and backward, fp32", "bytes per neuron-step")


def curves(axes: Axes, rows: Rows, value: Callable[[dict[str, str]], float], over: str = "T") -> None:
    for name in engines(rows):
        points = sorted((int(row[over]), value(row)) for row in rows if row["engine"] == name)
        axes.plot(*zip(*points, strict=True), marker="o", markersize=4, color=COLOURS[name], label=name)
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.xaxis.set_major_formatter(lambda x, _: f"{x:.0f}" if x < 2048 else f"2^{math.log2(x):.0f}")


def sweep(rows: Rows, path: Path, over: str, title: str) -> None:
    rows = [row for row in rows if row["network"] == over]
    threads = max(rows, key=lambda row: int(row["threads"]))["threads"]
    rows = [row for row in rows if row["threads"] == threads]
    axes = panel(f"Forward + backward, {title}, {threads_of(threads)}", over, "ns per neuron-step")
    curves(axes, rows, lambda row: 1e6 * float(row["p50_ms"]) / (int(row["T"]) * int(row["N"])), over)
    finish(axes, path)


def time_steps(rows: Rows, path: Path) -> None:
    sweep(rows, path, "T", "T·N = 4194304")


def neurons(rows: Rows, path: Path) -> None:
    sweep(rows, path, "N", "T = 4")


def error(rows: Rows, path: Path) -> None:
    axes = panel("Error of the gradient against fp64, fp32", "T", "rms, relative")
    curves(axes, [row for row in rows if row["dtype"] == "fp32"], lambda row: float(row["gradient_rms"]))
    finish(axes, path)


def draw(run: str, results: Path, figures: Path) -> list[Path]:
    """Every picture of a run ("bench" or "peers") whose CSV is there."""
    figures.mkdir(parents=True, exist_ok=True)
    sources = {run: (speed, time_steps, memory), f"{run}_neurons": (neurons,), f"{run}_errors": (error,)}
    drawn = []
    for source, pictures in sources.items():
        path = results / f"{source}.csv"
        for picture in pictures if path.exists() else ():
            drawn.append(figures / f"bench_{picture.__name__}.png")
            picture(record.read(path), drawn[-1])
    return drawn


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("run", choices=("bench", "peers"))
    parser.add_argument("--results", type=Path, default=record.RESULTS)
    parser.add_argument("--figures", type=Path, default=record.RESULTS.parents[1] / "figures")
    options = parser.parse_args()
    for path in draw(options.run, options.results, options.figures):
        print(path)


if __name__ == "__main__":
    main()
