"""SpikingJelly models on fused layers."""

from dataclasses import replace

from torch import nn

from tgo_kernels import fusion
from tgo_kernels.interop.conversion import Report
from tgo_kernels.neurons.base import NoiseMode


def convert(
    model: nn.Module,
    *,
    noise_std: float = 0.0,
    noise_mode: NoiseMode = "membrane",
    noise_in_eval: bool = False,
    guard_margin: float = 0.0,
    impl: str = "auto",
    fuse: bool = False,
) -> Report:
    """Every node that a fused layer computes becomes one, in place: ``LIFNode``, ``ParametricLIFNode``, ``IFNode``,
    ``CUBALIFNode``, ``TernaryLIFNode``, ``ILIFNode`` and the non-spiking ones.

    Returns what was done.

    The neurons keep their constants, surrogate, state and step mode ("m": [T, *] in one pass; "s": one step a call),
    and stay instances of SpikingJelly's classes: ``functional.reset_net``, ``detach_net`` and ``set_step_mode``,
    ``.v``, hooks and checkpoints work as before. Each is a :class:`tgo_kernels.LIF` too, so that
    :func:`tgo_kernels.guard_penalty` finds it. The same spikes, to fp32's rounding: ``tau`` divides once, when the
    constant is read, instead of at every step. Attributes that are written later act; what could not be converted then
    raises at the next forward. Neurons that are converted already take the options, and are named where that changes
    them.

    ``store_v_seq=True`` keeps the membrane of every step in ``v_seq``, from the same pass, with its gradient.
    A ``CUBALIFNode`` becomes a :class:`tgo_kernels.SynapticLIF`, whose current stays its memory ``c``; a
    ``TernaryLIFNode`` a :class:`tgo_kernels.TernaryLIF`, whose surrogate is that of the nearer threshold alone; an
    ``ILIFNode`` whose levels are 1 apart a :class:`tgo_kernels.IntegerLIF`, which has no guard.

    ``NonSpikingLIFNode`` and ``NonSpikingIFNode`` give their membranes, or what ``decode`` makes of them; noise and
    guard are not for them.

    Left as they are, named in the report and in a warning: other neurons, subclasses, surrogates that the engines do
    not know or with ``spiking=False``, lower precision inside the neuron.

    Args:
        noise_std, noise_mode, noise_in_eval, guard_margin, impl: of every layer, as in :class:`tgo_kernels.LIF`.
        fuse: whether :func:`tgo_kernels.fuse` follows; what it did is the report's ``fusion``.

    Raises:
        ImportError: SpikingJelly is not installed (2.0 and 0.0.0.0.14 are tested).
        TypeError, ValueError: naming the argument, what was expected and what came.
    """
    from tgo_kernels.interop import _spikingjelly_kinds

    report = _spikingjelly_kinds.convert(
        model,
        noise_std=noise_std,
        noise_mode=noise_mode,
        noise_in_eval=noise_in_eval,
        guard_margin=guard_margin,
        impl=impl,
    )
    return replace(report, fusion=fusion.fuse(model)) if fuse else report
