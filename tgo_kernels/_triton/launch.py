"""The operators ``scan_fwd_triton`` and ``scan_bwd_triton`` (see :mod:`tgo_kernels.ops`): how the kernels are launched.

What a kernel is compiled for: storage, the neuron and the flags of its firing, its layout, whether rows move as words
(``Layout.alignment``, and their addresses), and whether T steps from ``noise_step`` are one whole span of four steps, a
whole number of them, or neither. Nothing else about sizes.
"""

import functools
from collections.abc import Sequence
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from tgo_kernels._triton.flags import Flags
from tgo_kernels._triton.math import LORENTZ, NO_MEMBRANE, NO_NOISE
from tgo_kernels._triton.steps import STEPS
from tgo_kernels._triton.totals import totals_kernel
from tgo_kernels._triton.walk import backward_kernel, forward_kernel
from tgo_kernels.layout import arrange, like
from tgo_kernels.neurons import OWN, kind_of, shape_of, switches_of

CHECKPOINT_EVERY = 8
# Contracted, a * b + c rounds once instead of twice, and a membrane at its threshold fires differently.
OPTIONS = {"enable_fp_fusion": False, "num_stages": 1, "num_warps": 4}
ROW_BYTES = 16  # of one thread
WARP_SIZE = 64 if torch.version.hip else 32
HELD = 28  # constants, states and their gradients, of all neurons of a thread
INTERPRETED = not isinstance(forward_kernel, triton.JITFunction)
DTYPES = {torch.float32: tl.float32, torch.float16: tl.float16, torch.bfloat16: tl.bfloat16}
INTERPRETED_BLOCK = 4096  # at most: there, a program costs milliseconds, whatever its size
TOTALS = {"BLOCK": 4096}  # of as many threads as a block may have
known_flags = functools.lru_cache(maxsize=1024)(Flags)


def light(flags: dict[str, Any]) -> bool:
    """Of one span and with the same constants for all: a thread holds little else than its rows."""
    return flags["once"] and not any(flags["own"])


def shape(backward: bool, flags: dict[str, Any], warp_size: int) -> dict[str, int]:
    """``count``, the neurons of a thread, in ``words``, how many it takes ``at_once``, and the threads of a ``block``.

    As many as 16 bytes hold, but fewer where each holds much: its constants, and going back their gradients. Two are a
    pair, whose noise is one block's. Two pairs of 16 bits are worth it on NVIDIA's GPUs in a call that is ``light``;
    elsewhere there are not the registers for them.
    """
    bits, alignment = flags["dtype"].primitive_bitwidth, flags["alignment"]
    count = 8 * ROW_BYTES // bits if alignment > 1 else 1
    if any(flags["own"]):
        held = (flags["states"] + sum(flags["own"])) * (2 if backward else 1)
        while count > 1 and count * held > HELD:
            count //= 2
    elif count > 1 and backward and flags["states"] > 1 and not flags["once"]:
        count //= 2
    words = count * bits // 32
    return {
        "alignment": alignment if words else 1,
        "count": count,
        "words": words or 1,
        "at_once": 4 if count == 8 and light(flags) and warp_size == 32 else min(count, 2),
        "block": OPTIONS["num_warps"] * warp_size,
    }


def spans(steps: int, noise_step: int) -> dict[str, bool]:
    """Whether all spans of four steps are whole, and whether there is but one."""
    whole = steps % 4 == 0 and noise_step % 4 == 0
    return {"whole": whole, "once": whole and steps == 4}


def options(backward: bool, flags: dict[str, Any], warp_size: int) -> dict[str, Any]:
    """Where much is held, a limit keeps NVIDIA's compiler from spilling for the sake of one block more, and from taking
    more than it needs. That is going back through several spans, and where neurons have constants of their own.
    AMD's is told in how few registers it can do without spilling: of 512, by how many waves share them.
    """
    own, several = any(flags["own"]), flags["states"] > 1
    if warp_size == 32:
        limited = own or ((backward or several) and not light(flags))
        unusual = several or any(flags.get(name) for name in ("permuted", "membrane", "lengths", "g_init"))
        if 0 < sum(flags["own"]) <= 2 and flags["once"] and not unusual:  # as of a norm's line
            return {**OPTIONS, "maxnreg": 88 if backward else 80}
        return {**OPTIONS, "maxnreg": 96 if several and not own else 128} if limited else OPTIONS
    if backward and flags["permuted"]:
        return {**OPTIONS, "waves_per_eu": 4}
    more = own or flags["membrane"] or flags["lengths"] or flags["inputs"] > 1
    few = light(flags) and not (more or several or flags["permuted"])
    few = few and not (backward and (flags["curve"] != LORENTZ.value or flags["g_init"]))
    return {**OPTIONS, "waves_per_eu": 8 if few else 0 if more or backward else 5}


class _Call:
    """What both kernels are told of a call, and its tensors as they take them."""

    def __init__(
        self,
        x: Tensor,
        v_init: Tensor | None,
        more: Sequence[Tensor] | None,
        table: Tensor | None,
        noise_step: int,
        checkpoint_every: int,
        settings: Sequence[float],
        *rows: Tensor | None,
        backward: bool,
    ):
        number, tabled, _, self.guard_margin, self.grid, self.curve_height, self.curve_scale, *numbers = settings
        steps: Any = STEPS[int(number)] if number < len(STEPS) else OWN[int(number)][1]
        membrane, noise, reset, curve, strict, below, surrogate_at_h, detach_reset = switches_of(settings)
        states, inputs, _ = shape_of(settings)
        self.rests, self.numbers = tuple(numbers[:states]), tuple(numbers[states:])
        self.x, self.layout = arrange(x)
        self.given, self.states, self.backward = x, states, backward
        self.state = torch.empty_like(self.x[0], dtype=torch.float32)
        more = list(more or ())
        self.inputs = (self.x, *(like(self.x, each) for each in more[: inputs - 1]))
        more = more[inputs - 1 :]
        first = [None] * states if v_init is None else [v_init, *more[: states - 1]]
        self.init = tuple(each if each is None else like(self.state, each) for each in first)
        more = more if v_init is None else more[states - 1 :]
        self.lengths = like(self.state, more[0]) if more else None
        self.rows = tuple(row if row is None else like(self.x, row) for row in rows)
        layout, noisy = self.layout, noise != NO_NOISE.value
        self.columns = layout.neurons if table is None else table.shape[1]
        self.noise_step = noise_step if noisy else 0
        own, timed = (tuple(int(tabled) >> first + k & 1 == 1 for k in range(len(self.numbers))) for first in (0, 16))
        aligned = all(row is None or row.data_ptr() % ROW_BYTES == 0 for row in (*self.inputs, *self.rows))
        aligned = aligned and self.columns % 16 == 0 and not any(timed)  # which are read for one neuron of a thread
        self.flags = {
            "step": steps.step,
            "step_back": steps.step_back,
            "states": states,
            "inputs": inputs,
            "spikes": int(kind_of(settings).SPIKES),
            "own": own,
            "timed": timed,
            "dtype": DTYPES[x.dtype],
            "alignment": layout.alignment(noisy) if aligned else 1,
            "time_outermost": layout.inner == layout.neurons,
            "permuted": layout.permuted and noisy,
            "noise": noise,
            "reset": reset,
            "strict": strict > 0,
            "membrane": membrane,
            "guard": self.guard_margin > 0,
            "below": self.guard_margin > 0 and below > 0,
            "squared": self.guard_margin > 0 and self.grid > 0,
            "lengths": self.lengths is not None,
            **spans(layout.steps, self.noise_step),
        }
        self.of_backward = {
            "curve": curve,
            "surrogate_at_h": surrogate_at_h > 0,
            "detach_reset": detach_reset > 0,
        }
        self.warp_size = WARP_SIZE
        self.flags |= shape(backward, self.flags, self.warp_size)
        if INTERPRETED:
            block = triton.next_power_of_2(triton.cdiv(self.columns, self.flags["count"]))
            self.flags["block"] = min(INTERPRETED_BLOCK, max(2, block))
        self.programs = triton.cdiv(self.columns, self.flags["count"] * self.flags["block"])
        self.saved = (layout.steps - 1) // CHECKPOINT_EVERY * states * layout.neurons if checkpoint_every else 0

    def sizes(self) -> tuple[int, ...]:
        """The arguments named by SIZES, N, D and inner in units of the alignment."""
        layout, flags = self.layout, self.flags
        neurons, columns, inner = (n // flags["alignment"] for n in (layout.neurons, self.columns, layout.inner))
        turns = flags["count"] // flags["at_once"]  # of a constant the loop would be unrolled
        return layout.steps, neurons, columns, inner, turns, self.noise_step, *layout.sizes, *layout.strides

    def compiled(self, **flags: Any) -> dict[str, Any]:
        flags = self.flags | flags
        return {"F": known_flags(**flags), **options(self.backward, flags, self.warp_size)}

    def new_row(self) -> Tensor:
        return torch.empty_like(self.x)

    def new_states(self) -> tuple[Tensor, ...]:
        return self.state, *(torch.empty_like(self.state) for _ in range(self.states - 1))

    def as_given(self, rows: Sequence[Tensor], states: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """In the layout of x, if that is another one."""
        if self.x is self.given:
            return list(rows), list(states)
        rows = [like(torch.empty_like(self.given), row) for row in rows]
        return rows, [like(rows[0][0], state) for state in states]


def scan_fwd(
    x: Tensor,
    v_init: Tensor | None,
    more: Sequence[Tensor] | None,
    table: Tensor | None,
    seed: Tensor | None,
    noise_step: int,
    checkpoint_every: int,
    settings: Sequence[float],
) -> tuple[Any, ...]:
    if checkpoint_every not in (0, CHECKPOINT_EVERY):
        raise ValueError(f"checkpoint_every must be 0 or {CHECKPOINT_EVERY}, got {checkpoint_every}")
    call = _Call(x, v_init, more, table, noise_step, checkpoint_every, settings, backward=False)
    programs, flags = call.programs, call.flags
    rows = [call.new_row() for _ in range(2 if flags["membrane"] != NO_MEMBRANE.value else 1)]
    states = call.new_states()
    checkpoints = x.new_empty(call.saved, dtype=torch.float32)
    partial = x.new_empty((3, programs), dtype=torch.int64)
    fired, neighbors = (x.new_empty((), dtype=torch.int64) for _ in range(2))
    penalty = x.new_empty((), dtype=torch.float32)
    with torch.cuda.device_of(x):
        if programs:
            forward_kernel[(programs,)](
                call.inputs,
                call.init,
                call.lengths,
                table,
                seed,
                rows[0],
                rows[1] if len(rows) > 1 else None,
                states,
                checkpoints,
                partial,
                *call.sizes(),
                call.numbers,
                call.rests,
                call.guard_margin,
                call.grid,
                **call.compiled(saves=call.saved > 0),
            )
        totals = {**TOTALS, "num_warps": 1024 // call.warp_size, "GUARD": flags["guard"]}
        totals_kernel[(1,)](partial, fired, neighbors, penalty, programs, max(x.numel(), 1), **totals)
    lying, final = call.as_given(rows, states)
    return lying[0], final[0], penalty, neighbors, fired, checkpoints, [*final[1:], *lying[1:]]


def scan_bwd(
    x: Tensor,
    v_init: Tensor | None,
    more: Sequence[Tensor] | None,
    table: Tensor | None,
    seed: Tensor | None,
    noise_step: int,
    checkpoint_every: int,
    checkpoints: Tensor,
    g_spikes: Tensor | None,
    g_v_final: Tensor | None,
    g_further: Sequence[Tensor] | None,
    g_penalty: Tensor | None,
    need_g_init: bool,
    need_g_table: bool,
    settings: Sequence[float],
) -> tuple[Tensor, Tensor, Tensor, list[Tensor]]:
    if checkpoint_every != CHECKPOINT_EVERY:
        raise ValueError(f"checkpoint_every must be {CHECKPOINT_EVERY}, got {checkpoint_every}")
    further = [g if g.numel() else None for g in g_further or ()]
    states = shape_of(settings)[0]
    g_membrane = further[states - 1] if len(further) == states else None
    arguments = x, v_init, more, table, noise_step, checkpoint_every, settings
    call = _Call(*arguments, g_spikes, g_membrane, backward=True)
    if checkpoints.numel() != call.saved:
        raise ValueError(f"checkpoints must be those of the forward, got {checkpoints.numel()} states")
    g_spikes, g_membrane = call.rows
    g_final = tuple(g if g is None else like(call.state, g) for g in (g_v_final, *further[: states - 1]))
    g_inputs = tuple(call.new_row() for _ in call.inputs)
    none = x.new_empty(0, dtype=torch.float32)
    g_init = call.new_states() if need_g_init else ()
    # An operator's results are no aliases of each other.
    g_table = torch.empty_like(none if table is None or not need_g_table else table)
    if x.numel() == 0:
        g_table.zero_()  # a table may have columns that are of no neuron
    else:
        with torch.cuda.device_of(x):
            backward_kernel[(call.programs,)](
                call.inputs,
                call.init,
                call.lengths,
                table,
                seed,
                checkpoints,
                g_spikes,
                g_membrane,
                g_final,
                g_penalty,
                g_inputs,
                g_init or (None,) * states,
                g_table,
                *call.sizes(),
                call.numbers,
                call.rests,
                call.guard_margin,
                call.grid,
                call.curve_height,
                call.curve_scale,
                1 / x.numel(),
                **call.compiled(
                    **call.of_backward,
                    g_spikes=g_spikes is not None,
                    learns=need_g_table,
                    g_init=need_g_init or any(g is not None for g in g_final),
                    guard=g_penalty is not None and call.flags["guard"],
                    membrane=call.flags["membrane"] if g_membrane is not None else NO_MEMBRANE.value,
                    in_turn=call.warp_size == 64,
                ),
            )
    rows, states_back = call.as_given(g_inputs, g_init)
    return rows[0], states_back[0] if need_g_init else none, g_table, [*rows[1:], *states_back[1:]]
