"""Fashion-MNIST read as a sequence, by five neurons: accuracy, and seconds an epoch by engine.

    python -m benchmarks.sequences rows      T = 28, a row of 28 pixels a step: minutes
    python -m benchmarks.sequences pixels    T = 784, a pixel a step: goes on where it was stopped

Networks and trainings, and how they are made alike but for the neuron, are in ``sequence_models.py``. AdamW under a
cosine; images are moved and mirrored as in the robustness study. No epoch is chosen: the last one's accuracy on the
test images is reported.

Every training keeps a checkpoint after each epoch in ``--out``, so that one that is stopped goes on to the same
weights, bit for bit; what is there of one that was stopped is reported as it is, with the number of its epochs.

Seconds an epoch are of updates alone: the median of updates that take turns with those of the other engines, in one
process for each neuron, times the updates of an epoch. ``fused`` is the layers' own engine, ``eager`` their plain torch
(``impl="reference"``) and ``torch.compile`` that, compiled. It unrolls the steps: what does not compile within
``--limit`` seconds is noted as such, and the neurons after it are not tried. One thread by default: these layers are
small, and threads that wait for each other make times of whatever else runs.
"""

import argparse
import json
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import torch
from matplotlib.axes import Axes
from tqdm import tqdm

from benchmarks import plot, record
from benchmarks.robustness import data, report, train
from benchmarks.run import percentiles, times_of
from benchmarks.sequence_models import NEURONS, TASKS, Training
from benchmarks.trainings import curves, epochs_of, histories, last_epochs, size, spread, status, trained

ENGINES = {"fused": "auto", "eager": "reference", "torch.compile": "reference"}
COMPILED = "torch.compile"
NOT_TRIED = "not tried: the neuron before does not compile"
PARTS = ("train", "time", "draw")
TEXT = {"color": plot.GREY, "fontsize": "small"}
TRAININGS = ("task", "T", "data", "images", "neuron", "seed", "hidden", "parameters", "epochs", "epoch", "loss")
TRAININGS = (*TRAININGS, "accuracy", "rate_1", "rate_2", "seconds", *record.ORIGIN)
TIMES = ("task", "T", "images", "batch", "hidden", "neuron", "engine", "threads", "p20_ms", "p50_ms", "p80_ms")
TIMES = (*TIMES, "s_per_epoch", "first_call_s", "note", *record.ORIGIN)
COLOURS = dict(zip(NEURONS, ("#6a9e2f", "#b06ad1", "#d1557a", "#c2a000", "#3b8ea5"), strict=True))
ENGINE_COLOURS = dict(
    zip(ENGINES, (plot.COLOURS[name] for name in ("tgo_kernels", "eager", "torch.compile")), strict=True)
)


def times_here(training: Training, dataset: data.Dataset, options: argparse.Namespace) -> dict[str, Any]:
    """Milliseconds of updates by engine, and seconds to the first one's end, in this process.

    It ends by SIGALRM if torch.compile takes longer than the limit for its first update.
    """
    x, y = next(train.batches(*train.tensors(dataset.train), training.batch, torch.Generator().manual_seed(0)))
    calls, first = {}, {}
    for engine in sorted(options.engines, key=list(ENGINES).index, reverse=True):
        model = training.model(ENGINES[engine]).train()
        if engine == COMPILED:
            model.layers = torch.compile(model.layers, fullgraph=True, dynamic=False)
            signal.alarm(options.limit)
        optimizer = train.make_optimizer(model, training)
        calls[engine] = lambda model=model, optimizer=optimizer: train.step(model, optimizer, x, y)
        start = time.perf_counter()
        calls[engine]()
        signal.alarm(0)
        first[engine] = time.perf_counter() - start
    return {"ms": times_of(calls, options.rounds), "first_call_s": first}


def times(training: Training, engines: list[str], images: int, options: argparse.Namespace) -> list[dict[str, Any]]:
    """A row for each engine, from a process of its own; ``note`` says why there is no figure."""

    def ask(names: list[str]) -> dict[str, Any]:
        command = [training.task, "--here", "--neurons", training.neuron, "--engines", *names, "--images", str(images)]
        for name in ("data", "hidden", "batch", "rounds", "limit", "threads"):
            command += [f"--{name}", str(getattr(options, name))]
        anew = {"TORCHINDUCTOR_FORCE_DISABLE_CACHES": "1"}  # what was compiled before is compiled again
        return json.loads(record.ask("benchmarks.sequences", *command, **anew))

    note = NOT_TRIED
    try:
        found = ask(engines) if engines else {"ms": {}}
    except subprocess.CalledProcessError as error:
        if COMPILED not in engines:
            raise
        late = error.returncode == -signal.SIGALRM
        note = f"does not compile within {options.limit} s" if late else f"exit status {error.returncode}"
        others = [engine for engine in engines if engine != COMPILED]
        found = ask(others) if others else {"ms": {}}
    rows = []
    for engine in options.engines:
        row = {"task": training.task, "T": TASKS[training.task].steps, "images": images, "batch": training.batch}
        row |= {"hidden": training.hidden, "neuron": training.neuron, "engine": engine, "threads": options.threads}
        if engine in found["ms"]:
            p20, p50, p80 = percentiles(found["ms"][engine])
            row |= {"p20_ms": f"{p20:.2f}", "p50_ms": f"{p50:.2f}", "p80_ms": f"{p80:.2f}"}
            row["s_per_epoch"] = f"{p50 * train.batches_per_epoch(images, training.batch) / 1e3:.3f}"
            row["first_call_s"] = f"{found['first_call_s'][engine]:.1f}"
        else:
            row["note"] = note
        rows.append(row)
    return rows


def table(rows: list[dict[str, str]], timed: list[dict[str, str]]) -> list[str]:
    """Markdown: accuracy and firing rates after the last epoch, mean and standard deviation over seeds; and times."""
    head = ["neuron", "parameters", "seeds", "epochs", "accuracy", "fire, layer 1", "layer 2"]
    cells = [[*head, *(f"s/epoch {engine}" for engine in ENGINES)]]
    for neuron in dict.fromkeys(row["neuron"] for row in rows):
        last = last_epochs(rows, "neuron", neuron)
        columns = {key: [100 * float(row[key]) for row in last] for key in ("accuracy", "rate_1", "rate_2")}
        accuracy = f"{spread(columns['accuracy'])} %"
        rates = [f"{statistics.mean(columns[key]):.0f} %" for key in ("rate_1", "rate_2")]
        at = {row["engine"]: row["s_per_epoch"] for row in timed if row["neuron"] == neuron}
        seconds = [f"{float(at[engine]):.2f}" if at.get(engine) else "-" for engine in ENGINES]
        cells.append([neuron, last[0]["parameters"], str(len(last)), epochs_of(last), accuracy, *rates, *seconds])
    return report.markdown(cells, left=1)


def draw(rows: list[dict[str, str]], timed: list[dict[str, str]], path: Path) -> None:
    """Accuracy by epoch, with the range of the seeds, and seconds an epoch by engine."""
    across = 2 if timed else 1
    figure, axes = plt.subplots(1, across, figsize=(5.5 * across, 4), layout="constrained", squeeze=False)
    left, steps, seeds = axes[0, 0], rows[0]["T"], len({row["seed"] for row in rows})
    of = f"mean and range of {seeds} seeds" if seeds > 1 else "one seed"
    plot.style(left, f"T = {steps}, {rows[0]['images']} images, {of}", "epoch", "test accuracy, %")
    style = {neuron: {"color": colour} for neuron, colour in COLOURS.items()}
    curves(left, rows, "neuron", lambda row: 100 * float(row["accuracy"]), style)
    left.legend(frameon=False, labelcolor=plot.GREY, loc="lower right")
    if timed:
        bars(axes[0, 1], timed)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150, transparent=True)
    plt.close(figure)


def bars(axes: Axes, timed: list[dict[str, str]]) -> None:
    names = list(dict.fromkeys(row["neuron"] for row in timed))
    engines = [engine for engine in ENGINES if any(row["engine"] == engine for row in timed)]
    batch, threads = timed[0]["batch"], plot.threads_of(timed[0]["threads"])
    plot.style(axes, f"Training, batch {batch}, {threads}", "seconds an epoch, by the median update", "")
    high = 0.8 / len(engines)
    for row in timed:
        y = names.index(row["neuron"]) + (engines.index(row["engine"]) - (len(engines) - 1) / 2) * high
        seconds, colour = float(row["s_per_epoch"] or "nan"), ENGINE_COLOURS[row["engine"]]
        axes.barh(y, seconds, high, color=colour, label=row["engine"] if row["neuron"] == names[0] else None)
        if row["s_per_epoch"]:
            axes.annotate(f"{seconds:.3g}", (seconds, y), (3, 0), textcoords="offset points", va="center", **TEXT)
        else:
            axes.annotate(
                f"{row['engine']}: {row['note']}", (0.01, y), xycoords=("axes fraction", "data"), va="center", **TEXT
            )
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.margins(x=0.12)
    about = {"loc": "center left", "bbox_to_anchor": (1, 0.5)}
    axes.legend(frameon=False, labelcolor=plot.GREY, fontsize="small", **about)


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("task", choices=TASKS)
    made.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS, help="default: all")
    made.add_argument("--neurons", nargs="+", choices=NEURONS, default=NEURONS, help="default: all")
    made.add_argument("--engines", nargs="+", choices=ENGINES, default=list(ENGINES), help="default: all")
    made.add_argument("--data", choices=("subset", "full"), default="subset", help="default: %(default)s")
    made.add_argument("--images", type=int, help="train on so many, the same number of each class")
    of = {name: ", ".join(f"{getattr(TASKS[task], name)} of {task}" for task in TASKS) for name in ("epochs", "seeds")}
    made.add_argument("--epochs", type=int, help=f"default: {of['epochs']}")
    made.add_argument("--seeds", type=int, help=f"how many, from 0 on; default: {of['seeds']}")
    for name in ("hidden", "batch"):
        made.add_argument(f"--{name}", type=int, default=getattr(Training, name), help="default: %(default)s")
    made.add_argument("--rounds", type=int, default=9, help="of timing; default: %(default)s")
    made.add_argument("--limit", type=int, default=300, help="seconds to compile in; default: %(default)s")
    made.add_argument("--threads", type=int, default=1, help="default: %(default)s")
    made.add_argument("--out", type=Path, default=Path("runs/sequences"), help="of checkpoints; default: %(default)s")
    made.add_argument("--results", type=Path, default=record.RESULTS, help="default: %(default)s")
    made.add_argument(
        "--figures", type=Path, default=record.RESULTS.parents[1] / "figures", help="default: %(default)s"
    )
    made.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    return made


def run(options: argparse.Namespace) -> None:
    for name in ("epochs", "seeds"):
        if getattr(options, name) is None:
            setattr(options, name, getattr(TASKS[options.task], name))
    for name, least in {"seeds": 1, "rounds": 3, "limit": 1, "threads": 1}.items():
        if (given := getattr(options, name)) < least:
            raise ValueError(f"--{name} must be at least {least}, got {given}")
    torch.set_num_threads(options.threads)
    same = {name: getattr(options, name) for name in ("task", "data", "epochs", "hidden", "batch")}
    seeds = range(options.seeds)
    trainings = [Training(neuron=neuron, seed=seed, **same) for seed in seeds for neuron in options.neurons]
    about = {key: str(value) for key, value in record.origin(record.tune()).items()}
    dataset = data.load(options.data).limited(options.images, None, 0)
    if options.here:
        print(json.dumps(times_here(trainings[0], dataset, options)))
        return
    options.out /= options.data
    written, timed = (options.results / f"sequences_{options.task}{part}.csv" for part in ("", "_times"))
    if "train" in options.parts:
        try:
            for training in tqdm(trainings, desc="trainings", disable=None):
                model = training.model()
                trained(training, model, dataset, options.out, about | {"parameters": size(model)})
        finally:
            if rows := histories(trainings, options.out, TRAININGS, {"T": TASKS[options.task].steps}):
                record.write(written, rows, TRAININGS)
    if "time" in options.parts:
        rows, engines = [], options.engines
        for training in tqdm(trainings[: len(options.neurons)], desc="timing", disable=None):
            rows += times(training, engines, len(dataset.train.labels), options)
            record.write(timed, [row | about for row in rows], TIMES)
            compiles = all(row["engine"] != COMPILED or "p50_ms" in row for row in rows)
            engines = [engine for engine in engines if engine != COMPILED or compiles]
    if "draw" in options.parts:
        found = [record.read(path) if path.exists() else [] for path in (written, timed)]
        if not found[0]:
            raise ValueError(f"nothing to draw in {written}: train first")
        picture = options.figures / f"sequences_{options.task}.png"
        draw(*found, picture)
        print("\n".join([*table(*found), f"{written}, {picture}"]))


def main(arguments: list[str] | None = None) -> int:
    return status(run, parser().parse_args(arguments))


if __name__ == "__main__":
    sys.exit(main())
