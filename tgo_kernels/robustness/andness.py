"""Whether neurons fire for all of their inputs together or for any of them: and, or in between (arXiv 2102.07389).

Fontana finds trained neurons too near to "or", which lets small changes of many inputs add up. The paper is of sigmoids
and gives no formulas in what is public of it: those here, for spiking neurons, are our decision.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

import torch
from torch import Tensor, nn

from tgo_kernels.neurons import check_bool, check_number
from tgo_kernels.neurons.base import check_choice
from tgo_kernels.robustness.frameworks import Neurons, neurons, watched
from tgo_kernels.robustness.spikes import check_count, firing, instead, recorded, untouched
from tgo_kernels.robustness.victim import Victim, first

Leaky = Any  # a layer of leaky neurons of any framework, a constant of tgo_kernels.neurons, or (decay, gain, threshold)


def andness(weight: Tensor, neuron: Leaky, steps: int) -> Tensor:
    """[n]: which share of its excitatory drive a neuron needs in order to fire within ``steps`` steps from rest::

        v_threshold / (gain R sum_j max(w_nj, 0)),  R = 1 + decay + .. + decay^(steps - 1)

    clipped to [0, 1]. 1: all inputs at once, or not even these; 1/inputs: any of them.

    Args:
        weight: [n, *] of a Linear or Conv in front of the neurons, as it acts: a norm's scale in it, inputs in [0, 1].
        neuron: a layer of leaky neurons, of tgo_kernels, SpikingJelly or snnTorch; one of ``tgo_kernels.neurons``; or
            (decay, gain, v_threshold). A learned constant is one for all n, or [n].

    Raises:
        TypeError, ValueError: naming the argument, what was expected and what came.
    """
    check_weight(weight)
    need, drive = needed(neuron, steps, weight), weight.detach().flatten(1).clamp(min=0).sum(1)
    return torch.where(drive > 0, need / drive, 1.0).clamp(0, 1)


@torch.no_grad()
def normalised_(weight: Tensor, kappa: float, neuron: Leaky, steps: int) -> Tensor:
    """In place, ``w_n <- w_n c / |w_n|_1`` with ``c = v_threshold / (gain R kappa)``; returns the weight.

    After each step of training. A neuron without inhibition then has an :func:`andness` of ``kappa``, others more: 0.3
    to 0.7 for a start. Weights that are all 0 stay so. Arguments and errors are those of :func:`andness`.
    """
    check_weight(weight)
    check_number("kappa", kappa)
    if not 0 < kappa <= 1:
        raise ValueError(f"kappa must be > 0 and at most 1, got {kappa}")
    norm = weight.flatten(1).abs().sum(1)
    scale = torch.where(norm > 0, needed(neuron, steps, weight) / kappa / norm, 1.0)
    return weight.mul_(scale.view(-1, *[1] * (weight.dim() - 1)))


def check_weight(weight: object) -> None:
    if not isinstance(weight, Tensor) or weight.dim() < 2 or not weight.is_floating_point():
        got = f"{weight.dtype} {tuple(weight.shape)}" if isinstance(weight, Tensor) else type(weight).__name__
        raise ValueError(f"weight must be a float tensor [neurons, inputs, *], got {got}")


def needed(neuron: Leaky, steps: int, weight: Tensor) -> Tensor:
    """[n] or []: the constant input by which a neuron just reaches its threshold after so many steps."""
    check_count("steps", steps)
    constants = leak(neuron)
    if not all(isinstance(each, (int, float, Tensor)) for each in constants):
        raise TypeError(f"neuron must have decay, gain and v_threshold that are numbers or tensors, got {constants}")
    decay, gain, threshold = (torch.as_tensor(each).detach().to(weight.device).double().flatten() for each in constants)
    if not ((decay >= 0).all() and (gain > 0).all()):
        raise ValueError(f"neuron must have a decay >= 0 and a gain > 0, got {constants}")
    need = threshold / (gain * sum(decay**t for t in range(steps)))
    if len(need) not in (1, len(weight)):
        raise ValueError(f"neuron must have constants for {len(weight)} neurons, got {len(need)}")
    return need.to(weight.dtype)


def leak(neuron: Leaky) -> Sequence[Any]:
    """Decay, gain and threshold."""
    if isinstance(neuron, (tuple, list)):
        if len(neuron) != 3:
            raise ValueError(f"neuron must be (decay, gain, v_threshold) where it is no layer, got {neuron!r}")
        return neuron
    layers = [neuron] if isinstance(neuron, Neurons) else neurons(neuron) if isinstance(neuron, nn.Module) else []
    try:
        return layers[0].leak() if len(layers) == 1 else (neuron.decay, neuron.gain, neuron.v_threshold)
    except AttributeError as error:
        raise TypeError(
            f"neuron must be a layer of leaky neurons, one of tgo_kernels.neurons or (decay, gain, v_threshold), got "
            f"{type(neuron).__name__} ({error})"
        ) from error


def scrambled(
    x: Tensor, dim: int = 0, generator: torch.Generator | None = None, together: Sequence[int] = ()
) -> Tensor:
    """``x[.., perm_j(b), .., j, ..]``: the samples, along ``dim``, in an order of its own for each feature.

    Each feature keeps its values, to the bit, and loses what it has to do with others. Features that differ in the
    dimensions ``together`` alone keep one order: with ``dim=1, together=[0]`` those of [T, B, *] keep their course.
    """
    if not isinstance(x, Tensor) or x.dim() == 0:
        raise TypeError(f"x must be a tensor with a dimension of samples, got {x!r}")
    if not -x.dim() <= dim < x.dim():
        raise ValueError(f"dim must be one of {x.dim()} dimensions, got {dim}")
    dim = dim % x.dim()
    if not set(together) <= set(range(x.dim())) - {dim}:
        raise ValueError(f"together must be of the {x.dim()} dimensions, from 0 on, but {dim}; got {list(together)}")
    return x.gather(dim, order(x, dim, generator, together).expand_as(x))


def order(x: Tensor, dim: int, generator: torch.Generator | None, together: Sequence[int] = ()) -> Tensor:
    """What :func:`scrambled` takes from where: as x, but of size 1 in the dimensions ``together``."""
    device = x.device if generator is None else generator.device
    shape = [1 if i in together else size for i, size in enumerate(x.shape)]
    return torch.rand(shape, generator=generator, device=device).argsort(dim).to(x.device)


@dataclass(frozen=True)
class Rates:
    """P(s != 0) of each channel of a layer, or of each neuron: the share of steps and samples in which it fires."""

    actual: Tensor
    scrambled: Tensor

    @property
    def score(self) -> Tensor:
        """``1 - scrambled/actual``: 1 where it fires for what belongs together alone, 0 or less where for anything.

        0 where it never fires, -inf where for scrambled input alone.
        """
        silent = (self.actual == 0) & (self.scrambled == 0)
        return torch.where(silent, 0.0, 1 - self.scrambled / self.actual)


def scrambled_rates(
    model: nn.Module | Victim,
    images: Tensor,
    *,
    of: Literal["images", "input"] = "images",
    per: Literal["channel", "neuron"] = "channel",
    noise: bool = False,
    batch: int = 100,
    generator: torch.Generator | None = None,
) -> dict[str, Rates]:
    """By the names of the layers that fire, in the order in which they do, their rates for images and scrambled ones.

    Args:
        images: [N, C, H, W] in [0, 1].
        of: what is scrambled: the network's "images", all N of them, or each layer's own "input": what the layer of
            neurons before it fires, within each batch, a spike train staying whole. Of the first layer that is the
            images. What goes round the layer before, as a shortcut does, is not scrambled.
        per: what has a rate: a "channel", dimension 2 of [T, B, C, *], or a "neuron".
        noise: whether the model's noise is on.
        generator: of the orders; None: torch's.

    Raises:
        TypeError, ValueError: naming the argument, what was expected and what came.
    """
    check_images(images)
    check_choice("of", of, ("images", "input"))
    check_choice("per", per, ("channel", "neuron"))
    check_bool("noise", noise)
    check_count("batch", batch)
    victim = Victim.of(model)
    layers = firing(victim)
    with torch.no_grad(), untouched(victim), victim.evaluating(noise):
        layers = called(victim, layers, images[:1])
        actual = measured(victim, layers, images, batch, per)
        x = scrambled(images, generator=generator)
        other = measured(victim, layers if of == "images" else layers[:1], x, batch, per)
        if of == "input":
            for before, layer in pairwise(layers):
                other[layer.name] = measured(victim, [layer], images, batch, per, before, generator)[layer.name]
    return {name: Rates(actual[name].float(), other[name].float()) for name in actual}


def called(victim: Victim, layers: list[Neurons], image: Tensor) -> list[Neurons]:
    """Those that run, in their order."""
    seen: dict[nn.Module, None] = {}
    with watched([each.module for each in layers], lambda module, *_: seen.setdefault(module)):
        victim(image)
    by_module = {each.module: each for each in layers}
    return [by_module[module] for module in seen]


def measured(
    victim: Victim,
    layers: list[Neurons],
    images: Tensor,
    batch: int,
    per: str,
    before: Neurons | None = None,
    generator: torch.Generator | None = None,
) -> dict[str, Tensor]:
    """The rates of these layers, behind one ``before`` them whose spikes are scrambled, if any."""
    found = {each.name: torch.zeros(()) for each in layers}
    for x in images.split(batch):
        with recorded(layers) as trains, watched([] if before is None else [before.module], mixing(before, generator)):
            victim(x)
            for train in trains:
                fired = (train.taken(len(x)) != 0).double().mean(0).sum(0)
                fired = fired.reshape(len(fired), -1).mean(1) if per == "channel" else fired
                found[train.neurons.name] = found[train.neurons.name].to(fired) + fired / len(images)
    return found


def mixing(layer: Neurons | None, generator: torch.Generator | None) -> Any:
    """A hook that scrambles a layer's spikes, in every call of one forward in the same order."""
    kept: list[Tensor] = []

    def hook(module: nn.Module, inputs: Any, output: Any) -> Any:
        spikes = first(output)
        timed = layer is not None and layer.sees_time
        if not kept:
            kept.append(order(spikes, 1, generator, (0,)) if timed else order(spikes, 0, generator))
        return instead(output, spikes.gather(1 if timed else 0, kept[0].expand_as(spikes)))

    return hook


def scrambled_penalty(model: nn.Module | Victim, images: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """The mean spike rate of all neurons that fire, over a scrambled batch, with gradient: a scalar in [0, 1].

    For training against "or": ``loss + mu * scrambled_penalty(model, x)``, mu 0.01 to 0.1. One more forward, from rest,
    in the mode and with the noise that the model has; its states, penalties and running statistics stay as they were.

    Raises:
        TypeError, ValueError: naming the argument, what was expected and what came; neurons that fire below 0.
    """
    check_images(images)
    victim = Victim.of(model)
    layers = firing(victim)
    with untouched(victim), recorded(layers) as trains:
        victim(scrambled(images, generator=generator))
        spikes = [train.taken(len(images)) for train in trains if train.calls]
    if any((each < 0).any() for each in spikes):
        raise ValueError("model must have neurons that fire 0 or 1 (or more), got spikes below 0")
    return torch.stack([each.sum() for each in spikes]).sum() / sum(each.numel() for each in spikes)


def check_images(images: object) -> None:
    if not isinstance(images, Tensor) or images.dim() < 2 or not images.is_floating_point() or not len(images):
        got = f"{images.dtype} {tuple(images.shape)}" if isinstance(images, Tensor) else type(images).__name__
        raise ValueError(f"images must be a float tensor [N, *] with N >= 1, got {got}")
