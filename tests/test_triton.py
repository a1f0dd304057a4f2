"""The Triton engine against the specification, in the interpreter: a process of its own with TRITON_INTERPRET=1."""

import os

import pytest
import torch
from cases import LAYOUTS, SURROGATES, Case, assert_agrees, cases, lay
from hypothesis import given, settings

import tgo_kernels as tgo
from tgo_kernels import noise
from tgo_kernels.neurons import LIF, AdaptiveLIF

if os.environ.get("TRITON_INTERPRET") != "1":
    pytest.skip("needs TRITON_INTERPRET=1, before triton is imported (make test runs it so)", allow_module_level=True)
triton = pytest.importorskip("triton")
tl = triton.language

from tgo_kernels._triton import launch as engine  # noqa: E402
from tgo_kernels._triton.draw import counter_of, draw, noise_of  # noqa: E402
from tgo_kernels._triton.flags import Flags  # noqa: E402
from tgo_kernels._triton.math import MEMBRANE  # noqa: E402

EVERYTHING = {"noise_std": 0.3, "noise_seed": 7, "noise_step": 0, "guard_margin": 0.5}
EVERY_OUTPUT = {**EVERYTHING, "membrane": "u"}


@settings(max_examples=int(os.environ.get("TRITON_EXAMPLES", "300")), deadline=None, derandomize=True, database=None)
@given(cases())
def test_triton_agrees_with_the_specification(case):
    assert_agrees(case, "triton")


@pytest.mark.parametrize("layout", LAYOUTS)
def test_many_blocks(layout):
    x = lay(torch.randn(9, 2, 3, 61, 67), layout)
    assert_agrees(Case(x, None, {**EVERYTHING, "noise_step": 2}, torch.randn(x.shape), None, 2.0), "triton")


def test_a_table_wider_than_its_neurons():
    """As under torch.compile, which does not know how many there will be."""
    torch.compiler.reset()
    x, layer = torch.randn(4, 2, 16), tgo.LIF(v_threshold=0.4, learn_threshold=True, guard_margin=0.5, impl="triton")
    grads = []
    for call in (layer, torch.compile(layer, backend="aot_eager")):
        layer.zero_grad()
        call(x)
        layer.penalty.backward()
        grads.append(layer.v_threshold.grad.clone())
    assert torch.equal(*grads) and grads[0] != 0
    torch.compiler.reset()


@pytest.mark.parametrize("surrogate", SURROGATES, ids=lambda s: type(s).__name__)
@pytest.mark.parametrize("v_reset", [0.0, None])
def test_nan_and_inf_behave_as_in_the_specification(surrogate, v_reset):
    x = torch.randn(9, 40)
    x[2, 3], x[4, 5], x[5, 7], x[0, 11] = float("nan"), float("inf"), -float("inf"), float("nan")
    constants = {**EVERYTHING, "surrogate": surrogate, "v_reset": v_reset}
    for grads in ((torch.randn(9, 40), None, 1.0), (None, torch.randn(40), None), (None, None, 1.0)):
        ours, spec = (Case(x, None, constants, *grads).run(impl) for impl in ("triton", "reference"))
        for found, expected in zip([*ours[0], ours[1]], [*spec[0], spec[1]], strict=True):
            torch.testing.assert_close(found, expected, equal_nan=True, rtol=1e-5, atol=1e-6)


def test_the_same_bits_as_the_compiled_engine():
    x = torch.randn(12, 1000)
    outs = [tgo.lif(x, impl=impl, **EVERY_OUTPUT) for impl in ("triton", "native")]
    for a, b in zip(*outs, strict=True):
        assert torch.equal(a, b)


def test_available():
    assert "triton" in tgo.available_impls("cpu")


def test_the_backward_refuses_what_the_door_would_not_pass():
    backward, x, nothing = tgo.ops.OPERATORS["triton"][1], torch.ones(20, 3), torch.ones(0)
    for every, checkpoints, message in ((0, nothing, "checkpoint_every"), (8, nothing, "checkpoints")):
        with pytest.raises(ValueError, match=message):
            backward(x, None, [], None, None, 0, every, checkpoints, x, None, [], None, False, False, LIF().settings)


def test_many_dimensions_in_another_order():
    x = torch.randn(2, 2, 3, 2, 3, 2).permute(0, 5, 4, 3, 2, 1)
    assert_agrees(Case(x, None, EVERYTHING, torch.randn(x.shape), None, 1.0), "triton")


def test_no_neurons():
    out = tgo.lif(torch.empty(4, 0, 3), impl="triton", **EVERYTHING)
    assert out.spikes.shape == (4, 0, 3) and float(out.penalty) == 0 and int(out.fired) == 0


@pytest.mark.parametrize("steps", [1, 2, 3, 4, 5, 8, 9, 17, 33])
@pytest.mark.parametrize("noise_step", [0, 1, 2, 3, 2**33 + 5])
def test_every_length_and_phase_of_the_noise(steps, noise_step):
    constants = {**EVERYTHING, "noise_step": noise_step}
    x = torch.randn(steps, 37)
    assert_agrees(Case(x, torch.randn(37), constants, torch.randn(steps, 37), torch.randn(37), 5.0), "triton")


def test_inference_saves_nothing_and_agrees():
    x = torch.randn(21, 50)
    for a, b in zip(*(tgo.lif(x, impl=impl, **EVERY_OUTPUT) for impl in ("triton", "reference")), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("neuron", [LIF, AdaptiveLIF])
@pytest.mark.parametrize(
    ("steps", "noise_step", "dtype", "layout", "columns"),
    [
        (1, 3, torch.float32, "contiguous", 1),
        (4, 0, torch.float16, "batch_first", 1),
        (9, 2, torch.bfloat16, "channels_last", 64),
        (17, 1, torch.float32, "sliced", None),
    ],
)
def test_constants_with_a_time_axis(steps, noise_step, dtype, layout, columns, neuron, monkeypatch):
    """All, and some; where sequences end, and where neurons share columns; several programs, the last not full."""
    monkeypatch.setattr(engine, "INTERPRETED_BLOCK", 32)
    x, grad = (lay(torch.randn(steps, 4, 3, 2, 2), layout).to(dtype) for _ in range(2))
    state, g_state = torch.randn(2, *([2] if neuron is AdaptiveLIF else []), 4, 3, 2, 2)
    each, step, channel = x.shape, (steps, 1, 1, 1, 1), (steps, 1, 3, 1, 1)
    lengths = torch.randint(0, steps + 1, (4,))
    for sizes, more in (
        ({"decay": channel, "gain": step, "v_threshold": channel, "noise_std": step}, {}),
        ({"decay": (3, 1, 1), "gain": (), "v_threshold": channel}, {"valid": lengths, "membrane": "u"}),
        ({"decay": step, "gain": each, "reset_by": each}, {"valid": lengths, "v_reset": None}),
    ):
        own = {name: 0.3 + 0.5 * torch.rand(size) for name, size in sizes.items()}
        constants = {**EVERYTHING, "noise_step": noise_step, **own, **more}
        case = Case(x, state, constants, grad, g_state, 2.0, columns=columns, g_membrane=grad, neuron=neuron)
        assert_agrees(case, "triton")


@triton.jit
def noise_kernel(out_ptr, seed_ptr, start, step, F: tl.constexpr):
    counter = counter_of(start, (1, 1, 1), (0, 0, 0, 1), F)
    COUNT: tl.constexpr = F.count
    for neuron in tl.static_range(COUNT):
        if neuron % 2 == 0:
            words, counter = draw(seed_ptr, counter, step // 4, F)
        xi, words = noise_of(0.0, words)
        for i in tl.static_range(4):
            tl.store(out_ptr + i * F.count * F.block + tl.arange(0, F.block) * F.count + neuron, xi[i])


@pytest.mark.parametrize("count", [1, 4])
def test_noise_beyond_2_32_neurons(count):
    seed, out = torch.tensor(-(2**62) - 12345), torch.empty(4, 64)
    flags = Flags(noise=MEMBRANE.value, permuted=False, once=True, count=count, block=64 // count)
    noise_kernel[(1,)](out, seed, 3 << 32, 2**33, F=flags)
    a, b, c, d = noise.philox(seed, (3 << 31) + torch.arange(32), 2**33 // 4)
    words = torch.stack((a, c), -1).flatten(), torch.stack((b, d), -1).flatten()
    assert torch.equal(out, torch.stack([z for word in words for z in noise.two_normals(word)]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("neurons", [1031, 1040])
def test_the_same_bits_whatever_the_block(dtype, neurons, monkeypatch):
    x, grad = torch.randn(2, 9, neurons).to(dtype)
    results = []
    for block in (64, 2048):
        monkeypatch.setattr(engine, "INTERPRETED_BLOCK", block)
        out, g_x, *_ = Case(x, None, EVERY_OUTPUT, grad, None, 1.0, g_membrane=grad).run("triton")
        results.append([*out, g_x])
    for result in results[1:]:
        for a, b in zip(results[0], result, strict=True):
            assert torch.equal(a, b)


@pytest.mark.parametrize(
    ("dtype", "layout", "steps", "noise_step"),
    [
        (torch.float32, "contiguous", 4, 0),
        (torch.float32, "channels_last", 17, 6),
        (torch.float32, "batch_first", 12, 4),
        (torch.float16, "contiguous", 12, 4),
        (torch.float16, "reversed", 4, 0),
        (torch.bfloat16, "contiguous", 17, 6),
        (torch.bfloat16, "channels_last", 4, 0),
        (torch.bfloat16, "batch_first", 3, 0),
    ],
)
def test_rows_of_16_bytes(dtype, layout, steps, noise_step, monkeypatch):
    """Several neurons a thread: one span, only whole ones, and others; several programs, the last not full."""
    monkeypatch.setattr(engine, "INTERPRETED_BLOCK", 64)
    x, grad = (lay(torch.randn(steps, 3, 32, 3, 3), layout).to(dtype) for _ in range(2))
    constants = {**EVERYTHING, "noise_step": noise_step}
    assert_agrees(Case(x, None, constants, grad, None, 2.0), "triton")
    assert_agrees(Case(x, torch.randn(x.shape[1:]), constants, grad, torch.randn(x.shape[1:]), 2.0), "triton")


def test_what_is_not_aligned_is_moved_by_single_neurons():
    x, grad = torch.randn(2, 4 * 64 + 1)[:, 1:].unflatten(1, (4, 64))
    assert x.data_ptr() % 16
    assert_agrees(Case(x, None, EVERYTHING, grad, None, 1.0), "triton")
    assert_agrees(Case(x.clone(), None, EVERYTHING, grad, None, 1.0), "triton")
