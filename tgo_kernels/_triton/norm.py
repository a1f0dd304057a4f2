"""What a batch norm needs beside a scan: sums of each channel, the line from them, and its part of x's gradient.

x is [outer, channels, inner] in memory. Where a channel's elements are side by side for long enough, a program has one
channel; else it has some columns, neighbours in a row of channels and inner, each with a sum of its own. It walks
through tiles of some rows of it: which ones, and so the order of all sums, depends on the sizes alone.
"""

import math
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from tgo_kernels._triton.launch import INTERPRETED, OPTIONS, ROW_BYTES, WARP_SIZE
from tgo_kernels._triton.rows import rounded

LONG = 8  # elements side by side that are worth a program of their channel's own
COLUMNS = 128  # of a tile at the most
TILES = 8  # that are worth a program
PROGRAMS, PARTS = 2048, 1024  # at the most, where sums are left to be added up: of all, and of a group
SUMS = {"PARTS": 128, "CHANNELS": 8}  # that are added up at once
CHANNELS = 128  # of a program that has one value of each
SIZES = ["outer", "channels", "inner", "groups", "parts", "chunks"]


@triton.jit
def tile_of(
    t, group, outer, channels, inner, chunks, BY_CHANNEL: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr
):
    """Where a tile begins, its elements' places from there, and which exist."""
    width = channels.to(tl.int64) * inner
    first = t // chunks * ROWS
    row, column = tl.arange(0, ROWS), (t % chunks).to(tl.int32) * COLUMNS + tl.arange(0, COLUMNS)
    if BY_CHANNEL:
        start, limit = group.to(tl.int64) * inner, inner
    else:
        start, limit = group.to(tl.int64) * 0, width
        column += group * COLUMNS
    exists = (row < tl.minimum(outer - first, ROWS))[:, None] & (column < limit)[None, :]
    return first * width + start, row.to(tl.int64)[:, None] * width + column[None, :], exists


@triton.jit
def sizes_of(channels, inner, ALIGN: tl.constexpr, BY_CHANNEL: tl.constexpr):
    """Of the columns of a group one comes in units of what divides it."""
    if BY_CHANNEL:
        return channels, inner * ALIGN
    else:
        return channels * ALIGN, inner


@triton.jit
def tiles_of(outer, groups, parts, chunks, ROWS: tl.constexpr):
    """A program's group, its part of it, and the tiles of that."""
    group, part = tl.program_id(0) % groups, tl.program_id(0) // groups
    tiles = (outer + ROWS - 1) // ROWS * chunks.to(tl.int64)
    return group, part, part * tiles // parts, (part + 1) * tiles // parts


@triton.jit(do_not_specialize=SIZES)
def sums_kernel(
    x_ptr, sums_ptr, outer, channels, inner, groups, parts, chunks,
    ALIGN: tl.constexpr, BY_CHANNEL: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """Sums and sums of squares of a group's channel, or columns, in a part: [2, parts, channels or columns] fp64."""
    group, part, first, last = tiles_of(outer, groups, parts, chunks, ROWS)
    channels, inner = sizes_of(channels, inner, ALIGN, BY_CHANNEL)
    total = tl.zeros((ROWS, COLUMNS), tl.float64)
    squares = tl.zeros((ROWS, COLUMNS), tl.float64)
    for t in range(first, last):
        start, at, exists = tile_of(t, group, outer, channels, inner, chunks, BY_CHANNEL, ROWS, COLUMNS)
        x = tl.load(x_ptr + start + at, mask=exists, other=0.0).to(tl.float32).to(tl.float64)
        total += x
        squares += x * x
    if BY_CHANNEL:
        ptr = sums_ptr + part.to(tl.int64) * channels + group
        tl.store(ptr, tl.sum(total))
        tl.store(ptr + parts.to(tl.int64) * channels, tl.sum(squares))
    else:
        column, width = group * COLUMNS + tl.arange(0, COLUMNS), channels.to(tl.int64) * inner
        ptr = sums_ptr + part * width + column
        tl.store(ptr, tl.sum(total, 0), mask=column < width)
        tl.store(ptr + parts * width, tl.sum(squares, 0), mask=column < width)


@triton.jit(do_not_specialize=["parts", "channels", "each", "count"])
def moments_kernel(sums_ptr, moments_ptr, parts, channels, each, count, PARTS: tl.constexpr, CHANNELS: tl.constexpr):
    """Mean and biased variance of channels, each of which has so many sums in each part, of ``count`` elements."""
    c = tl.program_id(0) * CHANNELS + tl.arange(0, CHANNELS)
    width, rows = channels.to(tl.int64) * each, parts * each
    total = tl.zeros((PARTS, CHANNELS), tl.float64)
    squares = tl.zeros((PARTS, CHANNELS), tl.float64)
    for first in range(0, rows, PARTS):
        row = first + tl.arange(0, PARTS)
        ptr = sums_ptr + ((row // each) * width + row % each)[:, None] + c[None, :] * each
        exists = (row < rows)[:, None] & (c < channels)[None, :]
        total += tl.load(ptr, mask=exists, other=0.0)
        squares += tl.load(ptr + parts * width, mask=exists, other=0.0)
    n = count.to(tl.float64)
    mean = tl.sum(total, 0) / n
    variance = tl.sum(squares, 0) / n - mean * mean
    tl.store(moments_ptr + c, mean, mask=c < channels)
    tl.store(moments_ptr + channels + c, tl.where(variance < 0, 0.0, variance), mask=c < channels)


@triton.jit(do_not_specialize=SIZES)
def affine_kernel(
    g_ptr, x_ptr, slope_ptr, offset_ptr, outer, channels, inner, groups, parts, chunks,
    ALIGN: tl.constexpr, BY_CHANNEL: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    group, _, first, last = tiles_of(outer, groups, parts, chunks, ROWS)
    channels, inner = sizes_of(channels, inner, ALIGN, BY_CHANNEL)
    if BY_CHANNEL:
        slope, offset = tl.load(slope_ptr + group), tl.load(offset_ptr + group)
    else:
        channel = (group * COLUMNS + tl.arange(0, COLUMNS)) // inner
        slope = tl.load(slope_ptr + channel, mask=channel < channels)[None, :]
        offset = tl.load(offset_ptr + channel, mask=channel < channels)[None, :]
    for t in range(first, last):
        start, at, exists = tile_of(t, group, outer, channels, inner, chunks, BY_CHANNEL, ROWS, COLUMNS)
        x = tl.load(x_ptr + start + at, mask=exists).to(tl.float32)
        g = tl.load(g_ptr + start + at, mask=exists).to(tl.float32) + (slope * x + offset)
        tl.store(g_ptr + start + at, rounded(g, g_ptr.dtype.element_ty), mask=exists)


@triton.jit(do_not_specialize=["channels", "count"])
def line_kernel(
    moments_ptr, weight_ptr, bias_ptr, mean_ptr, var_ptr, scale_ptr, shift_ptr, centre_ptr, inverse_ptr, channels,
    count, factor, eps, BLOCK: tl.constexpr,
):  # fmt: skip
    c = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    exists = c < channels
    mean, variance = tl.load(moments_ptr + c, mask=exists), tl.load(moments_ptr + channels + c, mask=exists)
    centre, inverse = mean.to(tl.float32), (1 / tl.sqrt(variance + eps)).to(tl.float32)
    scale = inverse if weight_ptr is None else tl.load(weight_ptr + c, mask=exists) * inverse
    shift = -centre * scale
    if bias_ptr is not None:
        shift = tl.load(bias_ptr + c, mask=exists) + shift
    tl.store(scale_ptr + c, scale, mask=exists)
    tl.store(shift_ptr + c, shift, mask=exists)
    tl.store(centre_ptr + c, centre, mask=exists)
    tl.store(inverse_ptr + c, inverse, mask=exists)
    if mean_ptr is not None:
        n = count.to(tl.float64)
        unbiased = variance * (n / (n - 1))
        old_mean = tl.load(mean_ptr + c, mask=exists).to(tl.float64)
        old_var = tl.load(var_ptr + c, mask=exists).to(tl.float64)
        tl.store(mean_ptr + c, (old_mean + factor * (mean - old_mean)).to(tl.float32), mask=exists)
        tl.store(var_ptr + c, (old_var + factor * (unbiased - old_var)).to(tl.float32), mask=exists)


@triton.jit(do_not_specialize=["channels", "count"])
def line_grad_kernel(
    mean_ptr, inverse_ptr, scale_ptr, g_scale_ptr, g_shift_ptr, g_weight_ptr, slope_ptr, offset_ptr, channels, count,
    BLOCK: tl.constexpr,
):  # fmt: skip
    c = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    exists, zero = c < channels, tl.zeros((BLOCK,), tl.float64)
    mean = tl.load(mean_ptr + c, mask=exists).to(tl.float64)
    inverse = tl.load(inverse_ptr + c, mask=exists).to(tl.float64)
    scale = tl.load(scale_ptr + c, mask=exists).to(tl.float64)
    g_scale = zero if g_scale_ptr is None else tl.load(g_scale_ptr + c, mask=exists).to(tl.float64)
    g_shift = zero if g_shift_ptr is None else tl.load(g_shift_ptr + c, mask=exists).to(tl.float64)
    n, centred = count.to(tl.float64), g_scale - mean * g_shift
    slope = -inverse * inverse * scale * centred / n
    tl.store(g_weight_ptr + c, (centred * inverse).to(tl.float32), mask=exists)
    tl.store(slope_ptr + c, slope.to(tl.float32), mask=exists)
    tl.store(offset_ptr + c, (-scale * g_shift / n - slope * mean).to(tl.float32), mask=exists)


def shape(itemsize: int, channels: int, inner: int, warp_size: int) -> dict[str, Any]:
    """How a tile lies: 16 bytes for each thread, in rows of ``COLUMNS``."""
    by_channel = inner >= LONG
    size = OPTIONS["num_warps"] * warp_size * ROW_BYTES // itemsize
    columns = min(COLUMNS, triton.next_power_of_2(inner if by_channel else channels * inner))
    align = math.gcd(inner if by_channel else channels, 16)
    return {"ALIGN": align, "BY_CHANNEL": by_channel, "ROWS": size // columns, "COLUMNS": columns}


def _walk(x: Tensor, channels: int, inner: int, programs: int, most: int) -> tuple[tuple[int, ...], dict[str, Any]]:
    """The sizes of a call, and what its kernel is compiled for."""
    outer, tile = x.numel() // (channels * inner), shape(x.element_size(), channels, inner, WARP_SIZE)
    if INTERPRETED:
        tile["ROWS"] = triton.next_power_of_2(outer)
    by_channel, columns, align = tile["BY_CHANNEL"], tile["COLUMNS"], tile["ALIGN"]
    groups, chunks = (
        (channels, triton.cdiv(inner, columns)) if by_channel else (triton.cdiv(channels * inner, columns), 1)
    )
    parts = max(1, min(triton.cdiv(outer, tile["ROWS"]) * chunks // TILES, programs // groups, most))
    sizes = (channels, inner // align) if by_channel else (channels // align, inner)
    return (outer, *sizes, groups, parts, chunks), tile


def channel_moments(x: Tensor, channels: int, inner: int) -> Tensor:
    sizes, tile = _walk(x, channels, inner, PROGRAMS, PARTS)
    _, _, _, groups, parts, _ = sizes
    each = 1 if tile["BY_CHANNEL"] else inner
    sums = x.new_empty((2, parts, channels * each), dtype=torch.float64)
    moments = x.new_empty((2, channels), dtype=torch.float64)
    with torch.cuda.device_of(x):
        sums_kernel[(groups * parts,)](x, sums, *sizes, **tile, **OPTIONS)
        programs = triton.cdiv(channels, SUMS["CHANNELS"])
        moments_kernel[(programs,)](sums, moments, parts, channels, each, x.numel() // channels, **SUMS, **OPTIONS)
    return moments


def add_affine(g: Tensor, x: Tensor, slope: Tensor, offset: Tensor, inner: int) -> None:
    sizes, tile = _walk(x, slope.numel(), inner, 2**31, 2**31)
    _, _, _, groups, parts, _ = sizes
    with torch.cuda.device_of(x):
        affine_kernel[(groups * parts,)](g, x, slope, offset, *sizes, **tile, **OPTIONS)


def _contiguous(*values: Tensor | None) -> tuple[Tensor | None, ...]:
    """Of which a gradient may be one number for all channels."""
    return tuple(None if each is None else each.contiguous() for each in values)


def norm_line(
    moments: Tensor,
    count: float,
    weight: Tensor | None,
    bias: Tensor | None,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    factor: float,
    eps: float,
    dims: int,
) -> tuple[Tensor, ...]:
    channels = moments.shape[1]
    line = tuple(moments.new_empty((channels, *[1] * (dims - 1)), dtype=torch.float32) for _ in range(4))
    given = *_contiguous(moments, weight, bias), running_mean, running_var
    with torch.cuda.device_of(moments):
        line_kernel[(triton.cdiv(channels, CHANNELS),)](
            *given, *line, channels, int(count), factor, eps, BLOCK=CHANNELS, **OPTIONS
        )
    return line


def norm_grad(
    mean: Tensor, inverse: Tensor, scale: Tensor, g_scale: Tensor | None, g_shift: Tensor | None, count: float
) -> tuple[Tensor, ...]:
    channels = mean.numel()
    found = tuple(mean.new_empty(channels) for _ in range(3))
    given = _contiguous(mean, inverse, scale, g_scale, g_shift)
    with torch.cuda.device_of(mean):
        line_grad_kernel[(triton.cdiv(channels, CHANNELS),)](
            *given, *found, channels, int(count), BLOCK=CHANNELS, **OPTIONS
        )
    return found
