"""Both GPU engines on a GPU, against the specification on the CPU (``make gpu``)."""

import pytest
import torch
from cases import Case, assert_agrees, cases
from hypothesis import given, settings

import tgo_kernels as tgo

if not torch.cuda.is_available():
    pytest.skip("needs a GPU", allow_module_level=True)

EVERYTHING = {"noise_std": 0.3, "noise_seed": 7, "guard_margin": 0.5}
ENGINES = [engine for engine in tgo.available_impls("cuda") if engine != "reference"]


# For most of these calls Triton has to compile: 0.5 s a kernel.
@pytest.mark.parametrize("engine", ENGINES)
@settings(max_examples=150, deadline=None, derandomize=True, database=None)
@given(case=cases())
def test_agrees_with_the_specification(engine, case):
    assert_agrees(case, engine, "cuda")


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("steps", [4, 24])
@pytest.mark.parametrize("neurons", [2**20, 2**20 + 1])
def test_large(engine, dtype, steps, neurons):
    x, grad = torch.randn(2, steps, neurons).to(dtype)
    assert_agrees(Case(x, None, {**EVERYTHING, "noise_step": 0}, grad, None, 1.0), engine, "cuda")


@pytest.mark.parametrize("engine", ENGINES)
def test_the_same_bits_on_every_run(engine):
    x = torch.randn(9, 100_003, device="cuda")
    first, second = (tgo.lif(x, impl=engine, **EVERYTHING) for _ in range(2))
    for a, b in zip(first, second, strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("engine", ENGINES)
def test_cuda_graph_replays_with_fresh_noise(engine):
    seed, x = torch.zeros((), dtype=torch.int64, device="cuda"), torch.full((4, 100_000), 0.9, device="cuda")
    constants = {"noise_std": 0.3, "noise_seed": seed, "impl": engine}
    tgo.lif(x, **constants)  # compiles, and warms up
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = tgo.lif(x, **constants)
    for number in (1, 2):
        seed.fill_(number)
        graph.replay()
        assert torch.equal(out.spikes, tgo.lif(x, noise_std=0.3, noise_seed=number, impl=engine).spikes)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
@pytest.mark.parametrize("engine", ENGINES)
def test_second_device(engine):
    x = torch.randn(9, 1000)
    case = Case(x, None, {**EVERYTHING, "noise_step": 0}, torch.randn(9, 1000), None, 1.0)
    assert_agrees(case, engine, "cuda:1")
