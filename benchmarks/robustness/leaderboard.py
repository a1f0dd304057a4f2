"""The leaderboard, a page of the documentation, from the records of the full study and from those that others gave.

    python -m benchmarks.robustness.leaderboard                        writes docs/leaderboard.md
    python -m benchmarks.robustness.leaderboard --images images.npz    writes the images and labels under attack

What a record must have is what docs/protocol.md says; one that has not is refused, by name.
"""

import argparse
import json
import statistics
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from benchmarks.robustness import data, findings, study
from tgo_kernels.robustness import ANSWERS, Outcome, Victim, attacks, suite
from tgo_kernels.robustness.evaluation import digest
from tgo_kernels.robustness.outcome import markdown
from tgo_kernels.robustness.suite import IDLE_OF_LAYERS, QUIET, selected

FULL = study.STUDIES["full"]
PAGE = study.ROOT / "docs" / "leaderboard.md"
GIVEN = Path(__file__).with_name("submissions")
ASKED = ("model", "trained", "noise in training", "source")  # of NAME.about.json
SHOWN = ("worst", "PGD40", "FGSM", "clean")

TGO = "TGO, arXiv 2602.20548"
SOURCES = {
    "guard": TGO,
    "noise": TGO,
    "TGO": TGO,
    "TGO-below": f"{TGO}; below the threshold alone: ours",
    "TGO-squared": f"{TGO}; squared: ours",
    "HoSNN": "HoSNN, arXiv 2308.10373; spikes in the place of filtered currents: ours",
    "L2P-channel": "Learn2Perturb, arXiv 2003.01090; one a channel, its alternation within AT: ours",
    "L2P-neuron": "Learn2Perturb, arXiv 2003.01090; its alternation within AT: ours",
    "Poisson": "arXiv 2003.10399; LIF in the place of its delayed neuron, no hybrid training: ours",
    "inhibition": "DeepEISNN, arXiv 2509.23253",
    "prediction": "our form of arXiv 2601.21823",
    "oscillation": "our form of arXiv 2211.02223, a baseline of masked gradients",
    "rescaled": "our form of arXiv 2201.12347",
    "scrambled": "our form of arXiv 2102.07389",
    "ANN": "ReLU in the place of spikes",
    "TRADES": "arXiv 1901.08573",
    "AT": "arXiv 1706.06083",
    "RAT": "SNN-RAT, Ding et al., NeurIPS 2022",
    "BPTT": "",
}
TRAINED = {"BPTT": "images", "AT": "attacked images", "RAT": "attacked images", "TRADES": "both"}


@dataclass(frozen=True)
class Entry:
    model: str
    trained: str
    noisy: str  # whether there was noise in training
    source: str
    noise: bool  # in test
    outcomes: dict[int, Outcome]  # by seed

    def cells(self) -> list[str]:
        found = [findings.spread(shares) if (shares := findings.shares(self.outcomes, k)) else "" for k in SHOWN]
        about = [self.trained, self.noisy, "yes" if self.noise else "no", str(len(self.outcomes)), self.source]
        return [self.model, *found, *about]

    @property
    def worst(self) -> float:
        return statistics.mean(findings.shares(self.outcomes, "worst"))


def ours() -> list[Entry]:
    """The rows of the study that are through."""
    found: dict[tuple[str, bool], Entry] = {}
    for recipe in FULL.recipes():
        for name, noise in study.TRIALS.items():
            outcome = Outcome.read(FULL.record(recipe, name))
            row = findings.row_of(recipe.defence, name, noise)
            if not outcome.through or row[0].endswith((findings.MASKED, findings.PARTIAL)):  # neither is a worst case
                continue
            if row not in found:
                noisy = recipe.noise or recipe.neurons.startswith("L2P") or recipe.input == "Poisson"
                about = TRAINED[recipe.method], "yes" if noisy else "no", source(row[0])
                found[row] = Entry(row[0], *about, noise, {})
            found[row].outcomes[recipe.seed] = outcome
    return list(found.values())


def source(name: str) -> str:
    """Of each part of a row's name."""
    parts = [part.strip() for part in name.removeprefix("VGG11-").replace(",", "+").split("+")]
    known = (part if part in SOURCES else part.split("-")[0] for part in parts)  # Poisson-T4, rescaled-opposite
    return "; ".join(text for part in known if (text := SOURCES.get(part, "")))


def given(folder: Path = GIVEN) -> list[Entry]:
    """What others gave: NAME.about.json, and NAME.off.json, NAME.on.json or both.

    Raises:
        ValueError: naming the file, and what it lacks.
    """
    found = []
    images = dict(zip(("digest", "labels"), map(digest, attacked()), strict=True))
    for path in sorted(folder.glob("*.about.json")):
        about = json.loads(path.read_text())
        if missing := [key for key in ASKED if not isinstance(about.get(key), str)]:
            raise ValueError(f"{path.name} must have, as texts, {', '.join(ASKED)}; {', '.join(missing)} is missing")
        records = {on: path.with_name(path.name.replace(".about.", f".{on}.")) for on in ("off", "on")}
        if not any(record.exists() for record in records.values()):
            names = " or ".join(record.name for record in records.values())
            raise ValueError(f"{path.name} must have a record beside it, {names}")
        for on, record in records.items():
            if record.exists():
                outcome = Outcome.read(record)
                check(record.name, outcome, images | {"noise": on == "on"})
                found.append(Entry(*(about[key] for key in ASKED), on == "on", {0: outcome}))
    return found


def check(name: str, outcome: Outcome, images: dict[str, Any]) -> None:
    """That a record is of this leaderboard."""
    asked = {"images": FULL.images, "eps": attacks.EPS, "norm": "linf", "seed": 0, **images, **asdict(FULL.effort)}
    asked |= {"answers": ANSWERS} if images["noise"] else {}
    if other := [key for key, value in asked.items() if outcome.about.get(key) != value]:
        was = ", ".join(f"{key} {outcome.about.get(key)!r} in the place of {asked[key]!r}" for key in other)
        raise ValueError(f"{name} is of another evaluation: {was}")
    if not outcome.through:
        raise ValueError(f"{name} is not through: go on with it")
    if missing := asked_of_all(bool(images["noise"]), QUIET in outcome.stood) - outcome.stood.keys():
        raise ValueError(f"{name} lacks {', '.join(sorted(missing))}")


def asked_of_all(noise: bool, can_be_quiet: bool = False) -> set[str]:
    """The attacks that the standard suite has, whatever the model is, but for a switch of its noise."""
    victim = Victim(nn.Flatten(), switch=(lambda on: None) if can_be_quiet else None)
    found = set(selected(suite(victim, FULL.effort, noise), FULL.effort))
    return found - set(IDLE_OF_LAYERS) if can_be_quiet else found


def attacked() -> tuple[Any, Any]:
    return study.attacked(FULL, data.load("full"))


def page(entries: list[Entry]) -> str:
    entries = sorted(entries, key=lambda entry: -entry.worst)
    heads = ["model", "worst case", "PGD-40", "FGSM", "clean", "trained on", "noise in training", "noise in test"]
    table = markdown([[*heads, "seeds", "source"], *(entry.cells() for entry in entries)], left=1)
    return "\n".join(
        [
            "# Leaderboard",
            "",
            f"Images right in per cent, of the same {FULL.images} of Fashion-MNIST, eps 8/255: under every attack of "
            "the standard suite (the worst case), under PGD-40, under FGSM, and as they are; mean and standard "
            f"deviation over seeds. The standard error of one model is up to {50 / FULL.images**0.5:.0f} points: rows "
            "nearer than that are not told apart by one seed. A click on a head sorts. How rows come here is the "
            "[protocol](protocol.md); with noise in test, compare with rows that have it too.",
            "",
            *table,
            "",
            "All are the same network of three convolutions, T = 4 unless said, but VGG-11 with an eighth of its "
            "channels and those that others gave; `x3`: trained three times as long. Records, settings and weights: "
            "`benchmarks/robustness/results/`, `benchmarks/robustness/submissions/`.",
            *missing(),
            "",
        ]
    )


def missing() -> list[str]:
    """The study's networks of which a record is not through."""
    left: dict[str, list[int]] = {}
    for recipe in FULL.recipes():
        if not all(Outcome.read(FULL.record(recipe, name)).through for name in study.trials(recipe)):
            left.setdefault(recipe.defence, []).append(recipe.seed)
    rows = [f"{name} ({', '.join(map(str, seeds))})" for name, seeds in left.items()]
    said = (
        f"Missing, for want of time: {sum(map(len, left.values()))} networks, each half an hour of one core (VGG-11 "
        f"and `x3` more), and a part of `make robustness-full`. By seed: {', '.join(rows)}."
    )
    return ["", said] if left else []


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, metavar="FILE", help="write the images and labels, and no page")
    options = parser.parse_args(argv)
    try:
        if options.images:
            images, labels = attacked()
            np.savez_compressed(options.images, images=images.numpy(), labels=labels.numpy())
            print(f"written to {options.images}: {len(images)} images and their labels")
        else:
            PAGE.write_text(page([*ours(), *given()]))
            print(f"written to {PAGE.relative_to(study.ROOT)}")
    except (ValueError, data.DataError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
