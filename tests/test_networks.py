"""The benchmark of whole networks: what its engines compute, what it counts, its search and its picture."""

import io
import subprocess
from contextlib import redirect_stdout
from functools import partial
from itertools import pairwise

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

pytest.importorskip("matplotlib")
pytest.importorskip("spikingjelly")
pytest.importorskip("snntorch")

import tgo_kernels as tgo
from benchmarks import network_models, networks, record
from benchmarks.network_models import ENGINES, NETWORKS, Network, Segment

SMALL = {"embed_dims": 32, "depths": 1, "img_size_h": 32, "img_size_w": 32, "num_classes": 10}


def tiny(neuron):
    first = tgo.OverTime(nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16))
    last = tgo.OverTime(nn.MaxPool2d(2), nn.Flatten(), nn.Linear(16 * 64, 10))
    return nn.Sequential(Segment(first, neuron()), Segment(tgo.OverTime(nn.Conv2d(16, 16, 1)), neuron()), last)


@pytest.fixture
def tiny_network(monkeypatch):
    monkeypatch.setitem(NETWORKS, "tiny", Network(tiny, 2, (3, 16, 16), 2, ("Segment",)))


@pytest.fixture
def reduced(monkeypatch):
    about = {
        "VGG-11": {"make": partial(network_models.vgg, width=1 / 16)},
        "CIFAR10DVSVGG": {"steps": 2},
        "Spikformer": {"make": partial(network_models.spikformer, **SMALL), "image": (3, 32, 32)},
    }
    for name, changes in about.items():
        monkeypatch.setitem(NETWORKS, name, NETWORKS[name]._replace(**changes))


def loss_and_gradients(network, engine):
    _, forward, others = network_models.training_step(network, engine, batch=2)
    loss = forward()
    loss.backward()
    return loss.item(), sum(float(each.grad.double().abs().sum()) for each in others if each.requires_grad)


@pytest.mark.parametrize("network", NETWORKS)
def test_engines_compute_the_same(reduced, network):
    loss, gradients = loss_and_gradients(network, "eager")
    for name, engine in ENGINES.items():
        if engine.serves("cpu") and not engine.compiles:
            found, slopes = loss_and_gradients(network, name)
            assert found == pytest.approx(loss, rel=1e-6), name
            if name != "snnTorch":  # whose reset is not detached
                assert slopes == pytest.approx(gradients, rel=1e-3), name


def test_the_compiled_engine_computes_the_same(tiny_network):
    torch.compiler.reset()
    assert loss_and_gradients("tiny", "torch.compile") == pytest.approx(loss_and_gradients("tiny", "eager"), rel=1e-5)


def held(engine):
    _, forward, others = network_models.training_step("tiny", engine, batch=2)
    return networks.held_MiB(forward, others) * 2**20


def test_held_bytes(tiny_network):
    steps = 2 * 2 * 16 * 16 * 16  # neuron-steps of each of two layers; the pool keeps 12 bytes for each of its outputs
    alone, packed = held("tgo_kernels, LIF alone"), held("fused and packed")
    assert alone == pytest.approx((4 + 4 + 4 + 4 + 4 + 3) * steps, rel=0.02)
    assert packed == pytest.approx((4 + 1 / 8 + 4 + 1 / 4 + 1 / 32) * steps, rel=0.02)
    # plain torch keeps 8 bytes more of a step, but of the last of the two, whose reset leads nowhere
    assert held("eager") == pytest.approx(alone + 8 * steps / 2, rel=0.02)
    generators = 2 * torch.get_rng_state().nbytes  # one a segment, beside the bits of what goes into the second
    assert held("SpikingJelly, memopt 1") == pytest.approx((1 / 8 + 4 + 3) * steps + generators, rel=0.02)


def test_products_are_the_forwards_of_convolutions_and_linear_layers(tiny_network):
    convolution, linear = 2 * 2 * 16 * 16 * 16 * 2, 2 * 2 * 10 * 2  # flops of an input and tap: two time steps of two
    forward = network_models.products("tiny", batch=2)
    with FlopCounterMode(display=False) as count:
        forward()
    assert count.get_total_flops() == convolution * (3 * 9 + 16) + linear * 16 * 64


def test_a_run_says_what_it_has_no_figures_for(tiny_network, monkeypatch, tmp_path, capsys):
    def ask(module, *arguments, timeout):
        if "snnTorch" in arguments:
            raise subprocess.CalledProcessError(-9, module)
        if "packed" in arguments:
            raise subprocess.TimeoutExpired(module, timeout)
        printed = io.StringIO()
        with redirect_stdout(printed):
            networks.main(list(arguments))
        return printed.getvalue().splitlines()[-1]

    monkeypatch.setattr(record, "ask", ask)
    engines = ["eager", "snnTorch", "packed", "SpikingJelly, memopt 2"]
    common = ["--networks", "tiny", "--threads", "1", "--engines", *engines]
    out, picture = tmp_path / "networks.csv", tmp_path / "networks.png"
    networks.main([*common, "--rounds", "3", "--out", str(out), "--figure", str(picture)])
    rows = record.read(out)
    assert [row["note"] for row in rows] == ["", "batch 2: exit status -9", "batch 2: no step within 600 s", ""]
    assert [bool(row["p50_ms"]) for row in rows] == [True, False, False, True]
    for column in ("held_MiB", "peak_MiB", "in_use_MiB"):
        assert [bool(row[column]) for row in rows] == [True, False, False, False], column
    assert "SpikingJelly, memopt 2: on GPUs alone" in capsys.readouterr().out
    assert picture.read_bytes().startswith(b"\x89PNG")

    limit = float(networks.first_peak_here("tiny", "eager", 2, "cpu")["peak_MiB"]) + 50
    networks.main(
        [*common[:4], "--largest", "--engines", "eager", "snnTorch", "--limit", str(limit), "--out", str(out)]
    )
    eager, gone = record.read(out)
    assert int(eager["largest_batch"]) > 2 and float(eager["peak_MiB"]) <= limit and int(eager["tries"]) < 20
    assert (gone["largest_batch"], gone["note"]) == ("0", "batch 1: exit status -9")


@pytest.mark.parametrize("start", [1, 32, 4096])
@pytest.mark.parametrize(
    "peak",
    [
        lambda n: 300 + 5.3 * n,
        lambda n: 300 + 900 * n,
        lambda n: 200 + 7 * n + 40 * (n % 3),
        lambda n: 100 + n**1.3,
        lambda n: 400 + 2 * n if n < 700 else float("inf"),
        lambda n: 8000.0 if n < 100 else 8300.0,
    ],
)
def test_the_largest_batch_is_found(peak, start):
    best, peaks = networks.largest_batch(peak, 8192, start)
    assert peak(best) <= 8192 and best == max(n for n in peaks if peaks[n] <= 8192)
    assert min(n for n in peaks if peaks[n] > 8192) - best <= max(1, networks.STEP * best)
    assert len(peaks) <= 18


def test_nothing_may_fit():
    assert networks.largest_batch(lambda n: 9000.0, 8192, 32)[0] == 0


def test_labels_are_apart():
    heights = [0.5, 0.51, 0.02, 0.5, 0.99, 0.98, 0.0]
    moved = networks.apart(heights, 0.1)
    ordered = sorted(moved)
    assert min(b - a for a, b in pairwise(ordered)) > 0.0999
    assert ordered[0] >= -1e-9 and ordered[-1] <= 1
    assert networks.apart([0.8, 0.2], 0.1) == [0.8, 0.2]
