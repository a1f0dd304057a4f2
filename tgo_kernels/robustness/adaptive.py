"""The strongest attack known for spiking networks: SA-PGD along adaptive surrogates (arXiv 2512.22522)."""

import math
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field

import torch
from torch import Tensor

from tgo_kernels.robustness.attacks import EPS, Attack, better, gradient, somewhere, within
from tgo_kernels.robustness.victim import Victim, margin
from tgo_kernels.surrogate import ATan

SHARE = 0.425  # of the surrogate's mass on either side of the threshold that reaches a membrane
FEW = 16  # draws, in which what is worth an answer is wrong
WIDTH = 2 * math.tan(math.pi * SHARE) / math.pi


@dataclass
class Memory:
    """What a layer's adaptive surrogate has seen of its membranes, step by step."""

    frozen: bool = False  #: leave M and D as they are: further draws of one iteration
    calls: int = 0  #: since the model was called
    moments: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict)  #: M and D by step


class AdaptiveATan(ATan):
    """ASSG: an arctangent whose ``alpha`` follows, for each membrane, its own distance to the threshold::

        M <- 0.9 M + 0.1 |d|;   D <- 0.9 D + 0.1 ||d| - M|;   z(d) = ATan(w / (M + 1.5 D + 1e-4)) at d

    over the iterations of an attack, with ``w`` in the place of ``alpha``. It is asked once a time step where there are
    gradients; by layers of tgo_kernels with ``impl="reference"`` alone.
    """

    memory: Memory
    __eq__, __hash__ = object.__eq__, object.__hash__  # each has seen its own membranes

    @classmethod
    def new(cls, depth: float = 0.0) -> "AdaptiveATan":
        made = cls(WIDTH)
        object.__setattr__(made, "memory", Memory())
        return made

    def begin(self) -> None:
        """The next step that is asked for is the first."""
        self.memory.calls = 0

    def freeze(self, frozen: bool) -> None:
        """From now on, until told otherwise, what it sees changes nothing."""
        self.memory.frozen = frozen

    def keep(self, chosen: Tensor) -> None:
        """Only these images of the batch go on."""
        moments = self.memory.moments
        self.memory.moments = {step: (m[chosen], deviation[chosen]) for step, (m, deviation) in moments.items()}

    def derivative(self, d: Tensor) -> Tensor:
        memory, distance = self.memory, d.detach().abs()
        step = memory.calls
        memory.calls += 1
        m, deviation = memory.moments.get(step) or (torch.ones_like(d), torch.zeros_like(d))
        if not memory.frozen:
            m = 0.9 * m + 0.1 * distance
            deviation = 0.9 * deviation + 0.1 * (distance - m).abs()
            memory.moments[step] = m, deviation
        alpha = self.alpha / (m + 1.5 * deviation + 1e-4)
        return self.curve(d, alpha / 2, math.pi / 2 * alpha)  # type: ignore[arg-type]


def sa_pgd(eps: float = EPS, iterations: int = 100, draws: int = 1, quiet: bool = False) -> Attack:
    """PGD with momentum, a step size for each pixel and a falling bound on it, along ASSG::

        m <- 0.5 m + g / mean|g|;   q <- 0.8 q + g^2 / mean(g^2)
        x <- Project(x + clip(eta m / (sqrt(q) + 1e-12), -eta, eta))

    ``eta`` starts at ``eps`` and halves after k = 0.22 K iterations, then after max(k - 0.03 K, 0.06 K), and so on. Any
    iterate that the model gets wrong counts, and that image is done; else that of the highest margin. ``g`` is the
    mean over ``draws`` draws of the noise; what these get wrong, and FEW others, is asked as :meth:`Victim.wrong` asks,
    or a lucky draw would end the attack. ``quiet``: ``g`` without noise; what is wrong without it is asked with it. A
    random start within ``eps`` where there is no other: our decision.
    """

    def attacked(victim: Victim, images: Tensor, labels: Tensor, start: Tensor | None = None) -> Tensor:
        found, left = images.clone(), torch.arange(len(images), device=images.device)
        x = somewhere(images, eps) if start is None else start
        highest = torch.full((len(images),), -torch.inf, device=images.device)
        m, q = torch.zeros_like(x), torch.zeros_like(x)
        others = tuple(range(1, images.dim()))
        with victim.surrogates(AdaptiveATan.new, impl="reference") as made:
            for eta in bounds(eps, iterations):
                with victim.evaluating(False) if quiet else nullcontext():
                    g, logits = gradient(victim, x, labels[left], draws=draws)
                wrong = logits.argmax(1) != labels[left]
                ahead = margin(logits, labels[left])
                if victim.noisy and wrong.any():
                    ahead[wrong] = victim.margins(x[wrong], labels[left[wrong]], FEW)
                    asked = wrong & (ahead > 0)
                    ahead[asked] = victim.wrong(x[asked], labels[left[asked]])[1]
                    wrong = asked & (ahead > 0)
                found[left], highest[left] = better(x, ahead, found[left], highest[left])
                if wrong.any():
                    keep = ~wrong
                    left, x, m, q, g = left[keep], x[keep], m[keep], q[keep], g[keep]
                    for surrogate in made:
                        surrogate.keep(keep)
                    if not len(left):
                        break
                m = 0.5 * m + g / g.abs().mean(others, keepdim=True).clamp_min(1e-30)
                q = 0.8 * q + g.square() / g.square().mean(others, keepdim=True).clamp_min(1e-30)
                x = within(x + (eta * m / (q.sqrt() + 1e-12)).clamp(-eta, eta), images[left], eps)
            else:
                ahead = victim.margins(x, labels[left])
                found[left], _ = better(x, ahead, found[left], highest[left])
        return found

    return attacked


def bounds(eps: float, iterations: int) -> Iterator[float]:
    """``eta`` of each iteration."""
    eta, period, since = eps, 0.22 * iterations, 0.0
    for _ in range(iterations):
        yield eta
        since += 1
        if since >= period:
            eta, since, period = eta / 2, 0, max(period - 0.03 * iterations, 0.06 * iterations)
