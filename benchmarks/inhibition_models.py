"""The networks that lateral inhibition is measured with, what is taken out of them, and what decides a training of one.

The network is VGG-8 of DeepEISNN (arXiv 2509.23253): five convolutions of 64 to 512 channels, a neuron and an average
pool after each, and one linear layer (its light classifier), whose mean over T = 4 steps are the logits. Images are
currents in [0, 1], the same in every step, with a border of zeros to 32 x 32. The width is a fraction of the paper's.

``batch-norm`` is the twin; :func:`tgo.inhibited` makes the E-I network of it, so that neurons, pools and channels are
the same. ``no-norm`` has neither, and torch's first weights; ``no-norm-scaled`` divides them, layer by layer, so that
the first batch's currents have a deviation of 1 (as arXiv 1511.06422, without its orthogonal weights).

``E-I-slow`` is the E-I network whose W_IE and g_I learn slowly: their gradients are multiplied by 0.1, so that a larger
learning rate can be borne (ours; an inhibitory channel acts on all the others at once). In ``E-I-clipped`` the gradient
of each parameter is no longer than 0.5 (ours): without that, one update of some hundred can have a gradient fifty times
as long as the others', and ends the training.

The others are the E-I network without a part. All start from the weights that E-I Init gives the whole one for the
first batch, and then lose their part (ours: a layer behind one that always fires could not be made):

- ``no-init``: weights are the absolute values of torch's first ones, gains 1.
- ``no-scaling``: the gradient of W_EI is not divided by the number d of inputs.
- ``no-replacement``: zeros of the divisor stay, and 0/0 is NaN.
- ``epsilon``: they stay, and 1e-5 is added to every divisor (ours).
- ``no-straight-through``: they are replaced, and gradients go to what replaces them, as autograd has it.
- ``no-division``: ``x_E = g_E (I_EE - sub) + b_E``.
- ``no-subtraction``: ``x_E = g_E I_EE / div + b_E``, and I_EE in the readout.
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, ClassVar
from unittest import mock

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import tgo_kernels as tgo
from benchmarks.robustness.models import Classifier, Pixels
from tgo_kernels import inhibition
from tgo_kernels.inhibition import Circuit

CHANNELS = (64, 128, 256, 512, 512)
STEPS = 4
EPSILON = 1e-5  # of batch norm
SLOW = 0.1
CLIP = 0.5


def vgg8(width: float, norm: bool, classes: int = 10) -> nn.Sequential:
    """VGG-8 with LIF neurons of the paper's constants, for [T, B, 1, 28, 28]; convolutions have a bias if no norm."""
    layers: list[nn.Module] = [tgo.OverTime(nn.ZeroPad2d(2))]
    channels = [1, *(max(4, int(width * count)) for count in CHANNELS)]
    for before, after in pairwise(channels):
        convolution = nn.Conv2d(before, after, 3, padding=1, bias=not norm)
        layers.append(tgo.OverTime(convolution, *([nn.BatchNorm2d(after)] if norm else [])))
        layers.append(tgo.LIF.from_decay(0.5, 1.0, **inhibition.PAPERS))
        layers.append(tgo.OverTime(nn.AvgPool2d(2)))
    return nn.Sequential(*layers, tgo.OverTime(nn.Flatten()), nn.Linear(channels[-1], classes))


class Network(Classifier):
    @property
    def neurons(self) -> list[tgo.Layer]:
        return [layer for layer in self.modules() if isinstance(layer, tgo.Layer)]


@torch.no_grad()
def scale(model: nn.Module, images: Tensor) -> None:
    """Divides weights and bias of each convolution, in order, by the deviation of its output."""
    for layer in model.modules():
        if isinstance(layer, nn.Conv2d):
            deviations: list[Tensor] = []
            handle = layer.register_forward_hook(lambda _, x, y, found=deviations: found.append(y.std()))
            model(images)
            handle.remove()
            for parameter in layer.parameters():
                parameter /= deviations[0]


@torch.no_grad()
def draw_as_torch(layer: Circuit) -> None:
    """The absolute values of what ``nn.Linear`` and ``nn.Conv2d`` start from; gains of 1."""
    for weight in (layer.W_EE, layer.W_IE, layer.W_EI):
        nn.init.kaiming_uniform_(weight, a=5**0.5).abs_()
    if not layer.readout:
        layer.g_I.fill_(1)


def slow(layer: Circuit) -> None:
    for weight in (layer.W_IE, *([] if layer.readout else [layer.g_I])):
        weight.register_hook(lambda gradient: SLOW * gradient)


def clip(layer: Circuit) -> None:
    for parameter in layer.parameters():
        parameter.register_hook(lambda gradient: gradient * (CLIP / gradient.norm()).clamp(max=1))


def unscale(layer: Circuit) -> None:
    layer.W_EI.register_hook(lambda gradient: gradient * layer.fan_in)


def without_division(layer: Circuit) -> None:
    if not layer.readout:  # which divides by nothing
        layer.neuron.register_forward_pre_hook(lambda _, x: (x[0], x[1], torch.ones_like(x[2])))


def without_subtraction(layer: Circuit) -> None:
    if layer.readout:
        layer.W_EI.requires_grad_(False).zero_()
    else:
        layer.neuron.register_forward_pre_hook(lambda _, x: (x[0], torch.zeros_like(x[1]), x[2]))


def replaced(div: Tensor) -> Tensor:
    """div [T, B, *] with each 0 replaced by the smallest of its [*] that is not; the gradient is that of the result."""
    least = F.threshold(div, 0.0, torch.inf).amin(tuple(range(2, div.dim())), keepdim=True)
    return torch.where(div == 0, least, div)


def dividing_by(what: Callable[[Tensor], Tensor]) -> Callable[[Circuit], None]:
    """What takes the divisor of a layer as it is, zeros among it, in the place of the layer's own replacement."""

    def take(layer: Circuit) -> None:
        forward = layer.forward

        def patched(x: Tensor) -> Tensor:
            with mock.patch.object(inhibition, "_without_zeros", what):
                return forward(x)

        layer.forward = patched  # type: ignore[method-assign]

    return take


WITHOUT: dict[str, Callable[[Circuit], Any]] = {
    "no-init": draw_as_torch,
    "no-scaling": unscale,
    "no-replacement": dividing_by(lambda div: div),
    "epsilon": dividing_by(lambda div: div + EPSILON),
    "no-straight-through": dividing_by(replaced),
    "no-division": without_division,
    "no-subtraction": without_subtraction,
}
OTHERS = ("batch-norm", "no-norm", "no-norm-scaled")
CHANGED = {"E-I-slow": slow, "E-I-clipped": clip} | WITHOUT
VARIANTS = ("E-I", "E-I-slow", "E-I-clipped", *OTHERS, *WITHOUT)


@dataclass(frozen=True)
class Training:
    """What decides the weights that a training ends with; :func:`train.fit` takes it for a recipe.

    SGD with momentum and a weight decay of 5e-4, without lateral inhibition 1e-4, as the authors' code has them.
    """

    variant: str
    lr: float
    data: str = "full"
    seed: int = 0
    epochs: int = 20
    width: float = 0.25
    batch: int = 50
    momentum: float = 0.9
    method: ClassVar[str] = "BPTT"
    optimizer: ClassVar[str] = "sgd"
    scrambled: ClassVar[float] = 0.0
    longer: ClassVar[int] = 1

    def __post_init__(self) -> None:
        if self.variant not in VARIANTS:
            raise ValueError(f"variant must be one of {', '.join(VARIANTS)}, got {self.variant!r}")
        for name in ("epochs", "batch"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        for name in ("width", "lr"):
            if not 0 < getattr(self, name) < float("inf"):
                raise ValueError(f"{name} must be finite and > 0, got {getattr(self, name)}")

    @property
    def norm(self) -> str:
        return self.variant if self.variant in OTHERS else "inhibition"

    @property
    def weight_decay(self) -> float:
        return 5e-4 if self.norm == "inhibition" else 1e-4

    @property
    def name(self) -> str:
        return f"{self.variant}-{self.lr:g}-{self.seed}"

    def schedule(self) -> tgo.GuardSchedule:
        return tgo.GuardSchedule(0.0, total=self.epochs)

    def model(self, first: Tensor) -> Network:
        """Untrained, its weights those of the seed and, where they are made for data, of the first batch of images."""
        torch.manual_seed(self.seed)
        layers = vgg8(self.width, norm=self.norm in ("batch-norm", "inhibition"))
        if self.norm == "inhibition":
            layers = tgo.inhibited(layers)[0]
        model = Network(layers, steps=STEPS, encoder=Pixels(STEPS))
        if self.norm == "inhibition":
            with torch.no_grad():
                model(first)
        elif self.variant == "no-norm-scaled":
            scale(model, first)
        for layer in model.modules():
            if isinstance(layer, Circuit) and self.variant in CHANGED:
                CHANGED[self.variant](layer)
        return model
