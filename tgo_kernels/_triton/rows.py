"""Where a program's neurons lie, and how their rows come into registers and go back.

A thread owns neurons that are neighbours in memory. It moves a row of them whole, as words of 32 bits, and takes them
from the front: each time, the words turn by one, and what was at the front comes back at the end, changed.
Where rows cannot be moved so, it owns one neuron, and that is its word.
"""

import triton
import triton.language as tl

from tgo_kernels._triton.math import INTERPRETED

SPAN = tl.constexpr(4)  # steps at once: those of one Philox block
WORDS = tl.constexpr(4)  # of 16 bytes, if rows can be moved so


@triton.jit
def words_of(ptr, ALIGNED: tl.constexpr):
    """The tensor as words, or, where its rows begin anywhere, as it is."""
    if ALIGNED:
        return ptr.to(tl.pointer_type(tl.int32))
    else:
        return ptr


@triton.jit
def place_of(
    program,
    before,
    until,
    steps,
    inner,
    ALIGNMENT: tl.constexpr,
    TIME_OUTERMOST: tl.constexpr,
    COUNT: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """The rows of a program, in words: where they begin, each word's place in one, which exist, how far apart they are.

    It begins its share of so many neurons `before`, and none are `until`. They and inner come in units of ALIGNMENT, so
    that the compiler sees their multiples. A thread has COUNT neurons.
    """
    ALIGNED: tl.constexpr = ALIGNMENT > 1
    EACH: tl.constexpr = WORDS if ALIGNED else 1
    UNIT: tl.constexpr = ALIGNMENT * EACH // COUNT
    start = program * (BLOCK * EACH) + before * UNIT
    inner = inner.to(tl.int64) * UNIT
    limit = tl.minimum(until.to(tl.int64) * UNIT - start, BLOCK * EACH).to(tl.int32)
    first = tl.arange(0, BLOCK) * EACH
    word = first[:, None] + tl.arange(0, EACH)[None, :] if ALIGNED else first
    if TIME_OUTERMOST:
        return start, word, word < limit, inner
    else:
        m = start + first
        offset = (m // inner) * inner * steps + m % inner
        offset = offset[:, None] + tl.arange(0, EACH)[None, :] if ALIGNED else offset
        return tl.zeros_like(start), offset, word < limit, inner


@triton.jit
def apart(row):
    """[BLOCK, 4] to four times [BLOCK]; one [BLOCK] stays one."""
    if len(row.shape) == 1:
        return (row,)
    else:
        even, odd = tl.split(tl.reshape(row, (row.shape[0], 2, 2)))
        a, c = tl.split(even)
        b, d = tl.split(odd)
        return (a, b, c, d)


@triton.jit
def together(words):
    """The reverse of :func:`apart`."""
    if len(words) == 1:
        return words[0]
    else:
        row = tl.join(tl.join(words[0], words[2]), tl.join(words[1], words[3]))
        return tl.reshape(row, (words[0].shape[0], 4))


@triton.jit
def within(t, steps):
    """Whether step ``t`` is one of the call's; in a WHOLE span all are."""
    return (t >= 0) & (t < steps)


@triton.jit
def load_rows(ptr, t, steps, place, WHOLE: tl.constexpr):
    """Rows ``t`` to ``t + 3``, each as the words of a thread."""
    start, word, exists, inner = place
    rows = ()
    for i in tl.static_range(SPAN):
        mask = exists if WHOLE else tl.where(within(t + i, steps), exists, False)
        rows = rows + (apart(tl.load(ptr + (start + (t + i) * inner) + word, mask=mask)),)
    return rows


@triton.jit
def store_rows(ptr, rows, t, steps, place, WHOLE: tl.constexpr):
    start, word, exists, inner = place
    for i in tl.static_range(SPAN):
        mask = exists if WHOLE else tl.where(within(t + i, steps), exists, False)
        tl.store(ptr + (start + (t + i) * inner) + word, together(rows[i]), mask=mask)


@triton.jit
def states_of(program, before, until, ALIGNMENT: tl.constexpr, COUNT: tl.constexpr, BLOCK: tl.constexpr):
    """Where a program's states begin in the order of memory, a thread's first four (or one), and how many there are."""
    start = program * (BLOCK * COUNT) + before * ALIGNMENT
    limit = tl.minimum(until.to(tl.int64) * ALIGNMENT - start, BLOCK * COUNT).to(tl.int32)
    first = tl.arange(0, BLOCK) * COUNT
    return start, first[:, None] + tl.arange(0, 4)[None, :] if ALIGNMENT > 1 else first, limit


@triton.jit
def load_states(ptr, states, COUNT: tl.constexpr):
    start, at, limit = states
    v = apart(tl.load(ptr + start + at, mask=at < limit))
    if COUNT == 8:
        v = v + apart(tl.load(ptr + start + 4 + at, mask=at + 4 < limit))
    return v


@triton.jit
def store_states(ptr, v, states, COUNT: tl.constexpr):
    start, at, limit = states
    tl.store(ptr + start + at, together(v[:4]), mask=at < limit)
    if COUNT == 8:
        tl.store(ptr + start + 4 + at, together(v[4:]), mask=at + 4 < limit)


@triton.jit
def load_table(ptr, columns, states, ALIGNMENT: tl.constexpr, COUNT: tl.constexpr):
    """The three rows of a table."""
    row = columns.to(tl.int64) * ALIGNMENT
    return (
        load_states(ptr, states, COUNT),
        load_states(ptr + row, states, COUNT),
        load_states(ptr + 2 * row, states, COUNT),
    )


@triton.jit
def store_table(ptr, table, columns, states, ALIGNMENT: tl.constexpr, COUNT: tl.constexpr):
    row = columns.to(tl.int64) * ALIGNMENT
    store_states(ptr, table[0], states, COUNT)
    store_states(ptr + row, table[1], states, COUNT)
    store_states(ptr + 2 * row, table[2], states, COUNT)


@triton.jit
def turn_table(table):
    """A table, if there is one, with its next column at the front."""
    if len(table) == 0:
        return table
    else:
        return turn(table[0], table[0][0]), turn(table[1], table[1][0]), turn(table[2], table[2][0])


@triton.jit
def add_to_table(table, more):
    """The same, with ``more`` added to the column that was at the front."""
    if len(table) == 0:
        return table
    else:
        a, b, c = table[0], table[1], table[2]
        return turn(a, a[0] + more[0]), turn(b, b[0] + more[1]), turn(c, c[0] + more[2])


@triton.jit
def splat(value, COUNT: tl.constexpr, BLOCK: tl.constexpr):
    """``value`` as the state of so many neurons; one state turns as well as many of the same."""
    v = tl.full((BLOCK,), value, tl.float32)
    return (v, v, v, v, v, v, v, v)[:COUNT]


@triton.jit
def front(rows):
    """The first word of each row."""
    return rows[0][0], rows[1][0], rows[2][0], rows[3][0]


@triton.jit
def turn(words, last):
    """The word at the front gives way to ``last`` at the end."""
    return words[1:] + (last,)


@triton.jit
def turn_rows(rows, last):
    return turn(rows[0], last[0]), turn(rows[1], last[1]), turn(rows[2], last[2]), turn(rows[3], last[3])


@triton.jit
def value_of(word, lane: tl.constexpr, DTYPE: tl.constexpr):
    """A neuron of a word of DTYPE, in fp32: its low half, lane 0, or its high one, if it holds two."""
    if word.dtype != tl.int32:
        return word.to(tl.float32)
    elif DTYPE == tl.float32:
        return word.to(tl.float32, bitcast=True)
    elif DTYPE == tl.bfloat16:
        return ((word << 16) if lane == 0 else (word & -65536)).to(tl.float32, bitcast=True)
    else:
        return (word >> (16 * lane)).to(tl.int16).to(tl.float16, bitcast=True).to(tl.float32)


@triton.jit
def values_of(words, lane: tl.constexpr, DTYPE: tl.constexpr):
    x = ()
    for i in tl.static_range(SPAN):
        x = x + (value_of(words[i], lane, DTYPE),)
    return x


@triton.jit
def word_of(a, b, like, DTYPE: tl.constexpr):
    """The word of two neurons, or of ``b`` alone where the one `like` it has no room for two."""
    if like.dtype != tl.int32:
        return rounded(b, DTYPE)
    elif DTYPE == tl.float32:
        return b.to(tl.int32, bitcast=True)
    else:
        low, high = rounded(a, DTYPE).to(tl.uint16, bitcast=True), rounded(b, DTYPE).to(tl.uint16, bitcast=True)
        return (low.to(tl.uint32) | high.to(tl.uint32) << 16).to(tl.int32, bitcast=True)


@triton.jit
def words_from(neurons, words, DTYPE: tl.constexpr):
    """What comes back for the `words` of one or two neurons."""
    done = ()
    for i in tl.static_range(SPAN):
        done = done + (word_of(neurons[0][i], neurons[len(neurons) - 1][i], words[i], DTYPE),)
    return done


@triton.jit
def rounded(x, DTYPE: tl.constexpr):
    """To the nearest, ties to even."""
    if INTERPRETED and DTYPE == tl.bfloat16:  # the interpreter truncates
        bits = x.to(tl.uint32, bitcast=True)
        nearest = tl.where(x == x, bits + 0x7FFF + ((bits >> 16) & 1), 0x7FC00000)
        return (nearest >> 16).to(tl.uint16).to(tl.bfloat16, bitcast=True)
    else:
        return x.to(DTYPE)
