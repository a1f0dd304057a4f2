"""The sums of a call: each program of the forward leaves its own, and one program adds them up."""

import triton
import triton.language as tl


@triton.jit
def store_partial(ptr, fired, near, penalty, F: tl.constexpr):
    """Three rows of 64 bits, one for each of the sums and in it one word for each program: the last is of fp64."""
    programs = tl.num_programs(0)
    ptr += tl.program_id(0)
    tl.store(ptr, fired)
    if F.guard:
        tl.store(ptr + programs, near)
        tl.store(ptr + 2 * programs, penalty.to(tl.int64, bitcast=True))


@triton.jit(do_not_specialize=["programs", "terms"])
def totals_kernel(
    partial_ptr, fired_ptr, neighbors_ptr, penalty_ptr, programs, terms, GUARD: tl.constexpr, BLOCK: tl.constexpr
):
    """What all programs fired and how many membranes were near, and of so many terms of the penalty their mean.

    All sums are exact, so that their order does not show.
    """
    fired, near = tl.zeros((BLOCK,), tl.int64), tl.zeros((BLOCK,), tl.int64)
    penalty = tl.zeros((BLOCK,), tl.float64)
    programs = programs.to(tl.int64)
    for first in range(0, programs, BLOCK):
        program = first + tl.arange(0, BLOCK)
        exists = program < programs
        fired += tl.load(partial_ptr + program, mask=exists, other=0)
        if GUARD:
            near += tl.load(partial_ptr + programs + program, mask=exists, other=0)
            bits = tl.load(partial_ptr + 2 * programs + program, mask=exists, other=0)
            penalty += bits.to(tl.float64, bitcast=True)
    tl.store(fired_ptr, tl.sum(fired))
    tl.store(neighbors_ptr, tl.sum(near))
    tl.store(penalty_ptr, (tl.sum(penalty) / terms.to(tl.float64)).to(tl.float32))
