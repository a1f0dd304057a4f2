"""The operators ``lif_fwd_triton`` and ``lif_bwd_triton`` (see :mod:`tgo_kernels.ops`): how the kernels are launched.

What a kernel is compiled for: storage, the flags of the neuron and its layout, whether rows move 16 bytes at a time
(``Layout.alignment``, and their addresses), and whether T steps from ``noise_step`` are one whole span of four steps, a
whole number of them, or neither. Nothing else about sizes.
"""

from typing import Any

import torch
import triton
from torch import Tensor

from tgo_kernels._triton.lif import lif_bwd_kernel, lif_fwd_kernel
from tgo_kernels._triton.math import LORENTZ, MEMBRANE, NO_NOISE, THRESHOLD
from tgo_kernels.layout import Layout, arrange, like

# Contracted, a * b + c rounds once instead of twice, and a membrane at its threshold fires differently.
OPTIONS = {"enable_fp_fusion": False, "num_stages": 1, "num_warps": 4}
ROW_BYTES = 16  # of one thread
INTERPRETED = not isinstance(lif_fwd_kernel, triton.JITFunction)
INTERPRETED_BLOCK = 4096  # at most: there, a program costs milliseconds, whatever its size


def shape(alignment: int, itemsize: int, warp_size: int, light: bool) -> dict[str, int]:
    """COUNT, the neurons of a thread, how many of them it takes AT_ONCE, and the threads of a BLOCK.

    Two are a pair, whose noise is one block's. Two pairs of 16 bits are worth it on NVIDIA's GPUs in a call that is
    ``light``, of one span and with the same constants for all; elsewhere there are not the registers for them.
    """
    count = ROW_BYTES // itemsize if alignment > 1 else 1
    at_once = 4 if count == 8 and light and warp_size == 32 else min(count, 2)
    return {"COUNT": count, "AT_ONCE": at_once, "BLOCK": OPTIONS["num_warps"] * warp_size}


def spans(steps: int, noise_step: int) -> dict[str, bool]:
    """Whether all spans of four steps are WHOLE, and whether there is but ONCE."""
    whole = steps % 4 == 0 and noise_step % 4 == 0
    return {"WHOLE": whole, "ONCE": whole and steps == 4}


def options(backward: bool, flags: dict[str, Any], warp_size: int) -> dict[str, Any]:
    """Where much is held, a limit keeps NVIDIA's compiler from spilling for the sake of one block more.

    That is going back through several spans, and with a table, whose columns and their gradients stay in registers.
    AMD's is told in how few registers it can do without spilling: of 512, by how many waves share them.
    """
    own = flags["OWN"]
    light = flags["ONCE"] and not own
    if warp_size == 32:
        return {**OPTIONS, "maxnreg": 224 if own else 128} if own or (backward and not light) else OPTIONS
    light = light and not flags["PERMUTED"]
    if backward:
        light = light and flags["CURVE"] == LORENTZ.value and not (flags["HAS_G_V_FINAL"] or flags["HAS_G_V_INIT"])
    return {**OPTIONS, "waves_per_eu": 8 if light else 0 if own or backward else 5}


class _Launch:
    """What both kernels are told of a call."""

    def __init__(
        self,
        layout: Layout,
        table: Tensor | None,
        noise_step: int,
        noise_std: float,
        noise_in_membrane: bool,
        x: Tensor,
        *rows: Tensor | None,
    ):
        self.layout, self.itemsize = layout, x.element_size()
        self.own = table is not None
        self.columns = layout.neurons if table is None else table.shape[1]
        self.noise_step = noise_step if noise_std > 0 else 0
        self.noise = (MEMBRANE if noise_in_membrane else THRESHOLD).value if noise_std > 0 else NO_NOISE.value
        aligned = all(row is None or row.data_ptr() % ROW_BYTES == 0 for row in (x, table, *rows))
        aligned = aligned and self.columns % 16 == 0
        self.alignment = self.layout.alignment(self.noise != NO_NOISE.value) if aligned else 1
        self.warp_size = 64 if torch.version.hip else 32
        self.spans = spans(layout.steps, self.noise_step)
        self.shape = shape(self.alignment, self.itemsize, self.warp_size, self.spans["ONCE"] and not self.own)
        if INTERPRETED:
            block = triton.next_power_of_2(triton.cdiv(self.columns, self.shape["COUNT"]))
            self.shape["BLOCK"] = min(INTERPRETED_BLOCK, max(2, block))
        self.programs = triton.cdiv(self.columns, self.shape["COUNT"] * self.shape["BLOCK"])

    def sizes(self) -> tuple[int, ...]:
        """The arguments named by SIZES, N, D and inner in units of the alignment."""
        layout = self.layout
        neurons, columns, inner = (n // self.alignment for n in (layout.neurons, self.columns, layout.inner))
        turns = self.shape["COUNT"] // self.shape["AT_ONCE"]  # of a constant the loop would be unrolled
        return layout.steps, neurons, columns, inner, turns, self.noise_step, *layout.sizes, *layout.strides

    def flags(self, backward: bool, **flags: bool | int) -> dict[str, Any]:
        flags |= {
            "ALIGNMENT": self.alignment,
            "TIME_OUTERMOST": self.layout.inner == self.layout.neurons,
            "PERMUTED": self.layout.permuted and self.noise != NO_NOISE.value,
            "OWN": self.own,
            "NOISE": self.noise,
            **self.spans,
            **self.shape,
        }
        return flags | options(backward, flags, self.warp_size)


def lif_fwd(
    x: Tensor,
    v_init: Tensor | None,
    table: Tensor | None,
    seed: Tensor | None,
    noise_step: int,
    checkpoint_every: int,
    constants: list[float],
) -> tuple[Tensor, ...]:
    *of_step, soft, noise_std, noise_in_membrane, guard_margin, _, _, _, _, _ = constants
    if checkpoint_every not in (0, 8):
        raise ValueError(f"checkpoint_every must be 0 or 8, got {checkpoint_every}")
    dense, layout = arrange(x)
    launch = _Launch(layout, table, noise_step, noise_std, noise_in_membrane > 0, dense)
    programs = launch.programs
    spikes, v_final = torch.empty_like(dense), torch.empty_like(dense[0], dtype=torch.float32)
    rows = (layout.steps - 1) // checkpoint_every if checkpoint_every else 0
    checkpoints = x.new_empty(rows * layout.neurons, dtype=torch.float32)
    counts = x.new_empty((2, programs), dtype=torch.int64)
    penalties = x.new_empty(programs, dtype=torch.float64)
    guard = guard_margin > 0 and programs > 0
    if programs:
        with torch.cuda.device_of(x):
            lif_fwd_kernel[(programs,)](
                dense,
                None if v_init is None else like(v_final, v_init),
                table,
                seed,
                spikes,
                v_final,
                checkpoints,
                penalties,
                counts,
                *launch.sizes(),
                *of_step,
                noise_std,
                guard_margin,
                **launch.flags(
                    backward=False, HAS_V_INIT=v_init is not None, SOFT=soft > 0, GUARD=guard, SAVES=rows > 0
                ),
            )
    fired = counts[0].sum()
    if guard:
        neighbors, penalty = counts[1].sum(), (penalties.sum() / x.numel()).float()
    else:
        neighbors, penalty = torch.zeros_like(fired), x.new_zeros((), dtype=torch.float32)
    if dense is not x:
        spikes = like(torch.empty_like(x), spikes)
        v_final = like(spikes[0], v_final)
    return spikes, v_final, penalty, neighbors, fired, checkpoints


def lif_bwd(
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
    *of_step, soft, noise_std, noise_in_membrane, guard_margin, curve, height, scale, at_h, detach_reset = constants
    if checkpoint_every != 8:
        raise ValueError(f"checkpoint_every must be 8, got {checkpoint_every}")
    dense, layout = arrange(x)
    if checkpoints.numel() != (layout.steps - 1) // 8 * layout.neurons:
        raise ValueError(f"checkpoints must be those of the forward, got {checkpoints.numel()} states")
    g_spikes = None if g_spikes is None else like(dense, g_spikes)
    launch = _Launch(layout, table, noise_step, noise_std, noise_in_membrane > 0, dense, g_spikes)
    g_x, state = torch.empty_like(dense), torch.empty_like(dense[0], dtype=torch.float32)
    none = x.new_empty(0, dtype=torch.float32)
    g_v_init, g_table = state if need_g_v_init else none, torch.zeros_like(none if table is None else table)
    if launch.programs:
        with torch.cuda.device_of(x):
            lif_bwd_kernel[(launch.programs,)](
                dense,
                None if v_init is None else like(state, v_init),
                table,
                seed,
                checkpoints,
                g_spikes,
                None if g_v_final is None else like(state, g_v_final),
                g_penalty,
                g_x,
                g_v_init,
                g_table,
                *launch.sizes(),
                *of_step,
                noise_std,
                guard_margin,
                height,
                scale,
                1 / x.numel(),
                **launch.flags(
                    backward=True,
                    HAS_V_INIT=v_init is not None,
                    HAS_G_SPIKES=g_spikes is not None,
                    HAS_G_V_FINAL=g_v_final is not None,
                    HAS_G_V_INIT=need_g_v_init,
                    SOFT=soft > 0,
                    GUARD=g_penalty is not None and guard_margin > 0,
                    CURVE=int(curve),
                    SURROGATE_AT_H=at_h > 0,
                    DETACH_RESET=detach_reset > 0,
                    IN_TURN=launch.warp_size == 64,
                ),
            )
    if dense is not x:
        g_x = like(torch.empty_like(x), g_x)
        g_v_init = like(g_x[0], g_v_init) if need_g_v_init else g_v_init
    return g_x, g_v_init, g_table
