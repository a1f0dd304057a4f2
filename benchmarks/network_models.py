"""The networks whose training is measured, and the engines: the same convolutions, norms and pools for all.

Two networks are those of SpikingJelly 2.0, with their neurons exchanged. Every neuron has the surrogate ATan(2), a hard
reset to 0 that is detached, and fp32; each engine is set up as its documentation says.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

import tgo_kernels as tgo
from benchmarks.peers import Fire
from benchmarks.robustness.models import conv_bn, vgg11

Neuron = Callable[..., nn.Module]  # of tau, decay_input and v_threshold
CLASSES = 10


class Segment(nn.Sequential):
    """Layers up to a neuron: what SpikingJelly's memopt computes again as one."""


class SEW(nn.Module):
    """A block of SEW-ResNet (arXiv 2102.04159, figure 2c): the residual joins the spikes, g = ADD."""

    def __init__(self, neuron: Neuron, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.first, self.fire1 = conv_bn(before, after, 3, stride), neuron()
        self.second, self.fire2 = conv_bn(after, after), neuron()
        same = stride == 1 and before == after
        self.down = nn.Identity() if same else nn.Sequential(conv_bn(before, after, 1, stride), neuron())

    def forward(self, x: Tensor) -> Tensor:
        return self.fire2(self.second(self.fire1(self.first(x)))) + self.down(x)


def sew_resnet18(neuron: Neuron) -> nn.Sequential:
    """SEW-ResNet-18 with ADD, as for ImageNet: a stem of stride 2 and a max pool."""
    layers: list[nn.Module] = [Segment(conv_bn(3, 64, 7, 2), neuron()), tgo.OverTime(nn.MaxPool2d(3, 2, 1))]
    before = 64
    for after in (64, 128, 256, 512):
        layers += [SEW(neuron, before, after, 1 if after == 64 else 2), SEW(neuron, after, after, 1)]
        before = after
    return nn.Sequential(*layers, tgo.OverTime(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, CLASSES)))


def vgg(neuron: Neuron, width: float = 1.0) -> nn.Sequential:
    """VGG-11, in segments."""
    groups: list[list[nn.Module]] = [[]]
    for layer in vgg11(neuron, width, inputs=3, classes=CLASSES):
        groups[-1].append(layer)
        if not isinstance(layer, nn.Sequential):
            groups.append([])
    return nn.Sequential(*(Segment(*group) for group in groups))


def _exchanged(model: nn.Module, neuron: Neuron) -> nn.Module:
    from spikingjelly.activation_based.neuron import LIFNode

    for name, node in [(name, node) for name, node in model.named_modules() if isinstance(node, LIFNode)]:
        constants = {"tau": node.tau, "decay_input": node.decay_input, "v_threshold": node.v_threshold}
        model.set_submodule(name, neuron(**constants), strict=True)
    return model


def cifar10dvs_vgg(neuron: Neuron) -> nn.Module:
    """SpikingJelly's VGG for CIFAR10-DVS, of its examples of memopt; its forward takes [B, T, *]."""
    from spikingjelly.activation_based.examples.memopt.models import CIFAR10DVSVGG

    model = CIFAR10DVSVGG(dropout=0.0)  # so that all engines compute the same
    return _exchanged(nn.Sequential(model.features, nn.Flatten(2), model.classifier), neuron)


def spikformer(neuron: Neuron, **shape: int) -> nn.Module:
    """SpikingJelly's Spikformer (arXiv 2209.15425): 8 blocks, 512 channels."""
    from spikingjelly.activation_based.model.spikformer import Spikformer

    return _exchanged(Spikformer(**{"embed_dims": 512, "depths": 8} | shape), neuron)


class Network(NamedTuple):
    make: Callable[[Neuron], nn.Module]
    steps: int
    image: tuple[int, int, int]
    batch: int  # of the table
    segments: tuple[str, ...]  # the classes of what memopt computes again, as in SpikingJelly's examples
    binary: bool = True  # whether only spikes go into them, which memopt keeps as bits


NETWORKS = {
    "VGG-11": Network(vgg, 4, (3, 32, 32), 32, ("Segment",)),
    "SEW-ResNet-18": Network(sew_resnet18, 4, (3, 32, 32), 32, ("Segment", "SEW"), binary=False),
    "CIFAR10DVSVGG": Network(cifar10dvs_vgg, 10, (2, 48, 48), 4, ("VGGBlock",)),
    "Spikformer": Network(spikformer, 4, (3, 224, 224), 2, ("SpikformerConv2dBNLIF", "SpikformerBlock"), binary=False),
}


class Loop(nn.Module):
    """The neuron in plain torch."""

    def __init__(self, tau: float = 2.0, decay_input: bool = True, v_threshold: float = 1.0) -> None:
        super().__init__()
        self.decay, self.gain, self.threshold = 1 - 1 / tau, 1 / tau if decay_input else 1.0, v_threshold

    def forward(self, x: Tensor) -> Tensor:
        v = torch.zeros_like(x[0])
        spikes = []
        for x_t in x.unbind(0):
            h = self.decay * v + self.gain * x_t
            spikes.append(Fire.apply(h - self.threshold))
            v = h * (1 - spikes[-1].detach())
        return torch.stack(spikes)


class Steps(nn.Module):
    """snnTorch's, a step at a time. It has no gain: threshold and surrogate are scaled, for the same spikes.

    Its reset is not detached where it has no delay.
    """

    def __init__(self, tau: float = 2.0, decay_input: bool = True, v_threshold: float = 1.0) -> None:
        super().__init__()
        from snntorch import Leaky
        from snntorch.surrogate import atan

        gain = 1 / tau if decay_input else 1.0
        fire = {"threshold": v_threshold / gain, "spike_grad": atan(2 * gain), "reset_mechanism": "zero"}
        self.cell = Leaky(1 - 1 / tau, reset_delay=False, **fire)

    def forward(self, x: Tensor) -> Tensor:
        mem = torch.zeros_like(x[0])
        spikes = []
        for x_t in x.unbind(0):
            spike, mem = self.cell(x_t, mem)
            spikes.append(spike)
        return torch.stack(spikes)


def _spikingjelly(**constants: Any) -> nn.Module:
    from spikingjelly.activation_based import neuron, surrogate

    return neuron.LIFNode(surrogate_function=surrogate.ATan(), detach_reset=True, step_mode="m", **constants)


_ours = partial(tgo.LIF, detach_reset=True)


class Engine(NamedTuple):
    neuron: Neuron
    fuses: bool = False
    level: Literal["output", "bits"] | None = None  # of pack_spikes
    compiles: bool = False
    memopt: int = 0

    def serves(self, device: str) -> bool:
        """memopt tries its levels from 2 on out, by the memory of a GPU."""
        return self.memopt < 2 or device == "cuda"

    def around(self) -> AbstractContextManager:
        return tgo.pack_spikes(level=self.level) if self.level else nullcontext()


ENGINES = {
    "eager": Engine(Loop),
    "torch.compile": Engine(Loop, compiles=True),
    "snnTorch": Engine(Steps),
    "SpikingJelly": Engine(_spikingjelly),
    **{f"SpikingJelly, memopt {level}": Engine(_spikingjelly, memopt=level) for level in (1, 2, 3, 4)},
    "tgo_kernels, LIF alone": Engine(_ours),
    "packed": Engine(_ours, level="output"),
    "fused": Engine(_ours, fuses=True),
    "fused and packed": Engine(_ours, fuses=True, level="output"),
    "fused, bits alone": Engine(_ours, fuses=True, level="bits"),
}


def _memopt(model: nn.Module, what: Network, level: int, images: Tensor) -> None:
    from spikingjelly.activation_based import functional, memopt, neuron

    def example(model: nn.Module) -> Tensor:
        functional.reset_net(model)
        return model(images if level > 1 else images[:, :1])  # which level 1 only looks at

    kinds = {type(module) for module in model.modules() if type(module).__name__ in what.segments}
    memopt.optimize_memory(
        model,
        tuple(kinds),
        example,
        level=level,
        compress=what.binary,
        split_fn=lambda module: [part for part in module.children() if not isinstance(part, nn.Identity)],
        can_chunk=lambda module: isinstance(module, (nn.Conv1d, nn.Conv2d, neuron.BaseNode)),
    )


def training_step(
    network: str, engine: str, batch: int, device: str = "cpu"
) -> tuple[Callable[[], None], Callable[[], Tensor], list[Tensor]]:
    """A step; the forward to its loss; and what is there before and after it."""
    torch.manual_seed(0)
    how, what = ENGINES[engine], NETWORKS[network]
    model = what.make(how.neuron).to(device)
    images = torch.rand(what.steps, batch, *what.image, device=device)
    labels = torch.randint(CLASSES, (batch,), device=device)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    if how.fuses:
        tgo.fuse(model)
    if how.memopt:
        _memopt(model, what, how.memopt, images)
    run = torch.compile(model, fullgraph=True) if how.compiles else model

    def forward() -> Tensor:
        if how.neuron is _spikingjelly:
            from spikingjelly.activation_based import functional

            functional.reset_net(model)
        with how.around():
            return nn.functional.cross_entropy(run(images).mean(0), labels)

    def step() -> None:
        optimizer.zero_grad()
        forward().backward()
        optimizer.step()
        if device == "cuda":
            torch.cuda.synchronize()

    return step, forward, [*model.parameters(), *model.buffers(), images]


PRODUCTS = "convolutions and linear layers, forward alone"


def products(network: str, batch: int, device: str = "cpu") -> Callable[[], None]:
    """The forwards of the network's convolutions and linear layers on what goes into them in a training step."""
    what, calls = NETWORKS[network], []
    model = what.make(ENGINES["tgo_kernels, LIF alone"].neuron).to(device)
    for module in model.modules():
        if isinstance(module, (nn.Conv1d, nn.Conv2d, nn.Linear)):
            module.register_forward_pre_hook(lambda module, inputs: calls.append((module.forward, inputs[0])))
    with torch.no_grad():
        model(torch.rand(what.steps, batch, *what.image, device=device))

    def forward() -> None:
        with torch.no_grad():
            for call, x in calls:
                call(x)
        if device == "cuda":
            torch.cuda.synchronize()

    return forward
