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

HARD = tl.constexpr(0)  # to v_rest
SOFT = tl.constexpr(1)  # by the threshold
SUBTRACTED = tl.constexpr(2)  # by a constant of its own

NO_MEMBRANE = tl.constexpr(0)
CHARGED = tl.constexpr(1)  # the membrane that is an output: h, u, or the state after the step
NOISY = tl.constexpr(2)
RESET = tl.constexpr(3)

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
def fire(h, threshold, by, noise_std, firing, F: tl.constexpr):
    """The membrane after a step; and whether it fired, before and after the noise, against which threshold."""
    u = h
    if F.noise != NO_NOISE:
        u = h + noise_std * firing[0]
    s = u > threshold if F.strict else u >= threshold
    fired = s, h, u, threshold, by
    return after_of(fired, firing, F), fired


@triton.jit
def after_of(fired, firing, F: tl.constexpr):
    s, h, u, threshold, by = fired
    w = h if F.noise == THRESHOLD else u
    if F.reset == HARD:
        after = firing[1]
    else:
        after = w - (by if F.reset == SUBTRACTED else threshold)
    return tl.where(s, after, w)


@triton.jit
def fire_back(g_s, g_v, fired, firing, F: tl.constexpr):
    """From dL/ds, dL/dv after the step and dL/d(the output membrane): those of h, threshold, ``by`` and noise_std."""
    s, h, u, threshold, by = fired
    xi, v_rest, guard_margin, _, k, height, scale, g_m = firing
    zero = tl.zeros_like(g_v)
    if F.membrane == RESET:
        g_v += g_m
    past = tl.where(s, 0.0, g_v) if F.reset == HARD else g_v
    subtracted = zero if F.reset == HARD else tl.where(s, -g_v, 0.0)
    ds = g_s
    if not F.detach_reset:
        if F.reset == HARD:
            jump = v_rest - (h if F.noise == THRESHOLD else u)
        else:
            jump = -(by if F.reset == SUBTRACTED else threshold)
        ds = plus(ds, tl.where(g_v == 0, 0.0, g_v * jump))  # the jump may be infinite
    through = zero
    g_h = past
    if ds is not None:
        z = surrogate((h if F.surrogate_at_h else u) - threshold, height, scale, F.curve)
        through = tl.where(ds == 0, ds, ds * z)  # z of a NaN membrane is NaN
        g_h += through
    g_u = past + through if F.noise == MEMBRANE else through
    if F.membrane == NOISY:
        g_u += g_m
    if F.membrane == NOISY or F.membrane == CHARGED:
        g_h += g_m
    g_std = g_u * xi
    g_threshold = -through if F.reset == SUBTRACTED else subtracted - through
    if F.guard:
        distance = h - threshold
        pull = with_sign_of(k, distance)
        if F.squared:
            pull *= 2 * (guard_margin - tl.abs(distance))
        if F.below:
            pull = tl.where(distance < 0, pull, 0.0)
        pull = tl.where((tl.abs(distance) < guard_margin) & (distance != 0), pull, 0.0)
        g_h -= pull
        g_threshold += pull
    return g_h, g_threshold, subtracted, g_std


@triton.jit
def membrane_of(fired, after, F: tl.constexpr):
    """The membrane that is an output, from the one after the step."""
    return fired[1] if F.membrane == CHARGED else fired[2] if F.membrane == NOISY else after


@triton.jit
def guard_term(d, guard_margin, grid, F: tl.constexpr):
    """One term of the penalty, from h - threshold. A NaN membrane gives NaN."""
    term = tl.maximum(guard_margin - tl.abs(d), 0.0, propagate_nan=tl.PropagateNan.ALL)
    if F.squared:
        term = (term * term + grid) - grid  # rounded, so that the sum is exact
    if F.below:
        term = tl.where(d >= 0, 0.0, term)
    return term


@triton.jit
def spike_of(fired):
    return tl.where(fired[0], 1.0, 0.0)


@triton.jit
def plus(a, b):
    """The sum of two gradients, of which the first may be none."""
    if a is None:
        return b
    else:
        return a + b


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
