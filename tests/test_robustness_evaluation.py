"""Evaluations: their records, which go on where they were stopped, the worst case, the table, and the command line."""

import json

import numpy as np
import pytest
import torch

pytest.importorskip("tqdm")

from victims import LITTLE, Scale, grey, images, network

from tgo_kernels.robustness import EFFORTS, Effort, Outcome, Victim, accuracy, attacks, evaluate, evaluation, victim
from tgo_kernels.robustness.__main__ import main
from tgo_kernels.robustness.checklist import CHECKS, WITH_NOISE, checklist
from tgo_kernels.robustness.suite import IDLE, IDLE_OF_LAYERS, IDLE_WITH_NOISE, NUMBERS, QUIET, selected, suite

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
    other = network(decay=0.9).eval()
    for change in (
        {"model": other},
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


def test_what_found_nothing_alone_is_run_where_it_is_asked_for(monkeypatch):
    """By its name, or by an effort that has everything; a record says which attacks the evaluation has."""
    monkeypatch.setattr(victim, "ANSWERS", 2)
    model, (x, y) = network(noise_std=0.1).eval(), images(4)
    everything = Effort(*[getattr(LITTLE, each.name) for each in NUMBERS], everything=True)
    for noise, idle in ((False, set(IDLE)), (True, {*IDLE, *IDLE_WITH_NOISE, *IDLE_OF_LAYERS})):
        all_of_them = set(suite(Victim(model), LITTLE, noise))
        some = evaluate(model, x, y, noise=noise, effort=LITTLE)
        assert set(some.stood) == set(some.about["attacks"]) == all_of_them - idle and some.through and idle
        whole = evaluate(model, x, y, noise=noise, effort=everything)
        assert set(whole.stood) == all_of_them and not Outcome({"clean": y == y}, whole.about).through
    wrong = (model(x).argmax(1) + 1) % 10  # nothing is left to be attacked
    assert evaluate(model, x, wrong, effort=LITTLE, attacks=["APGD", "local search"]).worst == 0
    assert EFFORTS["full"].everything and not EFFORTS["standard"].everything
    foreign = selected(suite(Victim(Scale()), LITTLE, True), LITTLE)  # a noise without a switch: no attack without it
    assert QUIET not in foreign and {"SA-PGD + ASSG", "Square", f"local search, EoT-{LITTLE.many}"} <= set(foreign)
    switched = selected(suite(Victim(Scale(), switch=print), LITTLE, True), LITTLE)
    learned = selected(suite(Victim(Scale(noise_std=0.1, learn_noise=True)), LITTLE, True), LITTLE)
    assert all({QUIET, "SA-PGD + ASSG"} <= set(stages) and "Square" not in stages for stages in (switched, learned))


def test_a_record_that_was_begun_is_not_through_by_fewer_attacks(tmp_path):
    model, (x, y) = Scale(), grey(6)
    outcome = evaluate(model, x, y, effort=LITTLE, attacks=["FGSM", "PGD7"], record=tmp_path / "x.json")
    del outcome.stood["PGD7"]
    outcome.write(tmp_path / "x.json")
    again = evaluate(model, x, y, effort=LITTLE, attacks=["FGSM"], record=tmp_path / "x.json")
    assert not again.through and again.about["attacks"] == ["clean", "FGSM", "PGD7"]
    assert "torch" in again.about["made with"] and again.about["batch"] == 100
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
    outcome = evaluate(model, x, y, effort=LITTLE, attacks=SOME)
    wrong, margins = Victim(model).wrong(outcome.points["best"], y)
    assert torch.equal(wrong, ~outcome.right) and torch.equal(margins, outcome.points["margin"])
    assert (outcome.points["best"] - x).abs().max() <= attacks.EPS + 1e-6


def test_every_attack_has_a_start_of_its_own(monkeypatch):
    starts = []
    somewhere = attacks.somewhere
    monkeypatch.setattr(attacks, "somewhere", lambda *a: starts.append(somewhere(*a)) or starts[-1])
    model, (x, y) = Scale(), grey(4)
    for seed in (0, 0, 1):
        evaluate(model, x, y, attacks=("PGD7", "PGD20", "PGD40"), seed=seed)
    assert all(torch.equal(a, b) for a, b in zip(starts[:3], starts[3:6], strict=True))
    assert len({start.sum().item() for start in starts}) == 6


def seen_by_stages(monkeypatch, model, noise, names, **options):
    """What each attack was given and gave, and whether its model was noisy then: the images, the start, the points."""
    seen, real = {}, suite(Victim(model), LITTLE, noise)

    def watched(name, stage):
        def attack(victim, images, labels, start=None):
            seen[name] = images, start, stage.attack(victim, images, labels, start)
            return seen[name][2]

        return stage if stage.attack is None else type(stage)(attack, stage.on, stage.start, stage.quiet)

    with monkeypatch.context() as patched:
        patched.setattr(evaluation, "suite", lambda *_: {name: watched(name, real[name]) for name in ("clean", *names)})
        x, y = grey()
        return seen, x, y, evaluate(model, x, y, noise=noise, effort=LITTLE)


def test_the_last_attacks_are_on_survivors_and_from_the_best_points(monkeypatch):
    model = Scale(after=lambda logits: 1e5 * logits)  # the margin alone has a gradient
    seen, x, y, outcome = seen_by_stages(monkeypatch, model, False, SOME)
    assert len(seen["FGSM"][0]) == len(seen["PGD20"][0]) == len(x) and seen["PGD20"][1] is None
    images, start, _ = seen["margin, ATan(8)"]
    left = outcome.stood["FGSM"] & outcome.stood["PGD20"] & outcome.stood["SA-PGD + ASSG"]
    assert 0 < len(images) == left.sum() and torch.equal(outcome.tried["margin, ATan(8)"], left)
    ahead = [Victim(model).margins(points, y[left]) for points in (start, x[left])]
    assert (ahead[0] >= ahead[1]).all() and (ahead[0] > ahead[1]).float().mean() > 0.3


def test_with_noise_the_last_attacks_start_from_points_made_without(monkeypatch):
    names = "margin, without noise", "local search, without noise", "margin, EoT-3"
    monkeypatch.setattr(victim, "ANSWERS", 4)
    noisy, gradient = [], attacks.gradient
    monkeypatch.setattr(attacks, "gradient", lambda v, *a, **o: noisy.append(v.noisy) or gradient(v, *a, **o))
    seen, *_ = seen_by_stages(monkeypatch, Scale(noise_std=0.1), True, names)
    (x, _, first), (_, second, searched), (y, last, _) = (seen[name] for name in names)
    assert noisy == [False] * LITTLE.margin_steps + [True] * LITTLE.margin_steps  # not the search, nor by one draw
    assert 0 < len(y) <= len(x) and not torch.equal(first, searched)
    for given, made in ((second, first), (last, searched)):
        assert all((made == each).flatten(1).all(1).any() for each in given)


@pytest.mark.parametrize("noise", [False, True])
def test_noise_is_as_it_is_asked_for_and_put_back(noise, monkeypatch):
    monkeypatch.setattr(victim, "ANSWERS", 4)
    model, (x, y) = network(noise_std=0.2), images(4)
    names = ["FGSM", *(n for n in suite(Victim(model), LITTLE, noise) if "margin" in n or n in (QUIET, "local search"))]
    outcome = evaluate(model, x, y, noise=noise, effort=LITTLE, attacks=names)
    assert outcome.about["noise"] is noise and ("answers" in outcome.about) is noise and model.training
    assert not any(layer.noise_in_eval for layer in Victim(model).layers)
    assert evaluate(model, x, y, effort=LITTLE, attacks=[]).about["noise"] is False  # as in eval()


def test_a_noise_of_the_models_own_has_a_switch():
    class Own(Scale):
        on = False

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x + 0.02 * self.on * torch.randn_like(x))

    model, (x, y) = Own(), grey(6)
    made = Victim(model, switch=lambda on: setattr(model, "on", on))
    outcome = evaluate(made, x, y, noise=True, effort=LITTLE, attacks=["FGSM", QUIET])
    assert set(outcome.stood) == {"clean", "FGSM", QUIET} and not model.on
    assert evaluate(made, x, y, effort=LITTLE, attacks=["FGSM"]).about["noise"] is False


def test_the_worst_case_is_taken_image_by_image():
    stood = {"clean": [1, 1, 1, 0], "PGD40": [1, 0, 1, 0], "Square": [0, 1, 1, 0], "PGD20, eps 16/255": [0, 0, 0, 0]}
    outcome = Outcome({name: torch.tensor(bits) == 1 for name, bits in stood.items()})
    assert outcome.worst == 0.25 and outcome.alone == {"clean": 0, "PGD40": 1, "Square": 1}
    assert str(outcome).splitlines()[-1].split("|")[2].strip() == "25.0"


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
        ({"attacks": ["PGD"]}, "attacks must be of clean, random, .*; got PGD"),
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
    assert main([f"{tmp_path}/model.py:other", *run[1:]]) == 1
    assert "must have a function 'other'" in capsys.readouterr().err
    torch.save(torch.nn.Linear(1, 1), tmp_path / "w.pt")
    assert main(run) == 1 and "w.pt must be of torch.save(model.state_dict(), ...)" in capsys.readouterr().err


def shares(**changes: float) -> dict[str, float]:
    names = {**suite(Victim(network(noise_std=0.1)), LITTLE, True, [Victim(Scale())])}
    made = dict.fromkeys([*names, "before margin", "before search", "margin, ATan(8)", "local search"], 0.3)
    return (
        made
        | {"clean": 0.9, "random": 0.9, "FGSM": 0.5, "transfer": 0.6, "Square": 0.5, "no gradient": 0.0}
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
        "a gradient reaches every image": {"no gradient": 0.1},
        "the margin finds little more than cross entropy": {"margin, ATan(8)": 0.2},
        "search finds little more than gradients": {"local search": 0.2},
        "EoT beats a single draw": {"PGD20, EoT": 0.33},
        "EoT finds little more than a single draw": {"PGD20, EoT": 0.2},
        "gradients without noise find little more": {QUIET: 0.2},
    }.items(),
)
def test_every_check_can_fail(check, changes):
    checks = CHECKS | WITH_NOISE
    assert all(passes(shares(), 0.01) for passes in checks.values())
    assert [name for name, passes in checks.items() if not passes(shares(**changes), 0.01)] == [check]


def test_checks_are_of_what_was_measured():
    bits = torch.ones(4, dtype=torch.bool)
    assert checklist(Outcome({"clean": bits, "PGD40": bits, "FGSM": bits})) == {"many steps beat one": True}
    assert set(EFFORTS) == {"quick", "standard", "full"}
