"""snnTorch's Leaky, read and replaced; imported by the first conversion."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import snntorch
import torch
from torch import Tensor, nn

import tgo_kernels as tgo
from tgo_kernels.constants import canonical, held_as
from tgo_kernels.interop import conversion
from tgo_kernels.interop.conversion import Fused, Refused, Report, above
from tgo_kernels.neuron import check_bool, state_dtype
from tgo_kernels.penalties import unwrapped, without_graph

# The functions that snntorch.surrogate makes, by name, and the parameter that they hold.
SURROGATES: Mapping[str, tuple[str, Callable[[float], tgo.Surrogate]]] = {
    "atan": ("alpha", tgo.ATan),
    "sigmoid": ("slope", tgo.Sigmoid),
    "fast_sigmoid": ("slope", tgo.FastSigmoid),
}


TENSORS = ("beta", "threshold", "reset_mechanism_val", "graded_spikes_factor")
RESETS = tuple(snntorch.SpikingNeuron.reset_dict)


class FusedLeaky(Fused, snntorch.Leaky):
    """The state is snnTorch's ``mem``: whoever sets it starts a new sequence."""

    sequence = False
    beta: Tensor
    threshold: Tensor
    reset_mechanism_val: Tensor
    spike_grad: Callable
    _seen: tuple[tuple[str, Tensor, int | None], ...]  # the tensors that were read, and when

    def adopted(self) -> str:
        self.__dict__.pop("reset", None)  # snnTorch keeps a tensor under the name of our method
        self.v = self.mem
        return "a membrane is still above its threshold after a reset" if self._neuron.v_reset is None else ""

    @property
    def mem(self) -> Any:
        """The membrane, a buffer of snnTorch's."""
        return unwrapped(self._buffers["mem"])

    @mem.setter
    def mem(self, value: Any) -> None:
        self._buffers["mem"] = value

    def key(self) -> Any:
        plain = self.__dict__.get
        return (
            plain("spike_grad"),
            plain("_reset_mechanism"),
            plain("reset_delay"),
            plain("inhibition"),
            plain("state_quant"),
        )

    def remember(self) -> None:
        super().remember()
        tensors: Any = [(name, held_as(self, name)) for name in TENSORS]
        self._seen = tuple(
            (name, t, None if own(self, name) or t.is_inference() else t._version) for name, t in tensors
        )

    def unchanged(self) -> bool:
        if not super().unchanged():
            return False
        if torch.compiler.is_compiling():  # ``learned`` reads them in every call
            return True
        for name, tensor, version in self._seen:
            if held_as(self, name) is not tensor or (version is not None and tensor._version != version):
                return False
        return True

    def constants(self) -> Mapping[str, Any]:
        if self.reset_delay:
            raise Refused("reset_delay=True: it resets one step after the spike; a fused layer resets with it")
        if self.inhibition or self.state_quant:
            raise Refused("inhibition or state_quant")
        found = {"decay": 0.5, "gain": 1.0, "v_threshold": 1.0}  # of which ``learned`` gives those that are own
        reset = self._reset_mechanism
        if not torch.compiler.is_compiling():
            if own(self, "graded_spikes_factor") or self.graded_spikes_factor != 1:
                raise Refused("graded_spikes_factor is learnable or not 1")
            reset = RESETS[int(self.reset_mechanism_val)]  # what a checkpoint brings
            if reset == "zero" and (self.threshold.detach() < 0).any():
                raise Refused("a threshold below 0, to which it resets: snnTorch resets such a membrane in every step")
            if not own(self, "beta"):
                found["decay"] = self.beta.detach().float().clamp(0, 1).item()
            if not own(self, "threshold"):
                found["v_threshold"] = above(self.threshold.detach()).item()
        if reset == "none":
            raise Refused('reset_mechanism="none"')
        return {**found, "v_reset": None if reset == "subtract" else 0.0, "surrogate": surrogate(self.spike_grad)}

    def in_their_terms(self, new: Mapping[str, Any]) -> Mapping[str, Any]:
        theirs: dict[str, Any] = {}
        for name, only in (("gain", 1.0), ("decay_input", False), ("detach_reset", False)):
            if new.get(name, only) != only:
                raise ValueError(f"{name}={new[name]} is nothing that snnTorch has; it is {only}")
        decay = canonical(new, self._neuron, False).get("decay", 0.0)
        if "decay" in new or "tau" in new:
            if decay > 1:
                raise ValueError(f"decay is snnTorch's beta, between 0 and 1; got {decay:g}")
            theirs["beta"] = decay
        if "v_threshold" in new:
            theirs["threshold"] = new["v_threshold"]
        if "v_reset" in new:
            if new["v_reset"] not in (None, 0.0):
                raise ValueError(f"v_reset of snnTorch is 0, or None (it subtracts); got {new['v_reset']}")
            theirs["reset_mechanism"] = "subtract" if new["v_reset"] is None else "zero"
        if "surrogate" in new:
            theirs["spike_grad"] = surrogate_of(new["surrogate"])
        return theirs

    def reset(self) -> None:
        super().reset()
        self.mem = torch.zeros(0)  # of no input's shape, as at first

    def reset_mem(self) -> Tensor:
        self.reset()
        return self.mem

    def train(self, mode: bool = True) -> "FusedLeaky":
        same = self.mem is self.v
        super().train(mode)
        if same:
            self.mem = self.v
        return self

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
        if torch.compiler.is_compiling():  # values guard no compiled code
            same = (self.graded_spikes_factor == 1) & (self.reset_mechanism_val == RESETS.index(self._reset_mechanism))
            torch._assert_async(
                same.all(), "graded_spikes_factor or reset_mechanism_val of a compiled Leaky has changed"
            )
        mem, shape = self.mem, input_.shape[self.sequence :]
        if mem is not self.v or mem.shape != shape:
            super().reset()
            self.v = mem.to(state_dtype(input_.dtype)) if mem.shape == shape else None
        spikes = tgo.LIF.forward(self, input_) if self.sequence else self.one_step(input_)
        self.mem = self.v
        return spikes if self.init_hidden and not self.output else (spikes, self.mem)

    def learned(self, dims: int) -> dict[str, Tensor]:
        found, compiled = {}, torch.compiler.is_compiling()  # a number would be compiled in
        if compiled or own(self, "beta"):
            found["decay"] = self.beta.float().clamp(0, 1)
        if compiled or own(self, "threshold"):
            threshold = self.threshold.float()
            found["v_threshold"] = threshold + (above(threshold) - threshold).detach()
        return found

    def _load_from_state_dict(self, *arguments: Any) -> None:
        super()._load_from_state_dict(*arguments)
        self._reset_mechanism = RESETS[int(self.reset_mechanism_val)]

    def __getstate__(self) -> Mapping[str, Any]:
        state = dict(super().__getstate__())
        mem = state["_v"] if self.mem is self.v else without_graph(self.mem)
        state["_buffers"] = {**self._buffers, "mem": mem}
        return state


def own(leaky: snntorch.Leaky, name: str) -> bool:
    """Whether it learns, or differs between neurons: it is then read at every call."""
    return name in leaky._parameters or leaky._buffers[name].numel() != 1


def surrogate(function: Callable) -> tgo.Surrogate:
    name, width = made_by(function)
    return SURROGATES[name][1](width)


@torch.compiler.assume_constant_result  # it reads what a function was made from
def made_by(function: Callable) -> tuple[str, float]:
    """Which function of snntorch.surrogate made this one, and its parameter."""
    name = getattr(function, "__qualname__", "").split(".")[0]
    if getattr(function, "__module__", None) == "snntorch.surrogate" and name in SURROGATES:
        return name, inspect.getclosurevars(function).nonlocals[SURROGATES[name][0]]
    raise Refused(f"surrogate {name or repr(function)}: no engine knows it")


def surrogate_of(ours: Any) -> Callable:
    """snnTorch's function of that curve and width."""
    for name, (parameter, kind) in SURROGATES.items():
        if type(ours) is kind:
            (width,) = vars(ours).values()
            return getattr(snntorch.surrogate, name)(**{parameter: width})
    raise ValueError(f"snnTorch has no surrogate {ours!r} that is converted; it has {', '.join(SURROGATES)}")


def convert(model: nn.Module, *, sequence: bool, **options: Any) -> Report:
    check_bool("sequence", sequence)
    kinds = {snntorch.Leaky: FusedLeaky}
    return conversion.convert(model, kinds, "snntorch._neurons", {"sequence": sequence}, **options)
