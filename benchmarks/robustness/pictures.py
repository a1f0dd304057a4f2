"""The pictures of a study."""

import statistics
from pathlib import Path

import matplotlib.pyplot as plt

from benchmarks.plot import GREY, finish, panel, style
from benchmarks.robustness import distances
from benchmarks.robustness.findings import Outcomes, name_of, on_the_same
from benchmarks.robustness.recipe import Recipe
from tgo_kernels.robustness.attacks import EPS
from tgo_kernels.robustness.diagnostics import Diagnosis
from tgo_kernels.robustness.suite import LARGER

COLOURS = {"BPTT": "#8a8f98", "AT": "#4c8dd6", "RAT": "#b06ad1"}
SHOWN = ("clean", "FGSM", "PGD40", "SA-PGD + ASSG", "worst")


def look(defence: str, noise: bool = False) -> dict[str, object]:
    """A method's colour, the stronger the more is added to it; hatched where noise is on in test."""
    method, _, extra = defence.partition("+")
    strength = {"": 0.35, "guard": 0.55, "noise": 0.75, "TGO": 1.0}[extra]
    return {"color": COLOURS[method], "alpha": strength, "hatch": "//" if noise else None}


def draw(folder: Path, recipe: Recipe, outcomes: Outcomes, diagnoses: dict[str, list[Diagnosis]]) -> None:
    same = on_the_same(outcomes)
    accuracies(same, folder / "robustness_accuracy.png")
    growth(same, folder / "robustness_eps.png")
    if diagnoses:
        membranes(recipe, diagnoses, folder / "robustness_theory.png")
    if "BPTT" in diagnoses and "BPTT+TGO" in diagnoses:
        title = f"How far the membranes are from their threshold ({recipe.data} data, {recipe.epochs} epochs)"
        before, after = (diagnoses[name][0].distances for name in ("BPTT", "BPTT+TGO"))
        distances.draw(before, after, title, folder / "robustness_distances.png")


def accuracies(outcomes: Outcomes, path: Path) -> None:
    images = len(next(iter(next(iter(outcomes.values())).values())))
    axes = panel(f"Accuracy under attack, eps 8/255, the same {images} images", "", "images right (%)")
    width = 0.85 / len(outcomes)
    for i, ((defence, noise), seeds) in enumerate(outcomes.items()):
        values = [[100 * o.shares[attack] for o in seeds.values() if attack in o.shares] for attack in SHOWN]
        at = [x + (i - (len(outcomes) - 1) / 2) * width for x in range(len(SHOWN))]
        means = [statistics.mean(v) if v else 0 for v in values]
        errors = [statistics.stdev(v) if len(v) > 1 else 0 for v in values]
        about = {"label": name_of((defence, noise))} | look(defence, noise)
        axes.bar(at, means, width * 0.9, yerr=errors, ecolor=GREY, edgecolor=GREY, **about)
    axes.set_xticks(range(len(SHOWN)), SHOWN)
    axes.figure.set_size_inches(9, 3.8)
    finish(axes, path)


def growth(outcomes: Outcomes, path: Path) -> None:
    axes = panel("PGD-20 with larger eps", "eps * 255", "images right (%)")
    attacks = {round(255 * EPS): "PGD20"} | {round(255 * EPS * k): f"PGD20, eps {255 * EPS * k:g}/255" for k in LARGER}
    for (defence, noise), seeds in outcomes.items():
        known = [o.shares for o in seeds.values() if all(attack in o.stood for attack in attacks.values())]
        if known:
            values = [100 * statistics.mean(shares[attack] for shares in known) for attack in attacks.values()]
            line = "--" if noise else "-"
            marker = "o" if "+" in defence else "."
            color = look(defence)["color"]
            axes.plot(list(attacks), values, line, color=color, marker=marker, label=name_of((defence, noise)))
    axes.set_xscale("log", base=2)
    axes.set_xticks(list(attacks), [str(eps) for eps in attacks])
    finish(axes, path)


def membranes(recipe: Recipe, diagnoses: dict[str, list[Diagnosis]], path: Path) -> None:
    figure, ((near, flips), (sparse, slope)) = plt.subplots(2, 2, figsize=(9, 6.4), layout="constrained")
    style(near, "Threshold neighbours by layer", "LIF layer", "membranes within the margin (%)")
    style(flips, f"Flips under noise, sigma {recipe.noise_std:g}", "|h - v_threshold|", "share that flips (%)")
    style(sparse, "Gradient sparsity", "", "pixels with next to no gradient (%)")
    style(slope, "Jacobian of the logits", "", "Frobenius norm")
    width = 0.85 / len(diagnoses)
    for i, (defence, found) in enumerate(diagnoses.items()):
        layers = [100 * statistics.mean(layer) for layer in zip(*(d.distances.layers for d in found), strict=True)]
        at = [x + 1 + (i - (len(diagnoses) - 1) / 2) * width for x in range(len(layers))]
        near.bar(at, layers, width * 0.9, label=defence, **look(defence))
        sparse.bar([defence], [100 * statistics.mean(d.gradients.sparsity for d in found)], **look(defence))
        slope.bar([defence], [statistics.mean(d.gradients.jacobian for d in found)], **look(defence))
        measured = found[0].flips
        marker = "o" if "+" in defence else "."
        share = [100 * m for m in measured.measured]
        flips.plot(measured.distance, share, marker, color=look(defence)["color"], ms=4)
    expected = next(iter(diagnoses.values()))[0].flips
    flips.plot(expected.distance, [100 * e for e in expected.expected], color=GREY, lw=1, label="closed form")
    near.set_xticks(range(1, len(layers) + 1))
    for axes in (sparse, slope):
        axes.tick_params(axis="x", labelsize="small")
    flips.legend(frameon=False, labelcolor=GREY, fontsize="small")
    near.legend(frameon=False, labelcolor=GREY, fontsize="small")
    figure.savefig(path, dpi=150, transparent=True)
    plt.close(figure)
