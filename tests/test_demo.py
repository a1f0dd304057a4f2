"""The demonstration: its data, its attacks, and one short run through its command line."""

import gzip
import json
import struct

import numpy as np
import pytest
import torch

pytest.importorskip("matplotlib")

import tgo_kernels as tgo
from benchmarks.robustness import data, demo, train
from benchmarks.robustness.models import Classifier, classifier, lif_layers
from benchmarks.robustness.recipe import Recipe
from tgo_kernels.robustness import Victim, accuracy, attacks, diagnostics


@pytest.fixture(scope="module")
def subset() -> data.Dataset:
    return data.load("subset")


def test_the_subset_is_stratified_and_has_its_notice(subset):
    for split, per_class in ((subset.train, 200), (subset.test, 50)):
        assert split.images.shape == (10 * per_class, 28, 28) and split.images.dtype == np.uint8
        assert np.bincount(split.labels).tolist() == [per_class] * 10
    notice = data.SUBSET.with_suffix(".LICENSE").read_text()
    assert "MIT" in notice and "Zalando SE" in notice and "Permission is hereby granted" in notice
    assert data.SUBSET.stat().st_size < 1.2 * 2**20


def test_the_subset_can_be_drawn_again(subset, tmp_path):
    """The same rows from a stand-in for the whole set, whose images are their own numbers; then through a file."""
    labels = np.arange(60_000) % 10
    whole = data.Split(np.arange(60_000), labels)
    drawn = data.draw_subset(data.Dataset("", whole, whole))
    assert drawn.train.images[:4].tolist() == [25, 38, 84, 114] and len(set(drawn.train.images)) == 2000
    data.write_subset(subset, tmp_path / "again.npz")
    again = data.load_subset(tmp_path / "again.npz")
    assert all(
        np.array_equal(a, b) for p, q in zip(subset[1:], again[1:], strict=True) for a, b in zip(p, q, strict=True)
    )


def test_the_validation_split_is_held_out(subset):
    split = subset.validation(per_class=40)
    assert np.bincount(split.test.labels).tolist() == [40] * 10 and len(split.train.labels) == 1600
    images = {image.tobytes() for image in split.train.images}
    assert not images & {image.tobytes() for image in split.test.images}
    assert images <= {image.tobytes() for image in subset.train.images}


def write_idx(path, array: np.ndarray) -> None:
    header = bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
    path.write_bytes(gzip.compress(header + array.tobytes()))


def test_idx_files_are_read(tmp_path):
    array = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    write_idx(tmp_path / "a.gz", array)
    assert np.array_equal(data.read_idx(tmp_path / "a.gz"), array)


@pytest.mark.parametrize(
    "content", [b"", b"no gzip", gzip.compress(b""), gzip.compress(bytes([0, 0, 8, 1, 0, 0, 0, 9, 1]))]
)
def test_a_damaged_idx_file_says_so(tmp_path, content):
    (tmp_path / "a.gz").write_bytes(content)
    with pytest.raises(data.DataError, match=r"cannot read .*a\.gz.*Debian package dataset-fashion-mnist"):
        data.read_idx(tmp_path / "a.gz")


def test_missing_and_damaged_files_of_the_whole_set_say_what_to_do(tmp_path):
    with pytest.raises(data.DataError, match=r"train-images-idx3-ubyte\.gz is missing\. Install the Debian package"):
        data.load_full(tmp_path)
    write_idx(tmp_path / "train-images-idx3-ubyte.gz", np.zeros((1, 28, 28), np.uint8))
    with pytest.raises(data.DataError, match=r"damaged: its SHA-256 is not Fashion-MNIST's\. Delete it"):
        data.load_full(tmp_path)


def test_without_apt_the_command_says_what_to_do(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(data, "INSTALLED", tmp_path / "none")
    monkeypatch.setattr(data, "CACHE", tmp_path / "cache")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert demo.main(["--data", "full", "--out", str(tmp_path)]) == 1
    error = capsys.readouterr().err
    assert "apt-get, which is not here" in error and "put the four files" in error


def test_augmentation_moves_and_mirrors_whole_images():
    images = torch.zeros(64, 1, 28, 28)
    images[:, :, 10:14, 5:7] = torch.rand(64, 1, 4, 2)
    moved = train.augment(images, torch.Generator().manual_seed(0))
    assert moved.shape == images.shape
    torch.testing.assert_close(moved.sum((1, 2, 3)), images.sum((1, 2, 3)))
    columns = moved.sum((0, 1, 2)).nonzero().flatten()
    assert columns.min() == 3 and columns.max() == 24  # 5 - 2 and, mirrored, 22 + 2


@pytest.fixture
def guarded() -> Classifier:
    torch.manual_seed(0)
    return classifier("conv", lambda: tgo.LIF.from_decay(noise_std=0.2, guard_margin=0.5), steps=2, channels=(2, 3))


@pytest.mark.parametrize("make", [attacks.fgsm, attacks.pgd])
def test_attacks_stay_within_eps_and_the_pixels(guarded, subset, make):
    images, labels = train.tensors(subset.test)
    images, labels = images[:8], labels[:8]
    victim = Victim(guarded)
    with victim.evaluating(False):
        attacked = make()(victim, images, labels)
    assert attacked.min() >= 0 and attacked.max() <= 1
    assert 0 < (attacked - images).abs().max() <= attacks.EPS + 1e-6


def test_an_attack_through_another_surrogate_is_another_attack(guarded, subset):
    images, labels = train.tensors(subset.test)
    images, labels = images[:8], labels[:8]
    plain, narrow = attacks.fgsm(), attacks.through(lambda depth: tgo.ATan(8.0), attacks.fgsm())
    victim = Victim(guarded)
    with victim.evaluating(False):
        assert not torch.equal(plain(victim, images, labels), narrow(victim, images, labels))
        assert torch.equal(plain(victim, images, labels), plain(victim, images, labels))
    assert {layer.neuron.surrogate for layer in lif_layers(guarded)} == {tgo.ATan(2.0)}


def test_noise_is_what_the_row_says_and_is_put_back(guarded, subset):
    images, labels = train.tensors(subset.test)
    seen = []
    for layer in lif_layers(guarded):
        layer.register_forward_hook(lambda layer, *_: seen.append((layer.training, layer.noise_in_eval)))
    guarded.train()
    for noise in (False, True):
        seen.clear()
        accuracy(guarded, images[:8], labels[:8], attacks.pgd(steps=2), noise=noise)
        assert seen and set(seen) == {(False, noise)}
    assert guarded.training and not any(layer.noise_in_eval for layer in lif_layers(guarded))


def test_distances_count_what_the_layers_count(guarded, subset):
    images, _ = train.tensors(subset.test)
    found = diagnostics.measure(guarded, images[:20], margin=0.5)
    with Victim(guarded).evaluating(False):
        guarded(images[:20])
    layers = lif_layers(guarded)
    sizes = [layer.v.numel() for layer in layers]
    rates = [float(layer.neighbor_rate) for layer in layers]
    assert found.neighbor_rate == pytest.approx(np.average(rates, weights=sizes))
    assert found.counts.sum() <= found.total == 2 * sum(sizes)


def test_a_short_run_writes_table_record_and_picture(tmp_path, capsys, monkeypatch, one_thread):
    monkeypatch.setattr(train, "TIMED_BATCHES", 1)
    command = ["--epochs", "1", "--train-images", "200", "--test-images", "50", "--out", str(tmp_path)]
    assert demo.main(command) == 0
    table = (tmp_path / "table.md").read_text()
    assert table.splitlines()[2] in capsys.readouterr().out and "eps 8/255" in table
    assert (tmp_path / "membrane_distance.png").read_bytes().startswith(b"\x89PNG")
    record = json.loads((tmp_path / "record.json").read_text())
    rows = [(row["model"], row["noise"]) for row in record["rows"]]
    assert rows == [("LIF", False), ("LIF", True), ("TGO", False), ("TGO", True)]
    assert record["rows"][0]["neighbors"] != record["rows"][1]["neighbors"]  # its noise is on
    assert all(
        0 <= row[key] <= 1 for row in record["rows"] for key in ("clean", "fgsm", "pgd", "pgd_narrow", "neighbors")
    )
    assert record["settings"]["epochs"] == len(record["history"]["TGO"]) == 1


def test_two_trainings_with_one_seed_are_the_same(subset):
    recipe = Recipe(data="subset", guard=True, noise=True, epochs=1, batch=20, steps=2)
    split = subset.limited(100, None, seed=0).train
    states = []
    for _ in range(2):
        model = recipe.model()
        train.fit(model, split, recipe)
        states.append(model.state_dict())
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])
