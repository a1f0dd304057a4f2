"""The LIF neuron in Triton: one forward and one backward kernel, and their launchers.

A program owns BLOCK neurons and walks them through time, two steps at once, since the noise comes in pairs; pairs are
aligned to the noise stream. A step that does not exist is skipped by a branch that all threads take alike, which also
keeps the compiler from computing everything at once and running out of registers. All sizes are run-time arguments.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from tgo_kernels._triton.layout import Layout, arrange, like
from tgo_kernels._triton.math import (
    MEMBRANE,
    NO_NOISE,
    THRESHOLD,
    one_step,
    one_step_back,
    relu,
    surrogate,
    two_normals,
)

SIZES = [
    "steps",
    "neurons",
    "inner",
    "noise_step",
    "size1",
    "size2",
    "size3",
    "stride0",
    "stride1",
    "stride2",
    "stride3",
]


@triton.jit
def block_of(start, steps, neurons, inner, ALIGNMENT: tl.constexpr, TIME_OUTERMOST: tl.constexpr, BLOCK: tl.constexpr):
    """The neurons from ``start`` on, in the order of memory: where each lies at step 0, and the place of all in a row.

    N and inner come in units of ALIGNMENT, so that the compiler sees its multiples. A place is the lanes, how many of
    them are neurons, and the distance from one step to the next.
    """
    lane = tl.arange(0, BLOCK)
    m = start + lane
    limit = tl.minimum(neurons - start // ALIGNMENT, BLOCK).to(tl.int32) * ALIGNMENT
    inner = inner.to(tl.int64) * ALIGNMENT
    offset = m if TIME_OUTERMOST else (m // inner) * inner * steps + m % inner
    return m, offset, (lane, limit, inner)


@triton.jit
def counter_of(start, lane, sizes, strides, PERMUTED: tl.constexpr):
    """Low and high word of the logical index of neuron start + lane, by which the noise knows it."""
    if PERMUTED:
        m = start + lane
        index = m % sizes[2] * strides[3]
        m = m // sizes[2]
        index += m % sizes[1] * strides[2]
        m = m // sizes[1]
        index += m % sizes[0] * strides[1] + m // sizes[0] * strides[0]
        return index.to(tl.uint32), (index >> 32).to(tl.uint32)
    else:
        return start.to(tl.uint32) + lane.to(tl.uint32), (start >> 32).to(tl.uint32)


@triton.jit
def beside(index, v):
    """``index`` as it is, held by the threads that hold ``v``: the added zero is seen through, but late.

    Without it the noise would be computed in another layout and brought to its neurons through shared memory.
    """
    return index + ((v.to(tl.uint32, bitcast=True) & 1) >> 1)


@triton.jit
def load_two(ptr, t, begin, end, place):
    """Rows ``t`` and ``t + 1`` in fp32, those within ``begin <= t < end``."""
    lane, limit, inner = place
    limit0 = tl.where((t >= begin) & (t < end), limit, 0)
    limit1 = tl.where((t + 1 >= begin) & (t + 1 < end), limit, 0)
    row0 = tl.load(ptr + t * inner, mask=lane < limit0).to(tl.float32)
    row1 = tl.load(ptr + (t + 1) * inner, mask=lane < limit1).to(tl.float32)
    return row0, row1


@triton.jit
def sum_four(x):
    """Sums of four neighbours, which one thread holds: [BLOCK] to [BLOCK / 4]."""
    return tl.sum(tl.reshape(x, (x.shape[0] // 4, 4)), axis=1)


@triton.jit(do_not_specialize=SIZES)
def lif_fwd_kernel(
    x_ptr,
    v_init_ptr,
    seed_ptr,
    spikes_ptr,
    v_final_ptr,
    checkpoints_ptr,
    penalty_ptr,
    counts_ptr,
    steps,
    neurons,
    inner,
    noise_step,
    size1,
    size2,
    size3,
    stride0,
    stride1,
    stride2,
    stride3,
    decay,
    gain,
    leak_bias,
    v_threshold,
    v_rest,
    noise_std,
    guard_margin,
    ALIGNMENT: tl.constexpr,
    TIME_OUTERMOST: tl.constexpr,
    PERMUTED: tl.constexpr,
    HAS_V_INIT: tl.constexpr,
    SOFT: tl.constexpr,
    NOISE: tl.constexpr,
    GUARD: tl.constexpr,
    K: tl.constexpr,
    BLOCK: tl.constexpr,
):
    program = tl.program_id(0).to(tl.int64)
    start = program * BLOCK
    m, offset, place = block_of(start, steps, neurons, inner, ALIGNMENT, TIME_OUTERMOST, BLOCK)
    lane, limit, inner = place
    inside = lane < limit
    neuron = (decay, gain, leak_bias, v_threshold, v_rest, noise_std)
    low, high = counter_of(start, lane, (size1, size2, size3), (stride0, stride1, stride2, stride3), PERMUTED)
    noise_step = noise_step.to(tl.int64)
    odd = 0
    if NOISE != NO_NOISE:
        odd = (noise_step % 2).to(tl.int32)
    if HAS_V_INIT:
        v = tl.load(v_init_ptr + m, mask=inside)
    else:
        v = tl.full((BLOCK,), v_rest, tl.float32)

    # Each term is a multiple of one fp32 ulp, so that a sum in fp64 is exact, whatever its order.
    penalty = tl.zeros((BLOCK // 4,), tl.float64)
    near = tl.zeros((BLOCK // 4,), tl.int32)
    fired = tl.zeros((BLOCK // 4,), tl.int32)
    c = low
    d = low
    for pair in range(-odd, steps, 2):
        xi = (v, v)
        if NOISE != NO_NOISE:
            step = noise_step + pair
            renew = (step % 4 == 0) | (pair <= 0)
            xi0, xi1, c, d = two_normals(seed_ptr, beside(low, v), high, step, renew, c, d)
            xi = (xi0, xi1)
        else:
            x = load_two(x_ptr + offset, pair, 0, steps, place)
        for i in tl.static_range(2):
            t = pair + i
            if (t >= 0) & (t < steps):
                if NOISE != NO_NOISE:  # late: until here the noise needs the registers
                    x_t = tl.load(x_ptr + offset + t * inner, mask=inside).to(tl.float32)
                else:
                    x_t = x[i]
                v, s, h, _ = one_step(v, x_t, xi[i], neuron, SOFT, NOISE)
                tl.store(
                    spikes_ptr + offset + t * inner, tl.where(s, 1.0, 0.0).to(spikes_ptr.dtype.element_ty), mask=inside
                )
                fired += sum_four((s & inside).to(tl.int32))
                if GUARD:
                    distance = tl.abs(h - v_threshold)
                    near += sum_four(((distance < guard_margin) & inside).to(tl.int32))
                    penalty += sum_four(tl.where(inside, relu(guard_margin - distance), 0.0).to(tl.float64))
                if K > 0:  # noqa: SIM102 (K is a constant)
                    if ((t + 1) % K == 0) & (t + 1 < steps):
                        row = ((t + 1) // K - 1).to(tl.int64)
                        tl.store(checkpoints_ptr + row * neurons * ALIGNMENT + m, v, mask=inside)

    tl.store(v_final_ptr + m, v, mask=inside)
    tl.store(counts_ptr + program, tl.sum(fired.to(tl.int64)))
    if GUARD:
        tl.store(counts_ptr + tl.num_programs(0) + program, tl.sum(near.to(tl.int64)))
        tl.store(penalty_ptr + program, tl.sum(penalty))


@triton.jit
def two_steps(
    v,
    c,
    d,
    x_ptr,
    pair,
    begin,
    end,
    place,
    seed_ptr,
    low,
    high,
    step,
    renew,
    neuron,
    SOFT: tl.constexpr,
    NOISE: tl.constexpr,
):
    """Steps ``pair`` and ``pair + 1``: the state after them, and the membranes of each before and after the noise."""
    xi0, xi1 = v, v
    if NOISE != NO_NOISE:
        xi0, xi1, c, d = two_normals(seed_ptr, beside(low, v), high, step, renew, c, d)
    h0, u0, h1, u1 = v, v, v, v
    x0, x1 = load_two(x_ptr, pair, begin, end, place)
    if (pair >= begin) & (pair < end):
        v, _, h0, u0 = one_step(v, x0, xi0, neuron, SOFT, NOISE)
    if (pair + 1 >= begin) & (pair + 1 < end):
        v, _, h1, u1 = one_step(v, x1, xi1, neuron, SOFT, NOISE)
    return v, c, d, (h0, h1), (u0, u1)


@triton.jit
def two_steps_back(
    g_v,
    h,
    u,
    g_spikes_ptr,
    g_x_ptr,
    pair,
    steps,
    place,
    constants,
    curve,
    HAS_G_SPIKES: tl.constexpr,
    SOFT: tl.constexpr,
    NOISE: tl.constexpr,
    GUARD: tl.constexpr,
    CURVE: tl.constexpr,
    SURROGATE_AT_H: tl.constexpr,
    DETACH_RESET: tl.constexpr,
):
    """The reverse of both steps: writes their g_x and returns dL/dv before them."""
    decay, gain, v_threshold, v_rest, guard_margin, k = constants
    curve_height, curve_scale = curve
    lane, limit, inner = place
    if HAS_G_SPIKES:
        g_s = load_two(g_spikes_ptr, pair, 0, steps, place)
    for i in tl.static_range(1, -1, -1):
        t = pair + i
        if (t >= 0) & (t < steps):
            g_h, ds = one_step_back(g_v, h[i], u[i], v_threshold, v_rest, SOFT, NOISE, DETACH_RESET)
            if HAS_G_SPIKES:
                ds = g_s[i] + ds
            if HAS_G_SPIKES or not DETACH_RESET:
                z = surrogate((h[i] if SURROGATE_AT_H else u[i]) - v_threshold, curve_height, curve_scale, CURVE)
                g_h += tl.where(ds == 0, ds, ds * z)  # z of a NaN membrane is NaN
            if GUARD:
                distance = h[i] - v_threshold
                pull = tl.where(distance > 0, k, tl.where(distance < 0, -k, 0.0))
                g_h -= tl.where(tl.abs(distance) < guard_margin, pull, 0.0)
            tl.store(g_x_ptr + t * inner, (gain * g_h).to(g_x_ptr.dtype.element_ty), mask=lane < limit)
            g_v = decay * g_h
    return g_v


@triton.jit(do_not_specialize=SIZES)
def lif_bwd_kernel(
    x_ptr,
    v_init_ptr,
    seed_ptr,
    checkpoints_ptr,
    g_spikes_ptr,
    g_v_final_ptr,
    g_penalty_ptr,
    g_x_ptr,
    g_v_init_ptr,
    steps,
    neurons,
    inner,
    noise_step,
    size1,
    size2,
    size3,
    stride0,
    stride1,
    stride2,
    stride3,
    decay,
    gain,
    leak_bias,
    v_threshold,
    v_rest,
    noise_std,
    guard_margin,
    curve_height,
    curve_scale,
    ALIGNMENT: tl.constexpr,
    TIME_OUTERMOST: tl.constexpr,
    PERMUTED: tl.constexpr,
    HAS_V_INIT: tl.constexpr,
    HAS_G_SPIKES: tl.constexpr,
    HAS_G_V_FINAL: tl.constexpr,
    HAS_G_V_INIT: tl.constexpr,
    SOFT: tl.constexpr,
    NOISE: tl.constexpr,
    GUARD: tl.constexpr,
    CURVE: tl.constexpr,
    SURROGATE_AT_H: tl.constexpr,
    DETACH_RESET: tl.constexpr,
    K: tl.constexpr,
    BLOCK: tl.constexpr,
):
    start = tl.program_id(0).to(tl.int64) * BLOCK
    m, offset, place = block_of(start, steps, neurons, inner, ALIGNMENT, TIME_OUTERMOST, BLOCK)
    lane, limit, inner = place
    inside = lane < limit
    neurons = neurons.to(tl.int64) * ALIGNMENT
    neuron = (decay, gain, leak_bias, v_threshold, v_rest, noise_std)
    low, high = counter_of(start, lane, (size1, size2, size3), (stride0, stride1, stride2, stride3), PERMUTED)
    noise_step = noise_step.to(tl.int64)
    phase = 0
    if NOISE != NO_NOISE:
        phase = (noise_step % 4).to(tl.int32)
    k = 0.0
    if GUARD:
        k = (tl.load(g_penalty_ptr).to(tl.float64) / (steps * neurons).to(tl.float64)).to(tl.float32)
    constants = (decay, gain, v_threshold, v_rest, guard_margin, k)
    curve = (curve_height, curve_scale)
    if HAS_G_V_FINAL:
        g_v = tl.load(g_v_final_ptr + m, mask=inside)
    else:
        g_v = tl.zeros((BLOCK,), tl.float32)
    x_ptr += offset
    g_x_ptr += offset
    if HAS_G_SPIKES:
        g_spikes_ptr += offset

    # From the last four steps to the first: forward to them from the state saved before, keep them, and back.
    fours = (phase + steps + 3) // 4
    for four in range(fours):
        first = (fours - 1 - four) * 4 - phase
        origin = tl.maximum(first, 0) // K * K
        if origin > 0:
            v = tl.load(checkpoints_ptr + (origin // K - 1) * neurons + m, mask=inside)
        elif HAS_V_INIT:
            v = tl.load(v_init_ptr + m, mask=inside)
        else:
            v = tl.full((BLOCK,), v_rest, tl.float32)
        c, d = low, low
        for pair in range(origin - phase % 2, first, 2):
            step = noise_step + pair
            renew = (step % 4 == 0) | (pair <= origin)
            v, c, d, _, _ = two_steps(
                v, c, d, x_ptr, pair, origin, steps, place, seed_ptr, low, high, step, renew, neuron, SOFT, NOISE
            )
        step = noise_step + first
        v, c, d, h, u = two_steps(
            v, c, d, x_ptr, first, 0, steps, place, seed_ptr, low, high, step, True, neuron, SOFT, NOISE
        )
        if first + 2 < steps:
            v, c, d, h_late, u_late = two_steps(
                v, c, d, x_ptr, first + 2, 0, steps, place, seed_ptr, low, high, step, False, neuron, SOFT, NOISE
            )
            g_v = two_steps_back(
                g_v, h_late, u_late, g_spikes_ptr, g_x_ptr, first + 2, steps, place, constants, curve,
                HAS_G_SPIKES, SOFT, NOISE, GUARD, CURVE, SURROGATE_AT_H, DETACH_RESET,
            )  # fmt: skip
        g_v = two_steps_back(
            g_v, h, u, g_spikes_ptr, g_x_ptr, first, steps, place, constants, curve,
            HAS_G_SPIKES, SOFT, NOISE, GUARD, CURVE, SURROGATE_AT_H, DETACH_RESET,
        )  # fmt: skip
    if HAS_G_V_INIT:
        tl.store(g_v_init_ptr + m, g_v, mask=inside)


# Contracted, a * b + c rounds once instead of twice, and a membrane at its threshold fires differently.
OPTIONS = {"enable_fp_fusion": False, "num_stages": 1}
NUM_WARPS = 4
NEURONS_PER_THREAD = {
    "forward": 4,  # 128 bits of fp32, and what sum_four expects
    "backward": 4,
    "noisy backward": 2,  # four would take 80 to 110 registers
}
INTERPRETED = not isinstance(lif_fwd_kernel, triton.JITFunction)
NEVER = 2**30  # a checkpoint


def block_size(what: str, warp_size: int) -> int:
    return NEURONS_PER_THREAD[what] * NUM_WARPS * warp_size


def lif_fwd(
    x: Tensor, v_init: Tensor | None, seed: Tensor | None, noise_step: int, checkpoint_every: int, *scalars: Any
) -> tuple[Tensor, ...]:
    """The operator ``lif_fwd_triton`` (see :mod:`tgo_kernels.ops`)."""
    *constants, soft, noise_std, noise_in_membrane, guard_margin, _, _, _, _, _ = scalars
    if checkpoint_every not in (0, 8):
        raise ValueError(f"checkpoint_every must be 0 or 8, got {checkpoint_every}")
    dense, layout = arrange(x)
    spikes, v_final = torch.empty_like(dense), torch.empty_like(dense[0], dtype=torch.float32)
    rows = (layout.steps - 1) // checkpoint_every if checkpoint_every else 0
    checkpoints = x.new_empty(rows * layout.neurons, dtype=torch.float32)
    block, programs = _grid("forward", layout)
    counts = x.new_empty((2, programs), dtype=torch.int64)
    penalties = x.new_empty(programs, dtype=torch.float64)
    guard = guard_margin > 0 and programs > 0
    if programs:
        with torch.cuda.device_of(x):
            lif_fwd_kernel[(programs,)](
                dense,
                None if v_init is None else like(v_final, v_init),
                seed,
                spikes,
                v_final,
                checkpoints,
                penalties,
                counts,
                *_sizes(layout, noise_step),
                *constants,
                noise_std,
                guard_margin,
                *_layout_flags(layout, noise_std),
                HAS_V_INIT=v_init is not None,
                SOFT=soft,
                NOISE=_noise_mode(noise_std, noise_in_membrane),
                GUARD=guard,
                K=checkpoint_every,
                BLOCK=block,
                num_warps=NUM_WARPS,
                **OPTIONS,
            )
    fired = counts[0].sum()
    if guard:
        neighbors, penalty = counts[1].sum(), (penalties.sum() / x.numel()).float()
    else:
        neighbors, penalty = torch.zeros_like(fired), x.new_zeros((), dtype=torch.float32)
    if dense is not x:
        spikes = like(torch.empty_like(x), spikes)
        v_final = like(spikes[0], v_final)
    return spikes, v_final, penalty, neighbors, fired, checkpoints


def lif_bwd(
    x: Tensor,
    v_init: Tensor | None,
    seed: Tensor | None,
    noise_step: int,
    checkpoint_every: int,
    checkpoints: Tensor,
    g_spikes: Tensor | None,
    g_v_final: Tensor | None,
    g_penalty: Tensor | None,
    need_g_v_init: bool,
    *scalars: Any,
) -> tuple[Tensor, Tensor]:
    """The operator ``lif_bwd_triton`` (see :mod:`tgo_kernels.ops`)."""
    *constants, soft, noise_std, noise_in_membrane, guard_margin, curve, height, scale, at_h, detach_reset = scalars
    dense, layout = arrange(x)
    # The interpreter does not round fp32 to the nearest bf16; torch does.
    g_x = torch.empty_like(dense, dtype=torch.float32 if INTERPRETED else x.dtype)
    state = torch.empty_like(dense[0], dtype=torch.float32)
    g_v_init = state if need_g_v_init else x.new_empty(0, dtype=torch.float32)
    block, programs = _grid("noisy backward" if noise_std > 0 else "backward", layout)
    if programs:
        with torch.cuda.device_of(x):
            lif_bwd_kernel[(programs,)](
                dense,
                None if v_init is None else like(state, v_init),
                seed,
                checkpoints,
                None if g_spikes is None else like(dense, g_spikes),
                None if g_v_final is None else like(state, g_v_final),
                g_penalty,
                g_x,
                g_v_init,
                *_sizes(layout, noise_step),
                *constants,
                noise_std,
                guard_margin,
                height,
                scale,
                *_layout_flags(layout, noise_std),
                HAS_V_INIT=v_init is not None,
                HAS_G_SPIKES=g_spikes is not None,
                HAS_G_V_FINAL=g_v_final is not None,
                HAS_G_V_INIT=need_g_v_init,
                SOFT=soft,
                NOISE=_noise_mode(noise_std, noise_in_membrane),
                GUARD=g_penalty is not None and guard_margin > 0,
                CURVE=curve,
                SURROGATE_AT_H=at_h,
                DETACH_RESET=detach_reset,
                K=checkpoint_every or NEVER,
                BLOCK=block,
                num_warps=NUM_WARPS,
                **OPTIONS,
            )
    g_x = g_x.to(x.dtype)
    if dense is not x:
        g_x = like(torch.empty_like(x), g_x)
        g_v_init = like(g_x[0], g_v_init) if need_g_v_init else g_v_init
    return g_x, g_v_init


def _grid(what: str, layout: Layout) -> tuple[int, int]:
    """Neurons of a program, and how many programs."""
    if INTERPRETED:  # a program costs milliseconds, whatever its size
        block = min(8192, max(4, triton.next_power_of_2(layout.neurons)))
    else:
        block = block_size(what, 64 if torch.version.hip else 32)
    return block, triton.cdiv(layout.neurons, block)


def _sizes(layout: Layout, noise_step: int) -> tuple[int, ...]:
    """The arguments named by SIZES, N and inner in units of the alignment."""
    neurons, inner = layout.neurons // layout.alignment, layout.inner // layout.alignment
    return layout.steps, neurons, inner, noise_step, *layout.sizes, *layout.strides


def _layout_flags(layout: Layout, noise_std: float) -> tuple[int, bool, bool]:
    """ALIGNMENT, TIME_OUTERMOST and PERMUTED."""
    return layout.alignment, layout.inner == layout.neurons, layout.permuted and noise_std > 0


def _noise_mode(noise_std: float, noise_in_membrane: bool) -> int:
    return (MEMBRANE if noise_in_membrane else THRESHOLD).value if noise_std > 0 else NO_NOISE.value
