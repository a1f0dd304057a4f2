"""Several processes under torchrun: joining them, each one's share of a batch, and batch norm over all of it."""

import atexit
import os

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.nn.functional import all_reduce


def join() -> None:
    """Join the other processes where torchrun started this one; its threads are those that OMP_NUM_THREADS says."""
    if "TORCHELASTIC_RUN_ID" in os.environ and not dist.is_initialized():
        dist.init_process_group("gloo")
        atexit.register(dist.destroy_process_group)  # or else its threads may outlive it, which aborts the process


def rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


def world() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


def share(batch: Tensor) -> Tensor:
    """This process's part of a batch that divides evenly."""
    return batch.chunk(world())[rank()]


def mean(value: float) -> float:
    total = torch.tensor(value, dtype=torch.float64)
    if world() > 1:
        dist.all_reduce(total)
    return total.item() / world()


def gathered(value: object) -> list:
    """Everyone's value, by rank."""
    values: list = [value] * world()
    if world() > 1:
        dist.all_gather_object(values, value)
    return values


def wrapped(model: nn.Module) -> nn.Module:
    """The model as it is trained: with gradients and batch statistics of all processes, where there are several."""
    if world() == 1:
        return model
    for module in model.modules():
        if type(module) is nn.BatchNorm2d:
            module.__class__ = SharedBatchNorm2d
    return nn.parallel.DistributedDataParallel(model)


class SharedBatchNorm2d(nn.BatchNorm2d):
    """Batch norm whose statistics are those of all processes' batches, which are of one size.

    torch's SyncBatchNorm is for GPUs alone.
    """

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return super().forward(x)
        count = world() * x.numel() // x.shape[1]
        x = x - (average := all_reduce(x.sum((0, 2, 3))) / count).view(1, -1, 1, 1)
        variance = all_reduce(x.square().sum((0, 2, 3))) / count
        with torch.no_grad():
            self.num_batches_tracked += 1
            self.running_mean.lerp_(average, self.momentum)
            self.running_var.lerp_(variance * (count / (count - 1)), self.momentum)
        factor = self.weight * (variance + self.eps).rsqrt()
        return x * factor.view(1, -1, 1, 1) + self.bias.view(1, -1, 1, 1)
