"""Printed by tgo_kernels/printer.py: the neurons of the house, in the order of their numbers."""

from tgo_kernels.neurons.ad_lif import AdLIF
from tgo_kernels.neurons.adaptive_lif import AdaptiveLIF
from tgo_kernels.neurons.homeostatic_lif import HomeostaticLIF
from tgo_kernels.neurons.inhibited_lif import InhibitedLIF
from tgo_kernels.neurons.integer_lif import IntegerLIF
from tgo_kernels.neurons.lif import LIF
from tgo_kernels.neurons.oscillating_lif import OscillatingLIF
from tgo_kernels.neurons.self_predicting_lif import SelfPredictingLIF
from tgo_kernels.neurons.synaptic_lif import SynapticLIF
from tgo_kernels.neurons.ternary_lif import TernaryLIF

HOUSE = (
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

__all__ = [
    "LIF",
    "AdLIF",
    "AdaptiveLIF",
    "HomeostaticLIF",
    "InhibitedLIF",
    "IntegerLIF",
    "OscillatingLIF",
    "SelfPredictingLIF",
    "SynapticLIF",
    "TernaryLIF",
]
