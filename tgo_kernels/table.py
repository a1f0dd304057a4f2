"""Constants that neurons have of their own, as the table that the compiled engines read.

A row for each constant that is a tensor, or T rows, if it has a time axis, too; neuron m in the order of memory has
column ``m % D``. D is a multiple of the distance after which the constants repeat, so that an engine that walks its
neurons D apart reads a column once, and adds up the gradients of a column where it stands. Everything about channels is
here, and the engines know none.
"""

import functools
from collections.abc import Sequence
from itertools import groupby
from math import prod
from typing import NamedTuple

import torch
from torch import Tensor

from tgo_kernels import native
from tgo_kernels.layout import arrange, layout_of, outermost_first
from tgo_kernels.library import LIBRARY, Function, apply, below, differentiated, is_one, is_plain

LIBRARY.define("fill_table(int[] shape, int[] order, Tensor[] values) -> Tensor")
LIBRARY.define("sum_table(Tensor grad, int[] shape, int[] order, int[] sizes) -> Tensor[]")
_fill, _sum = (getattr(torch.ops.tgo_kernels, name).default for name in ("fill_table", "sum_table"))

AT_ONCE = 2**18  # elements of a table that one thread makes sooner than torch's small calls do
COLUMNS = {"cpu": 2**16, "cuda": 2**18}  # enough to keep all cores busy, and little beside a large layer


class Plan(NamedTuple):
    """How a table is made: its rows of columns of that shape, and the dimensions of x in the order of memory."""

    shape: tuple[int, ...]
    order: list[int]


def table_of(own: Sequence[Tensor], x: Tensor) -> tuple[Tensor, Plan, Tensor]:
    """The table [R, D] fp32 of ``x`` [T, *], how it was made, and ``x``, made dense if it was not.

    ``own`` broadcast to [*], or with a time axis to [T, *]; the table is differentiable with respect to them. A
    backward makes it again, since it is larger than they are.
    """
    shapes, columns = tuple(value.shape for value in own), COLUMNS["cpu" if x.is_cpu else "cuda"]
    if all(map(is_plain, own)) and is_plain(x):  # the shortest way
        plan = _known_plan(x.shape, x.stride(), shapes, columns)
        if plan is not None:
            return _Spread.plainly(*plan, *own), plan, x
    x, _ = arrange(x)
    plan = _plan_of(x, shapes, columns)
    return spread(*plan, own), plan, x


@functools.lru_cache(maxsize=1024)
def _known_plan(size: torch.Size, stride: tuple[int, ...], shapes: tuple[torch.Size, ...], columns: int) -> Plan | None:
    """None where x is not dense."""
    x = torch.empty_strided(size, stride, device="meta")
    return None if layout_of(x) is None else _plan_of(x, shapes, columns)


def _plan_of(x: Tensor, shapes: Sequence[torch.Size], columns: int) -> Plan:
    order = [0, *(d for d in outermost_first(x) if d > 0)]
    far = range(1, x.dim())
    first = min([k for k in far for shape in shapes if _varies(shape, order[k] - x.dim())], default=x.dim())
    sizes = [x.shape[d] for d in order]
    if torch._C._get_tracing_state() is not None:  # of torch.jit.trace, where sizes are tensors
        sizes = [int(size) for size in sizes]
    repeats, period = prod(sizes[1:first]), prod(sizes[first:])
    # D is a multiple of 16, so that what lies D apart is aligned alike, unless it would be much larger for it.
    aligned = 1 if period % 16 == 0 or period * 16 > columns else 16
    rows = -(-columns // (period * aligned)) * aligned if period else 1
    if not torch.compiler.is_compiling():  # which would have to know for which batch
        rows = min(rows, repeats)
    return Plan((rows, *sizes[first:]), order)


def _varies(shape: torch.Size, d: int) -> bool:
    return len(shape) >= -d and shape[d] != 1


class _Spread(Function):
    """Values of one step or of all, whose dimensions lie in that order in memory, as rows of columns of that shape."""

    @staticmethod
    def forward(ctx, shape, order, *values):
        ctx.shape, ctx.order, ctx.shapes = shape, order, [value.shape for value in values]
        return _spread(shape, order, values) if is_plain(values[0]) else below(spread, shape, order, values)

    @staticmethod
    def backward(ctx, grad):
        if _small(grad.numel(), [grad]) and not torch.is_grad_enabled():
            sizes = [n for shape in ctx.shapes for n in (len(shape), *shape)]
            found = below(_sum, grad.contiguous(), ctx.shape, ctx.order, sizes)
            return None, None, *(g if need else None for g, need in zip(found, ctx.needs_input_grad[2:], strict=True))
        dims, back = len(ctx.order), [ctx.order.index(d) for d in range(len(ctx.order))]
        given = [(1,) * (dims - len(shape)) + tuple(shape) for shape in ctx.shapes]
        lying = [tuple(shape[d] for d in ctx.order) for shape in given]
        grads, found = grad.reshape(sum(shape[0] for shape in lying), *ctx.shape), []
        for rest, alike in groupby(lying, lambda shape: shape[1:]):  # at once: a small one is all calls
            steps = [shape[0] for shape in alike]
            rows = sum(steps)
            found += sum_to_size(grads[:rows], (rows, 1, *rest[dims - len(ctx.shape) :])).split(steps)
            grads = grads[rows:]
        pairs = zip(found, lying, ctx.shapes, ctx.needs_input_grad[2:], strict=True)
        return (
            None,
            None,
            *(g.reshape(lies).permute(back).reshape(shape) if need else None for g, lies, shape, need in pairs),
        )


def _spread(shape: Sequence[int], order: Sequence[int], values: Sequence[Tensor]) -> Tensor:
    dims = len(order)
    table = sum(value.shape[0] if value.dim() == dims else 1 for value in values) * prod(shape)
    if _small(table, values):
        return below(_fill, shape, order, values)
    full = [value.reshape((1,) * (dims - value.dim()) + value.shape).permute(*order) for value in values]
    columns = [value.flatten(0, dims - len(shape)) for value in full]
    steps = torch.stack(torch.broadcast_tensors(*(step for value in columns for step in value)))
    return steps[:, None].expand(-1, *shape).flatten(1).contiguous()


def _small(size: int, values: Sequence[Tensor]) -> bool:
    """Whether the compiled extension does it."""
    if native.ERROR is not None or not 0 < size <= AT_ONCE:
        return False
    return all(is_one(v) and v.is_cpu for v in values)


spread = differentiated(
    "spread",
    "(SymInt[] shape, int[] order, Tensor[] values) -> Tensor",
    _spread,
    lambda shape, order, values: apply(_Spread, shape, order, *values),
)


SERIAL = 2**15  # terms that torch adds up by one thread


def sum_to_size(x: Tensor, shape: Sequence[int]) -> Tensor:
    """``x.sum_to_size(shape)`` in fp64, in one order on any number of threads: by halves, until one thread does it."""
    if x.shape == tuple(shape):
        return x
    dtype, x = x.dtype, x.double()
    for d, size in enumerate(shape):
        while x.shape[d] > size and x.numel() >= SERIAL:
            half = x.shape[d] // 2
            odd = x.narrow(d, 2 * half, 1) if x.shape[d] % 2 else None
            x = x.narrow(d, 0, half) + x.narrow(d, half, half)
            x = x if odd is None else torch.cat((x, odd), d)
    return x.sum_to_size(shape).to(dtype)
