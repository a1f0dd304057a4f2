"""Attacks from torchattacks, the layers' state during an attack, and which images a model still labels right.

Images in [0, 1], models in evaluation mode. What torchattacks does not have is in ``adaptive.py`` and ``straight.py``.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Protocol

import torch
from torch import Tensor, nn
from tqdm import tqdm

import tgo_kernels as tgo
from benchmarks.robustness.models import lif_layers

EPS = 8 / 255
ANSWERS = 16  # draws of the noise behind one answer of a noisy model
INSTALL = "pip install --no-deps torchattacks==3.5.1"  # it pins old versions of what it does not need here


class Attack(Protocol):
    def __call__(self, images: Tensor, labels: Tensor) -> Tensor: ...


class Averaged(nn.Module):
    """A noisy model by the mean of its logits over ``draws`` draws: attacks on it take expectations over the noise."""

    def __init__(self, model: nn.Module, draws: int) -> None:
        super().__init__()
        self.model, self.draws, self.training = model, draws, model.training

    def forward(self, images: Tensor) -> Tensor:
        return sum(self.model(images) for _ in range(self.draws)) / self.draws


def fgsm(model: nn.Module, eps: float = EPS) -> Attack:
    """One step of ``eps`` along the gradient's sign."""
    return _torchattacks().FGSM(model, eps=eps)


def rfgsm(model: nn.Module, eps: float = EPS) -> Attack:
    """A random step of ``eps/2``, then one along the gradient's sign."""
    return _torchattacks().RFGSM(model, eps=eps, alpha=eps / 2, steps=1)


def pgd(model: nn.Module, eps: float = EPS, alpha: float = 2 / 255, steps: int = 20) -> Attack:
    """``steps`` steps of ``alpha`` from a random start within ``eps``, each projected back."""
    return _torchattacks().PGD(model, eps=eps, alpha=alpha, steps=steps, random_start=True)


def apgd(model: nn.Module, eps: float = EPS, steps: int = 20, draws: int = 1) -> Attack:
    """Auto-PGD on the cross entropy of the mean over ``draws`` draws (Croce and Hein, arXiv 2003.01690).

    Of each image the first iterate that the model itself gets wrong, else that of the highest loss. torchattacks takes
    the last that one mean of the draws got wrong, and where there is none, or a first draw on the clean image was
    wrong, the clean image: with noise, a lucky draw would decide.
    """

    def attacked(images: Tensor, labels: Tensor) -> Tensor:
        averaged, found = Averaged(model, draws), images.clone()
        right = torch.ones(len(images), dtype=torch.bool)

        def keep(_: nn.Module, asked: tuple[Tensor], logits: Tensor) -> None:
            if (wrong := right & (logits.argmax(1) != labels)).any():
                wrong[wrong.clone()] = ~correct(model, asked[0][wrong], labels[wrong])
                found[wrong] = asked[0][wrong].detach()
                right[wrong] = False

        attack = _torchattacks().APGD(averaged, eps=eps, steps=steps)
        averaged.register_forward_hook(keep)
        torch.manual_seed(0)
        highest, *_ = attack.attack_single_run(images, labels)
        found[right] = highest[right]
        return found

    return attacked


def square(model: nn.Module, eps: float = EPS, queries: int = 200, draws: int = 1) -> Attack:
    """Square attack (arXiv 1912.00049), which sees the logits alone: their mean over ``draws`` draws.

    What these get wrong is asked again and answered by the model itself. torchattacks takes them at their word, and
    gives the clean image where they were wrong on it or not wrong once more at the end. With noise a weak attack
    still: a query is kept where it beats the best answer so far, which was a lucky one.
    """

    def attacked(images: Tensor, labels: Tensor) -> Tensor:
        make = _torchattacks().Square
        attack = make(Averaged(model, draws), eps=eps, n_queries=queries)
        few, sure = attack.margin_and_loss, make(Averaged(model, answers(model))).margin_and_loss

        def margin_and_loss(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
            margin, loss = few(x, y)
            if (wrong := margin <= 0).any():
                margin[wrong], loss[wrong] = sure(x[wrong], y[wrong])
            return margin, loss

        attack.margin_and_loss = margin_and_loss
        attack.init_hyperparam(images)
        torch.manual_seed(0)
        return attack.attack_single_run(images, labels)[1]

    return attacked


def random_signs(eps: float = EPS) -> Attack:
    """No attack at all: each pixel up or down by ``eps``, at random."""
    return lambda images, labels: (images + eps * torch.randn_like(images).sign()).clamp(0, 1)


def repeated(model: nn.Module, attack: Attack, times: int) -> Attack:
    """``attack`` from several random starts; for each image the first result that the model gets wrong."""

    def attacked(images: Tensor, labels: Tensor) -> Tensor:
        found, left = images.clone(), torch.arange(len(images))
        for _ in range(times):
            found[left] = attack(images[left], labels[left])
            left = left[correct(model, found[left], labels[left])]
            if not len(left):
                break
        return found

    return attacked


def through(surrogate: tgo.Surrogate, model: nn.Module, attack: Attack) -> Attack:
    """``attack`` following the gradient of another surrogate than that of training; the spikes stay the same."""

    def attacked(images: Tensor, labels: Tensor) -> Tensor:
        with surrogates(model, lambda: surrogate):
            return attack(images, labels)

    return attacked


@contextmanager
def surrogates(model: nn.Module, make: Callable[[], tgo.Surrogate], impl: str | None = None) -> Iterator[list]:
    """Every LIF layer with a surrogate of its own, served by ``impl`` if given; everything is put back afterwards."""
    layers = lif_layers(model)
    before = [(layer.neuron, layer.impl) for layer in layers]
    made = [make() for _ in layers]
    try:
        for layer, surrogate in zip(layers, made, strict=True):
            layer.neuron = replace(layer.neuron, surrogate=surrogate)
            layer.impl = impl or layer.impl
        yield made
    finally:
        for layer, (neuron, engine) in zip(layers, before, strict=True):
            layer.neuron, layer.impl = neuron, engine


def _torchattacks():
    try:
        import torchattacks
    except ImportError as error:
        raise ImportError(f"the attacks need torchattacks ({error}): {INSTALL}, with scipy and tqdm") from error
    return torchattacks


@contextmanager
def evaluating(model: nn.Module, noise: bool) -> Iterator[None]:
    """Evaluation mode with the neurons' noise on or off; everything is put back afterwards."""
    neurons = lif_layers(model)
    before, training = [n.noise_in_eval for n in neurons], model.training
    model.eval()
    try:
        for n in neurons:
            n.noise_in_eval = noise
        yield
    finally:
        for n, was in zip(neurons, before, strict=True):
            n.noise_in_eval = was
        model.train(training)


def answers(model: nn.Module) -> int:
    """Over how many draws the model answers: one where its neurons are not noisy."""
    noisy = any(layer.noise_in_eval and layer.neuron.noise_std > 0 for layer in lif_layers(model))
    return ANSWERS if noisy else 1


@torch.no_grad()
def correct(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """Which images the model labels right; where its neurons are noisy, by the mean of ``ANSWERS`` draws' logits."""
    return Averaged(model, answers(model))(images).argmax(1) == labels


def withstood(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    attack: Attack | None = None,
    *,
    noise: bool,
    batch: int = 100,
    name: str = "accuracy",
) -> Tensor:
    """[N] bool: which images, attacked one batch at a time where there is an attack, the model labels right.

    With ``noise`` both see it, in draws of their own.
    """
    found = []
    with evaluating(model, noise):
        pairs = list(zip(images.split(batch), labels.split(batch), strict=True))
        for x, y in tqdm(pairs, desc=name, unit="batch", leave=False, disable=None):
            found.append(correct(model, x if attack is None else attack(x, y), y))
    return torch.cat(found)


def accuracy(model: nn.Module, images: Tensor, labels: Tensor, attack: Attack | None = None, **options) -> float:
    """Share of the images that :func:`withstood` finds."""
    return withstood(model, images, labels, attack, **options).float().mean().item()
