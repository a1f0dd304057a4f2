"""Printed by tgo_kernels/printer.py: the layers of the house's neurons."""

from torch import Tensor

from tgo_kernels import neurons
from tgo_kernels.family import Family

__all__ = [
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


class AdaptiveLIF(Family):
    """:class:`tgo_kernels.neurons.AdaptiveLIF` as a layer."""

    kind = neurons.AdaptiveLIF


class SynapticLIF(Family):
    """:class:`tgo_kernels.neurons.SynapticLIF` as a layer."""

    kind = neurons.SynapticLIF


class AdLIF(Family):
    """:class:`tgo_kernels.neurons.AdLIF` as a layer."""

    kind = neurons.AdLIF


class HomeostaticLIF(Family):
    """:class:`tgo_kernels.neurons.HomeostaticLIF` as a layer."""

    kind = neurons.HomeostaticLIF


class SelfPredictingLIF(Family):
    """:class:`tgo_kernels.neurons.SelfPredictingLIF` as a layer."""

    kind = neurons.SelfPredictingLIF


class OscillatingLIF(Family):
    """:class:`tgo_kernels.neurons.OscillatingLIF` as a layer."""

    kind = neurons.OscillatingLIF


class InhibitedLIF(Family):
    """:class:`tgo_kernels.neurons.InhibitedLIF` as a layer of 3 currents, [T, *] each."""

    kind = neurons.InhibitedLIF

    def forward(self, excitation: Tensor, subtracted: Tensor, divided: Tensor) -> Tensor:  # type: ignore[override]
        return self._output(self._run(excitation, subtracted, divided))


class TernaryLIF(Family):
    """:class:`tgo_kernels.neurons.TernaryLIF` as a layer."""

    kind = neurons.TernaryLIF


class IntegerLIF(Family):
    """:class:`tgo_kernels.neurons.IntegerLIF` as a layer."""

    kind = neurons.IntegerLIF
