"""The Triton engine against the specification, in the interpreter: a process of its own with TRITON_INTERPRET=1."""

import os

import pytest
import torch
from cases import LAYOUTS, SURROGATES, Case, assert_agrees, cases, lay
from hypothesis import given, settings

import tgo_kernels as tgo

pytestmark = pytest.mark.skipif(
    os.environ.get("TRITON_INTERPRET") != "1", reason="needs TRITON_INTERPRET=1 (make test runs it so)"
)
EVERYTHING = {"noise_std": 0.3, "noise_seed": 7, "noise_step": 0, "guard_margin": 0.5}


@settings(max_examples=int(os.environ.get("TRITON_EXAMPLES", "1000")), deadline=None, derandomize=True, database=None)
@given(cases())
def test_triton_agrees_with_the_specification(case):
    assert_agrees(case, "triton")


@pytest.mark.parametrize("layout", LAYOUTS)
def test_many_blocks(layout):
    x = lay(torch.randn(9, 2, 3, 61, 67), layout)
    assert_agrees(Case(x, None, {**EVERYTHING, "noise_step": 2}, torch.randn(x.shape), None, 2.0), "triton")


@pytest.mark.parametrize("surrogate", SURROGATES, ids=lambda s: type(s).__name__)
@pytest.mark.parametrize("v_reset", [0.0, None])
def test_nan_and_inf_behave_as_in_the_specification(surrogate, v_reset):
    x = torch.randn(9, 40)
    x[2, 3], x[4, 5], x[5, 7], x[0, 11] = float("nan"), float("inf"), -float("inf"), float("nan")
    case = Case(x, None, {**EVERYTHING, "surrogate": surrogate, "v_reset": v_reset}, torch.randn(9, 40), None, 1.0)
    ours, spec = case.run("triton"), case.run("reference")
    for found, expected in zip([*ours[0], ours[1]], [*spec[0], spec[1]], strict=True):
        torch.testing.assert_close(found, expected, equal_nan=True, rtol=1e-5, atol=1e-6)


def test_the_same_bits_as_the_compiled_engine():
    x = torch.randn(12, 1000)
    outs = [tgo.lif(x, impl=impl, **EVERYTHING) for impl in ("triton", "native")]
    for a, b in zip(*outs, strict=True):
        assert torch.equal(a, b)


def test_available():
    assert "triton" in tgo.available_impls("cpu")


def test_no_neurons():
    out = tgo.lif(torch.empty(4, 0, 3), impl="triton", **EVERYTHING)
    assert out.spikes.shape == (4, 0, 3) and float(out.penalty) == 0 and int(out.fired) == 0
