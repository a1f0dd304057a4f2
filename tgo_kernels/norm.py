"""Batch norm in front of a neuron, as two constants of each channel: ``scale x + shift``."""

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import _verify_batch_size  # type: ignore[attr-defined]
from torch.utils._pytree import tree_map

from tgo_kernels.call import DTYPES
from tgo_kernels.layout import like
from tgo_kernels.library import LIBRARY, below, is_plain
from tgo_kernels.neurons.base import state_dtype

# Of x, dense, [outer, channels, inner] in memory: mean and biased variance, [2, channels] fp64.
LIBRARY.define("channel_moments(Tensor x, int channels, int inner) -> Tensor")
LIBRARY.define(
    "add_affine(Tensor(a!) g, Tensor x, Tensor slope, Tensor offset, int inner) -> ()"
)  # g += slope x + offset
_channel_moments, _add_affine = (
    getattr(torch.ops.tgo_kernels, name).default for name in ("channel_moments", "add_affine")
)
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)


def check_norm(norm: nn.Module) -> None:
    """That it is a batch norm of torch, or SpikingJelly's: with another forward, or other initial weights (tdBN)."""
    kind = getattr(norm, "_made_of", (None, type(norm)))[1]  # of one that fuse() found
    theirs = isinstance(norm, NORMS) or kind.__name__.startswith("ThresholdDependentBatchNorm")
    ours = kind in NORMS or (theirs and kind.__module__.startswith("spikingjelly."))
    if not ours or isinstance(norm, nn.modules.lazy.LazyModuleMixin):
        what = f"{kind.__module__}.{kind.__name__}"
        raise TypeError(f"norm must be a torch.nn.BatchNorm1d, 2d, 3d or SyncBatchNorm that is initialised, got {what}")


class Normed:
    """What a batch norm makes of ``x``, as long as nobody asks for it: ``scale x + shift``, the same for each channel.

    A neuron takes the line for its own; whatever else is done with it is done with the tensor that it stands for.
    """

    def __init__(self, x: Tensor, scale: Tensor, shift: Tensor, channel: int) -> None:
        self.x, self.line, self.channel = x, (scale, shift), channel
        self._tensor: Tensor | None = None
        self._with_graph = torch.is_grad_enabled()

    def tensor(self) -> Tensor:
        self._check_graph(torch.is_grad_enabled() and not self._with_graph)
        if self._tensor is None:
            with torch.set_grad_enabled(self._with_graph):
                scale, shift = (each.reshape(-1, *[1] * (self.x.dim() - 1 - self.channel)) for each in self.line)
                self._tensor = torch.addcmul(shift, self.x.to(scale.dtype), scale).to(self.x.dtype)
        return self._tensor

    @staticmethod
    def _check_graph(lost: bool) -> None:
        """A Function, such as that of a checkpoint, knows no input and output that is no tensor."""
        if lost:
            raise RuntimeError(
                "a fused norm and its neuron are on two sides of torch.no_grad(), or of a checkpoint, where the "
                "gradient would be lost: give the checkpoint use_reentrant=False, or do not fuse them"
            )

    def for_neuron(self) -> tuple[Tensor, tuple[Tensor, Tensor] | None]:
        """x and the line; or the tensor, where the channels are not those of [T, B, C, *]."""
        self._check_graph(torch.is_grad_enabled() != self._with_graph)
        return (self.x, self.line) if self.channel == 2 else (self.tensor(), None)

    def _seen(self, name: str, *args: Any, **kwargs: Any) -> Any:
        """Another view of the leading dimensions is the same of x; all else is of the tensor."""
        x = getattr(self.x, name)(*args, **kwargs)
        within = self.x.dim() - self.channel
        if x.dim() > within and x.shape[x.dim() - within :] == self.x.shape[self.channel :]:
            return Normed(x, *self.line, x.dim() - within)
        return getattr(self.tensor(), name)(*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        if name in ("shape", "dtype", "device", "ndim", "dim", "size", "numel", "requires_grad", "is_cuda", "layout"):
            return getattr(self.x, name)
        return partial(self._seen, name) if name in VIEWS else getattr(self.tensor(), name)

    @classmethod
    def __torch_function__(cls, function: Any, _: Any, args: Any = (), kwargs: Any = None) -> Any:
        args, kwargs = tree_map(lambda each: each.tensor() if isinstance(each, cls) else each, (args, kwargs or {}))
        return function(*args, **kwargs)


VIEWS = ("flatten", "unflatten", "view", "reshape", "contiguous")


def _of_the_tensor(name: str) -> Any:
    def call(self: Normed, *others: Any) -> Any:
        return getattr(self.tensor(), name)(*(each.tensor() if isinstance(each, Normed) else each for each in others))

    return call


for _name in (
    *(f"__{way}{name}__" for way in ("", "r") for name in ("add", "sub", "mul", "truediv", "matmul", "pow")),
    *("__neg__", "__abs__", "__getitem__", "__len__", "__iter__", "__lt__", "__le__", "__gt__", "__ge__", "__eq__"),
    *("__ne__", "__and__", "__or__", "__invert__", "__bool__", "__float__", "__int__"),
):
    setattr(Normed, _name, _of_the_tensor(_name))


def folded(norm: Any, x: Tensor) -> Normed:
    """The norm of x [T, B, C, *], whose statistics in training are those of all steps and samples.

    The running ones are updated, as by the norm itself on [T B, C, *].
    """
    try:
        norm._check_input_dim(x[0])
    except ValueError as error:
        raise ValueError(f"{type(norm).__name__} takes other x [T, B, C, *] than {tuple(x.shape)}") from error
    if x.shape[2] != norm.num_features:
        raise ValueError(f"norm has {norm.num_features} channels, but x [T, B, C, *] is {tuple(x.shape)}")
    dtype = state_dtype(x.dtype)
    weight, bias = (None if each is None else each.to(dtype) for each in (norm.weight, norm.bias))
    if not norm.training and norm.running_mean is not None and norm.running_var is not None:
        mean, inverse = norm.running_mean.to(dtype), (norm.running_var.to(dtype) + norm.eps).rsqrt()
        return Normed(x, *_line(mean, inverse, weight, bias), 2)
    if x.numel() == 0:
        raise ValueError(f"x must have time steps and samples for a norm in training, got shape {tuple(x.shape)}")
    group = _group(norm)
    if group is None:
        _verify_batch_size([x.shape[0] * x.shape[1], *x.shape[2:]])
    if is_plain(x):
        x, scale, shift, moments, count = _Fold.apply(x, weight, bias, norm.eps, group)
        _update(norm, moments, count)
        return Normed(x, scale, shift, 2)
    moments, count = _over_processes(_moments_of_torch(x), x, group)
    _update(norm, moments, count)
    mean, inverse = moments[0].to(dtype), (moments[1] + norm.eps).rsqrt().to(dtype)
    return Normed(x, *_line(mean, inverse, weight, bias), 2)


def _line(mean: Tensor, inverse: Tensor, weight: Tensor | None, bias: Tensor | None) -> tuple[Tensor, Tensor]:
    scale = inverse if weight is None else weight * inverse
    shift = -mean * scale
    return scale, shift if bias is None else bias + shift


def _group(norm: Any) -> Any:
    """The processes whose statistics are one, if there are others."""
    if not isinstance(norm, nn.SyncBatchNorm) or not norm.training:
        return None
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return None
    group = norm.process_group or torch.distributed.group.WORLD
    return group if torch.distributed.get_world_size(group) > 1 else None


def _moments_of_torch(x: Tensor) -> Tensor:
    dims = [d for d in range(x.dim()) if d != 2]
    variance, mean = torch.var_mean(x.to(state_dtype(x.dtype)), dims, correction=0)
    return torch.stack((mean, variance))


def _moments(x: Tensor, inner: int) -> Tensor:
    if _native(x):
        return below(_channel_moments, x, x.shape[2], inner)
    return _moments_of_torch(x)


def _over_processes(moments: Tensor, x: Tensor, group: Any) -> tuple[Tensor, float | Tensor]:
    """The moments of all processes' x, and how many elements a channel has in all."""
    count = x.numel() // x.shape[2]
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


@torch.no_grad()
def _update(norm: Any, moments: Tensor, count: float | Tensor) -> None:
    """The running statistics, as torch does."""
    if not (norm.training and norm.track_running_stats) or norm.running_mean is None:
        return
    factor = norm.momentum
    if norm.num_batches_tracked is not None:
        norm.num_batches_tracked.add_(1)
        if factor is None:
            factor = 1.0 / norm.num_batches_tracked.double()
    unbiased = count / (count - 1)
    for running, new in ((norm.running_mean, moments[0]), (norm.running_var, moments[1] * unbiased)):
        running.copy_(factor * new + (1 - factor) * running.to(new.dtype))


class _Fold(torch.autograd.Function):
    """Scale and shift from the statistics of x, which goes through: to its gradient comes that through the statistics.

    With ``g`` the gradient of ``z = scale x + shift``, ``n`` elements a channel, and ``d = 1 / sqrt(variance + eps)``::

        dL/dscale = sum g x,    dL/dshift = sum g
        dL/dbias = dL/dshift,   dL/dweight = d (dL/dscale - mean dL/dshift)
        dL/dx = scale g + slope x + offset
        slope = -d^2 scale (dL/dscale - mean dL/dshift) / n,    offset = -scale dL/dshift / n - slope mean
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float, group: Any
    ) -> tuple[Any, ...]:
        dense, inner = _lying(x)
        moments, count = _over_processes(_moments(dense, inner), x, group)
        dtype = state_dtype(x.dtype)
        mean, inverse = moments[0].to(dtype), (moments[1] + eps).rsqrt().to(dtype)
        scale, shift = _line(mean, inverse, weight, bias)
        if weight is None:
            scale = scale.clone()
        ctx.group, ctx.count, ctx.has = group, count, (weight is not None, bias is not None)
        ctx.save_for_backward(x, mean, inverse, scale)
        ctx.mark_non_differentiable(moments, *([count] if isinstance(count, Tensor) else []))
        ctx.set_materialize_grads(False)
        return x, scale, shift, moments, count

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(
        ctx: Any, g_x: Tensor | None, g_scale: Tensor | None, g_shift: Tensor | None, *_: Any
    ) -> tuple[Any, ...]:
        x, mean, inverse, scale = ctx.saved_tensors
        none = torch.zeros_like(scale)
        g_scale, g_shift = none if g_scale is None else g_scale, none if g_shift is None else g_shift
        centred = g_scale - mean * g_shift
        has_weight, has_bias = ctx.has
        g_weight, g_bias = centred * inverse if has_weight else None, g_shift if has_bias else None
        if not ctx.needs_input_grad[0]:
            return None, g_weight, g_bias, None, None
        if ctx.group is not None:
            sums = torch.cat((centred, g_shift))
            torch.distributed.all_reduce(sums, group=ctx.group)
            centred, g_shift = sums.chunk(2)
        slope = -inverse * inverse * scale * centred / ctx.count
        offset = -scale * g_shift / ctx.count - slope * mean
        return _with_line(g_x, x, slope.to(scale.dtype), offset.to(scale.dtype)), g_weight, g_bias, None, None


def _with_line(g: Tensor | None, x: Tensor, slope: Tensor, offset: Tensor) -> Tensor:
    """g + slope x + offset; in g, which is the scan's alone."""
    if g is not None and slope.dim() == 1 and type(g) is Tensor and not torch._C._functorch.is_legacy_batchedtensor(g):
        x, inner = _lying(x)
        if _native(x):
            g = like(x, g)
            below(_add_affine, g, x, slope.contiguous(), offset.contiguous(), inner)
            return g
    across = [*slope.shape, *[1] * (x.dim() - 3)]
    line = torch.addcmul(offset.reshape(across), x.to(slope.dtype), slope.reshape(across))
    return (line if g is None else g + line).to(x.dtype)


def _lying(x: Tensor) -> tuple[Tensor, int]:
    """x [T, B, C, *], dense, and how many elements of a channel are side by side in memory."""
    if not torch.ops.aten.is_non_overlapping_and_dense.default(x):
        x = x.contiguous()
    channels = x.shape[2]
    return x, x.stride(2) if channels > 1 else max(x.numel() // channels, 1)


def _native(x: Tensor) -> bool:
    return x.device.type == "cpu" and x.dtype in DTYPES and x.numel() > 0 and _HAS_NATIVE


_HAS_NATIVE = torch._C._dispatch_has_kernel_for_dispatch_key("tgo_kernels::add_affine", "CPU")
