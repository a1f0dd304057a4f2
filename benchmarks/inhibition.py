"""VGG-8 with lateral inhibition, beside batch norm, beside no norm, and without each of its parts, on Fashion-MNIST.

    python -m benchmarks.inhibition      goes on where it was stopped

Networks, what is taken out of them and the recipe are in ``inhibition_models.py``. Images, their order and augmentation
and the number of updates are those of the seed, the same for all. First each of GRID's learning rates, for lateral
inhibition and for what stands beside it: a few epochs on three quarters of ``--search-images`` training images, and the
accuracy on the last quarter. RATES are the best of them, but for ``E-I-slow``, whose rate is that of a longer trial on
images that were held out. Networks without a part are trained with the whole one's. Then the trainings: first all with
seed 0, then the other seeds, networks without a part last. No epoch is chosen: the last one's accuracy on the test
images is reported. What is there of one that was stopped is reported as it is, with the number of its epochs.

``--width``, ``--images`` and ``--epochs`` are for two cores, and far below the paper's: width 1, 50 000 images, 300
epochs. One thread by default.
"""

import argparse
import statistics
import sys
from dataclasses import replace
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import torch
from tqdm import tqdm

from benchmarks import plot, record
from benchmarks.inhibition_models import CHANNELS, OTHERS, VARIANTS, WITHOUT, Training
from benchmarks.robustness import data, train
from benchmarks.trainings import Rows, curves, epochs_of, histories, last_epochs, size, spread, status, trained
from tgo_kernels.robustness.outcome import markdown

PARTS = ("search", "train", "draw")
SEARCHED = ("E-I", "E-I-slow", *OTHERS)
GRID = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0)
RATES = {"E-I": 0.01, "E-I-slow": 0.03, "E-I-clipped": 0.03, "batch-norm": 0.03, "no-norm": 0.1, "no-norm-scaled": 0.3}
COLUMNS = ("variant", "lr", "weight_decay", "momentum", "batch", "width", "data", "images", "tested", "seed")
COLUMNS = (*COLUMNS, "parameters", "epochs", "epoch", "loss", "accuracy", *(f"rate_{i + 1}" for i in range(5)))
COLUMNS = (*COLUMNS, "seconds", *record.ORIGIN)
PALETTE = ("#e8590c", "#a61e4d", "#4c8dd6", "#8a8f98", "#2f9e8f", "#b06ad1", "#d1557a", "#c2a000", "#6a9e2f", "#7c5cff")
PALETTE = (*PALETTE, "#00a3c4", "#a0522d", "#5f3dc4")
STYLES = {
    name: {"color": colour, **({"linestyle": "--", "linewidth": 1} if name in WITHOUT else {"linewidth": 2})}
    for name, colour in zip(VARIANTS, PALETTE, strict=True)
}


def in_order(trainings: list[Training]) -> list[Training]:
    """All of seed 0, then the other seeds, and last theirs of networks without a part."""
    return sorted(trainings, key=lambda training: training.seed > 0 and 1 + (training.variant in WITHOUT))


def run_all(
    trainings: list[Training], chosen: list[str], dataset: data.Dataset, out: Path, written: Path, said: str
) -> None:
    """Trains what is not there yet of the chosen networks, and writes a row for each epoch of all, however it ends."""
    images, labels = train.tensors(dataset.train)
    about = {key: str(value) for key, value in record.origin(record.tune()).items()}
    about["tested"] = len(dataset.test.labels)
    try:
        for training in tqdm([each for each in trainings if each.variant in chosen], desc=said, disable=None):
            order = torch.Generator().manual_seed(training.seed)
            model = training.model(next(train.batches(images, labels, training.batch, order))[0])
            settings = {"parameters": size(model), "weight_decay": training.weight_decay}
            trained(training, model, dataset, out, about | settings)
    finally:
        if rows := histories(trainings, out, COLUMNS, {}):
            record.write(written, rows, COLUMNS)


def percent(rows: Rows, column: str) -> list[float]:
    return [100 * float(row[column]) for row in rows]


def table(rows: Rows) -> list[str]:
    """Markdown, of the last epochs: loss, accuracy with its standard deviation over seeds, and what fires, by layer."""
    head = ["network", "learning rate", "parameters", "seeds", "epochs", "loss", "accuracy"]
    cells = [[*head, f"fire, layers 1-{len(CHANNELS)}"]]
    for name in (name for name in VARIANTS if last_epochs(rows, "variant", name)):
        last = last_epochs(rows, "variant", name)
        loss = f"{statistics.mean(float(row['loss']) for row in last):.2f}"
        rates = [f"{statistics.mean(percent(last, f'rate_{i + 1}')):.0f}" for i in range(len(CHANNELS))]
        line = [name, last[0]["lr"], last[0]["parameters"], str(len(last)), epochs_of(last), loss]
        cells.append([*line, f"{spread(percent(last, 'accuracy'))} %", f"{', '.join(rates)} %"])
    return markdown(cells, left=1)


def last_of_search(rows: Rows) -> Rows:
    """The row of each learning rate's last epoch."""
    return list({(row["variant"], row["lr"]): row for row in rows}.values())


def table_of_search(rows: Rows) -> list[str]:
    """Markdown: accuracy on the images that are held out, by learning rate."""
    rates = sorted({row["lr"] for row in rows}, key=float)
    cells = [["network", *rates]]
    for name in dict.fromkeys(row["variant"] for row in rows):
        at = {row["lr"]: f"{percent([row], 'accuracy')[0]:.1f} %" for row in rows if row["variant"] == name}
        cells.append([name, *(at.get(rate, "-") for rate in rates)])
    return markdown(cells, left=1)


def draw(rows: Rows, path: Path) -> None:
    """Loss and accuracy by epoch, with the range of the seeds; dashed without a part."""
    figure, axes = plt.subplots(1, 2, figsize=(11, 4), layout="constrained")
    rows = sorted(rows, key=lambda row: VARIANTS.index(row["variant"]))
    seeds = len({row["seed"] for row in rows})
    of = f"mean and range of {seeds} seeds" if seeds > 1 else "one seed"
    plot.style(axes[0], f"VGG-8, width {rows[0]['width']}, {rows[0]['images']} images", "epoch", "training loss")
    plot.style(axes[1], of, "epoch", "test accuracy, %")
    for each in axes:
        each.xaxis.get_major_locator().set_params(integer=True)
    curves(axes[0], rows, "variant", lambda row: float(row["loss"]), STYLES)
    curves(axes[1], rows, "variant", lambda row: 100 * float(row["accuracy"]), STYLES)
    figure.legend(*axes[1].get_legend_handles_labels(), loc="outside right center", frameon=False, labelcolor=plot.GREY)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150, transparent=True)
    plt.close(figure)


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS, help="default: all")
    made.add_argument("--variants", nargs="+", choices=VARIANTS, default=VARIANTS, help="default: all")
    made.add_argument("--data", choices=("subset", "full"), default="full", help="default: %(default)s")
    numbers = {
        "images": (2000, "train on so many, the same number of each class"),
        "tests": (1000, "test on so many"),
        "epochs": (Training.epochs, ""),
        "search-images": (4000, "for learning rates, a quarter of them held out"),
        "search-epochs": (2, "of each learning rate"),
        "seeds": (3, "how many, from 0 on"),
        "batch": (Training.batch, ""),
        "threads": (1, ""),
    }
    for name, (value, said) in numbers.items():
        made.add_argument(f"--{name}", type=int, default=value, help=f"{said}; default: %(default)s".lstrip("; "))
    made.add_argument("--width", type=float, default=Training.width, help="of the layers; default: %(default)s")
    made.add_argument("--out", type=Path, default=Path("runs/inhibition"), help="of checkpoints; default: %(default)s")
    made.add_argument("--results", type=Path, default=record.RESULTS, help="default: %(default)s")
    made.add_argument(
        "--figures", type=Path, default=record.RESULTS.parents[1] / "figures", help="default: %(default)s"
    )
    return made


def run(options: argparse.Namespace) -> None:
    for name in ("search_epochs", "seeds", "threads"):
        if (given := getattr(options, name)) < 1:
            raise ValueError(f"--{name.replace('_', '-')} must be at least 1, got {given}")
    torch.set_num_threads(options.threads)
    same = {name: getattr(options, name) for name in ("data", "epochs", "width", "batch")}
    trainings = [
        Training(name, RATES.get(name, RATES["E-I"]), seed=seed, **same)
        for seed in range(options.seeds)
        for name in VARIANTS
    ]
    written, of_search = (options.results / f"inhibition{part}.csv" for part in ("", "_search"))
    out = options.out / options.data
    if {"search", "train"} & set(options.parts):
        whole = data.load(options.data)
        dataset = whole.limited(options.images, options.tests, 0)
        held_out = whole.limited(options.search_images, None, 0)
        held_out = held_out.validation(len(held_out.train.labels) // 4 // data.CLASSES)
    if "search" in options.parts:
        searched = [
            replace(training, lr=rate, epochs=options.search_epochs)
            for training in trainings
            if training.seed == 0 and training.variant in SEARCHED
            for rate in GRID
        ]
        run_all(searched, options.variants, held_out, out / "search", of_search, "learning rates")
    if "train" in options.parts:
        run_all(in_order(trainings), options.variants, dataset, out, written, "trainings")
    if "draw" in options.parts:
        if not written.exists():
            raise ValueError(f"nothing to draw in {written}: train first")
        rows, picture = record.read(written), options.figures / "inhibition.png"
        draw(rows, picture)
        if of_search.exists():
            print("\n".join([*table_of_search(last_of_search(record.read(of_search))), ""]))
        print("\n".join([*table(rows), f"{written}, {picture}"]))


def main(arguments: list[str] | None = None) -> int:
    return status(run, parser().parse_args(arguments))


if __name__ == "__main__":
    sys.exit(main())
