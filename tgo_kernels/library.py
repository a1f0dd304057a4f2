"""The library of operators, and how an operator has its gradient on every road: eager, compiled, functional, exported.

An autograd Function alone is not enough: whoever traces what it calls (``torch.export``, compiled ``torch.func``
transforms) differentiates the operators within, past the Function. So the Function stands behind the operator's own
autograd key, where all roads come by, and its forward calls the same operator below that key, where transforms further
out find it. What has no derivative raises: forward mode, vmap.
"""

from collections.abc import Callable, Sequence
from typing import Any, NoReturn

import torch
from torch import Tensor
from torch._C._functorch import is_legacy_batchedtensor, peek_interpreter_stack
from torch._functorch.autograd_function import enable_single_level_autograd_function
from torch._ops import _len_torch_dispatch_stack_pre_dispatch
from torch.autograd import forward_ad
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten

LIBRARY = torch.library.Library("tgo_kernels", "DEF")


class Function(torch.autograd.Function):
    """The gradient of an operator. Its ``forward`` is the operator :func:`below`."""

    plainly: Callable  # apply, less its binding of the arguments, which takes longer than a small layer

    def __init_subclass__(cls) -> None:
        cls.plainly = super(torch.autograd.Function, cls).apply  # type: ignore[misc]

    @staticmethod
    def jvp(ctx, *tangents) -> None:
        no_forward_mode()


@torch.compiler.assume_constant_result  # raised while compiling, it is no reason for a graph break
def no_forward_mode() -> None:
    raise RuntimeError("tgo_kernels.lif has no forward-mode derivative (jvp): take the backward, or torch.func.vjp")


def no_vmap(*arguments: Any) -> NoReturn:
    raise RuntimeError("tgo_kernels.lif has no vmap: all dimensions of x but the first are neurons, put it there")


def differentiated(
    name: str, schema: str, plain: Callable, differentiable: Callable, vmap: Callable = no_vmap
) -> Callable:
    """Defines an operator of :mod:`tgo_kernels`: ``plain`` torch, and ``differentiable`` what applies its Function."""
    LIBRARY.define(name + schema, tags=torch.Tag.pt2_compliant_tag)
    LIBRARY.impl(name, untraced(plain), "CompositeExplicitAutograd")
    operator = getattr(torch.ops.tgo_kernels, name).default
    gradient(operator, differentiable, vmap)
    return operator


def gradient(operator: Any, differentiable: Callable, vmap: Callable) -> None:
    LIBRARY.impl(operator, untraced(differentiable), "Autograd")
    torch.library.register_vmap(operator, vmap, lib=LIBRARY)


def untraced(kernel: Callable) -> Callable:
    """Dynamo would look into a kernel in Python where it has given up on what calls the operator."""

    def call(*arguments: Any) -> Any:
        callback = torch._C._dynamo.eval_frame.set_eval_frame(None)
        try:
            return kernel(*arguments)
        finally:
            torch._C._dynamo.eval_frame.set_eval_frame(callback)

    return call


def apply(function: type[Function], *arguments: Any) -> Any:
    """``function.apply``, behind an operator, where functorch has undone a transform, or where none is active."""
    if peek_interpreter_stack() is None:
        return function.plainly(*arguments)
    with enable_single_level_autograd_function():
        return function.plainly(*arguments)


def transformed() -> bool:
    """Whether more than the result is asked for: a tangent, or a transform of functorch."""
    return forward_ad._current_level >= 0 or peek_interpreter_stack() is not None


def is_plain(x: Tensor) -> bool:
    """Whether it is a tensor that nobody traces or transforms."""
    if torch.compiler.is_compiling() or type(x) is not Tensor or transformed():
        return False
    modes = torch._C._len_torch_dispatch_stack() + _len_torch_dispatch_stack_pre_dispatch()  # such as make_fx's
    return modes == 0 and torch._C._get_tracing_state() is None


def is_one(x: Tensor) -> bool:
    """Whether it is one tensor, and not many at once, as ``is_grads_batched`` brings gradients."""
    return type(x) is Tensor and not is_legacy_batchedtensor(x)


def below(operator: Any, *arguments: Any) -> Any:
    """The operator past its gradient; transforms further out have theirs, for which a Function's forward is no bar."""
    if peek_interpreter_stack() is not None:
        with torch._C._AutoDispatchBelowAutograd(), torch.enable_grad(), forward_ad._set_fwd_grad_enabled(True):
            return operator(*arguments)
    if _is_excluded(_AUTOGRAD):
        return operator(*arguments)
    _exclude(_AUTOGRAD, True)  # what _AutoDispatchBelowAutograd does, at a third of its cost
    try:
        return operator._op(*arguments)  # what calling it does, less a frame
    finally:
        _exclude(_AUTOGRAD, False)


_AUTOGRAD = torch._C.DispatchKey.AutogradFunctionality
_is_excluded, _exclude = (
    torch._C._dispatch_tls_is_dispatch_key_excluded,
    torch._C._dispatch_tls_set_dispatch_key_excluded,
)


def _row_by_row(operator: Callable, size: int, in_dims: Sequence[Any], arguments: Sequence[Any]) -> tuple[Any, ...]:
    """A backward for each of many incoming gradients; results have them first."""

    def row(argument: Any, dim: Any, i: int) -> Any:
        if isinstance(dim, (list, tuple)):
            return [row(each, d, i) for each, d in zip(argument, dim, strict=True)]
        return argument.select(dim, i) if isinstance(dim, int) else argument

    pairs = list(zip(arguments, in_dims, strict=True))
    *results, g_more = zip(*(operator(*(row(a, dim, i) for a, dim in pairs)) for i in range(size)), strict=True)
    return *map(torch.stack, results), [torch.stack(each) for each in zip(*g_more, strict=True)]


def vmap_by_rows(operator: Callable, info: Any, in_dims: Sequence[Any], *arguments: Any) -> tuple[Any, ...]:
    """As ``jacrev`` asks for."""
    results = _row_by_row(operator, info.batch_size, in_dims, arguments)
    return results, (0, 0, 0, [0] * len(results[3]))


def legacy_vmap_by_rows(operator: Callable, *arguments: Any) -> Any:
    """As ``is_grads_batched`` asks for, whose own way of going row by row knows no lists."""
    flat, form = tree_flatten(list(arguments))
    first = next(a for a in flat if _is_batched(a))
    level = next(level for level in range(1, 64) if not _is_batched(torch._remove_batch_dim(first, level, 1, 0)))
    dims = [0 if _is_batched(a) else None for a in flat]
    plain = [a if dim is None else torch._remove_batch_dim(a, level, 1, 0) for a, dim in zip(flat, dims, strict=True)]
    size = torch._remove_batch_dim(first, level, 1, 0).shape[0]
    results = _row_by_row(operator, size, tree_unflatten(dims, form), tree_unflatten(plain, form))
    return tree_map(lambda result: torch._add_batch_dim(result, 0, level), results)


def _is_batched(argument: Any) -> bool:
    return isinstance(argument, Tensor) and is_legacy_batchedtensor(argument)
