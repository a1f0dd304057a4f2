"""snnTorch's Leaky and Synaptic on fused layers."""

from collections.abc import Mapping
from typing import Any

import snntorch
import torch
from torch import Tensor, nn

from tgo_kernels import neurons
from tgo_kernels.interop import conversion
from tgo_kernels.interop._snntorch import FusedNeuron, hidden, own
from tgo_kernels.interop.conversion import Refused, Report
from tgo_kernels.neurons import check_bool, check_number


class FusedLeaky(FusedNeuron, snntorch.Leaky):
    def forward(self, input_: Tensor, mem: Tensor | None = None) -> Any:
        return self._forward(input_, mem)


class FusedSynaptic(FusedNeuron, snntorch.Synaptic):
    """Its second state is the buffer ``syn``."""

    kind = neurons.SynapticLIF
    TENSORS = (*FusedNeuron.TENSORS, "alpha")
    HIDDEN = ("syn", "mem")
    alpha: Tensor
    syn = hidden("syn")

    @property
    def _more(self) -> tuple[Tensor, ...]:
        return () if self.v is None or self.syn.shape != self.v.shape else (self.syn,)

    @_more.setter
    def _more(self, states: tuple[Tensor, ...]) -> None:
        self.syn = states[0] if states else torch.zeros(0)

    def constants(self) -> Mapping[str, Any]:
        found = {**FusedNeuron.constants(self), "current_decay": 0.5}
        if self.reset_delay and found["v_reset"] is not None:
            raise Refused(
                "reset_mechanism='zero' with reset_delay=True: snnTorch loses the input of the step after a spike"
            )
        if not torch.compiler.is_compiling() and not own(self, "alpha"):
            found["current_decay"] = self.alpha.detach().float().clamp(0, 1).item()
        return found

    def in_their_terms(self, new: Mapping[str, Any]) -> Mapping[str, Any]:
        theirs = dict(super().in_their_terms(new))
        if "current_decay" in new:
            check_number("current_decay", new["current_decay"], maximum=1.0)
            theirs["alpha"] = new["current_decay"]
        return theirs

    def learned(self, dims: int) -> dict[str, Tensor]:
        found = super().learned(dims)
        if torch.compiler.is_compiling() or own(self, "alpha"):
            found["current_decay"] = self.alpha.float().clamp(0, 1)
        return found

    def forward(self, input_: Tensor, syn: Tensor | None = None, mem: Tensor | None = None) -> Any:
        return self._forward(input_, syn, mem)


KINDS = {snntorch.Leaky: FusedLeaky, snntorch.Synaptic: FusedSynaptic}


def convert(model: nn.Module, *, sequence: bool, **options: Any) -> Report:
    check_bool("sequence", sequence)
    return conversion.convert(model, KINDS, "snntorch._neurons", {"sequence": sequence}, **options)
