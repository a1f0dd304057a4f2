"""The study: trains networks with every defence, attacks them, and writes tables, checklist and figures.

    python -m benchmarks.robustness.study quick    the shipped subset, one seed, minutes
    python -m benchmarks.robustness.study full     all of Fashion-MNIST, three seeds of the main rows, days

Every network is attacked with noise in test off and on, on the same images: one trained without noise gets it in test
alone, as the control of one trained with it. Everything is kept after each epoch and each attack, and a study that was
stopped goes on. The full study's models and records are part of the repository: run again, it goes through them without
training. ``--only`` does a part, for instance ``--only AT+TGO-1``; ``--report`` reports on what there is.
"""

import argparse
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn
from tqdm import tqdm

import tgo_kernels as tgo
from benchmarks.robustness import data, findings, neurons, pictures, train
from benchmarks.robustness.models import Classifier, Poisson, with_noise
from benchmarks.robustness.recipe import OF_PAPER, PARTS, Recipe
from tgo_kernels.robustness import EFFORTS, Effort, Outcome, Victim, attacks, channels, diagnostics, evaluate

ROOT = Path(__file__).parents[2]
MAIN: dict[str, dict[str, Any]] = {
    f"{method}+{part}".rstrip("+"): {"method": method, "guard": guard, "noise": noise}
    for method in OF_PAPER
    for part, (guard, noise) in PARTS.items()
}
OTHERS: dict[str, dict[str, Any]] = {
    "AT+TGO-below": {**MAIN["AT+TGO"], "guard_side": "below"},
    "AT+TGO-squared": {**MAIN["AT+TGO"], "guard_power": 2},
    "AT+HoSNN": {"method": "AT", "neurons": "HoSNN"},
    "AT+L2P-channel": {"method": "AT", "neurons": "L2P-channel"},
    "AT+L2P-neuron": {"method": "AT", "neurons": "L2P-neuron"},
    "BPTT+Poisson-T4-decay0.5": {"input": "Poisson"},
    "BPTT+Poisson-T8-decay0.5": {"input": "Poisson", "steps": 8},
    "BPTT+Poisson-T4-decay0.9": {"input": "Poisson", "decay": 0.9},
    "BPTT+inhibition": {"norm": "inhibition", "lr": 0.03},
    "BPTT+prediction": {"neurons": "prediction"},
    "BPTT+oscillation": {"neurons": "oscillation"},
    "BPTT+scrambled": {"scrambled": 0.1},
    "TRADES": {"method": "TRADES"},
    "BPTT+ANN": {"neurons": "ANN"},
    "AT+ANN": {"method": "AT", "neurons": "ANN"},
    **{f"VGG11-{name}": {**MAIN[name], "network": "vgg11", "width": 0.125} for name in ("AT", "AT+TGO", "RAT+TGO")},
    **{f"{name}+x3": {**MAIN[name], "longer": 3} for name in ("BPTT", "BPTT+TGO", "AT", "AT+TGO")},
}
DEFENCES = MAIN | OTHERS
POOL = 500  # the images under attack are the first of so many, the same number of each class
RESCALED = 0.2  # by how much the channels of the most and of the least fragile are: ours, of the .1 to .3 suggested
FRAGILE = 200  # training images that say which these are
REPORTED = ("FGSM", "PGD7", "PGD20", "PGD40")


@dataclass(frozen=True)
class Study:
    recipe: Recipe
    defences: dict[str, tuple[int, ...]]  # and their seeds
    images: int  # of the test set, under attack
    effort: Effort
    out: Path
    figures: Path

    def recipes(self) -> list[Recipe]:
        """Seed by seed, so that a study that is stopped has whole rows."""
        seeds = sorted({seed for mine in self.defences.values() for seed in mine})
        return [
            replace(self.recipe, seed=seed, **DEFENCES[name])
            for seed in seeds
            for name, mine in self.defences.items()
            if seed in mine
        ]

    def record(self, recipe: Recipe, trial: str) -> Path:
        return self.out / f"{recipe.name}.{trial}.json"


STUDIES = {
    "quick": Study(
        Recipe(data="subset", epochs=20, batch=50),
        dict.fromkeys(findings.SHORT, (0,)),
        images=50,
        effort=EFFORTS["quick"],
        out=Path("runs/robustness"),
        figures=Path("runs/robustness"),
    ),
    "full": Study(
        Recipe(data="full"),
        dict.fromkeys(MAIN, (0, 1, 2)) | dict.fromkeys(OTHERS, (0,)) | {"BPTT+prediction": (0, 1, 2)},
        images=100,
        effort=Effort(),
        out=ROOT / "benchmarks" / "robustness" / "results",
        figures=ROOT / "figures",
    ),
}


# By name, the sign, and whether the channels are in an order by chance.
RESCALINGS = {"rescaled": (1, False), "rescaled-opposite": (-1, False), "rescaled-shuffled": (-1, True)}
# By name, whether there is noise in test.
TRIALS = {"off": False, "on": True, "released": False, "swapped": False, **dict.fromkeys(RESCALINGS, False)}


@dataclass(frozen=True)
class Trial:
    """One way to attack a trained model."""

    # Of the model and the images, a context in which it is attacked.
    change: Callable[[Classifier, data.Dataset], AbstractContextManager] = lambda model, dataset: nullcontext()
    attacks: tuple[str, ...] | None = None
    itself: bool = False  # whether examples are made on the model without the change, too


def trials(recipe: Recipe) -> dict[str, Trial]:
    """By name: noise "off", and "on" where there are spikes, and what a defence is besides known for."""

    def fragile(sign: int, shuffled: bool) -> Callable[[Classifier, data.Dataset], AbstractContextManager]:
        def change(model: Classifier, dataset: data.Dataset) -> AbstractContextManager:
            images, labels = train.tensors(dataset.limited(FRAGILE, None, seed=0).train)
            found = channels.fragility(model, images, labels, eps=attacks.EPS)
            if shuffled:
                order = torch.randperm(len(found.clean_without), generator=torch.Generator().manual_seed(0))
                found = replace(
                    found, clean_without=found.clean_without[order], attacked_without=found.attacked_without[order]
                )
            return channels.rescaled(model, found, RESCALED, sign)

        return change

    found = {"off": Trial()}
    if recipe.neurons != "ANN":
        found["on"] = Trial()
    if recipe.neurons == "HoSNN":
        found["released"] = Trial(lambda model, dataset: neurons.as_released(model), REPORTED)
    if recipe.neurons == "oscillation":
        found["swapped"] = Trial(lambda model, dataset: nullcontext(neurons.swap(model)), itself=True)
    if recipe.defence == "BPTT" and recipe.data == "full":
        found |= {name: Trial(fragile(*how)) for name, how in RESCALINGS.items()}
    return found


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", choices=STUDIES)
    parser.add_argument("--only", nargs="+", metavar="RUN", help="names such as AT+TGO-1; default: all, and the report")
    parser.add_argument("--report", action="store_true", help="report on what there is, train and attack nothing")
    options = parser.parse_args(argv)
    study = STUDIES[options.study]
    known = {recipe.name: recipe for recipe in study.recipes()}
    if unknown := set(options.only or ()) - set(known):
        parser.error(f"no such run: {', '.join(sorted(unknown))}; there are {', '.join(known)}")
    try:
        tgo.tune_allocator()  # every batch frees as much as it takes
        dataset = data.load(study.recipe.data)
        chosen = [known[name] for name in options.only] if options.only else list(known.values())
        if not options.report:
            for recipe in tqdm(chosen, desc="models", disable=None):
                go(study, recipe, dataset)
        if not options.only:
            print(write(study, dataset))
    except (ValueError, data.DataError, ImportError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def go(study: Study, recipe: Recipe, dataset: data.Dataset) -> None:
    """Trains and attacks one model, as far as that is not done yet."""
    images, labels = attacked(study, dataset)
    twins = others(study, recipe, dataset)
    for name, trial in trials(recipe).items():
        model = train.run(recipe, dataset, study.out)
        victim = prepared(model, recipe, TRIALS[name])
        sources = [*twins, *([train.run(recipe, dataset, study.out)] if trial.itself else [])]
        about = {"noise": TRIALS[name], "effort": study.effort, "twin": sources, "attacks": trial.attacks}
        with trial.change(model, dataset):
            evaluate(victim, images, labels, record=study.record(recipe, name), batch=125, **about)


def prepared(model: Classifier, recipe: Recipe, noise: bool) -> Victim:
    """The model as it is attacked: with noise in test its neurons have some, or its input has."""
    if isinstance(model.encoder, Poisson):
        return Victim(model, switch=model.encoder.switch)
    return Victim(with_noise(model, recipe.noise_std) if noise else model)


def attacked(study: Study, dataset: data.Dataset) -> tuple[torch.Tensor, torch.Tensor]:
    images, labels = train.tensors(dataset.limited(None, min(POOL, len(dataset.test.labels)), seed=0).test)
    return images[: study.images], labels[: study.images]


def others(study: Study, recipe: Recipe, dataset: data.Dataset) -> list[nn.Module]:
    """Of the same seed, trained plainly and on attacked images, what examples are made on too."""
    plain = replace(study.recipe, seed=recipe.seed)
    sources = [
        replace(plain, **DEFENCES[name]) for name in ("BPTT", "AT") if recipe.seed in study.defences.get(name, ())
    ]
    return [train.run(source, dataset, study.out) for source in sources if source != recipe]


def write(study: Study, dataset: data.Dataset) -> str:
    """Tables, checklist and figures of all models that are there; returns what a reader wants first."""
    outcomes: findings.Outcomes = {}
    for recipe in study.recipes():
        for name in trials(recipe):
            path = study.record(recipe, name)
            if not (outcome := Outcome.read(path)).through:
                continue
            if not outcome.about.items() >= asdict(study.effort).items() or len(outcome) != study.images:
                raise ValueError(f"{path} is of another effort, or of other images: move it away")
            row = findings.row_of(recipe.defence, name, TRIALS[name])
            outcomes.setdefault(row, {})[recipe.seed] = outcome
    if not outcomes:
        raise ValueError(f"nothing to report on in {study.out}: run the study first")
    images, labels = attacked(study, dataset)
    diagnoses: dict[str, list[diagnostics.Diagnosis]] = {}
    for recipe in study.recipes():
        if recipe.defence in findings.SHORT and recipe.seed in outcomes.get((recipe.defence, False), {}):
            if not (study.out / f"{recipe.name}.pt").exists():
                raise ValueError(f"{study.out} has attacks on {recipe.name} and no model: move them away")
            model = train.run(recipe, dataset, study.out)
            torch.manual_seed(0)
            settings = recipe.guard_margin, recipe.noise_std
            diagnoses.setdefault(recipe.defence, []).append(diagnostics.diagnose(model, images, labels, *settings))
    report = findings.report(study.recipe, outcomes, diagnoses, len(dataset.train.labels), asdict(study.effort))
    study.figures.mkdir(parents=True, exist_ok=True)
    findings.write_csv(study.out / "results.csv", outcomes)
    (study.out / "report.md").write_text(report)
    pictures.draw(study.figures, study.recipe, outcomes, diagnoses)
    return report + f"\nwritten to {study.out}: report.md, results.csv; figures to {study.figures}"


if __name__ == "__main__":
    sys.exit(main())
