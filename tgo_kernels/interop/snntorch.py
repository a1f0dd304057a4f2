"""snnTorch models on fused layers."""

from dataclasses import replace

from torch import nn

from tgo_kernels import fusion
from tgo_kernels.interop.conversion import Report
from tgo_kernels.neurons.base import NoiseMode


def convert(
    model: nn.Module,
    *,
    sequence: bool = False,
    noise_std: float = 0.0,
    noise_mode: NoiseMode = "membrane",
    noise_in_eval: bool = False,
    guard_margin: float = 0.0,
    impl: str = "auto",
    fuse: bool = False,
) -> Report:
    """Every ``Leaky`` and ``Synaptic`` of the model becomes a fused layer, in place; returns what was done.

    The neurons keep their constants, surrogate, state and what they return, and stay instances of their class:
    ``init_leaky``, ``utils.reset``, ``detach_hidden``, hooks and checkpoints work as before. Each is a
    :class:`tgo_kernels.LIF` too, so that :func:`tgo_kernels.guard_penalty` finds it. The same spikes, to fp32's
    rounding, with a reset in the next step (``reset_delay=True``, snnTorch's default) as in the same one, and with all
    three of ``reset_mechanism``. A ``Synaptic`` is the neuron of :class:`tgo_kernels.neurons.SynapticLIF`, with
    ``current_decay = alpha``, ``decay = beta`` and ``gain = scale = 1``. What differs where ``reset_delay=False``: a
    membrane that is above its threshold before a step, left there by ``reset_mechanism="subtract"`` or put there by
    hand, is reset by snnTorch in that step, before it fires; the report says so for "subtract". ``alpha``, ``beta`` and
    ``threshold`` go on learning where they do, and may differ between neurons. Attributes and buffers that are written
    later act; what could not be converted then raises at the next forward. Neurons that are converted already take the
    options, and are named where that changes them.

    Left as they are, named in the report and in a warning: other neurons, subclasses, inhibition, quantised states,
    graded spikes, surrogates that the engines do not know, ``beta=0`` where a reset subtracts in the next step, and a
    ``Synaptic`` that resets to 0 in the next step, where snnTorch loses the input of that step.

    Args:
        sequence: the neurons take [T, *], all time steps in one pass, instead of one step a call; ``mem`` is the
            membrane before the first step, and the one returned that of every step, [T, *]. Given back, it goes on.
            The ``syn`` of a ``Synaptic`` is that before the first step and, returned, that after the last one, [*].
        noise_std, noise_mode, noise_in_eval, guard_margin, impl: of every layer, as in :class:`tgo_kernels.LIF`.
        fuse: whether :func:`tgo_kernels.fuse` follows; what it did is the report's ``fusion``.

    Raises:
        ImportError: snnTorch is not installed (1.0 is tested).
        TypeError, ValueError: naming the argument, what was expected and what came.
    """
    from tgo_kernels.interop import _snntorch_kinds

    report = _snntorch_kinds.convert(
        model,
        sequence=sequence,
        noise_std=noise_std,
        noise_mode=noise_mode,
        noise_in_eval=noise_in_eval,
        guard_margin=guard_margin,
        impl=impl,
    )
    return replace(report, fusion=fusion.fuse(model)) if fuse else report
