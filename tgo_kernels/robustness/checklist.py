"""The checklist against masked gradients: what must hold of an evaluation where gradients are what they seem."""

from collections.abc import Callable, Mapping

from tgo_kernels.robustness.outcome import Outcome
from tgo_kernels.robustness.suite import QUIET, SWEEP

SLACK = 0.01  # of accuracy, for the random start of attacks
AT_RANDOM = 0.03  # share of images that a noisy model answers now so, now so; measured on four models
MORE = 0.04  # that stronger attacks may find beyond PGD
SEARCH, MARGINS = "local search", "margin, ATan(8)"

# Of accuracies, within a slack; None, or a KeyError: not measured for this model.
Shares = Mapping[str, float]
Check = Callable[[Shares, float], bool | None]


def largest(a: Shares) -> float:
    """What is left at the largest eps."""
    return a[max((name for name in a if ", eps " in name), key=lambda name: float(name.split("eps ")[1].split("/")[0]))]


def swept(a: Shares) -> float:
    """What is left along another surrogate than that of training."""
    return min(a[name] for name in (f"PGD20, {name}" for name in SWEEP) if name in a)


CHECKS: dict[str, Check] = {
    "more steps never help the defender": lambda a, e: a["PGD40"] - e <= a["PGD20"] <= a["PGD10"] + e,
    "many steps beat one": lambda a, e: a["PGD40"] <= a["FGSM"] + e,
    "larger eps reaches zero": lambda a, e: largest(a) <= e,
    "random noise does less than attacks": lambda a, e: a["random"] + e >= a["FGSM"],
    "white-box beats transfer": lambda a, e: a["PGD20"] <= a["transfer"] + e,
    "gradients beat the gradient-free Square": lambda a, e: a["PGD40"] <= a["Square"] + e,
    "no other surrogate finds more": lambda a, e: a["PGD20"] <= swept(a) + e + MORE,
    "SA-PGD + ASSG finds little more than PGD40": lambda a, e: a["PGD40"] <= a["SA-PGD + ASSG"] + e + MORE,
    "a gradient reaches every image": lambda a, e: a["no gradient"] == 0,
    "the margin finds little more than cross entropy": lambda a, e: a["before margin"] <= a[MARGINS] + e + MORE,
    "search finds little more than gradients": lambda a, e: a["before search"] <= a[SEARCH] + e + MORE,
}
WITH_NOISE: dict[str, Check] = {
    "EoT beats a single draw": lambda a, e: a["PGD20, EoT"] <= a["PGD20"] + e,
    "EoT finds little more than a single draw": lambda a, e: a["PGD20"] <= a["PGD20, EoT"] + e + MORE,
    "gradients without noise find little more": lambda a, e: a["PGD20, EoT"] <= a[QUIET] + e + MORE,
}


def slack(noise: bool, images: int) -> float:
    """With noise, two standard errors of the difference of two askings more."""
    return SLACK + (2 * (AT_RANDOM / (2 * images)) ** 0.5 if noise else 0)


def measured(outcome: Outcome) -> dict[str, float]:
    """The shares, and what the checks ask besides."""
    found = dict(outcome.shares)
    if "no gradient" in outcome.about:
        found["no gradient"] = float(outcome.about["no gradient"])
    for name, stage in (("before margin", MARGINS), ("before search", SEARCH)):
        if stage in outcome.tried:
            found[name] = outcome.tried[stage].float().mean().item()
    return found


def passes(check: Check, outcome: Outcome, noise: bool) -> bool | None:
    """None where the outcome has not what the check is about."""
    try:
        return check(measured(outcome), slack(noise, len(outcome)))
    except (KeyError, ValueError):
        return None


def checklist(outcome: Outcome) -> dict[str, bool]:
    """Whether the outcome passes each check that it has the attacks for: a failure is a sign of masked gradients."""
    noise = bool(outcome.about.get("noise"))
    found = {name: passes(check, outcome, noise) for name, check in (CHECKS | (WITH_NOISE if noise else {})).items()}
    return {name: passed for name, passed in found.items() if passed is not None}
