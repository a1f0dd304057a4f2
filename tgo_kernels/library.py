"""The library of operators, and how an operator has its gradient on every road: eager, compiled, functional, exported.

An autograd Function alone is not enough: whoever traces what it calls (``torch.export``, compiled ``torch.func``
transforms) differentiates the operators within, past the Function. So the Function stands behind the operator's own
autograd key, where all roads come by, and its forward calls the same operator below that key, where transforms further
out find it. What has no derivative raises: forward mode, vmap.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NoReturn

import torch
from torch._C._functorch import peek_interpreter_stack
from torch._functorch.autograd_function import enable_single_level_autograd_function
from torch.autograd.forward_ad import _set_fwd_grad_enabled

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


def differentiated(name: str, schema: str, plain: Callable, function: type[Function]) -> Callable:
    """Defines an operator of :mod:`tgo_kernels`: ``plain`` torch, with the gradient of ``function``."""
    LIBRARY.define(name + schema, tags=torch.Tag.pt2_compliant_tag)
    LIBRARY.impl(name, untraced(plain), "CompositeExplicitAutograd")
    operator = getattr(torch.ops.tgo_kernels, name).default
    gradient(operator, partial(apply, function), no_vmap)
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


def below(operator: Any, *arguments: Any) -> Any:
    """The operator past its gradient; transforms further out have theirs, for which a Function's forward is no bar."""
    if peek_interpreter_stack() is not None:
        with torch._C._AutoDispatchBelowAutograd(), torch.enable_grad(), _set_fwd_grad_enabled(True):
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
