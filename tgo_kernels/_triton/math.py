"""What the kernels compute for one block of neurons: a step and its reverse, the surrogate curves, the noise.

The specification is :mod:`tgo_kernels.reference`, :mod:`tgo_kernels.surrogate` and :mod:`tgo_kernels.noise`; the order
of operations is theirs.
"""

import triton
import triton.language as tl

from tgo_kernels import noise
from tgo_kernels.surrogate import Curve

NO_NOISE = tl.constexpr(0)
MEMBRANE = tl.constexpr(1)  # the noise decides the spike and stays in the state
THRESHOLD = tl.constexpr(2)  # the noise only decides the spike

LORENTZ = tl.constexpr(int(Curve.LORENTZ))
LOGISTIC = tl.constexpr(int(Curve.LOGISTIC))
TRIANGLE = tl.constexpr(int(Curve.TRIANGLE))
BOX = tl.constexpr(int(Curve.BOX))
EXPONENTIAL = tl.constexpr(int(Curve.EXPONENTIAL))
INVERSE_SQUARE = tl.constexpr(int(Curve.INVERSE_SQUARE))
GAUSSIAN = tl.constexpr(int(Curve.GAUSSIAN))

MULTIPLIER_0, MULTIPLIER_1 = (tl.constexpr(word) for word in noise.MULTIPLIERS)
KEY_INCREMENT_0, KEY_INCREMENT_1 = (tl.constexpr(word) for word in noise.KEY_INCREMENTS)
ROUNDS = tl.constexpr(noise.ROUNDS)
LOG_POLYNOMIAL = tl.constexpr(noise.LOG_POLYNOMIAL)
SIN_POLYNOMIAL = tl.constexpr(noise.SIN_POLYNOMIAL)
COS_POLYNOMIAL = tl.constexpr(noise.COS_POLYNOMIAL)
NEG_LN_2 = tl.constexpr(noise.NEG_LN_2)
SQRT_HALF_BITS = tl.constexpr(noise.SQRT_HALF_BITS)


@triton.jit
def one_step(v, x, xi, neuron, SOFT: tl.constexpr, NOISE: tl.constexpr):
    """The next state, the spike, and the membrane before and after the noise."""
    decay, gain, leak_bias, v_threshold, v_rest, noise_std = neuron
    h = decay * v + gain * x + leak_bias
    u = h
    if NOISE != NO_NOISE:
        u = h + noise_std * xi
    s = u >= v_threshold
    w = h if NOISE == THRESHOLD else u
    return tl.where(s, w - v_threshold if SOFT else v_rest, w), s, h, u


@triton.jit
def one_step_back(g_v, h, u, v_threshold, v_rest, SOFT: tl.constexpr, NOISE: tl.constexpr, DETACH_RESET: tl.constexpr):
    """From dL/dv after the step: what passes the reset, and what comes to the spike through it."""
    past = g_v if SOFT else tl.where(u >= v_threshold, 0.0, g_v)
    if DETACH_RESET:
        return past, tl.zeros_like(g_v)
    else:
        jump = -v_threshold if SOFT else v_rest - (h if NOISE == THRESHOLD else u)
        return past, tl.where(g_v == 0, 0.0, g_v * jump)  # the jump may be infinite


@triton.jit
def surrogate(d, a, b, CURVE: tl.constexpr):
    """The surrogate derivative of the firing step, at distance ``d`` from the threshold."""
    distance = tl.abs(d)
    if CURVE == LORENTZ:
        return a / (1 + (b * d) * (b * d))
    elif CURVE == LOGISTIC:
        e = tl.exp(-b * distance)
        return a * e / ((1 + e) * (1 + e))
    elif CURVE == TRIANGLE:
        return relu(a - b * distance)
    elif CURVE == BOX:
        return tl.where(distance < b, a, 0.0)
    elif CURVE == EXPONENTIAL:
        return a * tl.exp(-b * distance)
    elif CURVE == INVERSE_SQUARE:
        return a / ((1 + b * distance) * (1 + b * distance))
    else:
        tl.static_assert(CURVE == GAUSSIAN, "unknown surrogate curve")
        return a * tl.exp(-((b * d) * (b * d)))


@triton.jit
def relu(z):
    """max(0, z) that keeps NaN."""
    return tl.where(z < 0, 0.0, z)


@triton.jit
def four_normals(seed, low, high, block):
    """The noise of neuron ``high * 2**32 + low`` in steps ``4 * block`` to ``4 * block + 3``."""
    a, b, c, d = philox(seed, low, high, block)
    z0, z1 = box_muller(a, b)
    z2, z3 = box_muller(c, d)
    return z0, z1, z2, z3


@triton.jit
def philox(seed, c0, c1, block):
    """Philox4x32-10 at counter ``(c0, c1, block, 0)``."""
    k0, k1 = seed.to(tl.uint32), (seed >> 32).to(tl.uint32)
    c2, c3 = block.to(tl.uint32), tl.full((), 0, tl.uint32)
    for _ in tl.static_range(ROUNDS):
        # One product of 64 bits: cheaper than tl.umulhi and another multiplication for the low word.
        p0, p1 = c0.to(tl.uint64) * MULTIPLIER_0, c2.to(tl.uint64) * MULTIPLIER_1
        c0, c1 = (p1 >> 32).to(tl.uint32) ^ c1 ^ k0, p1.to(tl.uint32)
        c2, c3 = (p0 >> 32).to(tl.uint32) ^ c3 ^ k1, p0.to(tl.uint32)
        k0, k1 = k0 + KEY_INCREMENT_0, k1 + KEY_INCREMENT_1
    return c0, c1, c2, c3


@triton.jit
def box_muller(a, b):
    """Two standard normals from two words."""
    u = ((a >> 1).to(tl.int32, bitcast=True).to(tl.float32) + 0.5) * 2.0**-31
    bits = u.to(tl.int32, bitcast=True)
    exponent = (bits - SQRT_HALF_BITS) >> 23
    f = (bits - (exponent << 23)).to(tl.float32, bitcast=True) - 1.0
    # Correctly rounded: tl.sqrt approximates on GPUs, and a spike could differ.
    radius = tl.sqrt_rn(exponent.to(tl.float32) * NEG_LN_2 + f * horner(LOG_POLYNOMIAL, 7, f))

    y = (b << 2).to(tl.int32, bitcast=True).to(tl.float32) * 2.0**-32
    w = y * y
    s, c = y * horner(SIN_POLYNOMIAL, 3, w), horner(COS_POLYNOMIAL, 3, w)
    return flip_sign((c - s) * radius, b), flip_sign((c + s) * radius, b << 1)


@triton.jit
def horner(COEFFICIENTS: tl.constexpr, DEGREE: tl.constexpr, x):
    value = x * COEFFICIENTS[DEGREE] + COEFFICIENTS[DEGREE - 1]
    for i in tl.static_range(2, DEGREE + 1):
        value = value * x + COEFFICIENTS[DEGREE - i]
    return value


@triton.jit
def flip_sign(z, word):
    """``-z`` where bit 31 of the word is set."""
    return (z.to(tl.uint32, bitcast=True) ^ (word & 0x80000000)).to(tl.float32, bitcast=True)
