"""The family of neurons: of each its constants, states and inputs, and its step, which is the specification."""

from collections.abc import Sequence

from tgo_kernels.neurons.ad_lif import AdLIF
from tgo_kernels.neurons.adaptive_lif import AdaptiveLIF
from tgo_kernels.neurons.base import GUARD_MARGIN, MINIMUM, SWITCHES, Leaky, Neuron, NoiseMode, check_bool, check_number
from tgo_kernels.neurons.homeostatic_lif import HomeostaticLIF
from tgo_kernels.neurons.inhibited_lif import InhibitedLIF
from tgo_kernels.neurons.integer_lif import IntegerLIF
from tgo_kernels.neurons.leaky_integrator import LeakyIntegrator
from tgo_kernels.neurons.lif import LIF
from tgo_kernels.neurons.oscillating_lif import OscillatingLIF
from tgo_kernels.neurons.self_predicting_lif import SelfPredictingLIF
from tgo_kernels.neurons.synaptic_lif import SynapticLIF
from tgo_kernels.neurons.ternary_lif import TernaryLIF

#: in the order of their numbers, which csrc/neurons.h has too
HOUSE: tuple[type[Neuron], ...] = (
    LIF,
    AdaptiveLIF,
    SynapticLIF,
    AdLIF,
    HomeostaticLIF,
    SelfPredictingLIF,
    OscillatingLIF,
    InhibitedLIF,
    TernaryLIF,
    IntegerLIF,
)

__all__ = ["LeakyIntegrator", "Neuron", *(neuron.__name__ for neuron in HOUSE)]


def shape_of(settings: Sequence[float]) -> tuple[int, int, int]:
    """How many states and inputs the neuron of a call has, and which of its membranes is an output, if any."""
    neuron = HOUSE[int(settings[0])]
    return len(neuron.STATES), len(neuron.INPUTS), switches_of(settings)[0]


def with_time(settings: tuple[float, ...], timed: Sequence[bool]) -> tuple[float, ...]:
    """The settings of a call in which some of its own constants have a time axis: their bits are 16 further up."""
    neuron, own, *rest = settings
    places = [k for k in range(16) if int(own) >> k & 1]
    return neuron, own + float(sum(1 << 16 + k for k, each in zip(places, timed, strict=True) if each)), *rest


def switches_of(settings: Sequence[float]) -> tuple[int, ...]:
    """The switches of a call: a hexadecimal digit each, since torch takes its time for each number."""
    return tuple(int(settings[SWITCHES]) >> 4 * k & 15 for k in range(8))
