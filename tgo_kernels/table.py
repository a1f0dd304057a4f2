"""Constants that neurons have of their own, as the table that the compiled engines read.

A row for each constant that is a tensor, or T rows, if it has a time axis, too; neuron m in the order of memory has
column ``m % D``. D is a multiple of the
distance after which the constants repeat, so that an engine that walks its neurons D apart reads a column once, and
adds up the gradients of a column where it stands. Everything about channels is here, and the engines know none.
"""

from collections.abc import Sequence
from itertools import groupby
from math import prod

import torch
from torch import Tensor

from tgo_kernels.layout import arrange, outermost_first
from tgo_kernels.library import Function, apply, below, differentiated

COLUMNS = {"cpu": 2**16, "cuda": 2**18}  # enough to keep all cores busy, and little beside a large layer


def table_of(own: Sequence[Tensor], x: Tensor) -> tuple[Tensor, Tensor]:
    """The table [R, D] fp32 of ``x`` [T, *], and ``x``, made dense if it was not.

    ``own`` broadcast to [*], or with a time axis to [T, *]; the table is differentiable with respect to them.
    """
    x, _ = arrange(x)
    dims = [d - 1 for d in outermost_first(x) if d > 0]
    # [T or 1, *] in the order of memory.
    values = [value[(None,) * (x.dim() - value.dim())].permute(0, *(d + 1 for d in dims)) for value in own]
    first = min([d for value in values for d in range(len(dims)) if value.shape[d + 1] != 1], default=len(dims))
    sizes = [x.shape[d + 1] for d in dims]
    if torch._C._get_tracing_state() is not None:  # of torch.jit.trace, where sizes are tensors
        sizes = [int(size) for size in sizes]
    repeats, period = prod(sizes[:first]), prod(sizes[first:])
    columns = COLUMNS.get(x.device.type, 2**18)
    # D is a multiple of 16, so that what lies D apart is aligned alike, unless it would be much larger for it.
    aligned = 1 if period % 16 == 0 or period * 16 > columns else 16
    rows = -(-columns // (period * aligned)) * aligned if period else 1
    if not torch.compiler.is_compiling():  # which would have to know for which batch
        rows = min(rows, repeats)
    return spread((rows, *sizes[first:]), [value.flatten(0, first) for value in values]), x


class _Spread(Function):
    """Values that broadcast to ``shape``, of one step or of all, as rows of so many columns."""

    @staticmethod
    def forward(ctx, shape, *values):
        ctx.shape, ctx.shapes = shape, [value.shape for value in values]
        return below(spread, shape, values)

    @staticmethod
    def backward(ctx, grad):
        grads, found = grad.reshape(sum(shape[0] for shape in ctx.shapes), *ctx.shape), []
        for rest, alike in groupby(ctx.shapes, lambda shape: shape[1:]):  # at once: a small one is all calls
            steps = [shape[0] for shape in alike]
            rows = sum(steps)
            found += sum_by_halves(grads[:rows], (rows, 1, *rest)).reshape(rows, *rest).split(steps)
            grads = grads[rows:]
        return None, *(g if need else None for g, need in zip(found, ctx.needs_input_grad[1:], strict=True))


def _spread(shape: Sequence[int], values: Sequence[Tensor]) -> Tensor:
    steps = torch.stack(torch.broadcast_tensors(*(step for value in values for step in value)))
    return steps[:, None].expand(-1, *shape).flatten(1).contiguous()


spread = differentiated(
    "spread",
    "(SymInt[] shape, Tensor[] values) -> Tensor",
    _spread,
    lambda shape, values: apply(_Spread, shape, *values),
)


def sum_by_halves(x: Tensor, shape: Sequence[int]) -> Tensor:
    """``x.sum_to_size(shape)``, in an order that is that of its shape: torch's own depends on the number of threads."""
    if x.numel() == 0:
        return x.sum_to_size(shape)
    for d, size in enumerate(shape):
        while x.shape[d] > size:
            half = x.shape[d] // 2
            low, high, odd = x.narrow(d, 0, half), x.narrow(d, half, half), x.narrow(d, 2 * half, x.shape[d] % 2)
            x = torch.cat((low + high, odd), d) if x.shape[d] % 2 else low + high
    return x
