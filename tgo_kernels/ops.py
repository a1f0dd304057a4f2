"""The operators as torch sees them: schemas, fakes, and which engine serves a call.

Each engine has the same pair of operators, ``lif_fwd`` and ``lif_bwd``: those of the compiled engine keep these names,
those of Triton end in ``_triton``. x may have any layout: a dense one is processed as it lies, anything else is copied
once. Results take x's layout. ``lif_fwd`` is differentiable, once; what else transforms of torch could ask for raises.
"""

import functools
import importlib.util
import os
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NoReturn

import torch
from torch import Tensor
from torch._C._functorch import unwrap_if_dead

from tgo_kernels import native
from tgo_kernels.library import LIBRARY, Function, apply, below, gradient, no_vmap, untraced
from tgo_kernels.neuron import GUARD_MARGIN

CHECKPOINT_EVERY = 8  # steps between two saved states; T <= 8 saves none

# constants: those of Neuron, switches as 0 or 1. One list, since torch takes 0.2 us for each argument.
# table: decay, gain and v_threshold, [3, D] fp32: those of neuron m in the order of memory stand in column m % D.
# checkpoints: (T-1) // checkpoint_every rows of N fp32, states that far apart, where the engine likes; none for 0,
# unless a gradient is to come: then it is CHECKPOINT_EVERY.
_FORWARD = (
    "(Tensor x, Tensor? v_init, Tensor? table, Tensor? seed, SymInt noise_step, int checkpoint_every, "
    "float[] constants)"
    " -> (Tensor spikes, Tensor v_final, Tensor penalty, Tensor neighbors, Tensor fired, Tensor checkpoints)"
)
_BACKWARD = (
    "(Tensor x, Tensor? v_init, Tensor? table, Tensor? seed, SymInt noise_step, int checkpoint_every, "
    "Tensor checkpoints, Tensor? g_spikes, Tensor? g_v_final, Tensor? g_penalty, bool need_g_v_init, "
    "float[] constants) -> (Tensor g_x, Tensor g_v_init, Tensor g_table)"
)
ENGINES = ("native", "triton", "reference")
_SUFFIX = {"native": "", "triton": "_triton"}

# The fakes promise strides, and neuron indices follow them: the compiler must not choose others.
_TAGS = (torch.Tag.pt2_compliant_tag, torch.Tag.needs_exact_strides)


def _lif_fwd_fake(
    x: Tensor,
    v_init: Tensor | None,
    table: Tensor | None,
    seed: Tensor | None,
    noise_step: int,
    checkpoint_every: int,
    constants: list[float],
) -> tuple[Tensor, ...]:
    steps, spikes = x.shape[0], torch.empty_like(x)
    rows = (steps - 1) // checkpoint_every if checkpoint_every else 0
    state = torch.empty_like(spikes[0], dtype=torch.float32)
    count = x.new_empty((), dtype=torch.int64)
    penalty = x.new_empty((), dtype=torch.float32)
    checkpoints = x.new_empty(rows * x[0].numel(), dtype=torch.float32)
    return spikes, state, penalty, count, torch.empty_like(count), checkpoints


def _lif_bwd_fake(
    x: Tensor,
    v_init: Tensor | None,
    table: Tensor | None,
    seed: Tensor | None,
    noise_step: int,
    checkpoint_every: int,
    checkpoints: Tensor,
    g_spikes: Tensor | None,
    g_v_final: Tensor | None,
    g_penalty: Tensor | None,
    need_g_v_init: bool,
    constants: list[float],
) -> tuple[Tensor, Tensor, Tensor]:
    g_x, none = torch.empty_like(x), x.new_empty(0, dtype=torch.float32)
    state = torch.empty_like(g_x[0], dtype=torch.float32) if need_g_v_init else none
    return g_x, state, torch.empty_like(none if table is None else table)


for _suffix in _SUFFIX.values():
    for _name, _schema, _fake in (("lif_fwd", _FORWARD, _lif_fwd_fake), ("lif_bwd", _BACKWARD, _lif_bwd_fake)):
        LIBRARY.define(_name + _suffix + _schema, tags=_TAGS)
        torch.library.register_fake(f"tgo_kernels::{_name}{_suffix}", _fake, lib=LIBRARY)


LIBRARY.define("cpu_kernels() -> str")  # the instruction set that the compiled engine runs here


def _lif_fwd_triton(*args: Any) -> tuple[Tensor, ...]:
    from tgo_kernels._triton.launch import lif_fwd  # triton is imported by its first call

    return lif_fwd(*args)


def _lif_bwd_triton(*args: Any) -> tuple[Tensor, ...]:
    from tgo_kernels._triton.launch import lif_bwd

    return lif_bwd(*args)


LIBRARY.impl("lif_fwd_triton", untraced(_lif_fwd_triton), "CompositeExplicitAutograd")
LIBRARY.impl("lif_bwd_triton", untraced(_lif_bwd_triton), "CompositeExplicitAutograd")


# The forward and backward operator of an engine.
OPERATORS: dict[str, tuple[Callable, Callable]] = {
    engine: (
        getattr(torch.ops.tgo_kernels, f"lif_fwd{suffix}").default,
        getattr(torch.ops.tgo_kernels, f"lif_bwd{suffix}").default,
    )
    for engine, suffix in _SUFFIX.items()
}


def differentiable(
    engine: str,
    x: Tensor,
    v_init: Tensor | None,
    table: Tensor | None,
    seed: Tensor | None,
    noise_step: int,
    checkpoint_every: int,
    constants: Sequence[float],
) -> tuple[Tensor, ...]:
    """``lif_fwd`` with its gradient. Where nothing is traced or transformed, the shortest way to it, too."""
    x = unwrap_if_dead(x)  # left by a transform that has ended
    v_init = None if v_init is None else unwrap_if_dead(v_init)
    table = None if table is None else unwrap_if_dead(table)
    leaves = x.requires_grad or (v_init is not None and v_init.requires_grad)
    trains = torch.is_grad_enabled() and (leaves or (table is not None and table.requires_grad))
    every = checkpoint_every or (CHECKPOINT_EVERY if trains else 0)
    others: list[Tensor] = []  # what has no gradient: autograd takes a microsecond for each result
    return *apply(_Forward, x, v_init, table, seed, noise_step, every, constants, engine, others), *others


class _Forward(Function):
    @staticmethod
    def forward(ctx, x, v_init, table, seed, noise_step, checkpoint_every, constants, engine, others):
        results = below(OPERATORS[engine][0], x, v_init, table, seed, noise_step, checkpoint_every, constants)
        spikes, v_final, penalty, neighbors, fired, checkpoints = results
        others += neighbors, fired, checkpoints
        if constants[GUARD_MARGIN] == 0:
            ctx.mark_non_differentiable(penalty)
        ctx.about = x.stride(), noise_step, checkpoint_every, constants, engine
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(x, v_init, table, seed, checkpoints)
        return spikes, v_final, penalty

    @staticmethod
    def backward(ctx, g_spikes, g_v_final, g_penalty):
        x, v_init, table, seed, checkpoints = ctx.saved_tensors
        strides, noise_step, checkpoint_every, constants, engine = ctx.about
        if x.stride() != strides:  # saved-tensor hooks may lose them, and checkpoints lie in the order of x's memory
            template = torch.empty_strided(x.shape, strides, dtype=x.dtype, device="meta")
            x = torch.empty_like(template, device=x.device).copy_(x)
        _, need_g_v_init, need_g_table, *_ = ctx.needs_input_grad
        saved = (x, v_init, table, seed, noise_step, checkpoint_every, checkpoints)
        arguments = (*saved, g_spikes, g_v_final, g_penalty, need_g_v_init, constants)
        operator = OPERATORS[engine][1]
        differentiated = torch.is_grad_enabled() or torch._C._are_functorch_transforms_active()
        g_x, g_v_init, g_table = operator(*arguments) if differentiated else below(operator, *arguments)
        g_v_init, g_table = g_v_init if need_g_v_init else None, g_table if need_g_table else None
        return g_x, g_v_init, g_table, None, None, None, None, None, None


class _Backward(Function):
    """``lif_bwd``, whose own derivative raises where it is computed, instead of being silently zero."""

    @staticmethod
    def forward(ctx, engine, *arguments):
        ctx.save_for_backward(*(a if isinstance(a, Tensor) else None for a in arguments))
        return below(OPERATORS[engine][1], *arguments)

    @staticmethod
    def backward(ctx, *grads):
        raises = torch.ops.tgo_kernels.second_derivative.default
        needed = ctx.needs_input_grad[1:]
        # Of a gradient that came in, or else compilers would raise it in the forward.
        return None, *(raises(a, grads[0]) if need else None for a, need in zip(ctx.saved_tensors, needed, strict=True))


def _second_derivative(x: Tensor, grad: Tensor) -> NoReturn:
    raise RuntimeError("tgo_kernels.lif is differentiable once; its gradient has no derivative (once_differentiable)")


# An operator, since compilers trace derivatives that nobody takes.
LIBRARY.define("second_derivative(Tensor x, Tensor grad) -> Tensor", tags=torch.Tag.pt2_compliant_tag)
LIBRARY.impl("second_derivative", _second_derivative, "CompositeExplicitAutograd")
torch.library.register_fake("tgo_kernels::second_derivative", lambda x, grad: torch.empty_like(x), lib=LIBRARY)


def _row_by_row(operator: Callable, info: Any, in_dims: Sequence[int | None], *arguments: Any) -> tuple:
    """A backward for each of many incoming gradients, as ``is_grads_batched`` and ``jacrev`` ask for."""
    rows = [
        operator(*(a.select(dim, i) if isinstance(dim, int) else a for a, dim in zip(arguments, in_dims, strict=True)))
        for i in range(info.batch_size)
    ]
    return tuple(map(torch.stack, zip(*rows, strict=True))), (0, 0, 0)


for _engine, (_forward, _backward) in OPERATORS.items():
    gradient(_forward, partial(differentiable, _engine), no_vmap)
    gradient(_backward, partial(apply, _Backward, _engine), partial(_row_by_row, _backward))


def why_not(engine: str, device: torch.device) -> str | None:
    """None if ``engine`` can serve tensors on ``device``, else what is missing and how to get it."""
    if engine == "native":
        return native.serves(device)
    if engine == "reference":
        return None
    if importlib.util.find_spec("triton") is None:
        return 'triton is not installed; to get it: pip install "tgo_kernels[triton]"'
    if device.type == "cuda" or (device.type == "cpu" and os.environ.get("TRITON_INTERPRET") == "1"):
        return None
    return f"Triton serves GPU tensors, not {device.type} (CPU tensors only in its interpreter, TRITON_INTERPRET=1)"


def available_impls(device: torch.device | str = "cpu") -> tuple[str, ...]:
    """The engines that can serve tensors on ``device``, best first, for instance ``("native", "reference")``."""
    device = torch.device(device)
    return tuple(engine for engine in _preference(device) if why_not(engine, device) is None)


def explain_impl(x: Tensor) -> str:
    """Which engine ``impl="auto"`` takes for ``x``, and why each of the others would or would not do."""
    chosen = available_impls(x.device)[0]
    lines = [f'impl="auto" takes {chosen!r} for tensors on {x.device}']
    lines += [f"  {engine}: {why_not(engine, x.device) or 'available'}" for engine in _preference(x.device)]
    return "\n".join(lines)


def check_impl(impl: str) -> None:
    if impl not in ("auto", *ENGINES):
        raise ValueError(f"impl must be 'auto', 'native', 'triton' or 'reference', got {impl!r}")


@torch.compiler.assume_constant_result
def choose(impl: str, device: torch.device) -> str:
    """The engine for ``impl`` on ``device``. An engine asked for by name that cannot serve raises RuntimeError."""
    if impl == "auto":
        return _best(device)
    check_impl(impl)
    reason = why_not(impl, device)
    if reason:
        raise RuntimeError(f"impl={impl!r} cannot serve x on {device}: {reason}")
    return impl


@functools.cache
def _best(device: torch.device) -> str:  # not by device.type, which takes 3 us to read
    chosen = available_impls(device)[0]
    preferred = _preference(device)[0]
    if chosen != preferred:
        warnings.warn(
            f"tgo_kernels settles for impl={chosen!r} on {device.type}: {why_not(preferred, device)}", stacklevel=2
        )
    return chosen


def _preference(device: torch.device) -> tuple[str, ...]:
    return ("native", "triton", "reference") if device.type == "cpu" else ("triton", "native", "reference")
