"""Printed by tgo_kernels/printer.py from the step of tgo_kernels/neurons/synaptic_lif.py."""

import triton
import triton.language as tl

from tgo_kernels._triton.math import fire, fire_back


@triton.jit
def step(states, inputs, constants, firing, F: tl.constexpr):
    v = states[0]
    i = states[1]
    x = inputs[0]
    decay = constants[0]
    gain = constants[1]
    leak_bias = constants[2]
    v_threshold = constants[3]
    reset_by = constants[4]
    noise_std = constants[5]
    current_decay = constants[6]
    scale = constants[7]
    shift = constants[8]
    t0 = current_decay * i + (scale * x + shift)
    after, fired = fire(decay * v + gain * t0 + leak_bias, v_threshold, reset_by, noise_std, firing, F)
    return (after, t0), fired


@triton.jit
def step_back(states, inputs, constants, fired, firing, g_states, g_s, F: tl.constexpr):
    v = states[0]
    i = states[1]
    x = inputs[0]
    decay = constants[0]
    gain = constants[1]
    current_decay = constants[6]
    scale = constants[7]
    shift = constants[8]
    g_v = g_states[0]
    g_i = g_states[1]
    g_h, g_threshold, g_by, g_std = fire_back(g_s, g_v, fired, firing, F)
    t0 = g_i + g_h * gain
    return (
        (g_h * decay, t0 * current_decay),
        (t0 * scale,),
        (g_h * v, g_h * (current_decay * i + (scale * x + shift)), g_h, g_threshold, g_by, g_std, t0 * i, t0 * x, t0),
    )
