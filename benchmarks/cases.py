"""What is measured: LIF layers of published networks, the two headline shapes, and sweeps over N and T.

A case has a name such as ``vgg11/conv1/T4/both/fp32/training``; the runner takes patterns of names.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from itertools import product

import torch

TIME_STEPS = (4, 8, 16, 32, 128)
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


@dataclass(frozen=True)
class Extras:
    """What the neuron does beyond the plain one."""

    penalty: bool = False
    noise: bool = False

    @property
    def name(self) -> str:
        return {(False, False): "plain", (True, False): "penalty", (False, True): "noise", (True, True): "both"}[
            self.penalty, self.noise
        ]


PLAIN, PENALTY, NOISE, BOTH = Extras(), Extras(penalty=True), Extras(noise=True), Extras(penalty=True, noise=True)
EXTRAS = (PLAIN, PENALTY, NOISE, BOTH)


@dataclass(frozen=True)
class Case:
    """One LIF layer: ``steps`` times ``shape`` (batch first), forward and backward or inference alone."""

    network: str
    layer: str
    steps: int
    shape: tuple[int, ...]
    extras: Extras = PLAIN
    dtype: str = "fp32"
    training: bool = True

    @property
    def name(self) -> str:
        mode = "training" if self.training else "inference"
        return "/".join([self.network, self.layer, f"T{self.steps}", self.extras.name, self.dtype, mode])

    @property
    def neurons(self) -> int:
        return math.prod(self.shape)

    @property
    def size(self) -> int:
        """Neuron-steps."""
        return self.steps * self.neurons

    @property
    def bytes_per_step(self) -> int:
        """What the fused layer moves: x in, spikes out; and back x and their gradient in, that of x out."""
        return DTYPES[self.dtype].itemsize * (5 if self.training else 2)


@dataclass(frozen=True)
class Network:
    """The distinct shapes of a network's LIF layers, for one sample, and the batch that is measured."""

    name: str
    batch: int
    layers: dict[str, tuple[int, ...]]


NETWORKS = (
    # VGG-11 (Simonyan and Zisserman, arXiv 1409.1556, A) on 32 x 32 inputs.
    Network(
        "vgg11",
        8,
        {
            "conv1": (64, 32, 32),
            "conv2": (128, 16, 16),
            "conv3": (256, 8, 8),
            "conv5": (512, 4, 4),
            "conv7": (512, 2, 2),
            "fc": (4096,),
        },
    ),
    # SEW-ResNet-18 (Fang et al., arXiv 2102.04159) on 224 x 224 inputs.
    Network(
        "sew18",
        1,
        {
            "conv1": (64, 112, 112),
            "layer1": (64, 56, 56),
            "layer2": (128, 28, 28),
            "layer3": (256, 14, 14),
            "layer4": (512, 7, 7),
        },
    ),
    # A block of Spikformer-8-512 (Zhou et al., arXiv 2209.15425) on 224 x 224 inputs: 196 tokens, 8 heads.
    Network("spikformer", 1, {"qkv": (196, 512), "attention": (8, 196, 64), "mlp": (196, 2048)}),
)
HEADLINES = ((4, 4194304), (16, 262144))
SWEEP_SIZE = 1 << 22  # T * N of the sweep over T


def cases() -> Iterator[Case]:
    """All of them."""
    for extras, dtype, training in product(EXTRAS, DTYPES, (True, False)):
        for steps, neurons in HEADLINES:
            yield Case("headline", f"N{neurons}", steps, (neurons,), extras, dtype, training)
        for network, steps in product(NETWORKS, TIME_STEPS):
            for layer, shape in network.layers.items():
                yield Case(network.name, layer, steps, (network.batch, *shape), extras, dtype, training)
    yield Case("call", "N256", 4, (256,))
    for exponent in range(10, 27):
        yield Case("N", f"N{1 << exponent}", 4, (1 << exponent,))
    for exponent in range(11):
        yield Case("T", f"N{SWEEP_SIZE >> exponent}", 1 << exponent, (SWEEP_SIZE >> exponent,))


def selected(patterns: list[str]) -> list[Case]:
    """The cases whose name fits a pattern, in the order of the registry. A pattern that fits none is an error."""
    everything = list(cases())
    for pattern in patterns:
        if not any(fnmatchcase(case.name, pattern) for case in everything):
            raise ValueError(f"no case fits {pattern!r}; a case is named as {everything[0].name}")
    return [case for case in everything if any(fnmatchcase(case.name, pattern) for pattern in patterns)]
