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
SIXTEENTHS, SHIFT, ONE, LOG_OFFSET, ANGLE, ROOT = (
    tl.constexpr(c) for c in (noise.SIXTEENTHS, noise.SHIFT, noise.ONE, noise.LOG_OFFSET, noise.ANGLE, noise.ROOT)
)
LOG_SLOPE, LOG_QUARTIC = tl.constexpr(noise.LOG_SLOPE), tl.constexpr(noise.LOG_QUARTIC)
COSINE, SINE = tl.constexpr(noise.COSINE), tl.constexpr(noise.SINE)
INTERPRETED = tl.constexpr(triton.knobs.runtime.interpret)


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
        root = tl.rsqrt(1 + (b * d) * (b * d))  # a quotient is three times as dear
        return a * (root * root)
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
def with_sign_of(k, d):
    """``k`` where ``d`` is positive, ``-k`` where it is negative."""
    sign = d.to(tl.uint32, bitcast=True) & 0x80000000
    return (k.to(tl.uint32, bitcast=True) ^ sign).to(tl.float32, bitcast=True)


@triton.jit
def relu(z):
    """max(0, z) that keeps NaN."""
    return tl.where(z < 0, 0.0, z)


@triton.jit
def philox(seed, c0, c1, block):
    """Philox4x32-10 at counter ``(c0, c1, block, 0)``."""
    k0, k1 = seed
    c2, c3 = block.to(tl.uint32), tl.full((), 0, tl.uint32)
    for _ in tl.static_range(ROUNDS):
        # One product of 64 bits: cheaper than tl.umulhi and another multiplication for the low word.
        p0, p1 = c0.to(tl.uint64) * MULTIPLIER_0, c2.to(tl.uint64) * MULTIPLIER_1
        c0, c1 = (p1 >> 32).to(tl.uint32) ^ c1 ^ k0, p1.to(tl.uint32)
        c2, c3 = (p0 >> 32).to(tl.uint32) ^ c3 ^ k1, p0.to(tl.uint32)
        k0, k1 = k0 + KEY_INCREMENT_0, k1 + KEY_INCREMENT_1
    return c0, c1, c2, c3


@triton.jit
def two_normals(word):
    """Two standard normals from a word."""
    bits = (((word & 0xFFFFF) | SIXTEENTHS).to(tl.float32, bitcast=True) + SHIFT).to(tl.int32, bitcast=True)
    m = (bits | ONE).to(tl.float32, bitcast=True)
    q = (m + LOG_QUARTIC[0]) * m
    rest = exact_product_plus(m, LOG_SLOPE[0], LOG_SLOPE[1]) * ((q + LOG_QUARTIC[1]) * q + LOG_QUARTIC[2])
    square = exact_product_plus((bits - LOG_OFFSET).to(tl.float32), -(2.0**-22), rest)
    radius = (square_root(square).to(tl.uint32, bitcast=True) ^ (word & 0x80000000)).to(tl.float32, bitcast=True)

    y = (word * ANGLE).to(tl.int32, bitcast=True).to(tl.float32) * 2.0**-32
    t = y * y
    p = (t + ROOT) * t
    cosine = (t + COSINE[0]) * (p + COSINE[1])
    sine = y * (exact_product_plus(t, 0.5, SINE[0]) * (p + SINE[1]) + SINE[2])
    return radius * cosine, radius * sine


@triton.jit
def exact_product_plus(x, scale, c):
    """``x * scale + c`` where the product is exact: one instruction or two, the bits are the same."""
    return tl.fma(x, scale, c)


@triton.jit
def square_root(x):
    """Correctly rounded, or a spike could differ: from an approximate inverse root, for every square of two_normals."""
    if INTERPRETED:  # its tl.fma rounds twice
        return tl.sqrt_rn(x)
    else:
        inverse = tl.rsqrt(x)
        root = x * inverse
        return tl.fma(tl.fma(root * -1.0, root, x), inverse * 0.5, root)
