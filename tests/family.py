"""The neurons of the house, each written down once more: a loop over time in plain torch that shares nothing."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from tgo_kernels import neurons


def _zeros(*inputs: Tensor) -> Tensor:
    return torch.zeros_like(inputs[0][0])


def lif(x, decay=0.5):
    v, spikes = _zeros(x), []
    for x_t in x:
        v = decay * v + x_t
        s = (v >= 1).to(x.dtype)
        v = v * (1 - s)
        spikes.append(s)
    return torch.stack(spikes), (v,)


def adaptive(x, rho=0.75, beta=1.5, decay=0.5):
    """Bellec et al. 2018: a decays before it is used, with the last spike in it."""
    v, a, s, spikes = _zeros(x), _zeros(x), _zeros(x), []
    for x_t in x:
        a = rho * a + (1 - rho) * s
        v = decay * v + x_t
        s = (v >= 1.0 + beta * a).to(x.dtype)
        v = v - s * (1.0 + beta * a)
        spikes.append(s)
    return torch.stack(spikes), (v, rho * a + (1 - rho) * s)


def synaptic(x, alpha=0.5, beta=0.75, gain=0.5):
    v, i, spikes = _zeros(x), _zeros(x), []
    for x_t in x:
        i = alpha * i + x_t
        v = beta * v + gain * i
        s = (v >= 1).to(x.dtype)
        v = v * (1 - s)
        spikes.append(s)
    return torch.stack(spikes), (v, i)


def adlif(x, alpha=0.75, beta=0.5, a=0.5, b=0.25):
    """Bittar and Garner 2022: w, then the membrane from the last one and its spike."""
    u, w, s, spikes = _zeros(x), _zeros(x), _zeros(x), []
    for x_t in x:
        w = beta * w + a * u + b * s
        u = alpha * (u - s) + (1 - alpha) * (x_t - w)
        s = (u >= 1).to(x.dtype)
        spikes.append(s)
    return torch.stack(spikes), (u - s, beta * w + a * u + b * s)


def symplectic_adlif(x, alpha=0.75, beta=0.5, a=0.5, b=0.25):
    """Baronig et al. 2024."""
    u, w, spikes = _zeros(x), _zeros(x), []
    for x_t in x:
        charged = alpha * u + (1 - alpha) * (x_t - w)
        s = (charged >= 1).to(x.dtype)
        u = charged * (1 - s)
        w = beta * w + (1 - beta) * (a * u + b * s)
        spikes.append(s)
    return torch.stack(spikes), (u, w)


def homeostatic(x, target, theta=0.25, decay=0.75):
    """HoSNN, with the threshold itself as a state."""
    v, threshold, spikes = _zeros(x), _zeros(x) + 1, []
    for x_t, target_t in zip(x, target, strict=True):
        h = v + (-(1 - decay) * v + x_t)
        threshold = threshold + theta * (h - target_t)
        s = (h > threshold).to(x.dtype)
        v = h * (1 - s)
        spikes.append(s)
    return torch.stack(spikes), (v, threshold - 1)


def self_predicting(x, k=0.25, of_output=0.5, of_input=0.75, decay=0.5, gain=0.5):
    v, p, spikes = _zeros(x), _zeros(x), []
    for x_t in x:
        h = decay * v + gain * (x_t + p)
        s = (h >= 1).to(x.dtype)
        v = h - s
        p = p + k * ((of_output * s - of_input * x_t) - p)
        spikes.append(s)
    return torch.stack(spikes), (v, p)


def oscillating(x, multiplied=False):
    """A period of two steps: the oscillation is 1/4 and -1/4 in turn."""
    v, spikes = _zeros(x), []
    for t, x_t in enumerate(x):
        o = 0.25 if t % 2 == 0 else -0.25
        c = 0.5 * v + x_t
        h = c * (1 + o) if multiplied else c + o
        s = (h >= 1).to(x.dtype)
        v = h - s
        spikes.append(s)
    return torch.stack(spikes), (v,)


def inhibited(excitation, subtracted, divided, g=1.5, b=0.25, decay=0.5):
    v, spikes = _zeros(excitation), []
    for e, i, d in zip(excitation, subtracted, divided, strict=True):
        v = decay * v + (g * (e - i) / d + b)
        s = (v >= 1).to(e.dtype)
        v = v - s
        spikes.append(s)
    return torch.stack(spikes), (v,)


def ternary(x, decay=0.5):
    """Guo et al. 2024, with the soft reset: both thresholds, each with a spike of its sign."""
    v, spikes = _zeros(x), []
    for x_t in x:
        v = decay * v + x_t
        s = (v >= 1).to(x.dtype) - (v <= -1).to(x.dtype)
        v = v - s
        spikes.append(s)
    return torch.stack(spikes), (v,)


def integer(x, levels=4, decay=0.25):
    """Luo et al. 2024: the membrane leaks what the last spikes have left of it."""
    mem, spike, spikes = _zeros(x), _zeros(x), []
    for x_t in x:
        mem = (mem - spike) * decay + x_t
        spike = torch.round(torch.clamp(mem, 0, levels))
        spikes.append(spike)
    return torch.stack(spikes), (mem - spike,)


def shares(x):
    spikes, state = integer(x, levels=2)
    return spikes / 2, state


TARGET = torch.randint(-8, 9, (30, 7, 11), generator=torch.Generator().manual_seed(0)) / 16


@dataclass
class Member:
    """A neuron, its loop, and constants of it under which it is LIF to the bit."""

    neuron: neurons.Neuron
    loop: Callable[..., Any]
    as_lif: dict[str, Any] = field(default_factory=dict)
    vary: dict[str, tuple[Any, ...]] = field(default_factory=dict)  # of random calls
    options: tuple[str, ...] = ()  # that are kept in them
    fixed: dict[str, Any] = field(default_factory=dict)  # that cannot be others

    @property
    def name(self) -> str:
        return f"{type(self.neuron).__name__}-{self.loop.__name__}"


OF_INTEGERS = {"v_threshold": 1.0, "v_reset": None, "reset_by": None, "strict": False, "guard_margin": 0.0}
OF_INTEGERS["surrogate"] = neurons.IntegerLIF.surrogate

MEMBERS = [
    Member(neurons.LIF(), lif),
    Member(
        neurons.AdaptiveLIF(rho=0.75, beta=1.5, v_reset=None),
        adaptive,
        {"beta": 0.0},
        {"rho": (0.9, 0.3), "beta": (0.0, 0.5, -0.3), "increment": (1.0, 0.2)},
    ),
    Member(
        neurons.SynapticLIF(current_decay=0.5, decay=0.75, gain=0.5),
        synaptic,
        {"current_decay": 0.0},
        {"current_decay": (0.5, 0.9), "scale": (1.0, -0.7), "shift": (0.0, 0.1)},
    ),
    Member(
        neurons.AdLIF(decay=0.75, rho=0.5, a=0.5, b=0.25, v_reset=None),
        adlif,
        {"a": 0.0, "b": 0.0, "gain": 1.0},
        {"rho": (0.9, 0.3), "a": (0.5, -0.3), "b": (1.0, 0.2), "scale": (1.0, 1.3), "shift": (0.0, -0.1)},
    ),
    Member(
        neurons.AdLIF(decay=0.75, rho=0.5, a=0.5, b=0.25, symplectic=True),
        symplectic_adlif,
        {"a": 0.0, "b": 0.0, "gain": 1.0},
        {"rho": (0.9, 0.3), "a": (0.5, -0.3), "b": (1.0, 0.2)},
        ("symplectic",),
    ),
    Member(
        neurons.HomeostaticLIF(theta=0.25, target=TARGET, decay=0.75, strict=True),
        lambda x: homeostatic(x, TARGET.to(x.dtype)),
        {"theta": 0.0, "target": 0.3},
        {"theta": (0.2, 0.67), "target": (0.0, 0.3, -0.2)},
    ),
    Member(
        neurons.SelfPredictingLIF(rate=0.25, of_output=0.5, of_input=0.75, gain=0.5, v_reset=None),
        self_predicting,
        {"rate": 0.0},
        {"rate": (0.5, 0.1), "of_output": (1.0, -0.4), "of_input": (1.0, 0.0), "scale": (1.0, 0.8)},
    ),
    Member(
        neurons.OscillatingLIF(amplitude=0.25, period=2.0, v_reset=None),
        oscillating,
        {"amplitude": 0.0},
        {"amplitude": (0.2, 0.5), "period": (4.0, 2.7), "phase": (0.0, 1.0)},
    ),
    Member(
        neurons.OscillatingLIF(amplitude=0.25, period=2.0, form="multiplicative", v_reset=None),
        lambda x: oscillating(x, multiplied=True),
        {"amplitude": 0.0},
        {"amplitude": (0.2, 0.5), "period": (4.0, 2.7), "phase": (0.0, 1.0)},
        ("form",),
    ),
    Member(neurons.InhibitedLIF(gain=1.5, bias=0.25, v_reset=None), inhibited),
    Member(neurons.TernaryLIF(), ternary, vary={"v_threshold": (1.0, 0.3, 0.0)}),
    Member(neurons.IntegerLIF(), integer, vary={"levels": (1, 4, 7)}, fixed=OF_INTEGERS),
    Member(neurons.IntegerLIF(levels=2, normalize=True), shares, options=("levels", "normalize"), fixed=OF_INTEGERS),
]
