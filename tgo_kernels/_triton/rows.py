"""Where a program's neurons lie, and how their rows come into registers and go back.

A thread owns neurons that are neighbours in memory. It moves a row of them whole, as words of 32 bits, and takes them
from the front: each time, the words turn by one, and what was at the front comes back at the end, changed.
Where rows cannot be moved so, it owns one neuron, and that is its word.
"""

import triton
import triton.language as tl

from tgo_kernels._triton.math import INTERPRETED

SPAN = tl.constexpr(4)  # steps at once: those of one Philox block


@triton.jit
def words_of(ptr, F: tl.constexpr):
    """The tensor as words, or, where its rows begin anywhere, as it is."""
    if F.alignment > 1:
        return ptr.to(tl.pointer_type(tl.int32))
    else:
        return ptr


@triton.jit
def all_words_of(ptrs, F: tl.constexpr):
    found = ()
    for i in tl.static_range(len(ptrs)):
        found = found + (words_of(ptrs[i], F),)
    return found


@triton.jit
def place_of(program, before, until, steps, inner, F: tl.constexpr):
    """The rows of a program, in words: where they begin, each word's place in one, which exist, how far apart they are.

    It begins its share of so many neurons `before`, and none are `until`. They and inner come in units of the
    alignment, so that the compiler sees their multiples. A thread has F.count neurons, in F.words words.
    """
    UNIT: tl.constexpr = F.alignment * F.words // F.count
    start = program * (F.block * F.words) + before * UNIT
    inner = inner.to(tl.int64) * UNIT
    limit = tl.minimum(until.to(tl.int64) * UNIT - start, F.block * F.words).to(tl.int32)
    first = tl.arange(0, F.block) * F.words
    word = and_following(first, F.words)
    if F.time_outermost:
        return start, word, word < limit, inner
    else:
        m = start + first
        offset = (m // inner) * inner * steps + m % inner
        return tl.zeros_like(start), and_following(offset, F.words), word < limit, inner


@triton.jit
def and_following(first, COUNT: tl.constexpr):
    """[BLOCK] numbers as [BLOCK, COUNT], each followed by the next ones; one alone stays [BLOCK]."""
    if COUNT == 1:
        return first
    else:
        return first[:, None] + tl.arange(0, COUNT)[None, :]


@triton.jit
def apart(row):
    """[BLOCK, 4] to four times [BLOCK], or [BLOCK, 2] to two; one [BLOCK] stays one."""
    if len(row.shape) == 1:
        return (row,)
    elif row.shape[1] == 2:
        return tl.split(row)
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
    elif len(words) == 2:
        return tl.join(words[0], words[1])
    else:
        row = tl.join(tl.join(words[0], words[2]), tl.join(words[1], words[3]))
        return tl.reshape(row, (words[0].shape[0], 4))


@triton.jit
def within(t, steps):
    """Whether step ``t`` is one of so many; in a whole span all are, unless sequences end."""
    return (t >= 0) & (t < steps)


@triton.jit
def load_rows(ptr, t, steps, place, F: tl.constexpr):
    """Rows ``t`` to ``t + 3``, each as the words of a thread."""
    start, word, exists, inner = place
    rows = ()
    for i in tl.static_range(SPAN):
        mask = exists if F.whole else tl.where(within(t + i, steps), exists, False)
        rows = rows + (apart(tl.load(ptr + (start + (t + i) * inner) + word, mask=mask)),)
    return rows


@triton.jit
def load_all_rows(ptrs, t, steps, place, F: tl.constexpr):
    found = ()
    for i in tl.static_range(len(ptrs)):
        found = found + (load_rows(ptrs[i], t, steps, place, F),)
    return found


@triton.jit
def store_rows(ptr, rows, t, steps, place, F: tl.constexpr):
    start, word, exists, inner = place
    for i in tl.static_range(SPAN):
        mask = exists if F.whole else tl.where(within(t + i, steps), exists, False)
        tl.store(ptr + (start + (t + i) * inner) + word, together(rows[i]), mask=mask)


@triton.jit
def store_all_rows(ptrs, rows, t, steps, place, F: tl.constexpr):
    """There may be more rows, which are not stored."""
    for i in tl.static_range(len(ptrs)):
        store_rows(ptrs[i], rows[i], t, steps, place, F)


@triton.jit
def states_of(program, before, until, F: tl.constexpr):
    """Where a program's states begin in the order of memory, a thread's first up to four, and how many there are."""
    start = program * (F.block * F.count) + before * F.alignment
    limit = tl.minimum(until.to(tl.int64) * F.alignment - start, F.block * F.count).to(tl.int32)
    AT_ONCE: tl.constexpr = F.count if F.count < 4 else 4
    return start, and_following(tl.arange(0, F.block) * F.count, AT_ONCE), limit


@triton.jit
def load_states(ptr, states, COUNT: tl.constexpr):
    start, at, limit = states
    v = apart(tl.load(ptr + start + at, mask=at < limit))
    if COUNT == 8:
        v = v + apart(tl.load(ptr + start + 4 + at, mask=at + 4 < limit))
    return v


@triton.jit
def load_lengths(ptr, steps, states, F: tl.constexpr):
    """How many of the call's steps each neuron's sequence has, if they end."""
    if F.lengths:
        lengths, clipped = load_states(ptr, states, F.count), ()
        for i in tl.static_range(len(lengths)):
            clipped = clipped + (tl.minimum(lengths[i], steps),)
        return (clipped,)
    else:
        return ()


@triton.jit
def store_states(ptr, v, states, COUNT: tl.constexpr):
    start, at, limit = states
    tl.store(ptr + start + at, together(v[:4]), mask=at < limit)
    if COUNT == 8:
        tl.store(ptr + start + 4 + at, together(v[4:]), mask=at + 4 < limit)


@triton.jit
def load_all_states(ptrs, rests, states, EACH: tl.constexpr, F: tl.constexpr):
    """Of each kind its states; where there is no pointer, those of neurons that rest, ``EACH`` of them."""
    found = ()
    for i in tl.static_range(len(rests)):
        if ptrs[i] is None:
            found = found + (splat(rests[i], EACH, F.block),)
        else:
            found = found + (load_states(ptrs[i], states, F.count),)
    return found


@triton.jit
def store_all_states(ptrs, held, states, F: tl.constexpr):
    for i in tl.static_range(len(held)):
        if ptrs[i] is not None:
            store_states(ptrs[i], held[i], states, F.count)


@triton.jit
def rows_apart(ptr, distance, COUNT: tl.constexpr):
    """So many pointers, each so far behind the one before."""
    ptrs = ()
    for i in tl.static_range(COUNT):
        ptrs = ptrs + (ptr + i * distance,)
    return ptrs


@triton.jit
def checkpoint(ptr, number, neurons, F: tl.constexpr):
    """Where the states are saved for the so manieth time, from 1."""
    distance = neurons.to(tl.int64) * F.alignment
    return rows_apart(ptr + (number - 1).to(tl.int64) * F.states * distance, distance, F.states)


@triton.jit
def zeros(COUNT: tl.constexpr):
    found = ()
    for _ in tl.static_range(COUNT):
        found = found + (0.0,)
    return found


@triton.jit
def splat(value, COUNT: tl.constexpr, BLOCK: tl.constexpr):
    """``value`` as the state of so many neurons; one state turns as well as many of the same."""
    v = tl.full((BLOCK,), value, tl.float32)
    return (v, v, v, v, v, v, v, v)[:COUNT]


@triton.jit
def fronts(rows):
    """Of each tensor the first word of each row."""
    found = ()
    for i in tl.static_range(len(rows)):
        r = rows[i]
        found = found + ((r[0][0], r[1][0], r[2][0], r[3][0]),)
    return found


@triton.jit
def turn(words, last):
    """The word at the front gives way to ``last`` at the end."""
    return words[1:] + (last,)


@triton.jit
def turn_words(rows, last):
    """Of each tensor the four rows, turned."""
    found = ()
    for i in tl.static_range(len(rows)):
        r, w = rows[i], last[i]
        found = found + ((turn(r[0], w[0]), turn(r[1], w[1]), turn(r[2], w[2]), turn(r[3], w[3])),)
    return found


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
    """What comes back, from one or two neurons, for the words of each tensor: the last of them as they were."""
    done = ()
    for j in tl.static_range(len(neurons[0])):
        a, b, like, four = neurons[0][j], neurons[len(neurons) - 1][j], words[j], ()
        for i in tl.static_range(SPAN):
            four = four + (word_of(a[i], b[i], like[i], DTYPE),)
        done = done + (four,)
    return done + words[len(neurons[0]) :]


@triton.jit
def rounded(x, DTYPE: tl.constexpr):
    """To the nearest, ties to even."""
    if INTERPRETED and DTYPE == tl.bfloat16:  # the interpreter truncates
        bits = x.to(tl.uint32, bitcast=True)
        nearest = tl.where(x == x, bits + 0x7FFF + ((bits >> 16) & 1), 0x7FC00000)
        return (nearest >> 16).to(tl.uint16).to(tl.bfloat16, bitcast=True)
    else:
        return x.to(DTYPE)
