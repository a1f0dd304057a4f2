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
from tgo_kernels.neuron import Neuron

STEPS, NEURONS = 16, 4099
RATE_TOLERANCE = 0.01  # five standard errors


def inputs(steps: int = STEPS, neurons: int = NEURONS) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = (2 * torch.randint(-24, 40, (steps, neurons), generator=generator) + 1) / 16
    return x, torch.randn(steps, neurons, generator=generator)


def reference(neuron: Neuron, x: Tensor, extras: Extras) -> tuple[Tensor, Tensor | None]:
    out = tgo.functional.run(x, None, neuron, None, 0, "reference")
    return out.spikes, out.penalty


def problem(run: Run, peer: Peer) -> str | None:
    """What is wrong with an engine's spikes, gradient or penalty; None where nothing is."""
    ours = peer.name == OURS
    for dtype, extras in product(DTYPES if ours else ("fp32",), peer.extras):
        x, grad = (tensor.to(DTYPES[dtype]) for tensor in inputs())
        noise_std, margin = NOISE_STD if extras.noise else 0.0, MARGIN if extras.penalty else 0.0
        neuron = replace(peer.neuron, noise_std=noise_std, guard_margin=margin)
        results = []
        for engine in (partial(reference, neuron), run):
            leaf = x.clone().requires_grad_()
            torch.manual_seed(0)
            spikes, penalty = engine(leaf, extras)
            loss = (spikes * grad).sum() + (penalty * x.numel() if extras.penalty else 0.0)
            (gradient,) = torch.autograd.grad(loss, leaf)
            results.append((spikes.detach(), gradient, penalty))
        (expected, g_expected, p_expected), (found, g_found, p_found) = results
        what = f"{extras.name}, {dtype}"
        if extras.noise and not ours:  # torch's own normals: the rate alone can be compared
            rates = float(found.mean()), float(expected.mean())
            if abs(rates[0] - rates[1]) > RATE_TOLERANCE:
                return f"{what}: {rates[0]:.3f} spikes a step, not {rates[1]:.3f}"
            continue
        wrong = int((found != expected).sum())
        if wrong:
            return f"{what}: {wrong} of {expected.numel()} spikes differ"
        rounding = 1e-5 if dtype == "fp32" else 2**-7
        if not torch.allclose(g_found, g_expected, rtol=rounding, atol=rounding):
            return f"{what}: the gradient is off by up to {float((g_found - g_expected).abs().max()):.2g}"
        if extras.penalty and not torch.allclose(p_found, p_expected, rtol=1e-5):
            return f"{what}: the penalty is {float(p_found):.7f}, not {float(p_expected):.7f}"
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
