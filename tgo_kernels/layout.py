"""Where a neuron lies in memory, and which neuron it is, for any dense layout of x [T, *]."""

from math import prod
from typing import NamedTuple

import torch
from torch import Tensor

DIMS = 4  # of a permuted layout that the kernels can follow


class Layout(NamedTuple):
    """Neurons are numbered m = 0..N-1 in the order of memory; x[t] of neuron m lies at
    ``(m // inner) * inner * T + t * inner + m % inner``, so that ``inner`` is N where time is outermost.

    The noise knows a neuron by its logical index, its row-major position in [*]: that of m follows from the DIMS
    neuron dimensions, outermost in memory first, merged where they lie alike in both orders.
    """

    steps: int
    neurons: int
    inner: int
    sizes: tuple[int, ...]  # of all but the outermost
    strides: tuple[int, ...]  # between logical indices

    @property
    def permuted(self) -> bool:
        return self.strides != (0, 0, 0, 1)

    def alignment(self, noisy: bool) -> int:
        """Divides N and inner: 16 permits vector loads. Nothing else about sizes is known to the compiler.

        With noise it divides a permuted layout's innermost size too, so that 16 neighbours have equidistant indices.
        """
        sizes = [self.neurons, self.inner, *([self.sizes[-1]] if noisy and self.permuted else [])]
        return 1 if any(size % 16 for size in sizes) else 16


def outermost_first(x: Tensor) -> list[int]:
    """The dimensions of x in the order of memory."""
    dims: list[int] = []
    for d in range(x.dim()):  # sorted() takes no symbolic strides, which a compiler has
        place = len(dims)
        while place > 0 and x.stride(dims[place - 1]) < x.stride(d):
            place -= 1
        dims.insert(place, d)
    return dims


def layout_of(x: Tensor) -> Layout | None:
    """None where x is not dense (holes, overlaps) or has more than DIMS neuron dimensions in another order."""
    steps, neurons = x.shape[0], x.numel() // x.shape[0]
    if neurons == 0:
        return Layout(steps, 0, 0, (1, 1, 1), (0, 0, 0, 1))
    expected = x.numel()
    dims: list[tuple[int, int]] = []
    for d in outermost_first(x):
        if x.shape[d] == 1:
            continue
        expected //= x.shape[d]
        if x.stride(d) != expected:
            return None
        if d == 0:
            continue
        logical = prod(x.shape[d + 1 :])
        if dims and dims[-1][1] == x.shape[d] * logical:
            dims[-1] = (dims[-1][0] * x.shape[d], logical)
        else:
            dims.append((x.shape[d], logical))
    if len(dims) > DIMS:
        return None
    dims = dims or [(1, 1)]
    sizes, strides = zip(*([(1, 0)] * (DIMS - len(dims)) + dims), strict=True)
    return Layout(steps, neurons, neurons if steps == 1 else x.stride(0), sizes[1:], strides)


def arrange(x: Tensor) -> tuple[Tensor, Layout]:
    """x as the kernels can walk it: as it lies if it is dense (and permuted by at most DIMS), else copied once."""
    layout = layout_of(x)
    if layout is not None:
        return x, layout
    for memory_format in (torch.preserve_format, torch.contiguous_format):
        dense = torch.empty_like(x, memory_format=memory_format)
        layout = layout_of(dense)
        if layout is not None:
            return dense.copy_(x), layout
    raise AssertionError("a contiguous tensor is dense")


def in_steps(x: Tensor, steps: int) -> Tensor:
    """Uninitialised, [steps, *] for a dense x [*]: each step lies as x does, behind the one before."""
    return x.new_empty_strided((steps, *x.shape), (x.numel(), *x.stride()))


def like(template: Tensor, x: Tensor) -> Tensor:
    """x with the strides of ``template``, copied if they differ."""
    same = all(n == 1 or a == b for n, a, b in zip(x.shape, x.stride(), template.stride(), strict=True))
    return x if same else torch.empty_like(template, dtype=x.dtype).copy_(x)
