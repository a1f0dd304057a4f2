"""The neuron layer: one nn.Module for the plain, the noisy and the guarded LIF."""

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from tgo_kernels import noise, ops
from tgo_kernels.functional import run
from tgo_kernels.neuron import OWN, LIFOutput, Neuron, NoiseMode, check_bool, check_number, check_tensors
from tgo_kernels.surrogate import ATan, Surrogate


class LIF(nn.Module):
    """Leaky integrate-and-fire neurons over all time steps: [T, *] input current to [T, *] spikes.

    The neuron is that of :func:`tgo_kernels.lif`, with SpikingJelly's conventions for its constants::

        decay = 1 - 1/tau;    gain = 1/tau if decay_input else 1

    With ``learn_decay`` that is the parametric LIF (Fang et al., ICCV 2021, arXiv 2007.05785): 1/tau = sigmoid(w),
    where the parameter ``w`` learns, and the gain with it if ``decay_input``. With ``learn_threshold`` the parameter
    ``v_threshold`` does; nothing keeps it positive.

    The noise is on while training; in ``eval()`` it is off, unless ``noise_in_eval``. After a forward the layer holds
    ``penalty`` (with gradient where ``guard_margin > 0``), ``v`` (the state after the last step), ``firing_rate`` and
    ``neighbor_rate``; none of them is part of the state_dict.

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
        check_number("tau", tau, minimum=1.0)
        check_number("v_threshold", v_threshold)
        check_bool("decay_input", decay_input)
        check_bool("noise_in_eval", noise_in_eval)
        check_bool("learn_decay", learn_decay)
        check_bool("learn_threshold", learn_threshold)
        check_bool("stateful", stateful)
        ops.check_impl(impl)
        if channels is not None and (type(channels) is not int or channels < 1 or not (learn_decay or learn_threshold)):
            raise ValueError(f"channels must be a number >= 1 of channels with constants that learn, got {channels!r}")
        decay = 1.0 - 1.0 / tau
        self.neuron = Neuron(
            decay=decay,
            gain=1.0 / tau if decay_input else 1.0,
            v_threshold=v_threshold,
            v_reset=v_reset,
            surrogate=surrogate,
            detach_reset=detach_reset,
            noise_std=noise_std,
            noise_mode=noise_mode,
            guard_margin=guard_margin,
        )
        shape = () if channels is None else (channels,)
        if learn_decay:
            self.w = nn.Parameter(torch.full(shape, rate_logit(decay)))
        if learn_threshold:
            self.v_threshold = nn.Parameter(torch.full(shape, float(v_threshold)))
        self.decay_input = decay_input
        self.learn_decay, self.learn_threshold = learn_decay, learn_threshold
        self.noise_in_eval = noise_in_eval
        self.stateful = stateful
        self.impl = impl
        self._counts: tuple[Tensor, Tensor, int | Tensor] | None = None  # neighbors, fired, of how many
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
        layer.neuron = replace(layer.neuron, decay=decay, gain=gain)
        if layer.learn_decay:
            nn.init.constant_(layer.w, rate_logit(decay))
        return layer

    def reset(self) -> None:
        """Forget the state and the penalty: the next call starts a new sequence, at rest and with noise of its own."""
        self.v: Tensor | None = None
        self.penalty: Tensor | None = None
        self._noise_seed: Tensor | None = None
        self._noise_step = 0

    def detach(self) -> None:
        """Cut the gradient through the carried state (truncated backpropagation through time)."""
        if isinstance(self.v, Tensor):
            self.v = self.v.detach()

    def learned(self, dims: int) -> dict[str, Tensor]:
        """The constants that learn, by their names in :class:`Neuron`, for x of so many dimensions."""
        found = {}
        if self.learn_decay:
            rate = self.w.float().sigmoid()
            found["decay"] = 1 - rate
            if self.decay_input:
                found["gain"] = rate
        if self.learn_threshold:
            found["v_threshold"] = self.v_threshold.float()
        return {name: per_channel(value, dims) for name, value in found.items()}

    def forward(self, x: Tensor) -> Tensor:
        neuron = self.neuron if self.training or self.noise_in_eval else self.neuron.without_noise()
        learned: dict[str, Any] = self.learned(x.dim())
        if learned:
            neuron = replace(neuron, **learned)
        out = self._continue(x, neuron) if self.stateful else run(x, None, neuron, None, 0, self.impl)
        keep = object.__setattr__  # Module's takes 2 us
        keep(self, "v", out.v_final if self.stateful else out.v_final.detach())
        keep(self, "penalty", out.penalty)
        keep(self, "_counts", (out.neighbors, out.fired, x.numel()))
        return out.spikes

    def _continue(self, x: Tensor, neuron: Neuron) -> LIFOutput:
        """The next chunk of a sequence: from the last state, and with the noise that follows."""
        self._check_state(x)
        if neuron.noise_std == 0 or torch.compiler.is_compiling():  # a step that is compiled in would never fit again
            return run(x, self.v, neuron, None, 0, self.impl)
        if self._noise_seed is None:
            self._noise_seed = noise.draw_seed(x.device)
        step = self._noise_step
        self._noise_step += x.shape[0]
        return run(x, self.v, neuron, self._noise_seed, step, self.impl)

    @property
    def firing_rate(self) -> Tensor | None:
        """Spikes per neuron and step in the last forward, a scalar; None before the first."""
        return None if self._counts is None else share(self._counts[1], self._counts[2])

    @property
    def neighbor_rate(self) -> Tensor | None:
        """Share of membranes within ``guard_margin`` of the threshold in the last forward; None before the first."""
        return None if self._counts is None else share(self._counts[0], self._counts[2])

    def _check_state(self, x: Tensor) -> None:
        check_tensors(x, None, self.neuron)
        if self.v is not None and (self.v.shape != x.shape[1:] or self.v.device != x.device):
            raise ValueError(
                f"the state of this stateful LIF has shape {tuple(self.v.shape)} on {self.v.device}, but x is "
                f"{tuple(x.shape)} on {x.device}; call reset() before a new sequence"
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

    def __getstate__(self) -> Mapping[str, Any]:
        """For copies and pickles: the layer and its state, without the graph of the last forward."""
        state = dict(self.__dict__)
        for name in ("v", "penalty"):
            if isinstance(state[name], Tensor):
                state[name] = state[name].detach()
        return state


def share(count: Tensor, of: int | Tensor) -> Tensor:
    return count / (of.clamp(min=1) if isinstance(of, Tensor) else max(of, 1))


def rate_logit(decay: float) -> float:
    """w, where ``decay = 1 - sigmoid(w)``."""
    if not 0 < decay < 1:
        raise ValueError(f"learn_decay needs a decay between 0 and 1, or tau > 1; got decay={decay:g}")
    return math.log((1 - decay) / decay)


def per_channel(value: Tensor, dims: int) -> Tensor:
    """[C] as [C, 1, 1] for x [T, B, C, H, W]; a scalar stays one."""
    return value.reshape(-1, *[1] * max(0, dims - 3)) if value.dim() else value


def shown(value: float | Tensor) -> str:
    """For people: a number, or from which to which."""
    if not isinstance(value, Tensor):
        return f"{value:g}"
    if value.is_meta:
        return "learned"
    least, most = value.min().item(), value.max().item()
    return f"{least:.3g}" if value.dim() == 0 else f"{least:.3g}..{most:.3g}"
