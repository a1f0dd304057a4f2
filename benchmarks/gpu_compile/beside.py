"""The kernels beside the scan (norms, pools, packed and encoded spikes) as compiled: static counts, no code is walked.

The masked accesses behind the last whole block of packed spikes are among those of less than 128 bits.
"""

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
import triton
from triton.compiler import ASTSource

from benchmarks.gpu_compile.code import SIZES_OF
from benchmarks.gpu_compile.report import AMD_WIDTHS
from benchmarks.gpu_compile.triton_code import DIVISIBLE, TARGETS, disassemble, resources
from tgo_kernels._triton import bits, encoding, norm, pool
from tgo_kernels._triton.launch import OPTIONS
from tgo_kernels.layout import layout_of

REGISTERS = 80
BOTH = ("loads", "stores")
STORED = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
POINTERS = {"words_ptr": "*i32", "winners_ptr": "*u8", "seed_ptr": "*i64", "sums_ptr": "*fp64", "moments_ptr": "*fp64"}
ROWS = ("x_ptr", "y_ptr", "g_ptr", "g_x_ptr")  # in the call's dtype; else fp32
LAYOUTS = {"channels last": (64, 1), "planes": (64, 784)}  # channels and inner
WINDOWS = {"2x2": (2, 2, 2, 2, 0, 0, 1, 1), "3x3": (3, 3, 2, 2, 1, 1, 1, 1)}


@dataclass(frozen=True)
class Call:
    """A kernel as it is launched, and what it moves by 128 bits: where the layout allows for it."""

    name: str
    target: str
    dtype: str
    function: Any
    constants: dict[str, Any]
    wide: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.name} {self.target} {self.dtype}"


def calls(target: str, dtype: str) -> Iterator[Call]:
    size, warp_size = SIZES_OF[dtype], TARGETS[target].warp_size

    def call(name: str, function: Any, constants: dict[str, Any], *wide: str) -> Call:
        return Call(name, target, dtype, function, constants, wide)

    for planes in (1, 2, 3):
        constants = {"PLANES": planes, "BLOCK": bits.block_of(size, warp_size)}
        yield call(f"pack {planes}", bits.pack_kernel, constants, *BOTH)
        yield call(f"unpack {planes}", bits.unpack_kernel, constants, *BOTH)
    for name, (channels, inner) in LAYOUTS.items():
        tile = norm.shape(size, channels, inner, warp_size)
        yield call(f"moments, {name}", norm.sums_kernel, tile, "loads")
        yield call(f"add_affine, {name}", norm.affine_kernel, tile, *BOTH)
        beside, wide = (channels, BOTH) if inner == 1 else (1, ())
        for kind, window in WINDOWS.items():
            constants = {"WINDOW": window, **pool.shape(size, beside, warp_size)}
            yield call(f"max_pool {kind}, {name}", pool.max_pool_kernel, constants, *wide)
            yield call(f"max_pool_bwd {kind}, {name}", pool.max_pool_back_kernel, constants, *wide)
    layout = layout_of(torch.empty(1, 64, 784, device="meta"))
    flags = encoding.flags_of(STORED[dtype], layout, True, 4, 0, warp_size)
    yield call("poisson, T = 4", encoding.poisson_kernel, {"SIGNED": False, "F": flags}, *BOTH)
    yield call("sums of moments", norm.moments_kernel, norm.SUMS)
    yield call("norm_line", norm.line_kernel, {"BLOCK": norm.CHANNELS})
    yield call("norm_grad", norm.line_grad_kernel, {"BLOCK": norm.CHANNELS})


def compiled(call: Call) -> Any:
    signature: dict[str, str] = {}
    fixed, attributes = {}, {}
    for i, name in enumerate(call.function.arg_names):
        if name in call.constants:
            signature[name], fixed[(i,)] = "constexpr", call.constants[name]
        elif name.endswith("_ptr"):
            signature[name] = POINTERS.get(name, f"*{call.dtype}" if name in ROWS else "*fp32")
            attributes[(i,)] = DIVISIBLE
        else:
            signature[name] = "fp32" if name in ("factor", "eps") else "i32"
    source = ASTSource(call.function, signature, fixed, attributes)
    return triton.compile(source, target=TARGETS[call.target], options=OPTIONS)


@dataclass(frozen=True)
class Read:
    """What is read of one: accesses by their bits, in loads and in stores."""

    call: Call
    registers: int
    spilled: int
    shared: int
    loads: dict[int, int]
    stores: dict[int, int]

    def over(self) -> list[str]:
        misses = [f"{self.call}: {self.registers} registers"] if self.registers > REGISTERS else []
        misses += [f"{self.call}: {self.spilled} spilled"] if self.spilled else []
        narrow = [name for name in self.call.wide if 128 not in getattr(self, name)]
        return misses + [f"{self.call}: no {name} of 128 bits" for name in narrow]


NVIDIA_WIDTHS = {"U8": 8, "S8": 8, "U16": 16, "S16": 16, "64": 64, "128": 128}


def read(call: Call) -> Read:
    code, target = compiled(call), TARGETS[call.target]
    if target.backend == "cuda":
        text = disassemble(code.asm["cubin"])
        found = [re.findall(rf"\b{name}\.E(?:\.([US]\d+|\d+))?", text) for name in ("LDG", "STG")]
        widths = NVIDIA_WIDTHS
    else:
        text = code.asm["amdgcn"]
        found = [re.findall(rf"\b(?:global|buffer|flat)_{name}_(\w+)", text) for name in ("load", "store")]
        widths = AMD_WIDTHS | {"ubyte": 8, "byte": 8}
    counts = [dict(Counter(widths.get(width, 32) for width in each)) for each in found]
    return Read(call, *resources(code, target), code.metadata.shared, *counts)
