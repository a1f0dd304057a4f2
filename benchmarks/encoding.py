"""Poisson encoding beside other encoders: milliseconds and bytes a second.

    python -m benchmarks.encoding [--threads 1 2] [--rounds 15] [--out CSV]

Images [B, C, H, W] to spikes [T, B, C, H, W], all encoders in turn; so is ``torch.clone`` of as many spikes, the
ceiling. Bytes are those that have to be moved, x once and each spike once, for all alike. snnTorch's ``rate`` repeats
the images and draws by ``torch.bernoulli``; SpikingJelly's ``PoissonEncoder`` makes a step a call, which are stacked.
"""

import argparse
import math
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import torch
from torch import Tensor
from tqdm import tqdm

import tgo_kernels as tgo
from benchmarks import plot, record
from benchmarks.run import percentiles, times_of
from tgo_kernels import encoding

CASES = {  # images, steps, dtype
    "Fashion-MNIST": ((128, 1, 28, 28), 8, torch.float32),
    "CIFAR": ((128, 3, 32, 32), 8, torch.float32),
    "CIFAR, bf16": ((128, 3, 32, 32), 8, torch.bfloat16),
    "ImageNet": ((8, 3, 224, 224), 4, torch.float32),
    "one image": ((1, 1, 28, 28), 100, torch.float32),
}
OURS, CEILING = "tgo_kernels", "torch.clone"
COLUMNS = ("case", "shape", "T", "dtype", "encoder", "version", "threads", "p20_ms", "p50_ms", "p80_ms")
COLUMNS = (*COLUMNS, "GB/s", "ratio", *record.ORIGIN)
Encoder = Callable[[Tensor, int], Tensor]


def by_reference(x: Tensor, steps: int) -> Tensor:
    return encoding.reference(x, steps, False, tgo.noise.draw_seed(x.device), 0)


def by_bernoulli(x: Tensor, steps: int) -> Tensor:
    return torch.bernoulli(x.expand(steps, *x.shape))


def by_snntorch(x: Tensor, steps: int) -> Tensor:
    from snntorch import spikegen

    return spikegen.rate(x, num_steps=steps)


def by_spikingjelly(x: Tensor, steps: int) -> Tensor:
    from spikingjelly.activation_based.encoding import PoissonEncoder

    encoder = PoissonEncoder()
    return torch.stack([encoder(x) for _ in range(steps)])


ENCODERS: dict[str, tuple[Encoder, str]] = {  # and which distribution they are of
    OURS: (tgo.poisson, OURS),
    "reference": (by_reference, OURS),
    "torch.bernoulli": (by_bernoulli, "torch"),
    "snnTorch": (by_snntorch, "snntorch"),
    "SpikingJelly": (by_spikingjelly, "spikingjelly"),
}


# Of what is drawn.
COLOURS = {name: plot.COLOURS[name] for name in (OURS, "snnTorch", "SpikingJelly")} | {
    "torch.bernoulli": plot.COLOURS["eager"]
}


def check(name: str, encoder: Encoder) -> None:
    """That it is a Poisson encoder."""
    p = torch.tensor([0.0, 0.25, 1.0])
    rates = encoder(p.repeat(4096, 1), 8).float().mean((0, 1))
    if not torch.allclose(rates, p, atol=0.02):
        raise ValueError(f"{name} has other rates: {rates.tolist()} in the place of {p.tolist()}")


def measure(case: str, threads: int, rounds: int) -> list[dict[str, object]]:
    shape, steps, dtype = CASES[case]
    torch.set_num_threads(threads)
    x = torch.rand(shape, generator=torch.Generator().manual_seed(0)).to(dtype)
    spikes = tgo.poisson(x, steps)
    calls = {name: (lambda encoder=encoder: encoder(x, steps)) for name, (encoder, _) in ENCODERS.items()}
    times = times_of({CEILING: spikes.clone, **calls}, rounds)
    ours, rows = percentiles(times[OURS])[1], []
    for name, values in times.items():
        p20, p50, p80 = percentiles(values)
        moved = (2 * spikes.numel() if name == CEILING else x.numel() + spikes.numel()) * x.element_size()
        about = ("x".join(map(str, shape)), steps, str(dtype).removeprefix("torch."), name)
        origin = version(ENCODERS[name][1]) if name in ENCODERS else torch.__version__
        figures = (*(f"{ms:.4f}" for ms in (p20, p50, p80)), f"{moved / p50 / 1e6:.2f}", f"{p50 / ours:.2f}")
        rows.append(dict(zip(COLUMNS, (case, *about, origin, threads, *figures), strict=False)))
    return rows


def draw(rows: list[dict[str, object]], path: Path) -> None:
    """Nanoseconds a spike by case, on the fewest threads."""
    fewest = min(int(str(row["threads"])) for row in rows)
    rows = [row for row in rows if row["threads"] == fewest and row["encoder"] in COLOURS]
    labels = {str(row["case"]): f"{row['case']}\n{row['shape']}, T = {row['T']}" for row in rows}
    cases, high = list(labels), 0.8 / len(COLOURS)
    _, axes = plt.subplots(figsize=(8, 1 + len(cases)), layout="constrained")
    plot.style(axes, f"Poisson encoding, {plot.threads_of(str(fewest))}", "nanoseconds a spike, median", "")
    for row in rows:
        name, case = str(row["encoder"]), str(row["case"])
        size = math.prod(map(int, str(row["shape"]).split("x"))) * int(str(row["T"]))
        ns = float(str(row["p50_ms"])) * 1e6 / size
        y = cases.index(case) + (list(COLOURS).index(name) - (len(COLOURS) - 1) / 2) * high
        axes.barh(y, ns, high, color=COLOURS[name], label=name if case == cases[0] else None)
        times = "" if name == OURS else f", {float(str(row['ratio'])):.1f} times"
        about = {"textcoords": "offset points", "va": "center", "color": plot.GREY, "fontsize": "small"}
        axes.annotate(f"{ns:.2g}{times}", (ns, y), (3, 0), **about)
    axes.set_yticks(range(len(cases)), labels.values())
    axes.set_ylim(len(cases) - 0.5, -0.5)
    axes.margins(x=0.22)
    plot.finish(axes, path)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--out", type=Path, default=record.RESULTS / "encoding.csv")
    parser.add_argument("--figure", type=Path, default=record.RESULTS.parents[1] / "figures" / "encoding.png")
    options = parser.parse_args(argv)
    if min(options.threads) < 1 or options.rounds < 2:
        parser.error("threads must be at least 1, rounds at least 2")
    allocator = record.tune()
    try:
        for name, (encoder, _) in ENCODERS.items():
            check(name, encoder)
        asked = [(case, threads) for threads in options.threads for case in options.cases]
        rows = [row for each in tqdm(asked, desc="encoders", disable=None) for row in measure(*each, options.rounds)]
    except (ImportError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    for row in rows:
        print(f"{row['case']:14} {row['threads']} threads  {row['encoder']:16} {row['p50_ms']:>9} ms  "
              f"{row['GB/s']:>6} GB/s  {row['ratio']:>6}")  # fmt: skip
    record.write(options.out, [row | record.origin(allocator) for row in rows], COLUMNS)
    draw(rows, options.figure)
    print(f"written to {options.out}, {options.figure}; the last column is how often the time of {OURS}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
