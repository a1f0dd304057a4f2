"""Records, table and learning curves of trainings, and the figures that the paper published."""

import statistics
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from benchmarks import plot, record
from benchmarks.control.settings import Settings
from tgo_kernels.robustness.outcome import markdown

ENGINES = ("fused", "eager")
SETTINGS = tuple(Settings.__dataclass_fields__)
VERSIONS = ("gymnasium", "mujoco")
RUNS = (*SETTINGS, "step", "return", "lowest", "highest", "rate", "seconds", "cpu_seconds", *VERSIONS, *record.ORIGIN)
TIMES = ("env", "neuron", "engine", "what", "p20_ms", "p50_ms", "p80_ms", "per_second")
TIMES = (*TIMES, "target", "proxy_updates", "batch", "hidden", "threads", *VERSIONS, *record.ORIGIN)
COLOURS = {"LIF": "#e8590c", "CLIF": "#4c8dd6", "DN": "#2f9e8f", "ReLU": "#8a8f98"}
# Highest mean return, mean and deviation over five seeds (table 1), on the environments of version 4.
ENVIRONMENTS = ("InvertedDoublePendulum", "Ant", "HalfCheetah", "Hopper", "Walker2d")
PUBLISHED = {
    ("ReLU", "average"): ("7503 ± 3713", "4770 ± 1014", "10857 ± 475", "3410 ± 164", "4340 ± 383"),
    ("LIF", "average"): ("9347 ± 1", "4294 ± 1170", "9404 ± 625", "3520 ± 94", "1862 ± 1450"),
    ("CLIF", "average"): ("9351 ± 1", "4590 ± 1006", "9594 ± 689", "2772 ± 1263", "3307 ± 1514"),
    ("DN", "average"): ("9350 ± 1", "4800 ± 994", "9147 ± 231", "3446 ± 131", "3964 ± 1353"),
    ("CLIF", "proxy"): ("9351 ± 1", "5014 ± 1074", "9663 ± 426", "3526 ± 112", "4564 ± 555"),
    ("DN", "proxy"): ("9350 ± 1", "5400 ± 277", "9347 ± 666", "3507 ± 144", "4277 ± 650"),
    ("LIF", "proxy"): ("9348 ± 1", "5383 ± 250", "10103 ± 607", "3385 ± 157", "4314 ± 423"),
}


def rows_of(kept: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """A row for every test of these trainings, from their checkpoints."""
    rows = []
    for state in kept:
        about = Settings(**state["settings"]).described()
        for each in state["history"]:
            figures = {key: f"{value:.5g}" for key, value in each.items() if isinstance(value, float)}
            rows.append({key: (about | each | figures).get(key) for key in RUNS})
    return rows


def by_seed(rows: list[dict[str, str]]) -> dict[tuple[str, str], dict[str, list[dict[str, str]]]]:
    """The rows of each seed, by neuron and target."""
    found: dict[tuple[str, str], dict[str, list[dict[str, str]]]] = {}
    for row in rows:
        found.setdefault((row["neuron"], row["target"]), {}).setdefault(row["seed"], []).append(row)
    return found


def spread(values: list[float]) -> str:
    """Mean and deviation over seeds."""
    return f"{statistics.mean(values):.0f}" + (f" ± {statistics.stdev(values):.0f}" if len(values) > 1 else "")


def table(rows: list[dict[str, str]]) -> list[str]:
    """Markdown: the highest and the last mean return of a test, over seeds, beside what the paper has."""
    env = rows[0]["env"].split("-")[0]
    head = ["neuron", "target", "seeds", "steps", "highest return", "last", "fire", "published, v4"]
    cells = [head if env in ENVIRONMENTS else head[:-1]]
    for (neuron, target), seeds in by_seed(rows).items():
        returns = [[float(row["return"]) for row in each] for each in seeds.values()]
        steps = sorted({int(each[-1]["step"]) for each in seeds.values()})
        rates = [float(each[-1]["rate"]) for each in seeds.values() if each[-1]["rate"]]
        line = [neuron, target, str(len(seeds)), "-".join(map(str, {steps[0]: 0, steps[-1]: 0}))]
        line += [spread(list(map(max, returns))), spread([each[-1] for each in returns])]
        line.append(f"{100 * statistics.mean(rates):.0f} %" if rates else "-")
        if env in ENVIRONMENTS:
            line.append(PUBLISHED.get((neuron, target), ("-",) * 5)[ENVIRONMENTS.index(env)])
        cells.append(line)
    return markdown(cells, left=2)


def times_table(rows: list[dict[str, str]]) -> list[str]:
    """Markdown: an action, an update and a step of a training, by neuron and engine."""
    cells = [["neuron", "engine", "action, ms", "update, ms", "step, ms", "updates/s", "steps/s"]]
    for neuron, engine in dict.fromkeys((row["neuron"], row["engine"]) for row in rows):
        at = {row["what"]: row for row in rows if (row["neuron"], row["engine"]) == (neuron, engine)}
        figures = [f"{float(at[what]['p50_ms']):.3g}" for what in ("action", "update", "step")]
        cells.append([neuron, engine, *figures, *(f"{float(at[w]['per_second']):.1f}" for w in ("update", "step"))])
    return markdown(cells, left=2)


def draw(rows: list[dict[str, str]], path: Path) -> None:
    """Return by step: a line of each seed with a dot at its end, and where all end at one step, their mean."""
    settings = rows[0]
    title = f"{settings['env']}, mean of {settings['episodes']} episodes without noise"
    axes = plot.panel(title, "steps of the environment", "return")
    for (neuron, target), seeds in by_seed(rows).items():
        look = {"color": COLOURS[neuron], "ls": "-" if target == "proxy" else "--"}
        lines = [[(int(row["step"]), float(row["return"])) for row in each] for each in seeds.values()]
        together = len({line[-1][0] for line in lines}) == 1
        what = {"proxy": "proxy", "average": "averaged target"}[target]
        label = {"label": f"{neuron}, {what}\n({len(lines)} seeds)"}
        for i, line in enumerate(lines):
            thin = {"lw": 0.8, "alpha": 0.45} if together else {"lw": 1.5} | (label if i == 0 else {})
            axes.plot(*zip(*line, strict=True), **thin, **look)
            axes.plot(*line[-1], "o", ms=4, color=COLOURS[neuron])
        if together:
            mean = [(at[0][0], statistics.mean(value for _, value in at)) for at in zip(*lines, strict=True)]
            axes.plot(*zip(*mean, strict=True), lw=2, **label, **look)
    axes.set_xlim(left=0)
    path.parent.mkdir(parents=True, exist_ok=True)
    plot.finish(axes, path)
    plt.close("all")
