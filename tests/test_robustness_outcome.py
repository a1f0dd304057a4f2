"""The worst case image by image, the table, and the checklist."""

import pytest
import torch

pytest.importorskip("tqdm")

from victims import LITTLE, Scale, network

from tgo_kernels.robustness import (
    EFFORTS,
    Outcome,
    Victim,
)
from tgo_kernels.robustness.checklist import CHECKS, WITH_NOISE, checklist
from tgo_kernels.robustness.suite import QUIET, suite


def test_the_worst_case_is_taken_image_by_image():
    stood = {"clean": [1, 1, 1, 0], "PGD40": [1, 0, 1, 0], "Square": [0, 1, 1, 0], "PGD20, eps 16/255": [0, 0, 0, 0]}
    outcome = Outcome({name: torch.tensor(bits) == 1 for name, bits in stood.items()})
    assert outcome.worst == 0.25 and outcome.alone == {"clean": 0, "PGD40": 1, "Square": 1}
    assert str(outcome).splitlines()[-1].split("|")[2].strip() == "25.0"


def test_what_was_not_tried_was_found_by_others(tmp_path):
    """Nor is it right, in the outcome and in its record."""
    bits = {"clean": [1, 1, 1, 1, 0], "FGSM": [1, 0, 0, 1, 0], "PGD40": [1, 1, 0, 1, 0], "last": [1, 0, 0, 0, 0]}
    stood, tried = {name: torch.tensor(each) == 1 for name, each in bits.items()}, torch.tensor([1, 0, 0, 1, 0]) == 1
    points = {"best": torch.rand(5, 1, 2, 2)}
    outcome = Outcome(stood, {"attacks": [*bits, "other"]}, {"last": tried}, points=points)
    outcome.write(tmp_path / "x.json")
    for each in (outcome, Outcome.read(tmp_path / "x.json")):
        assert each.found("last").tolist() == [False, False, False, True, False] and each.right.sum() == 1
        assert each.alone == {"clean": 0, "FGSM": 1, "PGD40": 0, "last": 1}
        assert all(torch.equal(each.stood[name], stood[name]) for name in stood) and not each.through
        assert torch.equal(each.tried["last"], tried) and torch.equal(each.points["best"], points["best"])
        few = each.first(3)
        assert len(few) == len(few.tried["last"]) == len(few.points["best"]) == 3


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


def test_what_a_check_lets_pass_is_of_the_noise_and_of_how_many_images():
    """Of 1000: 1 point, and 0.8 more where answers waver; of search and margins by what they were tried on."""

    def outcome(noise, **right):
        stood = {name: torch.arange(1000) < count for name, count in ({"clean": 1000} | right).items()}
        tried = {name: torch.arange(1000) < 100 for name in ("local search", "margin, ATan(8)") if name in right}
        return Outcome(stood, {"noise": noise, "no gradient": 0.1}, tried)

    for noise, late, passed in ((False, 509, True), (False, 512, False), (True, 512, True), (True, 520, False)):
        assert checklist(outcome(noise, FGSM=500, PGD40=late))["many steps beat one"] is passed
    found = checklist(outcome(True, PGD20=500, **{"PGD20, EoT": 300, "local search": 20, "margin, ATan(8)": 30}))
    assert found == {
        "a gradient reaches every image": False,
        "the margin finds little more than cross entropy": False,
        "search finds little more than gradients": False,
        "EoT beats a single draw": True,
        "EoT finds little more than a single draw": False,
    }
