"""The neurons of the papers' defences, in the place of a network's LIF, and what their training does besides."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

import tgo_kernels as tgo
from benchmarks.robustness.models import Classifier, lif_layers
from tgo_kernels import neurons
from tgo_kernels.robustness import Victim
from tgo_kernels.robustness.frameworks import replaced, watched

Shape = tuple[int, ...]
SHARED = ("decay", "gain", "surrogate", "guard_margin", "guard_side", "guard_power", "noise_std")
THETA = 0.2  # HoSNN's 1 / tau_v on CIFAR
SIGMA, LEAST_SIGMA, GAMMA = 0.25, 0.01, 1e-4  # Learn2Perturb's
AMPLITUDE, PERIOD = 0.3, 4.0  # of the oscillation: ours, its paper has none that we could read
SWAPPED = (2.0, 2.0, 0.0)  # amplitude, period and phase that an attacker differentiates: ours


def constants(layer: tgo.LIF) -> dict[str, Any]:
    """What another neuron shares with this one."""
    return {name: getattr(layer, name) for name in SHARED}


def homeostatic(layer: tgo.LIF, shape: Shape, steps: int) -> nn.Module:
    """HoSNN's: theta one a neuron, which learns; the signature, a value of each step, is recorded before training."""
    theta, target = nn.Parameter(torch.full(shape, THETA)), torch.zeros(steps, 1, *shape)
    return tgo.Layer(neurons.HomeostaticLIF(**constants(layer), strict=True, theta=theta, target=target))


def predicting(layer: tgo.LIF, shape: Shape, steps: int) -> nn.Module:
    """With self-prediction in our form: its three constants learn, one a channel."""
    return tgo.Layer(
        neurons.SelfPredictingLIF(**constants(layer)), learn=("rate", "of_output", "of_input"), channels=shape[0]
    )


def oscillating(layer: tgo.LIF, shape: Shape, steps: int) -> nn.Module:
    return tgo.Layer(neurons.OscillatingLIF(**constants(layer), amplitude=AMPLITUDE, period=PERIOD))


def rectified(layer: tgo.LIF, shape: Shape, steps: int) -> nn.Module:
    return nn.ReLU()


def perturbed_channels(layer: tgo.LIF, shape: Shape, steps: int) -> nn.Module:
    """Learn2Perturb's noise, its width one a channel."""
    neuron = neurons.LIF(**constants(layer) | {"noise_std": SIGMA})
    return tgo.Layer(neuron, learn=("noise_std",), channels=shape[0])


def perturbed_neurons(layer: tgo.LIF, shape: Shape, steps: int) -> nn.Module:
    """And one a neuron, as in the paper."""
    return tgo.Layer(neurons.LIF(**constants(layer) | {"noise_std": nn.Parameter(torch.full(shape, SIGMA))}))


NEURONS: dict[str, Callable[[tgo.LIF, Shape, int], nn.Module]] = {
    "HoSNN": homeostatic,
    "prediction": predicting,
    "oscillation": oscillating,
    "ANN": rectified,
    "L2P-channel": perturbed_channels,
    "L2P-neuron": perturbed_neurons,
}


def exchanged(model: Classifier, name: str) -> Classifier:
    """The same network with these neurons in the place of LIF; its weights stay."""
    shapes: dict[nn.Module, Shape] = {}
    inputs = next(weight.shape[1] for weight in model.parameters() if weight.dim() == 4)
    side = min(model.side, 28)

    def watch(layer: tgo.LIF, x: tuple[Tensor], _: Tensor) -> None:
        shapes[layer] = tuple(x[0].shape[2:])

    with watched(lif_layers(model), watch), torch.no_grad(), Victim(model).evaluating(False):
        model(torch.zeros(1, inputs, side, side))
    for parent in list(model.modules()):
        for key, child in list(parent.named_children()):
            if child in shapes:
                setattr(parent, key, NEURONS[name](child, shapes[child], model.steps))
    for layer in layers(model):
        layer.reset()
    return model


def layers(model: nn.Module) -> list[tgo.Layer]:
    return [module for module in model.modules() if isinstance(module, tgo.Layer)]


@torch.no_grad()
def record_signature(model: nn.Module, plain: nn.Module, images: Tensor, batch: int = 500) -> None:
    """HoSNN's signature: the mean potential of each neuron and step of the plain network on clean images, [T, 1, *].

    The plain network is in evaluation mode. (The code released takes batch means while that network trains.)
    """
    for name, mean in tgo.signatures(plain, images.split(batch)).items():
        model.get_submodule(name).target.copy_(mean)


@torch.no_grad()
def bounded(model: nn.Module) -> None:
    """After an update: theta stays >= 0, a prediction's rate in [0, 1], the width of a noise at least LEAST_SIGMA."""
    for layer in layers(model):
        if isinstance(layer.neuron, neurons.HomeostaticLIF):
            layer.theta.clamp_(min=0)
        if isinstance(layer.neuron, neurons.SelfPredictingLIF):
            layer.rate.clamp_(0, 1)
    for sigma in sigmas(model):
        sigma.clamp_(min=LEAST_SIGMA)


def sigmas(model: nn.Module) -> list[nn.Parameter]:
    """The widths of the noise that learn."""
    return [value for name, value in model.named_parameters() if name.endswith("noise_std")]


@torch.no_grad()
def widened(model: nn.Module, lr: float, epoch: int) -> None:
    """Learn2Perturb's other step: one of gradient descent on R = -(gamma / H_k) sum of sqrt(sigma), by itself.

    H_k is the sum of 1 / i up to k, the epoch counted from 1. (The code released begins with k = 0, and divides by 0.)
    """
    harmonic = sum(1 / i for i in range(1, epoch + 2))
    for sigma in sigmas(model):
        sigma.add_(lr * GAMMA / harmonic / (2 * sigma.sqrt()))


@contextmanager
def as_released(model: nn.Module) -> Iterator[None]:
    """The gradient of HoSNN's released code (TSSL-BP) for its neurons: along neither leak, reset nor threshold.

    Each step's is that of Sigmoid(5) at the fixed threshold, flat beyond 1.6 of it::

        q = sigmoid(-5 clamp(h[t] - v_threshold, -1.6, 1.6));   g_x[t] = g_s[t] gain 5 q (1 - q)
    """

    def hook(layer: tgo.Layer, inputs: tuple[Tensor], spikes: Tensor) -> Tensor:
        x = inputs[0]
        with torch.no_grad():
            neuron = layer.neuron.without_noise().replaced(**layer.learned(x.dim()), membrane="h")
            d = tgo.scan(neuron, x).membrane - neuron.v_threshold
            slope = neuron.gain * tgo.Sigmoid(5.0).derivative(d.clamp(-1.6, 1.6))
        return replaced(x, spikes, slope)

    chosen = [layer for layer in layers(model) if isinstance(layer.neuron, neurons.HomeostaticLIF)]
    with watched(chosen, hook):
        yield


def swap(model: nn.Module, swapped: tuple[float, float, float] | None = SWAPPED) -> nn.Module:
    """The model itself, whose oscillating neurons are from now on differentiated as others: masked gradients."""
    for layer in layers(model):
        if isinstance(layer.neuron, neurons.OscillatingLIF):
            layer.neuron = layer.neuron.changed(swapped=swapped)
    return model
