"""Surrogate derivatives ``z(d)`` of the firing step, where ``d`` is the distance of the membrane from its threshold.

Each class is a frozen set of parameters; :meth:`Surrogate.derivative` is the derivative in plain torch. The compiled
engines know a surrogate by its :class:`Curve` and two numbers, its height ``a`` and its scale ``b``: eleven names of
the field share seven curves. Formulas and defaults are SpikingJelly's, so that models can be converted; FastSigmoid is
snnTorch's, Triangle and Rectangle are those of the robust-SNN code line.
"""

import math
from dataclasses import dataclass, field, fields
from enum import IntEnum
from typing import ClassVar

import torch
from torch import Tensor

__all__ = [
    "ATan",
    "Erf",
    "FastSigmoid",
    "NoisePDF",
    "PiecewiseExp",
    "PiecewiseQuadratic",
    "Rectangle",
    "Sigmoid",
    "SoftSign",
    "SuperSpike",
    "Surrogate",
    "Triangle",
]


FLOAT32 = torch.finfo(torch.float32)


class Curve(IntEnum):
    """The shapes that the engines implement, with height ``a`` and scale ``b``. The numbers are shared with csrc."""

    LORENTZ = 0  # a / (1 + (b d)^2)
    LOGISTIC = 1  # a e / (1 + e)^2, e = exp(-b |d|)
    TRIANGLE = 2  # max(0, a - b |d|)
    BOX = 3  # a 1[|d| < b]
    EXPONENTIAL = 4  # a exp(-b |d|)
    INVERSE_SQUARE = 5  # a / (1 + b |d|)^2
    GAUSSIAN = 6  # a exp(-(b d)^2)

    def __call__(self, d: Tensor, a: float, b: float) -> Tensor:
        if self is Curve.LORENTZ:
            return a / (1 + (b * d) * (b * d))
        if self is Curve.GAUSSIAN:
            return a * torch.exp(-((b * d) * (b * d)))
        distance = d.abs()
        if self is Curve.LOGISTIC:
            e = torch.exp(-b * distance)
            return a * e / ((1 + e) * (1 + e))
        if self is Curve.TRIANGLE:
            return torch.relu(a - b * distance)
        if self is Curve.BOX:
            return a * (distance < b).to(d.dtype)
        if self is Curve.EXPONENTIAL:
            return a * torch.exp(-b * distance)
        return a / ((1 + b * distance) * (1 + b * distance))


@dataclass(frozen=True)
class Surrogate:
    """A surrogate derivative of the firing step. Subclasses fix the curve."""

    curve: ClassVar[Curve]

    def __post_init__(self) -> None:
        for parameter in fields(self):
            value = getattr(self, parameter.name)
            what = f"{type(self).__name__}({parameter.name}=...)"
            if not isinstance(value, (int, float)) or isinstance(value, bool):
                raise TypeError(f"{what} must be a float, got {type(value).__name__}")
            if not 0 < value < math.inf:
                raise ValueError(f"{what} must be finite and > 0, got {value}")
        try:
            constants = self.constants()
        except ArithmeticError:
            constants = math.inf, math.inf
        if not all(FLOAT32.tiny <= constant <= FLOAT32.max for constant in constants):
            raise ValueError(f"the height and scale of {self} do not fit in fp32")

    def constants(self) -> tuple[float, float]:
        """Height ``a`` and scale ``b`` of the curve, in double precision."""
        raise TypeError("Surrogate is abstract: take a surrogate such as ATan(2.0)")

    def derivative(self, d: Tensor) -> Tensor:
        """``z(d)``, elementwise, in the dtype of ``d``."""
        return self.curve(d, *self.constants())


@dataclass(frozen=True)
class ATan(Surrogate):
    r"""``alpha/2 / (1 + (pi/2 alpha d)^2)``, the derivative of an arctangent."""

    curve = Curve.LORENTZ
    alpha: float = 2.0

    def constants(self) -> tuple[float, float]:
        return self.alpha / 2, math.pi / 2 * self.alpha


@dataclass(frozen=True)
class Sigmoid(Surrogate):
    """``alpha q (1 - q)`` with ``q = sigmoid(alpha d)``."""

    curve = Curve.LOGISTIC
    alpha: float = 4.0

    def constants(self) -> tuple[float, float]:
        return self.alpha, self.alpha


@dataclass(frozen=True)
class Triangle(Surrogate):
    """``max(0, 1 - |d|/width) / width``."""

    curve = Curve.TRIANGLE
    width: float = 1.0

    def constants(self) -> tuple[float, float]:
        return 1 / self.width, 1 / self.width**2


@dataclass(frozen=True)
class Rectangle(Surrogate):
    """``1[|d| < width/2] / width``."""

    curve = Curve.BOX
    width: float = 1.0

    def constants(self) -> tuple[float, float]:
        return 1 / self.width, self.width / 2


@dataclass(frozen=True)
class PiecewiseQuadratic(Surrogate):
    """``alpha - alpha^2 |d|`` where ``|d| <= 1/alpha``, else 0."""

    curve = Curve.TRIANGLE
    alpha: float = 1.0

    def constants(self) -> tuple[float, float]:
        return self.alpha, self.alpha**2


@dataclass(frozen=True)
class PiecewiseExp(Surrogate):
    """``alpha/2 exp(-alpha |d|)``."""

    curve = Curve.EXPONENTIAL
    alpha: float = 1.0

    def constants(self) -> tuple[float, float]:
        return self.alpha / 2, self.alpha


@dataclass(frozen=True)
class SoftSign(Surrogate):
    """``1 / (2 alpha (1/alpha + |d|)^2)``."""

    curve = Curve.INVERSE_SQUARE
    alpha: float = 2.0

    def constants(self) -> tuple[float, float]:
        return self.alpha / 2, self.alpha


@dataclass(frozen=True)
class SuperSpike(Surrogate):
    """``alpha / (1 + |d|)^2``."""

    curve = Curve.INVERSE_SQUARE
    alpha: float = 1.0

    def constants(self) -> tuple[float, float]:
        return self.alpha, 1.0


@dataclass(frozen=True)
class FastSigmoid(Surrogate):
    """``1 / (1 + slope |d|)^2``, as snnTorch defines it."""

    curve = Curve.INVERSE_SQUARE
    slope: float = 25.0

    def constants(self) -> tuple[float, float]:
        return 1.0, self.slope


@dataclass(frozen=True)
class Erf(Surrogate):
    """``alpha/sqrt(pi) exp(-(alpha d)^2)``."""

    curve = Curve.GAUSSIAN
    alpha: float = 2.0

    def constants(self) -> tuple[float, float]:
        return self.alpha / math.sqrt(math.pi), self.alpha


@dataclass(frozen=True)
class NoisePDF(Surrogate):
    """``phi(d/std)/std`` at the noise-free ``d = h - v_threshold``: the derivative of the firing probability.

    The noise-driven gradient of Ma, Yan and Tang (2023, arXiv 2305.16044). ``std=None`` takes the neuron's own
    ``noise_std``; a number is needed where the noise is off.
    """

    curve = Curve.GAUSSIAN
    std: float | None = field(default=None)

    def __post_init__(self) -> None:
        if self.std is not None:
            super().__post_init__()

    def constants(self) -> tuple[float, float]:
        if self.std is None:
            raise ValueError("NoisePDF() without std needs noise_std > 0; give NoisePDF(std=...)")
        return 1 / (self.std * math.sqrt(2 * math.pi)), 1 / (self.std * math.sqrt(2))
