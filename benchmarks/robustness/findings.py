"""What a study found: its tables, the checklist against masked gradients, and the answers to the papers' claims."""

import csv
import statistics
from pathlib import Path
from typing import Any

import torch

from benchmarks.robustness.recipe import OF_PAPER, PARTS, Recipe
from tgo_kernels.robustness import ANSWERS, Outcome
from tgo_kernels.robustness.checklist import CHECKS, MORE, SLACK, WITH_NOISE, passes, slack
from tgo_kernels.robustness.diagnostics import Diagnosis
from tgo_kernels.robustness.outcome import markdown

Row = tuple[str, bool]  # defence, noise in test
Outcomes = dict[Row, dict[int, Outcome]]  # then by seed, all of the same images
ATTACKS = ("clean", "FGSM", "PGD7", "PGD40", "worst")
GAINS = ("FGSM", "PGD40", "worst")
RESAMPLED = 10_000  # times, the images behind a gain
SHORT = ("BPTT", "BPTT+TGO", "AT", "AT+TGO")  # what the guide shows first
# What else of a method a defence is compared with, where it is not the method alone.
ALIKE = {
    "TGO": ("", "noise", "guard"),
    "TGO-below": ("TGO",),
    "TGO-squared": ("TGO",),
    "L2P-channel": ("", "noise"),
    "L2P-neuron": ("", "noise"),
    "Poisson-T8-decay0.5": ("Poisson-T4-decay0.5",),
    "Poisson-T4-decay0.9": ("Poisson-T4-decay0.5",),
}
BESIDE = {"AT": "BPTT", "RAT": "AT", "TRADES": "AT", "BPTT+TGO+x3": "BPTT+x3", "AT+TGO+x3": "AT+x3"}
# A mask, whose worst case is that of the row without it; and a trial of some attacks alone.
MASKED, PARTIAL = ", swapped", ", released"
HOSNN = {"LIF": 0.3090, "HoSNN": 0.7491}  # Fashion-MNIST, PGD7 at 8/255 (arXiv 2308.10373)


def spread(values: list[float], digits: int = 1) -> str:
    """Mean, and the standard deviation over seeds where there are several."""
    mean = f"{100 * statistics.mean(values):.{digits}f}"
    return mean if len(values) == 1 else f"{mean} ± {100 * statistics.stdev(values):.{digits}f}"


def row_of(defence: str, trial: str, noise: bool) -> Row:
    return (defence if trial in ("off", "on") else f"{defence}, {trial}"), noise


def name_of(row: Row) -> str:
    defence, noise = row
    return defence + (", noise in test" if noise else "")


def of_tgo(row: Row) -> bool:
    """Whether it is one of the paper's own: a method, with the guard, the noise, both or none."""
    method, _, extra = row[0].partition("+")
    return method in OF_PAPER and extra in PARTS


def shares(seeds: dict[int, Outcome], name: str) -> list[float]:
    """By seed; the worst case of some attacks alone is none."""
    if name == "worst" and not all("local search" in o.stood or "PGD20, EoT" in o.stood for o in seeds.values()):
        return []
    return [outcome.shares[name] for outcome in seeds.values() if name in outcome.shares]


def results(outcomes: Outcomes, names: tuple[str, ...]) -> list[str]:
    cells = [["defence", "noise in test", "seeds", *names]]
    for (defence, noise), seeds in outcomes.items():
        row = [spread(found) if (found := shares(seeds, name)) else "" for name in names]
        cells.append([defence, "on" if noise else "off", str(len(seeds)), *row])
    return markdown(cells, left=2)


def checklist(outcomes: Outcomes) -> list[str]:
    """How many of a defence's models fail each check, of those that any model has the attacks for."""
    checks = CHECKS | WITH_NOISE
    cells = [["defence", "noise in test", "passed", "failed"]]
    for (defence, noise), seeds in outcomes.items():
        passed, failed = 0, []
        for name, check in checks.items():
            asked = list(seeds.values()) if noise or name in CHECKS else []
            found = [said for outcome in asked if (said := passes(check, outcome, noise)) is not None]
            passed += bool(found) and all(found)
            if not all(found):
                failed.append(name + (f" ({found.count(False)}/{len(found)})" if len(found) > 1 else ""))
        cells.append([defence, "on" if noise else "off", str(passed), "; ".join(failed)])
    return markdown(cells, left=2)


def gain(outcomes: Outcomes, row: Row, control: Row, attack: str) -> list[float]:
    """What ``row`` withstands more than ``control`` under this attack, seed by seed."""
    pairs = [[shares({0: outcome}, attack) for outcome in pair] for pair in both(outcomes, row, control)]
    return [x - y for mine, others in pairs for x, y in zip(mine, others, strict=False)]


def both(outcomes: Outcomes, row: Row, control: Row) -> list[tuple[Outcome, Outcome]]:
    """Of each seed that both have."""
    after, before = outcomes.get(row, {}), outcomes.get(control, {})
    return [(after[seed], before[seed]) for seed in sorted(after.keys() & before.keys())]


def interval(pairs: list[tuple[Outcome, Outcome]]) -> str:
    """Of the gain in the worst case, the middle 95 % where these models met other images like these (bootstrap)."""
    gained = torch.stack([after.right.float() - before.right.float() for after, before in pairs]).mean(0)
    chosen = torch.randint(len(gained), (RESAMPLED, len(gained)), generator=torch.Generator().manual_seed(0))
    low, high = (100 * gained[chosen].mean(1)).quantile(torch.tensor([0.025, 0.975])).tolist()
    return f"{low:.0f} to {high:.0f}"


def controls(outcomes: Outcomes) -> list[tuple[Row, Row]]:
    """Each row beside those that differ from it in one thing: the last part of its defence, or the noise in test."""
    pairs = []
    for defence, noise in outcomes:
        base, _, _ = defence.rpartition(", ")
        method, _, last = defence.rpartition("+")
        if base:
            pairs += [] if defence.endswith(MASKED) else [((defence, noise), (base, noise))]
        elif method:
            others = (f"{method}+{other}" if other else method for other in ALIKE.get(last, ("",)))
            pairs += [((defence, noise), (other, noise)) for other in others]
        if defence in BESIDE:
            pairs.append(((defence, noise), (BESIDE[defence], noise)))
        pairs += [((defence, True), (defence, False))] if noise else []
    return [pair for pair in pairs if pair[1] in outcomes]


def gains(outcomes: Outcomes, of: Outcomes | None = None) -> list[str]:
    """Of all rows, or of these."""
    cells = [["gain of", "over", *GAINS, "95 % over images"]]
    for row, control in controls(outcomes):
        if of is not None and row not in of:
            continue
        found = [gain(outcomes, row, control, attack) for attack in GAINS]
        if any(found):
            said = [spread(each) if each else "" for each in found]
            middle = interval(both(outcomes, row, control)) if said[-1] else ""
            cells.append([name_of(row), name_of(control), *said, middle])
    return markdown(cells, left=2)


def answers(outcomes: Outcomes, diagnoses: dict[str, list[Diagnosis]]) -> list[str]:
    """The papers' claims, each beside what was measured."""
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
                verdict = "Yes" if round(100 * statistics.mean(found), 3) >= points else "No"
                worst = spread(gain(outcomes, row, control, "worst"))
                alone = spread(gain(outcomes, control, (defence, False), "worst"))
                lines.append(
                    f"- Does {defence}+TGO gain at least {points} points under {attack}, noise "
                    f"{'on' if noise else 'off'} in test? {verdict}: {spread(found)} points over {name_of(control)}, "
                    f"{worst} in the worst case{f', where noise in test alone gains {alone}' if noise else ''}."
                )
    at = {
        defence: spread(shares(seeds, "PGD7"))
        for (defence, noise), seeds in outcomes.items()
        if not noise and (defence in SHORT or "HoSNN" in defence)
    }
    lines.append(
        f"- PGD7 at 8/255 on Fashion-MNIST, noise off: {', '.join(f'{name} {share}' for name, share in at.items())}; "
        f"published: LIF {100 * HOSNN['LIF']:.2f}, HoSNN {100 * HOSNN['HoSNN']:.2f} (trained with FGSM 2/255, another "
        "network)."
    )
    return lines


def idle(outcomes: Outcomes) -> list[str]:
    """By attack: in how many evaluations it was, what it found alone in all of them, and its cost."""
    cells = [["attack", "evaluations", "images it alone got wrong", "seconds, median"]]
    whole = [o for row, seeds in outcomes.items() if not row[0].endswith((MASKED, PARTIAL)) for o in seeds.values()]
    for name in dict.fromkeys(name for outcome in whole for name in outcome.alone):
        mine = [outcome for outcome in whole if name in outcome.alone]
        alone, spent = sum(o.alone[name] for o in mine), [o.spent[name] for o in mine if name in o.spent]
        if name != "clean":
            cells.append([name, str(len(mine)), str(alone), f"{statistics.median(spent):.1f}" if spent else ""])
    return markdown(cells, left=1)


def report(
    recipe: Recipe, outcomes: Outcomes, diagnoses: dict[str, list[Diagnosis]], images: int, effort: dict[str, Any]
) -> str:
    tested = len(next(iter(next(iter(outcomes.values())).values())))
    short = {row: seeds for row, seeds in outcomes.items() if row[0] in SHORT}
    tgo = {row: seeds for row, seeds in outcomes.items() if of_tgo(row)}
    rest = {row: seeds for row, seeds in outcomes.items() if not of_tgo(row)}
    names = list(dict.fromkeys(k for seeds in outcomes.values() for o in seeds.values() for k in o.stood))
    others = tuple(name for name in names if name not in ATTACKS)
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
        f"Accuracy in per cent, mean and standard deviation over seeds, of the same {tested} test images in every row "
        f"(standard error of one model up to {50 / tested**0.5:.1f}); eps 8/255. Worst: images right under every "
        f"attack at that eps. With noise in test a model answers by the mean of {ANSWERS} draws, and strong attacks "
        f"follow that of several; what was trained without noise has it, of noise_std {recipe.noise_std:g}, in test "
        f"alone. Trained on {images} images for {recipe.epochs} epochs, T={recipe.steps}; guard_margin "
        f"{recipe.guard_margin:g}, lambda_max {recipe.lambda_max:g}, ATan({recipe.alpha:g}). {said}.",
        "",
        *results(short, ATTACKS),
        "",
        "## Gains",
        "",
        "Points over what differs in one thing alone, on the same images:",
        "",
        *gains(short),
        "",
        "## Guard, noise, and both",
        "",
        *results(tgo, ATTACKS),
        "",
        *gains(tgo),
        "",
        "## Other defences",
        "",
        *(results(rest, ATTACKS) if rest else ["None yet."]),
        "",
        *(gains(outcomes, rest) if rest else []),
        "",
        "## The other attacks",
        "",
        *results(outcomes, others),
        "",
        "## What each attack found",
        "",
        *idle(outcomes),
        "",
        "## Are gradients masked?",
        "",
        f"What must hold where they are not, within {100 * SLACK:g} point of accuracy, {100 * slack(True, tested):.1f} "
        f"with noise in test; stronger attacks may find {100 * MORE:g} more.",
        "",
        *checklist(outcomes),
        "",
        "## The papers' claims",
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
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["defence", "noise_in_test", "seed", "images", "attack", "accuracy"])
        for (defence, noise), seeds in outcomes.items():
            for seed, outcome in sorted(seeds.items()):
                for attack, share in outcome.shares.items():
                    writer.writerow([defence, noise, seed, len(outcome), attack, f"{share:.4f}"])
