"""The neurons of the family as NIR: SynapticLIF is CubaLIF, and the others are refused by name."""

import pytest
import torch
from cases import dyadic
from spikingjelly.activation_based import neuron, surrogate
from torch import nn

import tgo_kernels as tgo
from tgo_kernels.interop import spikingjelly
from tgo_kernels.interop.nir import to_nir

OTHERS = (tgo.AdaptiveLIF, tgo.AdLIF, tgo.HomeostaticLIF, tgo.SelfPredictingLIF, tgo.OscillatingLIF, tgo.IntegerLIF)


def a_ternary_node() -> nn.Module:
    node = neuron.TernaryLIFNode(surrogate_function=surrogate.Rect(alpha=1.0), step_mode="m")
    spikingjelly.convert(node)
    return node


class Inhibited(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fire = tgo.InhibitedLIF()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fire(x, x, x)


@pytest.mark.parametrize(
    ("make", "name", "kind"),
    [(lambda kind=kind: kind(), "1", kind.__name__) for kind in OTHERS]
    + [
        (lambda: tgo.TernaryLIF(v_threshold=1.5, v_reset=0.0), "1", "TernaryLIF"),  # a LIF on inputs above 0
        (a_ternary_node, "1", "TernaryLIF"),
        (Inhibited, "1.fire", "InhibitedLIF"),
    ],
    ids=[*(kind.__name__ for kind in OTHERS), "TernaryLIF", "TernaryLIFNode", "InhibitedLIF"],
)
def test_what_nir_does_not_hold_is_refused_by_name(make, name, kind):
    with pytest.raises(NotImplementedError, match=f"^{name}: NIR holds no {kind}; "):
        to_nir(nn.Sequential(nn.Identity(), make()), dyadic(5, 3, 6).abs())
