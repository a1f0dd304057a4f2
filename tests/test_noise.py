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


def test_logarithm_against_float64():
    # Every fp32 mantissa in the binades next to 1, and a sample of all the others.
    near_one = torch.arange(2**31 - 2**24, 2**31, 2)
    sample = torch.from_numpy(np.random.default_rng(0).integers(0, 2**31, 4_000_000))
    small = torch.arange(0, 100_000)
    for k in (near_one, sample, small):
        a = k << 1
        exact = -torch.log((k.float().double() + 0.5).float().double() * 2.0**-31)
        # At y = 0 the angle's outputs are both 1: z is the radius itself.
        radius, _ = noise.box_muller(a, torch.zeros_like(a))
        assert ((radius.double() ** 2 - exact).abs() / (1 + exact)).max() < 4e-7
        assert ((radius.double() - exact.sqrt()).abs()).max() < 1.5e-6


def test_sine_and_cosine_against_float64():
    b = torch.from_numpy(np.random.default_rng(1).integers(0, 2**30, 4_000_000))
    first, second = noise.box_muller(torch.zeros_like(b), b)  # a = 0: the largest radius
    radius = np.sqrt(-np.log(0.5 * 2.0**-31))
    signed = torch.where(b >= 2**29, b - 2**30, b)
    angle = np.pi / 2 * (signed.double() * 2.0**-30) + np.pi / 4
    for found, exact in ((first, torch.cos(angle)), (second, torch.sin(angle))):
        assert (found.double() / radius / np.sqrt(2) - exact).abs().max() < 2e-7


def test_every_angle_and_sign_occurs():
    b = torch.arange(4) << 30
    first, second = noise.box_muller(torch.zeros_like(b), b)
    assert first.sign().tolist() == [1, 1, -1, -1] and second.sign().tolist() == [1, -1, 1, -1]


def test_moments(normals):
    z = normals.double().flatten()
    n = z.numel()
    # Five standard errors of each moment of a standard normal.
    for power, mean, variance in ((1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96), (6, 15, 10170)):
        assert abs((z**power).mean() - mean) < 5 * (variance / n) ** 0.5


def test_kolmogorov_smirnov(normals):
    for step in range(0, STEPS, 7):  # rows from all four words of a block
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
    assert noise.box_muller(torch.tensor([0]), torch.tensor([0]))[0] < 6.67


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
