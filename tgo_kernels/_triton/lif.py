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

from tgo_kernels._triton.math import charge, four_normals, relu, reset, surrogate

# Contraction of a * b + c would round once instead of twice, and a membrane at its threshold would fire differently.
OPTIONS = {"enable_fp_fusion": False, "num_stages": 1}


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
def logical_index(m, size1, size2, size3, stride0, stride1, stride2, stride3, PERMUTED: tl.constexpr):
    """Row-major position of neuron ``m``, by which the noise knows it."""
    if not PERMUTED:
        return m
    rest = m // size3
    index = m % size3 * stride3 + rest % size2 * stride2
    rest = rest // size2
    return index + rest % size1 * stride1 + rest // size1 * stride0


@triton.jit
def beside(index, x):
    """``index`` as it is, held by the threads that hold ``x``: the added 0 is seen through, but only late.

    Without it the noise is computed in another layout and goes to its neurons through shared memory.
    """
    return index + ((x.to(tl.int32, bitcast=True) & 1) >> 1)


@triton.jit
def load_four(ptr, first, begin, end, inner, inside):
    """Rows ``first .. first + 3`` of which those in ``begin <= t < end`` exist, in fp32."""
    rows = ()
    for i in tl.static_range(4):
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
    NOISE_IN_MEMBRANE: tl.constexpr,
    GUARD: tl.constexpr,
    TIME_OUTERMOST: tl.constexpr,
    PERMUTED: tl.constexpr,
    ALIGNMENT: tl.constexpr,
    HAS_V_INIT: tl.constexpr,
    K: tl.constexpr,
    BLOCK: tl.constexpr,
):
    program = tl.program_id(0).to(tl.int64)
    neurons, inner = neurons * ALIGNMENT, inner.to(tl.int64) * ALIGNMENT
    m = program * BLOCK + tl.arange(0, BLOCK)  # [BLOCK] place in memory order
    inside = m < neurons
    offset = locate(m, steps, inner, TIME_OUTERMOST)
    phase = 0
    if NOISE:
        seed = tl.load(seed_ptr)
        neuron = logical_index(m, size1, size2, size3, stride0, stride1, stride2, stride3, PERMUTED)
        phase = noise_step % 4
    if HAS_V_INIT:
        v = tl.load(v_init_ptr + m, mask=inside)
    else:
        v = tl.full((BLOCK,), v_rest, tl.float32)

    penalty = tl.zeros((BLOCK,), tl.float64)  # terms are multiples of one fp32 ulp: exact in any order
    near = tl.zeros((BLOCK,), tl.int32)
    fired = tl.zeros((BLOCK,), tl.int32)
    for first in range(-phase, steps, 4):
        x = load_four(x_ptr + offset, first, 0, steps, inner, inside)
        if NOISE:
            xi = four_normals(seed, beside(neuron, x[0]), (noise_step + first) // 4)
        saved = v
        for i in tl.static_range(4):
            t = first + i
            live = (t >= 0) & (t < steps)
            h = charge(v, x[i], decay, gain, leak_bias)
            u = h
            if NOISE:
                u = h + noise_std * xi[i]
            s = u >= v_threshold
            tl.store(spikes_ptr + offset + t * inner, s.to(spikes_ptr.dtype.element_ty), mask=inside & live)
            v = tl.where(live, reset(s, u if NOISE_IN_MEMBRANE else h, v_threshold, v_rest, SOFT), v)
            fired += (s & live).to(tl.int32)
            if GUARD:
                distance = tl.abs(h - v_threshold)
                penalty += tl.where(live, relu(guard_margin - distance), 0.0).to(tl.float64)
                near += ((distance < guard_margin) & live).to(tl.int32)
            if K > 0:
                saved = tl.where((t + 1) % 4 == 0, v, saved)
        if K > 0:
            done = (first + 4) // 4 * 4  # steps done at the last multiple of four, a candidate for a checkpoint
            row = (done // K - 1).to(tl.int64)
            tl.store(checkpoints_ptr + row * neurons + m, saved, mask=inside & (done > 0) & (done % K == 0) & (done < steps))

    tl.store(v_final_ptr + m, v, mask=inside)
    tl.store(counts_ptr + program, tl.sum(tl.where(inside, fired, 0).to(tl.int64)))
    if GUARD:
        tl.store(counts_ptr + tl.num_programs(0) + program, tl.sum(tl.where(inside, near, 0).to(tl.int64)))
        tl.store(penalty_ptr + program, tl.sum(tl.where(inside, penalty, 0.0)))
