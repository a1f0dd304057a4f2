"""The study: its checks, the settings' search, gains against their controls, and what the guide says of it."""

import json
import re
from dataclasses import replace

import pytest
import torch

pytest.importorskip("pyautoattack")
pytest.importorskip("matplotlib")

from victims import LITTLE
from victims import images as some

from benchmarks.robustness import data, diagnose, findings, leaderboard, search, study, train
from benchmarks.robustness.recipe import Recipe
from tgo_kernels.robustness import ANSWERS, Outcome, evaluate, victim


def test_each_gain_is_over_what_differs_in_that_one_thing():
    def outcome(right: int) -> dict[int, Outcome]:
        bits = torch.arange(10) < right
        return {0: Outcome(dict.fromkeys([*findings.ATTACKS[:-1], "local search"], bits))}

    right = {
        ("BPTT", False): 2,
        ("BPTT", True): 6,
        ("BPTT+noise", True): 5,
        ("BPTT+TGO", False): 4,
        ("BPTT+TGO", True): 8,
        ("BPTT+TGO-below", False): 3,
        ("BPTT+HoSNN", False): 1,
        ("BPTT, rescaled", False): 2,
        ("BPTT, swapped", False): 9,
        ("BPTT+x3", False): 5,
        ("BPTT+TGO+x3", False): 8,
    }
    outcomes = {row: outcome(count) for row, count in right.items()}
    said = [[cell.strip() for cell in line.split("|")[1:-1]] for line in findings.gains(outcomes)[2:]]
    middle = {(row, control): [float(end) for end in middle.split(" to ")] for row, control, *_, middle in said}
    assert middle["BPTT, rescaled", "BPTT"] == [0, 0]  # the same images
    assert middle["BPTT+TGO", "BPTT"] == pytest.approx([0, 50], abs=10)  # 2 of 10
    assert {(row, control): set(points) for row, control, *points, _ in said} == {
        ("BPTT, noise in test", "BPTT"): {"40.0"},
        ("BPTT+noise, noise in test", "BPTT, noise in test"): {"-10.0"},
        ("BPTT+TGO", "BPTT"): {"20.0"},
        ("BPTT+TGO, noise in test", "BPTT, noise in test"): {"20.0"},
        ("BPTT+TGO, noise in test", "BPTT+noise, noise in test"): {"30.0"},
        ("BPTT+TGO, noise in test", "BPTT+TGO"): {"40.0"},
        ("BPTT+TGO-below", "BPTT+TGO"): {"-10.0"},
        ("BPTT+HoSNN", "BPTT"): {"-10.0"},
        ("BPTT, rescaled", "BPTT"): {"0.0"},
        ("BPTT+x3", "BPTT"): {"30.0"},
        ("BPTT+TGO+x3", "BPTT+TGO"): {"40.0"},
        ("BPTT+TGO+x3", "BPTT+x3"): {"30.0"},
    }
    off, on, _ = findings.answers(outcomes, {})
    assert "Yes: 20.0 points over BPTT, 20.0 in the worst case." in off
    assert (
        "Yes: 20.0 points over BPTT, noise in test, 20.0 in the worst case, where noise in test alone gains 40.0." in on
    )


def test_the_guide_has_the_tables_of_the_report():
    report = (study.STUDIES["full"].out / "report.md").read_text()
    page = (study.ROOT / "docs" / "study.md").read_text()
    for heading in (f"# Robustness: {Recipe.network}", "## Gains"):
        section = report.split(heading)[1].split("\n## ")[0]
        lines = [line for line in section.splitlines() if line.startswith("|")]
        assert lines and not [line for line in lines if line not in page.splitlines()], heading


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
        defences=dict.fromkeys(("BPTT", "BPTT+TGO", "AT", "AT+HoSNN", "BPTT+oscillation", "BPTT+ANN"), (0,)),
        images=5,
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
    rows = {tuple(row.split(",")[:-1]) for row in (tmp_path / "out" / "results.csv").read_text().splitlines()}
    assert ("BPTT+ANN", "False", "0", "5", "worst") in rows and ("BPTT+ANN", "True", "0", "5", "worst") not in rows
    records = {path.stem for path in (tmp_path / "out").glob("*-0.*.json")}
    spiking = ("BPTT", "BPTT+TGO", "AT", "AT+HoSNN", "BPTT+oscillation")
    assert records == {f"{name}-0.{on}" for name in spiking for on in ("off", "on")} | {
        "BPTT+ANN-0.off",
        "AT+HoSNN-0.released",
        "BPTT+oscillation-0.swapped",
    }
    off, on, swapped = (
        Outcome.read(tmp_path / "out" / f"{name}.json")
        for name in ("BPTT+oscillation-0.off", "BPTT+oscillation-0.on", "BPTT+oscillation-0.swapped")
    )
    assert on.about["noise"] and on.about["answers"] == ANSWERS and off.about["digest"] == on.about["digest"]
    assert len({outcome.about["model"] for outcome in (off, on, swapped)}) == 3
    plain, attacked = (Outcome.read(tmp_path / "out" / f"{name}-0.off.json").about["model"] for name in ("BPTT", "AT"))
    assert off.about["twin"] == [plain, attacked] and swapped.about["twin"] == [plain, attacked, off.about["model"]]
    assert Outcome.read(tmp_path / "out" / "AT-0.off.json").about["twin"] == [plain]
    assert "swapped" in report and "AT+HoSNN, released" in report
    pictures = {path.name for path in (tmp_path / "figures").iterdir()}
    assert pictures == {f"robustness_{name}.png" for name in ("accuracy", "eps", "theory", "distances")}
    with pytest.raises(SystemExit):
        study.main(["quick", "--only", "BPTT-7"])
    assert study.main(["quick", "--report"]) == 0


def test_rescaled_channels_are_those_that_the_training_images_say(monkeypatch):
    """And both signs are tried, on the same model."""
    recipe, seen = Recipe(data="full"), []
    full = study.STUDIES["full"]
    dataset = data.load("subset")
    monkeypatch.setattr(study, "FRAGILE", 20)
    real = study.channels.fragility
    monkeypatch.setattr(
        study.channels, "fragility", lambda model, x, *a, **o: seen.append(x) or real(model, x, *a, **o)
    )
    trials, gains = study.trials(recipe), []
    for name in study.RESCALINGS:
        model = recipe.model().eval()
        model.load_state_dict(torch.load(full.out / "BPTT-0.pt")["model"])
        with trials[name].change(model, dataset) as gain:
            gains.append(gain.gain)
    torch.testing.assert_close(gains[0] + gains[1], torch.full((16,), 2.0))
    assert gains[0].std() > 0.05
    assert torch.equal(gains[1].sort().values, gains[2].sort().values) and not torch.equal(gains[1], gains[2])
    test = {image.tobytes() for image in dataset.test.images}
    assert not test & {(255 * image).round().byte().numpy().tobytes() for image in seen[0][:, 0]}


def test_what_networks_are_like_inside_is_written_and_drawn(tmp_path, monkeypatch):
    recipe = Recipe(data="subset", epochs=1, batch=50, steps=2)
    defences = dict.fromkeys(("BPTT", "BPTT+scrambled", "BPTT+inhibition", "BPTT+ANN"), (0,))
    little = replace(diagnose.FULL, recipe=recipe, defences=defences, images=5, out=tmp_path, figures=tmp_path)
    subset = data.load("subset").limited(60, None, seed=0)
    monkeypatch.setattr(data, "load", lambda name: subset)
    monkeypatch.setattr(study, "FRAGILE", 10)
    monkeypatch.setattr(diagnose, "FULL", little)
    assert diagnose.main() == 1  # no model is there
    for each in little.recipes():
        train.run(each, subset, tmp_path)
    assert diagnose.main() == 0
    found = json.loads((tmp_path / "diagnoses.json").read_text())
    names = ["BPTT", "BPTT+inhibition", "BPTT+scrambled"]
    assert sorted(found["transfer"]["models"]) == names and sorted(found["insides"]) == names
    assert [len(row) for row in found["transfer"]["right"]] == [3, 3, 3]
    assert [len(found["insides"][name]["andness"]) for name in names] == [2, 0, 2]  # of LIF behind a norm and spikes
    assert [len(found["insides"][name]["scrambled"]) for name in names] == [3, 3, 3]
    assert list(found["channels"]) == ["BPTT"] and len(found["channels"]["BPTT"]["fragility"]) == 16
    images, labels = train.tensors(subset.test)
    with torch.no_grad():
        right = train.run(little.recipes()[0], subset, tmp_path).eval()(images).argmax(1) == labels
    assert found["accuracy"]["BPTT-0"] == round(right.float().mean().item(), 4)
    assert len(found["accuracy"]) == 4
    assert {"robustness_transfer.png", "robustness_insides.png"} <= {path.name for path in tmp_path.iterdir()}


def entry(tmp_path, images, labels, **changes) -> None:
    """A submission as the protocol asks for it, but for the changes of its record."""
    evaluate(Recipe().model().eval(), images, labels, effort=LITTLE, record=tmp_path / "their.off.json")
    record = json.loads((tmp_path / "their.off.json").read_text())
    record["about"] |= changes
    (tmp_path / "their.off.json").write_text(json.dumps(record))
    about = {"model": "theirs", "trained": "images", "noise in training": "no", "source": "a paper"}
    (tmp_path / "their.about.json").write_text(json.dumps(about))


def test_the_leaderboard_takes_what_the_protocol_asks_for(tmp_path, monkeypatch):
    images, labels = some(6)
    monkeypatch.setattr(leaderboard, "FULL", replace(leaderboard.FULL, images=6, effort=LITTLE))
    monkeypatch.setattr(leaderboard, "attacked", lambda: (images, labels))
    entry(tmp_path, images, labels)
    (given,) = leaderboard.given(tmp_path)
    assert given.cells()[0] == "theirs" and 0 <= given.worst <= 1 and not given.noise
    page = leaderboard.page([*leaderboard.ours(), given])
    assert "| theirs" in page and page.count("\n| ") == 3 + len(leaderboard.ours())
    for changes, said in (
        ({"digest": "0"}, "digest '0' in the place of"),
        ({"eps": 0.01}, "eps 0.01 in the place of"),
        ({"search": 1}, "search 1 in the place of 8"),
        ({"attacks": ["clean", "new"]}, "is not through"),
        ({"seed": 7}, "seed 7 in the place of 0"),
    ):
        (folder := tmp_path / said.split()[0]).mkdir()
        entry(folder, images, labels, **changes)
        with pytest.raises(ValueError, match=said):
            leaderboard.given(folder)
    (folder := tmp_path / "weak").mkdir()
    entry(folder, images, labels)
    record = json.loads((folder / "their.off.json").read_text())
    record["about"]["attacks"] = ["clean", "FGSM", "PGD20"]
    record["stood"] = {name: record["stood"][name] for name in ("clean", "FGSM", "PGD20")}
    (folder / "their.off.json").write_text(json.dumps(record))
    with pytest.raises(ValueError, match=r"lacks .*SA-PGD.*local search.*margin"):
        leaderboard.given(folder)
    (tmp_path / "their.about.json").write_text('{"model": "theirs"}')
    with pytest.raises(
        ValueError, match=r"their\.about\.json must have.*trained, noise in training, source is missing"
    ):
        leaderboard.given(tmp_path)


@pytest.mark.parametrize("left_out", ["margin, without noise", "local search, without noise", "PGD20, ATan(4)"])
def test_a_noisy_record_has_the_attacks_without_noise(left_out):
    outcome = Outcome.read(leaderboard.FULL.out / "BPTT-0.on.json")
    leaderboard.check("it", outcome, {"noise": True})
    outcome.about["attacks"].remove(left_out)
    del outcome.stood[left_out]
    with pytest.raises(ValueError, match=f"it lacks {re.escape(left_out)}"):
        leaderboard.check("it", outcome, {"noise": True})


def test_the_leaderboards_page_is_that_of_the_records():
    assert leaderboard.PAGE.read_text() == leaderboard.page([*leaderboard.ours(), *leaderboard.given()])
