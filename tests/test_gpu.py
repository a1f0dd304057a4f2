"""Both GPU engines on a GPU, against the specification on the CPU (``make gpu``)."""

import pytest
import torch
from cases import Case, assert_agrees, cases
from hypothesis import given, settings
from spikingjelly.activation_based import functional
from test_machinery import converted, network, run

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
@pytest.mark.parametrize("steps", [4, 17])
@pytest.mark.parametrize("shape", [(), (16, 1, 1), (16, 40, 32)])
def test_learnable_constants_over_many_blocks(engine, steps, shape):
    """Almost five times as many neurons as the table has columns."""
    x, grad = torch.randn(2, steps, 60, 16, 40, 32)
    own = {"decay": torch.rand(shape), "gain": torch.rand(shape), "v_threshold": 0.5 + torch.rand(shape)}
    assert_agrees(Case(x, None, {**own, **EVERYTHING, "noise_step": 0}, grad, None, 1e6), engine, "cuda")


@pytest.mark.parametrize("engine", ENGINES)
def test_the_same_bits_on_every_run(engine):
    x = torch.randn(9, 30, 100_003, device="cuda")
    found = []
    for _ in range(2):
        own = torch.full((100_003,), 0.5, device="cuda", requires_grad=True)
        out = tgo.lif(x, decay=own, v_threshold=own.mean(), impl=engine, **EVERYTHING)
        found.append((*out[:5], *torch.autograd.grad(out.spikes.sum(), own)))
    for a, b in zip(*found, strict=True):
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


@pytest.mark.parametrize("engine", ENGINES)
def test_cuda_graph_of_a_training_step(engine):
    """Nothing is read back to the host, forward or backward, also where constants learn."""
    grad = torch.randn(4, 8, 1000, device="cuda")
    x, decay = torch.randn_like(grad).requires_grad_(), torch.full((1000,), 0.5, device="cuda", requires_grad=True)

    def step() -> tuple[torch.Tensor, ...]:
        out = tgo.lif(x, decay=decay, impl=engine, **EVERYTHING)
        return torch.autograd.grad((out.spikes, out.penalty), (x, decay), (grad, torch.ones_like(out.penalty)))

    aside = torch.cuda.Stream()
    with torch.cuda.stream(aside):
        step()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        found = step()
    with torch.no_grad():
        x.normal_()
    graph.replay()
    for a, b in zip(found, step(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("made", [converted, lambda: network(guard_margin=0.5)], ids=["converted", "network"])
def test_compiled_into_cuda_graphs(made):
    torch.compiler.reset()
    eager, model = (made().cuda() for _ in range(2))
    compiled = torch.compile(model, mode="reduce-overhead", fullgraph=True)
    x = torch.randint(-8, 16, (4, 16, 2, 8, 8) if made is converted else (4, 16, 6), device="cuda") / 8
    for _ in range(4):  # warms up, records, replays
        for each in (eager, model):
            functional.reset_net(each)
        torch.compiler.cudagraph_mark_step_begin()
        torch.testing.assert_close(run(model, x, compiled), run(eager, x), rtol=1e-4, atol=1e-5)
    assert torch._dynamo.utils.counters["inductor"]["cudagraph_skips"] == 0
    torch.compiler.reset()


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
@pytest.mark.parametrize("engine", ENGINES)
def test_second_device(engine):
    x = torch.randn(9, 1000)
    case = Case(x, None, {**EVERYTHING, "noise_step": 0}, torch.randn(9, 1000), None, 1.0)
    assert_agrees(case, engine, "cuda:1")
