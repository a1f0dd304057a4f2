"""Printed by tgo_kernels/printer.py: the steps of the house, in the order of their numbers."""

from tgo_kernels._triton.steps import (
    ad_lif,
    adaptive_lif,
    homeostatic_lif,
    inhibited_lif,
    integer_lif,
    lif,
    oscillating_lif,
    self_predicting_lif,
    synaptic_lif,
    ternary_lif,
)

STEPS = (
    lif,
    adaptive_lif,
    synaptic_lif,
    ad_lif,
    homeostatic_lif,
    self_predicting_lif,
    oscillating_lif,
    inhibited_lif,
    ternary_lif,
    integer_lif,
)
