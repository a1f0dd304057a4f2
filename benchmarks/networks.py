"""A training step of whole networks: memory that is held for the backward, peak memory, and time.

    python -m benchmarks.networks [--networks ...] [--engines ...] [--batch N] [--rounds 9] [--threads 2] [--out CSV]
    python -m benchmarks.networks --largest [--limit 8192] ...

Held are the bytes of all tensors that autograd saved, parameters and images left out, counted as they are kept. The
peak is that of a step in a process of its own, over what was there before it, with the gradients of parameters; the
median of three processes, or of those that a minute allows. Times are interleaved, in one process for each network,
and beside them stand the forwards of the network's convolutions and linear layers by themselves.
On a CPU the peak is what is resident, with the allocator of the times, which keeps its pages: what lies between blocks
in use is in it. ``in_use_MiB`` is the same where blocks of 1 MiB and more go back to the system at once, which is
slower. With ``--device cuda`` the memory is that of torch's allocator.

``--largest`` looks for the largest batch at which a process stays within the limit, with all that it has, while it
takes its first step: each try is a process. One that fails, or is not done in time, does not fit; ``note`` says so.
"""

import argparse
import ctypes
import gc
import json
import platform
import statistics
import subprocess
import time
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from math import inf
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import torch
from torch import Tensor
from tqdm import tqdm

from benchmarks import record
from benchmarks.network_models import ENGINES, NETWORKS, PRODUCTS, products, training_step
from benchmarks.plot import style
from benchmarks.probe import CLEAR, RESET_PEAK, status_kib
from benchmarks.run import times_of

ABOUT = ("network", "engine", "T", "batch", "threads")
COLUMNS = (*ABOUT, "held_MiB", "peak_MiB", "in_use_MiB", "p20_ms", "p50_ms", "p80_ms", "note", *record.ORIGIN)
LARGEST = ("network", "engine", "T", "threads", "limit_MiB", "largest_batch", "peak_MiB", "tries", "note")
LARGEST = (*LARGEST, *record.ORIGIN)
M_MMAP_THRESHOLD = -3  # of malloc.h
STEP = 0.03  # by which the largest batch may be missed
SLOW = 60  # seconds after which processes of an engine are not repeated
PALETTE = ("#8a8f98", "#a0745c", "#d1557a", "#2f9e8f", "#58b8ab", "#45a07a", "#6a9e2f", "#7fae5a", "#4c8dd6")
COLOURS = dict(zip(ENGINES, (*PALETTE, "#b06ad1", "#c2a000", "#e8590c", "#c92a2a"), strict=True))


def _bytes() -> dict[int, Tensor]:
    """All tensors of bytes: SpikingJelly's bits are kept by a closure, where hooks do not see them."""
    return {id(each): each for each in gc.get_objects() if type(each) is Tensor and each.dtype is torch.uint8}


@dataclass(eq=False)
class _Saved:
    """What a hook keeps of a tensor: it goes with the graph, of which a forward may drop parts as it goes."""

    tensor: Tensor


def held_MiB(forward: Callable[[], Tensor], others: list[Tensor]) -> float:
    saved: weakref.WeakSet[_Saved] = weakref.WeakSet()

    def keep(tensor: Tensor) -> _Saved:
        each = _Saved(tensor)
        saved.add(each)
        return each

    before = _bytes()
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda each: each.tensor):
        loss = forward()
    kept = [each.tensor for each in saved] + [tensor for key, tensor in _bytes().items() if key not in before]
    storages = (tensor.untyped_storage() for tensor in kept)
    sizes = {storage.data_ptr(): storage.nbytes() for storage in storages}
    for tensor in others:
        sizes.pop(tensor.untyped_storage().data_ptr(), None)
    del loss
    return sum(sizes.values()) / 2**20


def peak_MiB(step: Callable[[], None], device: str) -> tuple[float, float] | None:
    """Memory before a step, and at most within it; on Linux with glibc alone, or a GPU."""
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        step()
        return before / 2**20, torch.cuda.max_memory_allocated() / 2**20
    if platform.libc_ver()[0] != "glibc":
        return None
    record.release()
    CLEAR.write_text(RESET_PEAK)
    resident = status_kib("VmRSS")
    step()
    return resident / 2**10, status_kib("VmHWM") / 2**10


def figures_here(network: str, engine: str, batch: int, device: str) -> dict[str, str]:
    """Held and peak memory, in this process."""
    record.tune()
    held = held_MiB(*training_step(network, engine, batch, device)[1:])
    return {"held_MiB": f"{held:.1f}"} | _over_a_step("peak_MiB", network, engine, batch, device)


def in_use_here(network: str, engine: str, batch: int, device: str) -> dict[str, str]:
    """Peak memory, in this process, with an allocator that gives back what is not in use."""
    glibc = device == "cpu" and platform.libc_ver()[0] == "glibc"
    if not glibc or not ctypes.CDLL(None).mallopt(M_MMAP_THRESHOLD, 2**20):
        return {}
    return _over_a_step("in_use_MiB", network, engine, batch, device)


def _over_a_step(column: str, network: str, engine: str, batch: int, device: str) -> dict[str, str]:
    step, _, others = training_step(network, engine, batch, device)
    step()
    for tensor in others:
        tensor.grad = None
    peak = peak_MiB(step, device)
    return {column: f"{peak[1] - peak[0]:.1f}"} if peak else {}


def first_peak_here(network: str, engine: str, batch: int, device: str) -> dict[str, float]:
    """Of all that the process has, while it takes its first step."""
    record.tune()
    peak = peak_MiB(training_step(network, engine, batch, device)[0], device)
    if peak is None:
        raise RuntimeError("the peak of a process is read on Linux with glibc alone")
    return {"peak_MiB": peak[1]}


class Asked:
    """Processes that measure one engine in one network; ``note`` says why there is no figure."""

    def __init__(self, network: str, engine: str, options: argparse.Namespace) -> None:
        self.arguments = ["--networks", network, "--engines", engine, "--device", options.device]
        self.arguments += ["--threads", str(options.threads)]
        self.timeout, self.note = options.timeout, ""

    def __call__(self, what: str, batch: int) -> dict[str, Any] | None:
        try:
            return json.loads(
                record.ask("benchmarks.networks", what, "--batch", str(batch), *self.arguments, timeout=self.timeout)
            )
        except subprocess.TimeoutExpired:
            self.note = f"batch {batch}: no step within {self.timeout:.0f} s"
        except subprocess.CalledProcessError as error:
            self.note = f"batch {batch}: exit status {error.returncode}"
        return None


def largest_batch(peak: Callable[[int], float], limit: float, start: int) -> tuple[int, dict[int, float]]:
    """The largest batch whose peak is within the limit, but for STEP, and all peaks that were measured.

    Bisected once one fits and one does not; tried is what the line through two peaks says, if it is between these.
    """
    peaks: dict[int, float] = {}
    fits, fails, batch = 0, inf, start
    while fails - fits > max(1, STEP * fits):
        peaks[batch] = peak(batch)
        fits, fails = (batch, fails) if peaks[batch] <= limit else (fits, batch)
        margin = max(1, int(STEP * fits))
        low, high = fits + margin, min(fails - margin, 4 * fits)
        guess = min(2 * fits, (fits + fails) / 2)
        known = [(n, peaks[n]) for n in sorted(peaks) if peaks[n] < inf][-2:]
        if len(known) == 2 and known[1][1] > known[0][1]:
            (m, p), (n, q) = known
            line = n + (limit - q) * (n - m) / (q - p)
            guess = line if fits < line < fails else guess
        batch = int(min(max(guess, low), high) if low <= high else (fits + fails) // 2)
    return fits, peaks


def measure_largest(network: str, engines: list[str], options: argparse.Namespace) -> list[dict[str, Any]]:
    rows, what = [], NETWORKS[network]
    for engine in engines:
        ask = Asked(network, engine, options)
        with tqdm(desc=f"{network}, {engine}: tries") as bar:

            def peak(batch: int, ask: Asked = ask, bar: tqdm = bar) -> float:
                found = ask("--first-peak", batch)
                bar.set_postfix(batch=batch, peak=found and f"{found['peak_MiB']:.0f} MiB")
                bar.update()
                return found["peak_MiB"] if found else inf

            best, peaks = largest_batch(peak, options.limit, options.batch or what.batch)
        row = {"network": network, "engine": engine, "T": what.steps, "threads": options.threads, "note": ask.note}
        row |= {"limit_MiB": options.limit, "largest_batch": best, "tries": len(peaks)}
        rows.append(row | {"peak_MiB": f"{peaks[best]:.1f}" if best else ""})
        print(f"{network:<14} {engine:<24} largest batch {best:>5} {ask.note}")
    return rows


def _peak(figures: dict[str, str]) -> float:
    return float(figures.get("peak_MiB", 0))


def measure(network: str, engines: list[str], options: argparse.Namespace) -> list[dict[str, Any]]:
    what = NETWORKS[network]
    batch = options.batch or what.batch
    memory: dict[str, dict[str, str]] = {}
    notes: dict[str, str] = {}
    for engine in tqdm(engines, desc=f"{network}: processes"):
        ask, found = Asked(network, engine, options), []
        start = time.perf_counter()
        while len(found) < 3 and (not found or time.perf_counter() - start < SLOW):
            figures = ask("--memory", batch)
            if figures is None:
                break
            found.append(figures)
        memory[engine] = sorted(found, key=_peak)[len(found) // 2] | (ask("--in-use", batch) or {}) if found else {}
        notes[engine] = ask.note
    torch.compiler.reset()
    measured = [engine for engine in engines if not notes[engine]]
    calls = {name: training_step(network, name, batch, options.device)[0] for name in measured}
    times = times_of(calls | {PRODUCTS: products(network, batch, options.device)}, options.rounds)
    rows = []
    for engine in [*engines, PRODUCTS]:
        row = {"network": network, "engine": engine, "T": what.steps, "batch": batch, "threads": options.threads}
        row |= memory.get(engine, {}) | {"note": notes.get(engine, "")}
        if engine in times:
            p20, _, _, p80 = statistics.quantiles(times[engine], n=5)
            p50 = statistics.median(times[engine])
            row |= {"p20_ms": f"{p20:.1f}", "p50_ms": f"{p50:.1f}", "p80_ms": f"{p80:.1f}"}
        rows.append(row)
        held, peak, used = (row.get(column, "?") for column in ("held_MiB", "peak_MiB", "in_use_MiB"))
        sizes = f"held {held:>7} MiB, peak {peak:>7} MiB, in use {used:>7} MiB"
        print(f"{network:<14} {engine:<24} {sizes}, step {row.get('p50_ms', '?'):>7} ms {row['note']}")
    return rows


def apart(heights: list[float], gap: float) -> list[float]:
    """The same heights in [0, 1], moved as little as lets neighbours be a gap apart."""
    order = sorted(range(len(heights)), key=heights.__getitem__)
    moved: dict[int, float] = {}
    below = -gap
    for i in order:
        below = moved[i] = max(heights[i], below + gap)
    above = 1 + gap
    for i in reversed(order):
        above = moved[i] = min(moved[i], above - gap)
    return [moved[i] for i in range(len(heights))]


def draw(rows: list[dict[str, Any]], path: Path) -> None:
    """Peak memory against the time of a step, a panel for each network."""
    rows = [row for row in rows if row.get("peak_MiB") and row.get("p50_ms")]
    names = list(dict.fromkeys(row["network"] for row in rows))
    across = min(2, len(names))
    down = -(-len(names) // across)
    figure, axes = plt.subplots(down, across, figsize=(6.2 * across, 3.4 * down), layout="constrained", squeeze=False)
    for axis in axes.flat[len(names) :]:
        axis.remove()
    for axis, name in zip(axes.flat, names, strict=False):
        here = [row for row in rows if row["network"] == name]
        title = f"{name}, T = {here[0]['T']}, batch {here[0]['batch']}"
        style(axis, title, "ms a training step", "peak memory of the step, MiB")
        times, peaks = ([float(row[column]) for row in here] for column in ("p50_ms", "peak_MiB"))
        axis.set_xlim(0, 1.1 * max(times))
        axis.set_ylim(0, 1.1 * max(peaks))
        places = apart([peak / (1.1 * max(peaks)) for peak in peaks], 0.085)
        for row, x, y, place in zip(here, times, peaks, places, strict=True):
            colour = COLOURS[row["engine"]]
            axis.scatter(x, y, s=50, color=colour, zorder=3)
            line = {"arrowstyle": "-", "color": colour, "linewidth": 0.5, "relpos": (0, 0.5)}
            about = {"xytext": (1.04, place), "textcoords": "axes fraction", "va": "center", "arrowprops": line}
            axis.annotate(f"{y:.0f}  {row['engine']}", (x, y), color=colour, fontsize="small", **about)
    figure.savefig(path, dpi=150, transparent=True)
    plt.close(figure)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument("--engines", nargs="+", choices=ENGINES, default=list(ENGINES))
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--batch", type=int, help="default: each network's own")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--timeout", type=float, default=600.0, help="of a process, in seconds; default: %(default)s")
    parser.add_argument("--largest", action="store_true", help="the largest batch within the limit, instead")
    parser.add_argument("--limit", type=float, default=8192.0, help="MiB; default: %(default)s")
    parser.add_argument("--out", type=Path, help="default: networks.csv or networks_largest.csv of the results")
    parser.add_argument("--figure", type=Path, default=Path("figures/networks.png"), help="default: %(default)s")
    for name, function in HERE.items():
        parser.add_argument(name, dest="here", action="store_const", const=function, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    if options.here:
        print(json.dumps(options.here(options.networks[0], options.engines[0], options.batch, options.device)))
        return
    about = record.origin(record.tune())
    if options.device == "cuda":
        about |= {"machine": torch.cuda.get_device_name(), "allocator": "torch's own"}
    engines = [name for name in options.engines if ENGINES[name].serves(options.device)]
    for name in options.engines:
        if name not in engines:
            print(f"{name}: on GPUs alone")
    function, columns, name = (
        (measure_largest, LARGEST, "networks_largest.csv") if options.largest else (measure, COLUMNS, "networks.csv")
    )
    rows: list[dict[str, Any]] = []
    for network in options.networks:
        rows += [row | about for row in function(network, engines, options)]
        record.write(options.out or record.RESULTS / name, rows, columns)
    if not options.largest:
        draw(rows, options.figure)


HERE = {"--memory": figures_here, "--in-use": in_use_here, "--first-peak": first_peak_here}

if __name__ == "__main__":
    main()
