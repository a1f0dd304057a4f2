"""The walk through time in Triton: one kernel forward and one back, of any neuron whose step is handed in.

A program walks its neurons in spans of four steps, those of one Philox block. Within a span a thread takes its neurons
in turn, so that few registers hold the many neurons of 128 bits. All sizes are run-time arguments. Where neurons have
constants of their own (see tgo_kernels/table.py), it goes on to those that share its columns.
"""

import triton
import triton.language as tl

from tgo_kernels._triton.draw import counter_of, draw, held_back, noise_of
from tgo_kernels._triton.math import (
    INTEGER,
    NO_MEMBRANE,
    NO_NOISE,
    count_of,
    distance_of,
    guard_term,
    membrane_of,
    spike_of,
)
from tgo_kernels._triton.rows import (
    SPAN,
    all_words_of,
    checkpoint,
    fronts,
    load_all_rows,
    load_all_states,
    load_lengths,
    load_rows,
    place_of,
    states_of,
    store_all_rows,
    store_all_states,
    turn_words,
    values_of,
    within,
    words_from,
    words_of,
    zeros,
)
from tgo_kernels._triton.table import constants_of, load_fixed, no_sums, store_fixed, table_of, with_gradients
from tgo_kernels._triton.totals import store_partial

SIZES = [
    "steps", "neurons", "columns", "inner", "turns", "noise_step", "size1", "size2", "size3", "stride0", "stride1",
    "stride2", "stride3",
]  # fmt: skip


@triton.jit
def each(held, place: tl.constexpr):
    """Of each of the things in ``held`` that at place ``place``."""
    found = ()
    for i in tl.static_range(len(held)):
        found = found + (held[i][place],)
    return found


@triton.jit
def all_each(steps, COUNT: tl.constexpr):
    """From so many things in each step, of each of them its steps."""
    found = ()
    for i in tl.static_range(COUNT):
        found = found + (each(steps, i),)
    return found


@triton.jit
def turned(held, last):
    """Each with what is at the front given way to ``last`` at the end."""
    found = ()
    for i in tl.static_range(len(held)):
        found = found + (held[i][1:] + (last[i],),)
    return found


@triton.jit
def where_all(condition, a, b):
    found = ()
    for i in tl.static_range(len(a)):
        found = found + (tl.where(condition, a[i], b[i]),)
    return found


@triton.jit
def over_neurons(BODY, rows, held, total, given, noise, turns, F: tl.constexpr):
    """``BODY`` for a thread's neurons in turn, each in the four steps of a span.

    ``rows`` are tensors' rows, whose values it takes, and may give others back for the first of them; ``held`` is what
    there is of each neuron, and ``total`` of all of them. ``given`` it takes as it is.
    """
    AT_ONCE: tl.constexpr = F.at_once
    LANES: tl.constexpr = 2 if F.count > F.words else 1
    seed_ptr, counter, block, inner = noise
    for _ in range(1 if F.fixed < F.owned else turns):  # a thread has one neuron where constants have a time axis
        for lane in tl.static_range(AT_ONCE):
            if lane % LANES == 0:
                words, done = fronts(rows), ()
            if lane % 2 == 0 or F.permuted:
                drawn, counter = draw(seed_ptr, counter, block, F)
            xi, drawn = noise_of(held[0][0], drawn)
            values = ()
            for i in tl.static_range(len(rows)):
                values = values + (values_of(words[i], lane % LANES, F.dtype),)
            last, out, total = BODY(each(held, 0), values, xi, total, given, F)
            held = turned(held, last)
            if F.in_turn and lane % 2 == 0:
                drawn = held_back(drawn, out[0][0], inner)  # of turns it would be known to be positive
            done = done + (out,)
            if len(done) == LANES:
                rows = turn_words(rows, words_from(done, words, F.dtype))
    return rows, held, total


@triton.jit
def four_steps(states, inputs, xi, t, length, table, own, v_rest, F: tl.constexpr):
    """Steps ``t`` to ``t + 3`` of one neuron, which has so many: of each what fired, the states before and after it."""
    fires, befores, afters = (), (), ()
    for i in tl.static_range(SPAN):
        befores = befores + (states,)
        constants = constants_of(table, own, t + i, (states[0], inputs[0][i]), F)
        after, fired = F.step(states, each(inputs, i), constants, (xi[i], v_rest), F)
        if F.bounded:
            inside = within(t + i, length)
            after = where_all(inside, after, states)
            fired = (fired[0] & inside,) + fired[1:]
        states = after
        fires, afters = fires + (fired,), afters + (after,)
    return fires, befores, afters


@triton.jit
def recall_body(held, values, xi, total, given, F: tl.constexpr):
    """``held``: states, the neuron's own constants without a time axis, and its length, if sequences end."""
    table, v_rest, t, steps = given
    S: tl.constexpr = F.states
    length = held[S + F.fixed] if F.lengths else steps
    _, _, afters = four_steps(held[:S], values, xi, t, length, table, held[S:], v_rest, F)
    return afters[SPAN - 1] + held[S:], (values[0],), total


@triton.jit
def forward_body(held, values, xi, total, given, F: tl.constexpr):
    """``held``: states, the neuron's own constants without a time axis, and its length, if sequences end."""
    table, v_rest, guard_margin, grid, t, steps = given
    penalty, nears, fires = total
    S: tl.constexpr = F.states
    length = held[S + F.fixed] if F.lengths else steps
    fired, _, afters = four_steps(held[:S], values[: F.inputs], xi, t, length, table, held[S:], v_rest, F)
    spikes, membrane = (), ()
    for i in tl.static_range(SPAN):
        s = spike_of(fired[i], F)
        spikes = spikes + (s,)
        fires += count_of(fired[i], s, F)
        if F.guard:
            d = distance_of(fired[i][1], fired[i], F)
            if F.bounded:
                d = tl.where(within(t + i, length), d, float("inf"))
            nears += tl.where(tl.abs(d) < guard_margin, 1.0, 0.0)
            penalty += guard_term(d, guard_margin, grid, F).to(tl.float64)
        if F.membrane != NO_MEMBRANE:
            m = membrane_of(fired[i], afters[i][0], F)
            membrane = membrane + (tl.where(within(t + i, length), m, 0.0) if F.bounded else m,)
    out = (spikes,) if F.membrane == NO_MEMBRANE else (spikes, membrane)
    return afters[SPAN - 1] + held[S:], out, (penalty, nears, fires)


@triton.jit
def backward_body(held, values, xi, total, given, F: tl.constexpr):
    """``held``: as forward, then dL/dstates after the span, and the sums of dL/d(its own constants)."""
    table, g_table, settings, t, steps, exists, again = given
    S: tl.constexpr = F.states
    A: tl.constexpr = F.states + F.fixed
    G: tl.constexpr = A + (1 if F.lengths else 0)
    length = held[A] if F.lengths else steps
    own, inputs = held[S:A], values[: F.inputs]
    fired, befores, _ = four_steps(held[:S], inputs, xi, t, length, table, own, settings[0], F)
    g_states, sums, g_inputs = held[G : G + S], held[G + S :], ()
    for i in tl.static_range(SPAN - 1, -1, -1):
        g_s = values[F.inputs][i] if F.g_spikes else None
        g_m = values[len(values) - 1][i] if F.membrane != NO_MEMBRANE else 0.0
        firing = (xi[i],) + settings + (g_m,)
        constants = constants_of(table, own, t + i, (g_states[0], inputs[0][i]), F)
        g_before, g_x, g_constants = F.step_back(
            befores[i], each(inputs, i), constants, fired[i], firing, g_states, g_s, F
        )
        inside = within(t + i, length)
        if F.owned > 0:
            counts = exists & inside if F.bounded else exists
            sums = with_gradients(sums, g_constants, counts, g_table, t + i, again, F)
        if F.lengths:
            g_x = where_all(inside, g_x, zeros(F.inputs))
        g_inputs = (g_x,) + g_inputs
        g_states = where_all(inside, g_before, g_states) if F.bounded else g_before
    if F.once and not F.g_init:  # each neuron's begins anew
        g_states = held[G : G + S]
    return held[:G] + g_states + sums, all_each(g_inputs, F.inputs), total


@triton.jit
def taken(program, again, neurons, columns, steps, inner, sizes, strides, lengths_ptr, F: tl.constexpr):
    """The neurons that a program takes, of those that share its columns the next ones again: where their rows and their
    states lie, what their noise is counted by, and how many steps they have."""
    before = again * columns.to(tl.int64) if F.owned > 0 else 0
    until = tl.minimum(neurons, before + columns) if F.owned > 0 else neurons
    place = place_of(program, before, until, steps, inner, F)
    states = states_of(program, before, until, F)
    first = counter_of(states[0], sizes, strides, F)
    return place, states, first, load_lengths(lengths_ptr, steps, states, F)


@triton.jit(do_not_specialize=SIZES)
def forward_kernel(
    inputs, init_ptrs, lengths_ptr, table_ptr, seed_ptr, spikes_ptr, membrane_ptr, final_ptrs, checkpoints_ptr,
    partial_ptr, steps, neurons, columns, inner, turns, noise_step, size1, size2, size3, stride0, stride1, stride2,
    stride3, numbers, rests, guard_margin, grid, F: tl.constexpr,
):  # fmt: skip
    S: tl.constexpr = F.states
    program = tl.program_id(0).to(tl.int64)
    columns_of = states_of(program, 0, columns, F)
    table = table_of(table_ptr, numbers, steps, columns, inner, columns_of, F)
    own = load_fixed(table, F)
    sizes, strides = (size1, size2, size3), (stride0, stride1, stride2, stride3)
    inputs = all_words_of(inputs, F)
    outputs = all_words_of((spikes_ptr,) if F.membrane == NO_MEMBRANE else (spikes_ptr, membrane_ptr), F)
    block = noise_step.to(tl.int64) // SPAN  # the first span's
    phase = 0 if F.whole or F.noise == NO_NOISE else (noise_step % SPAN).to(tl.int32)

    # Each term is a multiple of one fp32 ulp, so that a sum of 2^28 of them in fp64 is exact, whatever its order.
    all_penalty = tl.zeros((F.block,), tl.float64)
    all_near, all_fired = tl.zeros((F.block,), tl.int32), tl.zeros((F.block,), tl.int32)
    for again in range((neurons + columns - 1) // columns if F.owned > 0 else 1):
        place, states, first, length = taken(
            program, again, neurons, columns, steps, inner, sizes, strides, lengths_ptr, F
        )
        v = load_all_states(init_ptrs, rests, states, F.count, F)
        penalty = tl.zeros((F.block,), tl.float64)
        near, fired = tl.zeros((F.block,), tl.int32), tl.zeros((F.block,), tl.int32)
        for span in range(1 if F.once else (phase + steps + SPAN - 1) // SPAN):
            t = span * SPAN - phase
            if F.saves:
                saved = (span - (phase > 0)) // 2
                if (saved > 0) & ((span - (phase > 0)) % 2 == 0):
                    store_all_states(checkpoint(checkpoints_ptr, saved, neurons, F), v, states, F)
            rows = load_all_rows(inputs, t, steps, place, F)
            if F.membrane != NO_MEMBRANE and F.inputs == 1:
                rows = rows + rows  # for what comes back to have a place
            none = tl.zeros((F.block,), tl.float32)  # a float is counted at once
            given = table, rests[0], guard_margin, grid, t, steps
            noise = seed_ptr, first, block + span, inner
            held, total = v + own + length, (penalty, none, none)
            rows, held, total = over_neurons(forward_body, rows, held, total, given, noise, turns, F)
            v, own, length, penalty = held[:S], held[S : S + F.fixed], held[S + F.fixed :], total[0]
            near += total[1].to(tl.int32)
            fired += total[2].to(tl.int32)
            store_all_rows(outputs, rows, t, steps, place, F)
        store_all_states(final_ptrs, v, states, F)
        exists = tl.arange(0, F.block) * F.count < states[2]
        all_fired += tl.where(exists, fired, 0)
        all_near += tl.where(exists, near, 0)
        all_penalty += tl.where(exists, penalty, 0.0)

    if F.once and F.owned == 0 and F.spikes != INTEGER:  # four steps: both sums fit into one word
        counts = tl.sum(all_fired + (all_near << 16))
        sum_fired, sum_near = counts & 0xFFFF, counts >> 16
    else:
        sum_fired = tl.sum(all_fired.to(tl.int64))
        sum_near = tl.sum(all_near.to(tl.int64)) if F.guard else sum_fired
    penalty = tl.sum(all_penalty) if F.guard else 0.0
    store_partial(partial_ptr, sum_fired, sum_near, penalty, F)


@triton.jit(do_not_specialize=SIZES)
def backward_kernel(
    inputs, init_ptrs, lengths_ptr, table_ptr, seed_ptr, checkpoints_ptr, g_spikes_ptr, g_membrane_ptr, g_final_ptrs,
    g_penalty_ptr, g_input_ptrs, g_init_ptrs, g_table_ptr, steps, neurons, columns, inner, turns, noise_step, size1,
    size2, size3, stride0, stride1, stride2, stride3, numbers, rests, guard_margin, grid, curve_height, curve_scale,
    share, F: tl.constexpr,
):  # fmt: skip
    S: tl.constexpr = F.states
    A: tl.constexpr = F.states + F.fixed
    G: tl.constexpr = A + (1 if F.lengths else 0)
    program = tl.program_id(0).to(tl.int64)
    columns_of = states_of(program, 0, columns, F)
    table = table_of(table_ptr, numbers, steps, columns, inner, columns_of, F)
    g_table = table_of(g_table_ptr, numbers, steps, columns, inner, columns_of, F)
    own, sums = load_fixed(table, F), no_sums(F)
    sizes, strides = (size1, size2, size3), (stride0, stride1, stride2, stride3)
    inputs, g_inputs = all_words_of(inputs, F), all_words_of(g_input_ptrs, F)
    block = noise_step.to(tl.int64) // SPAN  # the first span's
    phase = 0 if F.whole or F.noise == NO_NOISE else (noise_step % SPAN).to(tl.int32)
    k = tl.load(g_penalty_ptr) * share if F.guard else 0.0
    settings = rests[0], guard_margin, grid, k, curve_height, curve_scale
    KEEPS_G: tl.constexpr = F.g_init or not F.once
    for again in range((neurons + columns - 1) // columns if F.owned > 0 else 1):
        place, states, first, length = taken(
            program, again, neurons, columns, steps, inner, sizes, strides, lengths_ptr, F
        )
        g_v = load_all_states(g_final_ptrs, zeros(S), states, F.count if KEEPS_G else 1, F)
        exists = tl.arange(0, F.block) * F.count < states[2]

        # From the last span to the first: forward through it from the state saved before, and back.
        spans = 1 if F.once else (phase + steps + SPAN - 1) // SPAN
        for back in range(spans):
            span = spans - 1 - back
            v = load_all_states(init_ptrs, rests, states, 1 if F.once else F.count, F)
            if not F.once:
                saved = tl.maximum(span - (phase > 0), 0) // 2
                if saved > 0:
                    v = load_all_states(checkpoint(checkpoints_ptr, saved, neurons, F), rests, states, F.count, F)
                for past in range(tl.where(saved > 0, 2 * saved + (phase > 0), 0), span):
                    t = past * SPAN - phase
                    given = table, rests[0], t, steps
                    noise = seed_ptr, first, block + past, inner
                    rows = load_all_rows(inputs, t, steps, place, F)
                    _, held, _ = over_neurons(recall_body, rows, v + own + length, (), given, noise, turns, F)
                    v, own, length = held[:S], held[S:A], held[A:]
            t = span * SPAN - phase
            given = table, g_table, settings, t, steps, exists, again
            noise = seed_ptr, first, block + span, inner
            rows = load_all_rows(inputs, t, steps, place, F)
            if F.g_spikes:
                rows = rows + (load_rows(words_of(g_spikes_ptr, F), t, steps, place, F),)
            if F.membrane != NO_MEMBRANE:
                rows = rows + (load_rows(words_of(g_membrane_ptr, F), t, steps, place, F),)
            held = v + own + length + g_v + sums
            rows, held, _ = over_neurons(backward_body, rows, held, (), given, noise, turns, F)
            own, length, g_v, sums = held[S:A], held[A:G], held[G : G + S], held[G + S :]
            store_all_rows(g_inputs, rows, t, steps, place, F)
        store_all_states(g_init_ptrs, g_v, states, F)
    store_fixed(g_table, sums, F)
