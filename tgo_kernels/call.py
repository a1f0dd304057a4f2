"""What a call takes and returns: its tensors, checked, and its results."""

from typing import NamedTuple

import torch
from torch import Tensor

from tgo_kernels.neurons.base import Neuron, state_dtype

DTYPES = (torch.float32, torch.float16, torch.bfloat16)


class LIFOutput(NamedTuple):
    """What one pass over all time steps returns."""

    spikes: Tensor  #: 0 or 1, in x's shape [T, *], dtype and strides
    v_final: Tensor  #: [*] fp32, the state after the last step
    penalty: Tensor  #: scalar fp32, the mean over T*N of the membrane-distance penalty (over the valid ones)
    neighbors: Tensor  #: int64 scalar, how many |h - v_threshold| < guard_margin; no gradient
    fired: Tensor  #: int64 scalar, how many spikes; no gradient
    membrane: Tensor | None = None  #: [T, *] as spikes, the membrane of every step, if asked for


class ScanOutput(NamedTuple):
    """What one pass over all time steps of any neuron returns."""

    spikes: Tensor  #: in x's shape [T, *], dtype and strides
    state: tuple[Tensor, ...]  #: each [*] fp32, the states after the last step
    penalty: Tensor  #: scalar fp32, as of :class:`LIFOutput`, at the threshold of each step
    neighbors: Tensor  #: int64 scalar
    fired: Tensor  #: int64 scalar
    membrane: Tensor | None = None  #: [T, *], if asked for


def check_tensors(x: Tensor, v_init: Tensor | None, neuron: Neuron, impl: str = "auto") -> None:
    """The tensors of a call: x is [T, *] with T >= 1, v_init [*] and the neuron's own are fp32 on the same device.

    With impl="reference" all of them may be fp64.
    """
    if not isinstance(x, Tensor):
        if isinstance(x, torch.fx.Proxy):
            raise TypeError("torch.fx must take LIF layers as leaves: Tracer.is_leaf_module returns True for a tgo.LIF")
        raise TypeError(f"x must be a torch.Tensor of shape [T, *], got {type(x).__name__}")
    if x.dtype not in DTYPES and not (x.dtype == torch.float64 and impl == "reference"):
        raise TypeError(f"x must be float32, float16 or bfloat16 (or float64 with impl='reference'), got {x.dtype}")
    if x.is_nested or x.layout != torch.strided:  # here, or a small call takes longer
        raise not_dense("x", x)
    if x.dim() == 0:
        raise ValueError("x must have a time axis first, shape [T, *]; got a scalar")
    if x.shape[0] == 0:
        raise ValueError(f"x must have at least one time step, got shape {tuple(x.shape)}")
    for name in neuron.tensors:
        check_own(name, getattr(neuron, name), x)
    if v_init is not None:
        check_state("v_init", v_init, x)


def check_state(name: str, v: Tensor, x: Tensor) -> None:
    """A state before the first step of x."""
    if not isinstance(v, Tensor):
        raise TypeError(f"{name} must be a torch.Tensor or None, got {type(v).__name__}")
    check_dense(name, v)
    if v.dtype != state_dtype(x.dtype):
        raise TypeError(f"{name} must be {named(state_dtype(x.dtype))} for x in {named(x.dtype)}, got {v.dtype}")
    if v.shape != x.shape[1:]:
        raise ValueError(f"{name} must have shape {tuple(x.shape[1:])} (x without time), got {tuple(v.shape)}")
    if v.device != x.device:
        raise ValueError(f"{name} must be on {x.device} as x is, got {v.device}")


def check_input(name: str, more: Tensor, x: Tensor) -> None:
    """An input beside x."""
    if not isinstance(more, Tensor):
        raise TypeError(f"{name} must be a torch.Tensor as x is, got {type(more).__name__}")
    check_dense(name, more)
    if (more.shape, more.dtype, more.device) != (x.shape, x.dtype, x.device):
        raise ValueError(
            f"{name} must be {named(x.dtype)} {tuple(x.shape)} on {x.device} as x is, "
            f"got {named(more.dtype)} {tuple(more.shape)} on {more.device}"
        )


def lengths_of(valid: Tensor, x: Tensor) -> Tensor:
    """How many steps each neuron has, [*] int32, from lengths [B] or a mask [T, B] of x [T, B, *].

    A mask must hold up to a sequence's end and not after it; on a GPU that is not looked at.
    """
    if not isinstance(valid, Tensor):
        raise TypeError(f"valid must be a torch.Tensor, lengths [B] or a mask [T, B], got {type(valid).__name__}")
    check_dense("valid", valid)
    if x.dim() < 2:
        raise ValueError(f"valid needs x with a batch, [T, B, *], got shape {tuple(x.shape)}")
    if valid.device != x.device:
        raise ValueError(f"valid must be on {x.device} as x is, got {valid.device}")
    mask = valid.dtype == torch.bool
    if valid.is_floating_point() or valid.is_complex():
        raise TypeError(f"valid must be integers (lengths [B]) or bool (a mask [T, B]), got {valid.dtype}")
    wanted = x.shape[:2] if mask else x.shape[1:2]
    if valid.shape != wanted:
        raise ValueError(f"valid must have shape {tuple(wanted)} for x {tuple(x.shape)}, got {tuple(valid.shape)}")
    if mask and not torch.compiler.is_compiling() and valid.device.type == "cpu" and (valid[1:] > valid[:-1]).any():
        raise ValueError("valid must hold up to a sequence's end and not after it, but it holds again")
    lengths = (valid.sum(0) if mask else valid.clamp(0, x.shape[0])).to(torch.int32)
    return lengths.reshape(-1, *[1] * (x.dim() - 2)).expand(x.shape[1:])


def over_valid(penalty: Tensor, lengths: Tensor, x: Tensor) -> Tensor:
    """The mean over all steps as that over those within the lengths."""
    return penalty * (x.numel() / lengths.sum().clamp(min=1)).to(penalty.dtype)


def check_dense(name: str, value: Tensor) -> None:
    if value.is_nested or value.layout != torch.strided:
        raise not_dense(name, value)


def not_dense(name: str, value: Tensor) -> TypeError:
    nested = "a nested one; torch.nested.to_padded_tensor makes it dense"
    what = nested if value.is_nested else f"{value.layout}; its to_dense() is one"
    return TypeError(f"{name} must be a dense (strided) tensor, got {what}")


def check_own(name: str, value: Tensor, x: Tensor) -> None:
    check_dense(name, value)
    if value.dtype != state_dtype(x.dtype):
        raise TypeError(f"{name} must be {named(state_dtype(x.dtype))} for x in {named(x.dtype)}, got {value.dtype}")
    if value.device != x.device:
        raise ValueError(f"constants that are tensors must be on {x.device} as x is, got {value.device}")
    sizes = x.shape if value.dim() == x.dim() else x.shape[1:]
    pairs = zip(value.shape, sizes[len(sizes) - value.dim() :], strict=False)  # dynamo takes no "in" for a symbol
    fits = value.dim() <= len(sizes) and not any(n != 1 and n != size for n, size in pairs)
    if not fits or (value.dim() == x.dim() and value.shape[0] != x.shape[0]):
        raise ValueError(
            f"{name} must broadcast to {tuple(x.shape[1:])} (x without time), got {tuple(value.shape)}; "
            "one value for each channel of [T, B, C, H, W] has shape [C, 1, 1], and for each step [T, 1, C, 1, 1]"
        )


def named(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
