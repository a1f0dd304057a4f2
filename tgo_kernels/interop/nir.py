"""Models as graphs of NIR, the Neuromorphic Intermediate Representation (Pedersen et al. 2024)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

if TYPE_CHECKING:
    import nir

DT = 1e-4  # seconds: the step that SpikingJelly and snnTorch write and read, too


def to_nir(model: nn.Module, example: Tensor, dt: float = DT) -> nir.NIRGraph:
    """The model as a graph; ``nir.write(path, graph)`` makes a file of it.

    A layer is ``nir.LIF`` by Euler's rule with step ``dt``, or ``nir.IF`` where it does not leak, neuron by neuron; a
    :class:`tgo_kernels.LeakyIntegrator` likewise ``nir.LI`` or ``nir.I``::

        tau = dt / (1 - decay);    r = gain tau / dt;    v_leak = v_reset          LIF
        r = gain / dt                                                              IF

    A :class:`tgo_kernels.SynapticLIF` is ``nir.CubaLIF`` by the same rule. NIR's equations are of continuous time; the
    current that drives ``v`` is here the new one, as it is where snnTorch, SpikingJelly and norse read the node (in
    their ``Synaptic``, ``CUBALIFNode`` and ``LIBoxCell`` before a ``LIFBoxCell``)::

        i <- i + dt/tau_syn (w_in x - i);    v <- v + dt/tau_mem (v_leak - v + r i)

        tau_syn = dt / (1 - current_decay);    w_in = scale tau_syn / dt
        tau_mem = dt / (1 - decay);    r = gain tau_mem / dt;    v_leak = v_reset

    Beside it: Linear, Conv1d, Conv2d, AvgPool2d (``nir.SumPool2d`` if ``divisor_override=1``) and Flatten, within
    :class:`tgo_kernels.OverTime` where they take no time axis, or as SpikingJelly's layers; and sums. The model is
    written as it is in evaluation: Identity and Dropout are left out, and weights are those in effect, such as those of
    ``torch.nn.utils.parametrize``.

    The graph is read again, and what each layer is given and gives for ``example`` compared with the model, in fp32.
    A UserWarning names the layers of which no neuron fires, or all in every step: there this says little.

    Args:
        model: takes [T, B, *]; traced by torch.fx.
        example: [T, B, *]; of the shape, and best of the kind, that the model is for.
        dt: of one time step, in seconds.

    Raises:
        ImportError: nir and nirtorch are not installed.
        ValueError: naming the layer, for what NIR does not hold: soft reset, noise in evaluation, ``decay > 1``,
            a layer in which some neurons leak and others do not, a ``shift``, a ``SynapticLIF`` of which the membrane
            or the current does not decay, ``groups``; for layers that take one time step a
            call; for functions other than sums; and where the graph, read again, does not give what the model gives.
        NotImplementedError: naming the module, for others than those above, other neurons and subclasses with a
            ``forward`` of their own among them.
    """
    from tgo_kernels.interop import _to_nir

    return _to_nir.write(model, example, dt)


def from_nir(graph: nir.NIRGraph | str | Path, dt: float = DT, **options: Any) -> nn.Module:
    """A module that takes [T, B, *] and returns ``(output, state)``, as all of nirtorch's do; the state is empty.

    Neurons fire at ``>=``, as everywhere here; NIR writes ``>``, and frameworks differ.

    Args:
        graph: or the path of its file. Without cycles, with one input and one output; graphs may be nodes of it.
            Constants that differ between neurons become buffers.
        dt: as it was written.
        options: of every layer, such as ``noise_std`` or ``surrogate``, as in :class:`tgo_kernels.LIF`; integrators
            take those that :class:`tgo_kernels.LeakyIntegrator` has, and a ``CubaLIF`` those of
            :class:`tgo_kernels.SynapticLIF`, too, such as ``learn_current_decay``.

    Raises:
        ImportError: nir and nirtorch are not installed.
        TypeError: an option that NIR says of each layer.
        ValueError: naming the node, for what a layer does not compute: ``v_leak != v_reset``, either of them different
            between neurons, a time constant below ``dt``, a cycle, a sum that is the output; ``learn_decay`` where
            decay is 1 or 0; and, as others that would learn, where constants differ.
        NotImplementedError: naming the node, for other kinds than :func:`to_nir` writes.
    """
    from tgo_kernels.interop import _from_nir

    return _from_nir.read(graph, dt, options)
