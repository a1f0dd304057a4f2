"""Fused, noisy, guarded LIF neurons for spiking neural networks, in PyTorch (Threshold Guarding Optimization)."""

import warnings
from typing import TYPE_CHECKING

from tgo_kernels import house, neurons, noise, reference, surrogate
from tgo_kernels.allocator import tune_allocator
from tgo_kernels.blocks import Block
from tgo_kernels.call import LIFOutput, ScanOutput
from tgo_kernels.encoding import poisson
from tgo_kernels.functional import lif, scan
from tgo_kernels.fusion import Fusion, fuse
from tgo_kernels.guard import GuardSchedule, flip_probability, guard_penalty, neighbor_rates
from tgo_kernels.house import *  # noqa: F403
from tgo_kernels.inhibited import Inhibition, inhibited
from tgo_kernels.inhibition import EIConv2d, EILinear, keep_nonnegative
from tgo_kernels.layer import Layer
from tgo_kernels.layers import LIF, LeakyIntegrator
from tgo_kernels.ops import available_impls, explain_impl
from tgo_kernels.over_time import OverTime
from tgo_kernels.packing import pack_spikes
from tgo_kernels.pools import MaxPool2d
from tgo_kernels.signatures import signatures
from tgo_kernels.surrogate import *  # noqa: F403

__all__ = [
    "LIF",
    "Block",
    "EIConv2d",
    "EILinear",
    "Fusion",
    "GuardSchedule",
    "Inhibition",
    "LIFOutput",
    "Layer",
    "LeakyIntegrator",
    "MaxPool2d",
    "OverTime",
    "ScanOutput",
    "available_impls",
    "explain_impl",
    "flip_probability",
    "fuse",
    "guard_penalty",
    "inhibited",
    "keep_nonnegative",
    "lif",
    "neighbor_rates",
    "neurons",
    "noise",
    "pack_spikes",
    "poisson",
    "reference",
    "scan",
    "signatures",
    "surrogate",
    "tune_allocator",
]
__all__ += house.__all__
__all__ += surrogate.__all__

__version__ = "0.2.0"

if not TYPE_CHECKING:  # or a checker would take every name for known

    def __getattr__(name: str) -> object:
        """A name of 0.1.0 that has moved, until 0.3.0."""
        if name != "Neuron":
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        warnings.warn("tgo_kernels.Neuron is tgo_kernels.neurons.LIF since 0.2.0", DeprecationWarning, stacklevel=2)
        return neurons.LIF
