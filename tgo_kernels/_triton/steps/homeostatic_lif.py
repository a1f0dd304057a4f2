"""Printed by tgo_kernels/printer.py from the step of tgo_kernels/neurons/homeostatic_lif.py."""

import triton
import triton.language as tl

from tgo_kernels._triton.math import fire, fire_back


@triton.jit
def step(states, inputs, constants, firing, F: tl.constexpr):
    v = states[0]
    e = states[1]
    x = inputs[0]
    decay = constants[0]
    gain = constants[1]
    leak_bias = constants[2]
    v_threshold = constants[3]
    reset_by = constants[4]
    noise_std = constants[5]
    theta = constants[6]
    target = constants[7]
    adapts = constants[8]
    t0 = decay * v + gain * x + leak_bias
    t1 = e + theta * (t0 - target)
    after, fired = fire(t0, v_threshold + (adapts * t1 + (1.0 - adapts) * t1), reset_by, noise_std, firing, F)
    return (after, t1), fired


@triton.jit
def step_back(states, inputs, constants, fired, firing, g_states, g_s, F: tl.constexpr):
    v = states[0]
    e = states[1]
    x = inputs[0]
    decay = constants[0]
    gain = constants[1]
    theta = constants[6]
    target = constants[7]
    adapts = constants[8]
    g_v = g_states[0]
    g_e = g_states[1]
    t0 = fired[1] - target
    t1 = e + theta * t0
    g_h, g_threshold, g_by, g_std = fire_back(g_s, g_v, fired, firing, F)
    t2 = g_e + g_threshold * adapts
    t3 = t2 * theta
    t4 = g_h + t3
    return (
        (t4 * decay, t2),
        (t4 * gain,),
        (t4 * v, t4 * x, t4, g_threshold, g_by, g_std, t2 * t0, -t3, -(g_threshold * t1) + g_threshold * t1),
    )
