"""The family of neurons: of each its constants, states and inputs, and its step, which is the specification."""

from collections.abc import Sequence
from typing import Any

from tgo_kernels.neurons.base import GUARD_MARGIN, MINIMUM, SWITCHES, Leaky, Neuron, NoiseMode, check_bool, check_number
from tgo_kernels.neurons.house import *  # noqa: F403
from tgo_kernels.neurons.house import HOUSE
from tgo_kernels.neurons.house import __all__ as of_the_house
from tgo_kernels.neurons.leaky_integrator import LeakyIntegrator

__all__ = ["LeakyIntegrator", "Neuron"]
__all__ += of_the_house


#: of users, by their numbers, each with the module of its printed step (tgo_kernels/own.py)
OWN: dict[int, tuple[type[Neuron], Any]] = {}


def kind_of(settings: Sequence[float]) -> type[Neuron]:
    """The neuron of a call."""
    number = int(settings[0])
    return HOUSE[number] if number < len(HOUSE) else OWN[number][0]


def shape_of(settings: Sequence[float]) -> tuple[int, int, int]:
    """How many states and inputs the neuron of a call has, and which of its membranes is an output, if any."""
    neuron = kind_of(settings)
    return len(neuron.STATES), len(neuron.INPUTS), switches_of(settings)[0]


def with_time(settings: tuple[float, ...], timed: Sequence[bool]) -> tuple[float, ...]:
    """The settings of a call in which some of its own constants have a time axis: their bits are 16 further up."""
    neuron, own, *rest = settings
    places = [k for k in range(16) if int(own) >> k & 1]
    return neuron, own + float(sum(1 << 16 + k for k, each in zip(places, timed, strict=True) if each)), *rest


def switches_of(settings: Sequence[float]) -> tuple[int, ...]:
    """The switches of a call: a hexadecimal digit each, since torch takes its time for each number."""
    return tuple(int(settings[SWITCHES]) >> 4 * k & 15 for k in range(8))
