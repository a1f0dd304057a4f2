"""The benchmark of Poisson encoders."""

import csv

import pytest
import torch

from benchmarks import encoding


def test_all_encoders_are_timed_and_recorded(monkeypatch, tmp_path, capsys):
    pytest.importorskip("spikingjelly")
    pytest.importorskip("snntorch")
    monkeypatch.setitem(encoding.CASES, "small", ((2, 1, 4, 4), 3, torch.float32))
    monkeypatch.setattr(encoding, "times_of", lambda calls, rounds: {name: timed(call) for name, call in calls.items()})
    made = []

    def timed(call):
        made.append(call())
        return [2.0, 1.0, 3.0] if len(made) != 2 else [0.5, 0.5, 0.5]

    out = tmp_path / "encoding.csv"
    figure = tmp_path / "encoding.png"
    options = ["--cases", "small", "--threads", "1", "--out", str(out), "--figure", str(figure)]
    assert encoding.main(options) == 0
    assert figure.read_bytes()[:4] == b"\x89PNG"
    with out.open(newline="") as file:
        rows = {row["encoder"]: row for row in csv.DictReader(file)}
    assert set(rows) == {encoding.CEILING, *encoding.ENCODERS}
    assert all(spikes.shape == (3, 2, 1, 4, 4) for spikes in made)
    assert rows["snnTorch"]["ratio"] == "4.00"  # 2 ms to half a millisecond
    assert float(rows[encoding.OURS]["GB/s"]) == round(4 * 32 * 4 / 0.5 / 1e6, 2)
    assert all(row["torch"] == torch.__version__ for row in rows.values())
    assert "4.00" in capsys.readouterr().out


def test_what_is_no_poisson_encoder_is_refused(monkeypatch, capsys):
    monkeypatch.setitem(
        encoding.ENCODERS, "torch.bernoulli", (lambda x, steps: x.expand(steps, *x.shape) > 0.3, "torch")
    )
    assert encoding.main(["--cases", "one image"]) == 1
    assert "torch.bernoulli has other rates" in capsys.readouterr().err


def test_bad_options_are_named(capsys):
    for options in (["--threads", "0"], ["--rounds", "1"], ["--cases", "video"]):
        with pytest.raises(SystemExit, match="2"):
            encoding.main(options)
        assert "error: " in capsys.readouterr().err
