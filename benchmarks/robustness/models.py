"""The networks that are trained and attacked: a small convolutional one, VGG-11 and WRN-16, all on ``tgo.LIF``.

Each is a ``Sequential`` over [T, B, *] whose first layer has no state, so that :class:`Classifier` can run it once for
a still image.
"""

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise

from torch import Tensor, nn

import tgo_kernels as tgo
from tgo_kernels import OverTime

MEAN, STD = 0.286, 0.353  # of Fashion-MNIST's training pixels in [0, 1]
VGG11 = (64, "pool", 128, "pool", 256, 256, "pool", 512, 512, "pool", 512, 512, "pool")
Neurons = Callable[[], nn.Module]


def conv_bn(before: int, after: int, size: int = 3, stride: int = 1) -> OverTime:
    convolution = nn.Conv2d(before, after, size, stride, padding=size // 2, bias=False)
    return OverTime(convolution, nn.BatchNorm2d(after))


def conv(lif: Neurons, channels: tuple[int, ...] = (16, 32, 64), inputs: int = 1, classes: int = 10) -> nn.Sequential:
    """(convolution, batch norm, LIF, pool) for each of ``channels``, then a linear layer; for images of 28 x 28."""
    layers: list[nn.Module] = []
    for before, after in pairwise((inputs, *channels)):
        layers += [conv_bn(before, after), lif(), OverTime(nn.AvgPool2d(2))]
    side = 28 // 2 ** len(channels)
    return nn.Sequential(*layers, OverTime(nn.Flatten(), nn.Linear(channels[-1] * side * side, classes)))


def vgg11(lif: Neurons, width: float = 1.0, inputs: int = 1, classes: int = 10, hidden: int = 4096) -> nn.Sequential:
    """VGG-11 (arXiv 1409.1556, A) with batch norm, for 32 x 32; ``width`` scales its channels and ``hidden``."""
    layers: list[nn.Module] = []
    before = inputs
    for channels in VGG11:
        if isinstance(channels, str):
            layers.append(OverTime(nn.MaxPool2d(2)))
            continue
        after = max(1, int(channels * width))
        layers += [conv_bn(before, after), lif()]
        before = after
    hidden = max(1, int(hidden * width))
    layers += [OverTime(nn.Flatten(), nn.Linear(before, hidden)), lif()]
    return nn.Sequential(*layers, OverTime(nn.Linear(hidden, hidden)), lif(), OverTime(nn.Linear(hidden, classes)))


def wrn16(lif: Neurons, width: int = 4, inputs: int = 1, classes: int = 10) -> nn.Sequential:
    """WRN-16 (arXiv 1605.07146): three groups of two residual blocks, ``width`` times 16, 32 and 64 channels."""
    channels = (16, 16 * width, 32 * width, 64 * width)
    blocks: list[nn.Module] = []
    for group, (before, after) in enumerate(pairwise(channels)):
        blocks += [Block(lif, before, after, 1 if group == 0 else 2), Block(lif, after, after, 1)]
    head = OverTime(nn.BatchNorm2d(channels[-1])), lif(), OverTime(nn.AdaptiveAvgPool2d(1), nn.Flatten())
    stem = OverTime(nn.Conv2d(inputs, channels[0], 3, padding=1, bias=False))
    return nn.Sequential(stem, *blocks, *head, OverTime(nn.Linear(channels[-1], classes)))


class Block(nn.Module):
    """Pre-activation residual block: (batch norm, LIF, convolution) twice, beside a shortcut."""

    def __init__(self, lif: Neurons, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.norm, self.first = OverTime(nn.BatchNorm2d(before)), lif()
        self.between, self.second = conv_bn(before, after, stride=stride), lif()
        self.last = OverTime(nn.Conv2d(after, after, 3, padding=1, bias=False))
        same = before == after and stride == 1
        self.shortcut = None if same else OverTime(nn.Conv2d(before, after, 1, stride, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        spikes = self.first(self.norm(x))
        return self.last(self.second(self.between(spikes))) + (x if self.shortcut is None else self.shortcut(spikes))


NETWORKS: dict[str, tuple[Callable[..., nn.Sequential], int]] = {  # and the side of the images that they take
    "conv": (conv, 28),
    "vgg11": (vgg11, 32),
    "wrn16": (wrn16, 32),
}


class Classifier(nn.Module):
    """Images [B, C, H, W] in [0, 1] -> logits [B, classes], the mean over ``steps`` time steps.

    The image is the input current of every step, so the first layer runs once. The normalisation is inside, so that
    attacks work on pixels; smaller images are padded to ``side``. With an ``encoder``, images [B, C, H, W] to
    [steps, B, C, H, W], its output is what the first layer sees, step by step.
    """

    def __init__(
        self, layers: nn.Sequential, side: int = 28, steps: int = 4, encoder: Callable[[Tensor], Tensor] | None = None
    ) -> None:
        super().__init__()
        self.layers, self.side, self.steps, self.encoder = layers, side, steps, encoder

    def forward(self, images: Tensor) -> Tensor:
        if self.encoder is not None:
            return self.layers(self.encoder(images)).mean(0)
        border = self.side - images.shape[-1]
        x = nn.functional.pad((images - MEAN) / STD, [border // 2, border - border // 2] * 2, value=-MEAN / STD)
        first, *others = self.layers
        x = first(x.unsqueeze(0)).expand(self.steps, -1, -1, -1, -1)
        for layer in others:
            x = layer(x)
        return x.mean(0)


class Pixels(nn.Module):
    """The image as it is, every step: what layers of excitation and inhibition ask for, whose inputs are >= 0."""

    def __init__(self, steps: int) -> None:
        super().__init__()
        self.steps = steps

    def forward(self, images: Tensor) -> Tensor:
        return images.expand(self.steps, *images.shape)

    def extra_repr(self) -> str:
        return f"steps={self.steps}"


class Poisson(Pixels):
    """Spikes of either sign (arXiv 2003.10399, its code): with x = 2 pixel - 1, sign(x) with the probability |x|.

    In ``eval()`` the currents x themselves are given, unless it is ``on``. The gradient is that of x: straight through.
    """

    on = False

    def switch(self, on: bool) -> None:
        self.on = on

    def forward(self, images: Tensor) -> Tensor:
        x = 2 * images - 1
        return tgo.poisson(x, self.steps, signed=True) if self.training or self.on else super().forward(x)


def classifier(name: str, lif: Neurons, steps: int = 4, **sizes) -> Classifier:
    """The untrained network of this name; ``sizes`` are those of its function. Raises KeyError for another name."""
    make, side = NETWORKS[name]
    return Classifier(make(lif, **sizes), side, steps)


def lif_layers(model: nn.Module) -> list[tgo.LIF]:
    return [module for module in model.modules() if isinstance(module, tgo.LIF)]


def with_noise(model: nn.Module, noise_std: float) -> nn.Module:
    """The model itself, its neurons from now on this noisy: the control of one that was trained with that noise.

    What has learned its noise keeps it.
    """
    for layer in model.modules():
        if isinstance(layer, tgo.Layer) and not layer._learn_noise:
            layer.neuron = replace(layer.neuron, noise_std=noise_std)
    return model
