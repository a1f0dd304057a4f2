"""What a kernel is compiled for, beside its step. Nothing else about sizes."""

from dataclasses import dataclass, fields
from typing import Any

import triton.language as tl


@dataclass(frozen=True)
class Flags:
    step: Any = None
    step_back: Any = None
    states: int = 1
    inputs: int = 1
    own: tuple[bool, ...] = ()  # which constants come from the table
    timed: tuple[bool, ...] = ()  # which of them have a time axis
    dtype: Any = tl.float32  # of x
    alignment: int = 1
    time_outermost: bool = True
    permuted: bool = False
    noise: int = 0
    reset: int = 0
    spikes: int = 0
    strict: bool = False
    guard: bool = False
    below: bool = False  # only membranes below the threshold are penalised
    squared: bool = False
    membrane: int = 0  # which one is an output
    lengths: bool = False  # sequences end
    whole: bool = False  # all spans are of four steps
    once: bool = False  # there is but one
    bounded: bool = False  # of a span not all steps may count
    count: int = 1  # neurons of a thread
    words: int = 1  # of 32 bits in a row of them
    at_once: int = 1
    block: int = 1
    saves: bool = False
    in_turn: bool = False
    g_spikes: bool = True
    g_init: bool = False
    learns: bool = True  # whether gradients of constants in the table are wanted
    curve: int = 0
    surrogate_at_h: bool = False
    detach_reset: bool = False
    owned: int = 0  # how many come from the table
    fixed: int = 0  # how many of them are without a time axis

    def __post_init__(self) -> None:
        object.__setattr__(self, "timed", self.timed or (False,) * len(self.own))
        object.__setattr__(self, "owned", sum(self.own))
        object.__setattr__(self, "fixed", self.owned - sum(self.timed))
        object.__setattr__(self, "bounded", self.lengths or not self.whole)
        for field in fields(self):  # so that they may be sizes
            object.__setattr__(self, field.name, tl.constexpr(getattr(self, field.name)))
