"""What snnTorch's neurons share, read and replaced; imported by the first conversion."""

import inspect
import operator
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import snntorch
import torch
from torch import Tensor

import tgo_kernels as tgo
from tgo_kernels.constants import canonical, held_as
from tgo_kernels.interop.conversion import Fused, Refused
from tgo_kernels.neurons.base import state_dtype
from tgo_kernels.penalties import keep, out_of_inference, unwrapped, without_graph

# The functions that snntorch.surrogate makes, by name, and the parameter that they hold.
SURROGATES: Mapping[str, tuple[str, Callable[[float], tgo.Surrogate]]] = {
    "atan": ("alpha", tgo.ATan),
    "sigmoid": ("slope", tgo.Sigmoid),
    "fast_sigmoid": ("slope", tgo.FastSigmoid),
}

RESETS = tuple(snntorch.SpikingNeuron.reset_dict)


def hidden(name: str) -> Any:
    """A state of snnTorch's, which is a buffer."""
    return property(
        lambda neuron: unwrapped(neuron._buffers[name]), lambda neuron, value: neuron._buffers.update({name: value})
    )


class FusedNeuron(Fused):
    """The part that snnTorch's classes share. Whoever sets one of their states starts a new sequence."""

    TENSORS: ClassVar[tuple[str, ...]] = ("beta", "threshold", "reset_mechanism_val", "graded_spikes_factor")
    HIDDEN: ClassVar[tuple[str, ...]] = ("mem",)  # the states, in snnTorch's order
    sequence = False
    beta: Tensor
    threshold: Tensor
    reset_mechanism_val: Tensor
    spike_grad: Callable
    mem = hidden("mem")
    _after: tuple[Tensor, ...] | None  # snnTorch's states that those of the layer follow from
    _by: tuple[Any, ...] | None  # what a delayed reset was made by
    _seen: tuple[tuple[str, Tensor, int | None], ...]  # the tensors that were read, and when

    def adopted(self) -> str:
        self.__dict__.pop("reset", None)  # snnTorch keeps a tensor under the name of our method
        self._after = self.v = None  # the next call starts from snnTorch's states, as they are
        again = not self.reset_delay and self._neuron.v_reset is None and self._neuron.reset_by is None
        return "a membrane is still above its threshold after a reset" if again else ""

    def states(self) -> tuple[Tensor, ...]:
        buffers = self._buffers
        return tuple([unwrapped(buffers[name]) for name in self.HIDDEN])

    def follows(self, states: tuple[Tensor, ...]) -> bool:
        """Whether those of the layer follow from these of snnTorch's."""
        return self._after is not None and all(map(operator.is_, states, map(unwrapped, self._after)))

    def key(self) -> Any:
        plain = self.__dict__.get
        return (
            plain("spike_grad"),
            plain("_reset_mechanism"),
            plain("reset_delay"),
            plain("inhibition"),
            plain("state_quant"),
            plain("sequence"),
        )

    def remember(self) -> None:
        super().remember()
        tensors: Any = [(name, held_as(self, name)) for name in self.TENSORS]
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
        if self.inhibition or self.state_quant:
            raise Refused("inhibition or state_quant")
        found: dict[str, Any] = {
            "decay": 0.5,
            "gain": 1.0,
            "v_threshold": 1.0,
        }  # of which ``learned`` gives those that are own
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
                found["v_threshold"] = self.threshold.detach().float().item()
        found |= {"strict": True, "surrogate": surrogate(self.spike_grad), "v_reset": 0.0 if reset == "zero" else None}
        found["membrane"] = "u" if self.reset_delay else "v" if getattr(self, "sequence", False) else None
        found["detach_reset"] = self.reset_delay
        if reset == "none":
            found["reset_by"] = 0.0
        elif reset == "subtract" and self.reset_delay:
            if found["decay"] == 0:
                raise Refused(
                    "beta=0 with reset_delay=True: what a reset subtracts would come after the membrane is gone"
                )
            found["reset_by"] = found["v_threshold"] / found["decay"]  # which is subtracted before the decay
        return found

    def in_their_terms(self, new: Mapping[str, Any]) -> Mapping[str, Any]:
        theirs: dict[str, Any] = {}
        only_one = (
            ("gain", 1.0),
            ("decay_input", False),
            ("detach_reset", self.reset_delay),
            ("strict", True),
            ("reset_by", None),
            ("scale", 1.0),
            ("shift", 0.0),
        )
        for name, only in only_one:
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
        for name in self.HIDDEN:
            setattr(self, name, torch.zeros(0))  # of no input's shape, as at first

    def reset_mem(self) -> Any:
        self.reset()
        return self.states() if len(self.HIDDEN) > 1 else self.mem

    def train(self, mode: bool = True) -> "FusedNeuron":
        follows = self.follows(self.states())
        super().train(mode)
        if follows:
            self.mem = out_of_inference(self.mem) if self.reset_delay else self.v
            self._after = self.states()
        return self

    def detach(self, *states: Tensor) -> None:
        """The layer's own; with arguments, that of snnTorch."""
        snntorch.SpikingNeuron.detach(*states)
        if not states:
            follows = self.follows(self.states())
            super().detach()
            for name in self.HIDDEN:
                setattr(self, name, getattr(self, name).detach())
            if follows:
                self.mem = self.mem if self.reset_delay else self.v
                self._after = self.states()

    def _forward(self, input_: Tensor, *given: Tensor | None) -> Any:
        """With snnTorch's states, as far as they were given."""
        for name, state in zip(self.HIDDEN, given, strict=True):
            if state is not None:
                if self.init_hidden:
                    raise TypeError(f"`{name}` should not be passed as an argument while `init_hidden=True`")
                setattr(self, name, state)
        if torch.compiler.is_compiling():  # values guard no compiled code
            same = (self.graded_spikes_factor == 1) & (self.reset_mechanism_val == RESETS.index(self._reset_mechanism))
            name = type(self).__name__.removeprefix("Fused")
            what = f"graded_spikes_factor or reset_mechanism_val of a compiled {name} has changed"
            torch._assert_async(same.all(), what)
        mem, shape = self.mem, input_.shape[self.sequence :]
        if self.sequence and mem.dim() == input_.dim() and mem.shape[1:] == shape:
            self.mem = mem[-1].clone()  # of all steps, as a call returns them
        states, by = self.states(), self._resets_by()
        fit = [state.shape == shape for state in states]
        if not all(fit) or not self.follows(states):
            self._begin(input_, [state if fits else None for state, fits in zip(states, fit, strict=True)])
        elif by is not None and self._by != by:
            self.v = self._after_reset(states[-1])  # by what was written since
        elif self.reset_delay and not states[-1].requires_grad:  # detached in place
            self.v = self.v.detach()
        spikes = tgo.LIF.forward(self, input_) if self.sequence else self.one_step(input_)
        found = self.v if self.membrane is None else self.membrane
        mem = found[-1].clone() if self.reset_delay else self.v  # no view, which is not detached in place
        self._buffers["mem"] = mem
        keep(self, "_after", self.states())
        keep(self, "_by", by)
        if self.init_hidden and not self.output:
            return spikes
        return spikes, *self.states()[:-1], found if self.sequence else mem

    def _begin(self, input_: Tensor, states: list[Tensor | None]) -> None:
        """A new sequence, from those of snnTorch's states that have its shape."""
        super().reset()
        if all(state is None for state in states):
            return
        shape, dtype = input_.shape[self.sequence :], state_dtype(input_.dtype)
        *more, mem = (
            torch.zeros(shape, dtype=dtype, device=input_.device) if state is None else state.to(dtype)
            for state in states
        )
        self.v = self._after_reset(mem)
        self._more = tuple(more)

    def _resets_by(self) -> tuple[Any, ...] | None:
        """What a delayed reset depends on; None where there is none, or values guard no compiled code."""
        if torch.compiler.is_compiling() or not self.reset_delay:
            return None
        read = self.beta, self.threshold
        return self._reset_mechanism, *((id(t), None if t.is_inference() else t._version) for t in read)

    def _after_reset(self, mem: Tensor) -> Tensor:
        """snnTorch's membrane as the state of the layer, which is that after the reset."""
        n = self.neuron
        if not self.reset_delay or n.reset_by == 0.0:
            return mem
        constants: dict[str, Any] = {"v_threshold": n.v_threshold, "reset_by": n.reset_by} | self.learned(mem.dim() + 1)
        by = mem if n.v_reset == 0.0 else constants["reset_by"]
        return torch.where(mem.detach() > constants["v_threshold"], mem - by, mem)

    def learned(self, dims: int) -> dict[str, Tensor]:
        found, compiled = {}, torch.compiler.is_compiling()  # a number would be compiled in
        if compiled or own(self, "beta"):
            found["decay"] = self.beta.float().clamp(0, 1)
        if compiled or own(self, "threshold"):
            found["v_threshold"] = self.threshold.float()
        if found and self.reset_delay and self._reset_mechanism == "subtract":
            # Where beta is 0 nothing of a reset is left to the next step.
            found["reset_by"] = self.threshold.float() / self.beta.float().clamp(torch.finfo(torch.float32).tiny, 1)
        return found

    def _load_from_state_dict(self, *arguments: Any) -> None:
        super()._load_from_state_dict(*arguments)
        self._reset_mechanism = RESETS[int(self.reset_mechanism_val)]

    def __getstate__(self) -> Mapping[str, Any]:
        state = dict(super().__getstate__())
        *more, mem = map(without_graph, self.states())
        states = *more, state["_v"] if self.mem is self.v else mem
        state["_after"] = states if self.follows(self.states()) else None
        state["_buffers"] = {**self._buffers, **dict(zip(self.HIDDEN, states, strict=True))}
        return state


def own(neuron: Any, name: str) -> bool:
    """Whether it learns, or differs between neurons: it is then read at every call."""
    return name in neuron._parameters or neuron._buffers[name].numel() != 1


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
