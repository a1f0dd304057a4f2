"""Attacks from torchattacks, and accuracy under them. Images in [0, 1], models in evaluation mode."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Protocol

import torch
from torch import Tensor, nn
from tqdm import tqdm

import tgo_kernels as tgo
from benchmarks.robustness.models import lif_layers

EPS = 8 / 255
INSTALL = "pip install --no-deps torchattacks==3.5.1"  # it pins old versions of what it does not need here


class Attack(Protocol):
    def __call__(self, images: Tensor, labels: Tensor) -> Tensor: ...


def fgsm(model: nn.Module, eps: float = EPS) -> Attack:
    """One step of ``eps`` along the gradient's sign."""
    return _torchattacks().FGSM(model, eps=eps)


def pgd(model: nn.Module, eps: float = EPS, alpha: float = 2 / 255, steps: int = 20) -> Attack:
    """``steps`` steps of ``alpha`` from a random start within ``eps``, each projected back."""
    return _torchattacks().PGD(model, eps=eps, alpha=alpha, steps=steps, random_start=True)


def through(surrogate: tgo.Surrogate, model: nn.Module, attack: Attack) -> Attack:
    """``attack`` following the gradient of another surrogate than that of training; the spikes stay the same."""

    def attacked(images: Tensor, labels: Tensor) -> Tensor:
        layers = lif_layers(model)
        neurons = [layer.neuron for layer in layers]
        try:
            for layer in layers:
                layer.neuron = replace(layer.neuron, surrogate=surrogate)
            return attack(images, labels)
        finally:
            for layer, neuron in zip(layers, neurons, strict=True):
                layer.neuron = neuron

    return attacked


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


def accuracy(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    attack: Attack | None = None,
    *,
    noise: bool,
    batch: int = 100,
    name: str = "accuracy",
) -> float:
    """Share of the images, attacked one batch at a time where there is an attack, that the model labels right.

    With ``noise`` both see it: the attack takes each gradient from a fresh draw, the model answers from another.
    """
    right = 0
    with evaluating(model, noise):
        pairs = list(zip(images.split(batch), labels.split(batch), strict=True))
        for x, y in tqdm(pairs, desc=name, unit="batch", leave=False, disable=None):
            attacked = x if attack is None else attack(x, y)
            with torch.no_grad():
                right += int((model(attacked).argmax(1) == y).sum())
    return right / len(images)
