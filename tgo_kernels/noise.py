"""The noise, to the bit: counter-based standard normals from Philox4x32-10 and Box-Muller.

Every engine draws exactly these numbers. They depend on the seed, the neuron's logical index and the time step, and on
nothing else: not on memory layout, block size, thread count or device.

One Philox block serves four time steps of two neurons, the even one and the odd one of a pair. With key = the 64-bit
seed and counter = (pair low 32 bits, pair high 32 bits, step // 4, 0), pair = neuron // 2, it gives the words w0..w3;
w0, w1 are the even neuron's, w2, w3 the odd one's, and for a neuron's two words a and b

    xi[4q], xi[4q+1] = two_normals(a);    xi[4q+2], xi[4q+3] = two_normals(b).

Logarithm, sine and cosine are polynomials of ``+ - *`` in fp32, evaluated in the order written here, with a correctly
rounded ``sqrt`` and never a fused multiply-add, but where the product is exact: so torch, C++ and Triton give the same
bits. Generator: Salmon et al., SC 2011. Counter layout, mapping to (0, 1) and polynomials: our decision.
"""

from collections.abc import Callable
from numbers import Integral

import torch
from torch import Tensor

__all__ = ["philox", "standard_normal", "two_normals"]

STEPS_PER_BLOCK = 4
NORMALS, CHANCES = 0, 1  # the counter's last word: streams of one seed, the noise and spikes by chance
MAX_STEPS = 2**34  # step // 4 is a 32-bit word of the counter

MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
KEY_INCREMENTS = (0x9E3779B9, 0xBB67AE85)
ROUNDS = 10
_WORD = 0xFFFFFFFF

# Of u = (2k+1)/2^21 for the low 20 bits k of a word: 2u, from the bits of a float in [16, 32).
SIXTEENTHS, SHIFT = 0x41800000, -15.999999046325684
ONE = 0x3F800000  # the exponent of floats in [1, 2)
# For the bits b of 2u and its mantissa m in [1, 2), -2 log2(u) = (LOG_OFFSET - b) 2^-22 + LOG_SLOPE(m) LOG_QUARTIC(m).
LOG_OFFSET = 1073410784
LOG_SLOPE = (-0.078125, 0.2853561341762543)
LOG_QUARTIC = (-2.947556972503662, 8.237969398498535, 12.631758689880371)
ANGLE = 0x13C6F2  # the angle is the word times this, modulo 1: its own low bits made the radius
# -sqrt(ln 2) cos(pi y) and -sqrt(ln 2) sin(pi y) for |y| <= 1/2, where p = (y^2 + ROOT) y^2.
ROOT = -3.1080756187438965
COSINE = (-0.2500007748603821, 3.3301398754119873)
SINE = (-0.5735214352607727, 5.039614200592041, 0.27482274174690247)


def standard_normal(
    seed: int | Tensor, steps: int, neurons: int, *, first_step: int = 0, device: torch.device | str | None = None
) -> Tensor:
    """Standard normals ``xi[t, n]``: exactly the noise that every engine adds to neuron ``n`` at step ``t``.

    Args:
        seed: the 64-bit key, an int or an int64 tensor of one element.
        steps, neurons: the shape of the result.
        first_step: the time step of row 0 in the noise stream (``noise_step`` of :func:`tgo_kernels.lif`).
        device: where to compute; the seed's device, or the CPU, if not given.

    Returns:
        ``[steps, neurons]`` fp32. Largest possible magnitude 5.40; period 2^34 steps and 2^64 neurons.

    Raises:
        TypeError, ValueError: naming the argument, for a seed, step or size outside these ranges.
    """
    for name, value in (("steps", steps), ("neurons", neurons)):
        if not isinstance(value, Integral) or isinstance(value, bool):
            raise TypeError(f"{name} must be an int, got {type(value).__name__}")
        if value < 0:
            raise ValueError(f"{name} must be >= 0, got {value}")
    check_step(first_step, steps)
    if device is None:
        device = seed.device if isinstance(seed, Tensor) else "cpu"
    key = as_seed(seed, torch.device(device))
    rows = rows_of(key, steps, neurons, first_step, two_normals)
    return torch.stack(rows) if rows else torch.empty(0, neurons, device=device)


def rows_of(
    seed: Tensor,
    steps: int,
    neurons: int,
    first_step: int,
    two_of: Callable[[Tensor], tuple[Tensor, Tensor]],
    stream: int = NORMALS,
) -> list[Tensor]:
    """Of so many steps the numbers of all neurons, two of them from each word."""
    first_block, offset = divmod(first_step, STEPS_PER_BLOCK)
    blocks = -(-(offset + steps) // STEPS_PER_BLOCK)
    pairs = torch.arange((neurons + 1) // 2, device=seed.device)
    rows: list[Tensor] = []
    for block in range(first_block, first_block + blocks):
        w0, w1, w2, w3 = philox(seed, pairs, block, stream)
        for even, odd in ((w0, w2), (w1, w3)):
            rows += two_of(torch.stack((even, odd), -1).flatten()[:neurons])
    return rows[offset : offset + steps]


def philox(seed: Tensor, pair: Tensor, block: int, stream: int = NORMALS) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Philox4x32-10 at counter ``(pair low, pair high, block, stream)``: four 32-bit words, held in int64.

    ``seed`` is an int64 tensor of one element, ``pair`` int64 of any shape ``[*]``; each word is ``[*]``.
    """
    # int64 products wrap modulo 2^64, so that bits 32..63 are right whatever the sign.
    key = [seed.reshape(()) & _WORD, (seed.reshape(()) >> 32) & _WORD]
    c0, c1, c2, c3 = pair & _WORD, (pair >> 32) & _WORD, torch.full_like(pair, block), torch.full_like(pair, stream)
    for _ in range(ROUNDS):
        p0, p1 = c0 * MULTIPLIERS[0], c2 * MULTIPLIERS[1]
        c0, c1 = ((p1 >> 32) & _WORD) ^ c1 ^ key[0], p1 & _WORD
        c2, c3 = ((p0 >> 32) & _WORD) ^ c3 ^ key[1], p0 & _WORD
        key = [(k + increment) & _WORD for k, increment in zip(key, KEY_INCREMENTS, strict=True)]
    return c0, c1, c2, c3


def two_normals(word: Tensor) -> tuple[Tensor, Tensor]:
    """Two independent standard normals from one word: the radius from its low 20 bits, the angle from all but the top
    one, which is the sign of both.

    With ``u = (2k + 1)/2^21`` for its low 20 bits k and ``y = word * ANGLE / 2^32`` modulo 1, in [-1/2, 1/2), they are
    ``sqrt(-2 ln u)`` times ``cos(pi y)`` and ``sin(pi y)``, both negated if the top bit is not set. Over all 2^32 words
    the distribution function is within 1.4e-6 of the normal one, the variance within 8e-6.
    """
    double = _as_float(word & 0xFFFFF | SIXTEENTHS) + SHIFT
    bits = double.view(torch.int32)
    m = (bits | ONE).view(torch.float32)
    q = (m + LOG_QUARTIC[0]) * m
    rest = (m * LOG_SLOPE[0] + LOG_SLOPE[1]) * ((q + LOG_QUARTIC[1]) * q + LOG_QUARTIC[2])
    square = (LOG_OFFSET - bits).float() * 2.0**-22 + rest
    root = square.double().sqrt().float()  # correctly rounded, which torch's fp32 sqrt is not on every CPU
    radius = (root.view(torch.int32) ^ (word & 0x80000000).to(torch.int32)).view(torch.float32)

    y = (word * ANGLE & _WORD).to(torch.int32).float() * 2.0**-32
    t = y * y
    p = (t + ROOT) * t
    cosine = (t + COSINE[0]) * (p + COSINE[1])
    sine = y * ((t * 0.5 + SINE[0]) * (p + SINE[1]) + SINE[2])
    return radius * cosine, radius * sine


def _as_float(word: Tensor) -> Tensor:
    return word.to(torch.int32).view(torch.float32)


def as_seed(seed: int | Tensor, device: torch.device, name: str = "noise_seed") -> Tensor:
    """The seed as a tensor of one int64 on ``device``; an int is taken modulo 2^64."""
    if isinstance(seed, Tensor):
        if seed.dtype != torch.int64 or seed.layout != torch.strided or seed.numel() != 1:
            raise TypeError(
                f"{name} must be one int64, got {seed.dtype} of shape {tuple(seed.shape)} and {seed.layout}"
            )
        if seed.device != device:
            raise ValueError(f"{name} must be on {device} as x is, got {seed.device}")
        return seed
    if not isinstance(seed, Integral) or isinstance(seed, bool):
        raise TypeError(f"{name} must be an int, an int64 tensor or None, got {type(seed).__name__}")
    if not -(2**63) <= seed < 2**64:
        raise ValueError(f"{name} must fit in 64 bits, got {seed}")
    return torch.full((), int(seed) - 2**64 if seed >= 2**63 else int(seed), dtype=torch.int64, device=device)


def seed_for(noisy: bool, seed: int | Tensor | None, device: torch.device) -> Tensor | None:
    """The seed of a call, drawn where none is given; None where there is no noise."""
    given = None if seed is None else as_seed(seed, device)
    if not noisy:
        return None
    return draw_seed(device) if given is None else given


def draw_seed(device: torch.device) -> Tensor:
    """A seed from torch's default generator of ``device``, so that ``torch.manual_seed`` governs the noise."""
    return torch.randint(2**63 - 1, (), dtype=torch.int64, device=device)


def check_step(first_step: int, steps: int, name: str = "noise_step") -> None:
    if not isinstance(first_step, (int, Integral)) or isinstance(first_step, bool):  # int alone is found at once
        raise TypeError(f"{name} must be an int, got {type(first_step).__name__}")
    # torch.export would take the bound on a symbolic number of steps for a demand on every input.
    if first_step < 0 or (not torch.compiler.is_compiling() and first_step + steps > MAX_STEPS):
        raise ValueError(f"{name} must be >= 0 and end within 2^34 steps, got {first_step} + {steps}")
