"""Trainings one after the other, each of which goes on where it was stopped; their records, tables and curves."""

import argparse
import statistics
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from matplotlib.axes import Axes
from torch import Tensor, nn

from benchmarks.robustness import data, train

Rows = list[dict[str, str]]


@torch.no_grad()
def tested(model: Any, images: Tensor, labels: Tensor, batch: int = 100) -> dict[str, float]:
    """The share of images that are right, and of neurons that fire in a step, by layer of ``model.neurons``."""
    model.eval()
    names = ["accuracy", *(f"rate_{i + 1}" for i in range(len(model.neurons)))]
    sums = torch.zeros(len(names))
    for x, y in zip(images.split(batch), labels.split(batch), strict=True):
        right = (model(x).argmax(1) == y).float().mean()
        sums += len(x) * torch.stack([right, *(layer.firing_rate for layer in model.neurons)])
    return dict(zip(names, (sums / len(images)).tolist(), strict=True))


def trained(training: Any, model: nn.Module, dataset: data.Dataset, out: Path, about: dict[str, Any]) -> None:
    """Trains as far as that is not done yet."""
    images, labels = train.tensors(dataset.test)
    out.mkdir(parents=True, exist_ok=True)
    checkpoint = out / f"{training.name}.pt"
    train.fit(model, dataset.train, training, checkpoint, lambda model: tested(model, images, labels) | about)


def histories(trainings: list[Any], out: Path, columns: tuple[str, ...], about: dict[str, Any]) -> list[dict[str, Any]]:
    """A row for every epoch that the checkpoints have of these trainings, with their settings."""
    rows = []
    for training in trainings:
        path = out / f"{training.name}.pt"
        state = torch.load(path) if path.exists() else None
        if state is not None and asdict(training).items() <= state["recipe"].items():
            for each in state["history"]:
                figures = {key: f"{value:.5f}" for key, value in each.items() if isinstance(value, float)}
                row = about | state["recipe"] | each | figures
                rows.append({key: row[key] for key in columns})
    return rows


def size(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def last_epochs(rows: Rows, by: str, name: str) -> Rows:
    """The row of each seed's last epoch, of those that have this name in the column ``by``."""
    return list({row["seed"]: row for row in rows if row[by] == name}.values())


def spread(values: list[float]) -> str:
    """Mean, and the standard deviation over seeds."""
    return f"{statistics.mean(values):.1f}{f' ± {statistics.stdev(values):.1f}' if len(values) > 1 else ''}"


def epochs_of(last: Rows) -> str:
    done = sorted({int(row["epoch"]) + 1 for row in last})
    return f"{'-'.join(map(str, done))} of {last[0]['epochs']}"


def curves(axes: Axes, rows: Rows, by: str, value: Callable[[dict[str, str]], float], style: dict[str, Any]) -> None:
    """Mean by epoch, and the range of the seeds, of each name in the column ``by``."""
    for name in dict.fromkeys(row[by] for row in rows):
        runs: dict[int, list[float]] = {}
        for row in rows:
            if row[by] == name:
                runs.setdefault(int(row["epoch"]) + 1, []).append(value(row))
        mean, low, high = (list(map(of, runs.values())) for of in (statistics.mean, min, max))
        axes.plot(list(runs), mean, label=name, **style[name])
        axes.fill_between(list(runs), low, high, color=style[name]["color"], alpha=0.2)


def status(
    run: Callable[[argparse.Namespace], None], options: argparse.Namespace, after: str = "the last whole epoch"
) -> int:
    """The exit status of a command whose trainings may be stopped, and go on after that."""
    try:
        run(options)
    except (ValueError, data.DataError, ImportError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"stopped; the same command goes on after {after}", file=sys.stderr)
        return 130
    return 0
