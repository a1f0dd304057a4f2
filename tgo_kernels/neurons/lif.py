"""Leaky integrate-and-fire."""

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from tgo_kernels.neurons.base import Leaky


@dataclass(frozen=True)
class LIF(Leaky):
    """Leaky integrate-and-fire (see :func:`tgo_kernels.lif` for what its constants mean)::

    h[t] = decay v[t-1] + gain x[t] + leak_bias
    v[t] = fire(h[t], v_threshold, reset_by)

    ``leak_bias = (1 - decay) v_rest + bias``, where ``bias``, a constant current, is 0 in :func:`tgo_kernels.lif`.
    """

    number = 0
    SOURCE = "Gerstner and Kistler 2002; constants of SpikingJelly"
    STATES, INPUTS = ("v",), ("x",)

    @staticmethod
    def step(n: Any, v: Tensor, x: Tensor) -> tuple[Tensor, ...]:
        h = n.decay * v + n.gain * x + n.leak_bias
        return (n.fire(h, n.v_threshold, n.reset_by),)
