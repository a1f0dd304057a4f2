"""SpikingJelly's neurons, read and replaced; imported by the first conversion."""

import copy
from collections.abc import Callable, Mapping
from typing import Any

import torch
from spikingjelly.activation_based import neuron, surrogate
from torch import Tensor, nn

import tgo_kernels as tgo
from tgo_kernels.interop import conversion
from tgo_kernels.interop.conversion import Fused, Refused, Report

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


class FusedNode(Fused):
    """The part that SpikingJelly's classes share. The state stays one of their memories, under the name ``v``."""

    _memories: dict[str, Any]
    _memories_rv: dict[str, Any]

    @property
    def v(self) -> Any:
        return self._memories["v"]

    @v.setter
    def v(self, value: Any) -> None:
        self._memories["v"] = value

    def reset(self) -> None:
        super().reset()
        self.v = copy.deepcopy(self._memories_rv["v"])  # a number, until the first step

    def forward(self, x: Tensor) -> Tensor:
        return self.one_step(x) if self.step_mode == "s" else super().forward(x)

    def single_step_functional_forward(self, inputs: tuple, states: tuple, **_: Any) -> tuple[tuple, tuple]:
        return self._with_state(self.one_step, inputs, states)

    def multi_step_functional_forward(self, inputs: tuple, states: tuple, **_: Any) -> tuple[tuple, tuple]:
        return self._with_state(super().forward, inputs, states)

    def _with_state(self, run: Callable, inputs: tuple, states: tuple) -> tuple[tuple, tuple]:
        own = self.v
        try:
            self.v = states[0]
            return (run(inputs[0]),), (self.v,)
        finally:
            self.v = own

    def _check_state(self, x: Tensor) -> None:
        """As in SpikingJelly: a number fills the state, and inputs of another shape start a new sequence."""
        if isinstance(self.v, Tensor) and self.v.shape != x.shape[1:]:
            self.reset()
        if isinstance(self.v, Tensor):
            self.v = self.v.to(x.device, torch.float32)
        elif self.v is not None:
            self.v = torch.full(x.shape[1:], self.v, device=x.device) if self.v != self.neuron.v_rest else None
        super()._check_state(x)

    def __getstate__(self) -> Mapping[str, Any]:
        state = dict(super().__getstate__())
        state["_memories"] = {k: m.detach() if isinstance(m, Tensor) else m for k, m in self._memories.items()}
        return state


class FusedLIFNode(FusedNode, neuron.LIFNode):
    pass


class FusedIFNode(FusedNode, neuron.IFNode):
    pass


class FusedParametricLIFNode(FusedNode, neuron.ParametricLIFNode):
    """Its parameter ``w`` is what the layer learns by, too."""

    def adopted(self) -> str:
        self.learn_decay = True
        return super().adopted()


def constants(node: neuron.BaseNode) -> Mapping[str, Any]:
    if node.store_v_seq:
        raise Refused("store_v_seq=True: a fused layer does not keep the potentials of all steps")
    if getattr(node, "_neuron_precision", None) is not None:
        raise Refused("its own precision: a fused layer computes in fp32")
    function = node.surrogate_function
    name = type(function).__name__
    theirs = getattr(surrogate, name, None) is type(function)
    if not theirs or name not in SURROGATES or not function.spiking:
        raise Refused(f"surrogate {function!r}: no engine knows it")
    return {
        "v_threshold": node.v_threshold,
        "v_reset": node.v_reset,
        "surrogate": SURROGATES[name](function.alpha),
        "detach_reset": node.detach_reset,
    }


def lif(node: neuron.LIFNode) -> Mapping[str, Any]:
    leaky = {"decay": 1 - 1 / node.tau, "gain": 1 / node.tau if node.decay_input else 1.0}
    return {**constants(node), **leaky}


def parametric_lif(node: neuron.ParametricLIFNode) -> Mapping[str, Any]:
    rate = node.w.sigmoid().item()  # as it is now, for people
    return {**constants(node), "decay": 1 - rate, "gain": rate if node.decay_input else 1.0}


def integrate_and_fire(node: neuron.IFNode) -> Mapping[str, Any]:
    return {**constants(node), "decay": 1.0, "gain": 1.0}


def convert(model: nn.Module, **options: Any) -> Report:
    kinds = {
        neuron.LIFNode: (FusedLIFNode, lif),
        neuron.IFNode: (FusedIFNode, integrate_and_fire),
        neuron.ParametricLIFNode: (FusedParametricLIFNode, parametric_lif),
    }
    return conversion.convert(model, kinds, "spikingjelly.activation_based.neuron", **options)
