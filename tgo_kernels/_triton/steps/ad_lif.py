"""Printed by tgo_kernels/printer.py from the step of tgo_kernels/neurons/ad_lif.py."""

import triton
import triton.language as tl

from tgo_kernels._triton.math import after_of, fire, fire_back, plus, spike_of


@triton.jit
def step(states, inputs, constants, firing, F: tl.constexpr):
    v = states[0]
    w = states[1]
    x = inputs[0]
    decay = constants[0]
    gain = constants[1]
    leak_bias = constants[2]
    v_threshold = constants[3]
    reset_by = constants[4]
    noise_std = constants[5]
    rho = constants[6]
    of_charged = constants[7]
    of_reset = constants[8]
    of_spike = constants[9]
    scale = constants[10]
    shift = constants[11]
    t0 = decay * v + gain * (scale * x + shift - w) + leak_bias
    after, fired = fire(t0, v_threshold, reset_by, noise_std, firing, F)
    return (after, rho * w + of_charged * t0 + of_reset * after + of_spike * spike_of(fired, F)), fired


@triton.jit
def step_back(states, inputs, constants, fired, firing, g_states, g_s, F: tl.constexpr):
    v = states[0]
    w = states[1]
    x = inputs[0]
    decay = constants[0]
    gain = constants[1]
    rho = constants[6]
    of_charged = constants[7]
    of_reset = constants[8]
    of_spike = constants[9]
    scale = constants[10]
    shift = constants[11]
    g_v = g_states[0]
    g_w = g_states[1]
    g_h, g_threshold, g_by, g_std = fire_back(plus(g_s, g_w * of_spike), g_v + g_w * of_reset, fired, firing, F)
    t0 = g_w * of_charged + g_h
    t1 = t0 * gain
    return (
        (t0 * decay, g_w * rho + -t1),
        (t1 * scale,),
        (
            t0 * v,
            t0 * (scale * x + shift - w),
            t0,
            g_threshold,
            g_by,
            g_std,
            g_w * w,
            g_w * fired[1],
            g_w * after_of(fired, firing, F),
            g_w * spike_of(fired, F),
            t1 * x,
            t1,
        ),
    )
