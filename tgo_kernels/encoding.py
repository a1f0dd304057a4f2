"""Poisson encoding: values as the rates of spikes, by the random numbers of :mod:`tgo_kernels.noise`.

They are of a stream beside the noise's: counter = (pair low 32 bits, pair high 32 bits, step // 4, 1). A word is two
numbers of 16 bits, its low half that of an even step, its high half that of the odd step behind it.
"""

from functools import partial
from numbers import Integral
from typing import Any, Literal, NoReturn

import torch
from torch import Tensor

from tgo_kernels import kernels, noise
from tgo_kernels.call import check_dense
from tgo_kernels.layout import in_steps
from tgo_kernels.library import LIBRARY, Function, apply, below, differentiated, is_plain
from tgo_kernels.neurons.base import check_bool, check_choice, state_dtype
from tgo_kernels.packing import note_integers

GRADIENTS = ("straight", "masked", "score")

# Of a dense x; the spikes lie as it does, step behind step.
LIBRARY.define(
    "poisson_spikes(Tensor x, SymInt steps, bool signed, Tensor seed, SymInt step) -> Tensor",
    tags=(torch.Tag.pt2_compliant_tag, torch.Tag.needs_exact_strides),
)
_kernel = torch.ops.tgo_kernels.poisson_spikes.default


def poisson(
    x: Tensor,
    steps: int,
    signed: bool = False,
    seed: int | Tensor | None = None,
    step: int = 0,
    gradient: Literal["straight", "masked", "score"] = "straight",
) -> Tensor:
    """Spikes whose rates are the values of ``x``: in each step independently, ::

        s[t] = 1 if k[t] < 65536 p else 0,   p = x              k[t] uniform on 0 .. 65535
        s[t] = sign(x) if k[t] < 65536 p,    p = |x|            signed

    with ``65536 p`` rounded to an integer, so that a rate is what was asked for to 2^-17, and 0 and 1 are exact. The
    numbers ``k`` depend on the seed, an element's logical index and its step alone: neither memory layout nor engine,
    nor in how many calls the steps are made, changes a spike. Rate coding of either sign: Sharmin et al. (arXiv
    2003.10399), in their code. Generator, and probabilities of 16 bits: our decision.

    The gradient is ``sum_t w[t] dL/ds[t]``, with

    - "straight": ``w = 1``, straight through, as Sharmin et al. attack: the expected gradient where the loss is linear
      in each spike;
    - "masked": ``w = |s[t]|``, through the spikes that there are;
    - "score": ``w = |s[t]| / p``, which has the mean of the first: the score function's estimate, of a loss taken as
      linear in each spike, ``s dL/ds d log P(s) / dp``. Where p = 0 it is 0.

    The last two are our decision. "straight" keeps nothing for it, the others keep the spikes, "score" x too.

    Args:
        x: [*], in [0, 1], or signed in [-1, 1]; fp32, fp16, bf16 or fp64, any strides. On a CPU what is out of that is
            refused; on a GPU, which would have to be waited for, and where the call is compiled or transformed, it is
            taken as the nearest bound, NaN as 0.
        steps: T, at least 1.
        signed: whether spikes have the sign of x.
        seed: 64 bits, an int or an int64 tensor on x's device; None draws one from torch's default generator.
        step: the time step of the first one, so that a sequence can be made in chunks.
        gradient: "straight", "masked" or "score".

    Returns:
        Spikes [T, *] in x's dtype, which lie in memory as x does, step behind step; contiguous where x is not dense.

    Raises:
        TypeError, ValueError: naming the argument, what was expected and what came.
        RuntimeError: forward mode, or vmap.
    """
    if not isinstance(x, Tensor):
        raise TypeError(f"x must be a torch.Tensor, got {type(x).__name__}")
    if not x.is_floating_point():
        raise TypeError(f"x must be rates in a floating-point dtype, got {x.dtype}; of images of 8 bits it is x / 255")
    check_dense("x", x)
    if not isinstance(steps, (int, Integral, torch.SymInt)) or isinstance(steps, bool):
        raise TypeError(f"steps must be an int, got {type(steps).__name__}")
    if steps < 1:
        raise ValueError(f"steps must be at least 1, got {steps}")
    check_bool("signed", signed)
    check_choice("gradient", gradient, GRADIENTS)
    noise.check_step(step, steps, "step")
    key = noise.draw_seed(x.device) if seed is None else noise.as_seed(seed, x.device, "seed")
    if x.is_cpu and x.numel() and is_plain(x):
        low, high = map(float, x.detach().aminmax())
        least = -1.0 if signed else 0.0
        if not (least <= low and high <= 1):
            hint = "" if signed or not -1 <= low < 0 else "; signed=True is for values in [-1, 1]"
            raise ValueError(f"x must be rates in [{least:g}, 1], got values from {low:.8g} to {high:.8g}{hint}")
    spikes = _poisson(x, steps, signed, key, step, gradient)
    if not signed:
        note_integers(spikes, largest=1)
    return spikes


def _spikes(x: Tensor, steps: int, signed: bool, seed: Tensor, step: int, _: str) -> Tensor:
    if not torch.ops.aten.is_non_overlapping_and_dense.default(x):
        x = x.contiguous()
    return below(_kernel if kernels.serve(x) else reference, x, steps, signed, seed, step)


torch.library.register_fake("tgo_kernels::poisson_spikes", lambda x, steps, *_: in_steps(x, steps), lib=LIBRARY)


def reference(x: Tensor, steps: int, signed: bool, seed: Tensor, step: int) -> Tensor:
    """The specification, in plain torch."""
    value = x.to(state_dtype(x.dtype))
    size = value.abs() if signed else value
    chances = (torch.where(size > 0, size, 0).clamp(max=1) * 65536 + 0.5).long()  # rounded down
    spike = torch.copysign(torch.ones_like(value), value) if signed else torch.ones_like(value)
    rows = noise.rows_of(seed, steps, x.numel(), step, lambda word: (word & 0xFFFF, word >> 16), noise.CHANCES)
    spikes = in_steps(x, steps)
    for row, number in zip(spikes, rows, strict=True):
        row.copy_(torch.where(number.view(x.shape) < chances, spike, 0))
    return spikes


class _Poisson(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, *about: Any) -> Tensor:
        spikes = below(_poisson, x, *about)
        ctx.save_for_backward(*{"straight": (), "masked": (spikes,), "score": (spikes, x)}[about[-1]])
        return spikes

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
        weight, *x = (saved.abs() for saved in ctx.saved_tensors) if ctx.saved_tensors else (None,)
        g_x = (grad if weight is None else grad * weight).sum(0)
        for p in x:
            g_x = torch.where(p > 0, g_x / p, 0)
        return g_x, *[None] * 5

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> NoReturn:
        raise RuntimeError("tgo_kernels.poisson has no forward-mode derivative (jvp): take the backward")


def _no_vmap(*arguments: Any) -> NoReturn:
    raise RuntimeError("tgo_kernels.poisson has no vmap: it takes x of any shape, so give it the whole batch")


_poisson = differentiated(
    "poisson",
    "(Tensor x, SymInt steps, bool signed, Tensor seed, SymInt step, str gradient) -> Tensor",
    _spikes,
    partial(apply, _Poisson),
    _no_vmap,
)
