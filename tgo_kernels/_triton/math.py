"""What the kernels compute for one block of neurons: a step and its reverse, the surrogate curves, the noise.

The specification is :mod:`tgo_kernels.reference`, :mod:`tgo_kernels.surrogate` and :mod:`tgo_kernels.noise`; the order
of operations is theirs.
"""

import triton
import triton.language as tl

from tgo_kernels import noise
from tgo_kernels.neurons.base import Spikes
from tgo_kernels.surrogate import Curve

TERNARY, INTEGER = tl.constexpr(int(Spikes.TERNARY)), tl.constexpr(int(Spikes.INTEGER))

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
    if F.spikes == INTEGER:
        s = integer_of(u, threshold) > 0
    else:
        size = size_of(u, F)
        s = size > threshold if F.strict else size >= threshold
    fired = s, h, u, threshold, by
    return after_of(fired, firing, F), fired


@triton.jit
def after_of(fired, firing, F: tl.constexpr):
    s, h, u, threshold, by = fired
    w = h if F.noise == THRESHOLD else u
    if F.spikes == INTEGER:
        after = w - integer_of(u, threshold)
    elif F.reset == HARD:
        after = firing[1]
    else:
        after = w - along(u, by if F.reset == SUBTRACTED else threshold, F)
    return tl.where(s, after, w)


@triton.jit
def fire_back(g_s, g_v, fired, firing, F: tl.constexpr):
    """From dL/ds, dL/dv after the step and dL/d(the output membrane): those of h, threshold, ``by`` and noise_std."""
    s, h, u, threshold, by = fired
    xi, v_rest, guard_margin, _, k, height, scale, g_m = firing
    zero = tl.zeros_like(g_v)
    if F.membrane == RESET:
        g_v += g_m
    HARD_RESET: tl.constexpr = F.reset == HARD and F.spikes != INTEGER
    past = tl.where(s, 0.0, g_v) if HARD_RESET else g_v
    subtracted = zero if HARD_RESET or F.spikes == INTEGER else tl.where(s, -along(u, g_v, F), 0.0)
    ds = g_s
    if F.spikes == INTEGER and g_s is not None:
        ds = g_s * by
    if not F.detach_reset:
        if F.spikes == INTEGER:
            jump = -1.0
        elif F.reset == HARD:
            jump = along(u, v_rest - (h if F.noise == THRESHOLD else u), F)
        else:
            jump = -(by if F.reset == SUBTRACTED else threshold)
        ds = plus(ds, tl.where(g_v == 0, 0.0, g_v * jump))  # the jump may be infinite
    through = zero
    g_h = past
    if ds is not None:
        z = surrogate(distance_of(h if F.surrogate_at_h else u, fired, F), height, scale, F.curve)
        through = tl.where(ds == 0, ds, ds * z)  # z of a NaN membrane is NaN
        g_h += through
    g_u = past + through if F.noise == MEMBRANE else through
    if F.membrane == NOISY:
        g_u += g_m
    if F.membrane == NOISY or F.membrane == CHARGED:
        g_h += g_m
    g_std = g_u * xi
    up = zero if F.spikes == INTEGER else along(u, through, F)
    g_threshold = -up if F.reset == SUBTRACTED else subtracted - up
    if F.guard:
        distance = distance_of(h, fired, F)
        pull = with_sign_of(k, distance)
        if F.squared:
            pull *= 2 * (guard_margin - tl.abs(distance))
        if F.below:
            pull = tl.where(distance < 0, pull, 0.0)
        pull = tl.where((tl.abs(distance) < guard_margin) & (distance != 0), pull, 0.0)
        g_h -= along(h, pull, F)
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
def spike_of(fired, F: tl.constexpr):
    s, _, u, threshold, by = fired
    if F.spikes == INTEGER:
        spike = integer_of(u, threshold) * by
    else:
        spike = along(u, tl.full(u.shape, 1.0, u.dtype), F)
    return tl.where(s, spike, 0.0)


@triton.jit
def count_of(fired, spike, F: tl.constexpr):
    """As how many it counts."""
    if F.spikes == INTEGER:
        count = tl.where(fired[0], integer_of(fired[2], fired[3]), 0.0)
    else:
        count = size_of(spike, F)
    return count


@triton.jit
def integer_of(u, most):
    """The nearest integer from 0 to ``most``, half to even."""
    positive = tl.where(u > 0, u, 0.0)
    bounded = tl.where(positive < most, positive, most)
    return (bounded + 8388608.0) - 8388608.0  # 2^23


@triton.jit
def along(v, x, F: tl.constexpr):
    """``x``, or ``-x`` where spikes have a sign and that of a membrane is negative."""
    return tl.where(v < 0, -x, x) if F.spikes == TERNARY else x


@triton.jit
def larger(a, b):
    """As torch.maximum: NaN where one is."""
    return tl.where((a >= b) | (a != a), a, b)


@triton.jit
def smaller(a, b):
    return tl.where((a <= b) | (a != a), a, b)


@triton.jit
def size_of(v, F: tl.constexpr):
    """What of a membrane is held against the threshold."""
    return tl.abs(v) if F.spikes == TERNARY else v


@triton.jit
def distance_of(v, fired, F: tl.constexpr):
    """How far a membrane is past the threshold; of integers 0, or 1 where it is outside of what they round."""
    threshold = fired[3]
    if F.spikes == INTEGER:
        distance = tl.where((v >= 0) & (v <= threshold), 0.0, 1.0)
    else:
        distance = size_of(v, F) - threshold
    return distance


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
def philox(seed, c0, c1, block, STREAM: tl.constexpr):
    """Philox4x32-10 at counter ``(c0, c1, block, STREAM)``."""
    k0, k1 = seed
    c2, c3 = block.to(tl.uint32), tl.full((), STREAM, tl.uint32)
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
