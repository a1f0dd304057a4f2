"""The package as a stranger meets it: a cold import, and what it says of itself."""

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import tgo_kernels as tgo

ROOT = Path(__file__).parents[1]

COLD = """
import sys
sys.modules["triton"] = None  # as if it were not installed
import torch
import tgo_kernels as tgo
assert not torch.cuda.is_initialized()
spikes = tgo.LIF()(torch.ones(4, 3))
assert "triton" not in tgo.available_impls("cpu")
try:
    tgo.lif(torch.ones(4, 3), impl="triton")
except RuntimeError as error:
    assert "tgo_kernels[triton]" in str(error) or "TRITON_INTERPRET" in str(error), error
else:
    raise AssertionError("triton was not missed")
"""


def python(*arguments: str) -> str:
    run = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    return run.stdout


def test_import_needs_torch_alone_and_is_silent():
    assert python("-W", "error::UserWarning", "-c", COLD) == ""


def test_info_names_engines_and_reasons():
    text = python("-m", "tgo_kernels", "info")
    assert 'native    yes, taken by impl="auto"' in text and "reference yes" in text
    assert "triton    no: Triton serves GPU tensors" in text and "CPU kernels for" in text


def test_its_version_is_that_of_the_citation_and_of_the_changelog():
    cited = re.search(r"^version: (.*)$", (ROOT / "CITATION.cff").read_text(), re.MULTILINE)
    newest = re.search(r"^## \[([\d.]+)\]", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert cited and newest and cited[1] == newest[1] == tgo.__version__


def test_a_name_that_has_moved_is_there_with_a_warning():
    with pytest.warns(DeprecationWarning, match=r"tgo_kernels\.Neuron is tgo_kernels\.neurons\.LIF since 0\.2\.0"):
        assert tgo.Neuron is tgo.neurons.LIF
    with pytest.raises(AttributeError, match="module 'tgo_kernels' has no attribute 'Neurons'"):
        _ = tgo.Neurons


USER = """
import torch
import tgo_kernels as tgo
from tgo_kernels.interop import snntorch, spikingjelly

layer: tgo.LIF = tgo.LIF(tau=2.0, surrogate=tgo.FastSigmoid(25.0), noise_std=0.1, guard_margin=0.5)
net = torch.nn.Sequential(torch.nn.Linear(3, 4), layer)
spikes: torch.Tensor = layer(torch.rand(4, 2, 4))
out = tgo.lif(spikes, decay=0.5, v_reset=None)
loss: torch.Tensor = out.penalty + tgo.guard_penalty(net) * tgo.GuardSchedule(0.4, 10).weight(3)
rates: dict[str, float] = tgo.neighbor_rates(net)
left: dict[str, str] = spikingjelly.convert(net).left | snntorch.convert(net, sequence=True).left
state: torch.Tensor | None = layer.v
tgo.lif("x")
tgo.LIF(noise_mode="nothing")
"""


def test_a_strict_checker_finds_the_users_mistakes_alone(tmp_path):
    (tmp_path / "user.py").write_text(USER)
    command = [sys.executable, "-m", "mypy", "--strict", "--follow-imports=silent", "--no-incremental", "user.py"]
    found = subprocess.run(
        command, cwd=tmp_path, env=os.environ | {"MYPYPATH": str(ROOT)}, capture_output=True, text=True
    )
    errors = [line for line in found.stdout.splitlines() if "error:" in line]
    assert [error.split(":")[1] for error in errors] == ["14", "15"], found.stdout + found.stderr
    assert "arg-type" in errors[0] and "arg-type" in errors[1]


def imported(path: Path, modules: set[str]) -> set[str]:
    """The modules of the package that a file imports as it is imported itself."""
    found = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.ImportFrom) and node.module == "tgo_kernels":
            found |= {each.name for each in node.names} & modules
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("tgo_kernels."):
            found.add(str(node.module).split(".")[1])
    return found


def test_a_module_imports_from_the_floors_below_its_own():
    rows = re.findall(r"^  \| (\d+) \| (.*) \|$", (ROOT / "CONTRIBUTING.md").read_text(), re.MULTILINE)
    floors = {name: int(floor) for floor, names in rows for name in re.findall(r"`(\w+)`", names)}
    package = ROOT / "tgo_kernels"
    files = {path: path.relative_to(package).with_suffix("").parts[0] for path in package.rglob("*.py")}
    assert set(files.values()) - {"__init__"} == set(floors)
    for path, name in files.items():
        for other in imported(path, set(floors)) - {name} if name != "__init__" else ():
            assert floors[other] < floors[name], f"{path.name} imports {other}"
