"""The LIF neuron in Triton: one forward and one backward kernel.

A program walks its neurons through time in spans of four steps, those of one Philox block. Within a span a thread takes
its neurons in turn, so that few registers hold the many neurons of 128 bits. All sizes are run-time arguments. Where
neurons have constants of their OWN (see tgo_kernels/table.py), it goes on to those that share its columns.
"""

import triton
import triton.language as tl

from tgo_kernels._triton.math import NO_NOISE, one_step, one_step_back, philox, surrogate, two_normals, with_sign_of
from tgo_kernels._triton.rows import (
    SPAN,
    WORDS,
    add_to_table,
    front,
    load_rows,
    load_states,
    load_table,
    place_of,
    splat,
    states_of,
    store_rows,
    store_states,
    store_table,
    turn,
    turn_rows,
    turn_table,
    values_of,
    within,
    words_from,
    words_of,
)

SIZES = [
    "steps", "neurons", "columns", "inner", "turns", "noise_step", "size1", "size2", "size3", "stride0", "stride1",
    "stride2", "stride3",
]  # fmt: skip


@triton.jit
def counter_of(start, sizes, strides, PERMUTED: tl.constexpr, COUNT: tl.constexpr, BLOCK: tl.constexpr):
    """What the noise of a thread's neurons is counted by.

    Where the order of memory is the logical one, low and high word of the number of the first pair, or of a single
    neuron's index; else the index of the first neuron, and the distance to the next one's.
    """
    m = start + tl.arange(0, BLOCK) * COUNT
    if PERMUTED:
        index = m % sizes[2] * strides[3]
        m = m // sizes[2]
        index += m % sizes[1] * strides[2]
        m = m // sizes[1]
        return index + m % sizes[0] * strides[1] + m // sizes[0] * strides[0], strides[3]
    else:
        UNIT: tl.constexpr = 1 if COUNT == 1 else 2
        first = start // UNIT
        return first.to(tl.uint32) + tl.arange(0, BLOCK).to(tl.uint32) * (COUNT // UNIT), (first >> 32).to(tl.uint32)


@triton.jit
def draw(
    seed_ptr, counter, block, NOISE: tl.constexpr, PERMUTED: tl.constexpr, COUNT: tl.constexpr, ONCE: tl.constexpr
):
    """The words of a Philox block: a thread's next pair's, or its next neuron's. And the counter of what follows."""
    if NOISE == NO_NOISE:
        return (), counter
    else:
        # Read anew within a loop over spans, or else the keys of all rounds are kept for it, in twenty registers.
        # As words of 32 bits, or else LLVM makes the keys wider, and of each product by 32 bits one by 64.
        key_ptr = seed_ptr.to(tl.pointer_type(tl.uint32))
        seed = tl.load(key_ptr, volatile=not ONCE), tl.load(key_ptr + 1, volatile=not ONCE)
        if PERMUTED or COUNT == 1:
            if PERMUTED:
                index, distance = counter
                low, high, following = index.to(tl.uint32), (index >> 32).to(tl.uint32), (index + distance, distance)
            else:
                low, high, following = counter[0], counter[1], counter
            a, b, c, d = philox(seed, low >> 1 | high << 31, high >> 1, block)
            odd = (low & 1) == 1
            return (tl.where(odd, c, a), tl.where(odd, d, b)), following
        else:
            return philox(seed, counter[0], counter[1], block), (counter[0] + 1, counter[1])


@triton.jit
def noise_of(v, words):
    """The noise of a thread's neuron in the four steps of a block, and the words with its neighbour's at the front."""
    if len(words) == 0:
        return (v, v, v, v), words
    else:
        z0, z1 = two_normals(words[0])
        z2, z3 = two_normals(words[1])
        return (z0, z1, z2, z3), words[2:] + words[:2]


@triton.jit
def held_back(words, x, positive):
    """The words, but as far as the compiler can know not before ``x`` is computed."""
    if len(words) == 0:
        return words
    else:
        bits = x.to(tl.uint32, bitcast=True)
        return (tl.where(positive > 0, words[0], bits), tl.where(positive > 0, words[1], bits)) + words[2:]


@triton.jit
def neuron_of(constants, table, OWN: tl.constexpr):
    """The constants of a thread's neuron: those of all, or its own at the front of the table."""
    if OWN:
        decay, gain, v_threshold = table[0][0], table[1][0], table[2][0]
        return (decay, gain, (1 - decay) * constants[4], v_threshold, constants[4], constants[5])
    else:
        return constants


@triton.jit
def four_steps(v, x, xi, t, steps, neuron, SOFT: tl.constexpr, NOISE: tl.constexpr, WHOLE: tl.constexpr):
    """Steps ``t`` to ``t + 3`` of one neuron: its state after them, and of each its spike, both membranes, and the
    state before it."""
    s, h, u, before = (), (), (), ()
    for i in tl.static_range(SPAN):
        before = before + (v,)
        after, s_i, h_i, u_i = one_step(v, x[i], xi[i], neuron, SOFT, NOISE)
        if not WHOLE:
            after = tl.where(within(t + i, steps), after, v)
            s_i = s_i & within(t + i, steps)
        v = after
        s, h, u = s + (s_i,), h + (h_i,), u + (u_i,)
    return v, s, h, u, before


@triton.jit(do_not_specialize=SIZES)
def lif_fwd_kernel(
    x_ptr, v_init_ptr, table_ptr, seed_ptr, spikes_ptr, v_final_ptr, checkpoints_ptr, penalty_ptr, counts_ptr, steps,
    neurons, columns, inner, turns, noise_step, size1, size2, size3, stride0, stride1, stride2, stride3, decay, gain,
    leak_bias, v_threshold, v_rest, noise_std, guard_margin,
    ALIGNMENT: tl.constexpr, TIME_OUTERMOST: tl.constexpr, PERMUTED: tl.constexpr, HAS_V_INIT: tl.constexpr,
    OWN: tl.constexpr, SOFT: tl.constexpr, NOISE: tl.constexpr, GUARD: tl.constexpr, SAVES: tl.constexpr,
    WHOLE: tl.constexpr, ONCE: tl.constexpr, COUNT: tl.constexpr, AT_ONCE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    DTYPE: tl.constexpr = x_ptr.dtype.element_ty
    LANES: tl.constexpr = 2 if COUNT > WORDS else 1
    program = tl.program_id(0).to(tl.int64)
    columns_of = states_of(program, 0, columns, ALIGNMENT, COUNT, BLOCK)
    table = load_table(table_ptr, columns, columns_of, ALIGNMENT, COUNT) if OWN else ()
    sizes, strides = (size1, size2, size3), (stride0, stride1, stride2, stride3)
    constants = (decay, gain, leak_bias, v_threshold, v_rest, noise_std)
    x_ptr = words_of(x_ptr, ALIGNMENT > 1)
    spikes_ptr = words_of(spikes_ptr, ALIGNMENT > 1)
    block = noise_step.to(tl.int64) // SPAN  # the first span's
    phase = 0 if WHOLE or NOISE == NO_NOISE else (noise_step % SPAN).to(tl.int32)

    # Each term is a multiple of one fp32 ulp, so that a sum of 2^28 of them in fp64 is exact, whatever its order.
    all_penalty = tl.zeros((BLOCK,), tl.float64)
    all_near, all_fired = tl.zeros((BLOCK,), tl.int32), tl.zeros((BLOCK,), tl.int32)
    for again in range((neurons + columns - 1) // columns if OWN else 1):
        before = again * columns.to(tl.int64) if OWN else 0
        until = tl.minimum(neurons, before + columns) if OWN else neurons
        place = place_of(program, before, until, steps, inner, ALIGNMENT, TIME_OUTERMOST, COUNT, BLOCK)
        states = states_of(program, before, until, ALIGNMENT, COUNT, BLOCK)
        first = counter_of(states[0], sizes, strides, PERMUTED, COUNT, BLOCK)
        v = load_states(v_init_ptr, states, COUNT) if HAS_V_INIT else splat(v_rest, COUNT, BLOCK)
        penalty = tl.zeros((BLOCK,), tl.float64)
        near, fired = tl.zeros((BLOCK,), tl.int32), tl.zeros((BLOCK,), tl.int32)
        for span in range(1 if ONCE else (phase + steps + SPAN - 1) // SPAN):
            t = span * SPAN - phase
            if SAVES:
                saved = (span - (phase > 0)) // 2
                if (saved > 0) & ((span - (phase > 0)) % 2 == 0):
                    row = (saved - 1).to(tl.int64) * neurons * ALIGNMENT
                    store_states(checkpoints_ptr + row, v, states, COUNT)
            rows = load_rows(x_ptr, t, steps, place, WHOLE)
            counter = first
            nears, fires = tl.zeros((BLOCK,), tl.float32), tl.zeros((BLOCK,), tl.float32)  # a float is counted at once
            for _ in range(turns):
                for lane in tl.static_range(AT_ONCE):
                    if lane % LANES == 0:
                        words, done = front(rows), ()
                    if lane % 2 == 0 or PERMUTED:
                        drawn, counter = draw(seed_ptr, counter, block + span, NOISE, PERMUTED, COUNT, ONCE)
                    xi, drawn = noise_of(v[0], drawn)
                    neuron = neuron_of(constants, table, OWN)
                    x = values_of(words, lane % LANES, DTYPE)
                    after, s, h, _, _ = four_steps(v[0], x, xi, t, steps, neuron, SOFT, NOISE, WHOLE)
                    v = turn(v, after)
                    table = turn_table(table)
                    spikes = ()
                    for i in tl.static_range(SPAN):
                        spikes = spikes + (tl.where(s[i], 1.0, 0.0),)
                        fires += spikes[i]
                        if GUARD:
                            distance = tl.abs(h[i] - neuron[3])
                            if not WHOLE:
                                distance = tl.where(within(t + i, steps), distance, float("inf"))
                            nears += tl.where(distance < guard_margin, 1.0, 0.0)
                            depth = tl.maximum(guard_margin - distance, 0.0, propagate_nan=tl.PropagateNan.ALL)
                            penalty += depth.to(tl.float64)
                    done = done + (spikes,)
                    if len(done) == LANES:
                        rows = turn_rows(rows, words_from(done, words, DTYPE))
            near += nears.to(tl.int32)
            fired += fires.to(tl.int32)
            store_rows(spikes_ptr, rows, t, steps, place, WHOLE)
        store_states(v_final_ptr, v, states, COUNT)
        exists = tl.arange(0, BLOCK) * COUNT < states[2]
        all_fired += tl.where(exists, fired, 0)
        all_near += tl.where(exists, near, 0)
        all_penalty += tl.where(exists, penalty, 0.0)

    if ONCE and not OWN:  # four steps: both sums fit into one word
        counts = tl.sum(all_fired + (all_near << 16))
        sum_fired, sum_near = counts & 0xFFFF, counts >> 16
    else:
        sum_fired = tl.sum(all_fired.to(tl.int64))
        sum_near = tl.sum(all_near.to(tl.int64)) if GUARD else sum_fired
    tl.store(counts_ptr + program, sum_fired)
    if GUARD:
        tl.store(counts_ptr + tl.num_programs(0) + program, sum_near)
        tl.store(penalty_ptr + program, tl.sum(all_penalty))


@triton.jit
def four_steps_back(
    g_v, h, u, before, x, g_s, t, steps, neuron, curve, guard_margin, k, exists,
    OWN: tl.constexpr, HAS_G_SPIKES: tl.constexpr, SOFT: tl.constexpr, NOISE: tl.constexpr, GUARD: tl.constexpr,
    CURVE: tl.constexpr, SURROGATE_AT_H: tl.constexpr, DETACH_RESET: tl.constexpr, WHOLE: tl.constexpr,
):  # fmt: skip
    """The reverse of :func:`four_steps`: dL/dv before them, g_x of each, and of its OWN decay, gain and threshold."""
    decay, gain, _, v_threshold, v_rest, _ = neuron
    g_x = ()
    g_decay, g_gain, g_threshold = tl.zeros_like(g_v), tl.zeros_like(g_v), tl.zeros_like(g_v)
    for i in tl.static_range(SPAN - 1, -1, -1):
        past, ds = one_step_back(g_v, h[i], u[i], v_threshold, v_rest, SOFT, NOISE, DETACH_RESET)
        g_h = past
        to_threshold = tl.where(u[i] >= v_threshold, -g_v, 0.0) if SOFT else tl.zeros_like(g_v)
        if HAS_G_SPIKES:
            ds = g_s[i] + ds
        if HAS_G_SPIKES or not DETACH_RESET:
            z = surrogate((h[i] if SURROGATE_AT_H else u[i]) - v_threshold, curve[0], curve[1], CURVE)
            through = tl.where(ds == 0, ds, ds * z)  # z of a NaN membrane is NaN
            g_h += through
            to_threshold -= through
        if GUARD:
            distance = h[i] - v_threshold
            pull = with_sign_of(k, distance)
            pull = tl.where((tl.abs(distance) < guard_margin) & (distance != 0), pull, 0.0)
            g_h -= pull
            to_threshold += pull
        g_x = (gain * g_h,) + g_x
        if OWN:
            counts = exists if WHOLE else exists & within(t + i, steps)
            g_decay += tl.where(counts, g_h * (before[i] - v_rest), 0.0)
            g_gain += tl.where(counts, g_h * x[i], 0.0)
            g_threshold += tl.where(counts, to_threshold, 0.0)
        g_v = decay * g_h if WHOLE else tl.where(within(t + i, steps), decay * g_h, g_v)
    return g_v, g_x, (g_decay, g_gain, g_threshold)


@triton.jit(do_not_specialize=SIZES)
def lif_bwd_kernel(
    x_ptr, v_init_ptr, table_ptr, seed_ptr, checkpoints_ptr, g_spikes_ptr, g_v_final_ptr, g_penalty_ptr, g_x_ptr,
    g_v_init_ptr, g_table_ptr, steps, neurons, columns, inner, turns, noise_step, size1, size2, size3, stride0, stride1,
    stride2, stride3, decay, gain, leak_bias, v_threshold, v_rest, noise_std, guard_margin, curve_height, curve_scale,
    share,
    ALIGNMENT: tl.constexpr, TIME_OUTERMOST: tl.constexpr, PERMUTED: tl.constexpr, HAS_V_INIT: tl.constexpr,
    OWN: tl.constexpr, HAS_G_SPIKES: tl.constexpr, HAS_G_V_FINAL: tl.constexpr, HAS_G_V_INIT: tl.constexpr,
    SOFT: tl.constexpr, NOISE: tl.constexpr, GUARD: tl.constexpr, CURVE: tl.constexpr, SURROGATE_AT_H: tl.constexpr,
    DETACH_RESET: tl.constexpr, WHOLE: tl.constexpr, ONCE: tl.constexpr, COUNT: tl.constexpr, AT_ONCE: tl.constexpr,
    IN_TURN: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    DTYPE: tl.constexpr = x_ptr.dtype.element_ty
    LANES: tl.constexpr = 2 if COUNT > WORDS else 1
    program = tl.program_id(0).to(tl.int64)
    columns_of = states_of(program, 0, columns, ALIGNMENT, COUNT, BLOCK)
    table = load_table(table_ptr, columns, columns_of, ALIGNMENT, COUNT) if OWN else ()
    none = splat(0.0, COUNT, BLOCK)
    sums = (none, none, none) if OWN else ()
    sizes, strides = (size1, size2, size3), (stride0, stride1, stride2, stride3)
    constants = (decay, gain, leak_bias, v_threshold, v_rest, noise_std)
    x_ptr = words_of(x_ptr, ALIGNMENT > 1)
    g_x_ptr = words_of(g_x_ptr, ALIGNMENT > 1)
    block = noise_step.to(tl.int64) // SPAN  # the first span's
    phase = 0 if WHOLE or NOISE == NO_NOISE else (noise_step % SPAN).to(tl.int32)
    k = tl.load(g_penalty_ptr) * share if GUARD else 0.0
    curve = (curve_height, curve_scale)
    KEEPS_G_V: tl.constexpr = HAS_G_V_INIT or not ONCE
    for again in range((neurons + columns - 1) // columns if OWN else 1):
        before = again * columns.to(tl.int64) if OWN else 0
        until = tl.minimum(neurons, before + columns) if OWN else neurons
        place = place_of(program, before, until, steps, inner, ALIGNMENT, TIME_OUTERMOST, COUNT, BLOCK)
        states = states_of(program, before, until, ALIGNMENT, COUNT, BLOCK)
        first = counter_of(states[0], sizes, strides, PERMUTED, COUNT, BLOCK)
        g_v = (
            load_states(g_v_final_ptr, states, COUNT) if HAS_G_V_FINAL else splat(0.0, COUNT if KEEPS_G_V else 1, BLOCK)
        )

        exists = tl.arange(0, BLOCK) * COUNT < states[2]

        # From the last span to the first: forward through it from the state saved before, and back.
        spans = 1 if ONCE else (phase + steps + SPAN - 1) // SPAN
        for back in range(spans):
            span = spans - 1 - back
            v = load_states(v_init_ptr, states, COUNT) if HAS_V_INIT else splat(v_rest, 1 if ONCE else COUNT, BLOCK)
            if not ONCE:
                saved = tl.maximum(span - (phase > 0), 0) // 2
                if saved > 0:
                    row = (saved - 1).to(tl.int64) * neurons * ALIGNMENT
                    v = load_states(checkpoints_ptr + row, states, COUNT)
                for past in range(tl.where(saved > 0, 2 * saved + (phase > 0), 0), span):
                    t = past * SPAN - phase
                    rows = load_rows(x_ptr, t, steps, place, WHOLE)
                    counter = first
                    for _ in range(turns):
                        for lane in tl.static_range(AT_ONCE):
                            if lane % LANES == 0:
                                words = front(rows)
                            if lane % 2 == 0 or PERMUTED:
                                drawn, counter = draw(seed_ptr, counter, block + past, NOISE, PERMUTED, COUNT, ONCE)
                            xi, drawn = noise_of(v[0], drawn)
                            neuron = neuron_of(constants, table, OWN)
                            x = values_of(words, lane % LANES, DTYPE)
                            after, _, _, _, _ = four_steps(v[0], x, xi, t, steps, neuron, SOFT, NOISE, WHOLE)
                            v = turn(v, after)
                            table = turn_table(table)
                            if lane % LANES == LANES - 1:
                                rows = turn_rows(rows, words)

            t = span * SPAN - phase
            rows = load_rows(x_ptr, t, steps, place, WHOLE)
            g_rows = load_rows(words_of(g_spikes_ptr, ALIGNMENT > 1), t, steps, place, WHOLE) if HAS_G_SPIKES else rows
            counter = first
            for _ in range(turns):
                for lane in tl.static_range(AT_ONCE):
                    if lane % LANES == 0:
                        words, g_words, done = front(rows), front(g_rows), ()
                    if lane % 2 == 0 or PERMUTED:
                        drawn, counter = draw(seed_ptr, counter, block + span, NOISE, PERMUTED, COUNT, ONCE)
                    xi, drawn = noise_of(v[0], drawn)
                    neuron = neuron_of(constants, table, OWN)
                    x, g_s = values_of(words, lane % LANES, DTYPE), values_of(g_words, lane % LANES, DTYPE)
                    _, _, h, u, states_before = four_steps(v[0], x, xi, t, steps, neuron, SOFT, NOISE, WHOLE)
                    v = turn(v, v[0])
                    g_before, g_x, g_own = four_steps_back(
                        g_v[0], h, u, states_before, x, g_s, t, steps, neuron, curve, guard_margin, k, exists,
                        OWN, HAS_G_SPIKES, SOFT, NOISE, GUARD, CURVE, SURROGATE_AT_H, DETACH_RESET, WHOLE,
                    )  # fmt: skip
                    table = turn_table(table)
                    sums = add_to_table(sums, g_own)
                    g_v = turn(g_v, g_before if KEEPS_G_V else g_v[0])
                    if IN_TURN and lane % 2 == 0:
                        drawn = held_back(drawn, g_x[0], inner)
                    done = done + (g_x,)
                    if len(done) == LANES:
                        rows, g_rows = turn_rows(rows, words_from(done, words, DTYPE)), turn_rows(g_rows, g_words)
            store_rows(g_x_ptr, rows, t, steps, place, WHOLE)
        if HAS_G_V_INIT:
            store_states(g_v_init_ptr, g_v, states, COUNT)
    if OWN:
        store_table(g_table_ptr, sums, columns, columns_of, ALIGNMENT, COUNT)
