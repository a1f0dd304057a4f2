"""One training step of a spiking VGG-11 (32 x 32, T = 4, batch 32), each engine's layer in the same network.

    python -m benchmarks.vgg [--engines ...] [--rounds 5] [--threads 2] [--out CSV]

The share spent in LIF is the time of all LIF layers, run alone on the inputs that they had in the step, over that of
the step.
"""

import argparse
import statistics
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from benchmarks import record
from benchmarks.cases import PLAIN
from benchmarks.peers import OURS, PEERS, Peer, forward_backward
from benchmarks.robustness.models import vgg11
from benchmarks.run import percentiles, probe, times_of
from benchmarks.verify import gate

CLASSES = 10
COLUMNS = ("engine", "version", "differs", "threads", "T", "batch", "step_p20_ms", "step_p50_ms", "step_p80_ms")
COLUMNS = (*COLUMNS, "lif_ms", "lif_share", "peak_MiB", "first_call_ms", *record.ORIGIN)


class Spike(nn.Module):
    """An engine's LIF over [T, *]; ``make`` is called once a layer, since libraries keep their state in it."""

    def __init__(self, peer: Peer) -> None:
        super().__init__()
        self.run = peer.make()

    def forward(self, x: Tensor) -> Tensor:
        return self.run(x, PLAIN)[0]


def lif_inputs(network: nn.Sequential, images: Tensor) -> list[tuple[Spike, Tensor]]:
    found = []
    layers = [layer for layer in network if isinstance(layer, Spike)]
    hooks = [layer.register_forward_pre_hook(lambda layer, x: found.append((layer, x[0].detach()))) for layer in layers]
    with torch.no_grad():
        network(images)
    for hook in hooks:
        hook.remove()
    return found


def training_step(
    peer: Peer, batch: int = 32, steps: int = 4, width: float = 1.0
) -> tuple[Callable[[], None], nn.Sequential, Tensor]:
    """A step, its network and its images."""
    torch.manual_seed(0)
    network = vgg11(lambda: Spike(peer), width, inputs=3)
    images, labels = torch.rand(steps, batch, 3, 32, 32), torch.randint(CLASSES, (batch,))
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01)

    def step() -> None:
        optimizer.zero_grad()
        nn.functional.cross_entropy(network(images).mean(0), labels).backward()
        optimizer.step()

    return step, network, images


def measure(peers: list[Peer], rounds: int, **sizes: float) -> list[dict]:
    calls, alone, shape = {}, {}, (0, 0)
    for peer in peers:
        calls[peer.name], network, images = training_step(peer, **sizes)
        shape = images.shape[:2]
        inputs = [(layer.run, x.requires_grad_(), torch.randn_like(x)) for layer, x in lif_inputs(network, images)]

        def layers(inputs: list = inputs) -> None:
            for run, x, grad in inputs:
                forward_backward(run, PLAIN, x, grad)

        alone[peer.name] = layers
    whole, parts = times_of(calls, rounds), times_of(alone, rounds)
    rows = []
    for peer in peers:
        p20, p50, p80 = percentiles(whole[peer.name])
        lif = statistics.median(parts[peer.name])
        values = (peer.name, peer.version, peer.differs, torch.get_num_threads(), *shape)
        values = (*values, *(f"{value:.2f}" for value in (p20, p50, p80, lif)), f"{lif / p50:.3f}")
        rows.append(dict(zip(COLUMNS, values, strict=False)))
    return rows


def main() -> int:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--engines", nargs="+", choices=PEERS, default=[OURS, "torch.compile", "eager"])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--out", type=Path, default=record.RESULTS / "bench_step.csv", help="default: %(default)s")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    about = record.origin(record.tune())
    passed, reasons = gate([PEERS[name] for name in options.engines])
    for name, reason in reasons.items():
        print(f"{name}: {reason}")
    rows = measure(passed, options.rounds)
    rows = [row | probe("vgg11", peer, options.threads) | about for row, peer in zip(rows, passed, strict=True)]
    record.write(options.out, rows, COLUMNS)
    for row in rows:
        print(f"{row['engine']:<14} step {row['step_p50_ms']} ms, LIF {row['lif_ms']} ms, peak {row['peak_MiB']} MiB")
    return any(reason.startswith("RED") for reason in reasons.values())


if __name__ == "__main__":
    sys.exit(main())
