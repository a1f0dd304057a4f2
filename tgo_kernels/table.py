"""Constants that neurons have of their own, as the table that the compiled engines read.

Three rows, decay, gain and v_threshold; neuron m in the order of memory has column ``m % D``. D is a multiple of the
distance after which the constants repeat, so that an engine that walks its neurons D apart reads a column once, and
adds up the gradients of a column where it stands. Everything about channels is here, and the engines know none.
"""

from collections.abc import Sequence
from math import prod

import torch
from torch import Tensor

from tgo_kernels.layout import arrange, outermost_first
from tgo_kernels.library import Function, below, differentiated

COLUMNS = {"cpu": 2**16, "cuda": 2**18}  # enough to keep all cores busy, and little beside a large layer


def table_of(own: Sequence[Tensor], x: Tensor) -> tuple[Tensor, Tensor]:
    """The table [3, D] fp32 of ``x`` [T, *], and ``x``, made dense if it was not.

    ``own`` broadcast to [*]; the table is differentiable with respect to them.
    """
    x, _ = arrange(x)
    dims = [d - 1 for d in outermost_first(x) if d > 0]
    values = [value[(None,) * (x.dim() - 1 - value.dim())].permute(dims) for value in own]
    first = min([d for value in values for d in range(value.dim()) if value.shape[d] != 1], default=len(dims))
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
    return spread((rows, *sizes[first:]), *(value.reshape(value.shape[first:]) for value in values)), x


class _Spread(Function):
    """Values that broadcast to ``shape``, as rows of so many columns. A gradient is a sum whose order does not show."""

    @staticmethod
    def forward(ctx, shape, *values):
        ctx.shape, ctx.shapes = shape, [value.shape for value in values]
        return below(spread, shape, *values)

    @staticmethod
    def backward(ctx, grad):
        grads = grad.reshape(3, *ctx.shape)
        needed = ctx.needs_input_grad[1:]
        return None, *(exact_sum(g, s) if need else None for g, s, need in zip(grads, ctx.shapes, needed, strict=True))


spread = differentiated(
    "spread",
    "(SymInt[] shape, Tensor decay, Tensor gain, Tensor v_threshold) -> Tensor",
    lambda shape, *values: torch.stack([value.expand(shape) for value in values]).flatten(1),
    _Spread,
)


def exact_sum(x: Tensor, shape: Sequence[int]) -> Tensor:
    """``x.sum_to_size(shape)``, in integers, so that it is the same in every order: for fewer than 2^27 terms, which
    are rounded to 2^-37 of the largest."""
    wanted = (1,) * (x.dim() - len(shape)) + tuple(shape)
    dims = [d for d, (given, size) in enumerate(zip(x.shape, wanted, strict=True)) if size == 1 and given != 1]
    if not dims or x.numel() == 0:
        return x.sum_to_size(shape)
    unit = x.abs().amax(dims, keepdim=True).double().clamp_min(2.0**-149) * 2.0**-36
    total = (x.double() / unit).round().long().sum(dims, keepdim=True) * unit
    return total.reshape(shape).to(x.dtype)
