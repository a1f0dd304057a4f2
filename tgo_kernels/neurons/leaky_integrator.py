"""A membrane that never fires."""

import math
from dataclasses import dataclass

from torch import Tensor

from tgo_kernels.neurons.base import Membrane
from tgo_kernels.neurons.lif import LIF


@dataclass(frozen=True)
class LeakyIntegrator(LIF):
    """A read-out: :class:`LIF` that never fires. Its output is the membrane of every step::

        v[t] = decay v[t-1] + gain x[t] + leak_bias

    Args:
        decay, gain, bias: as of :class:`LIF`, and may be tensors that learn.
        v_reset: where it starts and leaks to; None is 0.
        others: of no effect, but for noise, which joins ``v`` in ``noise_mode="membrane"``.
    """

    v_threshold: float | Tensor = math.inf
    membrane: Membrane | None = "v"
