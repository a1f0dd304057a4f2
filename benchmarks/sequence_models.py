"""The networks that read an image as a sequence, and what decides a training of one.

The network is Linear, neuron, Linear, neuron, Linear and a leaky integrator, whose mean over time are the logits. Only
the neuron differs: LIF, AdaptiveLIF (Bellec et al. 2018), AdLIF (Bittar and Garner 2022, Euler's), SynapticLIF or
SelfPredictingLIF (our form of arXiv 2601.21823, from ``rate = 1 / tau``, ``of_output = 1`` and ``of_input = 1 / tau``).
Weights, images, their order and augmentation, and the number of updates are those of the seed; neurons with more
constants have more parameters. Resets are soft, and the decay and all constants beside those of LIF learn, one a
neuron, from one value for all. Those that are decays are kept in [0, 1], and AdLIF's ``a`` at ``rho - 1`` or more:
below that its membrane grows by itself, since with ``gain = 1 - decay`` an eigenvalue of ``(v, w)`` exceeds 1.

Our decisions, the same for all: the learning rate, the time constants, and the factors of the first weights, by which
every layer fires at 5 to 35 % from the start. With ``a`` and ``b`` they were tried on a validation split of the
training images, in a few settings of LIF and AdLIF and fewer of the others; none was searched for.
"""

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor, nn

import tgo_kernels as tgo
from benchmarks.robustness.data import CLASSES
from benchmarks.robustness.models import MEAN, STD


class Task(NamedTuple):
    steps: int
    tau: float  # of membranes and read-out
    rho: float  # of adaptations
    a: float  # of AdLIF; its b is twice that
    factors: tuple[float, float]  # of the first weights into both layers of neurons
    epochs: int
    seeds: int


TASKS = {
    "rows": Task(28, tau=4.0, rho=0.95, a=0.05, factors=(5.0, 8.0), epochs=30, seeds=3),
    "pixels": Task(784, tau=20.0, rho=0.99, a=0.01, factors=(20.0, 40.0), epochs=15, seeds=1),
}
NEURONS = ("LIF", "AdaptiveLIF", "AdLIF", "SynapticLIF", "SelfPredictingLIF")
DECAYS = ("rho", "current_decay", "rate")


@dataclass(frozen=True)
class Training:
    """What decides the weights that a training ends with; :func:`train.fit` takes it for a recipe."""

    task: str
    neuron: str
    data: str = "subset"
    seed: int = 0
    epochs: int = 30
    hidden: int = 128
    batch: int = 50
    lr: float = 1e-2
    weight_decay: float = 0.01
    method: ClassVar[str] = "BPTT"
    optimizer: ClassVar[str] = "adamw"
    norm: ClassVar[str] = "none"
    scrambled: ClassVar[float] = 0.0
    longer: ClassVar[int] = 1

    def __post_init__(self) -> None:
        for name, known in {"task": TASKS, "neuron": NEURONS}.items():
            if getattr(self, name) not in known:
                raise ValueError(f"{name} must be one of {', '.join(known)}, got {getattr(self, name)!r}")
        for name in ("epochs", "hidden", "batch"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")

    @property
    def name(self) -> str:
        return f"{self.task}-{self.neuron}-{self.seed}"

    def schedule(self) -> tgo.GuardSchedule:
        return tgo.GuardSchedule(0.0, total=self.epochs)

    def model(self, impl: str = "auto") -> "Reader":
        """Untrained, with the same weights for every neuron."""
        torch.manual_seed(self.seed)
        return Reader(TASKS[self.task], self.neuron, self.hidden, impl)


def neurons(task: Task, kind: str, hidden: int, impl: str) -> tgo.LIF:
    """A layer whose constants learn, one a neuron."""
    own = {
        "LIF": {},
        "AdaptiveLIF": {"rho": task.rho, "beta": 1.8},
        "AdLIF": {"rho": task.rho, "a": task.a, "b": 2 * task.a},
        "SynapticLIF": {"current_decay": 0.5},
        "SelfPredictingLIF": {"rate": 1 / task.tau, "of_output": 1.0, "of_input": 1 / task.tau},
    }[kind]
    learn = {f"learn_{name}": True for name in ("decay", *own)}
    return getattr(tgo, kind)(task.tau, v_reset=None, channels=hidden, impl=impl, **own, **learn)


class Reader(nn.Module):
    """Images [B, 1, 28, 28] in [0, 1], read as [T, B, 784 / T] -> logits [B, 10]: the read-out's mean over time."""

    def __init__(self, task: Task, kind: str, hidden: int, impl: str = "auto") -> None:
        super().__init__()
        first, second = nn.Linear(28 * 28 // task.steps, hidden), nn.Linear(hidden, hidden)
        self.steps = task.steps
        self.neurons = [neurons(task, kind, hidden, impl) for _ in range(2)]
        last = nn.Linear(hidden, CLASSES), tgo.LeakyIntegrator(task.tau, impl=impl)
        self.layers = nn.Sequential(first, self.neurons[0], second, self.neurons[1], *last)
        with torch.no_grad():
            for linear, factor in zip((first, second), task.factors, strict=True):
                linear.weight.mul_(factor)

    def forward(self, images: Tensor) -> Tensor:
        with torch.no_grad():
            for layer in self.neurons:
                for name, constant in layer.named_parameters():
                    if name in DECAYS:
                        constant.clamp_(0, 1)
                if isinstance(layer, tgo.AdLIF):
                    layer.a.clamp_(min=layer.rho - 1)
        x = ((images - MEAN) / STD).reshape(len(images), self.steps, -1).transpose(0, 1)
        return self.layers(x).mean(0)
