"""The networks that are trained and attacked."""

from collections.abc import Callable
from itertools import pairwise

from torch import Tensor, nn

import tgo_kernels as tgo

MEAN, STD = 0.286, 0.353  # of Fashion-MNIST's training pixels in [0, 1]


class ConvSNN(nn.Module):
    """A convolutional spiking network: (conv, batch norm, LIF, pool) for each of ``channels``, then a linear layer.

    Images [B, 1, 28, 28] in [0, 1] -> logits [B, classes], the mean over ``steps`` time steps. The image is the input
    current of every step, so the first convolution runs once. Everything but the neurons sees time as part of the
    batch. The normalisation is inside, so that attacks work on pixels.
    """

    def __init__(
        self, lif: Callable[[], nn.Module], channels: tuple[int, ...] = (16, 32, 64), steps: int = 4, classes: int = 10
    ) -> None:
        super().__init__()
        self.steps = steps
        self.currents = nn.ModuleList(
            nn.Sequential(nn.Conv2d(i, o, 3, padding=1, bias=False), nn.BatchNorm2d(o))
            for i, o in pairwise((1, *channels))
        )
        self.neurons = nn.ModuleList(lif() for _ in channels)
        self.pool = nn.AvgPool2d(2)
        side = 28 // 2 ** len(channels)
        self.readout = nn.Linear(channels[-1] * side * side, classes)

    def forward(self, images: Tensor) -> Tensor:
        x = self.currents[0]((images - MEAN) / STD).expand(self.steps, -1, -1, -1, -1)
        for i, neurons in enumerate(self.neurons):
            if i > 0:
                x = fold(self.currents[i], x)
            x = fold(self.pool, neurons(x))
        return self.readout(x.mean(0).flatten(1))


def fold(layer: nn.Module, x: Tensor) -> Tensor:
    """``layer`` applied to [T, B, *] with time folded into the batch."""
    return layer(x.flatten(0, 1)).unflatten(0, x.shape[:2])


def lif_layers(model: nn.Module) -> list[tgo.LIF]:
    return [module for module in model.modules() if isinstance(module, tgo.LIF)]
