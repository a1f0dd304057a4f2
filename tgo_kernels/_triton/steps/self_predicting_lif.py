"""Printed by tgo_kernels/printer.py from the step of tgo_kernels/neurons/self_predicting_lif.py."""

import triton
import triton.language as tl

from tgo_kernels._triton.math import fire, fire_back, plus, spike_of


@triton.jit
def step(states, inputs, constants, firing, F: tl.constexpr):
    v = states[0]
    p = states[1]
    x = inputs[0]
    decay = constants[0]
    gain = constants[1]
    leak_bias = constants[2]
    v_threshold = constants[3]
    reset_by = constants[4]
    noise_std = constants[5]
    rate = constants[6]
    of_output = constants[7]
    of_input = constants[8]
    scale = constants[9]
    shift = constants[10]
    t0 = scale * x + shift
    after, fired = fire(decay * v + gain * (t0 + p) + leak_bias, v_threshold, reset_by, noise_std, firing, F)
    return (after, (1.0 - rate) * p + rate * (of_output * spike_of(fired, F) - of_input * t0)), fired


@triton.jit
def step_back(states, inputs, constants, fired, firing, g_states, g_s, F: tl.constexpr):
    v = states[0]
    p = states[1]
    x = inputs[0]
    decay = constants[0]
    gain = constants[1]
    rate = constants[6]
    of_output = constants[7]
    of_input = constants[8]
    scale = constants[9]
    shift = constants[10]
    g_v = g_states[0]
    g_p = g_states[1]
    t0 = scale * x + shift
    t1 = g_p * rate
    t2 = -t1
    g_h, g_threshold, g_by, g_std = fire_back(plus(g_s, t1 * of_output), g_v, fired, firing, F)
    t3 = g_h * gain
    t4 = t2 * of_input + t3
    return (
        (g_h * decay, g_p * (1.0 - rate) + t3),
        (t4 * scale,),
        (
            g_h * v,
            g_h * (t0 + p),
            g_h,
            g_threshold,
            g_by,
            g_std,
            g_p * (of_output * spike_of(fired, F) - of_input * t0) + -(g_p * p),
            t1 * spike_of(fired, F),
            t2 * t0,
            t4 * x,
            t4,
        ),
    )
