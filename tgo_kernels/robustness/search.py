"""Search without gradients, from where attacks with gradients ended."""

from contextlib import nullcontext

import torch
from torch import Tensor

from tgo_kernels.robustness.attacks import EPS, Attack
from tgo_kernels.robustness.victim import Victim

SIDES = (4, 3, 2, 1)  # pixels: a large patch first


def local_search(
    eps: float = EPS, queries: int = 2000, sides: tuple[int, ...] = SIDES, draws: int | None = None
) -> Attack:
    """A square patch of each image, anywhere, is set to the image -+ ``eps``; kept where the margin does not fall.

    The sides of the patches take turns of the same length. Spikes make the margin a staircase, on which a point moves
    by ties alone: they are kept. From where the attacks before it came closest, for Square, which starts at the image,
    finds next to nothing. Without noise; or by the mean of so many ``draws`` of one that cannot be turned off, where a
    point that these get wrong is asked as :meth:`Victim.wrong` asks. Our decision, down to the sides.
    """

    @torch.no_grad()
    def attacked(victim: Victim, images: Tensor, labels: Tensor, start: Tensor | None = None) -> Tensor:
        found, left = (images if start is None else start).clone(), torch.arange(len(images), device=images.device)

        def asked(x: Tensor, labels: Tensor) -> Tensor:
            ahead = victim.margins(x, labels, draws)
            if draws is not None and (wrong := ahead > 0).any():
                ahead[wrong] = victim.wrong(x[wrong], labels[wrong])[1]
            return ahead

        with nullcontext() if draws else victim.evaluating(False):
            highest = asked(found, labels)
            for query in range(queries):
                left = left[highest[left] <= 0]
                if not len(left):
                    break
                side = sides[query * len(sides) // queries]
                x = patched(found[left], images[left], eps, side)
                ahead = asked(x, labels[left])
                keep = ahead >= highest[left]
                chosen = left[keep]
                found[chosen], highest[chosen] = x[keep], ahead[keep]
        return found

    return attacked


def patched(x: Tensor, images: Tensor, eps: float, side: int) -> Tensor:
    """``x`` with one patch of each image at -+ ``eps``, by channels; the other way round where that changes nothing."""
    count, channels, height, width = x.shape
    where = patch(count, height, min(side, height), x.device).unsqueeze(2)
    where = (where & patch(count, width, min(side, width), x.device).unsqueeze(1)).unsqueeze(1)
    signs = torch.randint(0, 2, (count, channels, 1, 1), device=x.device) * 2 - 1
    up, down = ((images + eps * way * signs).clamp(0, 1) for way in (1, -1))
    moved = torch.where(where, up, x)
    same = (moved == x).flatten(1).all(1).view(-1, 1, 1, 1)
    return torch.where(same & where, down, moved)


def patch(count: int, size: int, side: int, device: torch.device) -> Tensor:
    """[count, size] bool: ``side`` in a row, anywhere."""
    at = torch.randint(0, size - side + 1, (count, 1), device=device)
    line = torch.arange(size, device=device)
    return (line >= at) & (line < at + side)
