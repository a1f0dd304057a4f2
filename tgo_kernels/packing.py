"""Spikes kept as bits: what autograd saves for the backward, where it has few different values."""

from collections.abc import Callable
from functools import partial
from typing import Any, Literal, NamedTuple
from weakref import WeakValueDictionary, ref

import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef

from tgo_kernels import kernels, native, recompute
from tgo_kernels.library import LIBRARY, below
from tgo_kernels.neurons.base import check_choice

LIBRARY.define("pack(Tensor x) -> Tensor")  # int64; empty where x has more than eight different values
LIBRARY.define("unpack(Tensor packed, Tensor(a!) x) -> ()")
_pack, _unpack, _pack_integers, _unpack_integers = (
    getattr(torch.ops.tgo_kernels, name).default for name in ("pack", "unpack", "pack_integers", "unpack_integers")
)

Level = Literal["output", "bits"]
MOST = 7  # of an integer that is packed
LEAST = 1024  # elements that are worth it
_packed: WeakValueDictionary[Any, "_Bits"] = WeakValueDictionary()  # of one tensor that several operators save
_integers: dict[int, "_Integers"] = {}  # by the storage that holds them


class Packing:
    """What :func:`pack_spikes` returns: ends by :meth:`remove`, or as a context."""

    def __init__(self, model: nn.Module | None, level: Level) -> None:
        # Functions of this module alone, so that the model can still be copied and pickled.
        self._hooks = (
            []
            if model is None
            else [
                model.register_forward_pre_hook(partial(_enter, level=level), prepend=True),
                model.register_forward_hook(_leave, always_call=True),
            ]
        )
        self._everywhere, self._level = model is None, level

    def remove(self) -> None:
        """From here on everything is saved as it is. What is saved already stays packed."""
        for hook in self._hooks:
            hook.remove()
        if self._everywhere:
            _leave(self)

    def __enter__(self) -> "Packing":
        if self._everywhere:
            _enter(self, level=self._level)
        return self

    def __exit__(self, *error: object) -> None:
        self.remove()


def pack_spikes(model: nn.Module | None = None, *, level: Level = "output") -> Packing:
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
    ``torch.utils.checkpoint``) are given the bits to keep, and what is kept as it is; inner ones stand for it. Within
    ``torch.func`` transforms nothing is packed, and within a packing torch refuses transforms that differentiate; what
    a compiled model saves is packed from without.

    ``level="bits"`` keeps bits alone: what a convolution or a linear layer puts out for a neuron, or for a norm that is
    part of one (:class:`Block`, :func:`fuse`), is computed again in the backward, from the bits that the layer keeps
    for its own. That takes the time of one forward more of these layers. Within a checkpoint it is as ``"output"``. A
    layer that keeps less than that takes (a linear one whose input or weight needs no gradient, or any whose bias needs
    none) is left as it is.

    On a GPU values are not looked for, since the CPU would have to wait for them. Packed (by Triton, without waiting)
    is what is known to hold spikes: outputs of this package's neurons, of :class:`MaxPool2d` and of
    ``Block(add="spikes")``, made under the packing, and any views of them, unless they were written to since; a write
    that torch does not count (through ``.data``) goes unnoticed. Copies in another layout or dtype, averages, dropout
    and spikes of other libraries are kept as they are. What ``level="bits"`` computes again there may be rounded in
    another way, if cuDNN takes another algorithm.

    fp32, fp16 and bf16; on other devices nothing changes.

    Args:
        model: whose forward it is for; None for a context.
        level: ``"output"``, or ``"bits"``.

    Returns:
        A :class:`Packing`, which ends it.

    Raises:
        TypeError, ValueError: ``model`` is no module; ``level`` is another one.
        RuntimeError: the compiled extension is missing, and a GPU with Triton too; in the backward: a tensor that was
            kept as it is was changed.
    """
    if model is not None and not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module or None, got {type(model).__name__}")
    check_choice("level", level, ("output", "bits"))
    reason = native.serves(torch.device("cpu"))
    if reason and not (torch.cuda.is_available() and kernels.has_triton()):
        raise RuntimeError(f"pack_spikes needs the compiled extension: {reason}")
    return Packing(model, level)


def _enter(owner: object, *_: object, level: Level = "output") -> None:
    """Pushes hooks, or where torch allows none (within transforms), nothing."""
    if not _allowed():
        return
    packs = _packs()
    for k, pack in enumerate(packs):
        if pack.owner is owner:  # left there by a forward that was interrupted, with those of its modules
            for _each in packs[: k + 1]:
                torch._C._autograd._pop_saved_tensors_default_hooks()
            packs = packs[k + 1 :]
            break
    below = packs[0] if packs else None
    outer: Any = _top() if below is None else below.outer
    torch._C._autograd._push_saved_tensors_default_hooks(_Pack(outer, owner, level, below), _restored)


def _leave(owner: object, *_: object) -> None:
    packs = _packs() if _allowed() else []
    for pack in packs:
        if pack.owner is owner:
            pack.owner = pack.noted = None
            break
    for pack in packs:  # another one's may lie above, and go first
        if pack.owner is not None:
            break
        torch._C._autograd._pop_saved_tensors_default_hooks()


def _packs() -> "list[_Pack]":
    """Those at the top of torch's hooks, the last first."""
    found, top = [], _top()
    pack = top[0] if top is not None and isinstance(top[0], _Pack) else None
    while pack is not None:
        found.append(pack)
        pack = pack.below
    return found


def _top() -> Any:
    return torch._C._autograd._top_saved_tensors_default_hooks(False)


def _allowed() -> bool:
    enabled = torch._C._autograd._saved_tensors_hooks_is_enabled  # type: ignore[attr-defined]
    return not torch.compiler.is_compiling() and enabled()


def note(x: Tensor, make: Callable[[], Tensor] | None = None) -> None:
    """That what is saved of x, a neuron's input, may be computed again, if the level asks for it."""
    top: Any = None if torch.compiler.is_compiling() else _top()
    if top is not None and isinstance(top[0], _Pack) and top[0].makes_again and x.grad_fn is not None:
        top[0].noted = recompute.remember(x, make)


class _Integers(NamedTuple):
    """A tensor whose storage holds 0 .. largest and nothing else, while it is at that version."""

    tensor: ref[Tensor]
    version: int
    largest: int


def note_integers(y: Tensor, *terms: Tensor, largest: int = 0) -> None:
    """That y, just made, holds 0 .. largest, or sums of what terms hold: where that is packed, and cannot be seen."""
    if torch.compiler.is_compiling() or not _is_known(y) or not isinstance((_top() or (None,))[0], _Pack):
        return
    if any(type(each) is not Tensor or not _is_plain(each) for each in (y, *terms)):
        return
    found = [_largest(each) for each in terms]
    largest += sum(found)
    storage = y.untyped_storage()
    if all(found) and 0 < largest <= MOST and y.numel() * y.element_size() == storage.nbytes():
        key = storage._cdata
        _integers[key] = _Integers(ref(y, lambda _: _integers.pop(key, None)), y._version, largest)


def _largest(tensor: Tensor) -> int:
    """The largest integer that a tensor holds; 0 where that is not known."""
    key = tensor.untyped_storage()._cdata
    known = _integers.get(key)
    whole = None if known is None else known.tensor()
    if known is None or whole is None:
        return 0
    whole._fix_weakref()  # type: ignore[attr-defined]  # it may have been there for C++ alone
    same = whole.dtype == tensor.dtype and whole.untyped_storage()._cdata == key  # another one may be set
    return known.largest if same and whole._version == known.version == tensor._version else 0


def _is_known(tensor: Tensor) -> bool:
    """Whether what it holds is known from who made it, and not looked for."""
    return tensor.is_cuda


def _restored(kept: "_Kept | _Bits | _Again") -> Tensor:
    return kept.restored()


class _Pack:
    """The hook for what is saved, and the hooks around it."""

    def __init__(
        self, outer: tuple[Callable, Callable] | None, owner: object, level: Level, below: "_Pack | None"
    ) -> None:
        self.outer, self.owner, self.below = outer, owner, below
        # A checkpoint gives back once what a layer keeps, which has to make its output again, too.
        within_checkpoint = outer is not None and getattr(outer[0], "__module__", "") == "torch.utils.checkpoint"
        self.makes_again = level == "bits" and not within_checkpoint
        self.noted: recompute.Again | None = None  # which is there until it is saved

    def __call__(self, tensor: Tensor) -> "_Kept | _Bits | _Again":
        again = recompute.found(tensor) if self.makes_again and _is_plain(tensor) else None
        if again is not None:
            self.noted = None  # what is saved holds this hook, too
            return _Again(again, tensor.size(), tensor.stride())
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


class _Again(NamedTuple):
    """A tensor that is computed again."""

    again: recompute.Again
    size: torch.Size
    stride: tuple[int, ...]

    def restored(self) -> Tensor:
        return self.again.view(self.size, self.stride)


class _Bits:
    """A tensor as bits."""

    __slots__ = ("__weakref__", "dtype", "packed", "size", "storage", "stride")

    storage: StorageWeakRef  # while it is there, no other storage has this address

    def __init__(self, tensor: Tensor, packed: _Kept) -> None:
        self.packed, self.dtype, self.size, self.stride = packed, tensor.dtype, tensor.shape, tensor.stride()

    def restored(self) -> Tensor:
        packed = self.packed.restored()
        tensor = torch.empty_strided(self.size, self.stride, dtype=self.dtype, device=packed.device)
        below(_unpack if packed.dtype == torch.int64 else _unpack_integers, packed, tensor)
        return tensor


def _bits_of(tensor: Tensor, outer: tuple[Callable, Callable] | None) -> _Bits | None:
    if type(tensor) is not Tensor or tensor.numel() < LEAST or not _is_plain(tensor):
        return None
    planes = _largest(tensor).bit_length() if _is_known(tensor) else None
    dense = torch.ops.aten.is_non_overlapping_and_dense.default(tensor)
    if planes == 0 or (not dense and _repeats(tensor)):
        return None
    storage = tensor.untyped_storage()
    key = storage._cdata, tensor.storage_offset(), tensor.shape, tensor.stride(), tensor.dtype, tensor._version
    found = None if outer is not None else _packed.get(key)
    if found is not None and planes is not None:
        return found
    if not dense:
        if planes is None and not below(_pack, _first(tensor).contiguous()).numel():
            return None
        tensor = tensor.contiguous()
    packed = below(_pack, tensor) if planes is None else below(_pack_integers, tensor, planes)
    if not packed.numel():
        return None
    if outer is not None:
        return _Bits(tensor, _Kept(packed, outer))
    if found is None or not torch.equal(found.packed.tensor, packed):  # it was written to
        found = _Bits(tensor, _Kept(packed, None))
        found.storage = StorageWeakRef(storage)
        _packed[key] = found
    return found


def _is_plain(tensor: Tensor) -> bool:
    """Whether its elements lie in memory as they are, where there are kernels."""
    return (
        kernels.serve(tensor)
        and tensor.layout == torch.strided
        and not (tensor.is_nested or tensor.is_neg() or tensor.is_inference())
        and not torch._C._functorch.is_functorch_wrapped_tensor(tensor)
        and not torch._C._functorch.is_legacy_batchedtensor(tensor)
    )


def _repeats(tensor: Tensor) -> bool:
    return any(stride == 0 and size > 1 for stride, size in zip(tensor.stride(), tensor.shape, strict=True))


def _first(tensor: Tensor) -> Tensor:
    """Some first elements of one that is not dense."""
    while tensor.dim() > 1 and tensor.numel() > 4 * LEAST:
        tensor = tensor[0]
    return tensor[: 4 * LEAST]
