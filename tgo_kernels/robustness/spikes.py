"""What a layer of neurons puts out while a model looks at images, whoever made the neurons."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from tgo_kernels.robustness.frameworks import Neurons, watched
from tgo_kernels.robustness.victim import Victim, first


def check_count(name: str, value: object, minimum: int = 1) -> None:
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{name} must be an int, got {type(value).__name__}")
    if value < minimum:
        raise ValueError(f"{name} must be >= {minimum}, got {value}")


def firing(victim: Victim) -> list[Neurons]:
    """The layers of neurons that fire, in the order in which the model has them."""
    found = [each for each in victim.neurons if each.has_surrogate]
    if not found:
        raise ValueError(f"model must have a layer of neurons that fires, {victim.name} has none")
    return found


def check_layer(layer: object) -> None:
    if layer is not None and (not isinstance(layer, (int, str)) or isinstance(layer, bool)):
        raise TypeError(f"layer must be None, an int or a name in the model, got {type(layer).__name__}")


def chosen(victim: Victim, layer: int | str | None) -> Neurons:
    """The layer of that name, or of that index among those that fire; None: their middle one, of two the earlier."""
    check_layer(layer)
    if isinstance(layer, str):
        named = {each.name: each for each in victim.neurons}
        if layer not in named:
            raise ValueError(f"layer must be a layer of neurons of {victim.name}, {list(named)}; got {layer!r}")
        return named[layer]
    found = firing(victim)
    if layer is None:
        return found[(len(found) - 1) // 2]
    if not -len(found) <= layer < len(found):
        raise ValueError(f"layer must be an index of {len(found)} layers that fire, got {layer}")
    return found[layer]


class Train:
    """The spikes of one layer: what it put out in each of its calls since they were last taken."""

    def __init__(self, neurons: Neurons) -> None:
        self.neurons = neurons
        self.calls: list[Tensor] = []

    def joined(self, calls: Sequence[Tensor]) -> Tensor:
        """[T, B, *] of the calls, which are of all steps each, or of one."""
        return torch.cat(list(calls)) if self.neurons.sees_time else torch.stack(list(calls))

    def taken(self, count: int) -> Tensor:
        """[T, B, *] of so many images, with their graph."""
        calls, self.calls = self.calls, []
        if not calls:
            raise ValueError(f"layer {self.neurons.name!r} was not called when the model looked at the images")
        spikes = self.joined(calls)
        if spikes.dim() < 3 or spikes.shape[1] != count:
            raise ValueError(
                f"layer {self.neurons.name!r} must put out [T, B, C, *] for B = {count} images, got "
                f"{tuple(spikes.shape)}"
            )
        return spikes


@contextmanager
def recorded(layers: Sequence[Neurons], cut: bool = False) -> Iterator[list[Train]]:
    """The spikes of these layers, from now on; with ``cut``, each call's are the beginning of a graph of their own."""
    trains = {each.module: Train(each) for each in layers}

    def hook(module: nn.Module, inputs: Any, output: Any) -> Any:
        spikes = first(output)
        if not cut:
            trains[module].calls.append(spikes.clone())  # who comes next may write to them
            return None
        spikes = spikes.detach().requires_grad_()
        trains[module].calls.append(spikes)
        return instead(output, spikes.clone())

    with watched(list(trains), hook):
        yield list(trains.values())


def instead(output: Any, spikes: Tensor) -> Any:
    """A layer's output with other spikes: of several, as snnTorch's neurons have them, they are the first."""
    return (spikes, *output[1:]) if isinstance(output, (tuple, list)) else spikes


@contextmanager
def untouched(victim: Victim) -> Iterator[None]:
    """Forwards that leave no trace: states, penalties that wait, rates, and running statistics are put back."""
    norms = [(m, dict(m._buffers)) for m in victim.model.modules() if m._buffers.get("running_mean") is not None]
    kept = [
        (each.module, [dict(vars(each.module)), *map(dict, inside(each.module))])  # of tensors that are exchanged
        for each in victim.neurons
    ]
    try:
        for norm, buffers in norms:  # which are written to
            norm._buffers.update({name: None if x is None else x.clone() for name, x in buffers.items()})
        yield
    finally:
        for norm, buffers in norms:
            norm._buffers.update(buffers)
        for module, before in kept:
            for now, former in zip((vars(module), *inside(module)), before, strict=True):
                now.clear()
                now.update(former)


def inside(module: nn.Module) -> list[dict[str, Any]]:
    """Where else than in its attributes a layer of neurons has states: snnTorch's, and SpikingJelly's."""
    return [module._buffers, vars(module).get("_memories", {})]
