"""Max pools: the largest of each window and where it was found; and back, where each input gathers from its windows."""

import math
from collections.abc import Sequence
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from tgo_kernels._triton.launch import INTERPRETED, INTERPRETED_BLOCK, OPTIONS, ROW_BYTES, WARP_SIZE
from tgo_kernels._triton.rows import and_following, rounded

NO_WINNER = tl.constexpr(255)
SIZES = ["count", "height", "width", "rows", "columns", "inner"]
UNROLLED = tl.constexpr(9)  # taps, whose loads then wait for each other's no longer


@triton.jit
def place_of(count, height, width, inner, ALIGN: tl.constexpr, VECTOR: tl.constexpr, BLOCK: tl.constexpr):
    """A program's elements of planes [height, width, inner]: where they begin, each one's place, which exist; and of
    the first of each thread's neighbours the plane, and its place there, row, column and within inner."""
    start = tl.program_id(0).to(tl.int64) * (BLOCK * VECTOR)
    at = tl.arange(0, BLOCK) * VECTOR
    exists = and_following(at, VECTOR) < tl.minimum(count.to(tl.int64) * ALIGN - start, BLOCK * VECTOR).to(tl.int32)
    size = height * width * inner
    e = (start % size).to(tl.int32) + at
    plane, e = start // size + e // size, e % size
    return start, and_following(at, VECTOR), exists, plane, (e // inner // width, e // inner % width, e % inner)


@triton.jit
def of_vector(x, VECTOR: tl.constexpr):
    """[BLOCK] of neighbours that are alike, for each of them."""
    return x if VECTOR == 1 else x[:, None]


@triton.jit
def neighbours(h, w, c, width, inner, VECTOR: tl.constexpr):
    """Where a thread's neighbours lie in their plane."""
    return and_following(tl.multiple_of((h * width + w) * inner + c, VECTOR), VECTOR)


@triton.jit
def tried(
    tap, best, winner, ptr, sign, exists, place, height, width, inner, WINDOW: tl.constexpr, VECTOR: tl.constexpr
):
    """The best of a window and its tap, after one tap more."""
    row, column, c = place
    h = row * WINDOW[2] - WINDOW[4] + tap // WINDOW[1] * WINDOW[6]
    w = column * WINDOW[3] - WINDOW[5] + tap % WINDOW[1] * WINDOW[7]
    inside = (h >= 0) & (h < height) & (w >= 0) & (w < width)
    mask = exists & of_vector(inside, VECTOR)
    x = tl.load(ptr + neighbours(h, w, c, width, inner, VECTOR), mask=mask, other=0.0).to(tl.float32) * sign
    wins = mask & ((x > best) | (x != x) | (winner == NO_WINNER))
    return tl.where(wins, x, best), tl.where(wins, tap, winner)


@triton.jit(do_not_specialize=[*SIZES, "channels"])
def max_pool_kernel(
    x_ptr, y_ptr, winners_ptr, scale_ptr, count, height, width, rows, columns, inner, channels,
    WINDOW: tl.constexpr, ALIGN: tl.constexpr, VECTOR: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Planes of rows x columns from those of height x width. The winner is torch's: the first of the largest, the last
    NaN; the smallest where the scale of the channel, of which planes or inner have so many, is negative."""
    inner = inner * ALIGN
    start, at, exists, plane, place = place_of(count, rows, columns, inner, ALIGN, VECTOR, BLOCK)
    sign = 1.0
    if scale_ptr is not None:
        channel = and_following(place[2], VECTOR) if VECTOR > 1 else (plane * inner + place[2]) % channels
        scale = tl.load(scale_ptr + channel, mask=exists, other=1.0)
        sign = tl.where(scale.to(tl.int32, bitcast=True) < 0, -1.0, 1.0)
    best, winner = tl.full(at.shape, float("-inf"), tl.float32), tl.full(at.shape, NO_WINNER, tl.int32)
    ptr = x_ptr + of_vector(plane * (height * width * inner), VECTOR)
    TAPS: tl.constexpr = WINDOW[0] * WINDOW[1]
    if TAPS <= UNROLLED:
        for tap in tl.static_range(TAPS):
            best, winner = tried(tap, best, winner, ptr, sign, exists, place, height, width, inner, WINDOW, VECTOR)
    else:
        for tap in range(TAPS):
            best, winner = tried(tap, best, winner, ptr, sign, exists, place, height, width, inner, WINDOW, VECTOR)
    tl.store(y_ptr + start + at, rounded(best * sign, y_ptr.dtype.element_ty), mask=exists)
    tl.store(winners_ptr + start + at, winner.to(tl.uint8), mask=exists)


@triton.jit
def gathered(
    k,
    total,
    g_ptr,
    winners_ptr,
    exists,
    place,
    rows,
    columns,
    inner,
    WINDOW: tl.constexpr,
    ACROSS: tl.constexpr,
    DOWN: tl.constexpr,
    VECTOR: tl.constexpr,
):
    """The sum with the gradient of the window that is the so manieth of an element, in the order of the outputs."""
    row, column, c = place
    h, w = row + WINDOW[4], column + WINDOW[5]
    y, x = h // WINDOW[2] - (DOWN - 1 - k // ACROSS), w // WINDOW[3] - (ACROSS - 1 - k % ACROSS)
    h, w = h - y * WINDOW[2], w - x * WINDOW[3]  # within the window
    inside = (y >= 0) & (y < rows) & (x >= 0) & (x < columns) & (h % WINDOW[6] == 0) & (w % WINDOW[7] == 0)
    tap = h // WINDOW[6] * WINDOW[1] + w // WINDOW[7]
    inside = inside & (h // WINDOW[6] < WINDOW[0]) & (w // WINDOW[7] < WINDOW[1])
    at, mask = neighbours(y, x, c, columns, inner, VECTOR), exists & of_vector(inside, VECTOR)
    winner = tl.load(winners_ptr + at, mask=mask, other=NO_WINNER).to(tl.int32)
    g = tl.load(g_ptr + at, mask=mask, other=0.0).to(tl.float32)
    return total + tl.where(mask & (winner == of_vector(tap, VECTOR)), g, 0.0)


@triton.jit(do_not_specialize=SIZES)
def max_pool_back_kernel(
    g_ptr, winners_ptr, g_x_ptr, count, height, width, rows, columns, inner,
    WINDOW: tl.constexpr, ALIGN: tl.constexpr, VECTOR: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    inner = inner * ALIGN
    start, at, exists, plane, place = place_of(count, height, width, inner, ALIGN, VECTOR, BLOCK)
    total = tl.zeros(at.shape, tl.float32)
    before = of_vector(plane * (rows * columns * inner), VECTOR)
    DOWN: tl.constexpr = ((WINDOW[0] - 1) * WINDOW[6] + WINDOW[2]) // WINDOW[2]  # windows that may have an element
    ACROSS: tl.constexpr = ((WINDOW[1] - 1) * WINDOW[7] + WINDOW[3]) // WINDOW[3]
    g_ptr, winners_ptr = g_ptr + before, winners_ptr + before
    if DOWN * ACROSS <= UNROLLED:
        for k in tl.static_range(DOWN * ACROSS):
            total = gathered(
                k, total, g_ptr, winners_ptr, exists, place, rows, columns, inner, WINDOW, ACROSS, DOWN, VECTOR
            )
    else:
        for k in range(DOWN * ACROSS):
            total = gathered(
                k, total, g_ptr, winners_ptr, exists, place, rows, columns, inner, WINDOW, ACROSS, DOWN, VECTOR
            )
    tl.store(g_x_ptr + start + at, rounded(total, g_x_ptr.dtype.element_ty), mask=exists)


def shape(itemsize: int, inner: int, warp_size: int) -> dict[str, int]:
    """Neighbours within inner are a thread's, as many as 16 bytes hold; else it has one element."""
    align = math.gcd(inner, 16)
    vector = math.gcd(align, ROW_BYTES // itemsize)
    return {"ALIGN": align, "VECTOR": vector, "BLOCK": OPTIONS["num_warps"] * warp_size}


def _launch(
    kernel: Any,
    inputs: Sequence[Tensor | None],
    of: Tensor,
    x: Tensor,
    y: Tensor,
    inner: int,
    window: Sequence[int],
    *more: int,
) -> None:
    """For each element of ``of``; x and y are [*, H, W], x where windows are in."""
    if max(t.shape[-1] * t.shape[-2] * inner for t in (x, y)) >= 2**31:
        raise ValueError(f"max_pool takes planes of less than 2^31 elements, got {tuple(x.shape)}")
    about = shape(x.element_size(), inner, WARP_SIZE)
    if INTERPRETED:
        about["BLOCK"] = INTERPRETED_BLOCK
    sizes = of.numel() // about["ALIGN"], *x.shape[-2:], *y.shape[-2:], inner // about["ALIGN"], *more
    programs = triton.cdiv(of.numel(), about["BLOCK"] * about["VECTOR"])
    with torch.cuda.device_of(x):
        kernel[(programs,)](*inputs, *sizes, WINDOW=tuple(window), **about, **OPTIONS)


def max_pool(x: Tensor, y: Tensor, winners: Tensor, inner: int, window: Sequence[int], scale: Tensor | None) -> None:
    channels = 1 if scale is None else scale.numel()
    scale = None if scale is None else scale.contiguous()
    _launch(max_pool_kernel, (x, y, winners, scale), y, x, y, inner, window, channels)


def max_pool_bwd(grad: Tensor, winners: Tensor, g_x: Tensor, inner: int, window: Sequence[int]) -> None:
    _launch(max_pool_back_kernel, (grad, winners, g_x), g_x, g_x, grad, inner, window)
