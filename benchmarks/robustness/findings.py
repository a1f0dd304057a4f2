"""What a study found: its table, the checklist against masked gradients, and the answers to the paper's claims."""

import csv
import statistics
from pathlib import Path

from benchmarks.robustness.recipe import Recipe
from tgo_kernels.robustness import ANSWERS, Outcome
from tgo_kernels.robustness.checklist import CHECKS, MORE, SLACK, WITH_NOISE, passes, slack
from tgo_kernels.robustness.diagnostics import Diagnosis
from tgo_kernels.robustness.outcome import markdown

Row = tuple[str, bool]  # defence, noise in test
Outcomes = dict[Row, dict[int, Outcome]]  # then by seed
MAIN = ("clean", "FGSM", "PGD7", "PGD40", "APGD", "SA-PGD + ASSG", "worst")
GAINS = ("FGSM", "PGD40", "APGD", "SA-PGD + ASSG", "worst")
HOSNN = {"LIF": 0.3090, "HoSNN": 0.7491}  # Fashion-MNIST, PGD7 at 8/255 (arXiv 2308.10373)


def spread(values: list[float], digits: int = 1) -> str:
    """Mean, and the standard deviation over seeds where there are several."""
    mean = f"{100 * statistics.mean(values):.{digits}f}"
    return mean if len(values) == 1 else f"{mean} ± {100 * statistics.stdev(values):.{digits}f}"


def name_of(row: Row) -> str:
    defence, noise = row
    return defence + (", noise in test" if noise else "")


def on_the_same(outcomes: Outcomes) -> Outcomes:
    """Every row on those first images that all have."""
    count = min(len(outcome) for seeds in outcomes.values() for outcome in seeds.values())
    return {row: {seed: outcome.first(count) for seed, outcome in seeds.items()} for row, seeds in outcomes.items()}


def results(outcomes: Outcomes, names: tuple[str, ...]) -> list[str]:
    cells = [["defence", "noise in test", "seeds", *names]]
    for (defence, noise), seeds in outcomes.items():
        shares = [outcome.shares for outcome in seeds.values()]
        row = [
            spread([s[name] for s in shares if name in s]) if any(name in s for s in shares) else "" for name in names
        ]
        cells.append([defence, "on" if noise else "off", str(len(seeds)), *row])
    return markdown(cells, left=2)


def checklist(outcomes: Outcomes) -> list[str]:
    """How many of a defence's models pass each check, of those that any model has the attacks for."""
    cells = [["check", *(f"{d}{', noise' if noise else ''}" for d, noise in outcomes)]]
    for name, check in (CHECKS | WITH_NOISE).items():
        row = [name]
        for (_, noise), seeds in outcomes.items():
            asked = list(seeds.values()) if noise or name in CHECKS else []
            found = [passes(check, outcome, noise) for outcome in asked]
            known = [passed for passed in found if passed is not None]
            row.append("" if not known else "pass" if all(known) else f"FAIL {known.count(False)}/{len(known)}")
        if any(row[1:]):
            cells.append(row)
    return markdown(cells, left=1)


def gain(outcomes: Outcomes, row: Row, control: Row, attack: str) -> list[float]:
    """What ``row`` withstands more than ``control`` under this attack, seed by seed, on the images that both have."""
    after, before = outcomes.get(row, {}), outcomes.get(control, {})
    seeds = sorted(after.keys() & before.keys())
    pairs = [on_the_same({row: {s: after[s]}, control: {s: before[s]}}) for s in seeds]
    return [pair[row][s].shares[attack] - pair[control][s].shares[attack] for s, pair in zip(seeds, pairs, strict=True)]


def controls(outcomes: Outcomes) -> list[tuple[Row, Row]]:
    """Each row of TGO, and each with noise in test, beside the row that differs from it in that one thing."""
    pairs = [((d, n), (d.removesuffix("+TGO"), n)) for d, n in outcomes if d.endswith("+TGO")]
    pairs += [((d, True), (d, False)) for d, n in outcomes if n]
    return sorted((pair for pair in pairs if pair[1] in outcomes), key=lambda pair: list(outcomes).index(pair[0]))


def gains(outcomes: Outcomes) -> list[str]:
    cells = [["gain of", "over", *GAINS]]
    for row, control in controls(outcomes):
        found = [gain(outcomes, row, control, attack) for attack in GAINS]
        if all(found):
            cells.append([name_of(row), name_of(control), *map(spread, found)])
    return markdown(cells, left=2)


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
            row, control = (f"{defence}+TGO", noise), (defence, noise)
            if found := gain(outcomes, row, control, attack):
                verdict = "Yes" if 100 * statistics.mean(found) >= points else "No"
                worst = spread(gain(outcomes, row, control, "worst"))
                alone = spread(gain(outcomes, control, (defence, False), "worst"))
                lines.append(
                    f"- Does {defence}+TGO gain at least {points} points under {attack}, noise "
                    f"{'on' if noise else 'off'} in test? {verdict}: {spread(found)} points over {name_of(control)}, "
                    f"{worst} in the worst case{f', where noise in test alone gains {alone}' if noise else ''}."
                )
    at = {row: [outcome.shares["PGD7"] for outcome in seeds.values()] for row, seeds in outcomes.items()}
    said = ", ".join(f"{defence} {spread(shares)}" for (defence, noise), shares in at.items() if not noise)
    lines.append(
        f"- PGD7 at 8/255 on Fashion-MNIST, noise off: {said}; published: LIF {100 * HOSNN['LIF']:.2f}, HoSNN "
        f"{100 * HOSNN['HoSNN']:.2f} (trained with FGSM 2/255, another network)."
    )
    return lines


def report(
    recipe: Recipe, outcomes: Outcomes, diagnoses: dict[str, list[Diagnosis]], images: int, effort: dict[str, int]
) -> str:
    counts = [len(outcome) for seeds in outcomes.values() for outcome in seeds.values()]
    tested, noisy = max(counts), min(counts)
    same = on_the_same(outcomes)
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
    answered = {o.about.get("answers", ANSWERS) for (_, on), seeds in outcomes.items() if on for o in seeds.values()}
    draws = " or ".join(map(str, sorted(answered or {ANSWERS})))
    parts = [
        f"# Robustness: {recipe.network}, {recipe.data} data",
        "",
        f"Accuracy in per cent, mean and standard deviation over seeds, on {tested} test images (standard error of one "
        f"model up to {50 / tested**0.5:.1f}), noise off; eps 8/255. "
        f"Worst: images right under every attack at that eps. Trained on {images} images for {recipe.epochs} "
        f"epochs, T={recipe.steps}; noise_std {recipe.noise_std:g}, guard_margin {recipe.guard_margin:g}, lambda_max "
        f"{recipe.lambda_max:g}, ATan({recipe.alpha:g}). {said}.",
        "",
        *results({row: seeds for row, seeds in outcomes.items() if not row[1]}, MAIN),
        "",
        "## Noise in test, and its controls",
        "",
        f"All on the first {noisy} of these images (standard error up to {50 / noisy**0.5:.1f}). With noise a model "
        f"answers by the mean of {draws} draws, and strong attacks follow that of several. BPTT, AT and RAT are "
        f"trained without noise: theirs, of the same noise_std, is on in test alone.",
        "",
        *results(same, MAIN),
        "",
        "Points gained over what differs in one thing alone:",
        "",
        *gains(same),
        "",
        "## The other attacks",
        "",
        f"On the first {noisy} images.",
        "",
        *results(same, others),
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
        *markdown(gradients, left=1),
        "",
    ]
    return "\n".join(parts)


def write_csv(path: Path, outcomes: Outcomes) -> None:
    """On all images of a row, and on those that all rows have."""
    same = on_the_same(outcomes)
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["defence", "noise_in_test", "seed", "images", "attack", "accuracy"])
        for (defence, noise), seeds in outcomes.items():
            for seed, outcome in sorted(seeds.items()):
                for count in sorted({len(same[defence, noise][seed]), len(outcome)}):
                    for attack, share in outcome.first(count).shares.items():
                        writer.writerow([defence, noise, seed, count, attack, f"{share:.4f}"])
