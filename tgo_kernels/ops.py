"""The operators as torch sees them: schemas, fakes, and which engine serves a call.

Each engine has the same pair of operators for all neurons, ``scan_fwd`` and ``scan_bwd``: those of the compiled engine
keep these names, those of Triton end in ``_triton``. x may have any layout: a dense one is processed as it lies,
anything else is copied once. Results take x's layout. ``scan_fwd`` is differentiable, once; what else transforms of
torch could ask for raises.
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
from torch.utils._pytree import tree_flatten, tree_unflatten

from tgo_kernels import native
from tgo_kernels.library import (
    LIBRARY,
    Function,
    apply,
    below,
    gradient,
    legacy_vmap_by_rows,
    no_vmap,
    transformed,
    untraced,
    vmap_by_rows,
)
from tgo_kernels.neurons import GUARD_MARGIN, shape_of
from tgo_kernels.table import Plan, spread

CHECKPOINT_EVERY = 8  # steps between two saved states; T <= 8 saves none

# settings: those of the neuron (tgo_kernels/neurons/base.py): one list, since torch takes 0.2 us for each argument.
# more: the inputs beside x; where v_init is given, the states beside it; where sequences end, [*] int32, how many steps
#   each neuron's has. further: the final states beside v_final; the membrane [T, *], where it is an output. A gradient
#   of these that there is not is an empty tensor.
#   Where there are none, None, and no list: torch takes 0.3 us to hand one over.
# table: [R, D] fp32, the constants that neurons have of their own; those with a time axis have T rows, a step each
#   (tgo_kernels/table.py).
# checkpoints: (T-1) // checkpoint_every rows of [states, N] fp32, so far apart, where the engine likes; none for 0,
#   unless a gradient is to come: then it is CHECKPOINT_EVERY.
_FORWARD = (
    "(Tensor x, Tensor? v_init, Tensor[]? more, Tensor? table, Tensor? seed, SymInt noise_step, int checkpoint_every, "
    "float[] settings) -> (Tensor spikes, Tensor v_final, Tensor penalty, Tensor neighbors, Tensor fired, "
    "Tensor checkpoints, Tensor[] further)"
)
_BACKWARD = (
    "(Tensor x, Tensor? v_init, Tensor[]? more, Tensor? table, Tensor? seed, SymInt noise_step, int checkpoint_every, "
    "Tensor checkpoints, Tensor? g_spikes, Tensor? g_v_final, Tensor[]? g_further, Tensor? g_penalty, "
    "bool need_g_init, bool need_g_table, float[] settings) -> "
    "(Tensor g_x, Tensor g_v_init, Tensor g_table, Tensor[] g_more)"
)
ENGINES = ("native", "triton", "reference")
_SUFFIX = {"native": "", "triton": "_triton"}

# The fakes promise strides, and neuron indices follow them: the compiler must not choose others.
_TAGS = (torch.Tag.pt2_compliant_tag, torch.Tag.needs_exact_strides)


def _scan_fwd_fake(
    x: Tensor,
    v_init: Tensor | None,
    more: list[Tensor] | None,
    table: Tensor | None,
    seed: Tensor | None,
    noise_step: int,
    checkpoint_every: int,
    settings: list[float],
) -> tuple[Any, ...]:
    steps, spikes = x.shape[0], torch.empty_like(x)
    states, _, has_membrane = shape_of(settings)
    rows = (steps - 1) // checkpoint_every * states if checkpoint_every else 0
    final = [torch.empty_like(spikes[0], dtype=torch.float32) for _ in range(states)]
    count = x.new_empty((), dtype=torch.int64)
    penalty = x.new_empty((), dtype=torch.float32)
    checkpoints = x.new_empty(rows * x[0].numel(), dtype=torch.float32)
    membrane = [torch.empty_like(x)] if has_membrane else []
    return spikes, final[0], penalty, count, torch.empty_like(count), checkpoints, final[1:] + membrane


def _scan_bwd_fake(
    x: Tensor,
    v_init: Tensor | None,
    more: list[Tensor] | None,
    table: Tensor | None,
    seed: Tensor | None,
    noise_step: int,
    checkpoint_every: int,
    checkpoints: Tensor,
    g_spikes: Tensor | None,
    g_v_final: Tensor | None,
    g_further: list[Tensor] | None,
    g_penalty: Tensor | None,
    need_g_init: bool,
    need_g_table: bool,
    settings: list[float],
) -> tuple[Any, ...]:
    g_x, none = torch.empty_like(x), x.new_empty(0, dtype=torch.float32)
    states, inputs, _ = shape_of(settings)
    g_init = [torch.empty_like(g_x[0], dtype=torch.float32) for _ in range(states)] if need_g_init else [none]
    g_more = [torch.empty_like(x) for _ in range(inputs - 1)] + g_init[1:]
    return g_x, g_init[0], torch.empty_like(none if table is None or not need_g_table else table), g_more


for _suffix in _SUFFIX.values():
    for _name, _schema, _fake in (("scan_fwd", _FORWARD, _scan_fwd_fake), ("scan_bwd", _BACKWARD, _scan_bwd_fake)):
        LIBRARY.define(_name + _suffix + _schema, tags=_TAGS)
        torch.library.register_fake(f"tgo_kernels::{_name}{_suffix}", _fake, lib=LIBRARY)


LIBRARY.define("cpu_kernels() -> str")  # the instruction set that the compiled engine runs here
LIBRARY.define("headers() -> str")  # what it was built from: tgo_kernels.compiler.digest()
LIBRARY.define("built_by() -> str")  # compiler, C library and flags
# Makes a neuron of a user's known to it, by the address of its kernels.
LIBRARY.define("own_neuron(int number, int states, int inputs, int constants, int kernels) -> ()")


def _scan_fwd_triton(*args: Any) -> tuple[Any, ...]:
    from tgo_kernels._triton.launch import scan_fwd  # triton is imported by its first call

    return scan_fwd(*args)


def _scan_bwd_triton(*args: Any) -> tuple[Any, ...]:
    from tgo_kernels._triton.launch import scan_bwd

    return scan_bwd(*args)


LIBRARY.impl("scan_fwd_triton", untraced(_scan_fwd_triton), "CompositeExplicitAutograd")
LIBRARY.impl("scan_bwd_triton", untraced(_scan_bwd_triton), "CompositeExplicitAutograd")


# The forward and backward operator of an engine.
OPERATORS: dict[str, tuple[Callable, Callable]] = {
    engine: (
        getattr(torch.ops.tgo_kernels, f"scan_fwd{suffix}").default,
        getattr(torch.ops.tgo_kernels, f"scan_bwd{suffix}").default,
    )
    for engine, suffix in _SUFFIX.items()
}


def differentiable(
    engine: str,
    x: Tensor,
    v_init: Tensor | None,
    more: Sequence[Tensor] | None,
    table: Tensor | None,
    seed: Tensor | None,
    noise_step: int,
    checkpoint_every: int,
    settings: Sequence[float],
    plan: Plan | None = None,
    own: Sequence[Tensor] = (),
) -> tuple[Any, ...]:
    """``scan_fwd`` with its gradient. Where nothing is traced or transformed, the shortest way to it, too: then what
    the table was made of may be given, of which copies are saved in its place."""
    x = unwrap_if_dead(x)  # left by a transform that has ended
    v_init = None if v_init is None else unwrap_if_dead(v_init)
    table = None if table is None else unwrap_if_dead(table)
    leaves = x.requires_grad or (v_init is not None and v_init.requires_grad)
    if more:
        more = [unwrap_if_dead(each) for each in more]
        leaves = leaves or any(each.requires_grad for each in more)
    trains = torch.is_grad_enabled() and (leaves or (table is not None and table.requires_grad))
    every = checkpoint_every or (CHECKPOINT_EVERY if trains else 0)
    if not (trains or transformed()):
        return below(OPERATORS[engine][0], x, v_init, more, table, seed, noise_step, every, settings)
    others: list[Tensor] = []  # what has no gradient: autograd takes a microsecond for each result
    if plan and table is not None and 2 * sum(each.numel() for each in own) > table.numel():
        plan = None
    kept = tuple(each.clone() for each in own) if plan else ()  # they may change before the backward
    about = noise_step, every, settings, engine, plan, kept
    spikes, v_final, *further = apply(_Forward, about, others, x, v_init, table, seed, *(more or ()))
    return spikes, v_final, others.pop() if len(others) > 3 else further.pop(0), *others, further


class _Forward(Function):
    @staticmethod
    def forward(ctx, about, others, x, v_init, table, seed, *more):
        noise_step, checkpoint_every, settings, engine, plan, own = about
        results = below(
            OPERATORS[engine][0], x, v_init, more or None, table, seed, noise_step, checkpoint_every, settings
        )
        spikes, v_final, penalty, neighbors, fired, checkpoints, further = results
        guarded = settings[GUARD_MARGIN] != 0
        others += (neighbors, fired, checkpoints) if guarded else (neighbors, fired, checkpoints, penalty)
        ctx.about = *about[:5], len(own), x.stride()
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(x, v_init, None if plan else table, seed, checkpoints, *own, *more)
        return (spikes, v_final, penalty, *further) if guarded else (spikes, v_final, *further)

    @staticmethod
    def backward(ctx, g_spikes, g_v_final, *grads):
        noise_step, checkpoint_every, settings, engine, plan, own, strides = ctx.about
        x, v_init, table, seed, checkpoints, *more = ctx.saved_tensors
        differentiated = torch.is_grad_enabled() or torch._C._are_functorch_transforms_active()
        if plan:
            table = spread(*plan, more[:own]) if differentiated else below(spread, *plan, more[:own])
            more = more[own:]
        if x.stride() != strides:  # saved-tensor hooks may lose them, and checkpoints lie in the order of x's memory
            template = torch.empty_strided(x.shape, strides, dtype=x.dtype, device="meta")
            x = torch.empty_like(template, device=x.device).copy_(x)
        _, _, _, need_g_v_init, need_g_table, _, *need_more = ctx.needs_input_grad
        need_g_init, g_penalty, further = need_g_v_init, None, None
        if more:  # the inputs beside x come first, and then states
            need_g_init = need_g_init or any(need_more[shape_of(settings)[1] - 1 :])
        if grads:
            if settings[GUARD_MARGIN] != 0:
                g_penalty, grads = grads[0], grads[1:]
            further = [x.new_empty(0) if g is None else g for g in grads] or None
        saved = (x, v_init, more or None, table, seed, noise_step, checkpoint_every, checkpoints)
        arguments = (*saved, g_spikes, g_v_final, further, g_penalty, need_g_init, need_g_table, settings)
        operator = OPERATORS[engine][1]
        g_x, g_v_init, g_table, g_more = operator(*arguments) if differentiated else below(operator, *arguments)
        g_v_init, g_table = g_v_init if need_g_v_init else None, g_table if need_g_table else None
        if not more:
            return None, None, g_x, g_v_init, g_table, None
        g_more += [None] * (len(more) - len(g_more))
        needed = (g if need else None for g, need in zip(g_more, need_more, strict=True))
        return None, None, g_x, g_v_init, g_table, None, *needed


class _Backward(Function):
    """``scan_bwd``, whose own derivative raises where it is computed, instead of being silently zero."""

    @staticmethod
    def forward(ctx, engine, others, form, *tensors):
        """``others`` and ``form``: the arguments that are no tensors, each in a tuple, and None for each tensor."""
        ctx.save_for_backward(*tensors)
        given = iter(tensors)
        arguments = tree_unflatten([next(given) if other is None else other[0] for other in others], form)
        *results, g_more = below(OPERATORS[engine][1], *arguments)
        return *results, *g_more

    @staticmethod
    def backward(ctx, *grads):
        raises = torch.ops.tgo_kernels.second_derivative.default
        needed = ctx.needs_input_grad[3:]
        # Of a gradient that came in, or else compilers would raise it in the forward.
        pairs = zip(ctx.saved_tensors, needed, strict=True)
        return None, None, None, *(raises(a, grads[0]) if need else None for a, need in pairs)


def _backward(engine: str, *arguments: Any) -> tuple[Any, ...]:
    flat, form = tree_flatten(arguments)
    others = [None if isinstance(each, Tensor) else (each,) for each in flat]
    results = apply(_Backward, engine, others, form, *(each for each in flat if isinstance(each, Tensor)))
    return *results[:3], list(results[3:])


def _second_derivative(x: Tensor, grad: Tensor) -> NoReturn:
    raise RuntimeError("tgo_kernels.lif is differentiable once; its gradient has no derivative (once_differentiable)")


# An operator, since compilers trace derivatives that nobody takes.
LIBRARY.define("second_derivative(Tensor x, Tensor grad) -> Tensor", tags=torch.Tag.pt2_compliant_tag)
LIBRARY.impl("second_derivative", _second_derivative, "CompositeExplicitAutograd")
torch.library.register_fake("tgo_kernels::second_derivative", lambda x, grad: torch.empty_like(x), lib=LIBRARY)


for _engine, (_scan, _reverse) in OPERATORS.items():
    gradient(_scan, partial(differentiable, _engine), no_vmap)
    gradient(_reverse, partial(_backward, _engine), partial(vmap_by_rows, _reverse))
    LIBRARY.impl(_reverse, partial(legacy_vmap_by_rows, _reverse), "Batched")


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
