"""``make bench``: the fused layer against the same neuron composed in torch, eager and compiled, in one run.

    python -m benchmarks.run [--repeats 15] [--threads 2]

Variants are interleaved, medians reported. One allocator setting for all: large tensors keep their pages (on glibc by
mallopt at start-up), since page faults would otherwise dominate every variant alike. No figure is printed unless the
fused spikes equal the composed loop's first.
"""

import argparse
import ctypes
import itertools
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from tqdm import tqdm

import tgo_kernels as tgo

DECAY, GAIN, THRESHOLD, NOISE_STD, MARGIN = 0.5, 0.5, 1.0, 0.3, 0.5
SHAPES = ((4, 4194304), (16, 262144))
BYTES_PER_STEP = 20  # fp32: 8 forward, 12 backward
ENGINES = ("fused", "torch.compile", "eager")


class Fire(torch.autograd.Function):
    """The firing step with the arctangent surrogate, as every framework composes it."""

    @staticmethod
    def forward(d: Tensor) -> Tensor:
        return (d >= 0).to(d.dtype)

    @staticmethod
    def setup_context(ctx, inputs, output) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx, grad):
        (d,) = ctx.saved_tensors
        return grad / (1 + (torch.pi * d) ** 2)


def composed(x: Tensor, noisy_guarded: bool) -> tuple[Tensor, Tensor]:
    """The plain loop over time, with or without noise and penalty: spikes and penalty."""
    v = torch.zeros_like(x[0])
    spikes, penalty = [], x.new_zeros(())
    for x_t in x.unbind(0):
        h = DECAY * v + GAIN * x_t
        u = h
        if noisy_guarded:
            penalty = penalty + torch.relu(MARGIN - (h - THRESHOLD).abs()).sum()
            u = h + NOISE_STD * torch.randn_like(h)
        s = Fire.apply(u - THRESHOLD)
        v = (1 - s) * u
        spikes.append(s)
    return torch.stack(spikes), penalty / x.numel()


def fused(x: Tensor, noisy_guarded: bool, impl: str = "auto") -> tuple[Tensor, Tensor]:
    extras = {"noise_std": NOISE_STD, "guard_margin": MARGIN} if noisy_guarded else {}
    out = tgo.lif(x, decay=DECAY, gain=GAIN, v_threshold=THRESHOLD, surrogate=tgo.ATan(2.0), impl=impl, **extras)
    return out.spikes, out.penalty


@dataclass(frozen=True)
class Variant:
    """One timed thing: forward and backward with a dense gradient, or the copy that bounds it."""

    engine: str
    noisy_guarded: bool
    run: Callable[[Tensor, bool], tuple[Tensor, Tensor]]

    def __call__(self, x: Tensor, grad: Tensor) -> None:
        x.grad = None
        spikes, penalty = self.run(x, self.noisy_guarded)
        if self.noisy_guarded:
            torch.autograd.backward([spikes, penalty], [grad, torch.ones_like(penalty)])
        else:
            spikes.backward(grad)


def keep_pages() -> str:
    """Ask glibc to keep the pages of freed large tensors; says what the allocator is."""
    if platform.libc_ver()[0] != "glibc":
        return "default allocator"
    libc = ctypes.CDLL("libc.so.6")
    m_trim_threshold, m_mmap_threshold = -1, -3
    libc.mallopt(m_mmap_threshold, 1 << 30)
    libc.mallopt(m_trim_threshold, -1)
    return "glibc malloc with pages kept (M_MMAP_THRESHOLD 1 GiB, M_TRIM_THRESHOLD -1)"


def verify() -> None:
    """The gate: the fused spikes are the composed loop's, and so are the gradients to rounding."""
    x = torch.randn(16, 10007, generator=torch.Generator().manual_seed(0))
    results = []
    for run in (composed, fused):
        leaf = x.clone().requires_grad_()
        spikes, _ = run(leaf, False)
        spikes.backward(x)
        results.append((spikes.detach(), leaf.grad))
    torch.testing.assert_close(results[1][0], results[0][0], rtol=0, atol=0)
    torch.testing.assert_close(results[1][1], results[0][1])


def milliseconds(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return (time.perf_counter() - start) * 1e3


def measure(steps: int, neurons: int, repeats: int, bar: tqdm) -> dict[str, float]:
    """Median milliseconds of every variant at one shape, and of torch.clone of x."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(steps, neurons, generator=generator).requires_grad_()
    grad = torch.randn(steps, neurons, generator=generator)
    runs = dict(zip(ENGINES, (fused, torch.compile(composed, fullgraph=True, dynamic=False), composed), strict=True))
    variants = [Variant(engine, both, runs[engine]) for both, engine in itertools.product((False, True), ENGINES)]
    times: dict[str, list[float]] = {}
    for repeat in range(-2, repeats):  # two rounds warm up
        round_times = {"clone": milliseconds(x.detach().clone)}
        for variant in variants:
            key = f"{variant.engine}{' noise+penalty' if variant.noisy_guarded else ''}"
            round_times[key] = milliseconds(lambda: variant(x, grad))  # noqa: B023
        bar.update()
        if repeat >= 0:
            for key, value in round_times.items():
                times.setdefault(key, []).append(value)
    return {key: statistics.median(values) for key, values in times.items()}


def report(steps: int, neurons: int, ms: dict[str, float]) -> str:
    copy = 8 * steps * neurons / ms["clone"] / 1e6
    ours = BYTES_PER_STEP * steps * neurons / ms["fused"] / 1e6
    both = " noise+penalty"
    rows = [
        ("plain: torch.compile / fused", ms["torch.compile"] / ms["fused"]),
        ("plain: eager / fused", ms["eager"] / ms["fused"]),
        ("fused: noise+penalty / plain", ms["fused" + both] / ms["fused"]),
        ("noise+penalty: torch.compile / fused", ms["torch.compile" + both] / ms["fused" + both]),
        ("noise+penalty: eager / fused", ms["eager" + both] / ms["fused" + both]),
        (f"plain bandwidth / torch.clone's ({ours:.1f} / {copy:.1f} GB/s)", ours / copy),
    ]
    lines = [f"\nT={steps} N={neurons}, fp32, forward + backward, median ms:"]
    lines += [f"  {key:<32} {value:9.2f}" for key, value in ms.items()]
    lines += ["  ratios:"] + [f"    {name:<48} {value:6.2f}" for name, value in rows]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    allocator = keep_pages()
    verify()
    print(f"{platform.machine()}, {arguments.threads} threads, torch {torch.__version__}, {allocator}")
    print(tgo.explain_impl(torch.empty(1)))
    with tqdm(total=len(SHAPES) * (arguments.repeats + 2), desc="rounds") as bar:
        reports = [report(*shape, measure(*shape, arguments.repeats, bar)) for shape in SHAPES]
    print("\n".join(reports))


if __name__ == "__main__":
    main()
