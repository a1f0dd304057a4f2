"""The gate: an engine is measured only where its spikes and gradients are those of the specification.

    python -m benchmarks.verify

Inputs are odd multiples of 1/16, so that a decay of 1/2 is exact in fp32 for 16 steps, whatever the order of the
operations, and no membrane meets the threshold: spikes must be equal, whether an engine fires at ``>`` or ``>=``. Ours
is compared in bf16 and with noise too; where others draw noise, their rate is.
"""

import sys
from dataclasses import replace
from functools import partial
from itertools import product

import torch
from torch import Tensor

import tgo_kernels as tgo
from benchmarks.cases import DTYPES, Extras
from benchmarks.peers import MARGIN, NOISE_STD, OURS, PEERS, Peer, Run
from tgo_kernels.neurons import LIF as Neuron

STEPS, NEURONS = 16, 4099
MEANS_TOLERANCE = 0.02


def inputs(steps: int = STEPS, neurons: int = NEURONS) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = (2 * torch.randint(-24, 40, (steps, neurons), generator=generator) + 1) / 16
    return x, torch.randn(steps, neurons, generator=generator)


def steady(steps: int = STEPS, neurons: int = 16 * NEURONS) -> tuple[Tensor, Tensor]:
    """Currents of which half leave the membrane below its threshold for good, where nothing but noise makes it fire."""
    x = torch.full((steps, neurons), 0.8)
    x[:, ::2] = 1.4
    return x, torch.ones_like(x)


def reference(neuron: Neuron, x: Tensor, extras: Extras) -> tuple[Tensor, Tensor | None]:
    out = tgo.functional.run(neuron, x, [], None, impl="reference")
    return out.spikes, out.penalty


def problem(run: Run, peer: Peer) -> str | None:
    """What is wrong with an engine's spikes, gradient or penalty; None where nothing is."""
    for dtype, extras in product(DTYPES, peer.extras):
        exact = peer.name == OURS or (dtype == "fp32" and not extras.noise)
        x, grad = (tensor.to(DTYPES[dtype]) for tensor in (inputs() if exact else steady()))
        noise_std, margin = NOISE_STD if extras.noise else 0.0, MARGIN if extras.penalty else 0.0
        neuron = replace(peer.neuron, noise_std=noise_std, guard_margin=margin)
        results = []
        for engine in (partial(reference, neuron), run):
            leaf = x.clone().requires_grad_()
            torch.manual_seed(0)
            spikes, penalty = engine(leaf, extras)
            loss = (spikes * grad).sum() + (penalty * x.numel() if extras.penalty else 0.0)
            (gradient,) = torch.autograd.grad(loss, leaf)
            results.append((spikes.detach(), gradient, penalty.detach() if extras.penalty else torch.zeros(())))
        reason = differences(*results, dtype) if exact else differences_of_means(*results)
        if reason:
            return f"{extras.name}, {dtype}: {reason}"
    return None


Result = tuple[Tensor, Tensor, Tensor]  # spikes, gradient, penalty


def differences(expected: Result, found: Result, dtype: str) -> str | None:
    wrong = int((found[0] != expected[0]).sum())
    if wrong:
        return f"{wrong} of {expected[0].numel()} spikes differ"
    rounding = 1e-5 if dtype == "fp32" else 2**-7
    if not torch.allclose(found[1], expected[1], rtol=rounding, atol=rounding):
        return f"the gradient is off by up to {float((found[1] - expected[1]).abs().max()):.2g}"
    if not torch.allclose(found[2], expected[2], rtol=1e-5):
        return f"the penalty is {float(found[2]):.7f}, not {float(expected[2]):.7f}"
    return None


def differences_of_means(expected: Result, found: Result) -> str | None:
    """For what can be compared only on the average: torch's own normals, or a membrane in bf16."""
    for name, a, b in zip(("spikes a step", "the gradient", "the penalty"), expected, found, strict=True):
        means = float(b.float().mean()), float(a.float().mean())
        if not abs(means[0] - means[1]) <= MEANS_TOLERANCE * abs(means[1]):
            return f"the mean of {name} is {means[0]:.4f}, not {means[1]:.4f}"
    return None


def gate(peers: list[Peer]) -> tuple[list[Peer], dict[str, str]]:
    """The engines that may be measured, and why each of the others may not."""
    passed, reasons = [], {}
    for peer in peers:
        reason = peer.missing()
        reason = f"left out: {reason}" if reason else _red(peer)
        if reason:
            reasons[peer.name] = reason
        else:
            passed.append(peer)
    return passed, reasons


def _red(peer: Peer) -> str | None:
    try:
        reason = problem(peer.make(), peer)
    except Exception as error:  # a library that fails is red, and the others are still measured
        reason = f"{type(error).__name__}: {error}"
    return f"RED: {reason}" if reason else None


def main() -> int:
    reasons = gate(list(PEERS.values()))[1]
    for peer in PEERS.values():
        print(f"{peer.name:<14} {reasons.get(peer.name, 'green')}{f' ({peer.differs})' if peer.differs else ''}")
    return any(reason.startswith("RED") for reason in reasons.values())


if __name__ == "__main__":
    sys.exit(main())
