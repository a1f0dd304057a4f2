"""VGG-8 with lateral inhibition: its twin differs in the norm alone, what is without a part has lost it, runs go on."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

pytest.importorskip("matplotlib")

import tgo_kernels as tgo
from benchmarks import inhibition, inhibition_models, record, trainings
from benchmarks.inhibition_models import CHANGED, EPSILON, OTHERS, SLOW, VARIANTS, WITHOUT, Training
from benchmarks.robustness import data, train
from tgo_kernels.inhibition import Circuit

pytestmark = pytest.mark.usefixtures("one_thread")  # which the benchmark sets, and these networks are small


@pytest.fixture(scope="module")
def split():
    return data.load("subset").limited(40, None, 0).train


def command(where, *others: str) -> list[str]:
    small = ["--data", "subset", "--images", "40", "--tests", "10", "--batch", "10", "--width", "0.02", "--epochs", "3"]
    places = ["--out", str(where / "runs"), "--results", str(where), "--figures", str(where)]
    return [*small, "--seeds", "1", "--search-images", "40", "--search-epochs", "1", *places, *others]


def made(variant: str, split: data.Split, **settings) -> nn.Module:
    images, _ = train.tensors(split)
    return Training(variant, 0.01, width=0.05, **settings).model(images)


def spikes(model: nn.Module, images: torch.Tensor) -> list[torch.Size]:
    """The sizes of what each layer of neurons fires."""
    found = []
    handles = [layer.register_forward_hook(lambda *call: found.append(call[2].shape)) for layer in model.neurons]
    model(images)
    for handle in handles:
        handle.remove()
    return found


def circuits(model: nn.Module) -> list[Circuit]:
    return [layer for layer in model.modules() if isinstance(layer, Circuit)]


def test_twins_differ_in_the_norm_alone(split):
    images = train.tensors(split)[0][:10]
    models = {name: made(name, split) for name in VARIANTS}
    normed = models["batch-norm"]
    sizes = {name: spikes(model, images) for name, model in models.items()}
    convolutions = [layer.weight.shape for layer in normed.modules() if isinstance(layer, (nn.Conv2d, nn.Linear))]
    for name, model in models.items():
        assert len(model.neurons) == 5 and sizes[name] == sizes["batch-norm"], name
        for layer, twin in zip(model.neurons, normed.neurons, strict=True):
            for constant in ("decay", "v_threshold", "v_reset", "surrogate", "detach_reset"):
                assert getattr(layer.neuron, constant) == getattr(twin.neuron, constant), (name, constant)
        norms = [layer for layer in model.modules() if isinstance(layer, nn.BatchNorm2d)]
        assert len(norms) == (5 if name == "batch-norm" else 0)
        pools = [layer for layer in model.modules() if isinstance(layer, nn.AvgPool2d)]
        assert len(pools) == 5, name
        assert len(circuits(model)) == (0 if name in OTHERS else 6), name
        if name not in OTHERS:
            assert [layer.W_EE.shape for layer in circuits(model)] == convolutions, name
            assert circuits(model)[-1].readout


def test_all_see_the_same_images_in_the_same_order(split):
    seen = {}
    for name in ("E-I", "batch-norm", "no-norm-scaled", "no-scaling"):
        training = Training(name, 0.01, width=0.02, epochs=2, batch=20, seed=1)
        model = training.model(train.tensors(split)[0])
        model.register_forward_pre_hook(lambda _, x, found=seen.setdefault(name, []): found.append(x[0].clone()))
        train.fit(model, split, training)
    for found in seen.values():
        assert len(found) == 4 and all(map(torch.equal, found, seen["E-I"]))


def test_all_start_from_the_weights_of_the_whole(split):
    whole = made("E-I", split).state_dict()
    for name in CHANGED:
        same = [key for key, value in made(name, split).state_dict().items() if torch.equal(value, whole[key])]
        if name == "no-init":  # where gains are 1, biases 0 and layers made
            assert all(key.endswith(("gain", "bias", "initialised")) for key in same)
        else:
            assert len(whole) - len(same) == (name == "no-subtraction")  # of the readout


def layer_and_input():
    """A layer with weights of 0, after one more batch, and images with a black border and a channel that is black."""
    torch.manual_seed(0)
    x = torch.rand(4, 6, 2, 9, 9)
    x[..., 5:] = 0
    x[:, :, 1] = 0
    layer = tgo.EIConv2d(2, 8, 3, padding=1)
    layer(torch.rand(4, 6, 2, 9, 9))
    with torch.no_grad():
        layer.W_EI[3] = 0
    return layer, x


def computed(layer, x):
    seen = []
    handle = layer.neuron.register_forward_pre_hook(lambda _, inputs: seen.extend(inputs))
    x = x.clone().requires_grad_()
    y = layer(x)
    handle.remove()
    (y * torch.linspace(-1, 1, y.numel()).view_as(y)).sum().backward()
    found = {name: p.grad for name, p in layer.named_parameters()} | {"x": x.grad}
    return y.detach(), [each.detach() for each in seen], found


def without(name: str):
    """What the whole layer computes, and what it computes without this part."""
    layer, x = layer_and_input()
    whole = computed(copy.deepcopy(layer), x)
    CHANGED[name](layer)
    return whole, computed(layer, x)


def test_slow_inhibition_has_a_tenth_of_two_gradients():
    (y, _, whole), (other, _, found) = without("E-I-slow")
    assert torch.equal(y, other)
    for name in whole:
        expected = SLOW * whole[name] if name in ("W_IE", "g_I") else whole[name]
        torch.testing.assert_close(found[name], expected, rtol=0, atol=0)


def test_clipped_gradients_are_no_longer_than_that_and_point_where_they_did(monkeypatch):
    monkeypatch.setattr(inhibition_models, "CLIP", longest := 50.0)
    (y, _, whole), (other, _, found) = without("E-I-clipped")
    assert torch.equal(y, other)
    lengths = {name: each.norm().item() for name, each in whole.items()}
    assert torch.equal(found.pop("x"), whole["x"])
    assert min(lengths.values()) < longest < max(lengths.values())
    for name, each in found.items():
        torch.testing.assert_close(each, whole[name] * min(1, longest / lengths[name]))


def test_without_scaling_the_gradient_of_w_ei_is_d_times_as_large():
    (y, _, whole), (other, _, found) = without("no-scaling")
    assert torch.equal(y, other)
    torch.testing.assert_close(found.pop("W_EI"), 2 * 9 * whole.pop("W_EI"))
    assert all(torch.equal(found[name], whole[name]) for name in whole)


def test_without_division_and_without_subtraction_the_currents_say_so():
    (_, whole, _), (_, found, gradients) = without("no-division")
    assert torch.equal(found[0], whole[0]) and torch.equal(found[1], whole[1]) and (found[2] == 1).all()
    assert gradients["g_I"] is None or not gradients["g_I"].any()
    (_, whole, _), (_, found, _) = without("no-subtraction")
    assert torch.equal(found[0], whole[0]) and not found[1].any() and torch.equal(found[2], whole[2])
    x = torch.rand(4, 6, 12)
    readout = tgo.EILinear(12, 10, readout=True)
    whole = readout(x)
    WITHOUT["no-subtraction"](readout)
    torch.testing.assert_close(readout(x), F.linear(x, readout.W_EE))
    assert not torch.allclose(readout(x), whole) and not readout.W_EI.requires_grad


def test_without_replacement_zeros_stay_and_are_nan_in_the_gradient():
    (_, whole, gradients), (_, found, broken) = without("no-replacement")
    zeros = found[2] == 0
    assert zeros.any() and (whole[2] > 0).all() and torch.equal(found[2][~zeros], whole[2][~zeros])
    assert all(each.isfinite().all() for each in gradients.values())
    assert broken["W_EE"].isnan().any()


def test_with_epsilon_it_is_added_to_every_divisor():
    (_, bare, _), (_, found, gradients) = without("no-replacement")[1], without("epsilon")[1]
    torch.testing.assert_close(found[2], bare[2] + EPSILON, rtol=0, atol=0)
    assert all(each.isfinite().all() for each in gradients.values())


def test_without_straight_through_a_zero_has_no_gradient_of_the_division():
    (y, currents, whole), (other, others, found) = without("no-straight-through")
    assert torch.equal(y, other) and all(map(torch.equal, currents, others))
    assert not torch.equal(whole["g_I"], found["g_I"]) and not torch.equal(whole["W_EI"], found["W_EI"])
    assert torch.equal(whole["W_EE"], found["W_EE"])  # which divides nothing
    # Channel 3, whose divisors are all 0, learns by what it subtracts alone: the same with no gradient of the divisor.
    layer, x = layer_and_input()
    layer.neuron.register_forward_pre_hook(lambda _, inputs: (*inputs[:2], inputs[2].detach()))
    torch.testing.assert_close(found["W_EI"][3], computed(layer, x)[2]["W_EI"][3])
    assert not torch.allclose(whole["W_EI"][3], found["W_EI"][3])


def test_what_is_taken_from_one_network_is_in_the_others(split):
    images = train.tensors(split)[0]
    whole = made("E-I", split)
    before = whole(images)
    for name in WITHOUT:
        made(name, split)(images)
    assert torch.equal(whole(images), before)


def test_without_init_weights_are_torchs_less_their_sign(split):
    for layer in circuits(made("no-init", split)):
        for weight in (layer.W_EE, layer.W_IE, layer.W_EI):
            bound = weight[0].numel() ** -0.5
            assert weight.min() >= 0 and weight.max() <= bound
            assert weight.numel() < 100 or weight.mean().item() == pytest.approx(bound / 2, rel=0.2)
        assert layer.readout or (layer.g_I == 1).all()


def test_scaled_convolutions_have_a_deviation_of_one(split):
    images, _ = train.tensors(split)
    for name, exact in (("no-norm-scaled", True), ("no-norm", False)):
        model, found = made(name, split), []
        for layer in model.modules():
            if isinstance(layer, nn.Conv2d):
                layer.register_forward_hook(lambda *call, found=found: found.append(call[2].std().item()))
        model(images)
        assert (found == pytest.approx([1.0] * 5)) is exact


def test_the_order_of_trainings():
    given = [Training(name, 0.1, seed=seed) for seed in range(3) for name in ("E-I", "no-init", "batch-norm")]
    found = [(each.seed, each.variant) for each in inhibition.in_order(given)]
    first = [(0, "E-I"), (0, "no-init"), (0, "batch-norm")]
    second = [(1, "E-I"), (1, "batch-norm"), (2, "E-I"), (2, "batch-norm")]
    assert found == [*first, *second, (1, "no-init"), (2, "no-init")]


def test_a_run_writes_what_the_picture_is_drawn_from(tmp_path, capsys):
    some = ("E-I", "batch-norm", "no-replacement")
    assert inhibition.main(command(tmp_path, "--variants", *some)) == 0
    printed = capsys.readouterr().out
    rows, searched = (record.read(tmp_path / f"inhibition{part}.csv") for part in ("", "_search"))
    assert [(row["variant"], row["epoch"]) for row in rows] == [(name, epoch) for name in some for epoch in "012"]
    assert [(row["variant"], float(row["lr"])) for row in searched] == [
        (n, r) for n in some[:2] for r in inhibition.GRID
    ]
    assert {row["images"] for row in rows} == {"40"} and {row["images"] for row in searched} == {"30"}
    assert {(row["variant"] == "batch-norm", float(row["weight_decay"])) for row in rows} == {
        (True, 1e-4),
        (False, 5e-4),
    }
    assert all(0 <= float(row[key]) <= 1 for row in rows for key in ("accuracy", "rate_1", "rate_5"))
    assert all(line in printed for line in (*inhibition.table(rows), *inhibition.table_of_search(searched)))
    assert inhibition.main(command(tmp_path, "--variants", "E-I", "--parts", "train")) == 0
    assert record.read(tmp_path / "inhibition.csv") == rows  # what others have is kept
    picture = tmp_path / "inhibition.png"
    drawn = picture.read_bytes()
    assert drawn.startswith(b"\x89PNG")
    assert inhibition.main(command(tmp_path, "--parts", "draw")) == 0
    assert picture.read_bytes() == drawn


def test_a_training_that_is_stopped_goes_on_to_the_same_weights(tmp_path, capsys, monkeypatch):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    some = ("--variants", "E-I", "no-straight-through", "--parts", "train")
    assert inhibition.main(command(whole, *some)) == 0
    calls, tested = [], trainings.tested

    def stop(*arguments):
        calls.append(arguments)
        if len(calls) in (2, 6):
            raise KeyboardInterrupt
        return tested(*arguments)

    monkeypatch.setattr(trainings, "tested", stop)
    assert inhibition.main(command(broken, *some)) == 130
    assert "goes on after the last whole epoch" in capsys.readouterr().err
    assert [row["epoch"] for row in record.read(broken / "inhibition.csv")] == ["0"]
    assert inhibition.main(command(broken, *some)) == 130
    assert inhibition.main(command(broken, *some)) == 0
    assert len(calls) == 8
    same = ("variant", "epoch", "loss", "accuracy", "rate_1", "rate_5")
    a, b = (record.read(each / "inhibition.csv") for each in (whole, broken))
    assert [[row[key] for key in same] for row in a] == [[row[key] for key in same] for row in b]
    for name in ("E-I-0.01-0.pt", "no-straight-through-0.01-0.pt"):
        a, b = (torch.load(each / "runs" / "subset" / name)["model"] for each in (whole, broken))
        assert a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--epochs", "0"], "epochs must be at least 1, got 0"),
        (["--search-epochs", "0"], "--search-epochs must be at least 1, got 0"),
        (["--batch", "0"], "batch must be at least 1, got 0"),
        (["--seeds", "0"], "--seeds must be at least 1, got 0"),
        (["--width", "nan"], "width must be finite and > 0, got nan"),
        (["--images", "5"], "at least 10 images are needed"),
        (["--search-images", "39"], "at least 10 images are needed"),
        (["--parts", "draw"], "train first"),
    ],
)
def test_bad_arguments_are_named(tmp_path, capsys, arguments, message):
    assert inhibition.main(command(tmp_path, *arguments)) == 1
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_another_network_is_refused():
    with pytest.raises(ValueError, match=r"variant must be one of E-I, E-I-slow, .*got 'layer-norm'"):
        Training("layer-norm", 0.1)


def test_a_checkpoint_of_another_training_is_refused(tmp_path, capsys):
    some = ("--variants", "E-I", "--parts", "train")
    assert inhibition.main(command(tmp_path, *some, "--epochs", "1")) == 0
    assert inhibition.main(command(tmp_path, *some, "--epochs", "2")) == 1
    assert "epochs 1, now 2" in capsys.readouterr().err


def test_the_guide_has_the_tables_and_the_best_rates():
    rows, searched = (record.read(record.RESULTS / f"inhibition{part}.csv") for part in ("", "_search"))
    searched = inhibition.last_of_search(searched)
    guide = (record.RESULTS.parents[1] / "docs" / "inhibition.md").read_text()
    for found in (inhibition.table(rows), inhibition.table_of_search(searched)):
        assert "\n".join(found) in guide
    for name in ("E-I", *OTHERS):
        best = max(float(row["accuracy"]) for row in searched if row["variant"] == name)
        rates = [float(row["lr"]) for row in searched if row["variant"] == name and float(row["accuracy"]) == best]
        assert inhibition.RATES[name] in rates
