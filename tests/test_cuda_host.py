"""The CUDA engine's code on the host: its operators, dispatch, kernel bodies and block sums, without a GPU."""

import os
import subprocess
from pathlib import Path

import pytest
import torch
from cases import Case, assert_agrees, cases
from hypothesis import given, settings

import tgo_kernels as tgo
from tgo_kernels import ops

ROOT = Path(__file__).parents[1]
EVERYTHING = {"noise_std": 0.3, "noise_seed": 7, "noise_step": 0, "guard_margin": 0.5}


@pytest.fixture(scope="module", autouse=True)
def cuda_on_the_host(tmp_path_factory):
    """``impl="native"`` is the CUDA engine's code for this module."""
    library = tmp_path_factory.mktemp("cuda_host") / "cuda_host.so"
    torch_path = Path(torch.__file__).parent
    command = ["g++", "-std=c++20", "-O1", "-shared", "-fPIC", "-ffp-contract=off", "-Wno-psabi"]
    command += ["-DTORCH_TARGET_VERSION=0x020a000000000000", f"-I{torch_path / 'include'}", f"-L{torch_path / 'lib'}"]
    command += [*os.environ.get("CXXFLAGS", "").split(), str(ROOT / "tests/cuda_host.cpp"), "-o", str(library)]
    environment = {name: value for name, value in os.environ.items() if name != "LD_PRELOAD"}  # not into the compiler
    subprocess.run([*command, "-lc10", "-ltorch_cpu"], env=environment, check=True)
    definitions = torch.library.Library("tgo_kernels_cuda_host", "DEF")
    definitions.define("lif_fwd" + ops._FORWARD)
    definitions.define("lif_bwd" + ops._BACKWARD)
    torch.ops.load_library(library)
    host = torch.ops.tgo_kernels_cuda_host
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(ops.OPERATORS, "native", (host.lif_fwd, host.lif_bwd))
        yield


@settings(max_examples=int(os.environ.get("CUDA_HOST_EXAMPLES", "600")), deadline=None, derandomize=True, database=None)
@given(cases())
def test_agrees_with_the_specification(case):
    assert_agrees(case, "native")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("neurons", [1, 3, 4, 8, 1000, 1031, 4096, 8200])
@pytest.mark.parametrize("noise_step", [0, 3])
@pytest.mark.parametrize("steps", [4, 1, 9, 24])
def test_every_path(dtype, neurons, noise_step, steps):
    """Whole and ragged rows, one block and more, T = 4 and past checkpoints, aligned and unaligned noise."""
    constants = {**EVERYTHING, "noise_step": noise_step}
    x, grad = torch.randn(2, steps, neurons).to(dtype)
    assert_agrees(Case(x, None, constants, grad, None, 2.0), "native")
    assert_agrees(Case(x, torch.randn(neurons), constants, grad, torch.randn(neurons), 2.0), "native")


def test_what_is_not_aligned_takes_the_narrow_path():
    x = torch.randn(4 * 64 + 1)[1:].view(4, 64)
    assert x.data_ptr() % 16
    assert_agrees(Case(x, None, EVERYTHING, torch.randn(4, 64), None, 1.0), "native")


def test_no_neurons():
    out = tgo.lif(torch.empty(4, 0, 3), impl="native", **EVERYTHING)
    assert out.spikes.shape == (4, 0, 3) and float(out.penalty) == 0 and int(out.fired) == 0
