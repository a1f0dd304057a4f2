"""Control runs: episodes and trainings that go on to the same bits, records, curves, a film, and what is refused."""

import os
import signal
import subprocess
import sys
import time
from itertools import pairwise

import numpy as np
import pytest
import torch

pytest.importorskip("matplotlib")

from benchmarks import record
from benchmarks.control import __main__ as control
from benchmarks.control import report, training
from benchmarks.control.environment import Environment
from benchmarks.control.episode import hull, surface
from benchmarks.control.settings import Settings
from benchmarks.control.td3 import TD3

SMALL = {"steps": 60, "warm_up": 20, "evaluate_every": 20, "episodes": 2, "batch": 8, "hidden": 8}


pytestmark = pytest.mark.usefixtures("one_thread")  # which the benchmark sets, and these networks are small


@pytest.fixture
def gymnasium():
    return pytest.importorskip("gymnasium")


@pytest.mark.parametrize("name", ["InvertedPendulum-v5", "Hopper-v5", "Ant-v5", "Humanoid-v5"])
def test_an_episode_that_is_kept_goes_on_to_the_same_bits(gymnasium, name):
    """Rewards of Ant and Humanoid are of positions that the step before derived."""
    a, b = Environment(name), Environment(name)
    random = np.random.default_rng(0)
    actions = [random.uniform(-a.largest, a.largest).astype(np.float32) for _ in range(12)]
    a.start(3)
    for action in actions[:6]:
        a.act(action)
    state = a.state()

    def rest(environment: Environment) -> list:
        found = [environment.act(action) for action in actions[6:]]
        return [*found, environment.steps, environment.start().tolist()]

    b.start(9)
    expected = rest(a)
    b.restore(state)
    for x, y in zip(expected, rest(b), strict=True):
        assert all(np.array_equal(p, q) for p, q in zip(x, y, strict=True)) if isinstance(x, tuple) else x == y


def test_the_end_of_an_episode_is_not_its_limit(gymnasium):
    environment = Environment("Hopper-v5")
    environment.start(0)
    environment.limit = 3
    assert [environment.act(np.zeros(3, np.float32))[2:] for _ in range(3)] == [(False, False)] * 2 + [(False, True)]


def test_first_actions_are_random_and_a_limit_is_no_end(gymnasium, tmp_path, monkeypatch):
    run = training.Run(Settings("InvertedPendulum-v5", **SMALL | {"warm_up": 4}), tmp_path / "transitions")
    explored, started = [], []
    ends = iter([(False, False), (False, True), (True, False), (False, False), (False, False)])
    after = np.ones(run.environment.observations, np.float32)
    monkeypatch.setattr(run.environment, "act", lambda action: (after, 1.0, *next(ends)))
    monkeypatch.setattr(run.environment, "start", lambda: started.append(run.done) or after)
    monkeypatch.setattr(run.agent, "explore", lambda *_: explored.append(run.done) or np.zeros(1, np.float32))
    for _ in range(5):
        run.step()
    assert explored == [4] and started == [1, 2]
    assert run.replay.rows[:5, -1].tolist() == [0, 0, 1, 0, 0]
    actions = run.replay.rows[:4, run.replay.columns[1]]
    assert len(np.unique(actions)) == 4 and (abs(actions) <= run.environment.largest).all()


@pytest.mark.parametrize(
    ("env", "neuron", "target"),
    [("InvertedPendulum-v5", "LIF", "proxy"), ("Hopper-v5", "CLIF", "average"), ("Hopper-v5", "ReLU", "proxy")],
)
def test_a_run_that_is_killed_goes_on_to_the_same_bits(gymnasium, tmp_path, monkeypatch, env, neuron, target):
    settings = Settings(env, neuron, target, **SMALL)
    whole = training.fit(settings, tmp_path / "whole", {})
    update, calls = TD3.update, []

    def killed(agent, number, *others):
        calls.append(number)
        if len(calls) == 33:  # after the test at step 40, of which the transitions are written already
            raise KeyboardInterrupt
        update(agent, number, *others)

    monkeypatch.setattr(TD3, "update", killed)
    with pytest.raises(KeyboardInterrupt):
        training.fit(settings, tmp_path / "broken", {})
    transitions = tmp_path / "broken" / f"{settings.name}.transitions"
    away = transitions.rename(tmp_path / "away")
    with pytest.raises(ValueError, match=r"transitions, which is gone"):
        training.fit(settings, tmp_path / "broken", {})
    away.rename(transitions)
    torch.manual_seed(123)
    broken = training.fit(settings, tmp_path / "broken", {})
    assert calls[32:] == [33, *range(21, 41)]
    for name in ("networks", "first", "best"):
        assert whole[name].keys() == broken[name].keys()
        assert all(torch.equal(whole[name][key], broken[name][key]) for key in whole[name])
    clean = [
        [{k: v for k, v in row.items() if "seconds" not in k} for row in kept["history"]] for kept in (whole, broken)
    ]
    assert clean[0] == clean[1] and [row["step"] for row in clean[0]] == [20, 40, 60]
    files = sorted(path.name for path in (tmp_path / "broken").iterdir())
    assert files == [f"{settings.name}.pt"]  # neither transitions nor a part
    again = training.fit(settings, tmp_path / "broken", {})
    assert len(calls) == 53 and again["history"] == broken["history"]
    with pytest.raises(ValueError, match="batch 8, now 9"):
        training.fit(Settings(env, neuron, target, **SMALL | {"batch": 9}), tmp_path / "broken", {})


def test_a_run_ends_where_its_return_is_reached(gymnasium, tmp_path):
    kept = training.fit(Settings("InvertedPendulum-v5", stop_at=1.0, **SMALL), tmp_path, {})
    assert [row["step"] for row in kept["history"]] == [20] and kept["history"][0]["lowest"] >= 1


def command(where, *others: str) -> list[str]:
    numbers = [part for name, value in SMALL.items() for part in (f"--{name.replace('_', '-')}", str(value))]
    places = [part for name in ("out", "results", "figures") for part in (f"--{name}", str(where / name))]
    return ["quick", *numbers, *places, "--seeds", "2", "--rounds", "3", "--frames", "6", "--jobs", "1", *others]


def test_a_study_writes_records_curves_and_an_episode_without_a_display(gymnasium, tmp_path, capsys, monkeypatch):
    for name in ("OpenGL", "glfw"):
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.delenv("DISPLAY", raising=False)
    assert control.main(command(tmp_path, "--timed", "LIF", "ReLU")) == 0
    rows = record.read(tmp_path / "results" / "control_quick.csv")
    assert [(row["seed"], row["step"]) for row in rows] == [(s, t) for s in "01" for t in ("20", "40", "60")]
    assert {row["env"] for row in rows} == {"InvertedPendulum-v5"} and {row["proxy_updates"] for row in rows} == {"1"}
    assert all(float(row["lowest"]) <= float(row["return"]) <= float(row["highest"]) for row in rows)
    assert all(row[name] for row in rows for name in ("gymnasium", "mujoco", "machine", "torch", "commit"))
    timed = record.read(tmp_path / "results" / "control_quick_times.csv")
    expected = [("LIF", "fused"), ("LIF", "eager"), ("ReLU", "eager")]
    assert list(dict.fromkeys((row["neuron"], row["engine"]) for row in timed)) == expected
    for row in timed:
        assert float(row["per_second"]) == pytest.approx(1e3 / float(row["p50_ms"]), rel=1e-2)
    printed = capsys.readouterr().out
    assert all(line in printed for line in [*report.table(rows), *report.times_table(timed)])

    from PIL import Image, ImageSequence

    assert (tmp_path / "figures" / "control_quick.png").read_bytes().startswith(b"\x89PNG")
    with Image.open(tmp_path / "figures" / "control_quick.gif") as film:
        frames = [np.asarray(frame.convert("RGB")) for frame in ImageSequence.Iterator(film)]
    assert len(frames) >= 4 and frames[0].shape == (240, 640, 3)
    assert all((a[30:] != b[30:]).any() for a, b in pairwise(frames[:4]))  # below the captions


def test_a_study_that_is_killed_goes_on_to_the_same_bits(gymnasium, tmp_path):
    """Two trainings at once, whose processes end with their parent."""
    some = ("--parts", "train", "--steps", "100")
    assert control.main(command(tmp_path / "whole", *some)) == 0
    arguments = [sys.executable, "-m", "benchmarks.control", *command(tmp_path / "broken", *some, "--jobs", "2")]
    with subprocess.Popen(arguments, cwd=record.RESULTS.parents[1], start_new_session=True) as study:
        while study.poll() is None and not list((tmp_path / "broken" / "out").glob("*.pt")):
            time.sleep(0.01)
        study.kill()
    for _ in range(500):  # until no process of its group is left
        try:
            os.killpg(study.pid, 0)
        except ProcessLookupError:
            break
        time.sleep(0.02)
    else:
        os.killpg(study.pid, signal.SIGKILL)
        pytest.fail("trainings outlived the study")
    assert study.returncode == -signal.SIGKILL
    assert control.main(command(tmp_path / "broken", *some, "--jobs", "2")) == 0
    a, b = (
        [torch.load(path)["networks"] for path in sorted((tmp_path / place / "out").glob("*.pt"))]
        for place in ("whole", "broken")
    )
    assert len(a) == len(b) == 2
    assert all(torch.equal(x[key], y[key]) for x, y in zip(a, b, strict=True) for key in x)


def test_the_record_keeps_what_was_trained_before_with_the_same_settings(gymnasium, tmp_path):
    some = ("--parts", "train", "--seeds", "1", "--steps", "20", "--neurons")
    for neuron in ("ReLU", "LIF"):
        assert control.main(command(tmp_path, *some, neuron)) == 0
    rows = record.read(tmp_path / "results" / "control_quick.csv")
    assert [(row["neuron"], row["step"]) for row in rows] == [("LIF", "20"), ("ReLU", "20")]
    assert control.main(command(tmp_path, *some, "LIF", "--targets", "average", "--gamma", "0.5")) == 0
    assert [row["gamma"] for row in record.read(tmp_path / "results" / "control_quick.csv")] == ["0.5"]


def test_outlines_are_those_of_the_bodies():
    square = np.array([[0, 0], [2, 0], [1, 1], [2, 2], [0, 2], [1, 0.0]])
    assert sorted(map(tuple, hull(square))) == [(0, 0), (0, 2), (2, 0), (2, 2)]
    size = np.array([0.5, 2.0, 1.0])
    for kind, reach in {2: (0.5, 0.5), 3: (0.5, 2.5), 4: (0.5, 1.0), 5: (0.5, 2.0), 6: (0.5, 1.0)}.items():
        points = surface(kind, size)
        assert (points[:, 0].max(), points[:, 2].max()) == pytest.approx(reach)
    assert surface(0, size) is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--seeds", "0"], "--seeds must be at least 1, got 0"),
        (["--jobs", "0"], "--jobs must be at least 1, got 0"),
        (["--rounds", "2"], "--rounds must be at least 3, got 2"),
        (["--frames", "0"], "--frames must be at least 1, got 0"),
        (["--tau", "2"], "tau must be at most 1, got 2.0"),
        (["--steps", "0"], "steps must be at least 1, got 0"),
        (["--warm-up", "-1"], "warm_up must be at least 1, got -1"),
        (["--proxy-updates", "0"], "proxy_updates must be at least 1, got 0"),
        (["--proxy-lr", "nan"], "proxy_lr must be finite and above 0, got nan"),
        (["--batch", "0"], "batch must be at least 1, got 0"),
        (["--env", "Hoper-v5"], "no environment Hoper-v5: Environment `Hoper` doesn't exist"),
        (["--env", "Hopper-v99"], "no environment Hopper-v99"),
        (["--env", "CartPole-v1"], "CartPole-v1: actions and observations must be vectors of numbers, got Discrete(2)"),
        (["--env", "Pendulum-v1"], "Pendulum-v1 is no environment of MuJoCo"),
        (["--parts", "draw"], "train first"),
    ],
)
def test_bad_arguments_are_named(gymnasium, tmp_path, capsys, arguments, message):
    assert control.main(command(tmp_path, *arguments)) == 1
    said = capsys.readouterr().err
    assert message in said and said.startswith("error: ") and said.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_what_is_not_offered_is_a_usage_error(tmp_path, capsys):
    for arguments in (["--neurons", "GRU"], ["--targets", "none"], ["--steps", "many"]):
        with pytest.raises(SystemExit) as error:
            control.main(command(tmp_path, *arguments))
        assert error.value.code == 2


@pytest.mark.parametrize("package", ["gymnasium", "mujoco"])
def test_a_missing_package_is_named_with_what_to_install(tmp_path, capsys, monkeypatch, package):
    if package == "mujoco":
        pytest.importorskip("gymnasium")
    monkeypatch.setitem(sys.modules, package, None)
    assert control.main(command(tmp_path)) == 1
    said = capsys.readouterr().err
    assert "pip install 'tgo_kernels[control]'" in said and said.count("\n") == 1


def test_the_guide_has_the_tables():
    guide = (record.RESULTS.parents[1] / "docs" / "control.md").read_text()
    tables = [report.table(record.read(record.RESULTS / "control_quick.csv"))]
    for name in ("control_quick", "control_Hopper-v5"):
        tables.append(report.times_table(record.read(record.RESULTS / f"{name}_times.csv")))
    assert all("\n".join(table) in guide for table in tables)
    assert all(" | ".join(row) in guide for row in report.PUBLISHED.values())
