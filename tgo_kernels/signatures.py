"""What a network's membranes do on clean inputs: the targets of homeostatic neurons."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from tgo_kernels.layer import Layer


def signatures(
    model: nn.Module, batches: Iterable[Any], run: Callable[[nn.Module, Any], Any] | None = None
) -> dict[str, Tensor]:
    """The mean membrane ``h`` of each neuron in each step, before noise and reset, over all samples.

    That is the neuronal dynamic signature of HoSNN (arXiv 2308.10373), of a network that was trained without attacks:
    its released file holds membranes before the reset. In ``eval()``, without gradients, summed up in fp64; the state
    of stateful layers is forgotten before each batch and at the end.

    Args:
        model: one with layers of this package, of which each is called once on [T, B, *].
        batches: what it runs on; of a tuple or list the first, as of loaders of inputs and labels.
        run: ``run(model, batch)`` where it is called otherwise.

    Returns:
        By the names of the layers [T, 1, *] fp32, as :class:`tgo_kernels.HomeostaticLIF` takes it for its ``target``.

    Raises:
        ValueError: no layers, no batches, or a layer that was called more than once, or with another T or shape.
    """
    layers = {name: module for name, module in model.named_modules() if isinstance(module, Layer)}
    if not layers:
        raise ValueError("model has no layer of tgo_kernels")
    totals: dict[str, Tensor] = {}
    samples = dict.fromkeys(layers, 0)
    called: set[str] = set()

    def add(name: str, layer: Layer) -> None:
        membrane = layer.membrane
        assert membrane is not None
        if name in called:
            raise ValueError(f"{name} is called more than once in a forward")
        called.add(name)
        total = membrane.double().sum(1, keepdim=True)
        if name in totals and totals[name].shape != total.shape:
            raise ValueError(f"{name}: [T, *] was {list(totals[name].shape)}, and is {list(total.shape)}")
        totals[name] = totals[name] + total if name in totals else total
        samples[name] += membrane.shape[1]

    training = {module: module.training for module in model.modules()}
    neurons = {name: layer.neuron for name, layer in layers.items()}
    hooks = [
        layer.register_forward_hook(lambda layer, *_, name=name: add(name, layer)) for name, layer in layers.items()
    ]
    try:
        model.eval()
        for name, layer in layers.items():
            vars(layer)["_neuron"] = neurons[name].replaced(membrane="h")
        with torch.no_grad():
            for batch in batches:
                called.clear()
                for layer in layers.values():
                    layer.reset()
                if run is not None:
                    run(model, batch)
                else:
                    model(batch[0] if isinstance(batch, (tuple, list)) else batch)
    finally:
        for hook in hooks:
            hook.remove()
        for name, layer in layers.items():
            vars(layer)["_neuron"] = neurons[name]
            layer.reset()
        for module, mode in training.items():
            module.training = mode
    if not totals:
        raise ValueError("batches has none")
    return {name: (total / samples[name]).float() for name, total in totals.items()}
