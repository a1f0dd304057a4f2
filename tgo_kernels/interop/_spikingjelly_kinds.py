"""SpikingJelly's read-outs, and its neurons beside the LIF, read and replaced; most of them are not in 0.0.0.0.14."""

import copy
import math
from collections.abc import Mapping
from typing import Any

import torch
from spikingjelly.activation_based import neuron
from torch import Tensor, nn

from tgo_kernels import neurons
from tgo_kernels.interop import conversion
from tgo_kernels.interop._spikingjelly import (
    FusedIFNode,
    FusedLeakyNode,
    FusedLIFNode,
    FusedNode,
    FusedParametricLIFNode,
    with_tau,
)
from tgo_kernels.interop.conversion import Fused, Refused, Report
from tgo_kernels.neurons.base import state_dtype
from tgo_kernels.penalties import unwrapped


class NonSpiking(Fused):
    """A read-out: it always starts at 0, and gives the membranes, or what ``decode`` makes of them."""

    decode: str | None
    tau: Any = None  # an attribute of the node, not the layer's

    def adopted(self) -> str:
        vars(self)["_stateful"] = False
        return ""

    @classmethod
    def taken(cls, options: Mapping[str, Any]) -> Mapping[str, Any]:
        return {}

    def key(self) -> Any:
        return vars(self).get("tau")

    def constants(self) -> Mapping[str, Any]:
        leak = 1 / self.tau if "tau" in vars(self) else 0.0
        gain = leak or 1.0
        return {"decay": 1 - leak, "gain": gain, "v_threshold": math.inf, "v_reset": 0.0, "membrane": "v"}

    def in_their_terms(self, new: Mapping[str, Any]) -> Mapping[str, Any]:
        theirs = with_tau(new)
        others = [name for name in theirs if name != "tau" or "tau" not in vars(self)]
        if others:
            raise ValueError(f"a {type(self).__name__.removeprefix('Fused')} has no {others[0]}")
        return theirs

    def forward(self, x_seq: Tensor) -> Any:
        v_seq: Any = self._run(x_seq).membrane
        if self.decode is None:
            return list(v_seq)
        if self.decode == "last_mem":
            return v_seq[-1]
        if self.decode == "mean-mem":
            return v_seq.mean(0)
        most = v_seq.max(0).values
        if self.decode == "max-mem":
            return most
        least = v_seq.min(0).values
        return torch.where(most.abs() > least.abs(), most, least)


class Ternary(FusedLeakyNode):
    kind = neurons.TernaryLIF

    def adopted(self) -> str:
        other = self._neuron.surrogate.derivative(torch.tensor(float(self.v_threshold)))
        return "the surrogate of the other threshold, which theirs adds, is not 0" if other > 0 else ""


class Integer(FusedLeakyNode):
    kind = neurons.IntegerLIF

    def key(self) -> Any:
        function = self._modules["surrogate_function"]
        return *super().key(), *(getattr(function, name, None) for name in ("max_spike_count", "grad_min", "grad_max"))

    def constants(self) -> Mapping[str, Any]:
        function: Any = self.surrogate_function
        most = getattr(function, "max_spike_count", None)
        if most is None or not function.spiking or (function.grad_min, function.grad_max) != (0, most):
            raise Refused(f"surrogate {function!r}: its slope must be 1 from 0 to max_spike_count")
        if self.v_threshold != 1:
            raise Refused(f"v_threshold={self.v_threshold}: levels are 1 apart")
        shared = {"detach_reset": self.detach_reset, "membrane": "v" if self.store_v_seq else None}
        return {**shared, "decay": 1 - 1 / self.tau, "levels": most}

    def in_their_terms(self, new: Mapping[str, Any]) -> Mapping[str, Any]:
        for name in ("levels", "normalize"):
            if name in new:
                raise ValueError(f"{name} of an ILIFNode is its surrogate_function's max_spike_count, without a share")
        return super().in_their_terms(new)


class CurrentBased(FusedNode):
    """Its second state is the memory ``c``. It does not leak towards ``v_reset``."""

    kind = neurons.SynapticLIF
    c_decay: Any = None
    v_decay: Any = None

    @property
    def _more(self) -> tuple[Tensor, ...]:
        c = unwrapped(self._memories["c"])
        return (c,) if isinstance(c, Tensor) else ()

    @_more.setter
    def _more(self, states: tuple[Tensor, ...]) -> None:
        self._memories["c"] = states[0] if states else copy.deepcopy(self._memories_rv["c"])

    def key(self) -> Any:
        return *super().key(), vars(self).get("c_decay"), vars(self).get("v_decay")

    def constants(self) -> Mapping[str, Any]:
        rest = self.v_reset or 0.0
        still = {"bias": -((1.0 - self.v_decay) * rest)} if rest else {}
        return {**FusedNode.constants(self), "decay": self.v_decay, "current_decay": self.c_decay, **still}

    def in_their_terms(self, new: Mapping[str, Any]) -> Mapping[str, Any]:
        theirs, names = dict(super().in_their_terms(new)), {"decay": "v_decay", "current_decay": "c_decay"}
        absent = [name for name in ("tau", "decay_input", "scale", "shift") if name in theirs]
        if absent:
            raise ValueError(f"a CUBALIFNode has no {absent[0]}: its decays are decay and current_decay")
        return {names.get(name, name): value for name, value in theirs.items()}

    def _check_state(self, x: Tensor, constants: Any) -> None:
        super()._check_state(x, constants)
        c = self._memories["c"]
        if isinstance(c, Tensor):
            c = c if c.shape == x.shape[1:] else 0.0
        elif c != 0:
            c = torch.full(x.shape[1:], c, dtype=state_dtype(x.dtype), device=x.device)
            self.v = torch.full_like(c, constants.v_rest) if self.v is None else self.v
        self._memories["c"] = c


THEIRS = {
    "LIFNode": FusedLIFNode,
    "IFNode": FusedIFNode,
    "ParametricLIFNode": FusedParametricLIFNode,
    "NonSpikingLIFNode": NonSpiking,
    "NonSpikingIFNode": NonSpiking,
    "TernaryLIFNode": Ternary,
    "ILIFNode": Integer,
    "CUBALIFNode": CurrentBased,
}


def fused(theirs: type[nn.Module], ours: type[Fused]) -> type[Fused]:
    """Ours for a class of theirs, of which it stays one."""
    if issubclass(ours, theirs):
        return ours
    return type(f"Fused{theirs.__name__}", (ours, theirs), {"__module__": __name__})


#: those that the installed version has
KINDS = {theirs: fused(theirs, ours) for name, ours in THEIRS.items() if (theirs := getattr(neuron, name, None))}
globals().update({kind.__name__: kind for kind in KINDS.values()})  # for pickles


def convert(model: nn.Module, **options: Any) -> Report:
    return conversion.convert(model, KINDS, "spikingjelly.activation_based.neuron", {}, **options)
