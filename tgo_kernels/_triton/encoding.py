"""Poisson encoding: the operator ``poisson_spikes`` (see :mod:`tgo_kernels.encoding`) for GPUs."""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from tgo_kernels import noise
from tgo_kernels._triton.draw import counter_of, draw
from tgo_kernels._triton.launch import (
    DTYPES,
    INTERPRETED,
    INTERPRETED_BLOCK,
    OPTIONS,
    ROW_BYTES,
    WARP_SIZE,
    known_flags,
)
from tgo_kernels._triton.math import MEMBRANE
from tgo_kernels._triton.rows import apart, place_of, store_rows, value_of, word_of, words_of
from tgo_kernels.layout import Layout, arrange, in_steps, like

CHANCES = tl.constexpr(noise.CHANCES)
SIZES = ["steps", "neurons", "first", "before", "size1", "size2", "size3", "stride0", "stride1", "stride2", "stride3"]


@triton.jit
def chances_of(value, SIGNED: tl.constexpr):
    """Below how many of the numbers, and the spike."""
    size = tl.abs(value) if SIGNED else value
    p = tl.minimum(tl.where(size > 0, size, 0.0), 1.0)  # NaN has none
    one = tl.full(value.shape, 0x3F800000, tl.uint32)
    if SIGNED:
        one |= value.to(tl.uint32, bitcast=True) & 0x80000000
    return (p * 65536.0 + 0.5).to(tl.int32), one.to(tl.float32, bitcast=True)


@triton.jit
def spike_of(number, chances):
    return tl.where(number.to(tl.int32) < chances[0], chances[1], 0.0)


@triton.jit(do_not_specialize=SIZES)
def poisson_kernel(
    x_ptr, y_ptr, seed_ptr, steps, neurons, first, before, size1, size2, size3, stride0, stride1, stride2, stride3,
    SIGNED: tl.constexpr, F: tl.constexpr,
):  # fmt: skip
    """From Philox block ``first`` on, of which so many steps lie ``before``."""
    program = tl.program_id(0).to(tl.int64)
    x_ptr, y_ptr = words_of(x_ptr, F), words_of(y_ptr, F)
    place = place_of(program, 0, neurons, steps, neurons, F)
    start, word, exists, _ = place
    x, chances = apart(tl.load(x_ptr + start + word, mask=exists)), ()
    LANES: tl.constexpr = 2 if F.count > F.words else 1
    for j in tl.static_range(F.count):
        chances = chances + (chances_of(value_of(x[j // LANES], j % LANES, F.dtype), SIGNED),)
    sizes, strides = (size1, size2, size3), (stride0, stride1, stride2, stride3)
    beginning = counter_of(program * (F.block * F.count), sizes, strides, F)
    for k in range(0, (before + steps + 3) // 4):
        counter, r0, r1, r2, r3, spikes = beginning, (), (), (), (), ()
        for j in tl.static_range(F.count):
            if j % 2 == 0 or F.permuted:
                drawn, counter = draw(seed_ptr, counter, first + k, F, CHANCES)
            a, b = drawn[0], drawn[1]
            drawn = drawn[2:] + drawn[:2]
            spikes = spikes + (
                (
                    spike_of(a & 0xFFFF, chances[j]),
                    spike_of(a >> 16, chances[j]),
                    spike_of(b & 0xFFFF, chances[j]),
                    spike_of(b >> 16, chances[j]),
                ),
            )
        for i in tl.static_range(F.words):
            low, high = spikes[i * LANES], spikes[(i + 1) * LANES - 1]
            r0 = r0 + (word_of(low[0], high[0], x[i], F.dtype),)
            r1 = r1 + (word_of(low[1], high[1], x[i], F.dtype),)
            r2 = r2 + (word_of(low[2], high[2], x[i], F.dtype),)
            r3 = r3 + (word_of(low[3], high[3], x[i], F.dtype),)
        store_rows(y_ptr, (r0, r1, r2, r3), k * 4 - before, steps, place, F)


def flags_of(dtype: torch.dtype, layout: Layout, aligned: bool, steps: int, step: int, warp_size: int) -> Any:
    """A thread has as many neighbours as 16 bytes hold, or one."""
    alignment = layout.alignment(True) if aligned else 1
    size = torch.finfo(dtype).bits // 8
    count = ROW_BYTES // size if alignment > 1 else 1
    return known_flags(
        dtype=DTYPES[dtype],
        alignment=alignment,
        permuted=layout.permuted,
        noise=MEMBRANE.value,
        whole=steps % 4 == 0 and step % 4 == 0,
        once=True,
        count=count,
        words=count * size // 4 or 1,
        block=INTERPRETED_BLOCK // count if INTERPRETED else OPTIONS["num_warps"] * warp_size,
    )


def poisson_spikes(x: Tensor, steps: int, signed: bool, seed: Tensor, step: int) -> Tensor:
    given, (x, layout) = x, arrange(x.unsqueeze(0))
    x = x[0]
    spikes = in_steps(x, steps)
    aligned = all(each.data_ptr() % ROW_BYTES == 0 for each in (x, spikes))
    flags = flags_of(x.dtype, layout, aligned, steps, step, WARP_SIZE)
    count, alignment = (each.value for each in (flags.count, flags.alignment))
    sizes = steps, layout.neurons // alignment, step // 4, step % 4, *layout.sizes, *layout.strides
    with torch.cuda.device_of(x):
        programs = triton.cdiv(layout.neurons, count * flags.block.value)
        poisson_kernel[(programs,)](x, spikes, seed, *sizes, SIGNED=signed, F=flags, **OPTIONS)
    return spikes if x.stride() == given.stride() else like(in_steps(given, steps), spikes)
