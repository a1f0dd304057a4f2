"""Finds the norms that go straight into a neuron, in any module, and has the neuron do their work."""

import functools
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel
from torch.utils._pytree import tree_leaves, tree_map

from tgo_kernels.blocks import Block
from tgo_kernels.layer import Layer
from tgo_kernels.library import is_plain
from tgo_kernels.norm import check_norm, folded
from tgo_kernels.normed import Normed
from tgo_kernels.over_time import OverTime
from tgo_kernels.pools import MaxPool2d
from tgo_kernels.traces import traced


@dataclass
class Fusion:
    """What :func:`fuse` did, by the names of the modules; printed, a line each."""

    fused: dict[str, str] = field(default_factory=dict)  #: norms, and the neurons that take them in
    pools: list[str] = field(default_factory=list)  #: max pools that keep no indices now
    left: dict[str, str] = field(default_factory=dict)  #: norms that are as they were, and why

    def __str__(self) -> str:
        lines = [f"fused  {norm} -> {neuron}" for norm, neuron in self.fused.items()]
        lines += [f"pool   {name}" for name in self.pools]
        return "\n".join([*lines, *(f"left   {norm}: {why}" for norm, why in self.left.items())])


def fuse(model: nn.Module) -> Fusion:
    """Every batch norm whose output goes to a neuron alone becomes part of the neuron's pass, in place.

    As in :class:`Block`: the same outputs and gradients to fp32 rounding, and the norm's output is never made. The
    norms stay the same objects, with their parameters, buffers and names, so that ``state_dict``, optimizers, copies,
    pickles, ``eval()`` and the conversion to ``SyncBatchNorm`` (which has to come before, or is not fused) go on as
    before. What they return stands for their output, and becomes it where anything but a neuron asks for it: a model
    that goes another way than was foreseen computes the same, unfused. Max pools become :class:`MaxPool2d`, which
    keeps no indices.

    Found are chains in ``nn.Sequential`` and :class:`OverTime`, and in every forward that ``torch.fx`` can trace with
    its submodules as they are, on all ways that branches on tensors may take; a container's last norm and first neuron
    are part of the chains around it. Between norm and neuron there may be ``nn.Identity``, max pools, and time and
    batch folded and unfolded. Compiled, traced and transformed (``torch.func``) calls compute the norms by themselves.

    Args:
        model: with neurons of this package, see :mod:`tgo_kernels.interop` for others.

    Returns:
        A :class:`Fusion`: what was fused, and for every other batch norm why it was not.

    Raises:
        TypeError: ``model`` is no module.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}")
    found = _Search(model)
    for norm in found.pairs:
        _become(model.get_submodule(norm), _Norm)
    if found.pairs:
        model.register_forward_hook(_drawn)
    pools = {name: module for name, module in model.named_modules() if _is_pool(module)}
    for pool in pools.values():
        _become(pool, MaxPool2d)
    return Fusion(found.pairs, list(pools), found.left)


def _drawn(_: nn.Module, __: Any, output: Any) -> Any:
    """A norm's output that leaves the model, on a way that was not foreseen, as the tensor that it stands for."""
    if isinstance(output, Tensor) or not any(isinstance(each, Normed) for each in tree_leaves(output)):
        return None
    return tree_map(lambda each: each.tensor() if isinstance(each, Normed) else each, output)


class _InPlace:
    """Of a class that was made beside another one: copies and pickles know it by that."""

    _made_of: tuple[Any, Any]

    def __reduce_ex__(self, protocol: Any) -> Any:
        made: Any = object.__reduce_ex__(self, 2)
        return _made_again, self._made_of, *made[2:]


def _made_again(mixin: Any, kind: Any) -> Any:
    made = _beside(mixin, kind)
    return made.__new__(made)


@functools.cache
def _beside(mixin: Any, kind: Any) -> Any:
    """``kind`` with the forward of ``mixin`` in torch's place; SpikingJelly's step modes stay around a pool's."""
    bases = (_InPlace, mixin, kind) if mixin is _Norm else (_InPlace, kind, mixin)
    about = {"_made_of": (mixin, kind), "__module__": kind.__module__, "__qualname__": kind.__qualname__}
    return type(kind.__name__, bases, about)


def _become(module: nn.Module, mixin: Any) -> None:
    kind: Any = type(module)
    if not isinstance(module, _InPlace):  # it may have several names
        module.__class__ = mixin if kind is nn.MaxPool2d else _beside(mixin, kind)


def _is_pool(module: nn.Module) -> bool:
    kind = type(module)
    return kind is nn.MaxPool2d or (
        issubclass(kind, nn.MaxPool2d)
        and kind.__module__.startswith("spikingjelly.")
        and not issubclass(kind, (MaxPool2d, _InPlace))
    )


class _Norm(nn.Module):
    """A batch norm that leaves to a neuron what it is, see :class:`tgo_kernels.norm.Normed`."""

    def forward(self, x: Tensor) -> Any:
        over_time = getattr(self, "step_mode", "s") == "m"  # SpikingJelly's, for [T, B, C, *]
        known = is_plain(x) and x.dim() >= 2 + over_time and x.layout == torch.strided and x.numel() > 0
        if not known or self._forward_hooks or _has_backward_hooks(self):
            return super().forward(x)  # type: ignore[misc]
        return folded(self, x, 1 + over_time)


def _has_backward_hooks(module: nn.Module) -> bool:
    return bool(module._backward_hooks or module._backward_pre_hooks)


class _Search:
    """Goes through a model: ``pairs`` of norms and neurons by name, and why other norms are ``left``."""

    def __init__(self, model: nn.Module) -> None:
        self.pairs: dict[str, str] = {}
        self.left: dict[str, str] = {}
        _, norm = self.ends("", model)
        self.leave(norm, "its output is the model's")
        for norm in self.left:  # seen from two sides
            self.pairs.pop(norm, None)

    def leave(self, norm: str | None, why: str) -> None:
        if norm is not None:
            self.left[norm] = why

    def ends(self, name: str, module: nn.Module) -> tuple[str | None, str | None]:
        """The neuron that alone takes the module's input, and the norm whose output alone is the module's."""
        head, tail = self._ends(name, module)
        if _has_backward_hooks(module):
            self.leave(tail, f"{_named(name, module)} has hooks of the backward")
            return None, None
        return head, tail

    def _ends(self, name: str, module: nn.Module) -> tuple[str | None, str | None]:
        if isinstance(module, Layer):
            return name if module.neuron.takes_line else None, None
        if isinstance(module, _BatchNorm):
            return None, self.norm(name, module)
        if not module._modules or isinstance(module, Block):
            return None, None
        if _is_chain(module) or isinstance(module, DistributedDataParallel):  # whose forward talks to other processes
            return self.chain(name, module)
        return self.graph(name, module)

    def norm(self, name: str, module: Any) -> str | None:
        if isinstance(module, _Norm):
            return None  # of an earlier call
        if module._forward_hooks or _has_backward_hooks(module) or "forward" in vars(module):
            self.leave(name, "it has hooks, or a forward of its own")
            return None
        try:
            check_norm(module)
        except TypeError as error:
            self.leave(name, str(error))
            return None
        return name

    def join(self, norm: str | None, neuron: str | None, what: str) -> None:
        if norm is not None and neuron is not None:
            self.pairs[norm] = neuron
        else:
            self.leave(norm, f"its output goes to {what}, not to a neuron alone")

    def chain(self, name: str, module: nn.Module) -> tuple[str | None, str | None]:
        head: str | None = None
        tail: str | None = None
        first = True
        for child_name, child in _children(name, module):
            if _passes(child):
                continue
            neuron, norm = self.ends(child_name, child)
            if first:
                head, first = neuron, False
            else:
                self.join(tail, neuron, _named(child_name, child))
            tail = norm
        return head, tail

    def graph(self, name: str, module: nn.Module) -> tuple[str | None, str | None]:
        path = f"{name}." if name else ""
        graphs, error = traced(module)
        calls = dict.fromkeys(str(node.target) for nodes in graphs for node in nodes if node.op == "call_module")
        ends = {target: self.ends(path + target, module.get_submodule(target)) for target in calls}
        for child_name, child in _children("", module):
            if not any(target == child_name or target.startswith(f"{child_name}.") for target in calls):
                norm = self.ends(path + child_name, child)[1]
                self.leave(norm, f"the forward of {type(module).__name__} {error or 'does not call it'}")
        heads: set[str | None] = set()
        tails: set[str | None] = set()
        for nodes in graphs:
            tails.add(self.way(nodes, ends, path, module))
            inputs = [node for node in nodes if node.op == "placeholder"]
            users = _users(inputs[0], module) if inputs else []
            heads.add(_taken(*users[0], ends) if len(users) == 1 else None)
        if len(tails) > 1:
            for norm in tails:
                self.leave(norm, f"its output is that of {type(module).__name__} on some ways through it alone")
        head, tail = (each.pop() if len(each) == 1 else None for each in (heads, tails))
        return head, tail

    def way(self, nodes: list[fx.Node], ends: Any, path: str, module: nn.Module) -> str | None:
        """Joins its norms to the neurons of it; the norm whose output alone is the module's."""
        tail = None
        for node in (node for node in nodes if node.op == "call_module"):
            norm = ends[str(node.target)][1]
            if norm is None:
                continue
            users = _users(node, module)
            if len(users) != 1:
                self.leave(norm, f"its output goes to {len(users)} places")
                continue
            user, value = users[0]
            if user.op == "output" and user.args == (value,):
                tail = norm
            elif user.op == "call_module":
                called = module.get_submodule(str(user.target))
                self.join(norm, _taken(user, value, ends), _named(f"{path}{user.target}", called))
            else:
                self.leave(norm, _used(user))
        return tail


def _passes(module: nn.Module) -> bool:
    """Whether a norm's output goes on behind it as that of a norm."""
    if _is_chain(module):
        return all(map(_passes, module.children()))
    pool = isinstance(module, nn.MaxPool2d) and (_is_pool(module) or isinstance(module, MaxPool2d))
    return (pool and not module.return_indices) or type(module) is nn.Identity


def _is_chain(module: nn.Module) -> bool:
    """Whether it calls its children one after the other."""
    kind = type(module)
    ours = kind.forward is nn.Sequential.forward or kind is OverTime
    return ours or (isinstance(module, nn.Sequential) and kind.__module__.startswith("spikingjelly."))


def _named(name: str, module: nn.Module) -> str:
    return f"{name} ({type(module).__name__})"


def _used(user: fx.Node) -> str:
    if user.op == "output":
        return "its output is one of several of the module around it"
    name = getattr(user.target, "__name__", user.target)
    if name in ("add", "add_", "iadd"):
        return "something is added to its output, such as a residual that joins the current"
    return f"its output goes to {name}()"


def _taken(user: fx.Node, node: fx.Node, ends: Any) -> str | None:
    """The neuron that takes this value, the first argument of a module alone."""
    if user.op != "call_module" or user.args[:1] != (node,) or list(user.all_input_nodes) != [node]:
        return None
    return ends[str(user.target)][0]


def _children(name: str, module: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    for child, each in module._modules.items():
        path = f"{name}.{child}" if name else child
        if isinstance(each, nn.ModuleList | nn.ModuleDict):
            yield from _children(path, each)
        elif each is not None:
            yield path, each


def _users(node: fx.Node, module: nn.Module) -> list[tuple[fx.Node, fx.Node]]:
    """Who takes a node's value, past what leaves channels where they are, and as which node."""
    found: list[tuple[fx.Node, fx.Node]] = []
    for user in node.users:
        passes = user.op == "call_module" and user.args == (node,) and _passes(module.get_submodule(str(user.target)))
        if passes or _folds(user, node):
            found += _users(user, module)
        elif not _asks_for_shape(user):
            found.append((user, node))
    return found


def _folds(user: fx.Node, node: fx.Node) -> bool:
    """Whether it folds time and batch, or unfolds them."""
    if user.op not in ("call_method", "call_function") or user.args[:1] != (node,):
        return False
    name, rest = getattr(user.target, "__name__", user.target), (*user.args[1:], *user.kwargs.values())
    return (name == "flatten" and rest == (0, 1)) or (name == "unflatten" and rest[:1] == (0,)) or name == "contiguous"


def _asks_for_shape(node: fx.Node) -> bool:
    if node.op == "call_function" and node.target is getattr:
        return node.args[1] in ("shape", "dtype", "device", "ndim")
    return node.op == "call_method" and node.target in ("size", "dim")
