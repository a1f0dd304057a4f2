"""The languages that steps are printed in (:mod:`tgo_kernels.printer`): Triton and C++."""

from math import inf, isfinite, isnan
from typing import ClassVar

import numpy as np

NOT_FINITE = {inf: "__builtin_inff()", -inf: "-__builtin_inff()"}


def rounded(value: float) -> float:
    """To fp32, in the fewest digits."""
    with np.errstate(over="ignore"):
        return float(str(np.float32(value)))


class Language:
    """How a language writes what operators stand for."""

    BINARY: ClassVar = {"add": ("+", 1), "sub": ("-", 1), "mul": ("*", 2), "div": ("/", 2)}
    COMPARED: ClassVar = {"gt": ">", "ge": ">=", "lt": "<", "le": "<=", "eq": "==", "ne": "!="}
    CALLS: ClassVar[dict[str, str]] = {
        "clamp": "smaller(larger({}, {}), {})",
        "logical_and": "({} & {})",
        "logical_not": "(({}) == 0)",
        "logical_or": "({} | {})",
        "maximum": "larger({}, {})",
        "minimum": "smaller({}, {})",
        "detach": "{}",
    }
    FIRED: ClassVar[dict[str, str]]  # what fire() has found
    declare: ClassVar[str]  # before a name
    declare_bool: ClassVar[str]

    @staticmethod
    def number(value: float) -> str:
        raise NotImplementedError


class Triton(Language):
    CALLS: ClassVar = Language.CALLS | {
        "where": "tl.where({}, {}, {})",
        "abs": "tl.abs({})",
        "exp": "tl.exp({})",
        "reciprocal": "(1.0 / {})",
        "scalar_tensor": "{}",
        "sgn": "tl.where({0} > 0, 1.0, tl.where({0} < 0, -1.0, 0.0))",
        "threshold_backward": "tl.where({} <= {}, 0.0, {})",
        "_to_copy": "tl.where({}, 1.0, 0.0)",
        "ones_like": "1.0",
        "zeros_like": "0.0",  # of a constant that a step does not read
        "plus": "plus({}, {})",  # of which the first may be None
    }
    FIRED: ClassVar = {
        "h": "fired[1]",
        "threshold": "fired[3]",
        "after": "after_of(fired, firing, F)",
        "s": "spike_of(fired, F)",
    }
    declare = declare_bool = ""

    @staticmethod
    def number(value: float) -> str:
        value = rounded(value)
        return repr(value) if isfinite(value) else f"float('{value}')"


class Cpp(Language):
    CALLS: ClassVar = Language.CALLS | {
        "where": "({} ? {} : {})",
        "abs": "absolute({})",
        "exp": "exponential({})",
        "reciprocal": "(1.f / {})",
        "scalar_tensor": "splat<F>({})",
        "sgn": "({0} > 0.f ? splat<F>(1.f) : {0} < 0.f ? splat<F>(-1.f) : splat<F>(0.f))",
        "threshold_backward": "({} <= {} ? splat<F>(0.f) : {})",
        "_to_copy": "({} ? splat<F>(1.f) : splat<F>(0.f))",
        "ones_like": "splat<F>(1.f)",
        "zeros_like": "splat<F>(0.f)",
        "plus": "{} + {}",
    }
    FIRED: ClassVar = {
        "h": "fired.h",
        "threshold": "fired.threshold",
        "after": "after_of(fired, f)",
        "s": "spike_of(fired, f)",
    }
    declare, declare_bool = "const F ", "const auto "

    @staticmethod
    def number(value: float) -> str:
        value = rounded(value)
        return f"{value!r}f" if isfinite(value) else '__builtin_nanf("")' if isnan(value) else NOT_FINITE[value]
