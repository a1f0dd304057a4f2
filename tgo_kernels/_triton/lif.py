"""The LIF neuron in Triton: one forward and one backward kernel, and their launchers.

A program owns BLOCK neurons and walks them through all time steps, four at a time: one Philox block serves four. The
groups of four are aligned to the noise stream, so the first and the last may be partly empty; empty steps load and
store nothing. Arithmetic is fp32 in the order of :mod:`tgo_kernels.reference`.
"""

from math import prod
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from tgo_kernels._triton.math import charge, two_normals, relu, reset, surrogate

# Contraction of a * b + c would round once instead of twice, and a membrane at its threshold would fire differently.
OPTIONS = {"enable_fp_fusion": False, "num_stages": 1}


MEMBRANE = tl.constexpr(1)  # the noise decides the spike and stays in the state
THRESHOLD = tl.constexpr(2)  # the noise only decides the spike


class Config(NamedTuple):
    block: int  # neurons of one program
    num_warps: int


CONFIGS = {
    "cuda": Config(512, 4),  # four neurons of a thread: 128 bits of fp32
    "hip": Config(1024, 4),  # the same with 64 threads in a warp
    "interpreter": Config(8192, 4),  # a program costs milliseconds, whatever its size
}
# Sizes of which nothing is known at compile time, so that a new one does not recompile.
RUNTIME = ["steps", "neurons", "inner", "noise_step", "size1", "size2", "size3", "stride0", "stride1", "stride2", "stride3"]


@triton.jit
def locate(m, steps, inner, TIME_OUTERMOST: tl.constexpr):
    """Offset of neuron ``m`` at step 0."""
    if TIME_OUTERMOST:
        return m
    return (m // inner) * inner * steps + m % inner


@triton.jit
def logical_index(m, size1, size2, size3, stride0, stride1, stride2, stride3):
    """Row-major position of neuron ``m``, by which the noise knows it."""
    rest = m // size3
    index = m % size3 * stride3 + rest % size2 * stride2
    rest = rest // size2
    return index + rest % size1 * stride1 + rest // size1 * stride0


@triton.jit
def beside(index, x):
    """``index`` as it is, held by the threads that hold ``x``: the added 0 is seen through, but only late.

    Without it the noise is computed in another layout and goes to its neurons through shared memory.
    """
    return index + ((x.to(tl.uint32, bitcast=True) & 1) >> 1)


@triton.jit
def sum_four(x):
    """Sums of four neighbours, [BLOCK] to [BLOCK / 4], each within a thread."""
    return tl.sum(tl.reshape(x, (x.shape[0] // 4, 4)), axis=1)


@triton.jit
def load_two(ptr, first, begin, end, inner, inside):
    """Rows ``first`` and ``first + 1`` of which those in ``begin <= t < end`` exist, in fp32."""
    rows = ()
    for i in tl.static_range(2):
        t = first + i
        rows = rows + (tl.load(ptr + t * inner, mask=inside & (t >= begin) & (t < end)).to(tl.float32),)
    return rows


@triton.jit(do_not_specialize=RUNTIME)
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
    SOFT: tl.constexpr,
    NOISE: tl.constexpr,
    GUARD: tl.constexpr,
    TIME_OUTERMOST: tl.constexpr,
    PERMUTED: tl.constexpr,
    ALIGNMENT: tl.constexpr,
    HAS_V_INIT: tl.constexpr,
    K: tl.constexpr,
    BLOCK: tl.constexpr,
):
    program = tl.program_id(0).to(tl.int64)
    inner = inner.to(tl.int64) * ALIGNMENT
    start = program * BLOCK
    lane = tl.arange(0, BLOCK)
    m = start + lane  # [BLOCK] place in memory order
    inside = lane < tl.minimum(neurons - start // ALIGNMENT, BLOCK).to(tl.int32) * ALIGNMENT
    neurons = neurons.to(tl.int64) * ALIGNMENT
    offset = locate(m, steps, inner, TIME_OUTERMOST)
    phase = 0
    if NOISE != 0:
        if PERMUTED:
            index = logical_index(m, size1, size2, size3, stride0, stride1, stride2, stride3)
            low, high = index.to(tl.uint32), (index >> 32).to(tl.uint32)
        else:
            low, high = start.to(tl.uint32) + lane.to(tl.uint32), (start >> 32).to(tl.uint32)
        phase = noise_step % 2
    if HAS_V_INIT:
        v = tl.load(v_init_ptr + m, mask=inside)
    else:
        v = tl.full((BLOCK,), v_rest, tl.float32)

    penalty = tl.zeros((BLOCK // 4,), tl.float64)  # terms are multiples of one fp32 ulp: exact in any order
    near = tl.zeros((BLOCK // 4,), tl.int32)
    fired = tl.zeros((BLOCK // 4,), tl.int32)
    c = tl.zeros((BLOCK,), tl.uint32)
    d = tl.zeros((BLOCK,), tl.uint32)
    for first in range(-phase, steps, 2):
        if NOISE != 0:
            step = noise_step + first
            renew = (step % 4 == 0) | (first <= 0)
            xi0, xi1, c, d = two_normals(seed_ptr, beside(low, v), high, step, renew, c, d)
            xi = (xi0, xi1)
        x = load_two(x_ptr + offset, first, 0, steps, inner, inside)
        saved = v
        for i in tl.static_range(2):
            t = first + i
            live = (t >= 0) & (t < steps)
            h = charge(v, x[i], decay, gain, leak_bias)
            u = h
            if NOISE != 0:
                u = h + noise_std * xi[i]
            s = u >= v_threshold
            tl.store(spikes_ptr + offset + t * inner, s.to(spikes_ptr.dtype.element_ty), mask=inside & live)
            v = tl.where(live, reset(s, h if NOISE == THRESHOLD else u, v_threshold, v_rest, SOFT), v)
            code = tl.where(s & live & inside, 1, 0)
            if GUARD:
                distance = tl.abs(h - v_threshold)
                depth = tl.where(live & inside, relu(guard_margin - distance), 0.0).to(tl.float64)
                code += tl.where((distance < guard_margin) & live & inside, 65536, 0)
                penalty += sum_four(depth)
            code = sum_four(code)
            fired += code & 65535
            if GUARD:
                near += code >> 16
            if K > 0:
                saved = tl.where((t + 1) % 2 == 0, v, saved)
        if K > 0:
            done = (first + 2) // 2 * 2  # steps done at the last multiple of two, a candidate for a checkpoint
            row = (done // K - 1).to(tl.int64)
            tl.store(checkpoints_ptr + row * neurons + m, saved, mask=inside & (done > 0) & (done % K == 0) & (done < steps))

    tl.store(v_final_ptr + m, v, mask=inside)
    tl.store(counts_ptr + program, tl.sum(fired.to(tl.int64)))
    if GUARD:
        tl.store(counts_ptr + tl.num_programs(0) + program, tl.sum(near.to(tl.int64)))
        tl.store(penalty_ptr + program, tl.sum(penalty))


@triton.jit
def note(pulls, distance, guard_margin, BIT: tl.constexpr):
    pull = tl.where(distance > 0, BIT, tl.where(distance < 0, 2 * BIT, 0))
    return pulls + tl.where(tl.abs(distance) < guard_margin, pull, 0)


@triton.jit
def two_steps(
    v,
    c,
    d,
    pulls,
    x_ptr,
    first,
    begin,
    end,
    inner,
    inside,
    seed_ptr,
    low,
    high,
    step,
    neuron,
    guard_margin,
    renew,
    SECOND: tl.constexpr,
    SOFT: tl.constexpr,
    NOISE: tl.constexpr,
    GUARD: tl.constexpr,
):
    """The state after steps ``first`` and ``first + 1``, and the membranes of both, before and after the noise."""
    decay, gain, leak_bias, v_threshold, v_rest, noise_std = neuron
    if NOISE != 0:
        xi0, xi1, c, d = two_normals(seed_ptr, beside(low, v), high, step, renew, c, d)
        xi = (xi0, xi1)
    h0 = v
    u0 = v
    h1 = v
    u1 = v
    if (first + 1 >= begin) & (first < end):
        x = load_two(x_ptr, first, begin, end, inner, inside)
        if first >= begin:
            h0 = charge(v, x[0], decay, gain, leak_bias)
            u0 = h0
            if NOISE != 0:
                u0 = h0 + noise_std * xi[0]
            v = reset(u0 >= v_threshold, h0 if NOISE == THRESHOLD else u0, v_threshold, v_rest, SOFT)
            if GUARD:
                pulls = note(pulls, h0 - v_threshold, guard_margin, 1 << (4 * SECOND))
        if first + 1 < end:
            h1 = charge(v, x[1], decay, gain, leak_bias)
            u1 = h1
            if NOISE != 0:
                u1 = h1 + noise_std * xi[1]
            v = reset(u1 >= v_threshold, h1 if NOISE == THRESHOLD else u1, v_threshold, v_rest, SOFT)
            if GUARD:
                pulls = note(pulls, h1 - v_threshold, guard_margin, 4 << (4 * SECOND))
    hs = (h0, h1)
    us = (u0, u1)
    return v, c, d, pulls, hs, us


@triton.jit
def two_steps_back(
    g_v,
    pulls,
    hs,
    us,
    g_spikes_ptr,
    g_x_ptr,
    first,
    steps,
    inner,
    inside,
    neuron,
    k,
    curve_height,
    curve_scale,
    SECOND: tl.constexpr,
    SOFT: tl.constexpr,
    NOISE: tl.constexpr,
    GUARD: tl.constexpr,
    CURVE: tl.constexpr,
    SURROGATE_AT_H: tl.constexpr,
    DETACH_RESET: tl.constexpr,
    HAS_G_SPIKES: tl.constexpr,
    HAS_G_V_FINAL: tl.constexpr,
):
    decay, gain, leak_bias, v_threshold, v_rest, noise_std = neuron
    if HAS_G_SPIKES:
        g_s = load_two(g_spikes_ptr, first, 0, steps, inner, inside)
    for i in tl.static_range(1, -1, -1):
        t = first + i
        h = hs[i]
        u = us[i]
        if (t >= 0) & (t < steps):
            last = t == steps - 1
            g_h = g_v if SOFT else tl.where(u >= v_threshold, 0.0, g_v)
            if HAS_G_SPIKES or not DETACH_RESET:
                ds = tl.zeros_like(g_v)
                if not DETACH_RESET:
                    ds = g_v * (-v_threshold if SOFT else v_rest - (h if NOISE == THRESHOLD else u))
                    if not HAS_G_V_FINAL:  # no gradient at all, which is not a zero times an infinite membrane
                        ds = tl.where(last, 0.0, ds)
                if HAS_G_SPIKES:
                    ds = g_s[i] + ds
                g_u = ds * surrogate((h if SURROGATE_AT_H else u) - v_threshold, curve_height, curve_scale, CURVE)
                if not HAS_G_SPIKES and not HAS_G_V_FINAL:
                    g_u = tl.where(last, 0.0, g_u)
                g_h += g_u
            if GUARD:
                pull = pulls >> (4 * SECOND + 2 * i)
                g_h -= tl.where((pull & 1) != 0, k, tl.where((pull & 2) != 0, -k, 0.0))
            tl.store(g_x_ptr + t * inner, (gain * g_h).to(g_x_ptr.dtype.element_ty), mask=inside)
            g_v = decay * g_h
    return g_v


@triton.jit(do_not_specialize=RUNTIME)
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
    SOFT: tl.constexpr,
    NOISE: tl.constexpr,
    GUARD: tl.constexpr,
    CURVE: tl.constexpr,
    SURROGATE_AT_H: tl.constexpr,
    DETACH_RESET: tl.constexpr,
    TIME_OUTERMOST: tl.constexpr,
    PERMUTED: tl.constexpr,
    ALIGNMENT: tl.constexpr,
    HAS_V_INIT: tl.constexpr,
    HAS_G_SPIKES: tl.constexpr,
    HAS_G_V_FINAL: tl.constexpr,
    HAS_G_V_INIT: tl.constexpr,
    K: tl.constexpr,
    BLOCK: tl.constexpr,
):
    program = tl.program_id(0).to(tl.int64)
    start = program * BLOCK
    lane = tl.arange(0, BLOCK)
    m = start + lane  # [BLOCK] place in memory order
    inside = lane < tl.minimum(neurons - start // ALIGNMENT, BLOCK).to(tl.int32) * ALIGNMENT
    neurons = neurons.to(tl.int64) * ALIGNMENT
    inner = inner.to(tl.int64) * ALIGNMENT
    offset = locate(m, steps, inner, TIME_OUTERMOST)
    phase = 0
    low = lane.to(tl.uint32)
    high = lane.to(tl.uint32)
    if NOISE != 0:
        if PERMUTED:
            index = logical_index(m, size1, size2, size3, stride0, stride1, stride2, stride3)
            low, high = index.to(tl.uint32), (index >> 32).to(tl.uint32)
        else:
            low, high = start.to(tl.uint32) + lane.to(tl.uint32), (start >> 32).to(tl.uint32)
        phase = noise_step % 4
    k = 0.0
    if GUARD:
        k = (tl.load(g_penalty_ptr).to(tl.float64) / (steps * neurons).to(tl.float64)).to(tl.float32)
    if HAS_G_V_FINAL:
        g_v = tl.load(g_v_final_ptr + m, mask=inside)
    else:
        g_v = tl.zeros((BLOCK,), tl.float32)
    x_ptr += offset
    g_spikes_ptr += offset
    g_x_ptr += offset
    neuron = (decay, gain, leak_bias, v_threshold, v_rest, noise_std)

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
        pulls = tl.zeros((BLOCK,), tl.int32)
        c = low
        d = low
        for t in range(origin - phase % 2, first, 2):
            step = noise_step + t
            v, c, d, _, _, _ = two_steps(
                v, c, d, pulls, x_ptr, t, origin, steps, inner, inside, seed_ptr, low, high, step, neuron, guard_margin, (step % 4 == 0) | (t <= origin), False, SOFT, NOISE, False
            )
        step = noise_step + first
        v, c, d, pulls, hs, us = two_steps(
            v, low, low, pulls, x_ptr, first, 0, steps, inner, inside, seed_ptr, low, high, step, neuron, guard_margin, True, False, SOFT, NOISE, GUARD
        )
        if first + 2 < steps:
            v, c, d, pulls, hs2, us2 = two_steps(
                v, c, d, pulls, x_ptr, first+2, 0, steps, inner, inside, seed_ptr, low, high, step+2, neuron, guard_margin, False, True, SOFT, NOISE, GUARD
            )
            g_v = two_steps_back(
                g_v, pulls, hs2, us2, g_spikes_ptr, g_x_ptr, first + 2, steps, inner, inside, neuron, k,
                curve_height, curve_scale, True,
                SOFT, NOISE, GUARD, CURVE, SURROGATE_AT_H, DETACH_RESET, HAS_G_SPIKES, HAS_G_V_FINAL,
            )
        g_v = two_steps_back(
            g_v, pulls, hs, us, g_spikes_ptr, g_x_ptr, first, steps, inner, inside, neuron, k,
            curve_height, curve_scale, False,
            SOFT, NOISE, GUARD, CURVE, SURROGATE_AT_H, DETACH_RESET, HAS_G_SPIKES, HAS_G_V_FINAL,
        )
    if HAS_G_V_INIT:
        tl.store(g_v_init_ptr + m, g_v, mask=inside)


class Geometry(NamedTuple):
    """How a dense x lies in memory. Neurons are numbered in memory order; ``inner`` is the stride of time."""

    steps: int
    neurons: int
    inner: int
    permuted: bool
    sizes: tuple[int, int, int]  # of the three innermost neuron dimensions, merged where they lie alike in both orders
    strides: tuple[int, int, int, int]  # between logical indices, along four dimensions

    @property
    def alignment(self) -> int:
        """Neurons that are sure to lie together: it allows vector loads, and is all that is compiled in about sizes."""
        return 16 if self.neurons % 16 == 0 and self.inner % 16 == 0 else 1


def geometry(x: Tensor) -> Geometry | None:
    """The geometry of x, or None if it has holes, overlaps, or more than four neuron dimensions of different order."""
    steps, neurons = x.shape[0], x.numel() // x.shape[0]
    logical = {d: prod(x.shape[d + 1 :]) for d in range(1, x.dim())}
    order = sorted((d for d in range(x.dim()) if x.shape[d] > 1), key=x.stride, reverse=True)
    expected, merged = x.numel(), []
    for d in order:
        expected //= x.shape[d]
        if x.stride(d) != expected:
            return None
        if d == 0:
            continue
        if merged and merged[-1][1] == x.shape[d] * logical[d]:
            merged[-1] = (merged[-1][0] * x.shape[d], logical[d])
        else:
            merged.append((x.shape[d], logical[d]))
    if len(merged) > 4:
        return None
    merged = [(1, 0)] * (4 - len(merged)) + merged
    sizes, strides = zip(*merged, strict=True)
    permuted = strides[:3] != (0, 0, 0)
    return Geometry(steps, neurons, neurons if steps == 1 else x.stride(0), permuted, sizes[1:], strides)


def arrange(x: Tensor) -> tuple[Tensor, Geometry]:
    """x in a layout that the kernels can walk: as it lies, or copied once."""
    found = geometry(x)
    if found is None:
        x = torch.empty_like(x).copy_(x)
        found = geometry(x)
    if found is None:
        x = x.contiguous()
        found = geometry(x)
    assert found is not None
    return x, found


def like(layout: Tensor, x: Tensor) -> Tensor:
    """x, copied into the layout of another tensor of its shape if it lies differently."""
    same = all(n == 1 or a == b for n, a, b in zip(x.shape, x.stride(), layout.stride(), strict=True))
    return x if same else torch.empty_like(layout, dtype=x.dtype).copy_(x)


INTERPRETED = not isinstance(lif_fwd_kernel, triton.JITFunction)


def config() -> Config:
    if INTERPRETED:
        return CONFIGS["interpreter"]
    return CONFIGS["hip" if torch.version.hip else "cuda"]


def lif_fwd(
    x, v_init, seed, noise_step, checkpoint_every, decay, gain, leak_bias, v_threshold, v_rest, soft_reset,
    noise_std, noise_in_membrane, guard_margin, curve, curve_height, curve_scale, surrogate_at_h, detach_reset
):
    dense, g = arrange(x)
    spikes = torch.empty_like(dense)
    v_final = torch.empty_like(dense[0], dtype=torch.float32)
    rows = (g.steps - 1) // checkpoint_every if checkpoint_every else 0
    checkpoints = torch.empty(rows, g.neurons, dtype=torch.float32, device=x.device)
    block, num_warps = config()
    programs = triton.cdiv(g.neurons, block)
    counts = torch.zeros(2, programs, dtype=torch.int64, device=x.device)
    depths = torch.zeros(programs, dtype=torch.float64, device=x.device)
    if programs:
        lif_fwd_kernel[(programs,)](
            dense, None if v_init is None else like(v_final, v_init), seed, spikes, v_final, checkpoints, depths, counts,
            g.steps, g.neurons // g.alignment, g.inner // g.alignment, noise_step, *g.sizes, *g.strides,
            decay, gain, leak_bias, v_threshold, v_rest, noise_std, guard_margin,
            SOFT=soft_reset, NOISE=0 if noise_std == 0 else 1 if noise_in_membrane else 2, GUARD=guard_margin > 0,
            TIME_OUTERMOST=g.inner == g.neurons, PERMUTED=g.permuted, ALIGNMENT=g.alignment,
            HAS_V_INIT=v_init is not None, K=checkpoint_every if rows else 0, BLOCK=block, num_warps=num_warps, **OPTIONS)
    penalty = (depths.sum() / max(x.numel(), 1)).float()
    return spikes, v_final, penalty, counts[1].sum(), counts[0].sum(), checkpoints


def lif_bwd(
    x, v_init, seed, noise_step, checkpoint_every, checkpoints, g_spikes, g_v_final, g_penalty, need_g_v_init,
    decay, gain, leak_bias, v_threshold, v_rest, soft_reset,
    noise_std, noise_in_membrane, guard_margin, curve, curve_height, curve_scale, surrogate_at_h, detach_reset
):
    dense, g = arrange(x)
    g_x = torch.empty_like(dense, dtype=torch.float32 if INTERPRETED else x.dtype)
    state = torch.empty_like(dense[0], dtype=torch.float32)
    g_v_init = torch.empty_like(state) if need_g_v_init else state.new_empty(0)
    block, num_warps = config()
    programs = triton.cdiv(g.neurons, block)
    if programs:
        lif_bwd_kernel[(programs,)](
            dense, None if v_init is None else like(state, v_init), seed, checkpoints,
            None if g_spikes is None else like(dense, g_spikes), None if g_v_final is None else like(state, g_v_final),
            g_penalty, g_x, g_v_init,
            g.steps, g.neurons // g.alignment, g.inner // g.alignment, noise_step, *g.sizes, *g.strides,
            decay, gain, leak_bias, v_threshold, v_rest, noise_std, guard_margin, curve_height, curve_scale,
            SOFT=soft_reset, NOISE=0 if noise_std == 0 else 1 if noise_in_membrane else 2, GUARD=g_penalty is not None and guard_margin > 0,
            CURVE=curve, SURROGATE_AT_H=surrogate_at_h, DETACH_RESET=detach_reset,
            TIME_OUTERMOST=g.inner == g.neurons, PERMUTED=g.permuted, ALIGNMENT=g.alignment,
            HAS_V_INIT=v_init is not None, HAS_G_SPIKES=g_spikes is not None, HAS_G_V_FINAL=g_v_final is not None,
            HAS_G_V_INIT=need_g_v_init, K=checkpoint_every or 1<<30, BLOCK=block, num_warps=num_warps, **OPTIONS)
    return g_x.to(x.dtype), g_v_init
