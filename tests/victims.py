"""Small networks and images that the tests of tgo_kernels.robustness attack."""

import torch

import tgo_kernels as tgo
from benchmarks.robustness import data, train
from benchmarks.robustness.models import classifier
from tgo_kernels.robustness import Effort

SMALL = {"conv": {"channels": (2, 3)}, "vgg11": {"width": 1 / 64}, "wrn16": {"width": 1}}
LITTLE = Effort(2, 2, 3, 4, 2, 2, 8, 3)


def images(count: int) -> tuple[torch.Tensor, torch.Tensor]:
    x, y = train.tensors(data.load("subset").test)
    return x[:: len(x) // count][:count], y[:: len(y) // count][:count]


def network(name: str = "conv", **options) -> torch.nn.Module:
    torch.manual_seed(0)
    return classifier(name, lambda: tgo.LIF.from_decay(**options), steps=2, **SMALL[name])


def grey(count: int = 60, side: int = 6) -> tuple[torch.Tensor, torch.Tensor]:
    """Images [count, 1, side, side], half of them a little darker and half a little lighter than 1/2; which is which.

    Within 8/255 of each there are images of the other kind.
    """
    torch.manual_seed(0)
    labels = torch.arange(count) % 2
    level = 0.5 + (labels - 0.5) * 6 / 255
    return level.view(-1, 1, 1, 1) + (torch.rand(count, 1, side, side) - 0.5) * 2 / 255, labels


class Scale(torch.nn.Module):
    """Says of images [B, 1, *] whether they are light, by rates of LIF neurons with thresholds around 1/2."""

    def __init__(self, before=lambda x: x, after=lambda x: x, neurons=40, decay=0.0, **options) -> None:
        super().__init__()
        self.before, self.after = before, after
        self.scale = torch.nn.Parameter(torch.linspace(-12, 12, neurons) / 255)
        self.lif = tgo.LIF.from_decay(decay, **options)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        mean = self.before(x).mean((1, 2, 3))
        current = 1 + 30 * (mean[:, None] - 0.5 - self.scale)
        light = self.rates(current.expand(2, *current.shape)).mean((0, 2)) - 0.5
        return self.after(torch.stack([-light, light], 1))

    def rates(self, x: torch.Tensor) -> torch.Tensor:
        return self.lif(x)


class Bowl(torch.nn.Module):
    """Logits of images [B, 1, 2, 2]: how far they are from grey, by weighted squares, and ``floor``."""

    def __init__(self, floor: float) -> None:
        super().__init__()
        self.floor = floor

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        ahead = ((x - 0.5).square() * torch.tensor([[9.0, 1.0], [0.3, 2.0]])).sum((1, 2, 3))
        return torch.stack([ahead, torch.full_like(ahead, self.floor)], 1)
