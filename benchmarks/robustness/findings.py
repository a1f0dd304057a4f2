"""What a study found: its table, the checklist against masked gradients, and the answers to the paper's claims."""

import csv
import statistics
from collections.abc import Callable
from pathlib import Path

from benchmarks.robustness import report as tables
from benchmarks.robustness.attacks import ANSWERS
from benchmarks.robustness.evaluate import LARGER, QUIET, SWEEP, Outcome
from benchmarks.robustness.recipe import Recipe
from benchmarks.robustness.theory import Diagnosis

Outcomes = dict[tuple[str, bool], dict[int, Outcome]]  # by defence and noise in test, then by seed
MAIN = ("clean", "FGSM", "RFGSM", "PGD10", "PGD20", "PGD40", "SA-PGD + ASSG", "worst")
SLACK = 0.01  # of accuracy, for the random start of attacks
AT_RANDOM = 0.03  # share of images that a noisy model answers now so, now so; measured on four models
MORE = 0.04  # that stronger attacks may find beyond PGD
HOSNN = {"LIF": 0.3090, "HoSNN": 0.7491}  # Fashion-MNIST, PGD7 at 8/255 (arXiv 2308.10373)

# What must hold where gradients are not masked, of accuracies and within a slack. None: not measured for this model.
Check = Callable[[dict[str, float], float], bool | None]
CHECKS: dict[str, Check] = {
    "more steps never help the defender": lambda a, e: a["PGD40"] - e <= a["PGD20"] <= a["PGD10"] + e,
    "many steps beat one": lambda a, e: a["PGD40"] <= a["FGSM"] + e,
    "larger eps reaches zero": lambda a, e: a[f"PGD20, eps {LARGER[-1]}/255"] <= e,
    "random noise does less than attacks": lambda a, e: a["random"] + e >= a["FGSM"],
    "white-box beats transfer": lambda a, e: a["PGD20"] <= a["transfer"] + e if "transfer" in a else None,
    "gradients beat the gradient-free Square": lambda a, e: a["PGD40"] <= a["Square"] + e,
    "no other surrogate finds more": lambda a, e: a["PGD20"] <= min(a[f"PGD20, {name}"] for name in SWEEP) + e + MORE,
    "SA-PGD + ASSG finds little more than PGD40": lambda a, e: a["PGD40"] <= a["SA-PGD + ASSG"] + e + MORE,
}
WITH_NOISE: dict[str, Check] = {
    "EoT beats a single draw": lambda a, e: a["PGD20, EoT"] <= a["PGD20"] + e,
    "gradients without noise find little more": lambda a, e: a["SA-PGD + ASSG"] <= a[QUIET] + e + MORE,
}


def slack(noise: bool, images: int) -> float:
    """With noise, two standard errors of the difference of two askings more."""
    return SLACK + (2 * (AT_RANDOM / (2 * images)) ** 0.5 if noise else 0)


def spread(values: list[float], digits: int = 1) -> str:
    """Mean, and the standard deviation over seeds where there are several."""
    mean = f"{100 * statistics.mean(values):.{digits}f}"
    return mean if len(values) == 1 else f"{mean} ± {100 * statistics.stdev(values):.{digits}f}"


def results(outcomes: Outcomes, names: tuple[str, ...]) -> list[str]:
    cells = [["defence", "noise in test", "seeds", *names]]
    for (defence, noise), seeds in outcomes.items():
        shares = [outcome.shares for outcome in seeds.values()]
        row = [
            spread([s[name] for s in shares if name in s]) if any(name in s for s in shares) else "" for name in names
        ]
        cells.append([defence, "on" if noise else "off", str(len(seeds)), *row])
    return tables.markdown(cells, left=2)


def checklist(outcomes: Outcomes) -> list[str]:
    """How many of a defence's models pass each check."""
    cells = [["check", *(f"{d}{', noise' if noise else ''}" for d, noise in outcomes)]]
    for name, check in (CHECKS | WITH_NOISE).items():
        row = [name]
        for (_, noise), seeds in outcomes.items():
            asked = list(seeds.values()) if noise or name in CHECKS else []
            found = [check(outcome.shares, slack(noise, len(outcome))) for outcome in asked]
            known = [passed for passed in found if passed is not None]
            row.append("" if not known else "pass" if all(known) else f"FAIL {known.count(False)}/{len(known)}")
        cells.append(row)
    return tables.markdown(cells, left=1)


def gain(outcomes: Outcomes, defence: str, attack: str, noise: bool = False) -> list[float]:
    """What TGO adds to a method under this attack, seed by seed, on the same images."""
    plain, guarded = outcomes.get((defence, False), {}), outcomes.get((f"{defence}+TGO", noise), {})
    pairs = [(plain[s].first(len(guarded[s])), guarded[s]) for s in sorted(plain.keys() & guarded.keys())]
    return [after.shares[attack] - before.shares[attack] for before, after in pairs]


def answers(outcomes: Outcomes, diagnoses: dict[str, list[Diagnosis]]) -> list[str]:
    """The paper's claims, each beside what was measured."""
    lines = []
    if "BPTT" in diagnoses and "BPTT+TGO" in diagnoses:
        before, after = (
            statistics.mean(d.distances.neighbor_rate for d in diagnoses[name]) for name in ("BPTT", "BPTT+TGO")
        )
        lines.append(
            f"- Does the guard lower the share of threshold neighbours by 40 %? By {1 - after / before:.0%}: from "
            f"{before:.1%} to {after:.1%}."
        )
    for defence, attack, points in (("BPTT", "FGSM", 20), ("AT", "PGD40", 5)):
        for noise in (False, True):
            found = {name: gain(outcomes, defence, name, noise) for name in (attack, "worst", "SA-PGD + ASSG")}
            if gains := found[attack]:
                verdict = "Yes" if 100 * statistics.mean(gains) >= points else "No"
                lines.append(
                    f"- Does {defence}+TGO gain at least {points} points under {attack}, noise "
                    f"{'on' if noise else 'off'} in test? {verdict}: {spread(gains)} points. In the worst case "
                    f"{spread(found['worst'])} are left, under SA-PGD + ASSG {spread(found['SA-PGD + ASSG'])}."
                )
    at = {key: [outcome.shares["PGD7"] for outcome in seeds.values()] for key, seeds in outcomes.items()}
    said = ", ".join(f"{d}{' with noise' if noise else ''} {spread(v)}" for (d, noise), v in at.items())
    lines.append(
        f"- PGD7 at 8/255 on Fashion-MNIST: {said}; published: LIF {100 * HOSNN['LIF']:.2f}, HoSNN "
        f"{100 * HOSNN['HoSNN']:.2f} (trained with FGSM 2/255, another network)."
    )
    return lines


def report(
    recipe: Recipe, outcomes: Outcomes, diagnoses: dict[str, list[Diagnosis]], images: int, effort: dict[str, int]
) -> str:
    counts = [len(outcome) for seeds in outcomes.values() for outcome in seeds.values()]
    tested, noisy = max(counts), min(counts)
    with_noise = (
        f"With noise in test on the first {noisy} of them ({50 / noisy**0.5:.1f}): a model answers by the mean of "
        f"{ANSWERS} draws, and strong attacks follow that of several. "
    )
    names = list(dict.fromkeys(k for seeds in outcomes.values() for o in seeds.values() for k in o.stood))
    others = tuple(name for name in names if name not in MAIN)
    gradients = [["defence", "gradient sparsity", "L1 of the gradient", "Jacobian", "threshold neighbours by layer"]]
    for defence, found in diagnoses.items():
        layers = zip(*(d.distances.layers for d in found), strict=True)
        values = [[getattr(d.gradients, key) for d in found] for key in ("sparsity", "norm", "jacobian")]
        share, *sizes = (statistics.mean(v) for v in values)
        near = ", ".join(f"{statistics.mean(layer):.1%}" for layer in layers)
        gradients.append([defence, f"{share:.1%}", *(f"{size:.3g}" for size in sizes), near])
    said = ", ".join(f"{key} {value}" for key, value in effort.items())
    parts = [
        f"# Robustness: {recipe.network}, {recipe.data} data",
        "",
        f"Accuracy in per cent, mean and standard deviation over seeds, on {tested} test images (standard error of one "
        f"model up to {50 / tested**0.5:.1f}); eps 8/255. {with_noise if any(noise for _, noise in outcomes) else ''}"
        f"Worst: images right under every attack at that eps. Trained on {images} images for {recipe.epochs} "
        f"epochs, T={recipe.steps}; noise_std {recipe.noise_std:g}, guard_margin {recipe.guard_margin:g}, lambda_max "
        f"{recipe.lambda_max:g}, ATan({recipe.alpha:g}). {said}.",
        "",
        *results(outcomes, MAIN),
        "",
        "## The other attacks",
        "",
        *results(outcomes, others),
        "",
        "## Are gradients masked?",
        "",
        f"What must hold where they are not, within {100 * SLACK:g} point of accuracy, {100 * slack(True, noisy):.1f} "
        f"with noise in test; stronger attacks may find {100 * MORE:g} more.",
        "",
        *checklist(outcomes),
        "",
        "## The paper's claims",
        "",
        *answers(outcomes, diagnoses),
        "",
        "## What the theory looks at",
        "",
        f"Noise off, margin {recipe.guard_margin:g} for all.",
        "",
        *tables.markdown(gradients, left=1),
        "",
    ]
    return "\n".join(parts)


def write_csv(path: Path, outcomes: Outcomes) -> None:
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["defence", "noise_in_test", "seed", "attack", "accuracy"])
        for (defence, noise), seeds in outcomes.items():
            for seed, outcome in sorted(seeds.items()):
                for attack, share in outcome.shares.items():
                    writer.writerow([defence, noise, seed, attack, f"{share:.4f}"])
