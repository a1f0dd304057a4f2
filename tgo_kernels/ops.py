"""The operators as torch sees them: schemas, fakes, and which engine serves a call.

Each engine has the same pair of operators, ``lif_fwd`` and ``lif_bwd``: those of the compiled engine keep these names,
those of Triton end in ``_triton``. x may have any layout: a dense one is processed as it lies, anything else is copied
once. Results take x's layout.
"""

import functools
import importlib.util
import os
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from tgo_kernels import native

CHECKPOINT_EVERY = 8  # steps between two saved states; T <= 8 saves none

# constants: those of Neuron, switches as 0 or 1. One list, since torch takes 0.2 us for each argument.
# table: decay, gain and v_threshold, [3, D] fp32: those of neuron m in the order of memory stand in column m % D.
# checkpoints: (T-1) // checkpoint_every rows of N fp32, states that far apart, where the engine likes; none for 0.
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

_library = torch.library.Library("tgo_kernels", "DEF")
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
        _library.define(_name + _suffix + _schema, tags=_TAGS)
        torch.library.register_fake(f"tgo_kernels::{_name}{_suffix}", _fake, lib=_library)


_library.define("cpu_kernels() -> str")  # the instruction set that the compiled engine runs here


def _lif_fwd_triton(*args: Any) -> tuple[Tensor, ...]:
    from tgo_kernels._triton.launch import lif_fwd  # triton is imported by its first call

    return lif_fwd(*args)


def _lif_bwd_triton(*args: Any) -> tuple[Tensor, ...]:
    from tgo_kernels._triton.launch import lif_bwd

    return lif_bwd(*args)


_library.impl("lif_fwd_triton", _lif_fwd_triton, "CompositeExplicitAutograd")
_library.impl("lif_bwd_triton", _lif_bwd_triton, "CompositeExplicitAutograd")


# The forward and backward operator of an engine.
OPERATORS: dict[str, tuple[Callable, Callable]] = {
    engine: (
        getattr(torch.ops.tgo_kernels, f"lif_fwd{suffix}").default,
        getattr(torch.ops.tgo_kernels, f"lif_bwd{suffix}").default,
    )
    for engine, suffix in _SUFFIX.items()
}


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
