"""Attacks within ``eps`` of each pixel, on a :class:`~tgo_kernels.robustness.Victim`.

An attack is made with its settings, and called with the victim, images [B, C, H, W] in [0, 1], labels [B] and, where
others were there before it, their best points. Gradients are means over ``draws`` fresh draws of a noisy victim (EoT).
APGD and Square are AutoAttack's own code; what it has not, other starts, losses and draws, stands here.
"""

from collections.abc import Callable
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from tgo_kernels.robustness.victim import Victim, margin
from tgo_kernels.surrogate import Surrogate

EPS = 8 / 255
INSTALL = 'pip install "tgo_kernels[robustness]"'
Loss = Callable[[Tensor, Tensor], Tensor]  # logits [B, classes], labels -> [B], higher where the attack succeeds


class Attack(Protocol):
    def __call__(self, victim: Victim, images: Tensor, labels: Tensor, start: Tensor | None = None) -> Tensor: ...


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    return F.cross_entropy(logits, labels, reduction="none")


def gradient(
    victim: Victim, x: Tensor, labels: Tensor, loss: Loss = cross_entropy, draws: int = 1
) -> tuple[Tensor, Tensor]:
    """The mean gradient of each image's loss over the draws, and the mean of their logits."""
    x = x.detach().requires_grad_()
    total, logits = torch.zeros_like(x), torch.zeros((), device=x.device)
    for draw in range(draws):
        for surrogate in victim.made:
            if hasattr(surrogate, "freeze"):
                surrogate.freeze(draw > 0)  # the draws of one gradient are one iteration
        answer = victim(x)
        total += torch.autograd.grad(loss(answer, labels).sum(), x)[0]
        logits = logits + answer.detach()
    return total / draws, logits / draws


def within(x: Tensor, images: Tensor, eps: float) -> Tensor:
    """The nearest point that is within ``eps`` of the images, and an image."""
    return (images + (x - images).clamp(-eps, eps)).clamp(0, 1)


def somewhere(images: Tensor, eps: float) -> Tensor:
    """A random start."""
    return (images + torch.empty_like(images).uniform_(-eps, eps)).clamp(0, 1)


def random_signs(eps: float = EPS) -> Attack:
    """No attack at all: each pixel up or down by ``eps``, at random."""

    def attacked(victim: Victim, images: Tensor, labels: Tensor, start: Tensor | None = None) -> Tensor:
        return (images + eps * torch.randn_like(images).sign()).clamp(0, 1)

    return attacked


def fgsm(eps: float = EPS, draws: int = 1) -> Attack:
    """One step of ``eps`` along the gradient's sign (arXiv 1412.6572)."""

    def attacked(victim: Victim, images: Tensor, labels: Tensor, start: Tensor | None = None) -> Tensor:
        g, _ = gradient(victim, images, labels, draws=draws)
        return (images + eps * g.sign()).clamp(0, 1)

    return attacked


def rfgsm(eps: float = EPS, draws: int = 1) -> Attack:
    """A random step of ``eps/2``, then one along the gradient's sign (arXiv 1705.07204)."""

    def attacked(victim: Victim, images: Tensor, labels: Tensor, start: Tensor | None = None) -> Tensor:
        x = (images + eps / 2 * torch.randn_like(images).sign()).clamp(0, 1)
        g, _ = gradient(victim, x, labels, draws=draws)
        return within(x + eps / 2 * g.sign(), images, eps)

    return attacked


def pgd(
    eps: float = EPS,
    alpha: float = 2 / 255,
    steps: int = 20,
    *,
    loss: Loss = cross_entropy,
    draws: int = 1,
    best: bool = False,
) -> Attack:
    """``steps`` steps of ``alpha`` along the gradient's sign, each projected back (arXiv 1706.06083).

    From a random start within ``eps``, or from where others were. The last iterate counts, as papers report it; with
    ``best`` that of the highest margin, over the same draws as the gradient.
    """

    def attacked(victim: Victim, images: Tensor, labels: Tensor, start: Tensor | None = None) -> Tensor:
        x = somewhere(images, eps) if start is None else start
        kept, highest = x, torch.full((len(x),), -torch.inf, device=x.device)
        for _ in range(steps):
            g, logits = gradient(victim, x, labels, loss, draws)
            if best:
                kept, highest = better(x, margin(logits, labels), kept, highest)
            x = within(x + alpha * g.sign(), images, eps)
        if not best:
            return x
        return better(x, victim.margins(x, labels, draws), kept, highest)[0]

    return attacked


def better(x: Tensor, value: Tensor, kept: Tensor, highest: Tensor) -> tuple[Tensor, Tensor]:
    """Of each image the point of the higher value, the first one where they are the same."""
    more = value > highest
    return torch.where(more.view(-1, *[1] * (x.dim() - 1)), x, kept), torch.where(more, value, highest)


def restarted(attack: Attack, times: int) -> Attack:
    """``attack`` from several random starts; for each image the first result that the model gets wrong."""

    def attacked(victim: Victim, images: Tensor, labels: Tensor, start: Tensor | None = None) -> Tensor:
        found, left = images.clone(), torch.arange(len(images), device=images.device)
        for _ in range(times):
            found[left] = attack(victim, images[left], labels[left])
            left = left[~victim.wrong(found[left], labels[left])[0]]
            if not len(left):
                break
        return found

    return attacked


def through(make: Callable[[float], Surrogate], attack: Attack) -> Attack:
    """``attack`` along other surrogates than those of training, made by a layer's depth; the spikes stay the same."""

    def attacked(victim: Victim, images: Tensor, labels: Tensor, start: Tensor | None = None) -> Tensor:
        with victim.surrogates(make):
            return attack(victim, images, labels, start)

    return attacked


def annealed(makes: list[Callable[[float], Surrogate]], attack: Attack) -> Attack:
    """``attack`` along one surrogate after the other, each from where the last one left."""

    def attacked(victim: Victim, images: Tensor, labels: Tensor, start: Tensor | None = None) -> Tensor:
        for make in makes:
            start = through(make, attack)(victim, images, labels, start)
        assert start is not None
        return start

    return attacked


def quietly(attack: Attack) -> Attack:
    """``attack`` on the victim without its noise."""

    def attacked(victim: Victim, images: Tensor, labels: Tensor, start: Tensor | None = None) -> Tensor:
        with victim.evaluating(False):
            return attack(victim, images, labels, start)

    return attacked


def transferred(sources: list[Victim], attack: Attack) -> Attack:
    """``attack`` on other models; of each image the first point that the victim gets wrong, else the nearest to it."""

    def attacked(victim: Victim, images: Tensor, labels: Tensor, start: Tensor | None = None) -> Tensor:
        kept, highest = images, torch.full((len(images),), -torch.inf, device=images.device)
        for source in sources:
            with source.evaluating(source.noisy):
                x = attack(source, images, labels)
            kept, highest = better(x, victim.margins(x, labels), kept, highest)
        return kept

    return attacked


def apgd(eps: float = EPS, steps: int = 20, draws: int = 1) -> Attack:
    """Auto-PGD on the cross entropy (arXiv 2003.01690), with gradients that are means over ``draws`` draws.

    Of each image the first iterate that the model itself gets wrong, else that of the highest loss. AutoAttack takes
    the last that one draw got wrong: with noise, a lucky one would decide.
    """

    def attacked(victim: Victim, images: Tensor, labels: Tensor, start: Tensor | None = None) -> Tensor:
        found, right = images.clone(), torch.ones(len(images), dtype=torch.bool, device=images.device)

        def asked(x: Tensor) -> Tensor:
            logits = victim.mean(x, draws)
            if (wrong := right & (logits.argmax(1) != labels)).any():
                if victim.noisy:
                    wrong[wrong.clone()] = victim.wrong(x[wrong].detach(), labels[wrong])[0]
                found[wrong] = x[wrong].detach()
                right[wrong] = False
            return logits

        attack = autoattack("autopgd_base").APGDAttack(asked, n_iter=steps, eps=eps, device=images.device)
        attack.init_hyperparam(images)
        highest = attack.attack_single_run(images, labels, x_init=start)[0]
        found[right] = highest[right]
        return found

    return attacked


def square(eps: float = EPS, queries: int = 200, draws: int = 1) -> Attack:
    """Square attack (arXiv 1912.00049), which sees the logits alone: their mean over ``draws`` draws.

    What these get wrong is asked again and answered by the model itself. With noise a weak attack still: a query is
    kept where it beats the best answer so far, which was a lucky one.
    """

    def attacked(victim: Victim, images: Tensor, labels: Tensor, start: Tensor | None = None) -> Tensor:
        def margin_and_loss(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
            ahead = victim.margins(x, y, draws)
            if victim.noisy and (wrong := ahead > 0).any():
                ahead[wrong] = victim.margins(x[wrong], y[wrong])
            ahead = torch.where(ahead > 0, ahead, ahead.clamp(max=-torch.finfo(ahead.dtype).tiny))
            return -ahead, -ahead  # AutoAttack's is of the label, and wrong where it is 0

        attack = autoattack("square").SquareAttack(victim, eps=eps, n_queries=queries, device=images.device)
        attack.margin_and_loss = margin_and_loss
        attack.init_hyperparam(images)
        return attack.attack_single_run(images, labels)[1]

    return attacked


def autoattack(module: str) -> Any:
    """That module of AutoAttack's; ImportError, naming what to install, where it is not there."""
    try:
        return __import__(f"pyautoattack.{module}", fromlist=[module])
    except ImportError as error:
        raise ImportError(f"APGD and Square need pyautoattack ({error}): {INSTALL}") from error
