"""Turns the norms of a network into lateral inhibition."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from typing import Any, NamedTuple

from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from tgo_kernels import neurons
from tgo_kernels.inhibition import OF_LAYER, Circuit, EIConv2d, EILinear
from tgo_kernels.layers import LIF, LeakyIntegrator
from tgo_kernels.over_time import OverTime

WEIGHTS = (nn.Conv2d, nn.Linear)
NORMS = (_NormBase, nn.LayerNorm, nn.GroupNorm)


@dataclass(frozen=True)
class Inhibition:
    """What :func:`inhibited` did, by the names of the modules; printed, a line each."""

    converted: dict[str, str] = field(default_factory=dict)  #: new names, and the old ones of what it stands for
    left: dict[str, str] = field(default_factory=dict)  #: layers and norms that are as they were, and why

    def __str__(self) -> str:
        lines = [f"converted  {old} -> {new}" for new, old in self.converted.items()]
        return "\n".join([*lines, *(f"left       {name}: {why}" for name, why in self.left.items())])


class _Piece(NamedTuple):
    name: str
    module: nn.Module
    folded: bool  # whether it takes time and batch as one

    def __str__(self) -> str:
        return f"{self.name} ({type(self.module).__name__})"


def inhibited(model: nn.Sequential) -> tuple[nn.Sequential, Inhibition]:
    """The same network with E-I layers in the place of its chains of convolution or linear layer, norm and neuron.

    Found are chains of ``nn.Conv2d`` or ``nn.Linear``, a norm or none, and :class:`LIF`, in ``nn.Sequential`` and
    :class:`OverTime`, at any depth; ``nn.Identity`` may stand between. An ``nn.Linear`` whose output is the model's, or
    goes to a :class:`LeakyIntegrator`, becomes a readout. The neuron keeps its constants but for the gain, which is
    g_E, 1 at first; the first batch makes the weights (ours: those that were trained have another sign and scale).

    The model is not changed. What is not converted is in both, the same objects; names, and keys of the state_dict,
    are those of one flat ``nn.Sequential``.

    Returns:
        The new model, and an :class:`Inhibition`: what was converted, and why each other layer or norm was not.

    Raises:
        TypeError: ``model`` is no ``nn.Sequential`` or :class:`OverTime`.
    """
    if type(model) not in (nn.Sequential, OverTime):
        raise TypeError(f"model must be an nn.Sequential, got {type(model).__name__}")
    pieces = list(_pieces("", model, False))
    uses = Counter(id(each.module) for each in pieces)
    made: list[tuple[_Piece, str]] = []
    left: dict[str, str] = {}
    while pieces:
        first = pieces.pop(0)
        if isinstance(first.module, WEIGHTS):
            between, after = _following(pieces)
            why = _refusal(first, after, uses[id(first.module)] > 1)
            if not why:
                readout = after is None or type(after.module) is LeakyIntegrator
                gone = pieces[: len(between) + (not readout)]
                del pieces[: len(gone)]
                layer = _layer(first.module, None if readout else after)
                made.append((_Piece("", layer, False), ", ".join(each.name for each in (first, *gone))))
                continue
            left[first.name] = why
        elif isinstance(first.module, NORMS):
            left[first.name] = "no convolution or linear layer that was converted goes straight into it"
        elif not isinstance(first.module, (LIF, Circuit)) and any(True for _ in first.module.parameters()):
            what = "has hooks" if _has_hooks(first.module) else "is no nn.Conv2d, nn.Linear, nn.Sequential or OverTime"
            left[first.name] = f"{type(first.module).__name__} {what}"
        made.append((first, ""))
    return _together(made, left)


def _pieces(name: str, module: nn.Module, folded: bool) -> Iterator[_Piece]:
    if type(module) not in (nn.Sequential, OverTime) or (name and _has_hooks(module)):
        yield _Piece(name, module, folded)
        return
    for child, each in module._modules.items():
        assert each is not None
        yield from _pieces(f"{name}.{child}" if name else child, each, folded or type(module) is OverTime)


def _following(pieces: list[_Piece]) -> tuple[list[_Piece], _Piece | None]:
    """A norm and what does nothing, and who takes their output."""
    between: list[_Piece] = []
    for each in pieces:
        norm = isinstance(each.module, NORMS) and not any(isinstance(other.module, NORMS) for other in between)
        if not norm and type(each.module) is not nn.Identity:
            return between, each
        between.append(each)
    return between, None


def _refusal(first: _Piece, after: _Piece | None, shared: bool) -> str:
    layer: Any = first.module
    if type(layer) not in WEIGHTS or _has_hooks(layer) or shared:
        return "it is not torch's own, has hooks or parametrizations, or is called twice"
    if isinstance(layer, nn.Conv2d):
        if not first.folded:
            return "it is not in an OverTime"
        if layer.groups > 1 or set(layer.dilation) != {1} or layer.padding_mode != "zeros":
            return "it has groups, a dilation, or a padding that is not of zeros"
    if after is None or type(after.module) is LeakyIntegrator:
        return "" if isinstance(layer, nn.Linear) else "its output goes to no neuron that fires"
    if type(after.module) is not LIF:
        return f"its output goes to {after}, not to a LIF"
    if after.module.learned(0) or after.module.neuron.bias or _has_hooks(after.module):
        return f"constants of {after} learn or are tensors, or it has a bias or hooks"
    return ""


def _has_hooks(module: nn.Module) -> bool:
    return any(hooks for name, hooks in vars(module).items() if name.endswith("_hooks") and "state_dict" not in name)


def _layer(old: Any, neuron: _Piece | None) -> nn.Module:
    options: dict[str, Any] = {"readout": True}
    if neuron is not None:
        lif: Any = neuron.module
        names = [each.name for each in fields(neurons.LIF) if each.init and each.name not in lif.neuron.LINE]
        options = {name: getattr(lif.neuron, name) for name in names} | {name: getattr(lif, name) for name in OF_LAYER}
    if isinstance(old, nn.Linear):
        new: nn.Module = EILinear(old.in_features, old.out_features, **options)
    else:
        shape: Any = old.kernel_size, old.stride, old.padding
        new = EIConv2d(old.in_channels, old.out_channels, *shape, **options)
    return new.to(old.weight.device, old.weight.dtype).train(old.training)


def _together(made: list[tuple[_Piece, str]], left: dict[str, str]) -> tuple[nn.Sequential, Inhibition]:
    """What takes no time axis, in one OverTime where it stands together."""
    new: list[nn.Module] = []
    converted: dict[str, str] = {}
    group: list[nn.Module] = []
    for piece, old in made:
        if piece.folded:
            group.append(piece.module)
            continue
        if group:
            new.append(OverTime(*group))
            group = []
        if old:
            converted[str(len(new))] = old
        new.append(piece.module)
    if group:
        new.append(OverTime(*group))
    return nn.Sequential(*new), Inhibition(converted, left)
