"""What the trained networks of the full study are like inside, and what of them an attack on one says of another.

    python -m benchmarks.robustness.diagnose

Of the first seed's models that are in ``results/``: how an NAA, made on the middle layer of each, does on every other
(a matrix); which channels of the first layer are fragile; whether neurons fire for all of their inputs or for any, and
for images whose pixels are exchanged among them. And of all models the accuracy on all test images, without noise.
Writes ``results/diagnoses.json`` and two pictures.
"""

import json
import statistics
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import torch
from matplotlib.axes import Axes
from torch import Tensor, nn
from tqdm import tqdm

import tgo_kernels as tgo
from benchmarks.plot import GREY, style
from benchmarks.robustness import data, study, train
from benchmarks.robustness.findings import SHORT
from benchmarks.robustness.models import Classifier
from benchmarks.robustness.recipe import Recipe
from tgo_kernels import OverTime
from tgo_kernels.neurons import LIF
from tgo_kernels.robustness import andness, channels, naa, transfers

FULL = study.STUDIES["full"]


def trained() -> Iterator[tuple[Recipe, Classifier]]:
    """All that are there and trained to their end, as their records say."""
    for recipe in FULL.recipes():
        if (FULL.out / f"{recipe.name}.json").exists():
            model = recipe.model()
            model.load_state_dict(torch.load(FULL.out / f"{recipe.name}.pt")["model"])
            yield recipe, model.eval()


@torch.no_grad()
def accuracy(model: Classifier, images: Tensor, labels: Tensor) -> float:
    """Without noise."""
    pairs = zip(images.split(250), labels.split(250), strict=True)
    return sum(int((model(x).argmax(1) == y).sum()) for x, y in pairs) / len(labels)


def of_spikes(model: Classifier) -> Iterator[tuple[Tensor, tgo.Layer]]:
    """The weights between layers of neurons, with the scale of the norm in them, and the neurons that they go to."""
    pairs = list(zip(model.layers, list(model.layers)[1:], strict=False))
    for before, neurons in pairs[1:]:  # the first are of the image
        if isinstance(before, OverTime) and isinstance(neurons, tgo.Layer) and isinstance(before[-1], nn.BatchNorm2d):
            norm = before[-1]
            scale = norm.weight / (norm.running_var + norm.eps).sqrt()
            yield before[0].weight * scale.view(-1, 1, 1, 1), neurons


def ands(model: Classifier) -> list[float]:
    """Of each layer of LIF but the first, the mean share of the excitatory drive that a neuron needs."""
    pairs = [(weight, layer) for weight, layer in of_spikes(model) if type(layer.neuron) is LIF]
    return [andness.andness(weight, layer.neuron, model.steps).mean().item() for weight, layer in pairs]


def scores(model: nn.Module, images: Tensor) -> list[float]:
    """Of each layer, 1 - (rate for scrambled images) / (rate for images)."""
    generator = torch.Generator().manual_seed(0)
    rates = andness.scrambled_rates(model, images, generator=generator).values()
    return [(1 - rate.scrambled.mean() / rate.actual.mean()).item() for rate in rates]


def rounded(values: list[float]) -> list[float]:
    return [round(value, 4) for value in values]


def measured(models: dict[str, Classifier], dataset: data.Dataset) -> dict[str, Any]:
    """Of the first seed's models that fire, by their names."""
    images, labels = study.attacked(FULL, dataset)
    matrix = transfers(models, images, labels, naa())
    found: dict[str, Any] = {"transfer": {"models": list(models), "right": (100 * matrix).round().int().tolist()}}
    found["insides"] = {
        name: {"andness": rounded(ands(model)), "scrambled": rounded(scores(model, images))}
        for name, model in tqdm(models.items(), desc="insides", disable=None)
    }
    x, y = train.tensors(dataset.limited(study.FRAGILE, None, seed=0).train)
    found["channels"] = {}
    for name in SHORT:  # whose channels are shown
        if name in models:
            fragile = channels.fragility(models[name], x, y)
            columns = ("clean_k", "adv_k", "transfer_k", "fragility")
            found["channels"][name] = {key: rounded(getattr(fragile, key).tolist()) for key in columns}
    return found


def draw_transfer(found: dict[str, Any], path: Path) -> None:
    names, right = found["models"], torch.tensor(found["right"])
    side = 2.5 + 0.32 * len(names)
    figure, axes = plt.subplots(figsize=(side + 0.6, side), layout="constrained")
    shown = axes.imshow(right.numpy(), cmap="viridis", vmin=0, vmax=100)
    for i, row in enumerate(right.tolist()):
        for j, value in enumerate(row):
            axes.text(j, i, str(value), ha="center", va="center", fontsize=6, color="white" if value < 60 else "black")
    axes.set_xticks(range(len(names)), names, rotation=90, fontsize=7)
    axes.set_yticks(range(len(names)), names, fontsize=7)
    axes.set_xlabel("shown to")
    axes.set_ylabel("made on")
    axes.set_title("NAA, eps 8/255: images right (%)", fontsize=11)
    figure.colorbar(shown, ax=axes, shrink=0.6)
    figure.savefig(path, dpi=150)
    plt.close(figure)


def draw_insides(found: dict[str, Any], path: Path) -> None:
    """What each channel of the first layer is worth, clean and attacked; and who fires for any of its inputs."""
    figure, (left, middle, right) = plt.subplots(1, 3, figsize=(13, 4.4), layout="constrained")
    lost = "points lost without it"
    style(left, "Channels of the first layer", f"clean: {lost}", f"under FGSM: {lost}")
    for (name, mine), marker in zip(found["channels"].items(), "o.sx", strict=False):
        x, y = ([100 * k for k in mine[key]] for key in ("clean_k", "adv_k"))
        left.plot(x, y, marker, ms=5, label=name)
    left.axline((0, 0), slope=1, color=GREY, lw=0.8)
    left.annotate("fragile", (0.97, 0.03), xycoords="axes fraction", ha="right", color=GREY)
    left.annotate("robust", (0.03, 0.93), xycoords="axes fraction", color=GREY)
    left.legend(fontsize=8, frameon=False)
    ranked = sorted(found["insides"].items(), key=lambda item: statistics.mean(item[1]["scrambled"]))
    by_layer(middle, "Excitation that a neuron needs", "share of all", ranked, "andness", first=2)
    by_layer(right, "Fires for what belongs together", "1 - rate for scrambled images / rate", ranked, "scrambled")
    right.set_yticklabels([])
    right.legend(fontsize=8, frameon=False)
    figure.savefig(path, dpi=150)
    plt.close(figure)


def by_layer(
    axes: Axes, title: str, label: str, ranked: list[tuple[str, dict[str, list[float]]]], key: str, first: int = 1
) -> None:
    """A line for each network, a point for each of its layers from this one on."""
    style(axes, title, label, "")
    axes.set_yticks(range(len(ranked)), [name for name, _ in ranked], fontsize=7)
    axes.set_ylim(-0.5, len(ranked) - 0.5)
    for i in range(max(len(mine[key]) for _, mine in ranked)):
        points = [(mine[key][i], at) for at, (_, mine) in enumerate(ranked) if i < len(mine[key])]
        colour = plt.cm.viridis((first + i - 1) / 3)
        axes.plot(*zip(*points, strict=True), "o", color=colour, ms=4, label=f"layer {first + i}")
    axes.axvline(0, color=GREY, lw=0.8)


def main() -> int:
    try:
        tgo.tune_allocator()
        every, dataset = dict(trained()), data.load("full")
        if not every:
            raise ValueError(f"no model in {FULL.out}: run the study first")
        firing = {r.defence: model for r, model in every.items() if r.seed == 0 and r.neurons != "ANN"}
        found = measured(firing, dataset)
        test = train.tensors(dataset.test)
        shares = {r.name: accuracy(model, *test) for r, model in tqdm(every.items(), desc="accuracy", disable=None)}
        found["accuracy"] = {name: round(share, 4) for name, share in shares.items()}
    except (ValueError, data.DataError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    (FULL.out / "diagnoses.json").write_text(json.dumps(found, indent=1) + "\n")
    draw_transfer(found["transfer"], FULL.figures / "robustness_transfer.png")
    draw_insides(found, FULL.figures / "robustness_insides.png")
    print(f"written to {FULL.out}: diagnoses.json; figures to {FULL.figures}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
