"""The study: its checks, the settings' search, gains against their controls, and what the README says of it."""

from dataclasses import replace

import pytest
import torch

pytest.importorskip("torchattacks")
pytest.importorskip("matplotlib")

from benchmarks.robustness import attacks, data, findings, search, study
from benchmarks.robustness.evaluate import QUIET, Effort, Outcome, suite
from benchmarks.robustness.recipe import Recipe

LITTLE = Effort(restarts=2, apgd_steps=2, queries=3, iterations=4, draws=2)


def shares(**changes: float) -> dict[str, float]:
    made = dict.fromkeys([*suite(LITTLE, torch.nn.Identity(), noise=True), "worst"], 0.3)
    return (
        made
        | {"clean": 0.9, "random": 0.9, "FGSM": 0.5, "transfer": 0.6, "Square": 0.5}
        | {f"PGD20, eps {eps}/255": 0.0 for eps in (16, 32, 64, 128)}
        | changes
    )


@pytest.mark.parametrize(
    "check, changes",
    {
        "more steps never help the defender": {"PGD10": 0.2},
        "many steps beat one": {"FGSM": 0.2},
        "larger eps reaches zero": {"PGD20, eps 128/255": 0.1},
        "random noise does less than attacks": {"random": 0.4},
        "white-box beats transfer": {"transfer": 0.2},
        "gradients beat the gradient-free Square": {"Square": 0.2},
        "no other surrogate finds more": {"PGD20, Sigmoid(4)": 0.2},
        "SA-PGD + ASSG finds little more than PGD40": {"SA-PGD + ASSG": 0.1},
        "EoT beats a single draw": {"PGD20, EoT": 0.5},
        "gradients without noise find little more": {QUIET: 0.2},
    }.items(),
)
def test_every_check_can_fail(check, changes):
    checks = findings.CHECKS | findings.WITH_NOISE
    assert all(passes(shares(), 0.01) for passes in checks.values())
    assert [name for name, passes in checks.items() if not passes(shares(**changes), 0.01)] == [check]


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
    subset = data.load("subset")
    monkeypatch.setattr(data, "load", lambda name: subset.limited(100, None, seed=0))
    assert study.main(["quick", "--only", "BPTT+TGO-0"]) == 0
    assert study.main(["quick"]) == 0
    report = (tmp_path / "out" / "report.md").read_text()
    assert report in capsys.readouterr().out
    for said in ("Does BPTT+TGO gain at least 20 points under FGSM, noise on", "threshold neighbours by 40 %", "74.91"):
        assert said in report
    rows = (tmp_path / "out" / "results.csv").read_text().splitlines()
    per_defence = 3  # noise off on all images and on the first, noise on; all but BPTT have a twin
    assert len(rows) == 1 + per_defence * (4 * (len(suite(LITTLE, None)) + 1) + 3) + 4
    assert {tuple(row.split(",")[:4]) for row in rows if row.startswith("AT,")} == {
        ("AT", "False", "0", "5"),
        ("AT", "False", "0", "10"),
        ("AT", "True", "0", "5"),
    }
    record = Outcome.read(tmp_path / "out" / "AT-0.on.json")
    assert record.about["noise"] and record.about["answers"] == attacks.ANSWERS
    assert record.about["model"] != Outcome.read(tmp_path / "out" / "AT-0.off.json").about["model"]
    pictures = {path.name for path in (tmp_path / "figures").iterdir()}
    assert pictures == {f"robustness_{name}.png" for name in ("accuracy", "eps", "theory", "distances")}
    with pytest.raises(SystemExit):
        study.main(["quick", "--only", "BPTT-7"])
