"""The specification: the neuron in plain torch, differentiated by plain autograd. Slow, short, and right."""

import torch
from torch import Tensor

from tgo_kernels import noise
from tgo_kernels.library import Function, below, differentiated
from tgo_kernels.neuron import LIFOutput, Neuron, NoiseMode, check_tensors, state_dtype
from tgo_kernels.surrogate import ATan, Surrogate

__all__ = ["lif", "membrane"]


def lif(
    x: Tensor,
    v_init: Tensor | None = None,
    *,
    decay: float | Tensor = 0.5,
    gain: float | Tensor = 1.0,
    v_threshold: float | Tensor = 1.0,
    v_reset: float | None = 0.0,
    surrogate: Surrogate = ATan(2.0),
    detach_reset: bool = False,
    noise_std: float = 0.0,
    noise_mode: NoiseMode = "membrane",
    noise_seed: int | Tensor | None = None,
    noise_step: int = 0,
    guard_margin: float = 0.0,
    impl: str = "reference",
) -> LIFOutput:
    """:func:`tgo_kernels.lif` in plain torch: the same arguments, results and errors. ``impl`` is not used."""
    neuron = Neuron(decay, gain, v_threshold, v_reset, surrogate, detach_reset, noise_std, noise_mode, guard_margin)
    check_tensors(x, v_init, neuron, "reference")
    noise.check_step(noise_step, x.shape[0])
    return run(x, v_init, noise.seed_for(neuron.noise_std, noise_seed, x.device), noise_step, neuron)


def run(x: Tensor, v_init: Tensor | None, seed: Tensor | None, noise_step: int, neuron: Neuron) -> LIFOutput:
    """:func:`lif` with its arguments already checked. Computes in fp32, or in fp64 for an fp64 ``x``."""
    s, h, v = _unroll(x, v_init, seed, noise_step, neuron)
    fired = torch.stack([s_t.detach().sum(dtype=torch.int64) for s_t in s]).sum()
    neighbors = torch.zeros_like(fired)
    penalty = torch.zeros((), dtype=v.dtype, device=x.device)
    if neuron.guard_margin > 0:
        distance = [(h_t - neuron.v_threshold).abs() for h_t in h]
        # A sum in fp64 of such fp32 terms is exact (up to 2^28 of them), so that its order does not matter.
        totals = [torch.relu(neuron.guard_margin - d).sum(dtype=torch.float64) for d in distance]
        penalty = (torch.stack(totals).sum() / max(x.numel(), 1)).to(v.dtype)
        neighbors = torch.stack([(d < neuron.guard_margin).sum() for d in distance]).sum()
    spikes = torch.stack(s).to(x.dtype)
    if spikes.stride() != x.stride():
        spikes = torch.empty_like(x, requires_grad=False).copy_(spikes)
    return LIFOutput(spikes, v, penalty, neighbors, fired)


def membrane(
    x: Tensor, v_init: Tensor | None = None, seed: Tensor | None = None, noise_step: int = 0, *, neuron: Neuron
) -> Tensor:
    """The membrane potential ``h[t]`` before noise and reset, [T, *] in fp32 (fp64 for such x): what the guard sees.

    For histograms and diagnostics; ``seed`` is needed where ``neuron.noise_std > 0``.
    """
    check_tensors(x, v_init, neuron, "reference")
    return torch.stack(_unroll(x, v_init, seed, noise_step, neuron)[1])


def _unroll(
    x: Tensor, v_init: Tensor | None, seed: Tensor | None, noise_step: int, neuron: Neuron
) -> tuple[list[Tensor], list[Tensor], Tensor]:
    """Spikes and charged membranes of every step, and the last state."""
    dtype = state_dtype(x.dtype)
    v = torch.full_like(x[0], neuron.v_rest, dtype=dtype) if v_init is None else v_init.to(dtype)
    xi: tuple[Tensor, ...] = ()
    if neuron.noise_std > 0:
        assert seed is not None, "noise needs a seed"
        normals = noise.standard_normal(seed, x.shape[0], x[0].numel(), first_step=noise_step)
        xi = normals.to(dtype).reshape(x.shape).unbind(0)
    spikes, charged = [], []
    for t, x_t in enumerate(x.unbind(0)):
        h = neuron.decay * v + neuron.gain * x_t.to(dtype) + neuron.leak_bias
        u = h + neuron.noise_std * xi[t] if xi else h
        s = (u >= neuron.v_threshold).to(dtype)
        traced = torch.compiler.is_compiling() or torch._C._get_tracing_state() is not None
        if traced or torch.is_grad_enabled():  # a graph may be differentiated later
            z = neuron.surrogate.derivative((h if neuron.surrogate_at_h else u) - neuron.v_threshold)
            s = straight_through(s, u - neuron.v_threshold, z)
        v = _reset(s, u if neuron.noise_mode == "membrane" else h, neuron)
        spikes.append(s)
        charged.append(h)
    return spikes, charged, v


def _reset(s: Tensor, v: Tensor, neuron: Neuron) -> Tensor:
    spike = s.detach() if neuron.detach_reset else s
    if neuron.v_reset is None:
        return v - spike * neuron.v_threshold
    # v_reset + (1 - s) (v - v_reset), but by selection, so that an infinite membrane resets to a number.
    return straight_through(torch.where(s > 0, neuron.v_reset, v), spike, neuron.v_reset - v)


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
    _StraightThrough,
)
