"""Printed by tgo_kernels/printer.py from the step of tgo_kernels/neurons/adaptive_lif.py."""

import triton
import triton.language as tl

from tgo_kernels._triton.math import fire, fire_back, plus, spike_of


@triton.jit
def step(states, inputs, constants, firing, F: tl.constexpr):
    v = states[0]
    a = states[1]
    x = inputs[0]
    decay = constants[0]
    gain = constants[1]
    leak_bias = constants[2]
    v_threshold = constants[3]
    reset_by = constants[4]
    noise_std = constants[5]
    rho = constants[6]
    beta = constants[7]
    increment = constants[8]
    after, fired = fire(decay * v + gain * x + leak_bias, v_threshold + beta * a, reset_by, noise_std, firing, F)
    return (after, rho * a + increment * spike_of(fired, F)), fired


@triton.jit
def step_back(states, inputs, constants, fired, firing, g_states, g_s, F: tl.constexpr):
    v = states[0]
    a = states[1]
    x = inputs[0]
    decay = constants[0]
    gain = constants[1]
    rho = constants[6]
    beta = constants[7]
    increment = constants[8]
    g_v = g_states[0]
    g_a = g_states[1]
    g_h, g_threshold, g_by, g_std = fire_back(plus(g_s, g_a * increment), g_v, fired, firing, F)
    return (
        (g_h * decay, g_a * rho + g_threshold * beta),
        (g_h * gain,),
        (g_h * v, g_h * x, g_h, g_threshold, g_by, g_std, g_a * a, g_threshold * a, g_a * spike_of(fired, F)),
    )
