"""The strongest attack known for spiking networks: SA-PGD along adaptive surrogates (arXiv 2512.22522)."""

import math
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import tgo_kernels as tgo
from benchmarks.robustness.attacks import EPS, Attack, correct, evaluating, surrogates

SHARE = 0.425  # of the surrogate's mass on either side of the threshold that reaches a membrane
WIDTH = 2 * math.tan(math.pi * SHARE) / math.pi


@dataclass
class Memory:
    """What a layer's adaptive surrogate has seen of its membranes, step by step."""

    steps: int
    frozen: bool = False  #: leave M and D as they are: further draws of one iteration
    calls: int = 0
    moments: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict)  #: M and D by step

    def keep(self, chosen: Tensor) -> None:
        """Only these images of the batch go on."""
        self.moments = {step: (m[chosen], deviation[chosen]) for step, (m, deviation) in self.moments.items()}


class AdaptiveATan(tgo.ATan):
    """ASSG: an arctangent whose ``alpha`` follows, for each membrane, its own distance to the threshold::

        M <- 0.9 M + 0.1 |d|;   D <- 0.9 D + 0.1 ||d| - M|;   z(d) = ATan(w / (M + 1.5 D + 1e-4)) at d

    over the iterations of an attack, with ``w`` in the place of ``alpha``. For ``impl="reference"`` alone, which asks
    for the derivative once a time step where there are gradients: ``steps`` of these calls are one iteration.
    """

    memory: Memory
    __eq__, __hash__ = object.__eq__, object.__hash__  # each has seen its own membranes

    @classmethod
    def over(cls, steps: int) -> "AdaptiveATan":
        made = cls(WIDTH)
        object.__setattr__(made, "memory", Memory(steps))
        return made

    def derivative(self, d: Tensor) -> Tensor:
        memory, distance = self.memory, d.detach().abs()
        step = memory.calls % memory.steps
        memory.calls += 1
        m, deviation = memory.moments.get(step) or (torch.ones_like(d), torch.zeros_like(d))
        if not memory.frozen:
            m = 0.9 * m + 0.1 * distance
            deviation = 0.9 * deviation + 0.1 * (distance - m).abs()
            memory.moments[step] = m, deviation
        alpha = self.alpha / (m + 1.5 * deviation + 1e-4)
        return self.curve(d, alpha / 2, math.pi / 2 * alpha)


def sa_pgd(model: nn.Module, eps: float = EPS, iterations: int = 100, draws: int = 1, quiet: bool = False) -> Attack:
    """PGD with momentum, a step size for each pixel and a falling bound on it, along ASSG::

        m <- 0.5 m + g / mean|g|;   q <- 0.8 q + g^2 / mean(g^2)
        x <- Project(x + clip(eta m / (sqrt(q) + 1e-12), -eta, eta))

    ``eta`` starts at ``eps`` and halves after k = 0.22 K iterations, then after max(k - 0.03 K, 0.06 K), and so on. Any
    iterate that the model gets wrong counts: that image is done. ``g`` is the mean over ``draws`` draws of the noise;
    what these get wrong is asked again, or one lucky draw would end the attack. ``quiet``: ``g`` without noise; what is
    wrong without it is asked with it. A random start within ``eps``: our decision.
    """

    def attacked(images: Tensor, labels: Tensor) -> Tensor:
        steps = getattr(model, "steps", None)
        assert steps, "ASSG needs to know how many time steps the model takes"
        found, left = images.clone(), torch.arange(len(images))
        x = (images + torch.empty_like(images).uniform_(-eps, eps)).clamp(0, 1)
        m, q = torch.zeros_like(x), torch.zeros_like(x)
        with surrogates(model, lambda: AdaptiveATan.over(steps), impl="reference") as made:
            for eta in bounds(eps, iterations):
                with evaluating(model, False) if quiet else nullcontext():
                    g, wrong = gradient(model, x, labels[left], made, draws)
                found[left] = x
                if (quiet or draws > 1) and wrong.any():
                    wrong[wrong.clone()] = ~correct(model, x[wrong], labels[left[wrong]])
                if wrong.any():
                    keep = ~wrong
                    left, x, m, q, g = left[keep], x[keep], m[keep], q[keep], g[keep]
                    for surrogate in made:
                        surrogate.memory.keep(keep)
                    if not len(left):
                        break
                size = g.abs().mean((1, 2, 3), keepdim=True).clamp_min(1e-30)
                m = 0.5 * m + g / size
                q = 0.8 * q + g.square() / g.square().mean((1, 2, 3), keepdim=True).clamp_min(1e-30)
                x = x + (eta * m / (q.sqrt() + 1e-12)).clamp(-eta, eta)
                x = torch.min(torch.max(x, images[left] - eps), images[left] + eps).clamp(0, 1)
            else:
                found[left] = x
        return found

    return attacked


def bounds(eps: float, iterations: int) -> Iterator[float]:
    """``eta`` of each iteration."""
    eta, period, since = eps, 0.22 * iterations, 0
    for _ in range(iterations):
        yield eta
        since += 1
        if since >= period:
            eta, since, period = eta / 2, 0, max(period - 0.03 * iterations, 0.06 * iterations)


def gradient(
    model: nn.Module, x: Tensor, labels: Tensor, made: list[AdaptiveATan], draws: int
) -> tuple[Tensor, Tensor]:
    """The mean gradient of each image's cross entropy, and which images the mean of the logits gets wrong."""
    x = x.detach().requires_grad_()
    total, logits = torch.zeros_like(x), torch.zeros(())
    for draw in range(draws):
        for surrogate in made:
            surrogate.memory.frozen = draw > 0
        answer = model(x)
        total += torch.autograd.grad(F.cross_entropy(answer, labels, reduction="sum"), x)[0]
        logits = logits + answer.detach()
    return total / draws, logits.argmax(1) != labels
