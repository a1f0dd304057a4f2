"""NAA: an attack on what a middle layer's spikes contribute to the answer, which other models share (arXiv 2204.00008).

Zhang et al., CVPR 2022, as in their code (github.com/jpzhang1810/NAA, NAA.py). It is made for transfer: as
``attacks.transferred([source], naa())``.
"""

from typing import Literal

import torch
from torch import Tensor, nn

from tgo_kernels.neurons import check_bool, check_number
from tgo_kernels.neurons.base import check_choice
from tgo_kernels.robustness.attacks import EPS, Attack, gradient, within
from tgo_kernels.robustness.spikes import check_count, check_layer, chosen, recorded
from tgo_kernels.robustness.victim import Victim

Variant = Literal["official", "transferattack"]
BLENDS = 30  # N, of the paper's code and of both ports
STRAY = 0.1  # the noise's deviation in the official blends
LEAST = 1e-30  # of what is divided by: where no gradient arrives, nothing moves


def naa(
    eps: float = EPS,
    alpha: float | None = None,
    steps: int = 10,
    *,
    layer: int | str | None = None,
    variant: Variant = "official",
    blends: int = BLENDS,
    rates: bool = False,
    draws: int = 1,
) -> Attack:
    """Neuron attribution-based attack: lowers what a layer's spikes ``s`` [T, B, *] contribute to the label's share::

        w = -g / |g|_2,  g = mean of d softmax(logits)_label / d s  over blends of the image with a black one
        L(x) = sum over t and neurons of (s(x) - s(0)) w
        m <- m + dL/dx / mean|dL/dx|;   x <- Project(x + alpha sign(m))

    w is of each image; see :func:`weights`. From the image itself, or from where others were; the last iterate counts.
    ``s(0)``, which has no gradient, is not computed. The split of L into positive and negative terms is void where both
    count alike, as they do in the code. What is of spiking networks is our decision: that the feature map is the spikes
    of every step, each with a weight of its own, and the layer.

    Args:
        eps, alpha, steps: as of :func:`~tgo_kernels.robustness.attacks.pgd`; alpha is eps/10 if None. The paper's eps
            is 16/255.
        layer: the index of a layer among those that fire, or the name of one in the model; None: the middle one, of an
            even number the earlier.
        variant: "official", or "transferattack", the port behind TransferAttack's tables: other blends (see
            :func:`weights`), and no momentum.
        blends: N; with 0, one gradient, at the image.
        rates: the feature map is the mean of the spikes over time, whose weight is the mean of theirs: for gradients
            that differ much from step to step.
        draws: of a noisy victim's noise behind each gradient.

    Raises:
        TypeError, ValueError: naming the argument, what was expected and what came; a layer that the victim has not,
            when it is attacked.
    """
    check_number("eps", eps)
    alpha = eps / 10 if alpha is None else alpha
    check_number("alpha", alpha)
    check_count("steps", steps)
    check_layer(layer)
    check_choice("variant", variant, ("official", "transferattack"))
    check_count("blends", blends, 0)
    check_bool("rates", rates)
    check_count("draws", draws)

    def attacked(victim: Victim, images: Tensor, labels: Tensor, start: Tensor | None = None) -> Tensor:
        others = tuple(range(1, images.dim()))
        w = weights(victim, images, labels, layer, variant=variant, blends=blends, draws=draws)
        if rates:
            w = w.mean(0, keepdim=True)
        x = images if start is None else start
        m = torch.zeros_like(images)
        with recorded([chosen(victim, layer)]) as (train,):

            def attribution(logits: Tensor, labels: Tensor) -> Tensor:
                return (train.taken(len(labels)) * w).transpose(0, 1).flatten(1).sum(1)

            for _ in range(steps):
                g, _ = gradient(victim, x, labels, attribution, draws)
                official = m + g / g.abs().mean(others, keepdim=True).clamp_min(LEAST)
                m = official if variant == "official" else g
                x = within(x + alpha * m.sign(), images, eps)
        return x

    return attacked


def weights(
    model: nn.Module | Victim,
    images: Tensor,
    labels: Tensor,
    layer: int | str | None = None,
    *,
    variant: Variant = "official",
    blends: int = BLENDS,
    draws: int = 1,
) -> Tensor:
    """[T, B, *]: minus each image's gradient of the label's softmax by the layer's spikes, of norm 1; or 0, if it is 0.

    Summed up over m = 0 .. N-1 of the blends, and over fresh draws of a noisy victim, at::

        official         (1 - m/N) (x + 0.1 xi),  xi ~ N(0, 1) anew for each m: the image counts, the black one does not
        transferattack   m/N x,                   without noise: the black image counts, the image does not

    The official code has 0.2 xi on images in [-1, 1], which is 0.1 in [0, 1]. The gradient is by what the layer puts
    out: not by what its spikes do to its own membranes. Mode and noise are those that the model has.
    """
    victim = Victim.of(model)
    total = torch.zeros((), device=images.device)
    with recorded([chosen(victim, layer)], cut=True) as (train,):
        for m in range(max(1, blends)):
            x = blend(images, m, blends, variant) if blends else images
            for _ in range(draws):
                share = victim(x).softmax(1).gather(1, labels.unsqueeze(1)).sum()
                calls = train.calls
                train.taken(len(images))  # checks them
                total = total + train.joined(torch.autograd.grad(share, calls, materialize_grads=True))
    norm = total.transpose(0, 1).flatten(1).norm(dim=1).clamp_min(LEAST)
    return -total / norm.view(1, -1, *[1] * (total.dim() - 2))


def blend(images: Tensor, m: int, of: int, variant: Variant) -> Tensor:
    """The m-th of so many blends of the images with black ones."""
    if variant == "transferattack":
        return images * (m / of)
    return (images + STRAY * torch.randn_like(images)) * (1 - m / of)
