"""What every neuron layer does in a call, and keeps of it: the state, the penalty, the rates."""

from collections.abc import Mapping, Sequence
from dataclasses import fields
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from tgo_kernels import noise
from tgo_kernels.call import ScanOutput, check_tensors
from tgo_kernels.constants import check_channels, checked, held, per_channel, shown
from tgo_kernels.functional import run
from tgo_kernels.neurons import Neuron, check_bool
from tgo_kernels.normed import Normed
from tgo_kernels.ops import check_impl
from tgo_kernels.packing import note
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


class Layer(nn.Module):
    """A neuron over all time steps: [T, *] of each of its inputs to [T, *] spikes.

    Args:
        neuron: one of :mod:`tgo_kernels.neurons`, or of a user's own (see the page on neurons). Its constants that are
            tensors are buffers of the layer, and ``nn.Parameter`` ones learn.
        learn: the names of constants that are numbers, and are to learn: parameters.
        channels: such a parameter has one value for each channel of x [T, B, C, *]; one for all if None.
        noise_in_eval, stateful, impl: as of :class:`LIF`, and so are ``v``, ``state``, ``penalty``, ``membrane``, the
            rates, :meth:`reset` and :meth:`detach`.

    Raises:
        TypeError, ValueError: naming the argument, what was expected and what came.
    """

    noise_in_eval, stateful = (checked(name, partial(check_bool, name)) for name in ("noise_in_eval", "stateful"))
    impl = checked("impl", check_impl)
    _neuron: Any
    _learn_noise: bool
    _learns: tuple[str, ...] = ()  # constants that are parameters of the layer's making
    _as_given: tuple[str, ...] = ()  # and those that were given as tensors

    def __init__(
        self,
        neuron: Neuron,
        *,
        learn: Sequence[str] = (),
        channels: int | None = None,
        noise_in_eval: bool = False,
        stateful: bool = False,
        impl: str = "auto",
    ) -> None:
        super().__init__()
        if not isinstance(neuron, Neuron):
            raise TypeError(f"neuron must be one of tgo_kernels.neurons, such as neurons.LIF(), got {neuron!r}")
        check_channels(channels, learn)
        learn = (learn,) if isinstance(learn, str) else tuple(learn)
        for name in learn:
            value = getattr(neuron, name) if name in neuron.OWN else None
            if not isinstance(value, (int, float)) or isinstance(value, bool):
                names = ", ".join(neuron.OWN)
                raise ValueError(f"learn must name constants that are numbers, of {names}; got {name!r}: {value!r}")
            shape = () if channels is None else (channels,)
            self.register_parameter(name, nn.Parameter(torch.full(shape, float(value))))
        keep(self, "_learns", learn)
        self.hold({name: getattr(neuron, name) for name in neuron.tensors})
        self._learn_noise = "noise_std" in (*self._learns, *self._as_given)
        self._neuron = neuron
        self.begin(noise_in_eval, stateful, impl)

    @property
    def neuron(self) -> Any:
        """The constants of a call, but for those that learn. Another neuron may be assigned."""
        return self._neuron

    @neuron.setter
    def neuron(self, neuron: Any) -> None:
        self._neuron = neuron

    def hold(self, tensors: Mapping[str, Tensor]) -> None:
        """Constants as they were given: buffers, or parameters that learn."""
        for name, tensor in tensors.items():
            where: Any = self._parameters if isinstance(tensor, nn.Parameter) else self._buffers
            where[name] = tensor
        keep(self, "_as_given", tuple(tensors))

    def begin(self, noise_in_eval: bool, stateful: bool, impl: str) -> None:
        self.noise_in_eval = noise_in_eval
        self.stateful = stateful
        self.impl = impl
        self._counts: tuple[Tensor, Tensor, int | Tensor] | None = None  # neighbors, fired, of how many
        self._calls: tuple[Call, ...] = ()  # whose penalties wait for guard_penalty, or are those that it took
        self._taken, self._lost = True, 0  # the rank of those that are not kept
        self.reset()

    def learned(self, dims: int) -> dict[str, Tensor]:
        """The constants that learn, by their names in the neuron, for x of so many dimensions."""
        found = {name: per_channel(held(getattr(self, name)), dims) for name in self._learns}
        return found | {name: held(getattr(self, name)) for name in self._as_given}

    def extra_repr(self) -> str:
        fixed = {each.name: getattr(self.neuron, each.name) for each in fields(self.neuron) if each.repr}
        now = fixed | self.learned(0)
        constants = ", ".join(f"{name}={shown(value)}" for name, value in now.items())
        return f"{type(self.neuron).__name__}({constants}), stateful={self.stateful}, impl={self.impl!r}"

    def reset(self) -> None:
        """Forget the state: the next call starts a new sequence, at rest and with noise of its own.

        A penalty that :func:`guard_penalty` has not taken yet waits for it.
        """
        self.v: Tensor | None = None
        self._more: tuple[Tensor, ...] = ()  # states beside v
        self._penalty: Tensor | None = None
        self._membrane: Tensor | None = None
        self._noise_seed: Tensor | None = None
        self._noise_step = 0
        if self._taken:
            self._calls = ()

    def detach(self) -> None:
        """Cut the gradient through the carried state (truncated backpropagation through time)."""
        if isinstance(self.v, Tensor):
            self.v = self.v.detach()
        keep(self, "_more", tuple(each.detach() for each in self._more))

    def train(self, mode: bool = True) -> "Layer":
        """As of every module. A state of ``torch.inference_mode()`` becomes one that compiled code can train from."""
        if isinstance(self.v, Tensor):
            self.v = out_of_inference(self.v)
        keep(self, "_more", tuple(map(out_of_inference, self._more)))
        return super().train(mode)

    def forward(self, *inputs: Any, **named: Any) -> Any:
        """Of each of the neuron's inputs [T, *], in their order or by their names."""
        names = self.neuron.INPUTS
        given = [*inputs, *(named.pop(name) for name in names[len(inputs) :] if name in named)]
        if len(given) != len(names) or named:
            found = ", ".join([str(len(given)), *named])
            raise TypeError(f"the neuron has {len(names)} inputs, {', '.join(names)}; got {found}")
        return self._output(self._run(*given))

    def _output(self, out: ScanOutput) -> Tensor:
        """What of a call is the layer's output."""
        return out.spikes

    def _run(self, x: Tensor | Normed, *streams: Tensor) -> ScanOutput:
        """On x, or on what a batch norm makes of it, whose line goes into the neuron's constants."""
        constants, line = self.neuron, None
        if isinstance(x, Normed):
            x, line = x.taken() if constants.takes_line else (x.tensor(), None)
        neuron = constants if self.training or self.noise_in_eval else constants.without_noise()
        if not isinstance(x, Tensor):
            check_tensors(x, None, constants)  # says so before what learns is touched
        learned: dict[str, Any] = self.learned(x.dim())
        if self._learn_noise and not neuron.noisy:
            learned.pop("noise_std")
        if learned:
            neuron = neuron.replaced(**learned)
        if line is not None:
            neuron = neuron.with_input(*line)
        else:
            note(x)
        guarded = neuron.guard_margin > 0
        if self.stateful:
            before, out = self._continue(neuron, x, streams)
            keep(self, "v", out.state[0])
            keep(self, "_more", out.state[1:])
            keep(self, "_membrane", out.membrane)
            record(self, x.numel(), out, before, guarded)
            return out
        out = run(neuron, x, streams, None, impl=self.impl)
        if guarded:
            record(self, x.numel(), out, None, True)
        if not in_compiled_transform():
            keep(self, "v", out.state[0].detach())
            if len(out.state) > 1:
                keep(self, "_more", tuple(each.detach() for each in out.state[1:]))
            if out.membrane is not None:
                keep(self, "_membrane", out.membrane)
            if not guarded:
                keep(self, "_penalty", out.penalty)
                keep(self, "_counts", (out.neighbors, out.fired, x.numel()))
        return out

    def _continue(self, neuron: Any, x: Tensor, streams: tuple[Tensor, ...]) -> tuple[Tensor | None, ScanOutput]:
        """The next chunk of a sequence: from the last states, of which it returns the first too, with noise that goes
        on."""
        if in_compiled_transform():
            torch._dynamo.graph_break("a stateful layer keeps its state, which no tensor of a transform can be")
        self._check_state(x, neuron)
        before = self.v
        state = None if before is None else (before, *(self._more or neuron.at_rest(before)))
        if torch.compiler.is_compiling():  # a step that is compiled in would never fit again
            return before, run(neuron, x, streams, state, impl=self.impl)
        if state is not None:
            state = tuple(map(out_of_inference, state))
            before = state[0]
        seed, step = None, 0
        if neuron.noisy:
            seed = unwrapped(self._noise_seed)
            self._noise_seed = seed = noise.draw_seed(x.device) if seed is None else out_of_inference(seed)
        if neuron.noisy or neuron.COUNTS_STEPS:
            step = self._noise_step
            self._noise_step += int(x.shape[0])  # torch.jit.trace makes a tensor of it
        return before, run(neuron, x, streams, state, seed, step, self.impl)

    @property
    def v(self) -> Any:
        """The state after the last step; None before the first. Another may be assigned."""
        return unwrapped(self._v)

    @v.setter
    def v(self, value: Any) -> None:
        keep(self, "_v", value)

    @property
    def state(self) -> tuple[Tensor, ...] | None:
        """All states after the last step, in the order of the neuron's ``STATES``, of which ``v`` is the first."""
        return None if self.v is None else (self.v, *map(unwrapped, self._more))

    @property
    def membrane(self) -> Tensor | None:
        """The membrane of every step of the last call, [T, *], with its gradient, if ``membrane`` asks for one."""
        if in_compiled_transform():
            _no_membrane()
        return unwrapped(self._membrane)

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

    def _check_state(self, x: Tensor, neuron: Any) -> None:
        check_tensors(x, None, neuron, self.impl)
        v = self.v
        if v is not None and (v.shape != x.shape[1:] or v.device != x.device):
            raise ValueError(
                f"the state of this stateful {type(self).__name__} has shape {tuple(v.shape)} on {v.device}, but x is "
                f"{tuple(x.shape)} on {x.device}; call reset() before a new sequence"
            )

    def __prepare_scriptable__(self) -> None:
        raise RuntimeError(
            "torch.jit.script cannot compile a layer; torch.jit.trace, torch.export and torch.compile can"
        )

    def __getstate__(self) -> Mapping[str, Any]:
        """For copies and pickles: the layer and its state, without the graph of the last forward."""
        state = dict(self.__dict__)
        for name in ("_v", "_penalty", "_membrane", "_noise_seed"):
            state[name] = without_graph(state[name])
        state["_more"] = tuple(map(without_graph, self._more))
        if self._counts is not None:
            state["_counts"] = tuple(map(without_graph, self._counts))
        state["_calls"] = tuple(
            Call(without_graph(call.penalty), without_graph(call.of), 0, None) for call in self._calls
        )
        return state


@torch.compiler.assume_constant_result  # raised while compiling, it is no reason for a graph break
def _no_membrane() -> None:
    raise RuntimeError("a layer keeps no membrane of a compiled transform; tgo.lif returns it, LeakyIntegrator too")
