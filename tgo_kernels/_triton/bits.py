"""Small integers as bits: 32 elements to a word of each plane, and back. Nothing is looked for, and nobody waits."""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from tgo_kernels._triton.launch import INTERPRETED, INTERPRETED_BLOCK, OPTIONS, ROW_BYTES, WARP_SIZE

# A tile is 32 rows of WORDS neighbours in memory; row j is bit j of WORDS words. So a thread packs what it loads.
BITS = tl.constexpr(32)
WORDS = tl.constexpr(128)
AT_ONCE = tl.constexpr(4)  # rows that are waited for together
TILE = BITS.value * WORDS.value  # elements


@triton.jit
def places(tiles, BLOCK: tl.constexpr):
    """A program's words: where they begin, each one's place, which exist; its elements: where they begin, and row 0."""
    start = tl.program_id(0).to(tl.int64) * BLOCK
    word = tl.arange(0, BLOCK)
    exists = word < tl.minimum(tiles.to(tl.int64) * WORDS - start, BLOCK).to(tl.int32)
    return start, word, exists, start * BITS, word // WORDS * (WORDS * BITS) + word % WORDS


@triton.jit
def packed(ptr, at, limit, PLANES: tl.constexpr, WHOLE: tl.constexpr):
    planes = zeros_like(at, PLANES)
    for first in range(0, BITS, AT_ONCE):
        found = zeros_like(at, PLANES)
        for j in tl.static_range(AT_ONCE):
            row = at + (first + j) * WORDS
            x = tl.load(ptr + row) if WHOLE else tl.load(ptr + row, mask=row < limit, other=0.0)
            found = with_bits(found, x.to(tl.float32).to(tl.int32), j)
        planes = with_words(planes, found, first)
    return planes


@triton.jit
def zeros_like(at, COUNT: tl.constexpr):
    found = ()
    for _ in tl.static_range(COUNT):
        found = found + (tl.zeros_like(at),)
    return found


@triton.jit
def with_bits(planes, x, j: tl.constexpr):
    """Bit p of x as bit j of plane p."""
    found = ()
    for p in tl.static_range(len(planes)):
        found = found + (planes[p] | (((x >> p) & 1) << j),)
    return found


@triton.jit
def with_words(planes, words, by):
    found = ()
    for p in tl.static_range(len(planes)):
        found = found + (planes[p] | (words[p] << by),)
    return found


@triton.jit(do_not_specialize=["count", "tiles"])
def pack_kernel(x_ptr, words_ptr, count, tiles, PLANES: tl.constexpr, BLOCK: tl.constexpr):
    """Of the integers x, of which there are so many, bit p of each in plane p; 0 behind the last."""
    start, word, exists, first, at = places(tiles, BLOCK)
    left = count - first
    if left >= BLOCK * BITS:
        planes = packed(x_ptr + first, at, 0, PLANES, True)
    else:
        planes = packed(x_ptr + first, at, tl.maximum(left, 0).to(tl.int32), PLANES, False)
    for p in tl.static_range(PLANES):
        tl.store(words_ptr + p * (tiles.to(tl.int64) * WORDS) + start + word, planes[p], mask=exists)


@triton.jit
def unpacked(ptr, at, limit, planes, WHOLE: tl.constexpr):
    for j in range(BITS):
        row, x = at + j * WORDS, (planes[0] >> j) & 1
        for p in tl.static_range(1, len(planes)):
            x |= ((planes[p] >> j) & 1) << p
        x = x.to(tl.float32).to(ptr.dtype.element_ty)  # exactly
        if WHOLE:
            tl.store(ptr + row, x)
        else:
            tl.store(ptr + row, x, mask=row < limit)


@triton.jit(do_not_specialize=["count", "tiles"])
def unpack_kernel(words_ptr, x_ptr, count, tiles, PLANES: tl.constexpr, BLOCK: tl.constexpr):
    start, word, exists, first, at = places(tiles, BLOCK)
    planes = ()
    for p in tl.static_range(PLANES):
        ptr = words_ptr + p * (tiles.to(tl.int64) * WORDS) + start
        planes = planes + (tl.load(ptr + word, mask=exists, other=0),)
    left = count - first
    if left >= BLOCK * BITS:
        unpacked(x_ptr + first, at, 0, planes, True)
    else:
        unpacked(x_ptr + first, at, tl.maximum(left, 0).to(tl.int32), planes, False)


def pack_integers(x: Tensor, planes: int) -> Tensor:
    words = x.new_empty((planes, triton.cdiv(x.numel(), TILE) * WORDS.value), dtype=torch.int32)
    _launch(pack_kernel, x, words, x, words)
    return words


def unpack_integers(words: Tensor, x: Tensor) -> None:
    if words.shape[1] != triton.cdiv(x.numel(), TILE) * WORDS.value:
        raise ValueError(f"words must be those of a tensor as large as x, got {tuple(words.shape)} for {x.numel()}")
    _launch(unpack_kernel, x, words, words, x)


def block_of(itemsize: int, warp_size: int) -> int:
    """Words of a program: a thread moves 16 bytes of each row."""
    return OPTIONS["num_warps"] * warp_size * ROW_BYTES // itemsize


def _launch(kernel: Any, x: Tensor, words: Tensor, *arguments: Tensor) -> None:
    planes, count = words.shape
    if count == 0:
        return
    block = INTERPRETED_BLOCK if INTERPRETED else block_of(x.element_size(), WARP_SIZE)
    with torch.cuda.device_of(x):
        kernel[(triton.cdiv(count, block),)](
            *arguments, x.numel(), count // WORDS.value, PLANES=planes, BLOCK=block, **OPTIONS
        )
