"""The neuron layer: one nn.Module for the plain, the noisy and the guarded LIF."""

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from tgo_kernels import noise
from tgo_kernels.constants import (
    canonical,
    check_settings,
    checked,
    fill,
    held,
    held_as,
    per_channel,
    rate_logit,
    read_tau,
    readable,
    readable_own,
    shown,
)
from tgo_kernels.functional import run
from tgo_kernels.neuron import OWN, LIFOutput, Neuron, NoiseMode, check_bool, check_number, check_tensors
from tgo_kernels.ops import check_impl
from tgo_kernels.penalties import (
    Call,
    in_compiled_transform,
    keep,
    out_of_inference,
    record,
    share,
    unwrapped,
    without_graph,
)
from tgo_kernels.surrogate import ATan, NoisePDF, Surrogate


class LIF(nn.Module):
    """Leaky integrate-and-fire neurons over all time steps: [T, *] input current to [T, *] spikes.

    The neuron is that of :func:`tgo_kernels.lif`, with SpikingJelly's conventions for its constants::

        decay = 1 - 1/tau;    gain = 1/tau if decay_input else 1

    With ``learn_decay`` that is the parametric LIF (Fang et al., ICCV 2021, arXiv 2007.05785): 1/tau = sigmoid(w),
    where the parameter ``w`` learns, and the gain with it if ``decay_input``. With ``learn_threshold`` the parameter
    ``v_threshold`` does; nothing keeps it positive. All constants can be read from the layer, and changed by
    :meth:`set`.

    The noise is on while training; in ``eval()`` it is off, unless ``noise_in_eval``. After a forward the layer holds
    ``v`` (the state after the last step), and ``penalty`` (with gradient where ``guard_margin > 0``), ``firing_rate``
    and ``neighbor_rate``: of the last call, or, where that went on from a state, of all calls since the last start
    (a :meth:`reset`, a :meth:`detach`, a penalty that :func:`guard_penalty` took). None of them is in the state_dict.

    Args:
        tau: membrane time constant in steps, >= 1.
        decay_input: whether the input is scaled by 1/tau.
        v_threshold, v_reset, surrogate, detach_reset, noise_std, noise_mode, guard_margin, impl:
            as in :func:`tgo_kernels.lif`, of which the first is a number here.
        noise_in_eval: keep the noise on in ``eval()``.
        learn_decay, learn_threshold: whether ``w`` and ``v_threshold`` are parameters; tau must then be > 1.
        channels: a parameter has one value for each channel of x [T, B, C, *]; one for all if None.
        stateful: carry the state from one call to the next, with its gradient (see :meth:`detach`), until
            :meth:`reset`; the noise goes on where the last call ended, so that chunks equal the whole sequence (under
            ``torch.compile`` each call draws its own).

    Raises:
        TypeError, ValueError: naming the argument, what was expected and what came.
    """

    tau, decay_input = readable("tau", read_tau), readable("decay_input", lambda layer: layer._decay_input)
    decay, gain, v_threshold = map(readable_own, OWN)
    v_reset, surrogate, detach_reset = map(readable, ("v_reset", "surrogate", "detach_reset"))
    noise_std, noise_mode, guard_margin = map(readable, ("noise_std", "noise_mode", "guard_margin"))
    noise_in_eval, stateful = (checked(name, partial(check_bool, name)) for name in ("noise_in_eval", "stateful"))
    impl = checked("impl", check_impl)
    learn_decay = readable("learn_decay", lambda layer: layer._learn_decay)
    learn_threshold = readable("learn_threshold", lambda layer: layer._learn_threshold)

    def __init__(
        self,
        tau: float = 2.0,
        decay_input: bool = True,
        v_threshold: float = 1.0,
        v_reset: float | None = 0.0,
        surrogate: Surrogate = ATan(2.0),
        detach_reset: bool = False,
        *,
        noise_std: float = 0.0,
        noise_mode: NoiseMode = "membrane",
        noise_in_eval: bool = False,
        guard_margin: float = 0.0,
        learn_decay: bool = False,
        learn_threshold: bool = False,
        channels: int | None = None,
        stateful: bool = False,
        impl: str = "auto",
    ) -> None:
        super().__init__()
        given = {"tau": tau, "decay_input": decay_input, "v_threshold": v_threshold}
        check_settings(given)
        check_bool("learn_decay", learn_decay)
        check_bool("learn_threshold", learn_threshold)
        if channels is not None and (type(channels) is not int or channels < 1 or not (learn_decay or learn_threshold)):
            raise ValueError(f"channels must be a number >= 1 of channels with constants that learn, got {channels!r}")
        neuron = Neuron(
            **canonical(given, Neuron(), decay_input),
            v_reset=v_reset,
            surrogate=surrogate,
            detach_reset=detach_reset,
            noise_std=noise_std,
            noise_mode=noise_mode,
            guard_margin=guard_margin,
        )
        self._learn_decay, self._learn_threshold = learn_decay, learn_threshold
        shape = () if channels is None else (channels,)
        if learn_decay:
            self.w = nn.Parameter(torch.full(shape, rate_logit(1.0 - 1.0 / tau)))
        if learn_threshold:
            self.v_threshold = nn.Parameter(torch.full(shape, float(v_threshold)))
        self._neuron, self._decay_input = neuron, decay_input
        self._pdf_of_noise = surrogate == NoisePDF()
        self.noise_in_eval = noise_in_eval
        self.stateful = stateful
        self.impl = impl
        self._counts: tuple[Tensor, Tensor, int | Tensor] | None = None  # neighbors, fired, of how many
        self._calls: tuple[Call, ...] = ()  # whose penalties wait for guard_penalty, or are those that it took
        self._taken, self._lost = True, 0  # the rank of those that are not kept
        self.reset()

    @classmethod
    def from_decay(cls, decay: float = 0.5, gain: float = 1.0, *others: Any, **options: Any) -> "LIF":
        """The layer in canonical form, ``h[t] = decay v[t-1] + gain x[t] + leak_bias``.

        What follows ``decay`` and ``gain`` is what follows ``tau`` and ``decay_input`` in the constructor. With
        ``learn_decay`` the gain stays.
        """
        check_number("decay", decay)
        check_number("gain", gain)
        layer = cls(2.0, False, *others, **options)
        layer._neuron = replace(layer._neuron, decay=decay, gain=gain)
        if layer.learn_decay:
            fill(layer, "w", rate_logit(decay))
        return layer

    @property
    def neuron(self) -> Neuron:
        """The constants of a call, but for those that learn. Another neuron may be assigned."""
        return self._neuron

    @neuron.setter
    def neuron(self, neuron: Neuron) -> None:
        if not isinstance(neuron, Neuron):
            raise TypeError(f"neuron must be a tgo_kernels.Neuron, got {type(neuron).__name__}")
        for name in self.learned(0):
            if getattr(neuron, name) != getattr(self._neuron, name):
                raise ValueError(f"{name} of this layer is a tensor of its own; layer.set({name}=...) writes to it")
        self._neuron, self._pdf_of_noise = neuron, False

    def set(self, **constants: Any) -> None:
        """Change constants of the finished layer, by the names of the constructor, or ``decay`` and ``gain``.

        All are checked as there, and where one is refused, none is changed. What learns is written into its parameter.
        Other numbers are compiled in: ``torch.compile`` compiles once more. The gain follows tau, and the width of a
        ``NoisePDF()`` follows noise_std, as in the constructor.

        Raises:
            TypeError, ValueError: naming the constant, what was expected and what came.
        """
        check_settings(constants)
        new = canonical(constants, self._neuron, self.decay_input)
        if "noise_std" in new and self._pdf_of_noise:
            new.setdefault("surrogate", NoisePDF())
        replace(self._neuron, **new)  # checks what it takes
        scales = constants.get("decay_input", self.decay_input)
        learns = {"decay": self.learn_decay, "gain": self.learn_decay and scales, "v_threshold": self.learn_threshold}
        tensors = {name: new[name] for name in new if learns.get(name) or held_as(self, name) is not None}
        new = {name: value for name, value in new.items() if name not in tensors}
        if learns["gain"]:
            tensors.pop("gain", None)
        if self.learn_decay and "decay" in tensors:
            tensors["w"] = rate_logit(tensors.pop("decay"))
        # From here on nothing is refused.
        for name, value in tensors.items():
            fill(self, name, value)
        self._neuron, self._decay_input = replace(self._neuron, **new), scales
        if "surrogate" in constants:
            self._pdf_of_noise = constants["surrogate"] == NoisePDF()
        self.noise_in_eval = constants.get("noise_in_eval", self.noise_in_eval)
        self.impl = constants.get("impl", self.impl)

    def reset(self) -> None:
        """Forget the state: the next call starts a new sequence, at rest and with noise of its own.

        A penalty that :func:`guard_penalty` has not taken yet waits for it.
        """
        self.v: Tensor | None = None
        self._penalty: Tensor | None = None
        self._noise_seed: Tensor | None = None
        self._noise_step = 0
        if self._taken:
            self._calls = ()

    def detach(self) -> None:
        """Cut the gradient through the carried state (truncated backpropagation through time)."""
        if isinstance(self.v, Tensor):
            self.v = self.v.detach()

    def train(self, mode: bool = True) -> "LIF":
        """As of every module. A state of ``torch.inference_mode()`` becomes one that compiled code can train from."""
        if isinstance(self.v, Tensor):
            self.v = out_of_inference(self.v)
        return super().train(mode)

    def learned(self, dims: int) -> dict[str, Tensor]:
        """The constants that learn, by their names in :class:`Neuron`, for x of so many dimensions."""
        found = {}
        if self._learn_decay:
            rate = held(self.w).sigmoid()
            found["decay"] = 1 - rate
            if self.decay_input:
                found["gain"] = rate
        if self._learn_threshold:
            found["v_threshold"] = held(self.v_threshold)
        return {name: per_channel(value, dims) for name, value in found.items()} if found else found

    def forward(self, x: Tensor) -> Tensor:
        constants = self.neuron
        neuron = constants if self.training or self.noise_in_eval else constants.without_noise()
        if not isinstance(x, Tensor):
            check_tensors(x, None, constants)  # says so before what learns is touched
        learned: dict[str, Any] = self.learned(x.dim())
        if learned:
            neuron = replace(neuron, **learned)
        guarded = neuron.guard_margin > 0
        if self.stateful:
            before, out = self._continue(x, neuron)
            keep(self, "v", out.v_final)
            record(self, x.numel(), out, before, guarded)
            return out.spikes
        out = run(x, None, neuron, None, 0, self.impl)
        if guarded:
            record(self, x.numel(), out, None, True)
        if not in_compiled_transform():
            keep(self, "v", out.v_final.detach())
            if not guarded:
                keep(self, "_penalty", out.penalty)
                keep(self, "_counts", (out.neighbors, out.fired, x.numel()))
        return out.spikes

    def _continue(self, x: Tensor, neuron: Neuron) -> tuple[Tensor | None, LIFOutput]:
        """The next chunk of a sequence: from the last state, which it returns too, and with the noise that follows."""
        if in_compiled_transform():
            torch._dynamo.graph_break("a stateful layer keeps its state, which no tensor of a transform can be")
        self._check_state(x, neuron)
        before = self.v
        if torch.compiler.is_compiling():  # a step that is compiled in would never fit again
            return before, run(x, before, neuron, None, 0, self.impl)
        before = out_of_inference(before)
        if neuron.noise_std == 0:
            return before, run(x, before, neuron, None, 0, self.impl)
        seed = unwrapped(self._noise_seed)
        self._noise_seed = noise.draw_seed(x.device) if seed is None else out_of_inference(seed)
        step = self._noise_step
        self._noise_step += int(x.shape[0])  # torch.jit.trace makes a tensor of it
        return before, run(x, before, neuron, self._noise_seed, step, self.impl)

    @property
    def v(self) -> Any:
        """The state after the last step; None before the first. Another may be assigned."""
        return unwrapped(self._v)

    @v.setter
    def v(self, value: Any) -> None:
        keep(self, "_v", value)

    @property
    def penalty(self) -> Tensor | None:
        """Mean penalty of a neuron and step, a scalar: of the same calls as the rates; None before the first."""
        return unwrapped(self._penalty)

    @property
    def firing_rate(self) -> Tensor | None:
        """Spikes per neuron and step, a scalar: in the last call, or where it went on from a state in all since the
        last start; None before the first."""
        return None if self._counts is None else share(unwrapped(self._counts[1]), self._counts[2])

    @property
    def neighbor_rate(self) -> Tensor | None:
        """Share of membranes within ``guard_margin`` of the threshold, in the calls that ``firing_rate`` is of."""
        return None if self._counts is None else share(unwrapped(self._counts[0]), self._counts[2])

    def _check_state(self, x: Tensor, neuron: Neuron) -> None:
        check_tensors(x, None, neuron, self.impl)
        v = self.v
        if v is not None and (v.shape != x.shape[1:] or v.device != x.device):
            raise ValueError(
                f"the state of this stateful LIF has shape {tuple(v.shape)} on {v.device}, but x is "
                f"{tuple(x.shape)} on {x.device}; call reset() before a new sequence"
            )

    def __prepare_scriptable__(self) -> None:
        raise RuntimeError(
            "torch.jit.script cannot compile a layer; torch.jit.trace, torch.export and torch.compile can"
        )

    def extra_repr(self) -> str:
        n = self.neuron
        now = {name: getattr(n, name) for name in OWN} | self.learned(0)
        parts = [f"{name}={shown(value)}" for name, value in now.items()] + [f"v_reset={n.v_reset}"]
        parts += [f"surrogate={n.surrogate}, detach_reset={n.detach_reset}"]
        if n.noise_std > 0:
            parts += [f"noise_std={n.noise_std:g}, noise_mode={n.noise_mode!r}, noise_in_eval={self.noise_in_eval}"]
        if n.guard_margin > 0:
            parts += [f"guard_margin={n.guard_margin:g}"]
        return ", ".join([*parts, f"stateful={self.stateful}, impl={self.impl!r}"])

    def register_buffer(self, name: str, tensor: Tensor | None, persistent: bool = True) -> None:
        """As of every module; a subclass may hold a constant as a buffer, which its ``learned`` returns."""
        if name in OWN:
            self._buffers.setdefault(name, None)  # so that it does not count as taken
        super().register_buffer(name, tensor, persistent)

    def __getstate__(self) -> Mapping[str, Any]:
        """For copies and pickles: the layer and its state, without the graph of the last forward."""
        state = dict(self.__dict__)
        for name in ("_v", "_penalty", "_noise_seed"):
            state[name] = without_graph(state[name])
        if self._counts is not None:
            state["_counts"] = tuple(map(without_graph, self._counts))
        state["_calls"] = tuple(
            Call(without_graph(call.penalty), without_graph(call.of), 0, None) for call in self._calls
        )
        return state
