"""The door and the compiled engine against the specification."""

import math
import os
import platform
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import torch
from cases import LAYOUTS, SURROGATES, Case, assert_agrees, cases, lay
from hypothesis import given, settings

import tgo_kernels as tgo

EVERYTHING = {"noise_std": 0.3, "noise_seed": 7, "guard_margin": 0.5}


EXAMPLES = int(os.environ.get("NATIVE_EXAMPLES", "2000"))


@settings(max_examples=EXAMPLES, deadline=None, derandomize=True, database=None)
@given(cases())
def test_native_agrees_with_the_specification(case):
    assert_agrees(case, "native")


@pytest.mark.skipif(platform.machine() != "x86_64", reason="other processors have one instruction set")
@pytest.mark.parametrize(("capability", "kernels"), [("default", "generic"), ("avx2", "AVX2")])
def test_other_instruction_sets_agree_too(capability, kernels):
    """The random calls again, in a process that is denied the wider vectors."""
    environment = os.environ | {"ATEN_CPU_CAPABILITY": capability, "NATIVE_EXAMPLES": "300"}
    run = partial(subprocess.run, env=environment, capture_output=True, text=True)
    info = run([sys.executable, "-m", "tgo_kernels", "info"])
    assert f"CPU kernels for {kernels}" in info.stdout, info.stdout + info.stderr
    tests = run([sys.executable, "-m", "pytest", "-q", __file__, "-k", "native_agrees or same_bits or nan_and_inf"])
    assert tests.returncode == 0, tests.stdout + tests.stderr


@pytest.mark.parametrize(
    ("shape", "memory"),
    [
        ((2, 64, 8, 8), (0, 2, 3, 1)),  # channels-last: a pair lies 64 apart,
        ((3, 48, 4, 6), (0, 2, 3, 1)),  # in runs that blocks cut,
        ((2, 33, 5, 6), (0, 2, 3, 1)),
        ((2, 3, 16, 10), (0, 2, 3, 1)),
        ((2, 520, 2, 2), (0, 2, 3, 1)),  # further apart than a block,
        ((2, 16, 5, 7), (0, 2, 3, 1)),  # not all alike
        ((2, 3, 40, 64), (0, 2, 1, 3)),  # heads: pairs side by side
        ((2, 3, 40, 7), (0, 2, 1, 3)),
        ((1030, 6), (1, 0)),
        ((6, 1030), (1, 0)),
    ],
)
def test_noise_is_the_same_bits_in_any_layout(shape, memory):
    """Nothing but the noise of the last step is left in v."""
    order = [0, *(1 + d for d in memory)]
    x = torch.zeros(3, *(shape[d] for d in memory)).permute(*(order.index(d) for d in range(len(order))))
    out = tgo.lif(x, decay=0.0, v_threshold=99.0, noise_std=1.0, noise_seed=3, noise_step=2, impl="native")
    xi = tgo.noise.standard_normal(3, 3, math.prod(shape), first_step=2)
    assert x.shape[1:] == shape and torch.equal(out.v_final, xi[-1].view(shape))


def test_outputs_too_large_for_the_caches():
    x, grad = torch.randn(2, 4, 2**21 + 32)
    assert_agrees(Case(x, None, {**EVERYTHING, "noise_step": 0}, grad, None, 1.0), "native")


@pytest.mark.parametrize("impl", ["native", "reference"])
@pytest.mark.parametrize("v_reset", [0.0, None])
def test_against_arithmetic_done_by_hand(impl, v_reset):
    # decay 1/2, gain 1, threshold 1: h = 0.75, 1.125 (fires), then from 0 or 0.125: 0.25 or 0.3125.
    x = torch.tensor([0.75, 0.75, 0.25])
    out = tgo.lif(x, v_reset=v_reset, guard_margin=0.5, impl=impl)
    assert out.spikes.tolist() == [0, 1, 0] and int(out.fired) == 1
    assert float(out.v_final) == (0.25 if v_reset == 0.0 else 0.3125)
    assert int(out.neighbors) == 2  # |h - 1| = 0.25, 0.125, and 0.75 or 0.6875
    assert float(out.penalty) == pytest.approx((0.25 + 0.375) / 3)


def test_gradient_against_arithmetic_done_by_hand():
    # One step, no spike: dL/dx = gain * z(h - threshold).
    x = torch.tensor([[0.5]], requires_grad=True)
    tgo.lif(x, gain=0.5, surrogate=tgo.Triangle(1.0), impl="native").spikes.sum().backward()
    assert float(x.grad) == pytest.approx(0.5 * (1 - 0.75))


@pytest.mark.parametrize("surrogate", SURROGATES, ids=lambda s: type(s).__name__)
@pytest.mark.parametrize("v_reset", [0.0, None])
def test_nan_and_inf_behave_as_in_the_specification(surrogate, v_reset):
    x = torch.randn(9, 40)
    x[2, 3], x[4, 5], x[5, 7], x[0, 11] = float("nan"), float("inf"), -float("inf"), float("nan")
    constants = {"surrogate": surrogate, "v_reset": v_reset, **EVERYTHING, "noise_step": 0}
    for noise_std in (0.0, 0.3):
        case = Case(x, None, {**constants, "noise_std": noise_std}, torch.randn(9, 40), None, 1.0)
        for found, expected in zip(_flat(case.run("native")), _flat(case.run("reference")), strict=True):
            torch.testing.assert_close(found, expected, equal_nan=True, rtol=1e-5, atol=1e-6)
        assert case.run("native")[0].penalty.isnan()


@pytest.mark.parametrize("impl", ["native", "reference"])
def test_nan_stays_where_no_gradient_passes(impl):
    """A spike that nothing depends on passes no gradient, though the surrogate of a NaN membrane is NaN."""
    x = torch.tensor([[0.7], [float("nan")], [0.7], [0.9]], requires_grad=True)
    (grad,) = torch.autograd.grad(tgo.lif(x, detach_reset=True, impl=impl).v_final.sum(), x)
    assert grad.flatten().tolist() == [0.125, 0.25, 0.5, 1.0]
    (grad,) = torch.autograd.grad(tgo.lif(x[:2], guard_margin=0.5, impl=impl).penalty, x)
    assert grad.flatten().tolist() == [0.5, 0.0, 0.0, 0.0]


def _flat(run):
    out, *grads = run
    return [*out[:5], *(g for g in grads if g is not None)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_the_same_bits_on_every_run_layout_and_thread_count(dtype):
    x = torch.randn(9, 4, 24, 11, 13).to(dtype)
    grad = torch.randn_like(x)
    results = []
    runs = [(2, "contiguous"), (1, "contiguous"), *((2, layout) for layout in LAYOUTS[:5])]
    for threads, layout in runs:
        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        case = Case(lay(x, layout), None, {**EVERYTHING, "noise_step": 0}, lay(grad, layout), None, 1.0)
        out, g_x, *_ = case.run("native")
        torch.set_num_threads(before)
        results.append([*out[:5], g_x])
    for result in results[1:]:
        for a, b in zip(results[0], result, strict=True):
            assert torch.equal(a, b)


@pytest.mark.parametrize("steps", [4, 8, 9, 40])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_is_saved_for_backward(steps, dtype):
    neurons, saved = 1000, []
    x = torch.randn(steps, neurons).to(dtype).requires_grad_()
    v_init = torch.zeros(neurons, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        tgo.lif(x, v_init, **EVERYTHING)
    checkpoints = (steps - 1) // 8 * neurons * 4
    assert sum(t.nbytes for t in saved) == x.nbytes + v_init.nbytes + 8 + checkpoints
    assert saved[0].data_ptr() == x.data_ptr()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_hooks_may_lose_the_strides_of_what_is_saved(layout):
    x, grad = lay(torch.randn(20, 2, 5, 3, 3), layout).requires_grad_(), torch.randn(20, 2, 5, 3, 3)
    (expected,) = torch.autograd.grad(tgo.lif(x).spikes, x, grad)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: t.numpy().copy(), lambda a: torch.from_numpy(a.copy("C"))):
        spikes = tgo.lif(x).spikes
    assert torch.equal(torch.autograd.grad(spikes, x, grad)[0], expected)


@pytest.mark.parametrize("split", [1, 2, 3, 4, 5, 8, 11])
@pytest.mark.parametrize("impl", ["native", "reference"])
def test_two_chunks_equal_the_whole(split, impl):
    x = torch.randn(13, 50, requires_grad=True)
    whole = tgo.lif(x, impl=impl, **EVERYTHING)
    first = tgo.lif(x[:split], impl=impl, **EVERYTHING)
    second = tgo.lif(x[split:], first.v_final, noise_step=split, impl=impl, **EVERYTHING)
    spikes = torch.cat([first.spikes, second.spikes])
    assert torch.equal(spikes, whole.spikes) and torch.equal(second.v_final, whole.v_final)
    grad = torch.randn(13, 50)
    (g_whole,) = torch.autograd.grad(whole.spikes, x, grad)
    (g_chunks,) = torch.autograd.grad(spikes, x, grad)
    torch.testing.assert_close(g_chunks, g_whole)


def test_thousands_of_steps():
    case = Case(torch.randn(4099, 5), None, {**EVERYTHING, "noise_step": 2}, torch.randn(4099, 5), None, 1.0)
    assert_agrees(case, "native")


def test_noise_seed_comes_from_torchs_generator():
    x = torch.randn(4, 1000)
    draw = lambda: tgo.lif(x, noise_std=0.5).spikes  # noqa: E731
    torch.manual_seed(1)
    first, second = draw(), draw()
    torch.manual_seed(1)
    assert torch.equal(first, draw()) and not torch.equal(first, second)
    by_int, by_tensor = (tgo.lif(x, noise_std=0.5, noise_seed=seed) for seed in (5, torch.tensor(5)))
    assert torch.equal(by_int.spikes, by_tensor.spikes)


@pytest.mark.parametrize("mode", ["membrane", "threshold"])
def test_firing_rate_is_phi(mode):
    for h in (0.5, 0.9, 1.0, 1.3):
        out = tgo.lif(torch.full((1, 200_000), h), noise_std=0.4, noise_mode=mode, noise_seed=3)
        expected = torch.special.ndtr(torch.tensor((h - 1.0) / 0.4))
        assert float(out.fired) / 200_000 == pytest.approx(float(expected), abs=0.005)


def test_inputs_are_not_written_to():
    x, v_init = torch.randn(9, 30, requires_grad=True), torch.randn(30, requires_grad=True)
    before = x.detach().clone(), v_init.detach().clone()
    grad = torch.randn(9, 30)
    kept = grad.clone()
    tgo.lif(x, v_init, **EVERYTHING).spikes.backward(grad)
    assert torch.equal(x, before[0]) and torch.equal(v_init, before[1]) and torch.equal(grad, kept)


def test_second_backward_and_second_derivative_raise():
    x = torch.randn(4, 10, requires_grad=True)
    loss = tgo.lif(x).spikes.sum()
    (gradient,) = torch.autograd.grad(loss, x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        (gradient.sum() + x.sum()).backward()
    v_init = torch.zeros(10, requires_grad=True)
    (gradient,) = torch.autograd.grad(tgo.lif(x.detach(), v_init).v_final.sum(), v_init, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        (gradient.sum() + v_init.sum()).backward()
    loss = tgo.lif(x).spikes.sum()
    loss.backward()
    with pytest.raises(RuntimeError, match="second time"):
        loss.backward()


def test_a_small_call_is_short():
    """Nothing between the layer and the operators that takes longer than they do, such as inspect.signature."""
    x, grad = torch.randn(4, 8, requires_grad=True), torch.randn(4, 8)
    tgo.lif(x)  # finds the engine, checks the constants
    files: list[str] = []
    sys.setprofile(lambda frame, event, _: files.append(frame.f_code.co_filename) if event == "call" else None)
    try:
        tgo.lif(x).spikes.backward(grad)
    finally:
        sys.setprofile(None)
    assert not [file for file in files if Path(file).name in ("inspect.py", "abc.py")]
    assert len([file for file in files if "tgo_kernels" in Path(file).parts]) <= 12


def test_surrogates_of_others_are_not_taken_for_each_other():
    class Width(tgo.Surrogate):
        curve = tgo.ATan.curve

        def __init__(self, alpha: float) -> None:
            object.__setattr__(self, "alpha", alpha)

        def constants(self) -> tuple[float, float]:
            return tgo.ATan(self.alpha).constants()

    def gradient(surrogate: tgo.Surrogate) -> torch.Tensor:
        x = torch.linspace(0, 2, 32).reshape(4, 8).requires_grad_()
        tgo.lif(x, surrogate=surrogate).spikes.sum().backward()
        return x.grad

    for alpha in (1.0, 8.0):
        assert torch.equal(gradient(Width(alpha)), gradient(tgo.ATan(alpha)))


def test_functorchs_gradient():
    x = torch.randn(9, 8, requires_grad=True)
    decay = torch.rand(8)

    def loss(x, decay):
        out = tgo.lif(x, decay=decay, guard_margin=0.5)
        return out.spikes.sum() + out.penalty

    found = torch.func.grad(loss, argnums=(0, 1))(x.detach(), decay)
    expected = torch.autograd.grad(loss(x, decay.requires_grad_()), (x, decay))
    for a, b in zip(found, expected, strict=True):
        assert torch.equal(a, b) and a.any()


def test_a_state_may_outlive_a_functorch_transform():
    layer, x = tgo.LIF(2.0, stateful=True), torch.randn(4, 8)
    torch.func.grad(lambda y: layer(y).sum())(x)
    x.requires_grad_()
    layer(x).sum().backward()
    assert x.grad is not None


def test_transforms_that_it_does_not_have_raise():
    x = torch.randn(4, 3)
    with pytest.raises(RuntimeError, match=r"tgo_kernels.lif has no forward-mode derivative \(jvp\)"):
        torch.func.jvp(lambda x: tgo.lif(x).v_final, (x,), (x,))
    with pytest.raises(RuntimeError, match="has no vmap: all dimensions of x but the first are neurons"):
        torch.func.vmap(lambda x: tgo.lif(x).spikes)(torch.randn(2, 4, 3))


@pytest.mark.skipif(
    os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") < 16e9, reason="needs 16 GB of free memory"
)
def test_more_than_2_31_elements():
    neurons = 2**30 + 17
    x = torch.zeros(2, neurons, dtype=torch.bfloat16)
    x[0, -1] = x[1, -3] = x[1, 5] = 3.0
    out = tgo.lif(x)
    assert int(out.fired) == 3 and out.spikes[0, -1] == out.spikes[1, -3] == out.spikes[1, 5] == 1


@pytest.mark.parametrize("impl", ["native", "reference"])
def test_no_neurons(impl):
    x = torch.empty(4, 0, 3, requires_grad=True)
    out = tgo.lif(x, impl=impl, **EVERYTHING)
    assert out.spikes.shape == (4, 0, 3) and out.v_final.shape == (0, 3)
    assert out.penalty.item() == 0 and int(out.fired) == 0 and int(out.neighbors) == 0
    out.spikes.sum().backward()
    assert x.grad.shape == x.shape
