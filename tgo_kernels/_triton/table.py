"""The constants that neurons have of their own: a thread's columns of their rows in a table (tgo_kernels/table.py).

One without a time axis has one row, and is held; one with a time axis has a row for each step, and is read there, one
neuron a thread.
"""

import triton
import triton.language as tl

from tgo_kernels._triton.rows import load_states, splat, store_states, within


@triton.jit
def table_of(ptr, numbers, steps, columns, inner, states, F: tl.constexpr):
    """What it takes to find a constant: the number of all neurons, or its (first) row, how far apart rows are, ..."""
    rows, row = (), 0
    for k in tl.static_range(len(numbers)):
        rows = rows + (row,)
        if F.own[k]:
            row += steps if F.timed[k] else 1
    return ptr, numbers, rows, columns.to(tl.int64) * F.alignment, steps, inner, states


@triton.jit
def load_fixed(table, F: tl.constexpr):
    """Those without a time axis."""
    ptr, numbers, rows, distance, _, _, states = table
    found = ()
    for k in tl.static_range(len(numbers)):
        if F.own[k] and not F.timed[k]:
            found = found + (load_states(ptr + rows[k] * distance, states, F.count),)
    return found


@triton.jit
def no_sums(F: tl.constexpr):
    """Of the gradients of these."""
    found = ()
    for _ in tl.static_range(F.fixed if F.learns else 0):
        found = found + (splat(0.0, F.count, F.block),)
    return found


@triton.jit
def store_fixed(table, sums, F: tl.constexpr):
    ptr, numbers, rows, distance, _, _, states = table
    for k in tl.static_range(len(numbers)):
        if F.learns and F.own[k] and not F.timed[k]:
            store_states(ptr + rows[k] * distance, sums[0], states, F.count)
            sums = sums[1:]


@triton.jit
def constants_of(table, fixed, t, past, F: tl.constexpr):
    """A neuron's constants in step ``t``: those of all, or its own; those that are held come in their order."""
    numbers, found = table[1], ()
    for k in tl.static_range(len(numbers)):
        if F.timed[k]:
            ptr, exists = entry(table, k, t, past[0] + past[1], F)
            found = found + (tl.load(ptr, mask=exists),)
        elif F.own[k]:
            found, fixed = found + (fixed[0],), fixed[1:]
        else:
            found = found + (numbers[k],)
    return found


@triton.jit
def with_gradients(sums, grads, counts, g_table, t, again, F: tl.constexpr):
    """The sums with the gradients of step ``t`` of those neurons that count.

    Of constants with a time axis these are stored, and added to where another neuron of the column has been before.
    """
    added = ()
    for k in tl.static_range(len(grads)):
        if F.learns and F.own[k]:
            g = tl.where(counts, grads[k], 0.0)
            if F.timed[k]:
                ptr, exists = entry(g_table, k, t, g, F)
                tl.store(ptr, tl.load(ptr, mask=exists & (again > 0), other=0.0) + g, mask=exists)
            else:
                added, sums = added + (sums[0] + g,), sums[1:]
    return added


@triton.jit
def entry(table, k: tl.constexpr, t, past, F: tl.constexpr):
    """Where constant ``k`` lies in step ``t``, and whether it exists.

    As far as the compiler can know not before ``past`` is computed, or else it keeps all these places in registers.
    """
    ptr, _, rows, distance, steps, inner, states = table
    start, at, limit = states
    late = tl.where(inner > 0, t, past.to(tl.int32, bitcast=True))
    exists = at < limit if F.whole else within(t, steps) & (at < limit)
    return ptr + (start + (rows[k] + late) * distance + at), exists
