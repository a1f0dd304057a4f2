"""A training step of whole networks: memory that is held for the backward, peak memory, and time.

    python -m benchmarks.networks [--networks ...] [--engines ...] [--batch 32] [--rounds 9] [--threads 2] [--out CSV]

Held are the bytes of all tensors that autograd saved, parameters and images left out, counted as they are kept. The
peak is that of a step in a process of its own, over what was resident before it, with the gradients of parameters; the
median of three processes. Times are interleaved, in one process for each network. Every engine has the same
convolutions, norms and pools.
"""

import argparse
import json
import platform
import statistics
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import torch
from torch import Tensor, nn
from tqdm import tqdm

import tgo_kernels as tgo
from benchmarks import record
from benchmarks.plot import GREY, finish, style
from benchmarks.probe import CLEAR, RESET_PEAK, status_kib
from benchmarks.robustness.models import vgg11
from benchmarks.run import times_of

CLASSES, STEPS, SIDE = 10, 4, 32
COLUMNS = ("network", "engine", "T", "batch", "threads", "held_MiB", "peak_MiB", "p20_ms", "p50_ms", "p80_ms")
COLUMNS = (*COLUMNS, *record.ORIGIN)


def _plain() -> nn.Module:
    return tgo.LIF(detach_reset=True)


def _eager() -> nn.Module:
    return tgo.LIF(detach_reset=True, impl="reference")


def _spikingjelly() -> nn.Module:
    from spikingjelly.activation_based import neuron, surrogate

    class Node(neuron.LIFNode):
        def forward(self, x: Tensor) -> Tensor:
            self.reset()
            return super().forward(x)

    return Node(2.0, surrogate_function=surrogate.ATan(), detach_reset=True, step_mode="m")


class Engine(NamedTuple):
    neuron: Callable[[], nn.Module]
    fuses: bool = False
    packs: bool = False

    def around(self) -> AbstractContextManager:
        return tgo.pack_spikes() if self.packs else nullcontext()


ENGINES = {
    "eager": Engine(_eager),
    "SpikingJelly": Engine(_spikingjelly),
    "tgo_kernels, LIF alone": Engine(_plain),
    "packed": Engine(_plain, packs=True),
    "fused": Engine(_plain, fuses=True),
    "fused and packed": Engine(_plain, fuses=True, packs=True),
}
COLOURS = dict(zip(ENGINES, ("#8a8f98", "#2f9e8f", "#4c8dd6", "#b06ad1", "#c2a000", "#e8590c"), strict=True))


def _conv(before: int, after: int, size: int = 3, stride: int = 1) -> tgo.OverTime:
    convolution = nn.Conv2d(before, after, size, stride, padding=size // 2, bias=False)
    return tgo.OverTime(convolution, nn.BatchNorm2d(after))


class SEW(nn.Module):
    """A block of SEW-ResNet (arXiv 2102.04159, figure 2c): the residual joins the spikes, g = ADD."""

    def __init__(self, neuron: Callable[[], nn.Module], before: int, after: int, stride: int) -> None:
        super().__init__()
        self.first, self.fire1 = _conv(before, after, 3, stride), neuron()
        self.second, self.fire2 = _conv(after, after), neuron()
        same = stride == 1 and before == after
        self.down = nn.Identity() if same else nn.Sequential(_conv(before, after, 1, stride), neuron())

    def forward(self, x: Tensor) -> Tensor:
        return self.fire2(self.second(self.fire1(self.first(x)))) + self.down(x)


def sew_resnet18(neuron: Callable[[], nn.Module]) -> nn.Sequential:
    """SEW-ResNet-18 with ADD, as for ImageNet: a stem of stride 2 and a max pool."""
    layers: list[nn.Module] = [_conv(3, 64, 7, 2), neuron(), tgo.OverTime(nn.MaxPool2d(3, 2, 1))]
    before = 64
    for after in (64, 128, 256, 512):
        layers += [SEW(neuron, before, after, 1 if after == 64 else 2), SEW(neuron, after, after, 1)]
        before = after
    return nn.Sequential(*layers, tgo.OverTime(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, CLASSES)))


NETWORKS: dict[str, Callable[[Callable[[], nn.Module]], nn.Sequential]] = {
    "VGG-11": lambda neuron: vgg11(neuron, inputs=3, classes=CLASSES),
    "SEW-ResNet-18": sew_resnet18,
}


def training_step(
    network: str, engine: str, batch: int
) -> tuple[Callable[[], None], Callable[[], Tensor], list[Tensor]]:
    """A step; the forward to its loss; and what is there before and after it."""
    torch.manual_seed(0)
    how = ENGINES[engine]
    model = NETWORKS[network](how.neuron)
    if how.fuses:
        tgo.fuse(model)
    images, labels = torch.rand(STEPS, batch, 3, SIDE, SIDE), torch.randint(CLASSES, (batch,))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)

    def forward() -> Tensor:
        with how.around():
            return nn.functional.cross_entropy(model(images).mean(0), labels)

    def step() -> None:
        optimizer.zero_grad()
        forward().backward()
        optimizer.step()

    return step, forward, [*model.parameters(), *model.buffers(), images]


def held_MiB(forward: Callable[[], Tensor], others: list[Tensor]) -> float:
    sizes: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        sizes[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = forward()
    for tensor in others:
        sizes.pop(tensor.untyped_storage().data_ptr(), None)
    del loss
    return sum(sizes.values()) / 2**20


def figures_here(network: str, engine: str, batch: int) -> dict[str, str]:
    """Held and peak memory, in this process."""
    step, forward, others = training_step(network, engine, batch)
    found = {"held_MiB": f"{held_MiB(forward, others):.1f}"}
    step()
    if platform.libc_ver()[0] == "glibc":
        for tensor in others:
            tensor.grad = None
        record.release()
        CLEAR.write_text(RESET_PEAK)
        before = status_kib("VmRSS")
        step()
        found["peak_MiB"] = f"{(status_kib('VmHWM') - before) / 1024:.1f}"
    return found


def _peak(figures: dict[str, str]) -> float:
    return float(figures.get("peak_MiB", 0))


def measure(network: str, engines: list[str], batch: int, rounds: int, threads: int) -> list[dict[str, Any]]:
    memory = {}
    for engine in tqdm(engines, desc=f"{network}: processes"):
        here = ("--here", "--networks", network, "--engines", engine, "--batch", str(batch), "--threads", str(threads))
        found = sorted((json.loads(record.ask("benchmarks.networks", *here)) for _ in range(3)), key=_peak)
        memory[engine] = found[1]
    times = times_of({engine: training_step(network, engine, batch)[0] for engine in engines}, rounds)
    rows = []
    for engine in engines:
        p20, _, _, p80 = statistics.quantiles(times[engine], n=5)
        row = {"network": network, "engine": engine, "T": STEPS, "batch": batch, "threads": threads} | memory[engine]
        rows.append(
            row | {"p20_ms": f"{p20:.1f}", "p50_ms": f"{statistics.median(times[engine]):.1f}", "p80_ms": f"{p80:.1f}"}
        )
    return rows


def draw(rows: list[dict[str, Any]], path: Path) -> None:
    """Peak memory against the time of a step, a panel for each network."""
    names = list(dict.fromkeys(row["network"] for row in rows))
    _, axes = plt.subplots(1, len(names), figsize=(4.2 * len(names) + 2.6, 3.6), layout="constrained", squeeze=False)
    for k, (axis, name) in enumerate(zip(axes[0], names, strict=True)):
        style(axis, name, "ms a training step", "peak memory of the step, MiB" if k == 0 else "")
        here = [(float(row["p50_ms"]), float(row["peak_MiB"]), row["engine"]) for row in rows if row["network"] == name]
        for i, (x, y, engine) in enumerate(here):
            axis.scatter(x, y, s=70, color=COLOURS[engine], label=engine if k == 0 else None, zorder=3)
            place = {"xytext": (7, 3), "ha": "left"} if i % 2 else {"xytext": (-7, 3), "ha": "right"}
            axis.annotate(f"{y:.0f}", (x, y), textcoords="offset points", color=GREY, fontsize="small", **place)
        axis.set_xlim(0, 1.2 * max(x for x, _, _ in here))
        axis.set_ylim(0, 1.12 * max(y for _, y, _ in here))
    finish(axes[0][0], path)


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument("--engines", nargs="+", choices=ENGINES, default=list(ENGINES))
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--out", type=Path, default=record.RESULTS / "networks.csv", help="default: %(default)s")
    parser.add_argument("--figure", type=Path, default=Path("figures/networks.png"), help="default: %(default)s")
    parser.add_argument("--here", action="store_true", help="memory of the first network and engine, in this process")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.here:
        print(json.dumps(figures_here(options.networks[0], options.engines[0], options.batch)))
        return
    about, rows = record.origin(record.tune()), []
    for network in options.networks:
        found = measure(network, options.engines, options.batch, options.rounds, options.threads)
        rows += [row | about for row in found]
        for row in found:
            sizes = f"held {row['held_MiB']:>7} MiB, peak {row.get('peak_MiB', '?'):>7} MiB"
            print(f"{network:<14} {row['engine']:<24} {sizes}, step {row['p50_ms']:>7} ms")
    record.write(options.out, rows, COLUMNS)
    draw(rows, options.figure)


if __name__ == "__main__":
    main()
