"""The pictures of a study."""

import statistics
from pathlib import Path

import matplotlib.pyplot as plt

from benchmarks.plot import GREY, finish, panel, style
from benchmarks.robustness import distances
from benchmarks.robustness.findings import MASKED, PARTIAL, SHORT, Outcomes, name_of, shares
from benchmarks.robustness.recipe import Recipe
from tgo_kernels.robustness.attacks import EPS
from tgo_kernels.robustness.diagnostics import Diagnosis
from tgo_kernels.robustness.suite import LARGER

COLOURS = {"BPTT": "#8a8f98", "AT": "#4c8dd6", "RAT": "#b06ad1", "TRADES": "#d9713c"}


def look(defence: str) -> dict[str, object]:
    """A method's colour, stronger with TGO."""
    method, _, extra = defence.partition("+")
    return {"color": COLOURS[method], "alpha": 1.0 if extra else 0.35}


def draw(folder: Path, recipe: Recipe, outcomes: Outcomes, diagnoses: dict[str, list[Diagnosis]]) -> None:
    whole = {row: seeds for row, seeds in outcomes.items() if not row[0].endswith((MASKED, PARTIAL))}
    accuracies(whole, folder / "robustness_accuracy.png")
    growth({row: seeds for row, seeds in outcomes.items() if row[0] in SHORT}, folder / "robustness_eps.png")
    if diagnoses:
        membranes(recipe, diagnoses, folder / "robustness_theory.png")
    if "BPTT" in diagnoses and "BPTT+TGO" in diagnoses:
        title = f"How far the membranes are from their threshold ({recipe.data} data, {recipe.epochs} epochs)"
        before, after = (diagnoses[name][0].distances for name in ("BPTT", "BPTT+TGO"))
        distances.draw(before, after, title, folder / "robustness_distances.png")


def accuracies(outcomes: Outcomes, path: Path) -> None:
    """A line for each defence, the most robust at the top: from PGD-40, as papers report it, down to the worst case."""

    def mean(row: tuple[str, bool], attack: str) -> float:
        return 100 * statistics.mean(shares(outcomes[row], attack) or [float("nan")])

    images = len(next(iter(next(iter(outcomes.values())).values())))
    ranked = sorted({defence for defence, _ in outcomes}, key=lambda d: worst_of(outcomes, d))
    size = (9, 1.2 + 0.24 * len(ranked))
    figure, panels = plt.subplots(1, 2, figsize=size, layout="constrained", sharex=True, sharey=True)
    for noise, axes in zip((False, True), panels, strict=True):
        style(axes, f"Noise in test {'on' if noise else 'off'}", f"of {images} images, eps 8/255, right (%)", "")
        axes.set_yticks(range(len(ranked)), ranked, fontsize=8)
        for at, defence in enumerate(ranked):
            row = defence, noise
            if row not in outcomes:
                continue
            colour = COLOURS[defence.removeprefix("VGG11-").partition("+")[0].partition(",")[0]]
            worst, reported, clean = (mean(row, attack) for attack in ("worst", "PGD40", "clean"))
            axes.plot([worst, reported], [at, at], color=colour, lw=1.5, alpha=0.5)
            axes.plot([reported], [at], "o", mfc="white", color=colour, ms=5)
            axes.plot([clean], [at], "|", color=GREY, ms=7)
            error = [100 * statistics.stdev(v)] if len(v := shares(outcomes[row], "worst")) > 1 else None
            axes.errorbar([worst], [at], xerr=error, fmt="o", color=colour, ms=6)
    for marker, label in (("|", "clean"), ("o", "PGD-40")):
        panels[1].plot([], [], marker, color=GREY, mfc="white", ls="", label=label)
    panels[1].plot([], [], "o", color=GREY, ls="", label="worst of all attacks")
    panels[0].set_xlim(left=0)
    figure.legend(loc="outside lower center", ncols=3, frameon=False, fontsize=8, labelcolor=GREY)
    figure.savefig(path, dpi=150, transparent=True)
    plt.close(figure)


def worst_of(outcomes: Outcomes, defence: str) -> list[float]:
    """Noise off, and on."""
    return [
        statistics.mean(shares(outcomes[defence, noise], "worst")) for noise in (0, 1) if (defence, noise) in outcomes
    ]


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
