"""A training step of whole networks: memory that is held for the backward, peak memory, and time.

    python -m benchmarks.networks [--networks ...] [--engines ...] [--rounds 9] [--threads 2] [--out CSV]
    python -m benchmarks.networks --largest [--networks ...] [--engines ...]

Held are the bytes of all tensors that autograd saved, parameters and images left out, counted as they are kept. The
peak is that of a step in a process of its own, over what was resident before it, with the gradients of parameters; the
median of three processes. Times are interleaved, in one process for each network. Every engine has the same
convolutions, norms and pools. ``--largest``: the largest batch with which such a process stays within 8 GiB, to 3 %,
found by running it.
"""

import argparse
import json
import platform
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import torch
from torch import Tensor, nn
from tqdm import tqdm

from benchmarks import record
from benchmarks.network_models import CLASSES, ENGINES, NETWORKS
from benchmarks.plot import GREY, finish, style
from benchmarks.probe import CLEAR, RESET_PEAK, status_kib
from benchmarks.run import times_of

COLUMNS = ("network", "engine", "T", "batch", "threads", "held_MiB", "peak_MiB", "p20_ms", "p50_ms", "p80_ms")
COLUMNS = (*COLUMNS, *record.ORIGIN)
LARGEST = ("network", "engine", "T", "threads", "largest_batch", "resident_MiB", *record.ORIGIN)
LIMIT = 8 * 1024  # MiB
PALETTE = ("#8a8f98", "#5c677d", "#6b9080", "#2f9e8f", "#94d2bd", "#4c8dd6", "#b06ad1", "#c2a000", "#e8590c", "#c92a2a")
COLOURS = dict(zip(ENGINES, PALETTE, strict=True))


def training_step(
    network: str, engine: str, batch: int
) -> tuple[Callable[[], None], Callable[[], Tensor], list[Tensor]]:
    """A step; the forward to its loss; and what is there before and after it."""
    torch.manual_seed(0)
    how, about = ENGINES[engine], NETWORKS[network]
    images = torch.rand(about.images[0], batch, *about.images[2:])
    labels = torch.randint(CLASSES, (batch,))
    model = about.build(engine, images)
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
    # What memopt's checkpoints keep is not autograd's.
    found = {"held_MiB": "" if ENGINES[engine].checkpoints else f"{held_MiB(forward, others):.1f}"}
    step()
    if platform.libc_ver()[0] == "glibc":
        for tensor in others:
            tensor.grad = None
        record.release()
        CLEAR.write_text(RESET_PEAK)
        before = status_kib("VmRSS")
        step()
        found["peak_MiB"] = f"{(status_kib('VmHWM') - before) / 1024:.1f}"
        found["resident_MiB"] = f"{status_kib('VmHWM') / 1024:.1f}"
    return found


def _peak(figures: dict[str, str]) -> float:
    return float(figures.get("peak_MiB", 0))


def _ask(network: str, engine: str, batch: int, threads: int) -> dict[str, str]:
    """The same, in a process of its own."""
    here = ("--here", "--networks", network, "--engines", engine, "--batch", str(batch), "--threads", str(threads))
    return json.loads(record.ask("benchmarks.networks", *here))


def measure(network: str, engines: list[str], batch: int, rounds: int, threads: int) -> list[dict[str, Any]]:
    memory = {}
    for engine in tqdm(engines, desc=f"{network}: processes"):
        memory[engine] = sorted((_ask(network, engine, batch, threads) for _ in range(3)), key=_peak)[1]
    times = times_of({engine: training_step(network, engine, batch)[0] for engine in engines}, rounds)
    rows = []
    for engine in engines:
        p20, _, _, p80 = statistics.quantiles(times[engine], n=5)
        row = {"network": network, "engine": engine, "T": NETWORKS[network].images[0], "batch": batch}
        memory[engine].pop("resident_MiB", None)
        row |= {"threads": threads} | memory[engine] | {"p20_ms": f"{p20:.1f}", "p80_ms": f"{p80:.1f}"}
        rows.append(row | {"p50_ms": f"{statistics.median(times[engine]):.1f}"})
    return rows


def largest_batch(network: str, engine: str, threads: int) -> dict[str, Any]:
    """Where the line through the two largest that were run has the limit, until a step of 3 % is too much."""
    runs: dict[int, float] = {}
    fits, exceeds, batch = 0, None, 1
    with tqdm(desc=f"{network}, {engine}") as bar:
        while exceeds is None or exceeds > max(fits + 1, 1.03 * fits):
            runs[batch] = float(_ask(network, engine, batch, threads)["resident_MiB"])
            bar.set_postfix_str(f"batch {batch}: {runs[batch]:.0f} MiB")
            bar.update()
            fits = max((b for b, used in runs.items() if used <= LIMIT), default=0)
            exceeds = min((b for b, used in runs.items() if used > LIMIT), default=None)
            (b, used), *more = sorted(runs.items(), reverse=True)
            a_sample = (used - more[0][1]) / (b - more[0][0]) if more else used
            batch = max(int(b + (LIMIT - used) / a_sample), fits + 1 + fits // 50)
            batch = min(batch, 16 * fits if exceeds is None else exceeds - 1)
    about = {"network": network, "engine": engine, "T": NETWORKS[network].images[0], "threads": threads}
    return about | {"largest_batch": fits, "resident_MiB": f"{runs.get(fits, 0):.0f}"}


def draw(rows: list[dict[str, Any]], path: Path) -> None:
    """Peak memory against the time of a step, a panel for each network."""
    names = list(dict.fromkeys(row["network"] for row in rows))
    across = min(len(names), 2)
    down = -(-len(names) // across)
    size = (4.2 * across + 2.8, 3.6 * down)
    _, axes = plt.subplots(down, across, figsize=size, layout="constrained", squeeze=False)
    for k, (axis, name) in enumerate(zip(axes.flat, names, strict=False)):
        batch = next(row["batch"] for row in rows if row["network"] == name)
        title = f"{name}, batch {batch}"
        style(axis, title, "ms a training step", "peak memory of the step, MiB" if k % across == 0 else "")
        here = [(float(row["p50_ms"]), float(row["peak_MiB"]), row["engine"]) for row in rows if row["network"] == name]
        for i, (x, y, engine) in enumerate(here):
            axis.scatter(x, y, s=70, color=COLOURS[engine], label=engine if k == 0 else None, zorder=3)
            place = (
                {"xytext": (7, 3), "ha": "left"} if i % 2 or i + 1 == len(here) else {"xytext": (-7, 3), "ha": "right"}
            )
            axis.annotate(f"{y:.0f}", (x, y), textcoords="offset points", color=GREY, fontsize="small", **place)
        axis.set_xlim(0, 1.2 * max(x for x, _, _ in here))
        axis.set_ylim(0, 1.12 * max(y for _, y, _ in here))
    for axis in list(axes.flat)[len(names) :]:
        axis.set_axis_off()
    finish(axes[0][0], path)


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument("--engines", nargs="+", choices=ENGINES, default=list(ENGINES))
    parser.add_argument("--batch", type=int, help="default: the network's")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--largest", action="store_true", help="the largest batch within 8 GiB instead")
    parser.add_argument("--out", type=Path, help="default: networks.csv or largest.csv among the results")
    parser.add_argument("--figure", type=Path, default=Path("figures/networks.png"), help="default: %(default)s")
    parser.add_argument("--here", action="store_true", help="memory of the first network and engine, in this process")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.here:
        network = options.networks[0]
        print(json.dumps(figures_here(network, options.engines[0], options.batch or NETWORKS[network].images[1])))
        return
    about, rows = record.origin(record.tune()), []
    for network in options.networks:
        engines = [engine for engine in options.engines if NETWORKS[network].has(engine)]
        if options.largest:
            for engine in engines:
                rows.append(largest_batch(network, engine, options.threads) | about)
                print(f"{network:<18} {engine:<24} largest batch within 8 GiB {rows[-1]['largest_batch']:>6}")
            continue
        batch = options.batch or NETWORKS[network].images[1]
        found = measure(network, engines, batch, options.rounds, options.threads)
        rows += [row | about for row in found]
        for row in found:
            sizes = f"held {row['held_MiB']:>7} MiB, peak {row.get('peak_MiB', '?'):>7} MiB"
            print(f"{network:<18} {row['engine']:<24} {sizes}, step {row['p50_ms']:>7} ms")
    name, columns = ("largest.csv", LARGEST) if options.largest else ("networks.csv", COLUMNS)
    record.write(options.out or record.RESULTS / name, rows, columns)
    if not options.largest:
        draw(rows, options.figure)


if __name__ == "__main__":
    main()
