"""The study: trains plain and guarded networks, attacks them, and writes tables, checklist and figures.

    python -m benchmarks.robustness.study quick    the shipped subset, one seed, minutes
    python -m benchmarks.robustness.study full     all of Fashion-MNIST, three seeds, hours

Every network is attacked with noise in test off and on: one trained without noise gets it in test alone, as the control
of one trained with it. Everything is kept after each epoch and each attack, and a study that was stopped goes on. The
full study's models and records are part of the repository: run again, it goes through them without training. ``--only``
does a part, for instance ``--only AT+TGO-1``; ``--report`` reports on what there is.
"""

import argparse
import sys
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from torch import nn
from tqdm import tqdm

import tgo_kernels as tgo
from benchmarks.robustness import data, findings, pictures, train
from benchmarks.robustness.models import with_noise
from benchmarks.robustness.recipe import Recipe
from tgo_kernels.robustness import EFFORTS, Effort, Outcome, Victim, diagnostics, evaluate, suite

ROOT = Path(__file__).parents[2]
DEFENCES = {
    "BPTT": ("BPTT", False, False),
    "BPTT+guard": ("BPTT", True, False),
    "BPTT+noise": ("BPTT", False, True),
    "BPTT+TGO": ("BPTT", True, True),
    "AT": ("AT", False, False),
    "AT+TGO": ("AT", True, True),
    "RAT": ("RAT", False, False),
    "RAT+TGO": ("RAT", True, True),
}
DIAGNOSED = ("BPTT", "BPTT+TGO", "AT", "AT+TGO")


@dataclass(frozen=True)
class Study:
    recipe: Recipe
    defences: tuple[str, ...]
    seeds: tuple[int, ...]
    images: int  # of the test set, under attack
    noisy: int  # of these, with noise in test, which takes ten times as long
    effort: Effort
    out: Path
    figures: Path

    def recipes(self) -> list[Recipe]:
        """Seed by seed, so that a study that is stopped has whole rows."""
        made = []
        for seed in self.seeds:
            for name in self.defences:
                method, guard, noise = DEFENCES[name]
                made.append(replace(self.recipe, method=method, guard=guard, noise=noise, seed=seed))
        return made

    def outcome(self, recipe: Recipe, noise: bool) -> Path:
        return self.out / f"{recipe.name}.{'on' if noise else 'off'}.json"


STUDIES = {
    "quick": Study(
        Recipe(data="subset", epochs=20, batch=50),
        tuple(name for name in DEFENCES if not name.startswith("RAT")),
        (0,),
        images=150,
        noisy=50,
        effort=EFFORTS["quick"],
        out=Path("runs/robustness"),
        figures=Path("runs/robustness"),
    ),
    "full": Study(
        Recipe(data="full"),
        ("BPTT", "BPTT+TGO", "AT", "AT+TGO", "RAT", "RAT+TGO"),
        (0, 1, 2),
        images=500,
        noisy=200,
        effort=Effort(),
        out=ROOT / "benchmarks" / "robustness" / "results",
        figures=ROOT / "figures",
    ),
}


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
    model = train.run(recipe, dataset, study.out)
    images, labels = train.tensors(dataset.limited(None, study.images, seed=0).test)
    twin = None if recipe.defence == "BPTT" else undefended(study, recipe, dataset)
    for noise, count in ((False, study.images), (True, study.noisy)):
        path = study.outcome(recipe, noise)
        if noise:
            with_noise(model, recipe.noise_std)
        about = {"noise": noise, "effort": study.effort, "twin": twin, "record": path, "batch": 125}
        evaluate(model, images[:count], labels[:count], **about)


def undefended(study: Study, recipe: Recipe, dataset: data.Dataset) -> nn.Module:
    plain = replace(recipe, method="BPTT", guard=False, noise=False)
    return train.run(plain, dataset, study.out)


def former(outcome: Outcome) -> bool:
    """Whether it is a record of the suite without search, margin and many draws, whose attacks the present one has."""
    return "eps" not in outcome.about


def through(study: Study, recipe: Recipe, noise: bool, outcome: Outcome) -> bool:
    """Whether the record has all attacks."""
    victim = Victim(with_noise(recipe.model(), recipe.noise_std) if noise else recipe.model())
    twins = None if recipe.defence == "BPTT" else [victim]
    stages = suite(victim, study.effort, noise, twins)
    needed = {name for name, stage in stages.items() if stage.on == "all" or not former(outcome)}
    return needed <= outcome.stood.keys()


def write(study: Study, dataset: data.Dataset) -> str:
    """Tables, checklist and figures of all models that are there; returns what a reader wants first."""
    outcomes: dict[tuple[str, bool], dict[int, Outcome]] = {}
    effort, ages = asdict(study.effort), set()
    for recipe in study.recipes():
        for noise in (False, True):
            path = study.outcome(recipe, noise)
            outcome = Outcome.read(path)
            if through(study, recipe, noise, outcome):
                ages.add(former(outcome))
                mine = {name: value for name, value in effort.items() if name in outcome.about or not former(outcome)}
                if not outcome.about.items() >= mine.items():
                    raise ValueError(f"{path} is of another effort: move it away")
                outcomes.setdefault((recipe.defence, noise), {})[recipe.seed] = outcome
    if not outcomes:
        raise ValueError(f"nothing to report on in {study.out}: run the study first")
    if len(ages) > 1:
        raise ValueError(f"{study.out} has records of the former suite beside others: move them away")
    images, labels = train.tensors(dataset.limited(None, study.images, seed=0).test)
    diagnoses = {}
    for recipe in study.recipes():
        if recipe.defence in DIAGNOSED and recipe.seed in outcomes.get((recipe.defence, False), {}):
            if not (study.out / f"{recipe.name}.pt").exists():
                raise ValueError(f"{study.out} has attacks on {recipe.name} and no model: move them away")
            model = train.run(recipe, dataset, study.out)
            torch.manual_seed(0)
            settings = recipe.guard_margin, recipe.noise_std
            diagnoses.setdefault(recipe.defence, []).append(diagnostics.diagnose(model, images, labels, *settings))
    report = findings.report(study.recipe, outcomes, diagnoses, len(dataset.train.labels), mine)
    study.figures.mkdir(parents=True, exist_ok=True)
    findings.write_csv(study.out / "results.csv", outcomes)
    (study.out / "report.md").write_text(report)
    pictures.draw(study.figures, study.recipe, outcomes, diagnoses)
    return report + f"\nwritten to {study.out}: report.md, results.csv; figures to {study.figures}"


if __name__ == "__main__":
    sys.exit(main())
