"""The settings of the study, chosen on a validation split of the training images. The test images are not looked at.

    python -m benchmarks.robustness.search [--images 20000] [--epochs 3] [--out CSV]

First the surrogate's width for plain LIF, then noise_std, guard_margin and lambda_max for TGO with that surrogate, each
trained by BPTT on a part of the training images and judged on others: by the share that withstands every one of five
attacks, FGSM and PGD-10 along four surrogates. Chosen is the best among those that cost at most MOST_LOST of plain
LIF's clean accuracy. Settings that the CSV has already are not trained again.
"""

import argparse
import itertools
import statistics
import sys
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import torch
from tqdm import tqdm

import tgo_kernels as tgo
from benchmarks import record
from benchmarks.robustness import data, train
from benchmarks.robustness.models import lif_layers
from benchmarks.robustness.recipe import Recipe
from tgo_kernels.robustness import attacks, withstood

SETTINGS = ("alpha", "noise_std", "guard_margin", "lambda_max")
FIGURES = ("clean", "fgsm", "pgd10", "worst", "neighbors", "firing")
COLUMNS = ("data", "defence", *SETTINGS, *FIGURES, "images", "judged", "epochs", "seed", *record.ORIGIN)
RESULTS = Path(__file__).with_name("results")
MOST_LOST = 0.04  # TGO's paper pays 4.5 points on CIFAR-10
ALPHAS = (1.0, 2.0, 4.0)
GRID = {"noise_std": (0.1, 0.3), "guard_margin": (0.5, 1.0), "lambda_max": (0.6, 3.0, 10.0)}
SWEEP = (tgo.ATan(2.0), tgo.ATan(4.0), tgo.Sigmoid(4.0), tgo.Triangle(1.0))


def judge(model: torch.nn.Module, images: torch.Tensor, labels: torch.Tensor) -> dict[str, float]:
    """Noise off: the model as it is deployed by default."""
    options = {"noise": False, "batch": 250}
    clean = withstood(model, images, labels, **options)
    rates = {"neighbors": tgo.neighbor_rates(model).values()}
    rates["firing"] = [layer.firing_rate.item() for layer in lif_layers(model)]
    torch.manual_seed(0)
    fgsm = withstood(model, images, labels, attacks.fgsm(), **options)
    pgd = attacks.pgd(steps=10)
    stood = [withstood(model, images, labels, attacks.through(lambda depth, s=s: s, pgd), **options) for s in SWEEP]
    worst = torch.stack([clean, fgsm, *stood]).all(0)
    found = {"clean": clean, "fgsm": fgsm, "pgd10": stood[0], "worst": worst}
    shares = {name: value.float().mean().item() for name, value in found.items()}
    return shares | {name: statistics.mean(values) for name, values in rates.items()}


def best(rows: Iterable[dict], plain_clean: float) -> dict:
    """Of the rows that keep enough of the clean accuracy, that with the highest worst case."""
    rows = list(rows)
    kept = [row for row in rows if float(row["clean"]) >= plain_clean - MOST_LOST]
    return max(kept or rows, key=lambda row: float(row["worst"]))


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", choices=("subset", "full"), default="full")
    parser.add_argument("--images", type=int, default=20_000, help="to train on; default: %(default)s")
    parser.add_argument("--judged", type=int, default=500, help="to judge on; default: %(default)s")
    parser.add_argument("--epochs", type=int, default=3, help="default: %(default)s")
    parser.add_argument("--out", type=Path, default=RESULTS / "search.csv", help="default: %(default)s")
    options = parser.parse_args(argv)
    dataset = data.load(options.data).validation(per_class=options.judged // data.CLASSES)
    dataset = dataset.limited(options.images, None, seed=0)
    images, labels = train.tensors(dataset.test)
    rows = record.read(options.out) if options.out.exists() else []
    about = record.origin(record.tune())

    def tried(recipe: Recipe) -> dict:
        key = {"data": recipe.data, "defence": recipe.defence} | {
            name: f"{getattr(recipe, name):g}" for name in SETTINGS
        }
        key |= {"images": str(len(dataset.train.labels)), "judged": str(len(labels))}
        key |= {"epochs": str(recipe.epochs), "seed": str(recipe.seed)}
        for row in rows:
            if all(row[name] == value for name, value in key.items()):
                return row
        model = recipe.model()
        train.fit(model, dataset.train, recipe)
        figures = {name: f"{value:.4f}" for name, value in judge(model, images, labels).items()}
        rows.append(key | figures | about)
        record.write(options.out, rows, COLUMNS)
        return rows[-1]

    base = Recipe(data=options.data, epochs=options.epochs)
    none = dict.fromkeys(GRID, 0.0)
    plain = [tried(replace(base, alpha=alpha, **none)) for alpha in tqdm(ALPHAS, desc="surrogate")]
    chosen = best(plain, max(float(row["clean"]) for row in plain))
    base = replace(base, alpha=float(chosen["alpha"]), guard=True, noise=True)
    grid = [dict(zip(GRID, values, strict=True)) for values in itertools.product(*GRID.values())]
    found = best([tried(replace(base, **values)) for values in tqdm(grid, desc="TGO")], float(chosen["clean"]))
    print("plain:", {name: chosen[name] for name in ("alpha", *FIGURES)})
    print("TGO:  ", {name: found[name] for name in (*SETTINGS, *FIGURES)})
    return 0


if __name__ == "__main__":
    sys.exit(main())
