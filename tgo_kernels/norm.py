"""Batch norm in front of a neuron, as two constants of each channel: ``scale x + shift``."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import _verify_batch_size  # type: ignore[attr-defined]

from tgo_kernels import kernels
from tgo_kernels.layout import like
from tgo_kernels.library import LIBRARY, Function, below, is_one, is_plain
from tgo_kernels.neurons.base import state_dtype
from tgo_kernels.normed import Normed
from tgo_kernels.packing import note

# Of x, dense, [outer, channels, inner] in memory: mean and biased variance, [2, channels] fp64.
LIBRARY.define("channel_moments(Tensor x, int channels, int inner) -> Tensor")
# Scale, shift, mean and inverse deviation, [channels, 1, ...] of so many dims; the running statistics are updated.
LIBRARY.define(
    "norm_line(Tensor moments, float count, Tensor? weight, Tensor? bias, Tensor(a!)? running_mean, "
    "Tensor(b!)? running_var, float factor, float eps, int dims) -> (Tensor, Tensor, Tensor, Tensor)"
)
# The weight's gradient, and slope and offset of add_affine.
LIBRARY.define(
    "norm_grad(Tensor mean, Tensor inverse, Tensor scale, Tensor? g_scale, Tensor? g_shift, float count) "
    "-> (Tensor, Tensor, Tensor)"
)
LIBRARY.define(
    "add_affine(Tensor(a!) g, Tensor x, Tensor slope, Tensor offset, int inner) -> ()"
)  # g += slope x + offset
_channel_moments, _norm_line, _norm_grad, _add_affine = (
    getattr(torch.ops.tgo_kernels, name).default for name in ("channel_moments", "norm_line", "norm_grad", "add_affine")
)
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)


def check_norm(norm: nn.Module) -> None:
    """That it is a batch norm of torch, or SpikingJelly's: with another forward, other initial weights (tdBN, arXiv
    2011.05280), or a weight of each time step (TEBN, NeurIPS 2022)."""
    kind = getattr(norm, "_made_of", (None, type(norm)))[1]  # of one that fuse() found
    theirs = isinstance(norm, NORMS) or kind.__name__.startswith(("ThresholdDependentBatch", "TemporalEffectiveBatch"))
    ours = kind in NORMS or (theirs and kind.__module__.startswith("spikingjelly."))
    if not ours or isinstance(norm, nn.modules.lazy.LazyModuleMixin):
        what = f"{kind.__module__}.{kind.__name__}"
        raise TypeError(f"norm must be a torch.nn.BatchNorm1d, 2d, 3d or SyncBatchNorm that is initialised, got {what}")


def folded(norm: Any, x: Tensor, channel: int) -> Normed:
    """The norm of x [*, C, *], whose statistics in training are those of all that is before the channels and after.

    The running ones are updated, as by the norm itself.
    """
    normed = _folded(norm, x, channel)
    if "scale" not in norm._parameters:
        return normed
    steps = norm.scale.to(normed.scale.dtype).view(-1, *[1] * (x.dim() - 1))  # TEBN's
    return Normed(normed.x, normed.scale * steps, normed.shift * steps)


def _folded(norm: Any, x: Tensor, channel: int) -> Normed:
    try:
        norm._check_input_dim(x if channel == 1 else x[0])
    except ValueError as error:
        raise ValueError(f"{type(norm).__name__} takes other x [T, B, C, *] than {tuple(x.shape)}") from error
    if x.shape[channel] != norm.num_features:
        raise ValueError(f"norm has {norm.num_features} channels, but x [T, B, C, *] is {tuple(x.shape)}")
    dtype = state_dtype(x.dtype)
    weight, bias = (None if each is None else each.to(dtype).contiguous() for each in (norm.weight, norm.bias))
    about = weight, bias, norm.eps, x.dim() - channel
    if not norm.training and norm.running_mean is not None and norm.running_var is not None:
        return Normed(x, *_line(torch.stack((norm.running_mean, norm.running_var)), dtype, *about)[:2])
    if x.numel() == 0:
        raise ValueError(f"x must have time steps and samples for a norm in training, got shape {tuple(x.shape)}")
    if _group(norm) is None:
        _verify_batch_size([x.shape[:channel].numel(), *x.shape[channel:]])
    if is_plain(x):
        note(x)
        return Normed(*_Fold.plainly(x, weight, bias, norm, channel))
    moments, count = _over_processes(_moments_of_torch(x, channel), x.numel() // norm.num_features, _group(norm))
    _update(moments, count, *_running(norm))
    return Normed(x, *_line(moments, dtype, *about)[:2])


def _line(
    moments: Tensor, dtype: torch.dtype, weight: Tensor | None, bias: Tensor | None, eps: float, dims: int
) -> tuple[Tensor, ...]:
    """Scale, shift, mean and inverse deviation, [C, 1, ...] of so many dimensions."""
    mean, inverse = moments[0].to(dtype), (moments[1] + eps).rsqrt().to(dtype)
    scale = inverse.clone() if weight is None else weight * inverse
    shift = -mean * scale if bias is None else bias - mean * scale
    return tuple(each.reshape(-1, *[1] * (dims - 1)) for each in (scale, shift, mean, inverse))


def _group(norm: Any) -> Any:
    """The processes whose statistics are one, if there are others."""
    if not isinstance(norm, nn.SyncBatchNorm) or not norm.training:
        return None
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return None
    group = norm.process_group or torch.distributed.group.WORLD
    return group if torch.distributed.get_world_size(group) > 1 else None


def _moments_of_torch(x: Tensor, channel: int) -> Tensor:
    dims = [d for d in range(x.dim()) if d != channel]
    variance, mean = torch.var_mean(x.to(state_dtype(x.dtype)), dims, correction=0)
    return torch.stack((mean, variance))


def _over_processes(moments: Tensor, count: int, group: Any) -> tuple[Tensor, float | Tensor]:
    """The moments of all processes' x, and how many elements a channel has in all."""
    if group is None:
        return moments, count
    mean, variance = moments
    sums = torch.cat((mean * count, (variance + mean * mean) * count, mean.new_tensor([count])))
    if moments.requires_grad:
        sums = torch.distributed.nn.functional.all_reduce(sums, group=group)  # type: ignore[attr-defined]
    else:
        torch.distributed.all_reduce(sums, group=group)
    total = sums[-1]
    mean, squares = (sums[:-1] / total).view(2, -1)
    return torch.stack((mean, (squares - mean * mean).clamp(min=0))), total


def _running(norm: Any) -> tuple[list[Tensor], float | Tensor]:
    """The running mean and variance that a call updates, if it does, and by how much."""
    if not (norm.training and norm.track_running_stats) or norm.running_mean is None:
        return [], 0.0
    factor = norm.momentum
    if norm.num_batches_tracked is not None:
        norm.num_batches_tracked.add_(1)
        if factor is None:
            factor = 1.0 / norm.num_batches_tracked.double()
    return [norm.running_mean, norm.running_var], factor


@torch.no_grad()
def _update(moments: Tensor, count: float | Tensor, running: Sequence[Tensor], factor: float | Tensor) -> None:
    for old, new in zip(running, (moments[0], moments[1] * (count / (count - 1))), strict=False):
        old.copy_(factor * new + (1 - factor) * old.to(new.dtype))


class _Fold(Function):
    """The line from the statistics of x, which goes through: to its gradient comes that through the statistics.

    With ``g`` the gradient of ``z = scale x + shift``, ``n`` elements a channel, and ``d = 1 / sqrt(variance + eps)``::

        dL/dscale = sum g x,    dL/dshift = sum g
        dL/dbias = dL/dshift,   dL/dweight = d (dL/dscale - mean dL/dshift)
        dL/dx = scale g + slope x + offset
        slope = -d^2 scale (dL/dscale - mean dL/dshift) / n,    offset = -scale dL/dshift / n - slope mean
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor | None, bias: Tensor | None, norm: Any, channel: int
    ) -> tuple[Tensor, ...]:
        dense, inner = _lying(x, channel)
        channels, group = x.shape[channel], _group(norm)
        fast = kernels.serve(x)
        found = below(_channel_moments, dense, channels, inner) if fast else _moments_of_torch(x, channel)
        moments, count = _over_processes(found, x.numel() // channels, group)
        running, factor = _running(norm)
        if fast and group is None and all(each.dtype == torch.float32 and each.is_contiguous() for each in running):
            about = float(factor), norm.eps, x.dim() - channel
            line = below(_norm_line, moments, count, weight, bias, *(running or (None, None)), *about)
        else:
            _update(moments, count, running, factor)
            line = _line(moments, state_dtype(x.dtype), weight, bias, norm.eps, x.dim() - channel)
        scale, shift, mean, inverse = line
        ctx.about = channel, group, count, weight is not None, bias is not None
        ctx.save_for_backward(x, mean, inverse, scale)
        ctx.set_materialize_grads(False)
        return x, scale, shift

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, g_x: Tensor | None, g_scale: Tensor | None, g_shift: Tensor | None) -> tuple[Any, ...]:
        x, mean, inverse, scale = ctx.saved_tensors
        channel, group, count, has_weight, has_bias = ctx.about
        plain = all(each is None or is_one(each) for each in (g_x, g_scale, g_shift))
        if plain and group is None and kernels.serve(x):
            g_line = (None if g is None else g.contiguous() for g in (g_scale, g_shift))  # one number for all is not
            g_weight, slope, offset = below(_norm_grad, mean, inverse, scale, *g_line, count)
        else:
            none = torch.zeros_like(scale)
            g_scale, g_shift = none if g_scale is None else g_scale, none if g_shift is None else g_shift
            centred = g_scale - mean * g_shift
            g_weight, sums = centred * inverse, torch.stack((centred, g_shift))
            if group is not None:
                torch.distributed.all_reduce(sums, group=group)
            slope = (-inverse * inverse * scale * sums[0] / count).to(scale.dtype)
            offset = (-scale * sums[1] / count).to(scale.dtype) - slope * mean
        g_x = _with_line(g_x, x, slope, offset, channel, plain) if ctx.needs_input_grad[0] else None
        g_bias = g_shift.reshape(-1) if has_bias and g_shift is not None else None
        return g_x, g_weight.reshape(-1) if has_weight else None, g_bias, None, None


def _with_line(g: Tensor | None, x: Tensor, slope: Tensor, offset: Tensor, channel: int, plain: bool) -> Tensor:
    """g + slope x + offset; in g, which is the scan's alone."""
    if g is not None and plain and kernels.serve(x):
        x, inner = _lying(x, channel)
        g = like(x, g)
        below(_add_affine, g, x, slope, offset, inner)
        return g
    slope, offset = (each.reshape(-1, *[1] * (x.dim() - 1 - channel)) for each in (slope, offset))
    line = torch.addcmul(offset, x.to(slope.dtype), slope)
    return (line if g is None else g + line).to(x.dtype)


def _lying(x: Tensor, channel: int) -> tuple[Tensor, int]:
    """x, dense, and how many elements of a channel are side by side in memory."""
    if not torch.ops.aten.is_non_overlapping_and_dense.default(x):
        x = x.contiguous()
    channels = x.shape[channel]
    return x, x.stride(channel) if channels > 1 else max(x.numel() // channels, 1)
