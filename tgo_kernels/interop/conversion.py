"""What all conversions share: neurons become fused layers where they are, and a report says which, and why not."""

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from tgo_kernels.constants import OPTIONS, check_settings, fill
from tgo_kernels.fusion import Fusion
from tgo_kernels.layers import LIF
from tgo_kernels.neurons import LIF as Neuron

GUARDED = OPTIONS[:5]  # those of a Neuron


class Refused(ValueError):
    """Why a neuron cannot become a fused one that does the same."""


@dataclass(frozen=True)
class Report:
    """What a conversion did, by the name of the module."""

    converted: dict[str, str] = field(default_factory=dict)  #: the neuron that it is now, and where it differs
    left: dict[str, str] = field(default_factory=dict)  #: why it was left as it was
    fusion: Fusion | None = None  #: what ``fuse=True`` did besides

    def __str__(self) -> str:
        lines = [f"{len(self.converted)} neurons converted, {len(self.left)} left"]
        lines += [f"  {name or '(the model)'}: {what}" for name, what in self.converted.items()]
        lines += [f"  {name or '(the model)'}: left: {why}" for name, why in self.left.items()]
        lines += [] if self.fusion is None else [f"  {line}" for line in str(self.fusion).splitlines()]
        return "\n".join(lines)


class Fused(LIF):
    """A layer that was a neuron of another framework, and still is an instance of its class, with its attributes.

    These go on to be what its constants are read from, whenever they have changed.
    """

    register_buffer = nn.Module.register_buffer  # torch is slow to assign to a buffer where this is another
    _options: Mapping[str, Any]  # of a Neuron, which the other framework has not
    _read_from: Any  # the key of the attributes that the neuron was made from

    def key(self) -> Any:
        """The attributes that the constants are read from, as they are now: cheap, and without waiting for a GPU."""
        raise NotImplementedError

    def remember(self) -> None:
        """The neuron is that of these attributes."""
        self._read_from = self.key()

    def unchanged(self) -> bool:
        """Whether it still is."""
        return self.key() == self._read_from

    def constants(self) -> Mapping[str, Any]:
        """Of a :class:`Neuron`, from the attributes as they are now; or :class:`Refused`.

        Of what is not converted yet, too, where ``super()`` is not at hand.
        """
        raise NotImplementedError

    @classmethod
    def taken(cls, options: Mapping[str, Any]) -> Mapping[str, Any]:
        """Those of a conversion's options that are for such neurons."""
        return options

    def in_their_terms(self, new: Mapping[str, Any]) -> Mapping[str, Any]:
        """The attributes, plain or tensors, that make these constants; or ValueError, naming what there is none for."""
        raise NotImplementedError

    @property
    def neuron(self) -> Any:
        """The constants of a call, but for those that learn; another neuron holds until the next change of theirs."""
        if self.unchanged():
            return self._neuron
        neuron = self.kind(**self.constants(), **self._options)
        if not torch.compiler.is_compiling():  # which reads them once for each of its graphs
            self._neuron = neuron
            self.remember()
        return neuron

    @neuron.setter
    def neuron(self, neuron: Any) -> None:
        LIF.neuron.fset(self, neuron)  # type: ignore[attr-defined]

    def adopted(self) -> str:
        """Called once, on what is no longer the other framework's; returns where the two may differ, if anywhere."""
        return ""

    def set(self, **constants: Any) -> None:
        """:meth:`LIF.set`; what the other framework has an attribute for is written there.

        Raises:
            TypeError, ValueError: naming the constant, what was expected and what came, or that it has none.
        """
        check_settings(constants, self.kind)
        theirs = self.in_their_terms({name: value for name, value in constants.items() if name not in OPTIONS})
        tensors = {name: value for name, value in theirs.items() if isinstance(getattr(self, name), Tensor)}
        former = {name: getattr(self, name) for name in theirs if name not in tensors}
        guarded = self.taken({name: value for name, value in constants.items() if name in GUARDED})
        options = {**self._options, **guarded}
        try:
            for name in former:
                setattr(self, name, theirs[name])
            self.kind(**self.constants(), **options)
        except Exception:
            for name, value in former.items():
                setattr(self, name, value)
            raise
        for name, value in tensors.items():
            fill(self, name, value)
        self._options, self._neuron = options, self.kind(**self.constants(), **options)
        self.remember()
        self.noise_in_eval = constants.get("noise_in_eval", self.noise_in_eval)
        self.impl = constants.get("impl", self.impl)

    def one_step(self, x: Tensor) -> Tensor:
        """[*] -> [*]: the next time step."""
        return LIF.forward(self, x.unsqueeze(0)).squeeze(0)


Kinds = Mapping[type[nn.Module], type[Fused]]


def convert(
    model: nn.Module,
    kinds: Kinds,
    package: str,
    attributes: Mapping[str, Any],
    *,
    impl: str,
    noise_in_eval: bool,
    **guarded: Any,
) -> Report:
    """Every neuron of these ``kinds`` becomes the class beside its own, with the constants that are read from it.

    The module stays the same object, so that whatever refers to it, hooks included, goes on. What is converted already
    takes the options and ``attributes``, and is named where that changes it. Other modules whose class, or a base of
    it, comes from ``package`` are neurons too, and named as left.
    """
    ready = LIF(decay_input=False, stateful=True, impl=impl, noise_in_eval=noise_in_eval)
    Neuron(**guarded)
    report = Report()
    for name, module in model.named_modules():
        kind, fused = type(module).__name__, kinds.get(type(module))
        try:
            if type(module) in kinds.values():
                before = settings(module, attributes)
                module.set(**guarded, impl=impl, noise_in_eval=noise_in_eval)  # type: ignore[operator]
                vars(module).update(attributes)
                if settings(module, attributes) == before:
                    continue
                now = ", ".join(
                    [
                        f"{kind}, converted before: now {module.extra_repr()}",
                        *(f"{k}={v}" for k, v in attributes.items()),
                    ]
                )
            elif fused is not None:
                constants, options = fused.constants(module), fused.taken(guarded)  # type: ignore[arg-type]
                fused.kind(**constants, **options)
                for key, value in vars(ready).items():
                    vars(module).setdefault(key, value)
                module.__class__ = fused
                vars(module).update(attributes, _options=options)
                vars(module)["_neuron"] = fused.kind(**module.constants(), **options)  # type: ignore[operator]
                differs = module.adopted()  # type: ignore[operator]
                module.remember()  # type: ignore[operator]
                now = f"{kind}: {module.extra_repr()}" + (f"; differs where {differs}" if differs else "")
            elif not isinstance(module, Fused) and any(
                base.__module__.startswith(package) for base in type(module).mro()
            ):
                raise Refused("no fused layer computes this neuron")
            else:
                continue
        except (Refused, TypeError, ValueError) as why:
            report.left[name] = f"{kind}: {why}"
        else:
            report.converted[name] = now
    if report.left:
        warnings.warn(str(report), stacklevel=4)
    return report


def settings(module: Any, attributes: Mapping[str, Any]) -> tuple:
    return module.neuron, module.noise_in_eval, module.impl, *(vars(module)[name] for name in attributes)
