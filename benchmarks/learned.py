"""What constants that learn cost: forward and backward beside the plain layer's and SpikingJelly's ParametricLIFNode.

    python -m benchmarks.learned [--rounds 15] [--threads 2] [--out CSV]

decay and v_threshold learn (SpikingJelly's: decay alone). Interleaved, medians, one allocator setting for all.
"""

import argparse
import math
import statistics
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

import tgo_kernels as tgo
from benchmarks import record
from benchmarks.peers import PEERS
from benchmarks.run import percentiles, times_of

SHAPE = (4, 32, 64, 32, 32)  # [T, batch, channels, height, width]
COLUMNS = ("constants", "version", "T", "N", "threads", "p20_ms", "p50_ms", "p80_ms", "of_plain", *record.ORIGIN)


def step_of(run: Callable[[Tensor], Tensor], leaves: list[Tensor], grad: Tensor) -> Callable[[], None]:
    def step() -> None:
        for leaf in leaves:
            leaf.grad = None
        run(leaves[0]).backward(grad)

    return step


def variants(shape: tuple[int, ...]) -> dict[str, Callable[[], object]]:
    """The plain layer, and those whose constants learn."""
    x, grad = torch.randn(shape).requires_grad_(), torch.randn(shape)
    found: dict[str, Callable[[], object]] = {"plain": step_of(tgo.LIF(), [x], grad)}
    constants = {"one for all": (), "one a channel": (shape[2], 1, 1), "one a neuron": shape[1:]}
    for name, own in constants.items():
        decay, threshold = (torch.full(own, value).requires_grad_() for value in (0.5, 1.0))

        def run(x: Tensor, decay: Tensor = decay, threshold: Tensor = threshold) -> Tensor:
            return tgo.lif(x, decay=decay, gain=1 - decay, v_threshold=threshold).spikes

        found[name] = step_of(run, [x, decay, threshold], grad)
    return found


def parametric(shape: tuple[int, ...]) -> dict[str, Callable[[], object]]:
    """SpikingJelly's, where it is installed."""
    if PEERS["SpikingJelly"].missing():
        return {}
    from spikingjelly.activation_based import neuron, surrogate

    layer = neuron.ParametricLIFNode(surrogate_function=surrogate.ATan(), step_mode="m")

    def run(x: Tensor) -> Tensor:
        layer.reset()
        return layer(x)

    return {"SpikingJelly": step_of(run, [torch.randn(shape).requires_grad_(), layer.w], torch.randn(shape))}


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--out", type=Path, default=record.RESULTS / "learned.csv", help="default: %(default)s")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    about = record.origin(record.tune())
    times = times_of(variants(SHAPE) | parametric(SHAPE), options.rounds)
    plain = statistics.median(times["plain"])
    rows = []
    for name, values in times.items():
        p20, p50, p80 = percentiles(values)
        version = PEERS[name].version if name in PEERS else tgo.__version__
        row = (name, version, SHAPE[0], math.prod(SHAPE[1:]), options.threads, *(f"{v:.3f}" for v in (p20, p50, p80)))
        rows.append(dict(zip(COLUMNS, (*row, f"{p50 / plain:.3f}"), strict=False)) | about)
        print(f"{name:<14} {p50:8.2f} ms  {p50 / plain:6.2f} of plain")
    record.write(options.out, rows, COLUMNS)


if __name__ == "__main__":
    main()
