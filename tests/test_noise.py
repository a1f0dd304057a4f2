"""The noise: the generator's bits, the polynomials' accuracy, and the statistics of the normals."""

import numpy as np
import pytest
import torch
from scipy import stats

import tgo_kernels as tgo
from tgo_kernels import noise

STEPS, NEURONS = 64, 200_000


@pytest.fixture(scope="module")
def normals():
    return tgo.noise.standard_normal(2026, STEPS, NEURONS)


def philox_numpy(counter, key, bits, multipliers, increments):
    """Philox with words of any width, in Python integers: the same recurrence at 32 and at 64 bits."""
    mask, (c0, c1, c2, c3), (k0, k1) = 2**bits - 1, counter, key
    for _ in range(10):
        p0, p1 = c0 * multipliers[0], c2 * multipliers[1]
        c0, c1, c2, c3 = p1 >> bits ^ c1 ^ k0, p1 & mask, p0 >> bits ^ c3 ^ k1, p0 & mask
        k0, k1 = k0 + increments[0] & mask, k1 + increments[1] & mask
    return c0, c1, c2, c3


def test_random_bits_against_numpys_philox():
    # numpy has the 64-bit member of the family. It pins the recurrence, which then pins our 32-bit words.
    counter, key = [3, 2**63 + 5, 7, 11], [2**64 - 59, 12345]
    generator = np.random.Philox(counter=np.array(counter, np.uint64), key=np.array(key, np.uint64))
    multipliers, increments = (0xD2E7470EE14C6C93, 0xCA5A826395121157), (0x9E3779B97F4A7C15, 0xBB67AE8584CAA73B)
    successor = [counter[0] + 1, *counter[1:]]  # numpy counts before it draws
    expected = philox_numpy(successor, key, 64, multipliers, increments)
    assert generator.random_raw(4).tolist() == list(expected)

    for neuron, seed, block in ((0, 0, 0), (5, 42, 1), (2**32 + 9, 2**64 - 1, 2**32 - 1), (2**33 + 1, 1 << 40, 77)):
        counter = (neuron & 0xFFFFFFFF, neuron >> 32, block, 0)
        expected = philox_numpy(counter, (seed & 0xFFFFFFFF, seed >> 32), 32, noise.MULTIPLIERS, noise.KEY_INCREMENTS)
        words = noise.philox(noise.as_seed(seed, torch.device("cpu")), torch.tensor([neuron]), block)
        assert tuple(int(word) for word in words) == expected


def test_known_answers_of_random123():
    zero = torch.tensor([0])
    words = noise.philox(zero, zero, 0)
    assert [int(word) for word in words] == [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]


def test_every_radius_against_float64():
    k = torch.arange(1 << 20)
    doubled = (k | noise.SIXTEENTHS).to(torch.int32).view(torch.float32) + noise.SHIFT
    assert torch.equal(doubled.double() * 2**20, 2.0 * k + 1)  # exact, and never 0
    exact = (-2 * torch.log((2.0 * k + 1) / 2**21)).sqrt()
    for top in (0, 5 << 20):
        radius = torch.hypot(*(z.double() for z in noise.two_normals(k + top)))
        assert (radius - exact).abs().max() < 1.2e-4 and radius.max() < 5.4


def test_every_product_that_may_be_fused_is_exact():
    doubled = (2.0 * torch.arange(1 << 20, dtype=torch.float64) + 1) / 2**20
    m = (doubled.float().view(torch.int32) | noise.ONE).view(torch.float32)
    assert torch.equal((m * noise.LOG_SLOPE[0]).double(), m.double() * noise.LOG_SLOPE[0])


def squares() -> torch.Tensor:
    """What the radius is the root of, for every radius."""
    kept = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.Tensor, "sqrt", lambda x: kept.append(x.float()) or torch.ones_like(x))
        noise.two_normals(torch.arange(1 << 20))
    return kept[0]


def fused(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> np.ndarray:
    """a * b + c of fp32, rounded once: the sum is rounded to odd in fp64, which leaves the last rounding right."""
    product, c = a.astype(np.float64) * b, c.astype(np.float64)  # exact
    total = product + c
    part = total - product
    error = (product - (total - part)) + (c - part)  # exact (Knuth)
    inexact = (error != 0) & (total.view(np.int64) % 2 == 0)
    return np.where(inexact, np.nextafter(total, np.copysign(np.inf, error)), total).astype(np.float32)


def by_inverse_root(x: np.ndarray, ulps: int) -> np.ndarray:
    """The GPU engines' root, from an inverse one that is so many units in the last place off."""
    inverse = ((1 / np.sqrt(x.astype(np.float64))).astype(np.float32).view(np.int32) + ulps).view(np.float32)
    root = x * inverse
    return fused(fused(-root, root, x), inverse * np.float32(0.5), root)


def test_roots_of_every_square_from_an_approximate_inverse_root():
    """GPUs have an inverse root within 2 units in the last place (PTX: 2^-22.9); one of 64 would not do."""
    x = squares().numpy()
    exact = np.sqrt(x.astype(np.float64)).astype(np.float32)
    assert len(x) == 2**20 and x.min() > 0
    for ulps in range(-4, 5):
        assert np.array_equal(by_inverse_root(x, ulps), exact)
    assert not np.array_equal(by_inverse_root(x, 64), exact)


def test_angles_against_float64():
    word = torch.from_numpy(np.random.default_rng(1).integers(0, 2**32, 4_000_000))
    first, second = (z.double() for z in noise.two_normals(word))
    angle = torch.pi * (word * noise.ANGLE & 0xFFFFFFFF).to(torch.int32).double() * 2.0**-32
    sign = torch.where(word >> 31 == 1, 1.0, -1.0)
    radius = (-2 * torch.log((2.0 * (word & 0xFFFFF) + 1) / 2**21)).sqrt() * sign
    for found, exact in ((first, torch.cos(angle)), (second, torch.sin(angle))):
        assert (found - radius * exact).abs().max() < 1.2e-4


def test_every_angle_and_sign_occurs():
    word = torch.from_numpy(np.random.default_rng(2).integers(0, 2**32, 1000))
    first, second = noise.two_normals(word)
    assert {(a, b) for a, b in zip(first.sign().tolist(), second.sign().tolist(), strict=True)} == {
        (a, b) for a in (-1, 1) for b in (-1, 1)
    }


def test_a_block_serves_four_steps_of_two_neurons():
    words = noise.philox(noise.as_seed(9, torch.device("cpu")), torch.arange(3), 5)
    xi = tgo.noise.standard_normal(9, 4, 6, first_step=20)
    for neuron in range(6):
        a, b = words[2 * (neuron % 2)][neuron // 2], words[2 * (neuron % 2) + 1][neuron // 2]
        assert torch.equal(xi[:, neuron], torch.stack([*noise.two_normals(a), *noise.two_normals(b)]))


def test_moments(normals):
    z = normals.double().flatten()
    n = z.numel()
    # Five standard errors of each moment of a standard normal.
    for power, mean, variance in ((1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96), (6, 15, 10170)):
        assert abs((z**power).mean() - mean) < 5 * (variance / n) ** 0.5


def test_kolmogorov_smirnov(normals):
    for step in range(0, STEPS, 7):  # rows of both words
        assert stats.kstest(normals[step].numpy(), "norm").pvalue > 1e-4
    assert stats.kstest(normals[:, :500].flatten().numpy(), "norm").pvalue > 1e-4


def test_independence_across_neurons_and_steps(normals):
    z = normals.double()
    bound = 5 / z[1:].numel() ** 0.5
    for lag in (1, 2, 3, 4, 5, 8):
        for function in (lambda a: a, lambda a: a * a - 1, torch.sign):
            f = function(z)
            spread = float((f * f).mean())
            assert abs((f[lag:] * f[:-lag]).mean()) < 1.2 * spread * bound  # steps
            assert abs((f[:, lag:] * f[:, :-lag]).mean()) < 1.2 * spread * bound  # neurons


def test_tails():
    z = tgo.noise.standard_normal(1, 4, 2_000_000).abs()
    for limit in (3.0, 4.0):
        expected = z.numel() * 2 * stats.norm.sf(limit)
        assert abs(int((z > limit).sum()) - expected) < 5 * expected**0.5


def test_rows_are_the_streams_steps(normals):
    for first in (1, 3, 4, 6):
        assert torch.equal(tgo.noise.standard_normal(2026, 7, 100, first_step=first), normals[first : first + 7, :100])


def test_seeds_differ():
    a, b = (tgo.noise.standard_normal(seed, 4, 100_000) for seed in (0, 1))
    assert abs((a * b).mean()) < 5 / 400_000**0.5
    assert torch.equal(tgo.noise.standard_normal(-1, 1, 9), tgo.noise.standard_normal(2**64 - 1, 1, 9))


def test_every_engine_adds_these_normals():
    # decay 0 and an unreachable threshold leave the last step's noise in v.
    for steps, first in ((1, 0), (4, 3), (9, 2**33 + 1)):
        x = torch.zeros(steps, 1031)
        out = tgo.lif(x, decay=0.0, v_threshold=99.0, noise_std=1.0, noise_seed=11, noise_step=first, impl="native")
        assert torch.equal(out.v_final, tgo.noise.standard_normal(11, steps, 1031, first_step=first)[-1])


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((0, -1, 3), ValueError, "steps"),
        ((0, 2, 1.0), TypeError, "neurons"),
        ((0.0, 2, 3), TypeError, "noise_seed"),
        ((2**64, 2, 3), ValueError, "64 bits"),
    ],
)
def test_bad_input_is_named(arguments, error, message):
    with pytest.raises(error, match=message):
        tgo.noise.standard_normal(*arguments)


def test_no_steps_or_neurons():
    assert tgo.noise.standard_normal(0, 0, 3).shape == (0, 3)
    assert tgo.noise.standard_normal(0, 3, 0).shape == (3, 0)
