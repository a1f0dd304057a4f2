"""The noise, to the bit: counter-based standard normals from Philox4x32-10 and Box-Muller.

Every engine draws exactly these numbers. They depend on the seed, the neuron's logical index and the time step, and on
nothing else: not on memory layout, block size, thread count or device.

One Philox block serves four time steps of one neuron. With key = the 64-bit seed and counter =
(neuron low 32 bits, neuron high 32 bits, step // 4, 0) it gives the words w0..w3, and

    xi[4q], xi[4q+1] = box_muller(w0, w1);    xi[4q+2], xi[4q+3] = box_muller(w2, w3).

Logarithm, sine and cosine are polynomials of ``+ - *`` in fp32, evaluated by Horner's rule in the order written here,
with correctly rounded ``sqrt`` and never a fused multiply-add: so torch, C++ and Triton give the same bits.
Generator: Salmon et al., SC 2011. Counter layout, mapping to (0, 1) and polynomials: our decision.
"""

from numbers import Integral

import torch
from torch import Tensor

__all__ = ["box_muller", "philox", "standard_normal"]

STEPS_PER_BLOCK = 4
MAX_STEPS = 2**34  # step // 4 is a 32-bit word of the counter

MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
KEY_INCREMENTS = (0x9E3779B9, 0xBB67AE85)
ROUNDS = 10
_WORD = 0xFFFFFFFF

# -ln(1 + f) = f * (c0 + f * (c1 + ...)) for 1 + f in [sqrt(1/2), sqrt(2)); minimax error 3.7e-8.
LOG_POLYNOMIAL = (
    -1.0,
    0.500005841255188,
    -0.33335262537002563,
    0.24961474537849426,
    -0.19888246059417725,
    0.1732587069272995,
    -0.1633584350347519,
    0.10035210847854614,
)
# sin(pi/2 * y) = y * S(y*y) and cos(pi/2 * y) = C(y*y) for |y| <= 1/2; minimax errors 5.0e-9 and 3.3e-8.
SIN_POLYNOMIAL = (1.570796251296997, -0.6459610462188721, 0.07965986430644989, -0.004554165527224541)
COS_POLYNOMIAL = (1.0, -1.2336980104446411, 0.25360700488090515, -0.02042795903980732)
NEG_LN_2 = -0.6931471824645996
SQRT_HALF_BITS = 0x3F3504F3


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
        ``[steps, neurons]`` fp32. Largest possible magnitude 6.66; period 2^34 steps and 2^64 neurons.

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
    first_block, offset = divmod(first_step, STEPS_PER_BLOCK)
    blocks = -(-(offset + steps) // STEPS_PER_BLOCK)
    rows = []
    for block in range(first_block, first_block + blocks):
        w0, w1, w2, w3 = philox(key, torch.arange(neurons, device=device), block)
        rows += [*box_muller(w0, w1), *box_muller(w2, w3)]
    rows = rows[offset : offset + steps]
    return torch.stack(rows) if rows else torch.empty(0, neurons, device=device)


def philox(seed: Tensor, neuron: Tensor, block: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Philox4x32-10 at counter ``(neuron low, neuron high, block, 0)``: four 32-bit words, held in int64.

    ``seed`` is an int64 tensor of one element, ``neuron`` int64 of any shape ``[*]``; each word is ``[*]``.
    """
    # int64 products wrap modulo 2^64, so that bits 32..63 are right whatever the sign.
    key = [seed.reshape(()) & _WORD, (seed.reshape(()) >> 32) & _WORD]
    c0, c1, c2, c3 = neuron & _WORD, (neuron >> 32) & _WORD, torch.full_like(neuron, block), torch.zeros_like(neuron)
    for _ in range(ROUNDS):
        p0, p1 = c0 * MULTIPLIERS[0], c2 * MULTIPLIERS[1]
        c0, c1 = ((p1 >> 32) & _WORD) ^ c1 ^ key[0], p1 & _WORD
        c2, c3 = ((p0 >> 32) & _WORD) ^ c3 ^ key[1], p0 & _WORD
        key = [(k + increment) & _WORD for k, increment in zip(key, KEY_INCREMENTS, strict=True)]
    return c0, c1, c2, c3


def box_muller(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Two independent standard normals from two words: radius from ``a``, angle from ``b``.

    ``u = ((a >> 1) + 1/2) / 2^31`` in (0, 1] and ``R = sqrt(-ln u)``. The low 30 bits of ``b`` give
    ``y`` in [-1/2, 1/2], and with ``s, c = sin, cos(pi/2 * y)`` the pair is ``(c - s) R, (c + s) R``: that is
    ``sqrt(2) R`` times the cosine and sine of an angle in the first quadrant. The top two bits of ``b`` are the signs.
    Absolute error of ``-ln u`` below 2e-6, of the scaled sine and cosine below 2e-7.
    """
    u = ((a >> 1).float() + 0.5) * 2.0**-31
    bits = u.view(torch.int32)
    exponent = (bits - SQRT_HALF_BITS) >> 23
    f = (bits - (exponent << 23)).view(torch.float32) - 1.0
    neg_log = exponent.float() * NEG_LN_2 + f * _horner(LOG_POLYNOMIAL, f)
    radius = neg_log.double().sqrt().float()  # correctly rounded, which torch's fp32 sqrt is not on every CPU

    signed = (b << 2 & _WORD).to(torch.int32)  # as a signed 32-bit number
    y = signed.float() * 2.0**-32
    w = y * y
    s, c = y * _horner(SIN_POLYNOMIAL, w), _horner(COS_POLYNOMIAL, w)
    return _flip_sign((c - s) * radius, b), _flip_sign((c + s) * radius, b << 1)


def _horner(coefficients: tuple[float, ...], x: Tensor) -> Tensor:
    value = x * coefficients[-1] + coefficients[-2]
    for coefficient in coefficients[-3::-1]:
        value = value * x + coefficient
    return value


def _flip_sign(z: Tensor, word: Tensor) -> Tensor:
    """``-z`` where bit 31 of the word is set."""
    sign = (word & 0x80000000).to(torch.int32)
    return (z.view(torch.int32) ^ sign).view(torch.float32)


def as_seed(seed: int | Tensor, device: torch.device) -> Tensor:
    """The seed as a tensor of one int64 on ``device``; an int is taken modulo 2^64."""
    if isinstance(seed, Tensor):
        if seed.dtype != torch.int64 or seed.layout != torch.strided or seed.numel() != 1:
            raise TypeError(
                f"noise_seed must be one int64, got {seed.dtype} of shape {tuple(seed.shape)} and {seed.layout}"
            )
        if seed.device != device:
            raise ValueError(f"noise_seed must be on {device} as x is, got {seed.device}")
        return seed
    if not isinstance(seed, Integral) or isinstance(seed, bool):
        raise TypeError(f"noise_seed must be an int, an int64 tensor or None, got {type(seed).__name__}")
    if not -(2**63) <= seed < 2**64:
        raise ValueError(f"noise_seed must fit in 64 bits, got {seed}")
    return torch.full((), int(seed) - 2**64 if seed >= 2**63 else int(seed), dtype=torch.int64, device=device)


def seed_for(noise_std: float, seed: int | Tensor | None, device: torch.device) -> Tensor | None:
    """The seed of a call, drawn where none is given; None where there is no noise."""
    given = None if seed is None else as_seed(seed, device)
    if noise_std == 0:
        return None
    return draw_seed(device) if given is None else given


def draw_seed(device: torch.device) -> Tensor:
    """A seed from torch's default generator of ``device``, so that ``torch.manual_seed`` governs the noise."""
    return torch.randint(2**63 - 1, (), dtype=torch.int64, device=device)


def check_step(first_step: int, steps: int) -> None:
    if not isinstance(first_step, (int, Integral)) or isinstance(first_step, bool):  # int alone is found at once
        raise TypeError(f"noise_step must be an int, got {type(first_step).__name__}")
    # torch.export would take the bound on a symbolic number of steps for a demand on every input.
    if first_step < 0 or (not torch.compiler.is_compiling() and first_step + steps > MAX_STEPS):
        raise ValueError(f"noise_step must be >= 0 and end within 2^34 steps, got {first_step} + {steps}")
