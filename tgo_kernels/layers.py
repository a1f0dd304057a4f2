"""The neuron layers: their constants. What they do with them is in :mod:`tgo_kernels.layer`."""

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from tgo_kernels import neurons
from tgo_kernels.call import ScanOutput
from tgo_kernels.constants import (
    FIRING,
    OPTIONS,
    OWN,
    beside_lif,
    canonical,
    check_channels,
    check_settings,
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
from tgo_kernels.layer import Layer
from tgo_kernels.neurons import MINIMUM, check_bool, check_number
from tgo_kernels.neurons.base import GuardSide, Membrane, NoiseMode
from tgo_kernels.surrogate import ATan, NoisePDF, Surrogate

DEFAULT = neurons.LIF()
SELDOM = ("strict", "reset_by", "guard_side", "guard_power", "membrane")  # named where they are not these


class LIF(Layer):
    """Leaky integrate-and-fire neurons over all time steps: [T, *] input current to [T, *] spikes.

    The neuron is that of :func:`tgo_kernels.lif`, with SpikingJelly's conventions for its constants::

        decay = 1 - 1/tau;    gain = 1/tau if decay_input else 1

    With ``learn_decay`` that is the parametric LIF (Fang et al., ICCV 2021, arXiv 2007.05785): 1/tau = sigmoid(w),
    where the parameter ``w`` learns, and the gain with it if ``decay_input``. With ``learn_threshold`` the parameter
    ``v_threshold`` does; nothing keeps it positive. With ``learn_noise`` ``noise_std`` does, by the gradients of
    what it moves. All constants can be read from the layer, and changed by
    :meth:`set`.

    The noise is on while training; in ``eval()`` it is off, unless ``noise_in_eval``. After a forward the layer holds
    ``v`` (the state after the last step), and ``penalty`` (with gradient where ``guard_margin > 0``), ``firing_rate``
    and ``neighbor_rate``: of the last call, or, where that went on from a state, of all calls since the last start
    (a :meth:`reset`, a :meth:`detach`, a penalty that :func:`guard_penalty` took). None of them is in the state_dict.

    Args:
        tau: membrane time constant in steps, >= 1.
        decay_input: whether the input is scaled by 1/tau.
        v_threshold, v_reset, surrogate, detach_reset, noise_std, noise_mode, guard_margin, guard_side, guard_power,
            impl, strict, reset_by, membrane: as in :func:`tgo_kernels.lif`, but numbers where those may be tensors.
        noise_in_eval: keep the noise on in ``eval()``.
        learn_decay, learn_threshold, learn_noise: whether ``w``, ``v_threshold`` and ``noise_std`` are parameters; tau
            must then be > 1, and noise_std > 0; nothing keeps it so.
        channels: a parameter has one value for each channel of x [T, B, C, *]; one for all if None.
        stateful: carry the state from one call to the next, with its gradient (see :meth:`detach`), until
            :meth:`reset`; the noise goes on where the last call ended, so that chunks equal the whole sequence (under
            ``torch.compile`` each call draws its own).

    Raises:
        TypeError, ValueError: naming the argument, what was expected and what came.
    """

    kind: type[neurons.Leaky] = neurons.LIF
    _given: Mapping[str, Any] = {}  # constants of a kind beside those of LIF, in the constructor

    tau, decay_input = readable("tau", read_tau), readable("decay_input", lambda layer: layer._decay_input)
    decay, gain, v_threshold, noise_std = map(readable_own, (*OWN, "noise_std"))
    v_reset, reset_by, surrogate, detach_reset, strict = map(readable, FIRING)
    noise_mode, guard_margin, guard_side, guard_power = map(readable, OPTIONS[1:5])
    learn_decay = readable("learn_decay", lambda layer: layer._learn_decay)
    learn_threshold = readable("learn_threshold", lambda layer: layer._learn_threshold)
    learn_noise = readable("learn_noise", lambda layer: layer._learn_noise)

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
        guard_side: GuardSide = "both",
        guard_power: int = 1,
        learn_decay: bool = False,
        learn_threshold: bool = False,
        learn_noise: bool = False,
        channels: int | None = None,
        stateful: bool = False,
        impl: str = "auto",
        strict: bool = False,
        reset_by: float | None = None,
        membrane: Membrane | None = None,
    ) -> None:
        nn.Module.__init__(self)
        given = {"tau": tau, "decay_input": decay_input, "v_threshold": v_threshold}
        check_settings(given)
        check_bool("learn_decay", learn_decay)
        check_bool("learn_threshold", learn_threshold)
        check_bool("learn_noise", learn_noise)
        if learn_threshold and "v_threshold" not in self.kind.OWN:
            raise ValueError(f"learn_threshold: v_threshold of {self.kind.__name__} is fixed")
        learns = learn_decay or learn_threshold or learn_noise or self._learns
        check_channels(channels, learns)
        neuron: Any = self.kind(
            **{"gain": 1.0} | canonical(given, DEFAULT, decay_input),
            **self._given,
            v_reset=v_reset,
            reset_by=reset_by,
            strict=strict,
            surrogate=surrogate,
            detach_reset=detach_reset,
            noise_std=noise_std,
            noise_mode=noise_mode,
            guard_margin=guard_margin,
            guard_side=guard_side,
            guard_power=guard_power,
            membrane=membrane,
        )
        if learn_noise and neuron.noise_std == 0:
            raise ValueError("learn_noise needs a noise_std > 0 to begin with, got noise_std=0")
        self._learn_decay, self._learn_threshold, self._learn_noise = learn_decay, learn_threshold, learn_noise
        shape = () if channels is None else (channels,)
        if learn_decay:
            self.w = nn.Parameter(torch.full(shape, rate_logit(1.0 - 1.0 / tau)))
        if learn_threshold:
            self.v_threshold = nn.Parameter(torch.full(shape, float(v_threshold)))
        if learn_noise:
            self.noise_std = nn.Parameter(torch.full(shape, float(noise_std)))
        for name in self._learns:
            setattr(self, name, nn.Parameter(torch.full(shape, float(getattr(neuron, name)))))
        self._neuron, self._decay_input = neuron, decay_input
        self._pdf_of_noise = surrogate == NoisePDF()
        self.begin(noise_in_eval, stateful, impl)

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
    def neuron(self) -> Any:
        """The constants of a call, but for those that learn. Another neuron may be assigned."""
        return self._neuron

    @neuron.setter
    def neuron(self, neuron: Any) -> None:
        if not isinstance(neuron, self.kind):
            raise TypeError(f"neuron must be a tgo_kernels.neurons.{self.kind.__name__}, got {type(neuron).__name__}")
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
        check_settings(constants, self.kind)
        new = canonical(constants, self._neuron, self.decay_input)
        if "noise_std" in new and self._pdf_of_noise:
            new.setdefault("surrogate", NoisePDF())
        self._neuron.replaced(**new)  # checks what it takes
        scales = constants.get("decay_input", self.decay_input)
        learns = {"decay": self.learn_decay, "gain": self.learn_decay and scales, "v_threshold": self.learn_threshold}
        learns |= {"noise_std": self.learn_noise} | dict.fromkeys(self._learns, True)
        tensors = {name: new[name] for name in new if learns.get(name) or held_as(self, name) is not None}
        new = {name: value for name, value in new.items() if name not in tensors}
        if learns["gain"]:
            tensors.pop("gain", None)
        if self.learn_decay and "decay" in tensors:
            tensors["w"] = rate_logit(tensors.pop("decay"))
        # From here on nothing is refused.
        for name, value in tensors.items():
            fill(self, name, value)
        self._neuron, self._decay_input = self._neuron.replaced(**new), scales
        if "surrogate" in constants:
            self._pdf_of_noise = constants["surrogate"] == NoisePDF()
        self.noise_in_eval = constants.get("noise_in_eval", self.noise_in_eval)
        self.impl = constants.get("impl", self.impl)

    def forward(self, x: Tensor) -> Tensor:
        return self._output(self._run(x))

    def learned(self, dims: int) -> dict[str, Tensor]:
        """The constants that learn, by their names in the neuron, for x of so many dimensions."""
        found = {}
        if self._learn_decay:
            rate = held(self.w).sigmoid()
            found["decay"] = 1 - rate
            if self.decay_input:
                found["gain"] = rate
        if self._learn_threshold:
            found["v_threshold"] = held(self.v_threshold)
        if self._learn_noise:
            found["noise_std"] = held(self.noise_std)
        if found:
            found = {name: per_channel(value, dims) for name, value in found.items()}
        return found | super().learned(dims) if self._learns or self._as_given else found

    def extra_repr(self) -> str:
        n = self.neuron
        now = {name: getattr(n, name) for name in (*OWN, *beside_lif(type(n)))} | self.learned(0)
        now.pop("noise_std", None)
        parts = [f"{name}={shown(value)}" for name, value in now.items()] + [f"v_reset={n.v_reset}"]
        parts += [f"surrogate={n.surrogate}, detach_reset={n.detach_reset}"]
        parts += [f"{name}={getattr(n, name)!r}" for name in SELDOM if getattr(n, name) != getattr(DEFAULT, name)]
        if n.noisy:
            parts += [
                f"noise_std={shown(self.noise_std)}, noise_mode={n.noise_mode!r}, noise_in_eval={self.noise_in_eval}"
            ]
        if n.guard_margin > 0:
            parts += [f"guard_margin={n.guard_margin:g}"]
        return ", ".join([*parts, f"stateful={self.stateful}, impl={self.impl!r}"])

    def register_buffer(self, name: str, tensor: Tensor | None, persistent: bool = True) -> None:
        """As of every module; a subclass may hold a constant as a buffer, which its ``learned`` returns."""
        if name in (*OWN, *beside_lif(self.kind)):
            self._buffers.setdefault(name, None)  # so that it does not count as taken
        super().register_buffer(name, tensor, persistent)


class LeakyIntegrator(LIF):
    """Leaky integrators over all time steps, as read-outs are: [T, *] input current to the membranes, [T, *].

    The neuron is that of :class:`LIF` which never fires, ``v_threshold=inf``::

        v[t] = decay v[t-1] + gain x[t] + (1 - decay) v_rest

    Args:
        tau, decay_input, learn_decay, channels, stateful, impl: as in :class:`LIF`; ``decay=1`` of
            :meth:`LIF.from_decay` does not leak.
        v_rest: where it starts and leaks to.

    Raises:
        TypeError, ValueError: naming the argument, what was expected and what came.
    """

    def __init__(
        self,
        tau: float = 2.0,
        decay_input: bool = True,
        v_rest: float = 0.0,
        *,
        learn_decay: bool = False,
        channels: int | None = None,
        stateful: bool = False,
        impl: str = "auto",
    ) -> None:
        check_number("v_rest", v_rest, MINIMUM["v_reset"])
        what = {"learn_decay": learn_decay, "channels": channels, "stateful": stateful, "impl": impl}
        super().__init__(tau, decay_input, math.inf, v_rest, membrane="v", **what)  # type: ignore[arg-type]

    def set(self, **constants: Any) -> None:
        """:meth:`LIF.set` of what an integrator has: tau, decay_input, decay, gain, v_reset (its rest), impl."""
        others = [name for name in constants if name not in ("tau", "decay_input", "decay", "gain", "v_reset", "impl")]
        if others or constants.get("v_reset", 0.0) is None:
            raise ValueError(
                f"{', '.join(others) or 'v_reset=None'} is of neurons that fire; a LeakyIntegrator does not"
            )
        super().set(**constants)

    def _output(self, out: ScanOutput) -> Tensor:
        assert out.membrane is not None
        return out.membrane
