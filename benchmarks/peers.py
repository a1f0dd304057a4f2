"""Who is measured: the fused layer, the same neuron composed in torch, and the layers of four libraries.

Each is a function of x [T, *] and the extras, and gives spikes and penalty; each starts at rest. The neuron has tau
2, a decayed input, threshold 1, hard reset to 0 and the surrogate ATan(2). Where a library's is another, ``neuron`` is
what it computes, by which the gate judges it, and ``differs`` says so.
"""

import importlib
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import version

import torch
from torch import Tensor

import tgo_kernels as tgo
from benchmarks.cases import EXTRAS, PLAIN, Case, Extras
from tgo_kernels.neurons import LIF as Neuron

DECAY, GAIN, THRESHOLD, NOISE_STD, MARGIN = 0.5, 0.5, 1.0, 0.3, 0.5
NEURON = Neuron(decay=DECAY, gain=GAIN, v_threshold=THRESHOLD, v_reset=0.0, surrogate=tgo.ATan(2.0))
OURS = "tgo_kernels"
Run = Callable[[Tensor, Extras], tuple[Tensor, Tensor | None]]


OURS_BY_EXTRAS = {
    extras: replace(
        NEURON, noise_std=NOISE_STD if extras.noise else 0.0, guard_margin=MARGIN if extras.penalty else 0.0
    )
    for extras in EXTRAS
}


def fused(x: Tensor, extras: Extras, impl: str = "auto") -> tuple[Tensor, Tensor | None]:
    """As the layer calls it, with constants checked when it was made."""
    out = tgo.functional.run(OURS_BY_EXTRAS[extras], x, [], None, impl=impl)
    return out.spikes, out.penalty if extras.penalty else None


class Fire(torch.autograd.Function):
    """The firing step with the arctangent surrogate, as every framework composes it."""

    @staticmethod
    def forward(d: Tensor) -> Tensor:
        return (d >= 0).to(d.dtype)

    @staticmethod
    def setup_context(ctx, inputs, output) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx, grad):
        (d,) = ctx.saved_tensors
        return grad / (1 + (torch.pi * d) ** 2)


def composed(x: Tensor, extras: Extras) -> tuple[Tensor, Tensor | None]:
    """The plain loop over time."""
    v = torch.zeros_like(x[0])
    spikes, penalty = [], x.new_zeros((), dtype=torch.float32)
    for x_t in x.unbind(0):
        h = DECAY * v + GAIN * x_t
        if extras.penalty:
            penalty = penalty + torch.relu(MARGIN - (h - THRESHOLD).abs()).sum(dtype=torch.float32)
        u = h + NOISE_STD * torch.randn_like(h) if extras.noise else h
        s = Fire.apply(u - THRESHOLD)
        v = (1 - s) * u
        spikes.append(s)
    return torch.stack(spikes), penalty / x.numel() if extras.penalty else None


def compiled() -> Run:
    torch._dynamo.reset()
    torch._dynamo.config.recompile_limit = 64  # a network has more shapes than the default allows
    return torch.compile(composed, fullgraph=True, dynamic=False)


def spikingjelly() -> Run:
    from spikingjelly.activation_based import neuron, surrogate

    node = neuron.LIFNode(tau=2.0, v_reset=0.0, surrogate_function=surrogate.ATan(2.0), step_mode="m")

    def run(x: Tensor, extras: Extras) -> tuple[Tensor, None]:
        node.reset()
        return node(x), None

    return run


def stepwise(cell: Callable, initial: Callable[[Tensor], Tensor | None]) -> Run:
    """A cell that takes one step and its state at a time."""

    def run(x: Tensor, extras: Extras) -> tuple[Tensor, None]:
        state, spikes = initial(x[0]), []
        for x_t in x.unbind(0):
            s, state = cell(x_t, state)
            spikes.append(s)
        return torch.stack(spikes), None

    return run


def snntorch() -> Run:
    from snntorch import Leaky
    from snntorch.surrogate import atan

    leaky = Leaky(beta=DECAY, threshold=THRESHOLD, reset_mechanism="zero", reset_delay=False, spike_grad=atan(2.0))

    return stepwise(leaky, torch.zeros_like)


def norse() -> Run:
    from norse.torch import LIFBoxCell, LIFBoxParameters

    step = 0.001
    # Its triangle with alpha = 1 is ours of width 1.
    parameters = LIFBoxParameters(tau_mem_inv=torch.tensor(GAIN / step), method="triangle", alpha=torch.tensor(1.0))
    cell = LIFBoxCell(parameters, dt=step)

    return stepwise(cell, lambda x_t: None)


def sinabs() -> Run:
    from sinabs.activation import MembraneReset, SingleSpike
    from sinabs.layers import LIF

    def atan(v: Tensor, threshold: Tensor) -> Tensor:
        return 1 / (1 + (torch.pi * (v - threshold)) ** 2)

    layer = LIF(1 / math.log(2), spike_fn=SingleSpike, reset_fn=MembraneReset(), surrogate_grad_fn=atan)
    layer.requires_grad_(False)  # the time constant is not trained

    def run(x: Tensor, extras: Extras) -> tuple[Tensor, None]:
        layer.v_mem = torch.zeros_like(x[:1])
        return layer(x[None])[0], None  # [batch, T, *]

    return run


@dataclass(frozen=True)
class Peer:
    """One engine: how it is made, what it needs, and where its neuron is another."""

    name: str
    make: Callable[[], Run]
    package: str = "torch"
    neuron: Neuron = NEURON
    differs: str = ""
    extras: tuple[Extras, ...] = (PLAIN,)
    max_steps: int = 1024
    max_size: int = 1 << 26  # neuron-steps: what is kept between the passes of all libraries must fit beside each other

    def serves(self, case: Case) -> bool:
        return case.extras in self.extras and case.steps <= self.max_steps and case.size <= self.max_size

    def difference(self, case: Case) -> str:
        """Where its neuron is another, in words."""
        return self.differs or ("membrane in bf16" if case.dtype == "bf16" and self.name != OURS else "")

    @property
    def version(self) -> str:
        return version(self.package)

    def missing(self) -> str | None:
        """Why it cannot be measured here, or None."""
        try:
            importlib.import_module({"spikingjelly": "spikingjelly.activation_based"}.get(self.package, self.package))
        except ImportError as error:
            return f"{self.package} is not installed ({error})"
        return None


WHOLE_SWEEP = 1 << 28  # neuron-steps of the largest case
PEERS = {
    peer.name: peer
    for peer in (
        Peer(OURS, lambda: fused, "tgo_kernels", extras=EXTRAS, max_size=WHOLE_SWEEP),
        Peer("torch.compile", compiled, extras=EXTRAS, max_steps=32, max_size=WHOLE_SWEEP),  # compiles 0.4 s a step
        Peer("eager", lambda: composed, extras=EXTRAS),
        Peer("SpikingJelly", spikingjelly, "spikingjelly"),
        Peer("snnTorch", snntorch, "snntorch", replace(NEURON, gain=1.0), "input not scaled by 1/tau; fires at >"),
        Peer("norse", norse, "norse", replace(NEURON, surrogate=tgo.Triangle(1.0)), "Triangle, no ATan; fires at >"),
        Peer("sinabs", sinabs, "sinabs", replace(NEURON, detach_reset=True), "reset is detached"),
    )
}


def forward_backward(run: Run, extras: Extras, x: Tensor, grad: Tensor) -> None:
    """One training step of the layer, with a dense gradient."""
    x.grad = None
    spikes, penalty = run(x, extras)
    if penalty is None:
        spikes.backward(grad)
    else:
        torch.autograd.backward([spikes, penalty], [grad, torch.ones_like(penalty)])


def forward_only(run: Run, extras: Extras, x: Tensor) -> None:
    with torch.no_grad():
        run(x, extras)


def step_of(run: Run, case: Case, x: Tensor, grad: Tensor) -> Callable[[], None]:
    """What is timed."""
    if case.training:
        return partial(forward_backward, run, case.extras, x, grad)
    return partial(forward_only, run, case.extras, x)
