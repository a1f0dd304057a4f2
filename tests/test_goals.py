"""The goals of the benchmark: a figure beyond its goal says so."""

import json

import pytest
import torch

pytest.importorskip("tqdm")

from benchmarks import goals, record
from tgo_kernels import native

TINY = (4, 2, 3, 4, 5)


@pytest.mark.parametrize("goal", goals.GOALS, ids=lambda goal: f"{goal.figure}, T={goal.steps}, {goal.vectors}")
def test_a_figure_beyond_its_goal_misses(goal):
    outwards = 1 if goal.relation == "<=" else -1
    row = {"figure": goal.figure, "T": goal.steps, "layout": goals.CONTIGUOUS, "vectors": goal.vectors}
    for value, result in ((goal.limit, "holds"), (goal.limit + 0.01 * outwards, "misses"), (float("nan"), "misses")):
        (judged,) = goals.judged([row | {"value": f"{value:.3f}"}], goal.processor)
        assert judged["result"] == result and judged["goal"] == f"{goal.relation} {goal.limit:g}"
    others = ({"layout": "batch first"}, {"vectors": "generic"}, {"T": 8})
    for judged in goals.judged([row | {"value": "1"} | other for other in others], goal.processor):
        assert "goal" not in judged
    if goal.processor:
        assert "goal" not in goals.judged([row | {"value": "1"}], "Zen 5")[0]


def run_with_times(monkeypatch, capsys, tmp_path, kernels, plain, both):
    """The lines of a run in which nothing is measured: the other engines take as long as the fused layer."""

    def times_of(calls, rounds):
        return {name: [plain if "plain" in name else both if "both" in name else 1.0] for name in calls}

    def ask(module, *arguments, **environment):
        assert module == "benchmarks.goals" and environment == {"ATEN_CPU_CAPABILITY": "avx2"}
        with monkeypatch.context() as patch:
            patch.setattr(goals, "kernels", lambda: goals.AVX2)
            return json.dumps([goals.row_of(goals.COST, goals.CONTIGUOUS, TINY, 1.95, 1.0)])

    monkeypatch.setattr(goals, "SHAPES", {TINY: tuple(goals.LAYOUTS)})
    monkeypatch.setattr(goals, "THREADS", torch.get_num_threads())
    monkeypatch.setattr(goals, "kernels", lambda: kernels)
    monkeypatch.setattr(goals, "times_of", times_of)
    monkeypatch.setattr(goals, "gate", lambda peers: (peers, {}))
    monkeypatch.setattr(native, "serves", lambda device: None)
    monkeypatch.setattr(record, "ask", ask)
    out = tmp_path / "goals.csv"
    assert goals.main(["--out", str(out)]) == 0
    rows = record.read(out)
    assert tuple(rows[0]) == goals.COLUMNS and all(row["machine"] and row["date"] for row in rows[:-1])
    return rows, capsys.readouterr().out


def test_a_run_prints_figures_beside_their_goals(monkeypatch, capsys, tmp_path):
    rows, printed = run_with_times(monkeypatch, capsys, tmp_path, goals.AVX512, plain=1.0, both=1.6)
    assert [row["value"] for row in rows if row["figure"] == goals.COST] == ["1.600"] * 4 + ["1.950"]
    assert [row["goal"] for row in rows if row["result"] == "misses"] == ["<= 1.5", ">= 18", ">= 9", "<= 1.9"]
    assert [row["result"] for row in rows if row["layout"] == "channels-last"] == [""]
    assert "1.600  goal <= 1.5  misses  (1.600 / 1.000 ms)" in printed and "no goals for" not in printed


def test_no_goals_without_avx2(monkeypatch, capsys, tmp_path):
    rows, printed = run_with_times(monkeypatch, capsys, tmp_path, "generic", plain=1.0, both=9.0)
    assert {row["goal"] for row in rows} == {""} and "no goals for generic kernels" in printed


def test_without_the_compiled_engine_there_are_no_figures(monkeypatch):
    monkeypatch.setattr(native, "serves", lambda device: "not built")
    with pytest.raises(SystemExit, match="compiled engine: not built"):
        goals.main([])


def test_layouts_are_measured(monkeypatch):
    monkeypatch.setattr(goals, "SHAPES", {TINY: tuple(goals.LAYOUTS)})
    monkeypatch.setattr(goals, "kernels", lambda: goals.AVX512)
    rows = goals.costs(TINY, rounds=1)
    assert [row["layout"] for row in rows] == [*goals.LAYOUTS, goals.CONTIGUOUS]
    assert all(float(row["value"]) > 0 for row in rows)
    x = torch.empty(TINY)
    laid = {name: goals.laid(x, order) for name, order in goals.LAYOUTS.items()}
    assert all(y.shape == x.shape and y.data_ptr() == x.data_ptr() for y in laid.values())
    assert laid["contiguous"].is_contiguous() and laid["batch first"].transpose(0, 1).is_contiguous()
    assert laid["channels-last"][0].is_contiguous(memory_format=torch.channels_last)
    assert laid["H and W swapped"].mT.is_contiguous()
