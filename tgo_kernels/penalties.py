"""What a layer keeps of its calls, and which of them the penalty of a training step is of."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch._C._functorch import unwrap_if_dead

from tgo_kernels.call import ScanOutput

keep = object.__setattr__  # Module's takes 2 us
MOST = 64  # calls that wait: no training step has more, and their graphs take memory


class Call(NamedTuple):
    """One call, or several of one sequence."""

    penalty: Tensor  #: the mean over its neurons and steps
    of: int | Tensor  #: how many these are
    rank: int  #: 2 with gradient while training, 1 with gradient in eval(), 0 without
    node: Any  #: what a backward through its spikes frees; None where compiled: then that of the penalty


def record(layer: Any, of: Any, out: ScanOutput, before: Tensor | None, guarded: bool) -> None:
    """Keep the penalty and rates of a call that is guarded or stateful: of it, or of all since the last start."""
    compiled = torch.compiler.is_compiling()
    if not compiled and torch._C._current_graph_task_id() != -1:
        return  # activation checkpointing recomputes it within a backward
    penalty, neighbors, fired, graph = out.penalty, out.neighbors, out.fired, out.penalty.requires_grad
    if compiled:  # a number that grows would be compiled in, anew in every step
        of = torch.full_like(fired, of)
    former: Any = None if before is None else layer.penalty  # what is not read is no guard of compiled code
    goes_on = (
        before is not None
        and former is not None
        and not (guarded and layer._taken)
        and former.requires_grad == graph
        and (before.requires_grad or not graph)
    )
    if goes_on:
        near, spikes, others = map(unwrapped, layer._counts)
        fired, total = spikes + fired, others + of
        if guarded:
            weight = share(of, total)
            penalty = torch.lerp(former, penalty, weight.float() if isinstance(weight, Tensor) else weight)
            neighbors = near + neighbors
        of = total
    keep(layer, "_penalty", penalty)
    keep(layer, "_counts", (neighbors, fired, of))
    if guarded:
        rank = (2 if layer.training else 1) if graph else 0
        call = Call(penalty, of, rank, None if compiled else node_of(out.spikes))
        if layer._taken:
            keep(layer, "_taken", False)
            keep(layer, "_lost", 0)
            keep(layer, "_calls", (call,))
        else:
            add(layer, call, goes_on)


def add(layer: Any, call: Call, goes_on: bool) -> None:
    """The call to those that wait, where it stands for the last as well if it goes on from it.

    Calls of a lower rank than those that wait do not count, and those of a higher one replace them. Without gradient
    the last counts. With gradient, eval() keeps one, so that no graphs pile up, and compiled code two, since each
    number is a graph of its own: what is too much is noted as lost, by its rank.
    """
    calls, compiled = layer._calls, torch.compiler.is_compiling()
    if calls and not goes_on and not compiled:
        calls = tuple(filter(alive, calls))
    if calls and call.rank < calls[-1].rank:
        keep(layer, "_calls", calls)
        return
    if call.rank > layer._lost:
        keep(layer, "_lost", 0)
    if calls and call.rank > calls[-1].rank:
        calls = ()
    if goes_on:
        calls = calls[:-1]
    elif call.rank == 0:
        calls = ()
    if len(calls) >= (1 if call.rank == 1 else 2 if compiled else MOST):
        calls = ()
        keep(layer, "_lost", call.rank)
    keep(layer, "_calls", (*calls, call))


def mean(calls: Sequence[Call]) -> Call:
    """All of them as one, but for those whose graph was freed while another's was not."""
    if len(calls) > 1 and not torch.compiler.is_compiling():
        calls = [call for call in calls if alive(call, deep=True)] or calls
    if len(calls) == 1:
        return calls[0]
    of: Any = sum(call.of for call in calls)
    total = torch.stack([call.of * unwrapped(call.penalty) for call in calls]).sum()
    return Call(share(total, of), of, calls[-1].rank, None)


def alive(call: Call, deep: bool = False) -> bool:
    """Whether a backward could still go through: not after the last one freed the graph, or a transform has ended.

    That of this layer, or, if ``deep``, that of all layers before it, too: those whose output no loss took have theirs.
    """
    if unwrap_if_dead(call.penalty) is not call.penalty:
        return False
    nodes, seen = [node_of(call.penalty) if call.node is None else call.node], set()
    while nodes:
        node = nodes.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        try:
            getattr(node, "_raw_saved_tensors", None)
        except RuntimeError:
            return False
        if deep:
            nodes += [former for former, _ in node.next_functions]
    return True


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
