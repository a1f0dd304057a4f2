"""The networks of ``benchmarks.networks``, and the engines that run them, each as its documentation has it."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

import tgo_kernels as tgo
from benchmarks.robustness.models import conv_bn, vgg11

CLASSES = 10
Neurons = Callable[[], nn.Module]


def _plain() -> nn.Module:
    return tgo.LIF(detach_reset=True)


def _eager() -> nn.Module:
    return tgo.LIF(detach_reset=True, impl="reference")


def _spikingjelly() -> nn.Module:
    from spikingjelly.activation_based import neuron, surrogate

    class Node(neuron.LIFNode):
        def forward(self, x: Tensor) -> Tensor:
            self.reset()
            return super().forward(x)

    return Node(2.0, surrogate_function=surrogate.ATan(), detach_reset=True, step_mode="m")


def _snntorch() -> nn.Module:
    """The same neuron: decay 1/2, reset to zero in the step of the spike; its input is not scaled, so x is."""
    import snntorch
    from snntorch.surrogate import atan

    class Leaky(snntorch.Leaky):
        def forward(self, x: Tensor) -> Any:
            mem, spikes = self.init_leaky(), []
            for current in x:
                spike, mem = super().forward(0.5 * current, mem)
                spikes.append(spike)
            return torch.stack(spikes)

    return Leaky(beta=0.5, spike_grad=atan(2.0), reset_mechanism="zero", reset_delay=False)


class Engine(NamedTuple):
    neuron: Neurons
    fuses: bool = False
    level: Literal["output", "bits"] | None = None
    compiles: bool = False
    checkpoints: bool = False  # memopt's level 1; those above it search on a GPU

    def around(self) -> AbstractContextManager:
        return tgo.pack_spikes(level=self.level) if self.level else nullcontext()

    def prepared(self, model: nn.Module, images: Tensor, blocks: tuple[type, ...]) -> Any:
        if self.fuses:
            tgo.fuse(model)
        if self.checkpoints:
            from spikingjelly.activation_based import memopt

            memopt.optimize_memory(model, blocks, lambda model: model(images), level=1)
        return torch.compile(model) if self.compiles else model


ENGINES = {
    "eager": Engine(_eager),
    "torch.compile": Engine(_eager, compiles=True),
    "snnTorch": Engine(_snntorch),
    "SpikingJelly": Engine(_spikingjelly),
    "SpikingJelly, memopt 1": Engine(_spikingjelly, checkpoints=True),
    "tgo_kernels, LIF alone": Engine(_plain),
    "packed": Engine(_plain, level="output"),
    "fused": Engine(_plain, fuses=True),
    "fused and packed": Engine(_plain, fuses=True, level="output"),
    "fused, bits alone": Engine(_plain, fuses=True, level="bits"),
}


class Unit(nn.Sequential):
    """A layer, its norm and its neuron: what memopt takes for a block."""


def _in_units(layers: nn.Sequential) -> nn.Sequential:
    found: list[nn.Module] = []
    for layer in layers:
        norm = found and isinstance(found[-1], tgo.OverTime) and any(isinstance(m, nn.BatchNorm2d) for m in found[-1])
        found.append(Unit(found.pop(), layer) if norm and not isinstance(layer, (tgo.OverTime, SEW)) else layer)
    return nn.Sequential(*found)


class SEW(nn.Module):
    """A block of SEW-ResNet (arXiv 2102.04159, figure 2c): the residual joins the spikes, g = ADD."""

    def __init__(self, neuron: Neurons, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.first, self.fire1 = conv_bn(before, after, 3, stride), neuron()
        self.second, self.fire2 = conv_bn(after, after), neuron()
        same = stride == 1 and before == after
        self.down = nn.Identity() if same else nn.Sequential(conv_bn(before, after, 1, stride), neuron())

    def forward(self, x: Tensor) -> Tensor:
        return self.fire2(self.second(self.fire1(self.first(x)))) + self.down(x)


def sew_resnet18(neuron: Neurons) -> nn.Sequential:
    """SEW-ResNet-18 with ADD, as for ImageNet: a stem of stride 2 and a max pool."""
    layers: list[nn.Module] = [conv_bn(3, 64, 7, 2), neuron(), tgo.OverTime(nn.MaxPool2d(3, 2, 1))]
    before = 64
    for after in (64, 128, 256, 512):
        layers += [SEW(neuron, before, after, 1 if after == 64 else 2), SEW(neuron, after, after, 1)]
        before = after
    return nn.Sequential(*layers, tgo.OverTime(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, CLASSES)))


class Network(NamedTuple):
    images: tuple[int, ...]  # [T, B, C, H, W], B as in the figures
    ours: Callable[[Neurons], nn.Sequential] | None = None
    theirs: Callable[[], tuple[nn.Module, type]] | None = None  # SpikingJelly's model, and what is a block of it

    def has(self, engine: str) -> bool:
        return self.ours is not None or engine not in ("snnTorch", "torch.compile")

    def build(self, engine: str, images: Tensor) -> Any:
        how = ENGINES[engine]
        if self.ours is not None:
            model = self.ours(how.neuron)
            return how.prepared(_in_units(model) if how.checkpoints else model, images, (Unit, SEW))
        assert self.theirs is not None
        model, block = self.theirs()
        if how.neuron is not _spikingjelly:
            from tgo_kernels.interop import spikingjelly

            spikingjelly.convert(model, impl="reference" if how.neuron is _eager else "auto")
        return how.prepared(model, images, (block,))


def _cifar10dvs_vgg() -> tuple[nn.Module, type]:
    from spikingjelly.activation_based.examples.memopt import models

    class OverTimeFirst(models.CIFAR10DVSVGG):  # which takes [N, T, C, H, W]
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x.transpose(0, 1))

    return OverTimeFirst(), models.VGGBlock


def _spikformer() -> tuple[nn.Module, type]:
    from spikingjelly.activation_based import functional
    from spikingjelly.activation_based.model import spikformer

    class Started(spikformer.Spikformer):
        def forward(self, x: Tensor) -> Tensor:
            functional.reset_net(self)
            return super().forward(x)

    return Started(embed_dims=512, num_heads=8, depths=8, num_classes=CLASSES), spikformer.SpikformerBlock


NETWORKS = {
    "VGG-11": Network((4, 32, 3, 32, 32), ours=lambda neuron: vgg11(neuron, inputs=3, classes=CLASSES)),
    "SEW-ResNet-18": Network((4, 32, 3, 32, 32), ours=sew_resnet18),
    "CIFAR10DVSVGG": Network((10, 4, 2, 48, 48), theirs=_cifar10dvs_vgg),
    "Spikformer-8-512": Network((4, 1, 3, 224, 224), theirs=_spikformer),
}
