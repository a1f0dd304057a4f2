"""Training for the robustness study, which survives a kill and runs in several processes."""

import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from victims import images, network

from benchmarks.robustness import data, distributed, train
from benchmarks.robustness.models import NETWORKS, lif_layers
from benchmarks.robustness.recipe import Recipe

ROOT = Path(__file__).parents[1]


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


if __name__ == "__main__":
    gradients_of_one_batch(sys.argv[1])
