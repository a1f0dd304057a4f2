"""The study: its checks, the settings' search, gains against their controls, and what the README says of it."""

from dataclasses import replace

import pytest
import torch

pytest.importorskip("pyautoattack")
pytest.importorskip("matplotlib")

from victims import LITTLE

from benchmarks.robustness import data, findings, search, study
from benchmarks.robustness.models import with_noise
from benchmarks.robustness.recipe import Recipe
from tgo_kernels.robustness import ANSWERS, Outcome, evaluate, victim


def test_each_gain_is_over_what_differs_in_that_one_thing():
    """Of 20 images without noise and the first 10 of them with it, on which all are right more often."""

    def outcome(first: int, others: int = 0, images: int = 10) -> dict[int, Outcome]:
        right = torch.arange(images)
        bits = (right < first) | ((right >= 10) & (right < 10 + others))
        return {0: Outcome(dict.fromkeys([*findings.MAIN[:-1], "PGD7"], bits))}

    outcomes = {
        ("BPTT", False): outcome(2, 1, images=20),
        ("BPTT", True): outcome(6),
        ("BPTT+TGO", False): outcome(5, 2, images=20),
        ("BPTT+TGO", True): outcome(7),
    }
    said = [[cell.strip() for cell in line.split("|")[1:-1]] for line in findings.gains(outcomes)[2:]]
    assert {(row, control): set(points) for row, control, *points in said} == {
        ("BPTT, noise in test", "BPTT"): {"40.0"},
        ("BPTT+TGO", "BPTT"): {"20.0"},
        ("BPTT+TGO, noise in test", "BPTT, noise in test"): {"10.0"},
        ("BPTT+TGO, noise in test", "BPTT+TGO"): {"20.0"},
    }
    off, on, _ = findings.answers(outcomes, {})
    assert "No: 20.0 points over BPTT, 20.0 in the worst case." in off
    assert (
        "No: 10.0 points over BPTT, noise in test, 10.0 in the worst case, where noise in test alone gains 40.0." in on
    )


def test_the_readme_has_the_tables_of_the_report():
    report = (study.STUDIES["full"].out / "report.md").read_text()
    readme = (study.ROOT / "README.md").read_text()
    for heading in (f"# Robustness: {Recipe.network}", "## Noise in test, and its controls"):
        section = report.split(heading)[1].split("\n## ")[0]
        lines = [line for line in section.splitlines() if line.startswith("|")]
        assert lines and not [line for line in lines if line not in readme.splitlines()], heading


def test_the_search_keeps_to_the_validation_split(tmp_path, monkeypatch):
    monkeypatch.setattr(search, "ALPHAS", (2.0,))
    monkeypatch.setattr(search, "GRID", {"noise_std": (0.1,), "guard_margin": (0.5,), "lambda_max": (1.0,)})
    seen = []
    judge = search.judge
    monkeypatch.setattr(search, "judge", lambda model, x, y: seen.append(x) or judge(model, x, y))
    run = ["--data", "subset", "--images", "40", "--judged", "20", "--epochs", "1", "--out", str(tmp_path / "s.csv")]
    assert search.main(run) == 0 and search.main(run) == 0
    assert len(seen) == 2 and len((tmp_path / "s.csv").read_text().splitlines()) == 3  # not trained again
    test = {image.tobytes() for image in data.load("subset").test.images}
    assert not test & {(255 * image).round().byte().numpy().tobytes() for x in seen for image in x[:, 0]}


def test_best_is_the_most_robust_of_those_that_stay_accurate():
    rows = [{"clean": c, "worst": w} for c, w in ((0.9, 0.2), (0.87, 0.4), (0.5, 0.45))]
    assert search.best(rows, 0.9) is rows[1] and search.best(rows[2:], 0.9) is rows[2]


def test_a_study_trains_attacks_and_reports(tmp_path, monkeypatch, capsys):
    little = replace(
        study.STUDIES["quick"],
        recipe=Recipe(data="subset", epochs=1, batch=50, steps=2),
        defences=("BPTT", "BPTT+TGO", "AT", "AT+TGO"),
        images=10,
        noisy=5,
        effort=LITTLE,
        out=tmp_path / "out",
        figures=tmp_path / "figures",
    )
    monkeypatch.setitem(study.STUDIES, "quick", little)
    monkeypatch.setattr(victim, "ANSWERS", 4)  # of the library, which records its own
    subset = data.load("subset")
    monkeypatch.setattr(data, "load", lambda name: subset.limited(100, None, seed=0))
    assert study.main(["quick", "--only", "BPTT+TGO-0"]) == 0
    assert study.main(["quick"]) == 0
    report = (tmp_path / "out" / "report.md").read_text()
    assert report in capsys.readouterr().out
    for said in ("Does BPTT+TGO gain at least 20 points under FGSM, noise on", "threshold neighbours by 40 %", "74.91"):
        assert said in report
    rows = (tmp_path / "out" / "results.csv").read_text().splitlines()
    records = {noise: Outcome.read(tmp_path / "out" / f"AT-0.{noise}.json") for noise in ("off", "on")}
    off, on = (len(record.stood) + 1 for record in records.values())
    assert len(rows) == 1 + 4 * (2 * off + on) - 3  # off on all images and on the first; BPTT has no twin
    assert {tuple(row.split(",")[:4]) for row in rows if row.startswith("AT,")} == {
        ("AT", "False", "0", "5"),
        ("AT", "False", "0", "10"),
        ("AT", "True", "0", "5"),
    }
    record = records["on"]
    assert record.about["noise"] and record.about["answers"] == ANSWERS
    assert record.about["model"] != Outcome.read(tmp_path / "out" / "AT-0.off.json").about["model"]
    pictures = {path.name for path in (tmp_path / "figures").iterdir()}
    assert pictures == {f"robustness_{name}.png" for name in ("accuracy", "eps", "theory", "distances")}
    with pytest.raises(SystemExit):
        study.main(["quick", "--only", "BPTT-7"])
    assert study.main(["quick", "--report"]) == 0


def test_the_former_suites_records_are_read_and_not_gone_on_with(tmp_path):
    full = study.STUDIES["full"]
    recipe = full.recipes()[0]
    outcome = Outcome.read(full.outcome(recipe, True))
    assert study.former(outcome) and study.through(full, recipe, True, outcome) and outcome.worst < 0.6
    images, labels = torch.rand(200, 1, 28, 28), torch.zeros(200, dtype=torch.int64)
    copy = tmp_path / "x.json"
    copy.write_text(full.outcome(recipe, True).read_text())
    with pytest.raises(ValueError, match=r"x\.json is of another evaluation .*search None, now 2000.*: move it away"):
        evaluate(with_noise(recipe.model(), 0.1), images, labels, noise=True, effort=full.effort, record=copy)
