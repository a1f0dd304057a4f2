"""One training, from where its checkpoint stops: a run that is killed and started again ends with the same bits."""

import copy
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from benchmarks import record
from benchmarks.control.environment import Environment
from benchmarks.control.settings import Settings
from benchmarks.control.td3 import TD3, Replay

TESTS = 100  # an episode of a test begins by the training's seed, and this and its number more
CLOCKS = {"seconds": time.perf_counter, "cpu_seconds": time.process_time}


class Run:
    """A training between two steps: the agent, the environment, the transitions, the generator.

    One generator of numpy draws actions, noise and batches; torch's draws the first weights.
    """

    def __init__(self, settings: Settings, transitions: Path, impl: str = "auto") -> None:
        self.settings = settings
        self.environment = Environment(settings.env)
        self.random = np.random.default_rng(settings.seed)
        sizes = self.environment.observations, len(self.environment.largest)
        self.replay = Replay(transitions, settings.steps, *sizes)
        self.agent = TD3(settings, self.environment.observations, self.environment.largest, impl)
        self.tests = [Environment(settings.env) for _ in range(settings.episodes)]
        self.observation = self.environment.start(settings.seed)
        self.done = 0

    def step(self) -> None:
        """One of the environment, and after the warm-up one update."""
        largest, before = self.environment.largest, self.observation
        if self.done < self.settings.warm_up:
            action = self.random.uniform(-largest, largest).astype(np.float32)
        else:
            action = self.agent.explore(before, self.random)
        after, reward, ended, cut = self.environment.act(action)
        self.replay.add(self.done, before, action, reward, after, ended)
        self.observation = self.environment.start() if ended or cut else after
        self.done += 1
        if self.done > self.settings.warm_up:
            self.agent.update(self.done - self.settings.warm_up, self.sample, self.random)

    def sample(self) -> Any:
        return self.replay.sample(self.random, self.settings.batch, self.done)

    def test(self) -> dict[str, float]:
        """The returns of episodes without noise, which begin alike in every test, and how often neurons fire."""
        first = self.settings.seed + TESTS
        observations = np.stack([test.start(first + i) for i, test in enumerate(self.tests)])
        returns, going, seen = np.zeros(len(self.tests)), list(range(len(self.tests))), []
        while going:
            with torch.no_grad():
                actions = self.agent.actor(torch.from_numpy(observations[going])).numpy()
            seen.append(observations[going[0]].copy())
            for i, action in zip(tuple(going), actions, strict=True):
                observations[i], reward, ended, cut = self.tests[i].act(action)
                returns[i] += reward
                if ended or cut:
                    going.remove(i)
        found = {"return": returns.mean(), "lowest": returns.min(), "highest": returns.max()}
        if hasattr(self.agent.actor, "firing_rate"):
            found["rate"] = self.agent.actor.firing_rate(torch.from_numpy(np.stack(seen)))
        return {name: float(value) for name, value in found.items()}

    def state(self) -> dict[str, Any]:
        return {
            "optimizers": {name: each.state_dict() for name, each in self.agent.optimizers.items()},
            "random": self.random.bit_generator.state,
            "torch": torch.get_rng_state(),
            "environment": self.environment.state(),
            "observation": torch.from_numpy(self.observation),
        }

    def restore(self, done: int, networks: dict[str, Any], state: dict[str, Any]) -> None:
        self.done = done
        self.agent.load_state_dict(networks)
        for name, each in self.agent.optimizers.items():
            each.load_state_dict(state["optimizers"][name])
        self.random.bit_generator.state = state["random"]
        torch.set_rng_state(state["torch"])
        self.environment.restore(state["environment"])
        self.observation = state["observation"].numpy()


def fit(settings: Settings, out: Path, about: dict[str, Any], place: int = 0) -> dict[str, Any]:
    """Trains as far as that is not done yet; returns the checkpoint, which is written with every test.

    ``about`` goes into the history's rows, ``place`` is the progress bar's line. Of a training that is done, its
    networks and those of its best test are left, without its transitions.

    Raises:
        ValueError: the checkpoint is that of other settings, or its transitions are gone.
    """
    out.mkdir(parents=True, exist_ok=True)
    path, transitions = (out / f"{settings.name}{suffix}" for suffix in (".pt", ".transitions"))
    kept = torch.load(path) if path.exists() else None
    if kept is not None:
        record.agree(path, kept["settings"], vars(settings))
        if "run" not in kept:
            return kept
        if not transitions.exists():
            raise ValueError(f"{path} goes on from {transitions}, which is gone: move it away to begin anew")
    run = Run(settings, transitions)
    if kept is None:
        kept = {"settings": dict(vars(settings)), "history": [], "first": copy.deepcopy(run.agent.actor.state_dict())}
    else:
        run.restore(kept["history"][-1]["step"], kept["networks"], kept.pop("run"))
    history = kept["history"]
    bar = {"desc": settings.name, "unit": "step", "position": place, "disable": None, "mininterval": 1}
    start = {name: clock() for name, clock in CLOCKS.items()}
    with tqdm(total=settings.steps, initial=run.done, **bar) as shown:
        while run.done < settings.steps:
            run.step()
            shown.update()
            if run.done % settings.evaluate_every and run.done < settings.steps:
                continue
            took = {name: clock() - start[name] for name, clock in CLOCKS.items()}
            row = {"step": run.done, **took, **run.test()} | about
            if not history or row["return"] > max(each["return"] for each in history):
                kept["best"] = copy.deepcopy(run.agent.actor.state_dict())
            history.append(row)
            shown.set_postfix({"return": f"{row['return']:.0f}"})
            kept["networks"] = run.agent.state_dict()
            done = run.done == settings.steps or (settings.stop_at is not None and row["return"] >= settings.stop_at)
            run.replay.rows.flush()
            record.keep(path, kept if done else kept | {"run": run.state()})
            if done:
                break
            start = {name: clock() for name, clock in CLOCKS.items()}
    transitions.unlink()
    return kept
