"""Training that survives a kill and runs in several processes, and attacks made for spiking networks."""

import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

pytest.importorskip("torchattacks")

import tgo_kernels as tgo
from benchmarks.robustness import adaptive, attacks, data, distributed, straight, theory, train
from benchmarks.robustness.evaluate import Effort, Outcome, evaluate, suite
from benchmarks.robustness.models import NETWORKS, classifier, lif_layers, watched
from benchmarks.robustness.recipe import Recipe

ROOT = Path(__file__).parents[1]
SMALL = {"conv": {"channels": (2, 3)}, "vgg11": {"width": 1 / 64}, "wrn16": {"width": 1}}
LITTLE = Effort(restarts=2, apgd_steps=2, queries=3, iterations=4, draws=2)


def images(count: int) -> tuple[torch.Tensor, torch.Tensor]:
    x, y = train.tensors(data.load("subset").test)
    return x[:: len(x) // count][:count], y[:: len(y) // count][:count]


def network(name: str = "conv", **options) -> torch.nn.Module:
    torch.manual_seed(0)
    return classifier(name, lambda: tgo.LIF.from_decay(**options), steps=2, **SMALL[name])


@pytest.mark.parametrize("name", NETWORKS)
def test_every_network_learns_in_every_layer(name):
    model = network(name, noise_std=0.2, guard_margin=0.5).train()
    x, y = images(4)
    train.step(model, torch.optim.SGD(model.parameters(), lr=0.0), x, y, 1.0)
    assert len(lif_layers(model)) == {"conv": 2, "vgg11": 10, "wrn16": 13}[name]
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    assert model(x).shape == (4, 10)


def command(out: Path) -> list[str]:
    small = "--data subset --train-images 200 --epochs 4 --batch 20 --seed 3 --method RAT --guard --noise"
    return [sys.executable, "-m", "benchmarks.robustness.train", *small.split(), "--out", str(out)]


def test_a_killed_training_ends_with_the_same_weights(tmp_path):
    """SIGKILL in the middle of an epoch, again, and whatever was left is taken up."""
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    subprocess.run(command(whole), cwd=ROOT, check=True)
    name = "RAT+TGO-3.pt"
    seconds = sum(epoch["seconds"] for epoch in json.loads((whole / "RAT+TGO-3.json").read_text())["history"]) / 4
    stopped = []
    for epochs in (1, 2):
        process = subprocess.Popen(command(broken), cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while process.poll() is None:
            if (broken / name).exists() and len(torch.load(broken / name)["history"]) >= epochs:
                time.sleep(min(seconds / 3, 0.2))  # what an epoch took beside other work may be long
                break
            time.sleep(0.01)
        process.kill()
        process.wait()
        stopped.append(len(torch.load(broken / name)["history"]))
    assert stopped[0] <= stopped[1] < 4
    subprocess.run(command(broken), cwd=ROOT, check=True)
    a, b = torch.load(whole / name), torch.load(broken / name)
    assert a["model"].keys() == b["model"].keys()
    assert all(torch.equal(a["model"][key], b["model"][key]) for key in a["model"])
    assert [epoch["loss"] for epoch in a["history"]] == [epoch["loss"] for epoch in b["history"]]


def test_a_checkpoint_of_another_training_is_refused(tmp_path):
    recipe = Recipe(data="subset", epochs=2, batch=20, steps=2)
    split = data.load("subset").limited(20, None, seed=0).train
    train.fit(recipe.model(), split, recipe, tmp_path / "x.pt")
    other = replace(recipe, lr=0.2)
    with pytest.raises(ValueError, match=r"x\.pt is of another training \(lr 0\.1, now 0\.2\): move it away"):
        train.fit(other.model(), split, other, tmp_path / "x.pt")
    assert train.main(["--batch", "0", "--data", "subset", "--out", str(tmp_path)]) == 1
    with pytest.raises(ValueError, match="network must be one of conv, vgg11, wrn16, got 'resnet'"):
        Recipe(network="resnet")


def gradients_of_one_batch(out: str) -> None:
    """Under torchrun: each process has its share of eight images; the first one saves what it gets."""
    distributed.join()
    model = network(guard_margin=0.5).train()
    net = distributed.wrapped(model)
    x, y = map(distributed.share, images(8))
    train.step(net, torch.optim.SGD(net.parameters(), lr=0.0), x, y, 1.0)
    seeds = distributed.gathered(torch.initial_seed())
    if distributed.rank() == 0:
        gradients = {name: p.grad for name, p in model.named_parameters()}
        torch.save({"gradients": gradients, "buffers": dict(model.named_buffers()), "seeds": seeds}, out)


def test_two_processes_have_the_gradients_of_one(tmp_path):
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node"]
    found = []
    for processes in (1, 2):
        out = str(tmp_path / f"{processes}.pt")
        command = [*torchrun, str(processes), __file__, out]
        subprocess.run(command, env=os.environ | {"PYTHONPATH": str(ROOT)}, check=True)
        found.append(torch.load(out))
    assert len(found[1]["seeds"]) == 2
    for key in ("gradients", "buffers"):
        for name, one in found[0][key].items():
            torch.testing.assert_close(found[1][key][name], one, rtol=1e-4, atol=1e-5 * one.abs().max().item())


def test_two_processes_train_and_go_on_with_noise_of_their_own(tmp_path):
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m"]
    small = "--data subset --train-images 40 --batch 20 --guard --noise --method AT --attack fgsm --epochs 2"
    run = [*torchrun, "benchmarks.robustness.train", *small.split(), "--out", str(tmp_path)]
    subprocess.run(run, cwd=ROOT, check=True)
    record = json.loads((tmp_path / "AT+TGO-0.json").read_text())
    assert record["processes"] == 2 and len(record["history"]) == 2 and "tgo_kernels" in record["machine"]["versions"]
    assert record["settings"]["attack"] == "fgsm"


def test_retraction_leads_to_orthogonal_rows():
    layer = torch.nn.Conv2d(3, 4, 3)
    w = layer.weight.detach().flatten(1).clone()
    train.retract(layer, 0.01)
    torch.testing.assert_close(layer.weight.flatten(1), 1.01 * w - 0.01 * w @ w.T @ w)
    for _ in range(3000):
        train.retract(layer, 0.01)
    w = layer.weight.flatten(1)
    torch.testing.assert_close(w @ w.T, torch.eye(4), atol=1e-3, rtol=0)


def test_adaptive_surrogates_follow_their_equations():
    """Two iterations by hand; a frozen draw changes nothing; images that are done take their moments along."""
    surrogate = adaptive.AdaptiveATan.over(steps=1)
    assert pytest.approx(2.652, abs=1e-3) == adaptive.WIDTH
    m, deviation = torch.ones(2, 3), torch.zeros(2, 3)
    for d in (torch.randn(2, 3), torch.randn(2, 3)):
        m = 0.9 * m + 0.1 * d.abs()
        deviation = 0.9 * deviation + 0.1 * (d.abs() - m).abs()
        alpha = adaptive.WIDTH / (m + 1.5 * deviation + 1e-4)
        expected = alpha / 2 / (1 + (torch.pi / 2 * alpha * d).square())
        torch.testing.assert_close(surrogate.derivative(d), expected)
    surrogate.memory.frozen = True
    torch.testing.assert_close(surrogate.derivative(d), expected)
    surrogate.memory.keep(torch.tensor([False, True]))
    torch.testing.assert_close(surrogate.derivative(d[1:]), expected[1:])


def test_the_layers_ask_an_adaptive_surrogate_once_a_step():
    model, (x, y) = network().eval(), images(4)
    with attacks.surrogates(model, lambda: adaptive.AdaptiveATan.over(model.steps), impl="reference") as made:
        adaptive.gradient(model, x, y, made, draws=3)
        assert [surrogate.memory.calls for surrogate in made] == [3 * model.steps] * len(made)
        assert [set(surrogate.memory.moments) for surrogate in made] == [set(range(model.steps))] * len(made)
    assert all(layer.impl == "auto" and layer.neuron.surrogate == tgo.ATan(2.0) for layer in lif_layers(model))


def test_bounds_halve_as_the_paper_says():
    etas = list(adaptive.bounds(1.0, 100))
    assert len(etas) == 100 and etas[:22] == [1.0] * 22 and etas[22:41] == [0.5] * 19 and etas[41] == 0.25


@pytest.mark.parametrize("rule", [straight.bptr, straight.rga])
def test_straight_through_rules_leave_the_spikes(rule):
    layer = tgo.LIF.from_decay(0.5)
    x = torch.rand(4, 50, requires_grad=True)
    spikes = layer(x)
    with straight.straight_through(rule, layer):
        replaced = layer(x)
    assert torch.equal(replaced, spikes) and not layer._forward_hooks
    weight = torch.randn(4, 50)
    (g,) = torch.autograd.grad((replaced * weight).sum(), x)
    slope = rule(layer.neuron, x.detach().mean(0), spikes.detach().mean(0))
    torch.testing.assert_close(g, (weight.mean(0) * slope).expand(4, 50))
    assert len(slope.unique()) == 2


def test_every_attack_stays_within_eps_and_the_record_goes_on(tmp_path):
    model, (x, y) = network(noise_std=0.2).eval(), images(10)
    made = suite(LITTLE, network().eval(), noise=True)
    for name, make in made.items():
        eps = int(name.split("eps ")[1].split("/")[0]) if "eps" in name else 8
        with attacks.evaluating(model, noise=True):
            attack = make(model, 2)
            moved = x if attack is None else attack(x, y)
        assert moved.min() >= 0 and moved.max() <= 1 and (moved - x).abs().max() <= eps / 255 + 1e-6, name
    path = tmp_path / "x.json"
    outcome = evaluate(model, x, y, path, noise=True, effort=LITTLE)
    assert outcome.stood.keys() == suite(LITTLE, None, noise=True).keys()
    assert not (outcome.stood["FGSM"] & ~outcome.stood["clean"]).any()
    written = path.read_text()
    again = evaluate(model, x, y, path, noise=True, effort=LITTLE)
    assert path.read_text() == written and again.shares == outcome.shares
    with pytest.raises(ValueError, match=r"x\.json is of another model or effort .*: move it away"):
        evaluate(network().eval(), x, y, path, noise=True, effort=LITTLE)
    assert again.worst == min(again.worst, *(again.accuracy(name) for name in ("clean", "FGSM", "PGD40", "APGD")))


def test_a_noisy_model_answers_by_the_mean_of_many_draws():
    """No lucky draw ends an attack: an image that one draw in five gets wrong is right."""
    model, (x, _) = network(noise_std=0.3).eval(), images(200)
    torch.manual_seed(0)
    with attacks.evaluating(model, noise=True), torch.no_grad():
        draws = torch.stack([model(x) for _ in range(64)])
        y = draws.mean(0).argmax(1)
        lucky = (draws.argmax(2) != y).float().mean(0)
        sure = (lucky > 0.1) & (lucky < 0.3)
        asked = torch.stack([attacks.correct(model, x[sure], y[sure]) for _ in range(10)])
        mean = attacks.Averaged(model, 3)
        assert not mean.training and mean(x).shape == (200, 10)
    assert sure.sum() > 50 and asked.float().mean() > 0.95
    calls = []
    with attacks.evaluating(model, noise=False), watched(model, lambda *_: calls.append(1)):
        attacks.correct(model, x, y)
    assert len(calls) == len(lif_layers(model))


class Wavering(torch.nn.Module):
    """Right on [B, 1, *] of mean over 1/2; one draw in eight says otherwise, the mean of 16 next to never."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.bias = tgo.LIF(noise_std=0.1), torch.nn.Parameter(torch.zeros(()))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        sure = (x.mean((1, 2, 3)) - 0.5) * 255 / 4 - 2.5 * (torch.rand(len(x)) < 0.12)
        return torch.stack([sure, self.bias.expand_as(sure)], 1)


@pytest.mark.parametrize(
    "make",
    [lambda model: attacks.apgd(model, steps=5), lambda model: attacks.square(model, queries=100)],
)
def test_no_attack_ends_at_a_lucky_draw(make):
    """Not on the clean image, which can always be made wrong, nor on an iterate that one draw alone gets wrong."""
    model, x, y = Wavering().eval(), torch.full((100, 1, 8, 8), 0.5 + 4 / 255), torch.zeros(100, dtype=torch.int64)
    assert attacks.accuracy(model, x, y, noise=True) > 0.95
    assert attacks.accuracy(model, x, y, make(model), noise=True) < 0.05


def test_the_worst_case_is_taken_image_by_image():
    stood = {"clean": [1, 1, 1, 0], "PGD40": [1, 0, 1, 0], "Square": [0, 1, 1, 0], "PGD20, eps 16/255": [0, 0, 0, 0]}
    assert Outcome({name: torch.tensor(bits) == 1 for name, bits in stood.items()}).worst == 0.25


def test_attacks_find_more_than_random_noise():
    recipe = Recipe(data="subset", epochs=8, batch=20)
    model, (x, y) = recipe.model(), images(100)
    train.fit(model, data.load("subset").train, recipe)
    options = {"noise": False, "batch": 100}
    left = {
        "random": attacks.accuracy(model, x, y, attacks.random_signs(), **options),
        "PGD": attacks.accuracy(model, x, y, attacks.pgd(model), **options),
        "SA-PGD": attacks.accuracy(model, x, y, adaptive.sa_pgd(model, iterations=20), **options),
    }
    assert left["random"] > 0.7 and left["PGD"] < left["random"] - 0.15 and left["SA-PGD"] <= left["PGD"], left


def test_flips_are_those_of_the_closed_form():
    torch.manual_seed(0)
    found = theory.flips(network().eval(), images(20)[0], noise_std=0.3)
    assert found.largest_deviation < 5 and found.count[0] > 100
    assert list(found.expected) == sorted(found.expected, reverse=True)


def test_gradients_of_a_linear_model_are_known():
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 3, bias=False))
    x = torch.rand(5, 1, 2, 2)
    found = theory.gradients(model, x, torch.zeros(5, dtype=torch.int64))
    assert found.jacobian == pytest.approx(model[1].weight.detach().norm().item(), rel=1e-5)
    assert 0 <= found.sparsity < 1 and found.norm > 0


if __name__ == "__main__":
    gradients_of_one_batch(sys.argv[1])
