"""SpikingJelly's LIF neurons, read and replaced; imported by the first conversion."""

import copy
from collections.abc import Callable, Mapping
from typing import Any

import torch
from spikingjelly.activation_based import neuron, surrogate
from torch import Tensor, nn

import tgo_kernels as tgo
from tgo_kernels.constants import rate_logit
from tgo_kernels.interop.conversion import Fused, Refused
from tgo_kernels.neurons import check_number
from tgo_kernels.neurons.base import state_dtype
from tgo_kernels.penalties import unwrapped, without_graph

SURROGATES: Mapping[str, Callable[[float], tgo.Surrogate]] = {
    "ATan": tgo.ATan,
    "Sigmoid": tgo.Sigmoid,
    "PiecewiseQuadratic": tgo.PiecewiseQuadratic,
    "PiecewiseExp": tgo.PiecewiseExp,
    "SoftSign": tgo.SoftSign,
    "SuperSpike": tgo.SuperSpike,
    "Erf": tgo.Erf,
    "Rect": lambda alpha: tgo.Rectangle(1 / alpha),
}  # the same formulas in both versions; the former has no SuperSpike


GATHERS = hasattr(neuron.BaseNode, "_append_v_seq")  # one step after the other into v_seq; 0.0.0.0.14 does not
STARTS_ANEW = hasattr(neuron.BaseNode, "materialize_states")  # where the shape changes; 0.0.0.0.14 broadcasts


class FusedNode(Fused):
    """The part that SpikingJelly's classes share. The state stays one of their memories, under the name ``v``."""

    _memories: dict[str, Any]
    v_seq: Any
    _memories_rv: dict[str, Any]
    v_threshold: Any = None  # attributes of the node, not the layer's
    v_reset: Any = None
    detach_reset: Any = None

    @property
    def v(self) -> Any:
        return unwrapped(self._memories["v"])

    @v.setter
    def v(self, value: Any) -> None:
        self._memories["v"] = value

    def key(self) -> Any:
        function, own = self._modules["surrogate_function"], vars(self).get
        alpha, spiking = getattr(function, "alpha", None), getattr(function, "spiking", None)
        shared = own("v_threshold"), own("v_reset"), own("detach_reset"), type(function), alpha, spiking
        return *shared, own("_store_v_seq"), own("_neuron_precision"), own("tau"), own("decay_input")

    def constants(self) -> Mapping[str, Any]:
        if vars(self).get("_neuron_precision") is not None:
            raise Refused("its own precision: a fused layer computes in fp32")
        function: Any = self.surrogate_function
        name = type(function).__name__
        theirs = getattr(surrogate, name, None) is type(function)
        if not theirs or name not in SURROGATES or not function.spiking:
            raise Refused(f"surrogate {function!r}: no engine knows it")
        return {
            "v_threshold": self.v_threshold,
            "v_reset": self.v_reset,
            "surrogate": SURROGATES[name](function.alpha),
            "detach_reset": self.detach_reset,
            "membrane": "v" if self.store_v_seq else None,
        }

    def in_their_terms(self, new: Mapping[str, Any]) -> Mapping[str, Any]:
        theirs = dict(new)
        if "surrogate" in new:
            theirs["surrogate_function"] = surrogate_of(theirs.pop("surrogate"))
        if "gain" in new:
            raise ValueError("gain of a SpikingJelly neuron is 1/tau with decay_input, else 1: set these")
        for name in ("strict", "reset_by"):
            if theirs.pop(name, None):
                raise ValueError(f"SpikingJelly has no {name}: it fires at its threshold, and resets by it")
        return theirs

    def reset(self) -> None:
        super().reset()
        self.v = copy.deepcopy(self._memories_rv["v"])  # a number, until the first step
        if self.store_v_seq:
            self.v_seq = None

    def detach(self) -> None:
        super().detach()
        if self.store_v_seq and self.v_seq is not None:
            self.v_seq = self.v_seq.detach()

    def forward(self, x: Tensor) -> Tensor:
        spikes = self.one_step(x) if self.step_mode == "s" else super().forward(x)
        if self.store_v_seq:
            new: Any = self.membrane
            former: Any = self.v_seq if self.step_mode == "s" and GATHERS else None
            goes_on = former is not None and former.shape[1:] == new.shape[1:]
            self.v_seq = torch.cat((former, new)) if goes_on else new
        return spikes

    def single_step_functional_forward(self, inputs: tuple, states: tuple, **_: Any) -> tuple[tuple, tuple]:
        return self._with_state(self.one_step, inputs, states)

    def multi_step_functional_forward(self, inputs: tuple, states: tuple, **_: Any) -> tuple[tuple, tuple]:
        return self._with_state(super().forward, inputs, states)

    def _with_state(self, run: Callable, inputs: tuple, states: tuple) -> tuple[tuple, tuple]:
        own = dict(self._memories)
        try:
            self._memories.update(zip(own, states, strict=True))
            return (run(inputs[0]),), tuple(map(unwrapped, self._memories.values()))
        finally:
            self._memories.update(own)

    def _check_state(self, x: Tensor, constants: tgo.neurons.LIF) -> None:
        """As in SpikingJelly: a number fills the state; where x has another shape, it starts at rest or broadcasts."""
        v = self.v
        if isinstance(v, Tensor) and v.shape != x.shape[1:]:
            if STARTS_ANEW:
                super().reset()
                v = None
            else:
                v = v.expand(x.shape[1:])
        if isinstance(v, Tensor):
            v = v.to(x.device, state_dtype(x.dtype))
        elif v is not None:
            rests = v == constants.v_rest
            v = None if rests else torch.full(x.shape[1:], v, dtype=state_dtype(x.dtype), device=x.device)
        self.v = v
        super()._check_state(x, constants)

    def __getstate__(self) -> Mapping[str, Any]:
        state = dict(super().__getstate__())
        state["_memories"] = {name: without_graph(memory) for name, memory in self._memories.items()}
        return state


class FusedLeakyNode(FusedNode):
    tau: Any = None
    decay_input: Any = None

    def constants(self) -> Mapping[str, Any]:
        check_number("tau", self.tau, minimum=1.0)
        gain = 1 / self.tau if self.decay_input else 1.0
        return {**FusedNode.constants(self), "decay": 1 - 1 / self.tau, "gain": gain}

    def in_their_terms(self, new: Mapping[str, Any]) -> Mapping[str, Any]:
        return super().in_their_terms(with_tau(new))


class FusedLIFNode(FusedLeakyNode, neuron.LIFNode):
    pass


class FusedIFNode(FusedNode, neuron.IFNode):
    def constants(self) -> Mapping[str, Any]:
        return {**FusedNode.constants(self), "decay": 1.0, "gain": 1.0}

    def in_their_terms(self, new: Mapping[str, Any]) -> Mapping[str, Any]:
        leaky = [name for name in ("tau", "decay", "decay_input") if name in new]
        if leaky:
            raise ValueError(f"an IFNode has no {leaky[0]}: it does not leak, as decay=1 and gain=1")
        return super().in_their_terms(new)


class FusedParametricLIFNode(FusedNode, neuron.ParametricLIFNode):
    """Its parameter ``w`` is what the layer learns by, too."""

    decay_input: Any = None

    def adopted(self) -> str:
        self._learn_decay = True
        return super().adopted()

    def constants(self) -> Mapping[str, Any]:
        return {**FusedNode.constants(self), "decay": 0.5, "gain": 0.5 if self.decay_input else 1.0}  # w says which

    def in_their_terms(self, new: Mapping[str, Any]) -> Mapping[str, Any]:
        theirs = dict(super().in_their_terms(with_tau(new)))
        if "tau" in theirs:
            theirs["w"] = rate_logit(1 - 1 / theirs.pop("tau"))
        return theirs


def with_tau(new: Mapping[str, Any]) -> Mapping[str, Any]:
    """The decay as SpikingJelly gives it."""
    theirs = dict(new)
    if "decay" in new:
        if "tau" in new:
            raise ValueError("tau and decay are one constant, decay = 1 - 1/tau: set one of them")
        if not 0 <= new["decay"] < 1:
            raise ValueError(f"decay of a SpikingJelly neuron is 1 - 1/tau, between 0 and 1; got {new['decay']:g}")
        theirs["tau"] = 1 / (1 - theirs.pop("decay"))
    return theirs


def surrogate_of(ours: Any) -> nn.Module:
    """SpikingJelly's surrogate of that name and width."""
    name = "Rect" if isinstance(ours, tgo.Rectangle) else type(ours).__name__
    theirs = [name for name in SURROGATES if hasattr(surrogate, name)]
    if name not in theirs:
        raise ValueError(f"SpikingJelly has no surrogate {ours!r}; it has those of {', '.join(theirs)}")
    return getattr(surrogate, name)(alpha=1 / ours.width if name == "Rect" else ours.alpha)
