"""What the layers of the neurons beside LIF are: each its dataclass in :mod:`tgo_kernels.neurons`, as a layer."""

import inspect
from functools import partial
from typing import Any, ClassVar

from torch import Tensor

from tgo_kernels.constants import beside_lif, readable, readable_own
from tgo_kernels.layers import LIF
from tgo_kernels.neurons import check_bool
from tgo_kernels.penalties import keep


class Family(LIF):
    """What :class:`LIF` is, for another neuron.

    Its constants beside those of LIF are keyword arguments with the neuron's defaults, and each that may be a tensor
    has a ``learn_<name>``. All can be read from the layer, and changed by :meth:`LIF.set`.

    One that may be a tensor may be given as one that broadcasts to [*], or with a time axis to [T, *], for instance of
    each neuron: it is a buffer then, and an ``nn.Parameter`` learns.
    """

    _options: ClassVar[dict[str, str]]  # what says that a constant learns, and which
    _positional: ClassVar[tuple[str, ...]]

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        names = beside_lif(cls.kind)
        cls._options = {f"learn_{name}": name for name in names if name in cls.kind.OWN}
        for name in names:
            setattr(cls, name, (readable_own if name in cls.kind.OWN else readable)(name))
        for option, name in cls._options.items():
            setattr(cls, option, readable(option, partial(_learns, name)))
        first, last = list[inspect.Parameter](), list[inspect.Parameter]()
        for name, each in inspect.signature(LIF).parameters.items():
            each = each.replace(default=cls.kind.LAYER.get(name, each.default))
            (first if each.kind is each.POSITIONAL_OR_KEYWORD else last).append(each)
        cls._positional = tuple(each.name for each in first)
        fields = cls.kind.__dataclass_fields__
        own = [(name, fields[name].default) for name in names] + [(option, False) for option in cls._options]
        added = [inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=value) for name, value in own]
        cls.__signature__ = inspect.Signature([*first, *added, *last])  # type: ignore[attr-defined]

    def __init__(self, *arguments: Any, **options: Any) -> None:
        given = {name: options.pop(name) for name in beside_lif(self.kind) if name in options}
        tensors = {name: given.pop(name) for name in self.kind.OWN if isinstance(given.get(name), Tensor)}
        learns = {name: options.pop(option, False) for option, name in self._options.items()}
        for name, learn in learns.items():
            check_bool(f"learn_{name}", learn)
            if learn and name in tensors:
                raise ValueError(f"learn_{name} is of a number; a tensor that learns is an nn.Parameter")
        keep(self, "_given", given)
        keep(self, "_learns", tuple(name for name, learn in learns.items() if learn))
        absent = {
            name: value for name, value in self.kind.LAYER.items() if name not in self._positional[: len(arguments)]
        }
        super().__init__(*arguments, **absent | options)
        self.hold(tensors)


def _learns(name: str, layer: Family) -> bool:
    return name in layer._learns
