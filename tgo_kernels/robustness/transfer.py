"""Examples that are made on one model and shown to others."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from tgo_kernels.neurons import check_bool
from tgo_kernels.robustness.attacks import EPS, Attack
from tgo_kernels.robustness.evaluation import accuracy, bar, check
from tgo_kernels.robustness.spikes import untouched
from tgo_kernels.robustness.victim import Victim, seeded


def transfers(
    victims: Mapping[str, nn.Module | Victim],
    images: Tensor,
    labels: Tensor,
    attack: Attack,
    *,
    noise: bool = False,
    batch: int = 100,
    seed: int = 0,
    progress: bool | None = None,
) -> Tensor:
    """[sources, targets]: the share of the images that each target labels right, of examples made on each source.

    Both in the order of ``victims``; the diagonal is the white box. A source makes its examples once, of all images,
    those that it gets wrong anyway too. All models see them with their noise on or off, as ``noise`` says, in draws of
    their own. Every source's attack starts from the same ``seed``.

    Raises:
        TypeError, ValueError: naming the argument, what was expected and what came.
    """
    if not isinstance(victims, Mapping):
        raise TypeError(f"victims must be a mapping of names to models, got {type(victims).__name__}")
    check(images, labels, EPS, "linf", batch)
    check_attack(attack)
    check_bool("noise", noise)
    named = {name: Victim.of(each) for name, each in victims.items()}
    found = torch.zeros(len(named), len(named))
    for i, source in enumerate(bar(named.values(), "transfer", progress)):
        x = examples(source, images, labels, attack, noise=noise, batch=batch, seed=seed)
        for j, target in enumerate(named.values()):
            with untouched(target):
                found[i, j] = accuracy(target, x, labels, noise=noise, batch=batch)
    return found


def examples(
    model: nn.Module | Victim,
    images: Tensor,
    labels: Tensor,
    attack: Attack,
    *,
    noise: bool = False,
    batch: int = 100,
    seed: int = 0,
) -> Tensor:
    """What the attack makes of the images [N, *] on this model, one batch at a time."""
    victim = Victim.of(model)
    with seeded(images, seed), untouched(victim), victim.evaluating(noise):
        pairs = zip(images.split(batch), labels.split(batch), strict=True)
        return torch.cat([attack(victim, x, y).detach() for x, y in pairs])


def check_attack(attack: object) -> None:
    if not callable(attack):
        raise TypeError(f"attack must be an attack, such as attacks.pgd(), got {type(attack).__name__}")
