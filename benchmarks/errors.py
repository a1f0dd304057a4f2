"""Each engine's error against fp64, on random inputs.

    python -m benchmarks.errors [--engines ...] [--out CSV]

The gradient's error is taken on the neurons whose spikes are those of fp64, relative to the root mean square of the
exact gradient; the others are counted.
"""

import argparse
import sys
from pathlib import Path

import torch

import tgo_kernels as tgo
from benchmarks import record
from benchmarks.cases import DTYPES, PLAIN, TIME_STEPS
from benchmarks.peers import PEERS, Peer
from benchmarks.verify import gate

COLUMNS = ("engine", "version", "differs", "T", "dtype", "gradient_rms", "gradient_max", "flipped", *record.ORIGIN)


def errors(peer: Peer, steps: int, dtype: str, neurons: int = 16384) -> dict[str, object]:
    generator = torch.Generator().manual_seed(1)
    x, grad = (torch.randn(steps, neurons, generator=generator).to(DTYPES[dtype]) for _ in range(2))
    exact = x.double().requires_grad_()
    expected = tgo.reference.scan(peer.neuron, (exact,), None, None, 0).spikes
    (g_expected,) = torch.autograd.grad(expected, exact, grad.double())
    leaf = x.clone().requires_grad_()
    found, _ = peer.make()(leaf, PLAIN)
    (g_found,) = torch.autograd.grad(found, leaf, grad.to(found.dtype))
    same = (found.double() == expected).all(0)
    scale = g_expected.square().mean().sqrt()
    off = (g_found.double() - g_expected)[:, same] / scale
    values = (peer.name, peer.version, peer.differs, steps, dtype)
    values = (*values, f"{float(off.square().mean().sqrt()):.3e}", f"{float(off.abs().max()):.3e}")
    return dict(zip(COLUMNS, (*values, f"{1 - float(same.double().mean()):.3e}"), strict=False))


def main() -> int:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--engines", nargs="+", choices=PEERS, default=list(PEERS))
    parser.add_argument("--out", type=Path, default=record.RESULTS / "bench_errors.csv", help="default: %(default)s")
    options = parser.parse_args()
    about = record.origin(record.tune())
    passed, reasons = gate([PEERS[name] for name in options.engines])
    for name, reason in reasons.items():
        print(f"{name}: {reason}")
    cases = [(peer, steps, dtype) for dtype in DTYPES for steps in TIME_STEPS for peer in passed]
    record.write(options.out, [errors(*case) | about for case in cases if case[1] <= case[0].max_steps], COLUMNS)
    return any(reason.startswith("RED") for reason in reasons.values())


if __name__ == "__main__":
    sys.exit(main())
