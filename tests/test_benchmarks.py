"""The benchmark: its gate, its counts, its record and its pictures."""

import platform
from dataclasses import replace

import pytest
import torch

pytest.importorskip("matplotlib")

import tgo_kernels as tgo
from benchmarks import errors, plot, record, run, verify, vgg
from benchmarks.cases import BOTH, EXTRAS, PLAIN, Case, cases, selected
from benchmarks.peers import DECAY, GAIN, OURS, PEERS, Peer, composed

SMALL = Case("headline", "N512", 4, (512,))


def test_the_names_of_cases_are_unique_and_select_them():
    names = [case.name for case in cases()]
    assert len(set(names)) == len(names)
    (case,) = selected(["headline/N4194304/T4/plain/fp32/training"])
    assert (case.size, case.bytes_per_step) == (16777216, 20)
    assert [case.bytes_per_step for case in selected(["headline/N262144/T16/both/bf16/*"])] == [10, 4]
    with pytest.raises(ValueError, match="no case fits 'resnet/"):
        selected(["resnet/*"])


@pytest.mark.parametrize("name", [OURS, "eager", "SpikingJelly", "snnTorch"])
def test_the_gate_is_green_where_the_neuron_is_right(name):
    assert verify.problem(PEERS[name].make(), PEERS[name]) is None


@pytest.mark.parametrize(
    ("what", "constants"),
    [
        ("spikes differ", {"v_threshold": 1.01}),
        ("spikes differ", {"decay": 0.51}),
        ("gradient is off", {"surrogate": tgo.ATan(2.1)}),
        ("gradient is off", {"detach_reset": True}),
    ],
)
def test_the_gate_is_red_for_another_neuron(what, constants):
    def other(x, extras):
        return tgo.lif(x, **{"decay": DECAY, "gain": GAIN} | constants).spikes, None

    passed, reasons = verify.gate([Peer("other", lambda: other), PEERS[OURS]])
    assert [peer.name for peer in passed] == [OURS]
    assert reasons["other"].startswith("RED") and what in reasons["other"]


def test_the_gate_is_red_without_noise_and_for_wrong_bf16():
    def quiet(x, extras):
        return composed(x, replace(extras, noise=False))

    def fp32_alone(x, extras):
        return (x * 0 if x.dtype == torch.bfloat16 else composed(x, extras)[0]), None

    peers = [Peer("quiet", lambda: quiet, extras=EXTRAS), Peer("fp32", lambda: fp32_alone)]
    passed, reasons = verify.gate(peers)
    assert passed == [] and "noise, fp32: the mean of spikes" in reasons["quiet"]
    assert "plain, bf16: the mean of spikes" in reasons["fp32"]


def test_the_gate_names_what_is_not_installed_and_what_fails():
    def failing():
        raise RuntimeError("no such layer")

    peers = [replace(PEERS["eager"], name="absent", package="no_such_package"), Peer("failing", failing)]
    passed, reasons = verify.gate(peers)
    assert passed == [] and "no_such_package is not installed" in reasons["absent"]
    assert reasons["failing"] == "RED: RuntimeError: no such layer"


@pytest.mark.parametrize("extras", [PLAIN, BOTH], ids=lambda extras: extras.name)
@pytest.mark.parametrize(("dtype", "ours", "eager"), [("fp32", 4.0, 8.0), ("bf16", 2.0, 4.0)])
def test_held_bytes(extras, dtype, ours, eager):
    case = replace(SMALL, extras=extras, dtype=dtype, shape=(1 << 16,))
    x, _ = run.tensors(case)
    seed = 8 if extras.noise else 0
    assert run.held(PEERS[OURS].make(), case, x) == ours * case.size + seed
    assert run.held(PEERS["eager"].make(), case, x) > eager * case.size


def test_a_run_fills_the_columns(tmp_path, monkeypatch):
    monkeypatch.setattr(run, "selected", lambda patterns: [replace(SMALL, network="T"), replace(SMALL, training=False)])
    out = tmp_path / "bench.csv"
    assert run.main(["--engines", OURS, "eager", "--rounds", "3", "--threads", "1", "--out", str(out)]) == 0
    rows = record.read(out)
    assert tuple(rows[0]) == record.COLUMNS and [row["engine"] for row in rows] == [run.CLONE, OURS, "eager"] * 2
    for row in rows:
        assert 0 < float(row["p20_ms"]) <= float(row["p50_ms"]) <= float(row["p80_ms"])
        assert row["machine"] and row["allocator"] and row["date"] and row["torch"] == torch.__version__
    assert [row["of_clone"] for row in rows if row["engine"] == run.CLONE] == ["1.000"] * 2
    assert rows[1]["held_B_per_step"] == "4.000" and rows[4]["held_B_per_step"] == ""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="reads glibc's and Linux's counters")
def test_the_probe_sees_the_peak():
    (case,) = selected(["N/N1048576/T4/plain/fp32/training"])
    ours, eager = (run.probe(case.name, PEERS[name], threads=1) for name in (OURS, "eager"))
    mebibytes = 4 * case.size / 2**20
    assert float(ours["first_call_ms"]) > 0
    assert 2 * mebibytes <= float(ours["peak_MiB"]) < 3 * mebibytes  # spikes and the gradient of x
    assert float(eager["peak_MiB"]) > 5 * mebibytes


def test_the_error_against_fp64_is_rounding():
    row = errors.errors(PEERS[OURS], 8, "fp32", neurons=4096)
    assert 0 < float(row["gradient_rms"]) < 1e-6 and float(row["flipped"]) < 1e-2


def test_the_step_of_a_network_is_mostly_not_lif():
    (row,) = vgg.measure([PEERS[OURS]], rounds=3, batch=2, width=1 / 16)
    assert 0 < float(row["lif_share"]) < 1 and tuple(row) == vgg.COLUMNS[: len(row)]


def test_pictures_are_drawn(tmp_path):
    rows = []
    for network, steps in (("headline", 4), ("T", 4), ("T", 8), ("N", 4)):
        case = Case(network, "N512", steps, (512,))
        for name, ms in ((OURS, 1.0), ("eager", 6.0)):
            values = (case.name, network, "N512", steps, 512, "plain", "fp32", "training", name, "1", "", 2)
            rows.append(dict(zip(record.MEASURED, values, strict=True)) | {"p50_ms": ms, "held_B_per_step": 4})
    for name in ("peers", "peers_neurons"):
        record.write(tmp_path / f"{name}.csv", rows)
    row = {"engine": OURS, "T": 4, "dtype": "fp32", "gradient_rms": 1e-7}
    record.write(tmp_path / "peers_errors.csv", [row, row | {"T": 8}], errors.COLUMNS)
    drawn = plot.draw("peers", tmp_path, tmp_path / "figures")
    names = ("speed", "time_steps", "memory", "neurons", "error")
    assert [path.name for path in drawn] == [f"bench_{name}.png" for name in names]
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in drawn)
