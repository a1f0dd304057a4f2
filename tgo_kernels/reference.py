"""The specification: a neuron's step, walked through time in plain torch, differentiated by plain autograd."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from tgo_kernels import noise
from tgo_kernels.call import LIFOutput, ScanOutput, check_tensors, lengths_of, over_valid
from tgo_kernels.library import Function, apply, below, differentiated
from tgo_kernels.neurons import LIF, Neuron
from tgo_kernels.neurons.base import Spikes, state_dtype

__all__ = ["lif", "membrane", "scan"]


def lif(
    x: Tensor,
    v_init: Tensor | None = None,
    *,
    noise_seed: int | Tensor | None = None,
    noise_step: int = 0,
    valid: Tensor | None = None,
    impl: str = "reference",
    **constants: Any,
) -> LIFOutput:
    """:func:`tgo_kernels.lif` in plain torch: the same arguments, results and errors. ``impl`` is not used."""
    neuron = LIF(**constants)
    check_tensors(x, v_init, neuron, "reference")
    noise.check_step(noise_step, x.shape[0])
    seed = noise.seed_for(neuron.noisy, noise_seed, x.device)
    lengths = None if valid is None else lengths_of(valid, x)
    out = scan(neuron, (x,), None if v_init is None else (v_init,), seed, noise_step, lengths)
    return LIFOutput(out.spikes, out.state[0], *out[2:])


def scan(
    neuron: Neuron,
    inputs: Sequence[Tensor],
    state: Sequence[Tensor] | None,
    seed: Tensor | None,
    noise_step: int,
    lengths: Tensor | None = None,
) -> ScanOutput:
    """:func:`tgo_kernels.scan` with its arguments already checked. Computes in fp32, or in fp64 for an fp64 ``x``."""
    x = inputs[0]
    walk = _Walk(neuron, inputs, seed, noise_step)
    states = walk.rest() if state is None else tuple(v.to(walk.dtype) for v in state)
    spikes, membranes, counted, counts = [], [], [], []
    for t, now in enumerate(zip(*(stream.unbind(0) for stream in inputs), strict=True)):
        active = None if lengths is None else lengths > t
        after = walk.step(t, states, now)
        states = tuple(_where(active, new, old) for new, old in zip(after, states, strict=True))
        spikes.append(_where(active, walk.spikes, 0))
        counts.append(_where(active, walk.fired.detach(), 0).sum(dtype=torch.int64))
        if neuron.membrane:
            membranes.append(_where(active, {"h": walk.h, "u": walk.u, "v": after[0]}[neuron.membrane], 0))
        counted.append(walk.guarded(active))
    fired = torch.stack(counts).sum()
    neighbors = torch.zeros_like(fired)
    penalty = torch.zeros((), dtype=walk.dtype, device=x.device)
    if neuron.guard_margin > 0:
        totals, near = zip(*counted, strict=True)
        penalty = (torch.stack(totals).sum() / max(x.numel(), 1)).to(penalty.dtype)
        penalty = penalty if lengths is None else over_valid(penalty, lengths, x)
        neighbors = torch.stack(near).sum()
    found = _as(x, torch.stack(spikes)), states, penalty, neighbors, fired
    return ScanOutput(*found, _as(x, torch.stack(membranes)) if neuron.membrane else None)


def membrane(
    x: Tensor, v_init: Tensor | None = None, seed: Tensor | None = None, noise_step: int = 0, *, neuron: Neuron
) -> Tensor:
    """The membrane potential ``h[t]`` before noise and reset, [T, *] in fp32 (fp64 for such x): what the guard sees.

    For histograms and diagnostics of neurons with one state and input; ``seed`` is needed where they are noisy.
    """
    check_tensors(x, v_init, neuron, "reference")
    walk, found = _Walk(neuron, (x,), seed, noise_step), []
    states = walk.rest() if v_init is None else (v_init.to(walk.dtype),)
    for t, x_t in enumerate(x.unbind(0)):
        states = walk.step(t, states, (x_t,))
        found.append(walk.h)
    return torch.stack(found)


class _Given:
    """What a step is given: the constants by name, firing, and after it the spikes."""

    def __init__(self, walk: "_Walk", constants: dict[str, Any]) -> None:
        vars(self).update(constants, fire=walk.fire, _walk=walk)

    @property
    def spikes(self) -> Tensor:
        walk: _Walk = self._walk  # type: ignore[attr-defined]
        return walk.spikes


class _Walk:
    """Steps through time; what fires in the last one is kept."""

    spikes: Tensor
    fired: Tensor  # as how many they count
    h: Tensor
    u: Tensor
    threshold: float | Tensor

    def __init__(self, neuron: Neuron, inputs: Sequence[Tensor], seed: Tensor | None, noise_step: int) -> None:
        x = inputs[0]
        self.neuron, self.dtype, self.like = neuron, state_dtype(x.dtype), x[0]
        values = {name: neuron.constant(name) for name in neuron.CONSTANTS}
        if neuron.ITS_OWN:  # whose step may reckon with constants alone, as the engines do
            values = {
                name: value if isinstance(value, Tensor) else torch.tensor(value, dtype=self.dtype, device=x.device)
                for name, value in values.items()
            }
        self.n: Any = _Given(self, values)
        self.timed = {n: v for n, v in values.items() if isinstance(v, Tensor) and v.dim() == x.dim()}
        self.xi: tuple[Tensor, ...] = ()
        if neuron.noisy:
            assert seed is not None, "noise needs a seed"
            normals = noise.standard_normal(seed, x.shape[0], x[0].numel(), first_step=noise_step)
            self.xi = normals.to(self.dtype).reshape(x.shape).unbind(0)

    def rest(self) -> tuple[Tensor, ...]:
        return tuple(torch.full_like(self.like, rest, dtype=self.dtype) for rest in self.neuron.rests)

    def step(self, t: int, states: Sequence[Tensor], inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
        self.t = t
        for name, value in self.timed.items():
            setattr(self.n, name, value[t])
        return self.neuron.step(self.n, *states, *(x.to(self.dtype) for x in inputs))

    def fire(self, h: Tensor, threshold: float | Tensor, by: float | Tensor) -> Tensor:
        """The membrane after a step in which it was charged to ``h``."""
        n = self.neuron
        u = h + self.n.noise_std * self.xi[self.t] if self.xi else h
        self.h, self.u, self.threshold = h, u, threshold
        w = u if n.noise_mode == "membrane" else h
        traced = torch.compiler.is_compiling() or torch._C._get_tracing_state() is not None
        differs = traced or torch.is_grad_enabled()  # a graph may be differentiated later
        if n.SPIKES is Spikes.INTEGER:
            count = torch.where(u > 0, u, 0).clamp(max=threshold).round()
            if differs:
                count = straight_through(count, u, ((u >= 0) & (u <= threshold)).to(self.dtype))
            self.spikes, self.fired = count * by, count
            return w - (count.detach() if n.detach_reset else count)
        size = self._size(u)
        fires = size > threshold if n.strict or n.never_fires else size >= threshold
        s = self.fired = fires.to(self.dtype)
        if n.SPIKES is Spikes.TERNARY:
            s = torch.where(fires, self._along(u, 1.0), 0)
        if differs:
            z = n.surrogate.derivative(self._size(h if n.surrogate_at_h else u) - threshold)
            s = straight_through(s, u - self._along(u, threshold), z)
        self.spikes = s
        if n.never_fires:
            return w
        spike = s.detach() if n.detach_reset else s
        if n.v_reset is None:
            by = threshold if n.reset_by is None else by
            return straight_through(torch.where(fires, w - self._along(u, by), w), spike, torch.zeros_like(w) - by)
        # v_reset + (1 - s) (w - v_reset), but by selection, so that an infinite membrane resets to a number.
        return straight_through(torch.where(fires, n.v_reset, w), spike, self._along(u, n.v_reset - w))

    def _size(self, v: Tensor) -> Tensor:
        """What of a membrane is held against the threshold."""
        return torch.where(v < 0, -v, v) if self.neuron.SPIKES is Spikes.TERNARY else v

    def _along(self, v: Tensor, value: Any) -> Any:
        """``value``, with the sign of a membrane where spikes have one."""
        if self.neuron.SPIKES is not Spikes.TERNARY:
            return value
        return torch.where(v < 0, -value, value).to(self.dtype)

    def guarded(self, active: Tensor | None) -> tuple[Tensor, Tensor] | None:
        """Of the last step the sum of the penalty and how many are within the margin."""
        n = self.neuron
        if n.guard_margin == 0:
            return None
        d = self._size(self.h) - self.threshold
        term = torch.relu(n.guard_margin - d.abs())
        if n.guard_power == 2:
            term = term * term
            if self.dtype == torch.float32:
                term = (term + n.guard_grid) - n.guard_grid
        if n.guard_side == "below":
            term = torch.where(d >= 0, 0, term)
        near = _where(active, d.abs() < n.guard_margin, False)
        # A sum in fp64 of such fp32 terms is exact (up to 2^28 of them), so that its order does not matter.
        return _where(active, term, 0).sum(dtype=torch.float64), near.sum()


def _where(active: Tensor | None, value: Tensor, otherwise: float | Tensor) -> Tensor:
    return value if active is None else torch.where(active, value, otherwise)


def _as(x: Tensor, values: Tensor) -> Tensor:
    """[T, *] in the dtype and order of x."""
    values = values.to(x.dtype)
    return values if values.stride() == x.stride() else torch.empty_like(x, requires_grad=False).copy_(values)


def straight_through(value: Tensor, s: Tensor, slope: Tensor) -> Tensor:
    """``value`` unchanged; its derivative with respect to ``s`` is ``slope``, beside what it has of its own."""
    return value if torch.onnx.is_in_onnx_export() else _straight_through(value, s, slope)  # which has no gradients


class _StraightThrough(Function):
    @staticmethod
    def forward(ctx, value, s, slope):
        ctx.save_for_backward(slope)
        return below(_straight_through, value, s, slope)

    @staticmethod
    def backward(ctx, grad):
        (slope,) = ctx.saved_tensors
        return grad, torch.where(grad == 0, 0, grad * slope), None  # the slope of what is not finite is not, either


_straight_through = differentiated(
    "straight_through",
    "(Tensor value, Tensor s, Tensor slope) -> Tensor",
    lambda value, s, slope: value.clone(),
    partial(apply, _StraightThrough),
)
