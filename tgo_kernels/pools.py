"""Max pools that keep their input alone, whose backward finds the winners again."""

import functools
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tgo_kernels.call import DTYPES
from tgo_kernels.library import LIBRARY, below, is_plain

LIBRARY.define("max_pool(Tensor x, Tensor(a!) y, int inner, int[] window) -> ()")
LIBRARY.define("max_pool_bwd(Tensor x, Tensor grad, Tensor(a!) g_x, int inner, int[] window) -> ()")
_forward, _backward = (getattr(torch.ops.tgo_kernels, name).default for name in ("max_pool", "max_pool_bwd"))


class MaxPool2d(nn.MaxPool2d):
    """``nn.MaxPool2d`` that saves its input alone for the backward, and no int64 indices, which are 2 bytes an input of
    a window of 2x2, as much as half of the input; where that is spikes and :func:`pack_spikes` packs them, a bit each.

    The same outputs and, where windows do not overlap, gradients as torch's to the bit (else sums to rounding): the
    winner of a window is the first of the largest, and found again in the backward. fp32, fp16 and bf16 on the CPU,
    contiguous or channels-last; elsewhere, and where it is traced or transformed, it is torch's.

    Raises:
        as ``nn.MaxPool2d``.
    """

    def forward(self, x: Tensor) -> Tensor:
        window = self.kernel_size
        stride = window if self.stride in (None, (), []) else self.stride
        about = *map(_two, (window, stride, self.padding, self.dilation)), self.ceil_mode
        if self.return_indices or not _serves(x):
            return super().forward(x)
        return _MaxPool.apply(x, *about)


def _serves(x: Tensor) -> bool:
    return (
        is_plain(x)
        and x.device.type == "cpu"
        and x.dtype in DTYPES
        and x.dim() in (3, 4)
        and x.numel() > 0
        and torch._C._dispatch_has_kernel_for_dispatch_key("tgo_kernels::max_pool", "CPU")
    )


class _MaxPool(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, *about: Any) -> Tensor:
        ctx.about = about
        ctx.save_for_backward(x)
        x, inner, memory = _lying(x)
        size = (*x.shape[:-2], *_outputs(x.shape[-3:], *about))
        y = torch.empty(size, dtype=x.dtype, device=x.device, memory_format=memory)
        below(_forward, x, y, inner, _window(*about))
        return y

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
        (x,) = ctx.saved_tensors
        again = torch.is_grad_enabled()
        if again or type(grad) is not Tensor or torch._C._functorch.is_legacy_batchedtensor(grad):
            with torch.enable_grad():
                x = x.detach().requires_grad_()
                y = F.max_pool2d(x, *ctx.about)
            return *torch.autograd.grad(y, x, grad, create_graph=again), *[None] * 5
        x, inner, memory = _lying(x)
        g_x = torch.empty_like(x)
        below(_backward, x, grad.contiguous(memory_format=memory), g_x, inner, _window(*ctx.about))
        return g_x, *[None] * 5


def _lying(x: Tensor) -> tuple[Tensor, int, torch.memory_format]:
    """x [*, H, W] as it can be walked, how many elements are side by side, and what torch calls that."""
    if x.dim() == 4 and not x.is_contiguous() and x.is_contiguous(memory_format=torch.channels_last):
        return x, x.shape[1], torch.channels_last
    return x.contiguous(), 1, torch.contiguous_format


@functools.lru_cache(maxsize=256)
def _outputs(size: torch.Size, *about: Any) -> torch.Size:
    return F.max_pool2d(torch.empty(1, *size, device="meta"), *about).shape[-2:]


def _window(size: Any, stride: Any, padding: Any, dilation: Any, ceil_mode: bool) -> list[int]:
    return [*size, *stride, *padding, *dilation]


def _two(value: Any) -> tuple[int, int]:
    """Of H and of W, as torch takes them."""
    return tuple(value) * (1 if len(value) == 2 else 2) if isinstance(value, (tuple, list)) else (value, value)
