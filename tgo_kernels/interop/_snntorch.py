"""snnTorch's Leaky, read and replaced; imported by the first conversion."""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import snntorch
import torch
from torch import Tensor, nn

import tgo_kernels as tgo
from tgo_kernels.interop import conversion
from tgo_kernels.interop.conversion import Fused, Refused, Report, above
from tgo_kernels.neuron import check_bool

# The functions that snntorch.surrogate makes, by name, and the parameter that they hold.
SURROGATES: Mapping[str, tuple[str, Callable[[float], tgo.Surrogate]]] = {
    "atan": ("alpha", tgo.ATan),
    "sigmoid": ("slope", tgo.Sigmoid),
    "fast_sigmoid": ("slope", tgo.FastSigmoid),
}


class FusedLeaky(Fused, snntorch.Leaky):
    """The state is snnTorch's ``mem``: whoever sets it starts a new sequence."""

    sequence = False
    v: Any
    mem: Any
    beta: Tensor
    threshold: Tensor

    def adopted(self) -> str:
        self.__dict__.pop("reset", None)  # snnTorch keeps a tensor under the name of our method
        self.v = self.mem
        return "a membrane is still above its threshold after a reset" if self.neuron.v_reset is None else ""

    def reset(self) -> None:
        super().reset()
        self.mem = torch.zeros(0)  # of no input's shape, as at first

    def reset_mem(self) -> Tensor:
        self.reset()
        return self.mem

    def detach(self, *states: Tensor) -> None:
        """The layer's own; with arguments, that of snnTorch."""
        snntorch.Leaky.detach(*states)
        if not states:
            super().detach()
            self.mem = self.v

    def forward(self, input_: Tensor, mem: Tensor | None = None) -> Any:
        if mem is not None:
            if self.init_hidden:
                raise TypeError("`mem` should not be passed as an argument while `init_hidden=True`")
            self.mem = mem
        shape = input_.shape[self.sequence :]
        if self.mem is not self.v or self.mem.shape != shape:
            super().reset()
            self.v = self.mem.float() if self.mem.shape == shape else None
        spikes = tgo.LIF.forward(self, input_) if self.sequence else self.one_step(input_)
        self.mem = self.v
        return spikes if self.init_hidden and not self.output else (spikes, self.mem)

    def learned(self, dims: int) -> dict[str, Tensor]:
        found = {}
        if of_its_own(self.beta):
            found["decay"] = self.beta.float().clamp(0, 1)
        if of_its_own(self.threshold):
            threshold = self.threshold.float()
            found["v_threshold"] = threshold + (above(threshold) - threshold).detach()
        return found

    def _load_from_state_dict(self, *arguments: Any) -> None:
        super()._load_from_state_dict(*arguments)
        self.neuron = replace(self.neuron, **constants(self))


def of_its_own(constant: Tensor) -> bool:
    """Whether it learns, or differs between neurons: it is then read at every call."""
    return isinstance(constant, nn.Parameter) or constant.numel() != 1


def constants(leaky: snntorch.Leaky) -> Mapping[str, Any]:
    if leaky.reset_delay:
        raise Refused("reset_delay=True: it resets one step after the spike; a fused layer resets with it")
    if leaky.inhibition or leaky.state_quant:
        raise Refused("inhibition or state_quant")
    if of_its_own(leaky.graded_spikes_factor) or leaky.graded_spikes_factor != 1:
        raise Refused("graded_spikes_factor is learnable or not 1")
    reset = int(leaky.reset_mechanism_val)  # what a checkpoint brings
    if reset == leaky.reset_dict["none"]:
        raise Refused('reset_mechanism="none"')
    beta, threshold = leaky.beta.detach().flatten()[0], leaky.threshold.detach().flatten()[0]  # the first, for people
    return {
        "decay": beta.clamp(0, 1).item(),
        "gain": 1.0,
        "v_threshold": above(threshold).item(),
        "v_reset": None if reset == leaky.reset_dict["subtract"] else 0.0,
        "surrogate": surrogate(leaky.spike_grad),
    }


def surrogate(function: Callable) -> tgo.Surrogate:
    made_by = getattr(function, "__qualname__", "").split(".")[0]
    if getattr(function, "__module__", None) == "snntorch.surrogate" and made_by in SURROGATES:
        name, make = SURROGATES[made_by]
        return make(inspect.getclosurevars(function).nonlocals[name])
    raise Refused(f"surrogate {made_by or function!r}: no engine knows it")


def convert(model: nn.Module, *, sequence: bool, **options: Any) -> Report:
    check_bool("sequence", sequence)
    kinds = {snntorch.Leaky: (FusedLeaky, constants)}
    report = conversion.convert(model, kinds, "snntorch._neurons", **options)
    for name in report.converted:
        model.get_submodule(name).sequence = sequence  # type: ignore[assignment]
    return report
