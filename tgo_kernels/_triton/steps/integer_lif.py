"""Printed by tgo_kernels/printer.py from the step of tgo_kernels/neurons/integer_lif.py."""

import triton
import triton.language as tl

from tgo_kernels._triton.math import fire, fire_back


@triton.jit
def step(states, inputs, constants, firing, F: tl.constexpr):
    v = states[0]
    x = inputs[0]
    decay = constants[0]
    gain = constants[1]
    leak_bias = constants[2]
    most = constants[3]
    unit = constants[4]
    noise_std = constants[5]
    after, fired = fire(decay * v + gain * x + leak_bias, most, unit, noise_std, firing, F)
    return (after,), fired


@triton.jit
def step_back(states, inputs, constants, fired, firing, g_states, g_s, F: tl.constexpr):
    v = states[0]
    x = inputs[0]
    decay = constants[0]
    gain = constants[1]
    g_v = g_states[0]
    g_h, g_threshold, g_by, g_std = fire_back(g_s, g_v, fired, firing, F)
    return (
        (g_h * decay,),
        (g_h * gain,),
        (g_h * v, g_h * x, g_h, g_threshold, g_by, g_std),
    )
