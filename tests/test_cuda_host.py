"""The CUDA engine's code on the host: its operators, dispatch, kernel bodies and block sums, without a GPU."""

import os
import subprocess
from dataclasses import replace
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
    command = ["g++", "-std=c++20", "-O0", "-shared", "-fPIC", "-ffp-contract=off", "-Wno-psabi"]
    command += ["-DTORCH_TARGET_VERSION=0x020a000000000000", f"-I{torch_path / 'include'}", f"-L{torch_path / 'lib'}"]
    command += [*os.environ.get("CXXFLAGS", "").split(), str(ROOT / "tests/cuda_host.cpp"), "-o", str(library)]
    environment = {name: value for name, value in os.environ.items() if name != "LD_PRELOAD"}  # not into the compiler
    subprocess.run([*command, "-lc10", "-ltorch_cpu"], env=environment, check=True)
    definitions = torch.library.Library("tgo_kernels_cuda_host", "DEF")
    definitions.define("scan_fwd" + ops._FORWARD)
    definitions.define("scan_bwd" + ops._BACKWARD)
    torch.ops.load_library(library)
    host = torch.ops.tgo_kernels_cuda_host
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(ops.OPERATORS, "native", (host.scan_fwd, host.scan_bwd))
        patch.setattr(ops.native, "serves", lambda device: None)  # whether the CPU's engine was built or not
        yield


@settings(max_examples=int(os.environ.get("CUDA_HOST_EXAMPLES", "300")), deadline=None, derandomize=True, database=None)
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


FEATURES = {
    "quiet": {"noise_std": 0.0},
    "usual": {},
    "soft reset": {"v_reset": None},
    "noisy threshold": {"noise_mode": "threshold", "detach_reset": True},
    "all that is rare": {
        **{"v_reset": None, "reset_by": 0.8, "strict": True, "membrane": "u", "guard_side": "below", "guard_power": 2},
    },
    "sequences end": {"valid": torch.tensor([0, 30, 3, 9]), "membrane": "v", "noise_std": 0.0},
}


@pytest.mark.parametrize("features", FEATURES)
@pytest.mark.parametrize("own", [False, True], ids=["", "own"])
@pytest.mark.parametrize("neuron", [tgo.neurons.LIF, tgo.neurons.AdaptiveLIF])
@pytest.mark.parametrize("channels", [64, 63], ids=["wide", "narrow"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_every_kernel(dtype, channels, neuron, own, features):
    """At rest and with states, one span and several, of any neuron with any constants."""
    constants = {**EVERYTHING, "v_reset": 0.1, **FEATURES[features]}
    if own:
        learn = {"decay": 0.5, "v_threshold": 0.8}
        learn |= {"noise_std": 0.2} if constants["noise_std"] else {}
        constants |= {name: value + 0.2 * torch.rand(channels) for name, value in learn.items()}
    for steps, stateful in ((4, False), (13, True)):
        x, grad, g_membrane = torch.randn(3, steps, 4, channels)
        states = (len(neuron.STATES),) if neuron is not tgo.neurons.LIF else ()
        v_init, g_final = torch.rand(2, *states, 4, channels)
        state = (v_init if stateful else None), (g_final if stateful else None)
        case = Case(x.to(dtype), state[0], constants, grad, state[1], 2.0, g_membrane=g_membrane, neuron=neuron)
        assert_agrees(replace(case, columns=64), "native")


def test_what_is_not_aligned_takes_the_narrow_path():
    x = torch.randn(4 * 64 + 1)[1:].view(4, 64)
    assert x.data_ptr() % 16
    assert_agrees(Case(x, None, EVERYTHING, torch.randn(4, 64), None, 1.0), "native")


def test_no_neurons():
    out = tgo.lif(torch.empty(4, 0, 3), impl="native", **EVERYTHING)
    assert out.spikes.shape == (4, 0, 3) and float(out.penalty) == 0 and int(out.fired) == 0
