"""Images read as sequences: what only the neuron changes, trainings that go on, the times' notes, table and picture."""

import io
import signal
import subprocess
from contextlib import redirect_stdout

import pytest
import torch

pytest.importorskip("matplotlib")

from benchmarks import record, sequences, trainings
from benchmarks.robustness import data, train
from benchmarks.sequence_models import NEURONS, TASKS, Training

pytestmark = pytest.mark.usefixtures("one_thread")  # which the benchmark sets, and these networks are small


@pytest.fixture(scope="module")
def images():
    return train.tensors(data.load("subset").test)[0][::50]


def command(where, *others: str) -> list[str]:
    small = ["rows", "--images", "60", "--batch", "20", "--hidden", "8", "--epochs", "3", "--seeds", "1"]
    places = ["--out", str(where / "runs"), "--results", str(where), "--figures", str(where)]
    return [*small, "--rounds", "3", *places, *others]


def here(module: str, *arguments: str, **environment: str) -> str:
    """In this process."""
    printed = io.StringIO()
    with redirect_stdout(printed):
        assert sequences.main(list(arguments)) == 0
    return printed.getvalue().splitlines()[-1]


@pytest.mark.parametrize("task", TASKS)
def test_only_the_neuron_differs_and_all_layers_fire(task, images):
    models = [Training(task, neuron).model() for neuron in NEURONS]
    linear = [[each.weight for each in model.layers if isinstance(each, torch.nn.Linear)] for model in models]
    assert all(torch.equal(a, b) for each in linear[1:] for a, b in zip(linear[0], each, strict=True))
    sizes = [sum(p.numel() for p in model.parameters()) for model in models]
    assert [size - sizes[0] for size in sizes] == [0, 2 * 2 * 128, 2 * 3 * 128, 2 * 128, 2 * 3 * 128]
    for model, neuron in zip(models, NEURONS, strict=True):
        with torch.no_grad():
            model(images)
        assert all(0.05 < layer.firing_rate < 0.35 for layer in model.neurons), neuron


@pytest.mark.parametrize("neuron", NEURONS)
def test_engines_compute_the_same_spikes(neuron, images):
    spikes = []
    for impl in ("auto", "reference"):
        model = Training("rows", neuron, hidden=16).model(impl)
        for layer in model.neurons:
            layer.register_forward_hook(lambda *call: spikes.append(call[2]))
        loss = torch.nn.functional.cross_entropy(model(images), torch.arange(len(images)) % 10)
        loss.backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    assert torch.equal(spikes[0], spikes[2]) and torch.equal(spikes[1], spikes[3]) and spikes[1].any()


def test_the_compiled_engine_computes_the_same(images):
    model = Training("rows", "LIF", hidden=8).model("reference")
    torch.compiler.reset()
    with torch.no_grad():
        expected = model(images)
        model.layers = torch.compile(model.layers, fullgraph=True, backend="eager")
        torch.testing.assert_close(model(images), expected)


def test_pixels_are_read_in_order_and_rows_from_the_top():
    image = torch.arange(784.0).view(1, 1, 28, 28)
    for task in TASKS:
        model, read = Training(task, "LIF", hidden=1).model(), []
        model.layers.register_forward_pre_hook(lambda _, inputs, read=read: read.append(inputs[0]))
        model(image)
        assert read[0].shape == (TASKS[task].steps, 1, 784 // TASKS[task].steps)
        assert (read[0].flatten().diff() > 0).all()


def test_decays_stay_decays(images):
    names = {"AdLIF": "rho", "AdaptiveLIF": "rho", "SynapticLIF": "current_decay", "SelfPredictingLIF": "rate"}
    for neuron, name in names.items():
        model = Training("rows", neuron, hidden=4).model()
        with torch.no_grad():
            getattr(model.neurons[0], name).copy_(torch.tensor([-0.1, 0.5, 1.0, 1.1]))
        model(images)
        assert getattr(model.neurons[0], name).tolist() == [0.0, 0.5, 1.0, 1.0]


def test_the_membrane_of_ad_lif_grows_below_the_bound_of_a_and_not_at_it():
    for rho in (0.5, 0.99, 1.0):
        model = Training("rows", "AdLIF", hidden=4).model()
        layer = model.neurons[0]
        with torch.no_grad():
            layer.rho.fill_(rho)
            layer.a.fill_(-2.0)
            model(torch.zeros(1, 1, 28, 28))
        assert layer.a.tolist() == (layer.rho - 1).tolist()
        decay, a = layer.decay[0].double(), layer.a[0].double()
        for below, largest in ((0.0, 1.0), (1e-3, 1.0001)):
            h = torch.stack([decay, decay - 1])  # of v and w before
            step = torch.stack([h, torch.tensor([0.0, rho]) + (a - below) * h])
            found = torch.linalg.eigvals(step).abs().max()
            assert found <= 1 + 1e-6 if below == 0 else found > largest


def test_a_run_writes_what_the_picture_is_drawn_from(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(record, "ask", here)
    some = ("--neurons", "LIF", "AdLIF", "--engines", "fused", "eager")
    assert sequences.main(command(tmp_path, *some)) == 0
    printed = capsys.readouterr().out
    rows, timed = (record.read(tmp_path / f"sequences_rows{part}.csv") for part in ("", "_times"))
    assert [(row["neuron"], row["epoch"]) for row in rows] == [(n, e) for n in ("LIF", "AdLIF") for e in "012"]
    assert all(0 <= float(row[key]) <= 1 for row in rows for key in ("accuracy", "rate_1", "rate_2"))
    assert [(row["neuron"], row["engine"]) for row in timed] == [(n, e) for n in some[1:3] for e in some[4:]]
    for row in timed:  # three updates an epoch
        assert float(row["s_per_epoch"]) == pytest.approx(3 * float(row["p50_ms"]) / 1e3, abs=1e-3)
    assert all(line in printed for line in sequences.table(rows, timed))

    picture = tmp_path / "sequences_rows.png"
    drawn = picture.read_bytes()
    assert drawn.startswith(b"\x89PNG")
    assert sequences.main(command(tmp_path, "--parts", "draw")) == 0
    assert picture.read_bytes() == drawn
    record.write(tmp_path / "sequences_rows.csv", [row | {"accuracy": "0.5"} for row in rows], sequences.TRAININGS)
    assert sequences.main(command(tmp_path, "--parts", "draw")) == 0
    assert picture.read_bytes() != drawn


def test_a_training_that_is_stopped_goes_on_to_the_same_numbers(tmp_path, capsys, monkeypatch):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    some = ("--neurons", "AdLIF", "--parts", "train")
    assert sequences.main(command(whole, *some)) == 0
    calls, tested = [], trainings.tested

    def stop(*arguments):
        calls.append(arguments)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return tested(*arguments)

    monkeypatch.setattr(trainings, "tested", stop)
    assert sequences.main(command(broken, *some)) == 130
    assert "goes on after the last whole epoch" in capsys.readouterr().err
    assert [row["epoch"] for row in record.read(broken / "sequences_rows.csv")] == ["0"]
    assert sequences.main(command(broken, *some)) == 0
    assert len(calls) == 4

    a, b = (record.read(each / "sequences_rows.csv") for each in (whole, broken))
    same = ("epoch", "loss", "accuracy", "rate_1", "rate_2")
    assert [[row[key] for key in same] for row in a] == [[row[key] for key in same] for row in b]
    a, b = (torch.load(each / "runs" / "subset" / "rows-AdLIF-0.pt")["model"] for each in (whole, broken))
    assert a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def test_what_does_not_compile_is_said_and_not_tried_again(tmp_path, monkeypatch):
    asked = []

    def ask(module, *arguments, **environment):
        asked.append("torch.compile" in arguments)
        if asked[-1]:
            raise subprocess.CalledProcessError(-signal.SIGALRM, module)
        return here(module, *arguments)

    monkeypatch.setattr(record, "ask", ask)
    assert sequences.main(command(tmp_path, "--neurons", "LIF", "AdLIF", "--parts", "time", "--limit", "7")) == 0
    timed = record.read(tmp_path / "sequences_rows_times.csv")
    assert asked == [True, False, False]
    notes = {row["neuron"]: row["note"] for row in timed if row["engine"] == "torch.compile"}
    assert notes == {"LIF": "does not compile within 7 s", "AdLIF": sequences.NOT_TRIED}
    assert all(bool(row["p50_ms"]) != bool(row["note"]) for row in timed)


def test_compiling_ends_at_the_limit():
    small = ["--here", "--neurons", "LIF", "--engines", "torch.compile", "--images", "20", "--batch", "20"]
    with pytest.raises(subprocess.CalledProcessError) as error:
        record.ask("benchmarks.sequences", "pixels", *small, "--limit", "1")
    assert error.value.returncode == -signal.SIGALRM


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--epochs", "0"], "epochs must be at least 1, got 0"),
        (["--hidden", "-1"], "hidden must be at least 1, got -1"),
        (["--batch", "0"], "batch must be at least 1, got 0"),
        (["--seeds", "0"], "--seeds must be at least 1, got 0"),
        (["--images", "5"], "at least 10 images are needed"),
        (["--rounds", "2"], "--rounds must be at least 3, got 2"),
        (["--limit", "0"], "--limit must be at least 1, got 0"),
        (["--parts", "draw"], "train first"),
    ],
)
def test_bad_arguments_are_named(tmp_path, capsys, arguments, message):
    assert sequences.main(command(tmp_path, *arguments)) == 1
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_checkpoint_of_another_training_is_refused(tmp_path, capsys):
    some = ("--neurons", "LIF", "--parts", "train")
    assert sequences.main(command(tmp_path, *some, "--epochs", "1")) == 0
    assert sequences.main(command(tmp_path, *some, "--epochs", "2")) == 1
    assert "epochs 1, now 2" in capsys.readouterr().err


@pytest.mark.parametrize("task", TASKS)
def test_the_guide_has_the_tables(task):
    rows, timed = (record.read(record.RESULTS / f"sequences_{task}{part}.csv") for part in ("", "_times"))
    guide = (record.RESULTS.parents[1] / "docs" / "neurons.md").read_text()
    assert "\n".join(sequences.table(rows, timed)) in guide
