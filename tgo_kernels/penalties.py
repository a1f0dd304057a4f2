"""What a layer keeps of its calls, and which of them the penalty of a training step is of."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch._C._functorch import unwrap_if_dead


class Call(NamedTuple):
    """One call, or several of one sequence."""

    penalty: Tensor  #: the mean over its neurons and steps
    of: int | Tensor  #: how many these are
    rank: int  #: 2 with gradient while training, 1 with gradient in eval(), 0 without
    node: Any  #: what a backward through its spikes frees; None where compiled: then that of the penalty


def added(calls: tuple[Call, ...], lost: bool, call: Call, goes_on: bool) -> tuple[tuple[Call, ...], bool]:
    """The calls with this one, which stands for the last as well if it goes on from it; and whether one was lost.

    Calls of a lower rank than those that wait do not count, and those of a higher one replace them. Without gradient
    the last counts. With gradient, eval() keeps one, so that no graphs pile up, and compiled code two, since each
    number is a graph of its own: what is too much is noted as lost.
    """
    compiled = torch.compiler.is_compiling()
    if calls and not goes_on and not compiled:
        calls = tuple(filter(alive, calls))
    if calls and call.rank < calls[-1].rank:
        return calls, lost
    if calls and call.rank > calls[-1].rank:
        calls, lost = (), False
    if goes_on:
        calls = calls[:-1]
    elif call.rank == 0:
        calls = ()
    if calls and (call.rank == 1 or (compiled and len(calls) > 1)):
        calls, lost = (), True
    return (*calls, call), lost


def mean(calls: Sequence[Call]) -> Call:
    """All of them as one, but for those whose graph was freed while another's was not."""
    if not torch.compiler.is_compiling():
        calls = [call for call in calls if alive(call)] or calls
        calls = [call._replace(penalty=unwrap_if_dead(call.penalty)) for call in calls]
    if len(calls) == 1:
        return calls[0]
    of: Any = sum(call.of for call in calls)
    total = torch.stack([call.of * call.penalty for call in calls]).sum()
    return Call(share(total, of), of, calls[-1].rank, None)


def alive(call: Call) -> bool:
    """Whether a backward could still go through: not after the last one freed the graph, or a transform has ended."""
    if unwrap_if_dead(call.penalty) is not call.penalty:
        return False
    node = node_of(call.penalty) if call.node is None else call.node
    try:
        return node is None or node._raw_saved_tensors is not None
    except RuntimeError:
        return False


def node_of(output: Tensor) -> Any:
    """The node of a Python Function that ``output`` comes from: it alone knows whether it was freed."""
    node = output.grad_fn
    while node is not None and not hasattr(type(node), "_raw_saved_tensors"):
        node = next((former for former, _ in node.next_functions if former is not None), None)
    return node


def unwrapped(value: Any) -> Any:
    """A tensor of a transform (torch.func) that has ended as what is left of it."""
    return unwrap_if_dead(value) if isinstance(value, Tensor) and not torch.compiler.is_compiling() else value


def in_compiled_transform() -> bool:
    """Whether a transform (torch.func) is being compiled: no tensor of it may outlive it, or the compiler gives up."""
    return torch.compiler.is_compiling() and torch._C._are_functorch_transforms_active()


def out_of_inference(value: Tensor | None) -> Tensor | None:
    """What inference mode left as a tensor that can be saved for backward."""
    if value is None or not value.is_inference() or torch.is_inference_mode_enabled():
        return value
    return value.clone()


def without_graph(value: Any) -> Any:
    return unwrapped(value).detach() if isinstance(value, Tensor) else value


def share(count: Any, of: int | Tensor) -> Any:
    return count / (of.clamp(min=1) if isinstance(of, Tensor) else max(of, 1))
