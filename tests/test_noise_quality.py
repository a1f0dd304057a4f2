"""The normals as numbers: their distribution over words, their independence, and that each check finds its fault."""

import functools
import math
from collections.abc import Callable, Iterator

import pytest
import torch
from scipy import stats
from torch import Tensor

from tgo_kernels import noise

STEPS, NEURONS, ROUNDS = 16, 1 << 20, 6  # 1.007e8 draws


def words(bits: int) -> Iterator[Tensor]:
    """All radii, with evenly spread angles and both signs: 2^bits words."""
    every = 1 << 32 - bits
    offsets = torch.arange(1 << 20) * 0x9E3779B1 % every  # other top bits for each radius
    for top in range(0, 1 << 12, every):
        yield (top + offsets << 20) + torch.arange(1 << 20)


@functools.cache
def edges() -> Tensor:
    return torch.linspace(-5.5, 5.5, 4401, dtype=torch.float64)


def over_words(bits: int) -> dict[str, float]:
    """By the limit that it has, the worst of what the two normals of a word are measured by."""
    found: dict[str, float] = {}
    count = torch.zeros(2, len(edges()) + 1, dtype=torch.float64)
    sums, total = torch.zeros(2, 4, dtype=torch.float64), 0
    products = torch.zeros(2, dtype=torch.float64)
    for some in words(bits):
        pair = [z.double() for z in noise.two_normals(some)]
        for row, z in enumerate(pair):
            count[row] += torch.bincount(torch.bucketize(z, edges()), minlength=len(edges()) + 1)
            sums[row] += torch.stack([(z**power).sum() for power in (1, 2, 4, 6)])
        products += torch.stack([(pair[0] * pair[1]).sum(), ((pair[0] ** 2 - 1) * (pair[1] ** 2 - 1)).sum()])
        total += len(some)
    exact = torch.from_numpy(stats.norm.cdf(edges().numpy()))
    found["distribution"] = float((count.cumsum(1)[:, :-1] / total - exact).abs().max())
    mean, variance, fourth, sixth = (sums / total).unbind(1)
    found["mean"], found["variance"] = float(mean.abs().max()), float((variance - 1).abs().max())
    found["kurtosis"], found["sixth moment"] = float((fourth - 3).abs().max()), float((sixth - 15).abs().max())
    found["product"], found["product of squares"] = (products / total).abs().tolist()
    for sigmas in (4.0, 4.5):
        beyond = count[:, torch.cat([edges(), edges()[-1:] + 1]) <= -sigmas].sum(1) / total / stats.norm.sf(sigmas)
        found[f"tail beyond {sigmas}"] = float((beyond - 1).abs().max())
    return found


LIMITS = {
    "distribution": 1e-5,
    "mean": 1e-5,
    "variance": 2e-5,
    "kurtosis": 1e-3,
    "sixth moment": 2e-2,
    "product": 1e-5,
    "product of squares": 1e-4,
    "tail beyond 4.0": 0.03,
    "tail beyond 4.5": 0.06,
}


def too_large(bits: int) -> dict[str, float]:
    return {name: value for name, value in over_words(bits).items() if value > LIMITS[name]}


def test_the_distribution_over_words():
    assert not too_large(26)


def draws(seeds: int = ROUNDS, neurons: int = NEURONS) -> Iterator[tuple[Tensor, Tensor]]:
    """[STEPS, neurons] of a seed, and of one that differs in its top bit."""
    for seed in range(seeds):
        yield tuple(noise.standard_normal(seed ^ flip, STEPS, neurons, first_step=4 * seed) for flip in (0, 1 << 63))


FUNCTIONS = {"x": lambda z: z, "x^2": lambda z: (z * z - 1) / math.sqrt(2), "sign": torch.sign}


def partners(z: Tensor, other: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
    """What must not depend on each other."""
    found = {f"step + {lag}": (z[lag:], z[:-lag]) for lag in (1, 2, 3, 4, 5, 8)}
    found |= {f"neuron + {lag}": (z[:, lag:], z[:, :-lag]) for lag in (1, 2, 3, 4, 512)}
    found["the normals of a word"] = z[0::2], z[1::2]
    found["the words of a neuron"] = z[0::4], z[2::4]
    found["the neurons of a pair"] = z[:, 0::2], z[:, 1::2]
    found["seeds"] = z, other
    return found


def dependent(seeds: int, neurons: int) -> dict[str, float]:
    """Correlations and moments, in standard errors, beyond five of them; and p-values below 1e-6."""
    sums: dict[str, float] = {}
    counts: dict[str, int] = {}

    def add(name: str, terms: Tensor) -> None:
        sums[name] = sums.get(name, 0.0) + float(terms.sum(dtype=torch.float64))
        counts[name] = counts.get(name, 0) + terms.numel()

    counted = torch.zeros(len(edges()) + 1, dtype=torch.int64)
    angles = torch.zeros(64, 64, dtype=torch.int64)
    for z, other in draws(seeds, neurons):
        values = {name: (function(z), function(other)) for name, function in FUNCTIONS.items()}
        for function, (first, second) in values.items():
            for name, (a, b) in partners(first, second).items():
                add(f"{function}: {name}", a * b)
        for power, mean, variance in ((1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96)):
            add(f"moment {power}", (z.double() ** power - mean) / math.sqrt(variance))
        counted += torch.bincount(torch.bucketize(z.double().flatten(), edges()), minlength=len(counted))
        turn = ((torch.atan2(z[1::2], z[0::2]) / math.pi + 1) * 32).long().clamp(0, 63)  # of each word
        angles += torch.bincount((turn[0::2] * 64 + turn[1::2]).flatten(), minlength=64 * 64).view(64, 64)
    found = {name: abs(sums[name]) / math.sqrt(counts[name]) for name in sums}
    found = {name: errors for name, errors in found.items() if errors > 5}
    total = int(counted.sum())
    distance = (counted.cumsum(0)[:-1] / total - torch.from_numpy(stats.norm.cdf(edges().numpy()))).abs().max()
    grid = angles.double().flatten()
    for name, p in (
        ("Kolmogorov-Smirnov", stats.kstwobign.sf(float(distance) * math.sqrt(total))),
        ("angles", stats.chisquare(angles.sum(0)).pvalue),
        ("angles of the two words", stats.chisquare(grid).pvalue),
    ):
        if p < 1e-6:
            found[name] = float(p)
    return found


def test_a_hundred_million_draws():
    assert not dependent(ROUNDS, NEURONS)


# Faults, each as a version of two_normals or philox.
two_normals, philox = noise.two_normals, noise.philox


def angle_from_the_word(word: Tensor) -> tuple[Tensor, Tensor]:
    """The angle is the word itself shifted: its low bits are the top bits of the radius."""
    signed = two_normals(word)
    radius = torch.hypot(*signed) * torch.where(word >> 31 == 1, -1, 1)
    angle = math.pi * ((word << 8 & 0xFFFFFFFF) + (word >> 24)).to(torch.int32).double() * 2.0**-32
    return (radius * torch.cos(angle)).float(), (radius * torch.sin(angle)).float()


def too_wide(word: Tensor) -> tuple[Tensor, Tensor]:
    return tuple(z * 1.00005 for z in two_normals(word))


def one_half_of_the_circle(word: Tensor) -> tuple[Tensor, Tensor]:
    return two_normals(word & 0x7FFFFFFF)


def short_tails(word: Tensor) -> tuple[Tensor, Tensor]:
    return tuple(z.clamp(-3.9, 3.9) for z in two_normals(word))


def in_step(word: Tensor) -> tuple[Tensor, Tensor]:
    """The second normal has the sign of the first."""
    first, second = two_normals(word)
    return first, second.abs() * first.sign()


def radius_of_either_kind(word: Tensor) -> tuple[Tensor, Tensor]:
    """The squares of both normals go together."""
    return tuple(z * torch.where(word >> 31 == 1, 1.1, 0.9) for z in two_normals(word))


def skewed(word: Tensor) -> tuple[Tensor, Tensor]:
    return tuple(z + 0.02 * (z * z - 1) for z in two_normals(word))


@functools.cache
def too_large_without_a_fault(bits: int) -> dict[str, float]:
    assert noise.two_normals is two_normals
    return too_large(bits)


@pytest.mark.parametrize(
    ("fault", "finds"),
    [
        (angle_from_the_word, ["distribution"]),
        (too_wide, ["variance"]),
        (one_half_of_the_circle, ["mean"]),
        (short_tails, ["tail beyond 4.0", "tail beyond 4.5", "sixth moment"]),
        (in_step, ["product"]),
        (radius_of_either_kind, ["product of squares", "kurtosis"]),
    ],
)
def test_faults_over_words_are_found(fault: Callable, finds: list[str], monkeypatch):
    assert not too_large_without_a_fault(23)
    monkeypatch.setattr(noise, "two_normals", fault)
    assert too_large(23).keys() >= set(finds)


@pytest.mark.parametrize(
    ("fault", "finds"),
    [
        (one_half_of_the_circle, ["Kolmogorov-Smirnov", "angles", "angles of the two words", "moment 1"]),
        (in_step, ["sign: the normals of a word", "angles"]),
        (radius_of_either_kind, ["x^2: the normals of a word", "moment 4"]),
        (skewed, ["moment 3"]),
    ],
)
def test_faults_among_draws_are_found(fault: Callable, finds: list[str], monkeypatch):
    assert not dependent(1, 1 << 16)
    monkeypatch.setattr(noise, "two_normals", fault)
    assert dependent(1, 1 << 16).keys() >= set(finds)


def changed(which: str, *arguments: Tensor) -> tuple[Tensor, ...]:
    seed, pair, block, _ = arguments
    if which == "blocks":
        return philox(seed, pair, 0)
    if which == "seeds":
        return philox(seed & 0xFFFFFFFF, pair, block)
    if which == "pairs":
        return philox(seed, pair // 2, block)
    a, b, c, d = philox(seed, pair, block)
    return (a, b, a, d) if which == "neurons of a pair" else (a, a, c, d)


@pytest.mark.parametrize(
    ("which", "finds"),
    [
        ("blocks", "x: step + 4"),
        ("seeds", "x: seeds"),
        ("pairs", "x: neuron + 2"),
        ("neurons of a pair", "x: the neurons of a pair"),
        ("words of a neuron", "x: the words of a neuron"),
    ],
)
def test_shared_words_are_found(which: str, finds: str, monkeypatch):
    monkeypatch.setattr(noise, "philox", functools.partial(changed, which))
    assert finds in dependent(1, 1 << 14)


def test_too_few_rounds_are_found(monkeypatch):
    monkeypatch.setattr(noise, "ROUNDS", 2)
    assert dependent(1, 1 << 16)
