"""The constants of a layer: to be read from it, and how those of the field become those of a neuron."""

import math
from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Any

import torch
from torch import Tensor, nn

from tgo_kernels import ops
from tgo_kernels.neurons import LIF, MINIMUM, Leaky, check_bool, check_number
from tgo_kernels.surrogate import FLOAT32

OWN = ("decay", "gain", "v_threshold")  # what every framework's LIF has
OPTIONS = ("noise_std", "noise_mode", "guard_margin", "guard_side", "guard_power", "noise_in_eval", "impl")
FIRING = ("v_reset", "reset_by", "surrogate", "detach_reset", "strict")
SETTABLE = ("tau", "decay_input", *OWN, *FIRING, *OPTIONS)


def readable(name: str, read: Callable[[Any], Any] | None = None) -> Any:
    """A constant of a finished layer: to be read, and written by ``set`` alone."""
    way = f"changed by layer.set({name}=...), which checks it" if name in SETTABLE else "fixed when it is made"

    def refuse(layer: nn.Module, value: object) -> None:
        raise AttributeError(f"{name} of a finished layer is {way}; it was to become {value!r}")

    return property(read or (lambda layer: getattr(layer.neuron, name)), refuse)


def checked(name: str, check: Callable[[Any], None]) -> Any:
    """A setting that may be written at any time, checked as at construction."""
    kept = f"_{name}"

    def write(layer: nn.Module, value: object) -> None:
        check(value)
        object.__setattr__(layer, kept, value)

    return property(lambda layer: getattr(layer, kept), write)


def readable_own(name: str) -> Any:
    """One that can be a parameter or a buffer, or follow from one."""

    def read(layer: Any) -> Any:
        held = held_as(layer, name)
        if held is not None:
            return held
        learns = {"v_threshold": layer.learn_threshold, "noise_std": layer.learn_noise}
        if name in layer._buffers or learns.get(name) or name in layer._learns:
            raise AttributeError(f"{name} is a tensor of the layer's own, but not there")  # so torch's parametrizations
        return layer.learned(0).get(name, getattr(layer.neuron, name))

    return readable(name, read)


def held_as(layer: nn.Module, name: str) -> Tensor | None:
    return layer._parameters.get(name, layer._buffers.get(name))


def read_tau(layer: Any) -> float | Tensor:
    """Of a number the twelve digits that ``1 - 1/tau`` keeps."""
    if layer.learn_decay:
        return 1 / layer.w.sigmoid()
    decay = layer.decay
    if isinstance(decay, Tensor):
        return 1 / (1 - decay)
    return math.inf if decay == 1 else float(f"{1 / (1 - decay):.12g}")


def check_settings(given: Mapping[str, Any], kind: type[Leaky] = LIF) -> None:
    """Those that a neuron does not check."""
    settable = (*SETTABLE, *beside_lif(kind))
    unknown = [name for name in given if name not in settable]
    if unknown:
        raise TypeError(f"a layer has no constant {', '.join(unknown)} to set; it has {', '.join(settable)}")
    for name in ("decay_input", "noise_in_eval"):
        if name in given:
            check_bool(name, given[name])
    for name in OWN:
        if name in given:
            most = math.inf if name == "v_threshold" else FLOAT32.max
            check_number(name, given[name], MINIMUM.get(name, 0.0), maximum=most)
    if "impl" in given:
        ops.check_impl(given["impl"])
    if "tau" in given:
        check_number("tau", given["tau"], minimum=1.0)


def beside_lif(kind: type[Leaky]) -> tuple[str, ...]:
    """The constants that a neuron has beside those of LIF."""
    return tuple(each.name for each in fields(kind) if each.repr and each.name not in LIF.__dataclass_fields__)


def canonical(given: Mapping[str, Any], neuron: Leaky, decay_input: bool) -> dict[str, Any]:
    """What of the constants of ``neuron`` follows from these of a layer with this ``decay_input`` so far."""
    new = {name: value for name, value in given.items() if name in neuron.__dataclass_fields__}
    scales = given.get("decay_input", decay_input)
    if "tau" in given:
        if "decay" in given:
            raise ValueError("tau and decay are one constant, decay = 1 - 1/tau: set one of them")
        new["decay"] = 1.0 - 1.0 / given["tau"]
    if scales and "gain" in given:
        raise ValueError("gain is 1/tau where decay_input=True; set decay_input=False with it")
    if scales and ("decay" in new or not decay_input):
        new["gain"] = 1.0 / given["tau"] if "tau" in given else 1.0 - new.get("decay", neuron.decay)
    if decay_input and not scales:
        new.setdefault("gain", 1.0)
    return new


def check_channels(channels: int | None, learns: object) -> None:
    if channels is not None and (type(channels) is not int or channels < 1 or not learns):
        raise ValueError(f"channels must be a number >= 1 of channels with constants that learn, got {channels!r}")


def rate_logit(decay: float) -> float:
    """w, where ``decay = 1 - sigmoid(w)``."""
    if not 0 < decay < 1:
        raise ValueError(f"learn_decay needs a decay between 0 and 1, or tau > 1; got decay={decay:g}")
    return math.log((1 - decay) / decay)


def fill(layer: nn.Module, name: str, value: float) -> None:
    """In place, so that optimizers and compiled graphs go on."""
    with torch.no_grad():
        held = getattr(layer, name)
        if held_as(layer, name) is not None and held.is_floating_point():
            held.fill_(value)
        else:  # a parametrization makes it, and knows the inverse; or it was an integer
            setattr(layer, name, torch.full_like(held, value, dtype=torch.float32))


def held(constant: Tensor) -> Tensor:
    """A parameter as a call takes it: in fp32, or in fp64 if it is."""
    return constant if constant.dtype == torch.float64 else constant.float()


def per_channel(value: Tensor, dims: int) -> Tensor:
    """[C] as [C, 1, 1] for x [T, B, C, H, W]; a scalar stays one."""
    return value.reshape(-1, *[1] * max(0, dims - 3)) if value.dim() else value


def shown(value: Any) -> str:
    """For people: a number, or from which to which; what is neither as it is."""
    if not isinstance(value, Tensor):
        return f"{value:g}" if type(value) in (int, float) else repr(value)
    if value.is_meta:
        return "learned"
    least, most = value.min().item(), value.max().item()
    return f"{least:.3g}" if value.dim() == 0 else f"{least:.3g}..{most:.3g}"
