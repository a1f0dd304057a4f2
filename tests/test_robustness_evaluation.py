"""Evaluations: their records, which go on where they were stopped, what is refused, and the command line."""

import json

import numpy as np
import pytest
import torch

pytest.importorskip("tqdm")

from victims import LITTLE, Scale, grey, images, network

import tgo_kernels as tgo
from tgo_kernels.robustness import (
    Outcome,
    Victim,
    accuracy,
    attacks,
    evaluate,
    evaluation,
)
from tgo_kernels.robustness.__main__ import main

SOME = ("FGSM", "PGD20", "SA-PGD + ASSG", "margin, ATan(8)", "local search")


def test_a_record_is_gone_on_with_and_another_one_refused(tmp_path, monkeypatch):
    """Stopped after two attacks, it ends as if it had not been; every figure and point."""
    model, (x, y) = network().eval(), images(10)
    y = model(x).argmax(1)
    options = {"effort": LITTLE, "attacks": SOME}
    whole = evaluate(model, x, y, record=tmp_path / "whole.json", **options)

    def stopped(items, **_):
        yield from list(items)[:3]
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(evaluation, "bar", stopped)
        evaluate(model, x, y, record=tmp_path / "x.json", **options)
    assert len(Outcome.read(tmp_path / "x.json").stood) == 3
    again = evaluate(model, x, y, record=tmp_path / "x.json", **options)
    assert again.stood.keys() == whole.stood.keys() == {"clean", *SOME} and again.about == whole.about
    assert all(torch.equal(again.stood[name], whole.stood[name]) for name in SOME)
    assert torch.equal(again.points["best"], whole.points["best"])
    written = json.loads((tmp_path / "x.json").read_text())
    assert written["about"]["search"] == 8 and written["seconds"].keys() == written["stood"].keys()
    read = Outcome.read(tmp_path / "x.json")
    assert read.shares == again.shares and read.alone == again.alone and len(read.first(4)) == 4
    before = (tmp_path / "x.json").read_text()
    assert evaluate(model, x, y, record=tmp_path / "x.json", **options).shares == again.shares
    assert (tmp_path / "x.json").read_text() == before
    other, weights = network(decay=0.9).eval(), network().eval()
    next(weights.parameters()).data.mul_(1.01)
    for change in (
        {"model": other},
        {"model": weights},
        {"twin": other},
        {"images": x / 2},
        {"labels": 9 - y},
        {"eps": 0.1},
        {"effort": "quick"},
        {"seed": 1},
    ):
        given = {"model": model, "images": x, "labels": y, "effort": LITTLE} | change
        with pytest.raises(ValueError, match=r"x\.json is of another evaluation \(.*\): move it away"):
            evaluate(given.pop("model"), given.pop("images"), given.pop("labels"), record=tmp_path / "x.json", **given)
    (tmp_path / "x.points.pt").unlink()
    with pytest.raises(ValueError, match=r"is not through, and .*x\.points\.pt is missing: move it away"):
        evaluate(model, x, y, record=tmp_path / "x.json", effort=LITTLE, attacks=["RFGSM"])


def test_a_record_is_of_its_time_steps(tmp_path):
    net, (x, y) = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(36, 2)), grey(4)
    evaluate(net, x, y, attacks=["FGSM"], record=tmp_path / "x.json")
    with pytest.raises(ValueError, match=r"is of another evaluation \(steps None, now 2\)"):
        evaluate(net, x, y, attacks=["FGSM"], record=tmp_path / "x.json", steps=2)


def test_a_record_that_was_begun_is_not_through_by_fewer_attacks(tmp_path):
    model, (x, y) = Scale(), grey(6)
    outcome = evaluate(model, x, y, effort=LITTLE, attacks=["FGSM", "PGD7"], record=tmp_path / "x.json")
    del outcome.stood["PGD7"]
    outcome.write(tmp_path / "x.json")
    again = evaluate(model, x, y, effort=LITTLE, attacks=["FGSM"], record=tmp_path / "x.json")
    assert not again.through and again.about["attacks"] == ["clean", "FGSM", "PGD7"]
    assert "torch" in (made := again.about["made with"]) and f"tgo_kernels {tgo.__version__}" in made
    assert again.about["batch"] == 100 and again.about["neurons"] == [repr(model.lif)]
    assert evaluate(model, x, y, effort=LITTLE, attacks=["PGD7"], record=tmp_path / "x.json").through


def test_a_record_of_a_model_that_answers_otherwise_is_refused(tmp_path):
    """What a fingerprint does not show."""
    (x, y), after = grey(20), lambda logits: logits
    evaluate(Scale(after=after), x, y, effort=LITTLE, attacks=["FGSM"], record=tmp_path / "x.json")
    with pytest.raises(ValueError, match=r"x\.json is of a model that answers otherwise: move it away"):
        evaluate(Scale(after=torch.neg), x, y, effort=LITTLE, attacks=["PGD7"], record=tmp_path / "x.json")


def test_points_are_where_the_worst_case_is():
    """Of each image the nearest to wrong of all attacks: wrong where any attack was."""
    model, (x, y) = Scale(), grey()
    outcome = evaluate(model, x, y, effort=LITTLE, attacks=[*SOME, "PGD20, eps 16/255"])  # which goes too far
    wrong, margins = Victim(model).wrong(outcome.points["best"], y)
    assert torch.equal(wrong, ~outcome.right) and torch.equal(margins, outcome.points["margin"])
    assert (outcome.points["best"] - x).abs().max() <= attacks.EPS + 1e-6


def test_no_gradient_with_noise_or_without_it(monkeypatch):
    monkeypatch.setattr(Victim, "check", lambda self, x, noise: 0.25 if noise else 0.5)
    assert evaluate(Scale(noise_std=0.1), *grey(2), noise=True, attacks=[]).about["no gradient"] == 0.5
    assert evaluate(Scale(noise_std=0.1), *grey(2), attacks=[]).about["no gradient"] == 0.5


@pytest.mark.parametrize(
    "change, said",
    [
        (
            {"images": torch.rand(3, 6, 6)},
            r"images must be a float tensor \[N, C, H, W\] .*, got torch.float32 \(3, 6, 6\)",
        ),
        ({"images": torch.rand(4, 1, 6, 6) + 1}, r"images must be in \[0, 1\], got values from 1"),
        ({"labels": torch.zeros(3)}, r"labels must be an int64 tensor \[4\], got torch.float32 \(3,\)"),
        ({"eps": 2.0}, "eps must be > 0 and at most 1, got 2.0"),
        ({"norm": "l2"}, "norm must be 'linf', got 'l2'"),
        ({"effort": "hard"}, "effort must be an Effort or one of quick, standard, full, got 'hard'"),
        ({"attacks": ["PGD"]}, "attacks must be of 'clean', 'random', .*; got 'PGD'$"),
        ({"attacks": ["transfer"]}, "attacks must be of .*; got 'transfer', which needs a twin"),
        ({"batch": 0}, "batch must be an int >= 1, got 0"),
        ({"model": Victim(Scale()), "steps": 7}, r"steps are said by Victim\(model, steps=7\) where a Victim is given"),
    ],
)
def test_bad_input_says_what_was_expected(change, said):
    x, y = grey(4)
    given = {"model": Scale(), "images": x, "labels": y} | change
    with pytest.raises(ValueError, match=said):
        evaluate(given.pop("model"), given.pop("images"), given.pop("labels"), **given)


def test_accuracy_is_of_batches():
    x, y = grey(10)
    sizes = []
    share = accuracy(
        Scale(), x, y, noise=False, batch=4, show=lambda pairs: sizes.extend(len(a) for a, _ in pairs) or pairs
    )
    assert share == 1 and sizes == [4, 4, 2]


FACTORY = """
from __future__ import annotations
from dataclasses import dataclass
from victims import Scale
@dataclass
class Settings:
    steps: int = 4
def made():
    return Scale()
"""


def test_the_command_line_prints_the_table(tmp_path, capsys):
    (tmp_path / "model.py").write_text(FACTORY)
    x, y = grey(8)
    np.savez(tmp_path / "data.npz", images=x.numpy(), labels=y.numpy())
    torch.save({"model": Scale().state_dict()}, tmp_path / "w.pt")
    run = [f"{tmp_path}/model.py:made", "--weights", f"{tmp_path}/w.pt", "--data", f"{tmp_path}/data.npz"]
    run += [
        "--attacks",
        *SOME,
        "--record",
        f"{tmp_path}/r.json",
        "--effort",
        "quick",
        "--search",
        "20",
        "--images",
        "6",
    ]
    assert main(run) == 0
    printed = capsys.readouterr().out
    assert "| worst, image by image" in printed and "Signs of masked gradients:" in printed
    assert json.loads((tmp_path / "r.json").read_text())["about"]["search"] == 20
    twin = json.loads((tmp_path / "r.json").read_text())["about"] | {"twin": [evaluation.fingerprint(Victim(Scale()))]}
    run += ["--twin", f"{tmp_path}/model.py:made"]
    assert main(run) == 1 and "of another evaluation (twin [], now [" in capsys.readouterr().err
    assert main([*run[:-4], "--record", f"{tmp_path}/t.json", *run[-2:]]) == 0
    assert json.loads((tmp_path / "t.json").read_text())["about"]["twin"] == twin["twin"]
    assert main([f"{tmp_path}/model.py:other", *run[1:]]) == 1
    assert "must have a function 'other'" in capsys.readouterr().err
    torch.save(torch.nn.Linear(1, 1), tmp_path / "w.pt")
    assert main(run) == 1 and "w.pt must be of torch.save(model.state_dict(), ...)" in capsys.readouterr().err
