"""TD3 with spiking actors on MuJoCo, with a proxy in the place of the target actor and without.

    python -m benchmarks.control quick                   InvertedPendulum-v5 to its highest return: minutes
    python -m benchmarks.control full --env Hopper-v5    proxy on and off, three seeds: goes on where it was stopped

Settings are those of the paper (``settings.py``). In ``quick`` the proxy has one update a step at a rate of 3e-3, the
paper's faster setting, and ours are: 1000 steps of warm-up, a test every 1000, and the end where one has the highest
return there is; batches of 100, a rate of 1e-3, gamma .98 and tau .05, since values that are averaged at .005 take more
steps than this task does.

Trainings run side by side, ``--jobs`` at once and each on one thread, and keep a checkpoint after each test in
``--out``: one that is killed goes on to the same weights, bit for bit. Records of all tests, the table and the curves
are of what is there with these settings, of other neurons and targets too. The animated picture is of the first neuron,
target and seed: its best actor beside its untrained one. Times are of one thread, and take turns in one process
(``times.py``).
"""

import argparse
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from benchmarks import record
from benchmarks.control import report
from benchmarks.control.environment import Environment
from benchmarks.control.episode import animate, recorded
from benchmarks.control.settings import FASTER, NEURONS, TARGETS, Settings
from benchmarks.control.times import times
from benchmarks.control.together import together
from benchmarks.trainings import status

PARTS = ("train", "time", "draw")
QUICK = {"steps": 20_000, "warm_up": 1_000, "evaluate_every": 1_000, "stop_at": 1_000.0, "batch": 100, **FASTER}
QUICK |= {"lr": 1e-3, "gamma": 0.98, "tau": 0.05}
TASKS: dict[str, dict[str, Any]] = {
    "quick": {"env": "InvertedPendulum-v5", "targets": ["proxy"], "timed": ["LIF", "CLIF", "DN", "ReLU"], **QUICK},
    "full": {"env": "Hopper-v5", "targets": list(TARGETS), "timed": ["LIF", "CLIF", "DN", "ReLU"]},
}
NUMBERS = ("steps", "warm_up", "proxy_updates", "batch", "hidden", "evaluate_every", "episodes")
NUMBERS = (*NUMBERS, "proxy_lr", "lr", "gamma", "tau", "exploration", "stop_at")
SAID = {"proxy_lr": "1e-3, with CLIF and DN 3e-3", "stop_at": "never"}


def kept(trainings: list[Settings], out: Path) -> list[dict[str, Any]]:
    """The checkpoints of these trainings, as far as there are any."""
    paths = {out / f"{settings.name}.pt": vars(settings) for settings in trainings}
    found = {path: torch.load(path) for path in paths if path.exists()}
    return [state for path, state in found.items() if state["settings"] == paths[path]]


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("task", choices=TASKS)
    made.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS, help="default: all")
    envs = ", ".join(f"{task['env']} in {name}" for name, task in TASKS.items())
    made.add_argument("--env", help=f"an environment of gymnasium; default: {envs}")
    made.add_argument("--neurons", nargs="+", choices=NEURONS, default=["LIF"], help="of the actor; default: LIF")
    made.add_argument("--targets", nargs="+", choices=TARGETS, help="default: proxy in quick, both in full")
    made.add_argument("--timed", nargs="+", choices=NEURONS, help="whose times are taken; default: all")
    made.add_argument("--seeds", type=int, default=3, help="how many, from 0 on; default: %(default)s")
    for name in NUMBERS:
        usual, kind = getattr(Settings, name), int if Settings.__annotations__[name] is int else float
        said = SAID.get(name, usual)
        here = f"default: {QUICK[name]} in quick, {said} in full" if name in QUICK else f"default: {said}"
        made.add_argument(f"--{name.replace('_', '-')}", type=kind, help=here)
    made.add_argument("--rounds", type=int, default=9, help="of timing; default: %(default)s")
    made.add_argument("--frames", type=int, default=150, help="of the animated picture; default: %(default)s")
    made.add_argument("--jobs", type=int, default=2, help="trainings at once; default: %(default)s")
    made.add_argument("--out", type=Path, default=Path("runs/control"), help="of checkpoints; default: %(default)s")
    made.add_argument("--results", type=Path, default=record.RESULTS, help="default: %(default)s")
    figures = record.RESULTS.parents[1] / "figures"
    made.add_argument("--figures", type=Path, default=figures, help="default: %(default)s")
    return made


def settings_of(options: argparse.Namespace) -> tuple[list[Settings], list[Settings]]:
    """Of the trainings that there may be, those asked for first, and of those whose times are taken."""
    task = TASKS[options.task]
    for name, least in {"seeds": 1, "rounds": 3, "frames": 1, "jobs": 1}.items():
        if (given := getattr(options, name)) < least:
            raise ValueError(f"--{name} must be at least {least}, got {given}")
    for name in ("env", "targets", "timed"):
        if getattr(options, name) is None:
            setattr(options, name, task[name])
    names = (*NUMBERS, "env")
    given = {name: value for name in names if (value := getattr(options, name)) is not None}
    shared = {name: value for name, value in task.items() if name in names} | given
    every = [
        Settings(neuron=neuron, target=target, seed=seed, **shared)
        for neuron in dict.fromkeys((*options.neurons, *NEURONS))
        for target in dict.fromkeys((*options.targets, *TARGETS))
        for seed in range(options.seeds)
    ]
    timed = [Settings(neuron=neuron, target=options.targets[0], **shared) for neuron in options.timed]
    return every, timed


def run(options: argparse.Namespace) -> None:
    every, timed = settings_of(options)
    trainings = [each for each in every if each.neuron in options.neurons and each.target in options.targets]
    Environment(options.env)  # raises before anything is written
    torch.set_num_threads(1)
    about = {key: str(value) for key, value in record.origin(record.tune()).items()}
    about |= {name: version(name) for name in report.VERSIONS}
    called = "control_quick" if options.task == "quick" else f"control_{options.env.replace('/', '_')}"
    written, times_written = (options.results / f"{called}{part}.csv" for part in ("", "_times"))
    if "train" in options.parts:
        try:
            together(trainings, options.out, about, options.jobs)
        finally:
            if rows := report.rows_of(kept(every, options.out)):
                record.write(written, rows, report.RUNS)
    if "time" in options.parts:
        rows = []
        for settings in tqdm(timed, desc="timing", disable=None):
            rows += [row | about | {"threads": 1} for row in times(settings, options.rounds)]
            record.write(times_written, rows, report.TIMES)
        print("\n".join([*report.times_table(record.read(times_written)), f"{times_written}"]))
    if "draw" in options.parts:
        found = record.read(written) if written.exists() else []
        if not found:
            raise ValueError(f"nothing to draw in {written}: train first")
        curves, film = (options.figures / f"{called}.{kind}" for kind in ("png", "gif"))
        report.draw(found, curves)
        print("\n".join([*report.table(found), f"{written}, {curves}"]))
        if state := next(iter(kept(trainings[:1], options.out)), None):
            settings = Settings(**state["settings"])
            looks = {"untrained": state["first"], "trained": state["best"]}
            episodes = [recorded(settings, weights, title, options.frames) for title, weights in looks.items()]
            print(f"{film}, {animate(episodes, film)} frames")


def main(arguments: list[str] | None = None) -> int:
    return status(run, parser().parse_args(arguments), after="the last test")


if __name__ == "__main__":
    sys.exit(main())
