"""Max pools that keep a byte for each output: where in its window it was found."""

import functools
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tgo_kernels import kernels, recompute
from tgo_kernels.library import LIBRARY, Function, below, is_one, is_plain
from tgo_kernels.normed import Normed
from tgo_kernels.packing import note, note_integers

# Of the channels that have a negative scale, the smallest. winners: the tap of its window that each output is from.
LIBRARY.define("max_pool(Tensor x, Tensor(a!) y, Tensor(b!) winners, int inner, int[] window, Tensor? scale) -> ()")
LIBRARY.define("max_pool_bwd(Tensor grad, Tensor winners, Tensor(a!) g_x, int inner, int[] window) -> ()")
MAX_TAPS, NO_WINNER = 255, 255  # of a window that has no input at all
_forward, _backward = (getattr(torch.ops.tgo_kernels, name).default for name in ("max_pool", "max_pool_bwd"))


class MaxPool2d(nn.MaxPool2d):
    """``nn.MaxPool2d`` that keeps a byte for each output, where in its window it was found, and nothing of its input.

    That is a quarter of a byte for each input of a window of 2x2, where torch keeps the input and int64 indices: 6.

    The same outputs and gradients as torch's to the bit, but in 16 bits sums of overlapping windows, which are rounded
    once: the winner of a window is the first of the largest. fp32, fp16 and bf16 on the CPU and, with Triton, on GPUs,
    contiguous or channels-last, windows of up to 255; elsewhere, and where it is traced or transformed, it is torch's.
    Of a norm that is part of a neuron (:func:`fuse`) it takes what goes into the norm, whose order is the same, or,
    where a channel's weight is negative, turned round. Where the norm's rounding makes two inputs the same, the larger
    one has won instead of the first; so it is on GPUs where a weight is 0.

    Raises:
        as ``nn.MaxPool2d``.
    """

    def forward(self, x: Any) -> Any:
        window = self.kernel_size
        stride = window if self.stride in (None, (), []) else self.stride
        about: Any = (*map(_two, (window, stride, self.padding, self.dilation)), self.ceil_mode)
        given = x
        x, line = given.taken() if isinstance(given, Normed) else (given, None)
        if line is not None and _serves(x) and x.is_cpu and not line[0].all():
            x, line = given.tensor(), None  # where all of a window is the same, the first has won
        scale = None if line is None else line[0].detach()
        whole = scale is None or (x.dim(), scale.dim()) == (4, 3)
        if self.return_indices or not _serves(x) or not whole or prod(about[0]) > MAX_TAPS:
            return super().forward(x if line is None else given.tensor())
        y = _MaxPool.plainly(x, scale, *about)
        if line is None:
            if about[3] == (1, 1):  # else a window may have no input at all, and -inf
                note_integers(y, x)
            return y
        again, lies = recompute.found(x), (x.size(), x.stride())
        if again is not None:
            note(y, lambda: _pooled(again.view(*lies), scale, *about)[0])
        return Normed(y, *line)


def _serves(x: Tensor) -> bool:
    return is_plain(x) and kernels.serve(x) and x.dim() in (3, 4)


class _MaxPool(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor | None, *about: Any) -> Tensor:
        y, winners = _pooled(x, scale, *about)
        ctx.about, ctx.lying, ctx.shape = about, _lying(x), x.shape
        ctx.save_for_backward(winners)
        return y

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
        (winners,) = ctx.saved_tensors
        inner, memory = ctx.lying
        if torch.is_grad_enabled() or not is_one(grad):
            g_x = _back_in_torch(grad, winners, ctx.shape, *ctx.about)
        else:
            g_x = torch.empty(ctx.shape, dtype=grad.dtype, device=grad.device, memory_format=memory)
            below(_backward, grad.contiguous(memory_format=memory), winners, g_x, inner, _window(*ctx.about))
        return g_x, *[None] * 6


def _pooled(x: Tensor, scale: Tensor | None, *about: Any) -> tuple[Tensor, Tensor]:
    inner, memory = _lying(x)
    x = x.contiguous(memory_format=memory)
    size = (*x.shape[:-2], *_outputs(x.shape[-3:], *about))
    y = torch.empty(size, dtype=x.dtype, device=x.device, memory_format=memory)
    winners = torch.empty(size, dtype=torch.uint8, device=x.device, memory_format=memory)
    below(_forward, x, y, winners, inner, _window(*about), scale)
    return y, winners


def _back_in_torch(
    grad: Tensor, winners: Tensor, shape: torch.Size, size: Any, stride: Any, padding: Any, dilation: Any, _: bool
) -> Tensor:
    """The gradient that can be differentiated again, and come in batches."""
    place = torch.zeros((), dtype=torch.int64, device=winners.device)
    for d, tap in enumerate((winners.long() // size[1], winners.long() % size[1])):
        outputs = torch.arange(winners.shape[d - 2], device=winners.device).view(-1, *[1] * (1 - d))
        place = place * shape[d - 2] + outputs * stride[d] - padding[d] + tap * dilation[d]
    lost = winners == NO_WINNER
    place, grad = (each.masked_fill(lost, 0).reshape(*shape[:-2], -1) for each in (place, grad))
    return grad.new_zeros((*shape[:-2], shape[-2] * shape[-1])).scatter_add(-1, place, grad).view(shape)


def _lying(x: Tensor) -> tuple[int, torch.memory_format]:
    """How many elements are side by side in x [*, H, W] as it can be walked, and what torch calls that."""
    if x.dim() == 4 and not x.is_contiguous() and x.is_contiguous(memory_format=torch.channels_last):
        return x.shape[1], torch.channels_last
    return 1, torch.contiguous_format


@functools.lru_cache(maxsize=256)
def _outputs(size: torch.Size, *about: Any) -> torch.Size:
    return F.max_pool2d(torch.empty(1, *size, device="meta"), *about).shape[-2:]


def _window(size: Any, stride: Any, padding: Any, dilation: Any, ceil_mode: bool) -> list[int]:
    return [*size, *stride, *padding, *dilation]


def _two(value: Any) -> tuple[int, int]:
    """Of H and of W, as torch takes them."""
    return tuple(value) * (1 if len(value) == 2 else 2) if isinstance(value, (tuple, list)) else (value, value)
