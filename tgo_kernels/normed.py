"""A norm's output that nobody made yet: what stands between a norm and the neuron that takes its line."""

from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map


@dataclass(eq=False, repr=False)  # in which FSDP looks for tensors to hang its hooks on
class Normed:
    """What a batch norm makes of ``x``, as long as nobody asks for it: ``scale x + shift``, which broadcast to x.

    A neuron takes the line for its own; whatever else is done with it is done with the tensor that it stands for, which
    a neuron takes, too, from then on.
    """

    x: Tensor
    scale: Tensor
    shift: Tensor

    def __post_init__(self) -> None:
        self._tensor: Tensor | None = None
        self._with_graph = torch.is_grad_enabled()
        counted = not torch.compiler.is_compiling() and not self.x.is_inference()
        self._version = self.x._version if counted else None

    def tensor(self) -> Tensor:
        self._check_graph(torch.is_grad_enabled() and not self._with_graph)
        if self._tensor is None:
            self._check_input()
            with torch.set_grad_enabled(self._with_graph):
                self._tensor = torch.addcmul(self.shift, self.x.to(self.scale.dtype), self.scale).to(self.x.dtype)
        return self._tensor

    @staticmethod
    def _check_graph(lost: bool) -> None:
        """A Function, such as that of a checkpoint, knows no input and output that is no tensor."""
        if lost:
            raise RuntimeError(
                "a fused norm and its neuron are on two sides of torch.no_grad(), or of a checkpoint, where the "
                "gradient would be lost: give the checkpoint use_reentrant=False, or do not fuse them"
            )

    def _check_input(self) -> None:
        if self._version is not None and self.x._version != self._version:
            raise RuntimeError(
                "the input of a fused norm was written to in place before its neuron has read it: write to a copy, or "
                "do not fuse them"
            )

    def taken(self) -> tuple[Tensor, tuple[Tensor, Tensor] | None]:
        """x and the line, for who does the norm's work; or its output alone, where that is known to others."""
        if self._tensor is not None:  # they may have written to it, or hung hooks on it
            return self.tensor(), None
        self._check_graph(torch.is_grad_enabled() != self._with_graph)
        self._check_input()
        return self.x, (self.scale, self.shift)

    def _seen(self, name: str, *args: Any, **kwargs: Any) -> Any:
        """Another view of the leading dimensions is the same of x; all else is of the tensor."""
        if self._tensor is not None or any(isinstance(each, torch.dtype) for each in (*args, *kwargs.values())):
            return getattr(self.tensor(), name)(*args, **kwargs)
        self._check_input()
        x, within = getattr(self.x, name)(*args, **kwargs), self.scale.dim()
        if self.x.dim() > within < x.dim() and x.shape[-within:] == self.x.shape[-within:]:
            return Normed(x, self.scale, self.shift)
        return getattr(self.tensor(), name)(*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        if name in ("shape", "dtype", "device", "ndim", "dim", "size", "numel", "requires_grad", "is_cuda", "layout"):
            return getattr(self.x, name)
        return partial(self._seen, name) if name in VIEWS else getattr(self.tensor(), name)

    @classmethod
    def __torch_function__(cls, function: Any, _: Any, args: Any = (), kwargs: Any = None) -> Any:
        args, kwargs = tree_map(lambda each: each.tensor() if isinstance(each, cls) else each, (args, kwargs or {}))
        return function(*args, **kwargs)


VIEWS = ("unsqueeze", "flatten", "unflatten", "view", "reshape", "contiguous")


def _of_the_tensor(name: str) -> Any:
    def call(self: Normed, *others: Any) -> Any:
        return getattr(self.tensor(), name)(*(each.tensor() if isinstance(each, Normed) else each for each in others))

    return call


for _name in (
    *(f"__{way}{name}__" for way in ("", "r") for name in ("add", "sub", "mul", "truediv", "matmul", "pow")),
    *("__neg__", "__abs__", "__getitem__", "__len__", "__iter__", "__lt__", "__le__", "__gt__", "__ge__", "__eq__"),
    *("__ne__", "__and__", "__or__", "__invert__", "__bool__", "__float__", "__int__"),
):
    setattr(Normed, _name, _of_the_tensor(_name))
