"""Fragile channels: those of a layer of neurons that clean answers need, and attacks use (arXiv 2201.12347).

Pravin et al., ICANN 2021, drop the kernels of a first convolution one by one. Which score they take is not in what is
public of the paper, and no code is: the score, its ranks and gains are our decision.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from tgo_kernels.neurons import check_bool, check_number
from tgo_kernels.robustness.attacks import EPS, Attack, fgsm
from tgo_kernels.robustness.evaluation import bar, check, withstood
from tgo_kernels.robustness.frameworks import Neurons, Undo, watched
from tgo_kernels.robustness.spikes import check_count, chosen, instead, recorded, untouched
from tgo_kernels.robustness.transfer import check_attack, examples
from tgo_kernels.robustness.victim import Victim, first

NAME = "channel_gain"  # of the module in the layer


@dataclass(frozen=True)
class Fragility:
    """How many of ``of`` images a model labels right, as it is and without each of a layer's C channels."""

    layer: str  #: its name in the model
    of: int
    clean: int
    attacked: int  #: under the attack, on the model as it is
    clean_without: Tensor  #: [C] int64
    attacked_without: Tensor  #: [C] int64, with the attack made on the model without the channel
    transferred_without: Tensor  #: [C] int64, with the attack made on the model as it is

    @property
    def clean_k(self) -> Tensor:
        """[C]: by how much each channel helps clean accuracy."""
        return (self.clean - self.clean_without) / self.of

    @property
    def adv_k(self) -> Tensor:
        """[C]: and accuracy under attack; below 0, the model does better there without it."""
        return (self.attacked - self.attacked_without) / self.of

    @property
    def transfer_k(self) -> Tensor:
        """[C]: the same, where the attack does not know that the channel is gone.

        Where this is far from ``adv_k``, the channel hides a gradient, or is one that the attack relied on.
        """
        return (self.attacked - self.transferred_without) / self.of

    @property
    def fragility(self) -> Tensor:
        """[C]: ``clean_k - adv_k``, high for channels that answers need and attacks use."""
        return (self.clean - self.clean_without - self.attacked + self.attacked_without) / self.of

    @property
    def ranks(self) -> Tensor:
        """[C]: the fragility's, from -1 for the most robust to 1 for the most fragile."""
        return ranks(self.fragility)


def ranks(values: Tensor) -> Tensor:
    """[C] in [-1, 1]: (how many are less - how many more) / (C - 1), the same for the same values; 0 for one alone."""
    difference = values.unsqueeze(1) - values
    return difference.sign().sum(1) / max(1, len(values) - 1)


def fragility(
    model: nn.Module | Victim,
    images: Tensor,
    labels: Tensor,
    *,
    layer: int | str | None = 0,
    eps: float = EPS,
    attack: Attack | None = None,
    noise: bool = False,
    batch: int = 100,
    seed: int = 0,
    progress: bool | None = None,
) -> Fragility:
    """Asks the model without each channel of a layer's spikes: of the images, and of what the attack makes of them.

    That is 3 askings of all images and an attack for each channel. Every attack starts from the same ``seed``.

    Args:
        layer: the index of a layer among those that fire, or the name of one in the model; None: the middle one.
        attack: FGSM of ``eps`` if None; else ``eps`` is the attack's own.
        noise: whether the model's noise is on.

    Raises:
        TypeError, ValueError: naming the argument, what was expected and what came.
    """
    check(images, labels, eps, "linf", batch)
    attack = fgsm(eps) if attack is None else attack
    check_attack(attack)
    check_bool("noise", noise)
    victim = Victim.of(model)
    neurons = chosen(victim, layer)

    def right(x: Tensor) -> int:
        with untouched(victim):
            return int(withstood(victim, x, labels, noise=noise, batch=batch).sum())

    def made() -> Tensor:
        return examples(victim, images, labels, attack, noise=noise, batch=batch, seed=seed)

    intact, clean = made(), right(images)
    found = []
    for k in bar(range(width(victim, neurons, images[:1])), f"layer {neurons.name}", progress):
        with without(victim, neurons.name, k):
            found.append((right(images), right(made()), right(intact)))
    return Fragility(neurons.name, len(images), clean, right(intact), *torch.tensor(found).unbind(1))


def width(victim: Victim, neurons: Neurons, image: Tensor) -> int:
    """How many channels the layer has."""
    with torch.no_grad(), untouched(victim), victim.evaluating(False), recorded([neurons]) as (train,):
        victim(image)
        return train.taken(len(image)).shape[2]


@contextmanager
def without(model: nn.Module | Victim, layer: int | str | None, channel: int) -> Iterator[None]:
    """The model with one channel of a layer's spikes at 0: dimension 2 of [T, B, C, *], 1 where a call is of one step.

    The neurons themselves fire and reset as before.
    """
    neurons = chosen(Victim.of(model), layer)
    check_count("channel", channel, 0)
    dim = of_channels(neurons)

    def hook(module: nn.Module, inputs: Any, output: Any) -> Any:
        spikes = first(output)
        if channel >= spikes.shape[dim]:
            raise ValueError(f"channel must be < {spikes.shape[dim]}, the channels of {neurons.name!r}; got {channel}")
        return instead(output, spikes.index_fill(dim, torch.tensor([channel], device=spikes.device), 0))

    with watched([neurons.module], hook):
        yield


def of_channels(neurons: Neurons) -> int:
    return 2 if neurons.sees_time else 1


class ChannelGain(nn.Module):
    """What comes into a layer of neurons, times a gain of each channel.

    Inserted into the layer as its ``channel_gain``: the model's text and ``state_dict`` have it, and so has the
    fingerprint in an evaluation's record.

    Args:
        gain: [C].
        dim: which dimension of the input is the channels: 2 of [T, B, C, *], 1 of [B, C, *].
    """

    gain: Tensor

    def __init__(self, gain: Tensor, dim: int = 2) -> None:
        super().__init__()
        if not isinstance(gain, Tensor) or gain.dim() != 1 or not gain.is_floating_point():
            got = f"{gain.dtype} {tuple(gain.shape)}" if isinstance(gain, Tensor) else type(gain).__name__
            raise ValueError(f"gain must be a float tensor [C], got {got}")
        check_count("dim", dim, 0)
        self.dim = dim
        self.register_buffer("gain", gain.detach().clone())

    def forward(self, x: Tensor) -> Tensor:
        if x.dim() <= self.dim or x.shape[self.dim] != len(self.gain):
            raise ValueError(f"x must have {len(self.gain)} channels in dimension {self.dim}, got {tuple(x.shape)}")
        return x * self.gain.to(x.device, x.dtype).view(-1, *[1] * (x.dim() - self.dim - 1))

    def extra_repr(self) -> str:
        return f"channels={len(self.gain)}, dim={self.dim}"

    def insert(self, layer: nn.Module) -> Undo:
        """Into this layer of neurons; returns what takes it out again."""
        if NAME in layer._modules:
            raise ValueError(f"{type(layer).__name__} has a channel_gain already")
        if len(names := getattr(getattr(layer, "neuron", None), "INPUTS", ("x",))) > 1:
            raise ValueError(f"{type(layer).__name__} must have one input to be scaled, it has {', '.join(names)}")
        layer.add_module(NAME, self)
        handle = layer.register_forward_pre_hook(self.before)

        def undo() -> None:
            handle.remove()
            del layer._modules[NAME]

        return undo

    def before(self, layer: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        if not inputs:
            raise ValueError(f"{type(layer).__name__} must be given its input by position, to be scaled")
        return self(inputs[0]), *inputs[1:]


@contextmanager
def rescaled(model: nn.Module | Victim, found: Fragility, beta: float, sign: int = 1) -> Iterator[ChannelGain]:
    """The model with what comes into the layer that was ``found`` fragile times a gain of each channel::

        gain_k = 1 + sign beta rank_k

    ``sign=1`` is the paper's, which amplifies the fragile and compresses the robust; -1 the opposite: try both. The
    input is what the weights before the neurons, and their norm, give them. ``beta`` is below 1, 0.1 to 0.3 for a
    start; with 0 the model is the same, to the bit. To keep it, :meth:`ChannelGain.insert`.

    Raises:
        TypeError, ValueError: naming the argument, what was expected and what came.
    """
    if not isinstance(found, Fragility):
        raise TypeError(f"found must be a Fragility, got {type(found).__name__}")
    check_number("beta", beta)
    if beta >= 1:
        raise ValueError(f"beta must be < 1, got {beta}")
    if sign not in (1, -1):
        raise ValueError(f"sign must be 1 or -1, got {sign!r}")
    neurons = chosen(Victim.of(model), found.layer)
    gain = ChannelGain(1 + sign * beta * found.ranks, of_channels(neurons))
    undo = gain.insert(neurons.module)
    try:
        yield gain
    finally:
        undo()
