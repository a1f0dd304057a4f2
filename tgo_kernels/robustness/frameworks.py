"""Whose neurons a model has, tgo_kernels', SpikingJelly's or snnTorch's: how each is reset and given a surrogate.

Nothing of theirs is imported: a model that has their neurons has imported them.
"""

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from tgo_kernels.layer import Layer
from tgo_kernels.neurons.base import Spikes
from tgo_kernels.reference import straight_through
from tgo_kernels.surrogate import NoisePDF, Surrogate

Undo = Callable[[], None]


@dataclass(frozen=True)
class Neurons:
    """One layer of neurons in a model."""

    name: str  #: in the model
    module: Any

    def reset(self) -> None:
        """At rest again."""
        self.module.reset()

    @property
    def sees_time(self) -> bool:
        """Whether a call is of all time steps, [T, *], instead of one."""
        return True

    @property
    def has_surrogate(self) -> bool:
        """Whether it fires by a step, whose derivative is a surrogate."""
        return False

    def swap(self, surrogate: Surrogate, impl: str | None) -> Undo:
        """From now on the derivative of its firing is this one; returns what puts the former back."""
        raise NotImplementedError

    def leak(self) -> tuple[Any, Any, Any]:
        """Decay, gain and threshold of a leaky neuron."""
        raise NotImplementedError


class Ours(Neurons):
    """A layer of tgo_kernels, or what a conversion made one."""

    @property
    def sees_time(self) -> bool:
        return getattr(self.module, "step_mode", "m") == "m" and vars(self.module).get("sequence", True)

    @property
    def has_surrogate(self) -> bool:
        neuron = self.module.neuron
        return not neuron.never_fires and neuron.SPIKES is not Spikes.INTEGER

    def swap(self, surrogate: Surrogate, impl: str | None) -> Undo:
        layer: Layer = self.module
        neuron, engine, follows = layer.neuron, layer.impl, vars(layer).get("_pdf_of_noise")

        def undo() -> None:
            layer.neuron, layer.impl = neuron, engine
            if follows is not None:
                layer._pdf_of_noise = follows  # type: ignore[assignment]

        if isinstance(surrogate, NoisePDF) and surrogate.std is None and layer._learn_noise:
            surrogate = NoisePDF(layer.learned(0)["noise_std"].mean().item())  # of the widths as they are now
        if not isinstance(surrogate, NoisePDF) or surrogate.std is not None or neuron.noisy:  # else it has no width
            own = {"swapped": None} if getattr(neuron, "swapped", None) else {}  # whoever replaces it differentiates it
            layer.neuron = neuron.changed(surrogate=surrogate, **own)
        layer.impl = impl or engine
        return undo

    def leak(self) -> tuple[Any, Any, Any]:
        constants = {"decay": 1.0, "gain": 1.0} | {
            name: getattr(self.module.neuron, name) for name in ("decay", "gain", "v_threshold")
        }
        constants |= {name: value for name, value in self.module.learned(0).items() if name in constants}
        return constants["decay"], constants["gain"], constants["v_threshold"]


class _Foreign(Neurons):
    """A neuron whose surrogate is a callable, of the membrane's distance from the threshold, in one attribute."""

    ATTRIBUTE = ""

    @property
    def has_surrogate(self) -> bool:
        function = getattr(self.module, self.ATTRIBUTE, None)
        smooth = getattr(function, "spiking", True) is False  # it does not fire, and has its derivative
        return callable(function) and not smooth and not hasattr(function, "max_spike_count")

    def swap(self, surrogate: Surrogate, impl: str | None) -> Undo:
        own, former = vars(self.module), getattr(self.module, self.ATTRIBUTE)
        had = self.ATTRIBUTE in own

        def undo() -> None:
            if had:
                own[self.ATTRIBUTE] = former
            else:
                del own[self.ATTRIBUTE]

        own[self.ATTRIBUTE] = fired(former, surrogate)  # goes before a submodule of that name, and leaves it
        return undo


class SpikingJelly(_Foreign):
    ATTRIBUTE = "surrogate_function"

    @property
    def sees_time(self) -> bool:
        return self.module.step_mode == "m"

    @property
    def forgets_gradients(self) -> bool:
        """Whether it has none in ``eval()``: 0.0.0.0.14 has compiled steps there, in which firing is a comparison."""
        return not hasattr(self.module, "materialize_states")

    def leak(self) -> tuple[Any, Any, Any]:
        node = self.module
        rate = node.w.detach().sigmoid() if hasattr(node, "w") else 1 / node.tau if hasattr(node, "tau") else 0.0
        gain = rate if getattr(node, "decay_input", False) else 1.0
        return 1 - rate, gain, node.v_threshold


class SnnTorch(_Foreign):
    ATTRIBUTE = "spike_grad"

    @property
    def sees_time(self) -> bool:
        return False

    def reset(self) -> None:
        if hasattr(self.module, "reset_mem"):
            self.module.reset_mem()

    def leak(self) -> tuple[Any, Any, Any]:
        return self.module.beta.detach().clamp(0, 1), 1.0, self.module.threshold.detach()


def neurons(model: nn.Module) -> list[Neurons]:
    """Every module that holds a state, in the order in which the model has them."""
    theirs = ((SpikingJelly, "spikingjelly.activation_based.base", "MemoryModule"), (SnnTorch, "snntorch", None))
    kinds: list[tuple[type[Neurons], type]] = [(Ours, Layer)]
    for kind, package, name in theirs:
        if package in sys.modules:
            kinds.append((kind, getattr(sys.modules[package], name or "SpikingNeuron")))
    found: list[Neurons] = []
    for name, module in model.named_modules():
        mine = [kind(name, module) for kind, base in kinds if isinstance(module, base)]
        found += mine[:1]
    return found


def fired(former: Callable[[Tensor], Tensor], surrogate: Surrogate) -> Callable[[Tensor], Tensor]:
    """The spikes of ``former``, with the derivative of ``surrogate``."""

    def fire(d: Tensor, *others: Any) -> Tensor:
        with torch.no_grad():
            spikes = former(d, *others)
        if not torch.is_grad_enabled():  # an adaptive surrogate counts the steps that are differentiated
            return spikes
        return replaced(d, spikes, surrogate.derivative(d.detach()))

    return fire


def replaced(x: Tensor, value: Tensor, slope: Tensor) -> Tensor:
    """``value``, whose derivative with respect to x is ``slope``."""
    return straight_through(value.detach(), x, slope)


@contextmanager
def watched(modules: Sequence[nn.Module], hook: Callable) -> Iterator[None]:
    """``hook(module, inputs, output)`` after every forward of these; what it returns replaces the output."""
    handles = [module.register_forward_hook(hook) for module in modules]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
