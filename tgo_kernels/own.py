"""Neurons of a user's own: their steps, checked, printed, and on CPUs compiled when they are first run."""

import ctypes
import functools
import hashlib
import linecache
import sys
import threading
import types
import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from tgo_kernels import compiler, native, ops
from tgo_kernels.languages import Triton
from tgo_kernels.neurons import OWN, Neuron

MOST = {"STATES": 3, "INPUTS": 3, "CONSTANTS": 16}  # as in csrc/neurons.h
# What a step may be of; beside these its reverse, and torch of its own accord, takes some more.
LOGICAL = {f"{kind}_{name}" for kind in ("logical", "bitwise") for name in ("and", "or", "not")}
UNSAID = {"plus", "rsub", "scalar_tensor", "threshold_backward", "_to_copy"}
CALLS = {*Triton.BINARY, *Triton.COMPARED, *Triton.CALLS, *LOGICAL, "clamp_max", "clamp_min", "full_like", "neg"}
CALLS |= {"relu", "rsub"}
KNOWN = [*sorted(CALLS - UNSAID), "pow of 2 and 3"]
MAKES = "scalar_tensor", "full_like", "ones_like", "zeros_like"  # which say of what kind


@torch.compiler.assume_constant_result
def choose(kind: Any, impl: str, device: torch.device) -> str:
    """The engine for a neuron of a user's own: "auto" is the compiled one on CPUs and Triton elsewhere; where these
    cannot serve, plain torch, with a warning. One asked for by name then raises TypeError or RuntimeError."""
    if impl == "auto":
        return _settled(kind, device)
    ops.choose(impl, device)
    if impl != "reference":
        number_of(kind)
    if impl == "native":
        _known_to_native(kind, device)
    return impl


@functools.cache
def _settled(kind: Any, device: torch.device) -> str:
    engine = "native" if device.type == "cpu" else "triton"
    try:
        return choose(kind, engine, device)
    except Exception as error:  # what the step does wrong plain torch will say, too
        warnings.warn(f"{kind.__name__} runs in plain torch on {device.type}: {error}", stacklevel=2)
        return "reference"


@functools.cache
def _known_to_native(kind: Any, device: torch.device) -> None:
    if device.type != "cpu":
        raise TypeError(f"the compiled extension knows no {kind.__name__} on {device.type}; impl='triton' does")
    _apart(_compile, kind, number_of(kind))


def _compile(kind: Any, number: int) -> None:
    headers = torch.ops.tgo_kernels.headers()
    if headers != compiler.digest(compiler.csrc()):
        raise RuntimeError(f"{compiler.csrc()} is not what the compiled extension was built from; {native.REMEDY}")
    try:
        library = compiler.library(_cpp(kind), headers)
        address = ctypes.addressof(ctypes.c_char.in_dll(library, "tgo_own_neuron"))
    except (OSError, RuntimeError, ValueError) as error:
        raise RuntimeError(f"{kind.__name__} could not be compiled: {error}") from error
    _LIBRARIES.append(library)
    torch.ops.tgo_kernels.own_neuron(number, *(len(getattr(kind, what)) for what in MOST), address)


def _apart(function: Any, *arguments: Any) -> Any:
    """In a thread of its own, where there are none of the caller's modes, transforms, hooks and traces; one at a time,
    since torch's tracing takes turns."""
    with _TURN, ThreadPoolExecutor(1) as pool:
        return pool.submit(function, *arguments).result()


_TURN = threading.Lock()
_LIBRARIES: list[ctypes.CDLL] = []  # which stay loaded


def _cpp(kind: Any) -> str:
    """The kernels of a neuron for the instruction set of this machine, as a file in csrc/steps."""
    from tgo_kernels import printer

    isa = {"AVX2": "avx2", "AVX-512": "avx512"}.get(torch.ops.tgo_kernels.cpu_kernels(), "generic")
    return f"""#include "../cpu/sets.h"
#if TGO_WIDE
#include "../cpu/isa_{isa}.h"
#else
#include "../cpu/isa_generic.h"
#endif
#include "../cpu/forms.h"
{printer.cpp("own", kind)}
extern "C" __attribute__((visibility("default"))) const tgo::cpu::NeuronKernels tgo_own_neuron =
    tgo::cpu::TGO_ISA::kernels_for<tgo::Own>;
TGO_ISA_END
"""


@torch.compiler.assume_constant_result
def number_of(kind: Any) -> int:
    """By which the engines know it, the same in every process: a hash of its printed step."""
    return _number(kind)


@functools.cache
def _number(kind: Any) -> int:
    return _apart(_printed, kind)


def _printed(kind: Any) -> int:
    from tgo_kernels import printer  # with torch.fx, which takes its time

    for what, most in MOST.items():
        names = getattr(kind, what)
        if not 1 <= len(names) <= most:
            raise TypeError(f"{kind.__name__}: the compiled engines take 1 to {most} {what}, got {len(names)}")
    tensors = [tuple(torch.ones(1, dtype=torch.float32) for _ in getattr(kind, what)) for what in MOST]
    given = printer.Traced(kind.CONSTANTS, tensors[2])
    try:
        with _Known(kind):
            after = kind.step(given, *tensors[0], *tensors[1])
    except _Unknown as error:
        raise TypeError(str(error)) from None
    _check(kind, given, after)
    try:
        text = printer.triton(kind.__name__, kind)
    except RuntimeError as error:  # NotImplementedError, too
        raise TypeError(f"{kind.__name__}.step: no engine but plain torch knows its reverse: {error}") from None
    digest = hashlib.sha256(f"{kind.SPIKES.name} {text}".encode()).digest()
    number = 2**16 + int.from_bytes(digest[:6], "big")
    module = types.ModuleType(f"tgo_kernels._triton.steps.own_{number:x}")
    file = f"<the step of {kind.__name__}, as printed>"
    linecache.cache[file] = len(text), None, text.splitlines(keepends=True), file  # Triton reads a function's text
    sys.modules[module.__name__] = module
    exec(compile(text, file, "exec"), vars(module))
    OWN[number] = kind, module
    return number


def _check(kind: Any, given: Any, after: Any) -> None:
    """What a step returned."""
    tensors = isinstance(after, tuple) and all(isinstance(each, Tensor) and each.is_floating_point() for each in after)
    if not tensors or len(after) != len(kind.STATES):
        raise TypeError(f"{kind.__name__}.step must return its states {kind.STATES}, got {after!r}")
    if given.times != 1:
        times = f"it does {given.times} times"
        raise TypeError(f"{kind.__name__}.step must fire once, by n.fire(h, threshold, by); {times}")
    if after[0] is not given.after:
        raise TypeError(f"{kind.__name__}.step must return what n.fire gave as its first state, {kind.STATES[0]}")


class _Unknown(Exception):
    """No TypeError, which operators of tensors take for another's turn."""


class _Known(TorchDispatchMode):
    """Raises where a step does what no engine knows, with its line."""

    def __init__(self, kind: type[Neuron]) -> None:
        super().__init__()
        self.kind = kind

    def __torch_dispatch__(
        self, function: Any, types: Sequence[type], arguments: tuple = (), named: dict[str, Any] | None = None
    ) -> Any:
        name = function._schema.name.split("::")[1]
        named = named or {}
        if function.namespace != "tgo_kernels_step" and not self.knows(name, arguments, named):
            what = "the value of a tensor" if name == "_local_scalar_dense" else f"torch's {name}"
            what += f" with {', '.join(named)}" if name in CALLS and named else ""
            raise _Unknown(
                f"{self.kind.__name__}.step{self.line()}: no engine but plain torch (impl='reference') knows {what}; "
                f"the others know {', '.join(KNOWN)}"
            )
        return function(*arguments, **named)

    @staticmethod
    def knows(name: str, arguments: tuple, named: dict[str, Any]) -> bool:
        if not all(isinstance(each, (Tensor, int, float)) or each is None for each in arguments):
            return False
        if name == "pow":
            return isinstance(arguments[1], (int, float)) and arguments[1] in (1, 2, 3)
        if name == "_to_copy":  # of a comparison
            return arguments[0].dtype == torch.bool and named.get("dtype") == torch.float32
        return name in CALLS and (not named or name in MAKES)

    def line(self) -> str:
        frame: Any = sys._getframe()
        code: Any = getattr(self.kind.step, "__code__", None)
        while frame is not None:
            if frame.f_code is code:
                return f", line {frame.f_lineno} of {code.co_filename}"
            frame = frame.f_back
        return ""
