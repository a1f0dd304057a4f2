"""What each attack of a suite asks of a model, where it starts, and which are left out."""

import pytest
import torch

pytest.importorskip("tqdm")

from victims import LITTLE, Scale, grey, images, network

import tgo_kernels as tgo
from tgo_kernels.robustness import (
    EFFORTS,
    AdaptiveATan,
    Effort,
    Outcome,
    Victim,
    adaptive,
    attacks,
    evaluate,
    evaluation,
    rates,
    victim,
)
from tgo_kernels.robustness.suite import NUMBERS, QUIET, Stage, selected, suite

SOME = ("FGSM", "PGD20", "SA-PGD + ASSG", "margin, ATan(8)", "local search")


def test_what_found_nothing_alone_is_run_where_it_is_asked_for(monkeypatch):
    """By its name, or by an effort that has everything; a record says which attacks the evaluation has."""
    monkeypatch.setattr(victim, "ANSWERS", 2)
    model, (x, y) = network(noise_std=0.1).eval(), images(4)
    everything = Effort(*[getattr(LITTLE, each.name) for each in NUMBERS], everything=True)
    never = {"RFGSM", "PGD40 restarted", "PGD20, Sigmoid(4)", "PGD20, Triangle(1)", "PGD20, BPTR", "PGD20, RGA"}
    for noise, idle in ((False, never), (True, {*never, "APGD", "Square", "SA-PGD + ASSG"})):
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
    assert f"margin, NoisePDF, EoT-{LITTLE.many}" in learned


@pytest.mark.parametrize("noise", [False, True])
def test_what_each_attack_of_the_suite_asks_of_a_model(noise, monkeypatch):
    """Gradients of which loss, along what, in how many draws, and whether noisy; and answers in how many."""
    monkeypatch.setattr(victim, "ANSWERS", 2)
    seen, asked, gradient, mean, along = [], set(), attacks.gradient, Victim.mean, rates.straight_through

    def watched(model, x, labels, loss=attacks.cross_entropy, draws=1):
        made = tuple(type(each) if isinstance(each, AdaptiveATan) else each for each in model.made)
        seen.append((loss, draws, model.noisy, *made))
        return gradient(model, x, labels, loss, draws)

    for module in (attacks, adaptive):
        monkeypatch.setattr(module, "gradient", watched)
    monkeypatch.setattr(Victim, "mean", lambda self, x, n=1: asked.add((n, self.noisy)) or mean(self, x, n))
    monkeypatch.setattr(rates, "straight_through", lambda rule, model: seen.append(rule) or along(rule, model))

    class Two(Scale):
        def rates(self, x: torch.Tensor) -> torch.Tensor:
            return self.second(2 * self.lif(x))

    effort, draws = Effort(2, 2, 3, 4, draws=2, margin_steps=10, search=8, many=3), 2 if noise else 1
    net, (x, y) = Two(noise_std=0.01), grey(6)
    net.second = tgo.LIF.from_decay(0.0)
    model, eps = Victim(net), 1 / 255  # within which all stays right

    def ce(times, draws, *made, noise=noise):
        return [(attacks.cross_entropy, draws, noise, *made, *made)] * times

    def ahead(times, draws, *made, noise=noise):
        return [(victim.margin, draws, noise, *made)] * times

    atan = {alpha: (tgo.ATan(alpha),) * 2 for alpha in (1.0, 2.0, 4.0, 8.0, 16.0)}
    expected = {"clean": [], "random": [], "FGSM": ce(1, 1), "RFGSM": ce(1, 1)}
    expected |= {f"PGD{steps}": ce(steps, 1) for steps in (7, 10, 20, 40)}
    expected |= {"PGD40 restarted": ce(80, draws), "APGD": [], "Square": []}
    expected |= {"PGD20, EoT": ce(20, draws)} if noise else {}
    expected |= {"PGD20, ATan(4)": ce(20, draws, tgo.ATan(4.0)), "PGD20, Sigmoid(4)": ce(20, draws, tgo.Sigmoid(4.0))}
    expected |= {"PGD20, Triangle(1)": ce(20, draws, tgo.Triangle(1.0)), "transfer": ce(20, draws, noise=False)}
    expected |= {"PGD20, BPTR": [rates.bptr, *ce(20, draws)], "PGD20, RGA": [rates.rga, *ce(20, draws)]}
    expected |= {f"PGD20, eps {eps}/255": ce(20, draws) for eps in (2, 4, 8, 16)}
    expected |= {"SA-PGD + ASSG": ce(4, draws, AdaptiveATan)}
    if noise:
        expected |= {QUIET: ce(4, 1, AdaptiveATan, noise=False), "local search, without noise": []}
        expected |= {"margin, without noise": ahead(10, 1, *atan[8.0], noise=False)}
        expected |= {"margin, EoT-3": ahead(10, 3, *atan[4.0])}
        expected |= {"margin, NoisePDF, EoT-3": ahead(10, 3, tgo.NoisePDF(), tgo.NoisePDF())}
    else:
        expected |= {"margin, ATan(8)": ahead(10, 1, *atan[8.0]), "local search": []}
        expected |= {"margin, ATan(8) to ATan(2) by layer": ahead(10, 1, tgo.ATan(8.0), tgo.ATan(2.0))}
        expected |= {"margin, ATan(1) to ATan(16)": [each for made in atan.values() for each in ahead(2, 1, *made)]}
    stages, without = suite(model, effort, noise, [Victim(Scale())], eps), {}
    for name, stage in stages.items():
        seen.clear(), asked.clear()
        with model.evaluating(noise):
            _ = stage.attack and stage.attack(model, x, y)
        assert seen == expected[name], name
        without[name] = set(asked)
    assert stages.keys() == expected.keys()
    assert (draws, noise) in without["APGD"] and (draws, noise) in without["Square"]
    search = [name for name in stages if "search" in name]
    assert [without[name] for name in search] == [{(1, False)}]

    how = {name: (stage.on, stage.start, stage.quiet) for name, stage in stages.items() if stage.start}
    last = dict.fromkeys(
        [name for name in stages if "margin" in name or "search" in name], ("survivors", "best", False)
    )
    if noise:
        last |= {"margin, without noise": ("survivors", "best", True), "margin, EoT-3": ("survivors", "quiet", False)}
        last |= {"local search, without noise": ("survivors", "quiet", True)}
    assert how == last and {stages[name].on for name in stages.keys() - last} == {"all"}
    assert suite(Victim(Scale()), effort, True)["margin, EoT-3"].start == "best"  # without a switch nothing is quiet


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


def test_eps_is_as_it_is_asked_for():
    x, y = grey()
    small, large = (evaluate(Scale(), x, y, eps=eps, effort=LITTLE, attacks=SOME) for eps in (1 / 255, 8 / 255))
    assert (small.points["best"] - x).abs().max() <= 1 / 255 + 1e-6 and small.worst == 1 > large.worst
    for times in (2, 4, 8, 16):  # larger ones are gone all the way
        stage = suite(Victim(Scale()), LITTLE, False, eps=2 / 255)[f"PGD20, eps {2 * times}/255"]
        moved = (stage.attack(Victim(Scale()), x, y) - x).abs() * 255 / 2 / times
        assert (moved > 0.99).float().mean() > 0.9


def test_each_image_starts_from_a_point_of_its_own(monkeypatch):
    """In every batch; of what an attack before found nearer, or the image."""

    def some(model, images, labels, start):
        return torch.where(labels.view(-1, 1, 1, 1) == 0, images + 1 / 255, images - 1 / 255)

    stages, starts = {"clean": Stage(None), "some": Stage(some)}, []
    stages["last"] = Stage(lambda model, images, labels, start: starts.append(start) or start, "survivors", "best")
    monkeypatch.setattr(evaluation, "suite", lambda *_: stages)
    x, y = grey(10)
    y[:3] = 1 - y[:3]  # wrong, and not attacked
    outcome = evaluate(Scale(), x, y, batch=4, attacks=list(stages))
    assert [len(start) for start in starts] == [4, 3]
    assert torch.equal(torch.cat(starts), some(None, x, y, None)[3:])
    assert not any(stood[:3].any() for stood in outcome.stood.values())


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
    for layer in Victim(model).layers:
        layer.noise_in_eval = True
    assert evaluate(model, x, y, effort=LITTLE, attacks=[]).about["noise"] is True


def test_a_noise_of_the_models_own_has_a_switch():
    class Own(Scale):
        on = False

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x + 0.02 * self.on * torch.randn_like(x))

    model, (x, y) = Own(), grey(6)
    made = Victim(model, switch=lambda on: setattr(model, "on", on))
    outcome = evaluate(made, x, y, noise=True, effort=LITTLE, attacks=["FGSM", QUIET])
    assert set(outcome.stood) == {"clean", "FGSM", QUIET} and not model.on
    with made.evaluating(True):
        with made.evaluating(False):
            assert not model.on and not made.noisy
        assert model.on and made.noisy
    assert not model.on
    assert evaluate(made, x, y, effort=LITTLE, attacks=["FGSM"]).about["noise"] is False
