"""Spikes kept as bits: what autograd saves for the backward, where it has few different values."""

from collections.abc import Callable
from typing import Any
from weakref import WeakValueDictionary

import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef

from tgo_kernels import native
from tgo_kernels.library import LIBRARY, below

LIBRARY.define("pack(Tensor x) -> Tensor")  # int64; empty where x has more than eight different values
LIBRARY.define("unpack(Tensor packed, Tensor(a!) x) -> ()")
_pack, _unpack = (getattr(torch.ops.tgo_kernels, name).default for name in ("pack", "unpack"))

DTYPES = (torch.float32, torch.float16, torch.bfloat16)
LEAST = 1024  # elements that are worth it
_packed: WeakValueDictionary[Any, "_Bits"] = WeakValueDictionary()  # of one tensor that several operators save


class Packing:
    """What :func:`pack_spikes` returns: ends by :meth:`remove`, or as a context."""

    def __init__(self, model: nn.Module | None) -> None:
        # Functions of this module alone, so that the model can still be copied and pickled.
        self._hooks = (
            []
            if model is None
            else [
                model.register_forward_pre_hook(_enter, prepend=True),
                model.register_forward_hook(_leave, always_call=True),
            ]
        )
        self._everywhere = model is None

    def remove(self) -> None:
        """From here on everything is saved as it is. What is saved already stays packed."""
        for hook in self._hooks:
            hook.remove()
        if self._everywhere:
            _leave(self)

    def __enter__(self) -> "Packing":
        if self._everywhere:
            _enter(self)
        return self

    def __exit__(self, *error: object) -> None:
        self.remove()


def pack_spikes(model: nn.Module | None = None) -> Packing:
    """Keeps as bits what operators save of spikes for their backward: a 32nd of the memory, the same gradients.

    Whatever any operator within the model's forward (convolution, linear, matmul, attention, pool, another neuron)
    saves for its backward is kept as 1, 2 or 3 bits an element, if it has at most 2, 4 or 8 different values: spikes
    of any library, their residual sums, averages and dropout. Gradients are the same to the bit. What has more values,
    as its first elements tell, is kept as it is. No layer is replaced::

        packing = tgo.pack_spikes(model)  # from here on, in every forward of it; packing.remove() ends it

        with tgo.pack_spikes():  # everything that this thread computes within
            loss = criterion(model(x), y)

    Kept are copies: a tensor that is written to in place after it was saved as bits has the gradient of what it was.
    One that was kept as it is raises in the backward, as ever. Hooks around it (``torch.autograd.graph.save_on_cpu``,
    ``torch.utils.checkpoint``) are given the bits to keep, and what is kept as it is; inner ones stand for it. What
    ``torch.func`` transforms save is left alone; what a compiled model saves is packed from without.

    Only fp32, fp16 and bf16 tensors on the CPU are packed so far; on other devices nothing changes.

    Args:
        model: whose forward it is for; None for a context.

    Returns:
        A :class:`Packing`, which ends it.

    Raises:
        TypeError: ``model`` is no module.
        RuntimeError: the compiled extension is missing; in the backward: a tensor that was kept as it is was changed.
    """
    if model is not None and not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module or None, got {type(model).__name__}")
    reason = native.serves(torch.device("cpu"))
    if reason:
        raise RuntimeError(f"pack_spikes needs the compiled extension: {reason}")
    return Packing(model)


def _enter(owner: object, *_: object) -> None:
    """Pushes hooks, or where torch allows none (within transforms), nothing."""
    if not _allowed():
        return
    outer: Any = _top()
    if outer is not None and isinstance(outer[0], _Pack):
        if outer[0].owner is owner:  # left there by a forward that was interrupted
            return
        outer = outer[0].outer
    torch._C._autograd._push_saved_tensors_default_hooks(_Pack(outer, owner), _restored)


def _leave(owner: object, *_: object) -> None:
    top: Any = _top() if _allowed() else None
    if top is not None and isinstance(top[0], _Pack) and top[0].owner is owner:
        torch._C._autograd._pop_saved_tensors_default_hooks()


def _top() -> Any:
    return torch._C._autograd._top_saved_tensors_default_hooks(False)


def _allowed() -> bool:
    enabled = torch._C._autograd._saved_tensors_hooks_is_enabled  # type: ignore[attr-defined]
    return not torch.compiler.is_compiling() and enabled()


def _restored(kept: "_Kept | _Bits") -> Tensor:
    return kept.restored()


class _Pack:
    """The hook for what is saved, and the hooks around it."""

    def __init__(self, outer: tuple[Callable, Callable] | None, owner: object) -> None:
        self.outer, self.owner = outer, owner

    def __call__(self, tensor: Tensor) -> "_Kept | _Bits":
        return _bits_of(tensor, self.outer) or _Kept(tensor, self.outer)


class _Kept:
    """A tensor as it is, or what hooks around make of it."""

    __slots__ = ("restore", "tensor", "version")

    def __init__(self, tensor: Tensor, outer: tuple[Callable, Callable] | None) -> None:
        self.restore = outer and outer[1]
        self.tensor = outer[0](tensor) if outer else tensor.detach()  # which its own node would keep for ever
        self.version = tensor._version if self.restore is None and not tensor.is_inference() else None

    def restored(self) -> Tensor:
        if self.restore is not None:
            return self.restore(self.tensor)
        if self.version is not None and self.tensor._version != self.version:  # torch leaves that to its hooks
            raise RuntimeError(
                "one of the variables needed for gradient computation has been modified by an inplace operation: "
                f"{self.tensor.dtype} {tuple(self.tensor.shape)} is at version {self.tensor._version}; expected "
                f"version {self.version} instead, at which pack_spikes kept it"
            )
        return self.tensor


class _Bits:
    """A tensor as bits."""

    __slots__ = ("__weakref__", "dtype", "packed", "size", "storage", "stride")

    storage: StorageWeakRef  # while it is there, no other storage has this address

    def __init__(self, tensor: Tensor, packed: _Kept) -> None:
        self.packed, self.dtype, self.size, self.stride = packed, tensor.dtype, tensor.shape, tensor.stride()

    def restored(self) -> Tensor:
        tensor = torch.empty_strided(self.size, self.stride, dtype=self.dtype, device="cpu")
        below(_unpack, self.packed.restored(), tensor)
        return tensor


def _bits_of(tensor: Tensor, outer: tuple[Callable, Callable] | None) -> _Bits | None:
    if type(tensor) is not Tensor or tensor.dtype not in DTYPES or tensor.numel() < LEAST or not _is_plain(tensor):
        return None
    dense = tensor
    if not torch.ops.aten.is_non_overlapping_and_dense.default(tensor):
        if any(stride == 0 and size > 1 for stride, size in zip(tensor.stride(), tensor.shape, strict=True)):
            return None
        if not below(_pack, _first(tensor).contiguous()).numel():
            return None
        dense = tensor.contiguous()
    packed = below(_pack, dense)
    if not packed.numel():
        return None
    if outer is not None:
        return _Bits(dense, _Kept(packed, outer))
    storage = tensor.untyped_storage()
    key = storage._cdata, tensor.storage_offset(), tensor.shape, tensor.stride(), tensor.dtype
    found = _packed.get(key)
    if found is None or not torch.equal(found.packed.tensor, packed):  # it was written to
        found = _Bits(dense, _Kept(packed, None))
        found.storage = StorageWeakRef(storage)
        _packed[key] = found
    return found


def _is_plain(tensor: Tensor) -> bool:
    """Whether its elements lie on the CPU as they are."""
    return (
        tensor.device.type == "cpu"
        and tensor.layout == torch.strided
        and not (tensor.is_nested or tensor.is_neg() or tensor.is_inference())
        and not torch._C._functorch.is_functorch_wrapped_tensor(tensor)
        and not torch._C._functorch.is_legacy_batchedtensor(tensor)
    )


def _first(tensor: Tensor) -> Tensor:
    """Some first elements of one that is not dense."""
    while tensor.dim() > 1 and tensor.numel() > 4 * LEAST:
        tensor = tensor[0]
    return tensor[: 4 * LEAST]
