"""A norm, a neuron and a pool as one."""

from typing import Any, Literal

from torch import Tensor, nn

from tgo_kernels.call import check_input, check_tensors
from tgo_kernels.layer import Layer
from tgo_kernels.neurons.base import check_choice
from tgo_kernels.norm import check_norm, folded
from tgo_kernels.packing import note_integers


class Block(nn.Module):
    """``pool(neuron(norm(x)))`` over all time steps, x [T, B, C, *], where the norm's output is never made.

    Batch norm is a line for each channel, ``scale x + shift``, that the neuron's pass takes for two constants more, so
    that x alone is kept for the backward, and read once less each way. In training the statistics are those of all
    steps and samples, as of SpikingJelly's multi-step batch norm, and of all processes with ``SyncBatchNorm``; they are
    summed up in fp64, in the same order on any number of threads. In ``eval()`` the line is of the running statistics.
    Outputs and gradients are those of the modules one after the other, to fp32 rounding; there is no second derivative.

    The modules stay what they are: parameters, running statistics, ``momentum``, ``state_dict`` (under ``norm.`` and
    ``neuron.``), :meth:`torch.nn.SyncBatchNorm.convert_sync_batchnorm`. The norm's own forward hooks are not called.
    Where a channel's mean is larger than its deviation, digits are lost that torch keeps: at 3 to 5 times, its weight's
    gradient has 3 to 4 times torch's error, which is rounding, at 100 times one of 4e-5 instead of 4e-6, at 1000 times
    of 7e-4 instead of 4e-5.

    Args:
        norm: a ``torch.nn.BatchNorm1d``, ``2d``, ``3d`` or ``SyncBatchNorm``, or one of SpikingJelly's.
        neuron: a :class:`LIF`, with any of its constants.
        pool: a module for [T B, C, *], such as :class:`MaxPool2d`.
        add: where a residual joins: ``"spikes"``, the output, behind the pool (SEW ADD, arXiv 2102.04159), or
            ``"membrane"``, the normalised current (MS-ResNet, arXiv 2112.08954); then the norm's output is made.

    Raises:
        TypeError, ValueError: naming the argument, what was expected and what came; a residual that is missing, or is
            not as what it is added to.
    """

    def __init__(
        self,
        norm: nn.Module,
        neuron: Layer,
        pool: nn.Module | None = None,
        *,
        add: Literal["membrane", "spikes"] | None = None,
    ) -> None:
        super().__init__()
        check_norm(norm)
        if not isinstance(neuron, Layer):
            raise TypeError(f"neuron must be a layer of tgo_kernels such as LIF, got {type(neuron).__name__}")
        if pool is not None and not isinstance(pool, nn.Module):
            raise TypeError(f"pool must be a torch.nn.Module or None, got {type(pool).__name__}")
        if getattr(pool, "return_indices", False):
            raise ValueError("pool must give its output alone; it has return_indices=True")
        check_choice("add", add, (None, "membrane", "spikes"))
        self.norm, self.neuron, self.pool, self.add = norm, neuron, pool, add

    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        """x [T, B, C, *] to the neuron's output, pooled; ``residual`` as what ``add`` joins it to."""
        if not isinstance(x, Tensor) or x.dim() < 3:
            raise ValueError(
                f"x must be [T, B, C, *], got {tuple(x.shape) if isinstance(x, Tensor) else type(x).__name__}"
            )
        if (residual is None) != (self.add is None):
            raise ValueError(f"add={self.add!r}: a residual is {'missing' if residual is None else 'joined nowhere'}")
        check_tensors(x, None, self.neuron.neuron, self.neuron.impl)
        if residual is not None and (self.add == "membrane" or self.pool is None):
            check_input("residual", residual, x)
        current: Any = folded(self.norm, x, 2)
        y = self.neuron(current + residual if self.add == "membrane" else current)
        if self.pool is not None:
            y = self.pool(y.flatten(0, 1)).unflatten(0, y.shape[:2])
        if residual is not None and self.add == "spikes":
            check_input("residual", residual, y)
            summed = y + residual
            note_integers(summed, y, residual)
            return summed
        return y

    def extra_repr(self) -> str:
        return "" if self.add is None else f"add={self.add!r}"
