"""Neurons of a user's own: their steps, checked and printed when they are first run by Triton."""

import functools
import hashlib
import linecache
import sys
import types
import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from tgo_kernels import ops
from tgo_kernels.languages import Triton
from tgo_kernels.neurons import OWN, Neuron

MOST = {"STATES": 3, "INPUTS": 3, "CONSTANTS": 16}  # as in csrc/neurons.h
KNOWN = sorted({*Triton.BINARY, *Triton.COMPARED, *Triton.CALLS, "neg"} - {"plus", "_to_copy"})


def choose(kind: Any, impl: str, device: torch.device) -> str:
    """The engine for a neuron of a user's own: Triton where it was asked for or x is on a GPU, else plain torch."""
    if impl == "native":
        raise TypeError(f"the compiled extension knows no {kind.__name__}; impl='triton' and impl='reference' do")
    if impl == "auto":
        cpu = device.type == "cpu"
        impl = "reference" if cpu or ops.why_not("triton", device) else "triton"
        if cpu:
            _say(kind)
    return ops.choose(impl, device)


@functools.cache
def _say(kind: Any) -> None:
    warnings.warn(f"{kind.__name__} runs in plain torch on CPUs; on GPUs Triton compiles it", stacklevel=2)


@torch.compiler.assume_constant_result
def number_of(kind: Any) -> int:
    """By which the engines know it, the same in every process: a hash of its printed step."""
    return _printed(kind)


@functools.cache
def _printed(kind: Any) -> int:
    from tgo_kernels import printer  # with torch.fx, which takes its time

    for what, most in MOST.items():
        names = getattr(kind, what)
        if not 1 <= len(names) <= most:
            raise TypeError(f"{kind.__name__}: the compiled engines take 1 to {most} {what}, got {len(names)}")
    tensors = [tuple(torch.ones(1) for _ in getattr(kind, what)) for what in MOST]
    with _Known(kind):
        after = kind.step(printer.Traced(kind.CONSTANTS, tensors[2]), *tensors[0], *tensors[1])
    if not isinstance(after, tuple) or len(after) != len(kind.STATES):
        raise TypeError(f"{kind.__name__}.step must return its states {kind.STATES}, got {after!r}")
    text = printer.triton(kind.__name__, kind)
    number = 2**16 + int.from_bytes(hashlib.sha256(text.encode()).digest()[:6], "big")
    module = types.ModuleType(f"tgo_kernels._triton.steps.own_{number:x}")
    file = f"<the step of {kind.__name__}, as printed>"
    linecache.cache[file] = len(text), None, text.splitlines(keepends=True), file  # Triton reads a function's text
    sys.modules[module.__name__] = module
    exec(compile(text, file, "exec"), vars(module))
    OWN[number] = kind, module
    return number


class _Known(TorchDispatchMode):
    """Raises where a step does what no engine knows, with its line."""

    def __init__(self, kind: type[Neuron]) -> None:
        super().__init__()
        self.kind = kind

    def __torch_dispatch__(
        self, function: Any, types: Sequence[type], arguments: tuple = (), named: dict[str, Any] | None = None
    ) -> Any:
        name = function._schema.name.split("::")[1]
        ours = function.namespace == "tgo_kernels_step"
        numbers = all(isinstance(each, (Tensor, int, float)) for each in arguments)
        if not (ours or (numbers and name in {*KNOWN, "rsub", "_to_copy"})):
            what = "the value of a tensor" if name == "_local_scalar_dense" else f"torch's {name}"
            raise TypeError(
                f"{self.kind.__name__}.step{self.line()}: no engine but plain torch (impl='reference') knows {what}; "
                f"the others know {', '.join(KNOWN)}"
            )
        return function(*arguments, **named or {})

    def line(self) -> str:
        frame: Any = sys._getframe()
        code: Any = getattr(self.kind.step, "__code__", None)
        while frame is not None:
            if frame.f_code is code:
                return f", line {frame.f_lineno} of {code.co_filename}"
            frame = frame.f_back
        return ""
