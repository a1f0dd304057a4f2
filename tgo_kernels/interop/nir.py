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

    A layer is ``nir.LIF`` by Euler's rule with step ``dt``, or ``nir.IF`` where it does not leak, neuron by neuron::

        tau = dt / (1 - decay);    r = gain tau / dt;    v_leak = v_reset          LIF
        r = gain / dt                                                              IF

    Beside it: Linear, Conv1d, Conv2d, AvgPool2d, Flatten, and subclasses of these such as SpikingJelly's layers.

    Args:
        model: takes [T, B, *]; traced by torch.fx, once, with ``example``, for the shapes.
        dt: of one time step, in seconds.

    Raises:
        ImportError: nir and nirtorch are not installed.
        ValueError: naming the layer, for what NIR does not hold: soft reset, noise in evaluation, ``decay > 1``,
            a layer in which some neurons leak and others do not; and where the graph, read again, does not give what
            the model gives for ``example``.
        NotImplementedError: naming the module, for others than those above.
    """
    from tgo_kernels.interop import _nir

    return _nir.write(model, example, dt)


def from_nir(graph: nir.NIRGraph | str | Path, dt: float = DT, **options: Any) -> nn.Module:
    """A module that takes [T, B, *] and returns ``(output, state)``, as all of nirtorch's do; the state is empty.

    Neurons fire at ``>=``, as everywhere here; NIR writes ``>``, and frameworks differ.

    Args:
        graph: or the path of its file. Without cycles. Constants that differ between neurons become buffers.
        dt: as it was written.
        options: of every layer, such as ``noise_std`` or ``surrogate``, as in :class:`tgo_kernels.LIF`.

    Raises:
        ImportError: nir and nirtorch are not installed.
        TypeError: an option that NIR says of each layer.
        ValueError: naming the node, for what a layer does not compute: ``v_leak != v_reset``, either of them different
            between neurons, ``tau < dt``, a cycle; ``learn_decay`` where decay is 1 or 0; and, as ``learn_threshold``,
            where constants differ.
    """
    from tgo_kernels.interop import _nir

    return _nir.read(graph, dt, options)
