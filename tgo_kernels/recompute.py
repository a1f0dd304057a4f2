"""What a convolution or a linear layer put out, computed again in the backward from what it keeps for its own."""

from collections.abc import Callable
from typing import Any
from weakref import WeakValueDictionary, ref

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef

_RESHAPES = ("ViewBackward0", "UnsafeViewBackward0", "UnsqueezeBackward0", "SqueezeBackward1")
_known: WeakValueDictionary[int, "Again"] = WeakValueDictionary()  # by storage, of which there is one at an address


class Again:
    """A tensor that is there as what it is made of: from when it is asked for until its maker's own backward."""

    def __init__(self, x: Tensor, make: Callable[[], Tensor], maker: Any) -> None:
        self.storage, self.version = StorageWeakRef(x.untyped_storage()), x._version
        self.size, self.stride, self.dtype, self.make = x.shape, x.stride(), x.dtype, make
        self.device = x.device.type
        self.made: Tensor | None = None
        maker.register_prehook(_Drop(self))

    def view(self, size: torch.Size, stride: tuple[int, ...]) -> Tensor:
        if self.made is None:
            # As in the forward, where autocast had made of the operands what they are.
            with torch.no_grad(), torch.autocast(self.device, enabled=False):
                made = self.make().view(self.size)
                if made.dtype != self.dtype:
                    raise RuntimeError(f"what is computed again is {made.dtype}, and was {self.dtype}")
                if made.stride() != self.stride:
                    made = torch.empty_strided(self.size, self.stride, dtype=made.dtype, device=made.device).copy_(made)
            self.made = made
        return self.made.as_strided(size, stride)


class _Drop:
    """A hook of the maker, which holds it, and must not be held by it."""

    def __init__(self, again: Again) -> None:
        self.again = ref(again)

    def __call__(self, *_: Any) -> None:
        again = self.again()
        if again is not None:
            again.made = None


def remember(x: Tensor, make: Callable[[], Tensor] | None = None) -> Again | None:
    """That x, just made, can be made again, if it can: by ``make``, or as its node in the graph says."""
    node: Any = x.grad_fn
    while node is not None and node.name() in _RESHAPES:
        node = node.next_functions[0][0]
    if make is None:
        make = _MAKERS.get("" if node is None else node.name(), _nothing)(node)
    whole = x._version == 0 == x.storage_offset() and torch.ops.aten.is_non_overlapping_and_dense.default(x)
    if make is None or not whole or x.numel() * x.element_size() != x.untyped_storage().nbytes():
        return None
    key = x.untyped_storage()._cdata
    again = _known.get(key)
    if again is None or again.storage.expired() or again.version != x._version:
        again = _known[key] = Again(x, make, node)
    return again


def found(tensor: Tensor) -> Again | None:
    """What a tensor can be made of again that is about to be saved."""
    again = _known.get(tensor.untyped_storage()._cdata)
    if again is None or again.storage.expired() or again.version != tensor._version:
        return None
    whole = tensor.storage_offset() == 0 and tensor.numel() == again.size.numel()
    return again if whole else None


def _nothing(_: Any) -> None:
    return None


def _convolution(node: Any) -> Callable[[], Tensor] | None:
    bias = None
    if node._saved_bias_sym_sizes_opt not in (None, (0,)):  # what is no bias
        bias = _parameter(node.next_functions[2][0])
        if bias is None:
            return None
    places = "stride", "padding", "dilation", "transposed", "output_padding", "groups"

    def make() -> Tensor:
        x, weight = node._saved_input, _there(node._saved_weight)
        about = (getattr(node, f"_saved_{name}") for name in places)
        return torch.convolution(x, weight, bias and bias().to(x.dtype), *about)

    return make


def _addmm(node: Any) -> Callable[[], Tensor] | None:
    bias = _parameter(node.next_functions[0][0])
    if bias is None or None in (node.next_functions[1][0], node.next_functions[2][0]):  # else it keeps one of them
        return None

    def make() -> Tensor:
        x, weight = node._saved_mat1, _there(node._saved_mat2)
        return torch.addmm(bias().to(x.dtype), x, weight, beta=node._saved_beta, alpha=node._saved_alpha)

    return make


def _mm(node: Any) -> Callable[[], Tensor] | None:
    if None in (node.next_functions[0][0], node.next_functions[1][0]):
        return None
    return lambda: torch.mm(node._saved_self, _there(node._saved_mat2))


_MAKERS: dict[str, Callable[[Any], Callable[[], Tensor] | None]] = {
    "ConvolutionBackward0": _convolution,
    "AddmmBackward0": _addmm,
    "MmBackward0": _mm,
}


def _there(weight: Tensor) -> Tensor:
    if weight.numel() and not weight.untyped_storage().nbytes():
        raise RuntimeError(
            f"a weight {tuple(weight.shape)} is freed whose layer's output is computed again (pack_spikes, "
            "level='bits'), as FSDP frees it after the forward: fully_shard(..., reshard_after_forward=False) keeps "
            "it, and level='output' does without"
        )
    return weight


def _parameter(node: Any) -> Callable[[], Tensor] | None:
    """The parameter of a node, which must not change."""
    while node is not None and node.name() == "ToCopyBackward0":  # of autocast
        node = node.next_functions[0][0]
    variable = getattr(node, "variable", None)
    if variable is None:
        return None
    version = variable._version

    def read() -> Tensor:
        _there(variable)
        if variable._version != version:
            raise RuntimeError(
                "one of the variables needed for gradient computation has been modified by an inplace operation: the "
                f"bias {tuple(variable.shape)} of a layer whose output is computed again (pack_spikes, level='bits')"
            )
        return variable.detach()

    return read
