"""The gate: an engine is measured only where its spikes and gradients are those of the specification.

    python -m benchmarks.verify

Inputs are odd multiples of 1/16, so that a decay of 1/2 is exact in fp32 for 16 steps, whatever the order of the
operations, and no membrane meets the threshold: spikes must be equal, whether an engine fires at ``>`` or ``>=``.
"""

import sys
from dataclasses import replace

import torch
from torch import Tensor

import tgo_kernels as tgo
from benchmarks.cases import PENALTY, PLAIN
from benchmarks.peers import MARGIN, PEERS, Peer, Run

STEPS, NEURONS = 16, 4099


def inputs(steps: int = STEPS, neurons: int = NEURONS) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = (2 * torch.randint(-24, 40, (steps, neurons), generator=generator) + 1) / 16
    return x, torch.randn(steps, neurons, generator=generator)


def problem(run: Run, peer: Peer) -> str | None:
    """What is wrong with an engine's spikes, gradient or penalty; None where nothing is."""
    x, grad = inputs()
    for extras in (PLAIN, PENALTY):
        if extras not in peer.extras:
            continue
        margin = MARGIN if extras.penalty else 0.0
        results = []
        for engine in ("reference", None):
            leaf = x.clone().requires_grad_()
            if engine:
                neuron = replace(peer.neuron, guard_margin=margin)
                out = tgo.functional.run(leaf, None, neuron, None, 0, engine)
                spikes, penalty = out.spikes, out.penalty
            else:
                spikes, penalty = run(leaf, extras)
            loss = (spikes * grad).sum() + (penalty * x.numel() if extras.penalty else 0.0)
            (gradient,) = torch.autograd.grad(loss, leaf)
            results.append((spikes.detach(), gradient, penalty))
        (expected, g_expected, p_expected), (found, g_found, p_found) = results
        wrong = int((found != expected).sum())
        if wrong:
            return f"{extras.name}: {wrong} of {expected.numel()} spikes differ"
        if not torch.allclose(g_found, g_expected, rtol=1e-5, atol=1e-5):
            return f"{extras.name}: the gradient is off by up to {float((g_found - g_expected).abs().max()):.2g}"
        if extras.penalty and not torch.allclose(p_found, p_expected, rtol=1e-5):
            return f"the penalty is {float(p_found):.7f}, not {float(p_expected):.7f}"
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
