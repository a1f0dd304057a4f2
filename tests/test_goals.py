"""The goals of the benchmark: a figure beyond its goal says so."""

import json
from dataclasses import replace

import pytest
import torch

pytest.importorskip("tqdm")

import tgo_kernels as tgo
from benchmarks import costs, goals, learned, record
from benchmarks.peers import OURS, PEERS
from tgo_kernels import native

TINY = (4, 2, 3, 4, 5)
ANY = {"T": 7, "N": 11, "layout": costs.CONTIGUOUS, "vectors": "generic", "threads": 3}  # of no goal
PAIR = [PEERS[OURS], replace(PEERS["eager"], name=costs.COMPILED)]  # as if torch.compile were as quick to start


def named(goal):
    return ", ".join(f"{name}={value}" for name, value in goal.wanted.items())


@pytest.mark.parametrize("goal", goals.GOALS, ids=named)
def test_a_figure_beyond_its_goal_misses(goal):
    outwards = 1 if goal.relation == "<=" else -1
    row, machine = ANY | goal.wanted, goal.processor or "Zen 5"
    for value, result in ((goal.limit, "holds"), (goal.limit + 0.01 * outwards, "misses"), (float("nan"), "misses")):
        (judged,) = goals.judged([row | {"value": f"{value:.3f}"}], machine)
        assert judged["result"] == result and judged["goal"] == f"{goal.relation} {goal.limit:g}"
    assert "goal" not in goals.judged([row | {"value": "1", "layout": "batch first"}], machine)[0]
    if goal.processor:
        assert "goal" not in goals.judged([row | {"value": "1"}], "Zen 5")[0]


@pytest.mark.parametrize("goal", goals.GOALS, ids=named)
def test_a_goal_is_that_of_its_figure_alone(goal):
    row = ANY | goal.wanted | {"value": "1"}
    for name in goal.wanted.keys() & {"T", "N", "vectors", "threads"}:
        (judged,) = goals.judged([row | {name: ANY[name]}], goal.processor)
        assert judged.get("goal") == (">= 1" if goal.figure == costs.TRAINING else None)


@pytest.mark.parametrize("vectors", [goals.AVX512, goals.AVX2, "generic"])
@pytest.mark.parametrize(
    ("figure", "steps", "neurons", "threads", "goal"),
    [
        (costs.TRAINING, 4, 1 << 22, 2, ">= 1.15"),
        (costs.TRAINING, 16, 1 << 18, 2, ">= 1.4"),
        (costs.TRAINING, 4, 1 << 22, 1, ">= 1"),
        (costs.TRAINING, 16, 1 << 18, 1, ">= 1"),
        (costs.TRAINING, 4, 1 << 18, 2, ">= 1"),
        (costs.TRAINING, 5, 1 << 10, 2, ">= 1"),
        (costs.INFERENCE, 4, 1 << 22, 2, ">= 1.15"),
        (costs.INFERENCE, 16, 1 << 18, 2, ">= 1.15"),
    ],
)
def test_goals_beside_torch_compile(vectors, figure, steps, neurons, threads, goal):
    row = ANY | {"figure": figure, "T": steps, "N": neurons, "vectors": vectors, "threads": threads, "value": "1.2"}
    assert goals.judged([row], "")[0]["goal"] == goal


@pytest.mark.parametrize(
    ("figure", "goal"),
    [
        ("one constant for all / plain", "<= 1.3"),
        ("one a channel / plain", "<= 1.3"),
        ("one a neuron / plain", "<= 2.2"),
        ("two states / plain", "<= 1.6"),
        ("bf16 / fp32", "<= 1"),
    ],
)
def test_goals_beside_the_plain_layer(figure, goal):
    rows = [
        ANY | {"figure": figure, "vectors": vectors, "T": steps, "value": "1.2"}
        for vectors in (goals.AVX512, goals.AVX2, "generic")
        for steps in (4, 16)
    ]
    assert [row.get("goal") for row in goals.judged(rows, "")] == [goal] * 4 + [None] * 2


def make_tiny(monkeypatch):
    monkeypatch.setattr(costs, "SHAPES", {TINY: tuple(costs.LAYOUTS)})
    monkeypatch.setattr(costs, "LEARNED_SHAPES", (TINY,))
    monkeypatch.setattr(costs, "HEADLINES", ((4, 6),))
    monkeypatch.setattr(costs, "grid", lambda whole: [(8, 6)] if whole else [])
    monkeypatch.setattr(costs, "THREADS", torch.get_num_threads())


def run_with_times(monkeypatch, capsys, tmp_path, kernels, plain, both):
    """The lines of a run in which nothing is measured: all else takes a millisecond."""

    def times_of(calls, rounds):
        return {name: [plain if "plain" in name else both if "both" in name else 1.0] for name in calls}

    def ask(module, *arguments, **environment):
        assert module == "benchmarks.goals" and environment == {"ATEN_CPU_CAPABILITY": "avx2"}
        with monkeypatch.context() as patch:
            patch.setattr(costs, "kernels", lambda: goals.AVX2)
            return json.dumps([costs.row_of(costs.COST, costs.CONTIGUOUS, TINY, 1.95, 1.0)])

    make_tiny(monkeypatch)
    monkeypatch.setattr(costs, "kernels", lambda: kernels)
    monkeypatch.setattr(costs, "times_of", times_of)
    monkeypatch.setattr(goals, "gate", lambda peers: (peers, {}))
    monkeypatch.setattr(native, "serves", lambda device: None)
    monkeypatch.setattr(record, "ask", ask)
    out = tmp_path / "goals.csv"
    assert goals.main(["--grid", "--out", str(out)]) == 0
    rows = record.read(out)
    assert tuple(rows[0]) == goals.COLUMNS and all(row["machine"] and row["date"] for row in rows[:-1])
    return rows, capsys.readouterr().out


def test_a_run_prints_figures_beside_their_goals(monkeypatch, capsys, tmp_path):
    rows, printed = run_with_times(monkeypatch, capsys, tmp_path, goals.AVX512, plain=1.0, both=1.6)
    assert [row["value"] for row in rows if row["figure"] == costs.COST] == ["1.600"] * 4 + ["1.950"]
    assert [row["goal"] for row in rows if row["result"] == "misses"] == ["<= 1.5", ">= 18", ">= 9", "<= 1.9"]
    assert [row["result"] for row in rows if row["layout"] == "channels-last"] == [""]
    assert "1.600  goal <= 1.5  misses  (1.600 / 1.000 ms)" in printed and "no goals for" not in printed
    holding = [row["figure"] for row in rows if row["result"] == "holds"]
    assert holding == [*costs.LEARNED.values(), costs.TWO_STATES, costs.BF16, *[costs.TRAINING] * 3]
    threads = [(row["T"], row["threads"]) for row in rows if row["figure"] == costs.TRAINING]
    assert threads == [("4", str(costs.THREADS)), ("4", "1"), ("8", str(costs.THREADS))]
    assert ("(1.000 / 1.000 ms, threads: 1)" in printed) == (costs.THREADS != 1)


def test_no_goals_without_avx2_except_beside_torch_compile(monkeypatch, capsys, tmp_path):
    rows, printed = run_with_times(monkeypatch, capsys, tmp_path, "generic", plain=1.0, both=9.0)
    assert {row["figure"] for row in rows if row["goal"]} == {costs.TRAINING}
    assert "no goals for generic kernels" in printed


def test_json_is_of_the_fused_layer_alone(monkeypatch, capsys):
    make_tiny(monkeypatch)
    assert goals.main(["--json", "--rounds", "1"]) == 0
    rows = json.loads(capsys.readouterr().out.splitlines()[-1])
    expected = [*[costs.COST] * 4, costs.TIME, *costs.LEARNED.values(), costs.TWO_STATES, costs.BF16]
    assert [row["figure"] for row in rows] == expected
    assert all(float(row["value"]) > 0 and row["machine"] for row in rows)


def test_without_the_compiled_engine_there_are_no_figures(monkeypatch):
    monkeypatch.setattr(native, "serves", lambda device: "not built")
    with pytest.raises(SystemExit, match="compiled engine: not built"):
        goals.main([])


def test_layouts_are_measured(monkeypatch):
    make_tiny(monkeypatch)
    monkeypatch.setattr(costs, "kernels", lambda: goals.AVX512)
    rows = costs.noise_and_penalty(TINY, rounds=1)
    assert [row["layout"] for row in rows] == [*costs.LAYOUTS, costs.CONTIGUOUS]
    assert all(float(row["value"]) > 0 for row in rows)
    x = torch.empty(TINY)
    laid = {name: costs.laid(x, order) for name, order in costs.LAYOUTS.items()}
    assert all(y.shape == x.shape and y.data_ptr() == x.data_ptr() for y in laid.values())
    assert laid["contiguous"].is_contiguous() and laid["batch first"].transpose(0, 1).is_contiguous()
    assert laid["channels-last"][0].is_contiguous(memory_format=torch.channels_last)
    assert laid["H and W swapped"].mT.is_contiguous()


def run_once(monkeypatch, milliseconds):
    """Each call is made once, and is said to have taken so long."""

    def times_of(calls, rounds):
        assert calls.keys() == milliseconds.keys()
        for call in calls.values():
            call()
        return {name: [milliseconds[name]] for name in calls}

    monkeypatch.setattr(costs, "times_of", times_of)


def watch(monkeypatch, module, name, look):
    """What a function's arguments look like, from call to call."""
    seen, function = [], getattr(module, name)

    def watched(*arguments, **settings):
        seen.append(look(*arguments, **settings))
        return function(*arguments, **settings)

    monkeypatch.setattr(module, name, watched)
    return seen


def values(rows):
    return {row["figure"]: row["value"] for row in rows}


@pytest.mark.parametrize("shape", [TINY, (16, 2, 3, 4, 5)])
def test_constants_that_learn_are_measured(monkeypatch, shape):
    run_once(monkeypatch, {"plain": 2.0, "one for all": 3.0, "one a channel": 4.0, "one a neuron": 5.0})
    seen = watch(monkeypatch, tgo, "lif", lambda x, **constants: (x.shape, constants))
    assert values(costs.learning(shape, 1)) == dict(
        zip(costs.LEARNED.values(), ("1.500", "2.000", "2.500"), strict=True)
    )
    assert [constants["decay"].shape for _, constants in seen] == [(), (3, 1, 1), (2, 3, 4, 5)]
    for x_shape, constants in seen:
        assert x_shape == shape and torch.equal(constants["gain"], 1 - constants["decay"])
        learning = constants["decay"], constants["v_threshold"]
        assert all(constant.grad is not None and constant.grad.isfinite().all() for constant in learning)


def test_each_step_of_learning_has_its_own_gradient():
    leaf = torch.ones(3, requires_grad=True)
    step = learned.step_of(lambda x: 2 * x, [leaf], torch.ones(3))
    step(), step()
    assert leaf.grad.tolist() == [2.0] * 3


def test_two_states_are_measured(monkeypatch):
    run_once(monkeypatch, {"plain": 2.0, "two states": 3.0})
    plain = watch(monkeypatch, tgo, "lif", lambda x: x)
    two = watch(monkeypatch, tgo, "scan", lambda neuron, x: (neuron, x))
    (row,) = costs.two_states((4, 6), 1)
    assert (row["figure"], row["T"], row["N"], row["value"]) == (costs.TWO_STATES, 4, 6, "1.500")
    (x,), ((neuron, same),) = plain, two
    assert neuron.STATES == ("v", "a") and same is x and x.grad is not None


def test_bf16_is_measured(monkeypatch):
    run_once(monkeypatch, {"bf16": 3.0, "fp32": 2.0})
    seen = watch(monkeypatch, costs, "fused", lambda x, extras: (x.dtype, extras.name, x.requires_grad))
    assert values(costs.bf16((4, 6), 1)) == {costs.BF16: "1.500"}
    assert seen == [(torch.bfloat16, "plain", True), (torch.float32, "plain", True)]


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("figure", [costs.TRAINING, costs.INFERENCE])
def test_the_loop_is_measured_beside_the_fused_layer(monkeypatch, figure, threads):
    run_once(monkeypatch, {OURS: 2.0, costs.COMPILED: 3.0})
    made, seen, before = [], [], torch.get_num_threads()

    def make(peer):
        made.append((peer.name, torch.get_num_threads()))  # it is compiled for as many
        run = peer.make()

        def watched(x, extras):
            seen.append((x.requires_grad, torch.is_grad_enabled(), extras.name, torch.get_num_threads()))
            return run(x, extras)

        return watched

    peers = [replace(peer, make=lambda peer=peer: make(peer)) for peer in PAIR]
    (row,) = costs.loop(figure, (3, 6), threads, peers, 1)
    assert (row["figure"], row["T"], row["N"], row["threads"], row["value"]) == (figure, 3, 6, threads, "1.500")
    assert made == [(OURS, threads), (costs.COMPILED, threads)] and torch.get_num_threads() == before
    assert seen == [(figure == costs.TRAINING, figure == costs.TRAINING, "plain", threads)] * 2


def test_the_grids():
    small, whole = costs.grid(whole=False), costs.grid(whole=True)
    assert len(small) == 26 and {steps for steps, _ in small} == {1, 2, 3, 4, 5, 8, 16, 32}
    assert {neurons for _, neurons in small} == {1 << 10, 1 << 14, 1 << 18, 1 << 22}
    assert max(steps * neurons for steps, neurons in small) == 3 << 22  # that of 4 is a headline
    assert {neurons for _, neurons in whole} == {1 << exponent for exponent in range(10, 27)}
    assert max(steps * neurons for steps, neurons in whole) == 1 << 27 and set(small) < set(whole)
    assert not set(whole) & set(costs.HEADLINES)


def test_what_is_measured_beside_torch_compile(monkeypatch):
    seen = watch(
        monkeypatch, costs, "loop", lambda figure, shape, threads, peers, rounds: (figure, shape, threads, rounds)
    )
    monkeypatch.setattr(costs, "times_of", lambda calls, rounds: {name: [1.0] for name in calls})
    monkeypatch.setattr(costs, "tensors", lambda case: (None, None))
    for stage in costs.beside_others(PAIR, 15, whole=False):
        stage()
    few, many = (4, 1 << 22), (16, 1 << 18)
    training = [(costs.TRAINING, shape, threads, 15) for threads in (2, 1) for shape in (few, many)]
    assert seen[:6] == [*training, *((costs.INFERENCE, shape, 2, 15) for shape in (few, many))]
    assert seen[6:] == [(costs.TRAINING, shape, 2, costs.GRID_ROUNDS) for shape in costs.grid(whole=False)]


def test_without_torch_compile_the_others_are_measured():
    assert len(costs.beside_others(PAIR[:1], 15, whole=True)) == len(costs.SHAPES)
