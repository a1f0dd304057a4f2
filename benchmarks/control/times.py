"""An action, an update and a step of a training, by the fused actor and by the same in plain torch."""

import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.control.report import ENGINES
from benchmarks.control.settings import Settings
from benchmarks.control.training import Run
from benchmarks.run import percentiles, times_of

IMPL = dict(zip(ENGINES, ("auto", "reference"), strict=True))
FILLED = 1000  # transitions before the first update
ROOM = 1_000_000  # and after it: a file has as many rows, but takes what is written


def times(settings: Settings, rounds: int) -> list[dict[str, Any]]:
    """Milliseconds and number a second of each, in turns in one process: of the time of its one thread, which on a
    machine that does nothing else is the clock's.

    An update is the mean of two, of which the second has the actor's. A step is an action with noise, the
    environment's, and an update. The actor of ReLU has no engine, and takes one turn.
    """
    engines = ENGINES[1:] if settings.neuron == "ReLU" else ENGINES
    calls = {}
    with tempfile.TemporaryDirectory() as folder:
        about = vars(settings) | {"steps": ROOM, "warm_up": FILLED, "episodes": 1}
        for engine in engines:
            run = Run(Settings(**about), Path(folder, engine), IMPL[engine])
            for _ in range(FILLED):
                run.step()
            calls |= {(engine, what): call for what, call in calls_of(run).items()}
        found = times_of(calls, rounds, time.process_time)
    rows = []
    for (engine, what), values in found.items():
        count = 1 if what == "action" else 2
        p20, p50, p80 = (value / count for value in percentiles(values))
        row = {"env": settings.env, "neuron": settings.neuron, "engine": engine, "what": what}
        row |= {"p20_ms": f"{p20:.4g}", "p50_ms": f"{p50:.4g}", "p80_ms": f"{p80:.4g}"}
        shared = {name: value for name, value in settings.described().items() if name in ("target", "batch", "hidden")}
        shared["proxy_updates"] = settings.described()["proxy_updates"]
        rows.append(row | {"per_second": f"{1e3 / p50:.4g}"} | shared)
    return rows


def calls_of(run: Run) -> dict[str, Any]:
    def updates() -> None:
        for number in (1, 2):
            run.agent.update(number, run.sample, run.random)

    def steps() -> None:
        run.step()
        run.step()

    return {"action": lambda: run.agent.act(run.observation), "update": updates, "step": steps}
