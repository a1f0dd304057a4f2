"""What the GPUs of five makes would run, read from the compiled Triton kernels: no GPU is needed to know.

Registers, spills, width of loads and stores, barriers, and that no size is compiled in.
"""

import os
import re
import subprocess
from pathlib import Path

import pytest

triton = pytest.importorskip("triton")
if os.environ.get("TRITON_INTERPRET") == "1":
    pytest.skip("the interpreter replaces the kernels; make test runs this file without it", allow_module_level=True)

from triton.backends.compiler import GPUTarget  # noqa: E402
from triton.compiler import ASTSource  # noqa: E402

from tgo_kernels._triton import lif  # noqa: E402
from tgo_kernels._triton.math import MEMBRANE, NO_NOISE, THRESHOLD  # noqa: E402
from tgo_kernels.surrogate import Curve  # noqa: E402

TARGETS = {
    **{f"sm_{capability}": GPUTarget("cuda", capability, 32) for capability in (80, 90, 100, 120)},
    "gfx942": GPUTarget("hip", "gfx942", 64),
}
X_POINTERS = ("x_ptr", "spikes_ptr", "g_spikes_ptr", "g_x_ptr")
POINTERS = {"seed_ptr": "*i64", "counts_ptr": "*i64", "penalty_ptr": "*fp64"}

# A training step of the guarded, noisy neuron, and what can be added to it.
USUAL = {
    "ALIGNMENT": 16,
    "TIME_OUTERMOST": True,
    "PERMUTED": False,
    "HAS_V_INIT": False,
    "HAS_G_SPIKES": True,
    "HAS_G_V_FINAL": False,
    "HAS_G_V_INIT": False,
    "SOFT": False,
    "NOISE": MEMBRANE.value,
    "GUARD": True,
    "CURVE": Curve.LORENTZ.value,
    "SURROGATE_AT_H": False,
    "DETACH_RESET": False,
    "K": 8,
}
PLAIN = {"NOISE": NO_NOISE.value, "GUARD": False}
STATEFUL = {"HAS_V_INIT": True, "HAS_G_V_FINAL": True, "HAS_G_V_INIT": True}
EXTREMES = {
    "plain": PLAIN,
    "guarded": {"NOISE": NO_NOISE.value},
    "noise gradient, stateful": {"CURVE": Curve.GAUSSIAN.value, "SURROGATE_AT_H": True, **STATEFUL},
    "soft reset, noisy threshold": {"SOFT": True, "NOISE": THRESHOLD.value, "CURVE": Curve.LOGISTIC.value},
    "odd sizes": {"ALIGNMENT": 1},
    "permuted layout, stateful": {"TIME_OUTERMOST": False, "PERMUTED": True, **STATEFUL},
    "penalty alone": {"HAS_G_SPIKES": False, "DETACH_RESET": True},
    "inference": {**PLAIN, "K": 0},
}


def compile_kernel(kernel, target, dtype="fp32", **flags):
    flags = {**USUAL, **flags}
    what = "forward" if kernel is lif.lif_fwd_kernel else "backward"
    if what == "backward":
        flags["K"] = flags["K"] or lif.NEVER
        what = what if flags["NOISE"] == NO_NOISE.value else "noisy backward"
    flags["BLOCK"] = lif.block_size(what, target.warp_size)
    signature, constants, attributes = {}, {}, {}
    for i, name in enumerate(kernel.arg_names):
        if name.isupper():
            signature[name], constants[(i,)] = "constexpr", flags[name]
        elif name.endswith("_ptr"):
            signature[name] = f"*{dtype}" if name in X_POINTERS else POINTERS.get(name, "*fp32")
            attributes[(i,)] = [["tt.divisibility", 16]]
        else:
            signature[name] = "i32" if name in lif.SIZES else "fp32"
    source = ASTSource(kernel, signature, constants, attributes)
    return triton.compile(source, target=target, options={"num_warps": lif.NUM_WARPS, **lif.OPTIONS})


def resources(compiled, target, folder: Path) -> tuple[int, int]:
    """Registers of a thread, and bytes or registers spilled."""
    if target.backend == "hip":
        found = {key: int(re.search(rf"\.{key}:\s*(\d+)", compiled.asm["amdgcn"])[1]) for key in
                 ("vgpr_count", "vgpr_spill_count")}  # fmt: skip
        return found["vgpr_count"], found["vgpr_spill_count"]
    (folder / "kernel.cubin").write_bytes(compiled.asm["cubin"])
    cuobjdump = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    command = [cuobjdump, "--dump-resource-usage", folder / "kernel.cubin"]
    usage = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return int(re.search(r"REG:(\d+)", usage)[1]), int(re.search(r"STACK:(\d+)", usage)[1])


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
@pytest.mark.parametrize("name", TARGETS)
@pytest.mark.parametrize("kernel", [lif.lif_fwd_kernel, lif.lif_bwd_kernel], ids=["forward", "backward"])
def test_noise_and_penalty_fit_into_64_registers(kernel, name, dtype, tmp_path):
    target = TARGETS[name]
    compiled = compile_kernel(kernel, target, dtype)
    registers, spilled = resources(compiled, target, tmp_path)
    # 64 with the release that torch 2.13 pairs with; others take up to 8 more, the unit in which they are handed out.
    assert registers <= (64 if triton.__version__.startswith("3.7.") else 72) and spilled == 0
    assert compiled.metadata.shared <= (32 if kernel is lif.lif_fwd_kernel else 0)  # the block's sums alone


@pytest.mark.parametrize("extreme", EXTREMES)
@pytest.mark.parametrize("name", ["sm_90", "gfx942"])
@pytest.mark.parametrize("kernel", [lif.lif_fwd_kernel, lif.lif_bwd_kernel], ids=["forward", "backward"])
def test_nothing_spills(kernel, name, extreme, tmp_path):
    target = TARGETS[name]
    registers, spilled = resources(compile_kernel(kernel, target, **EXTREMES[extreme]), target, tmp_path)
    assert registers <= 96 and spilled == 0


@pytest.mark.parametrize("flags", [PLAIN, {"GUARD": False}], ids=["plain", "noisy"])
@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
@pytest.mark.parametrize("kernel", [lif.lif_fwd_kernel, lif.lif_bwd_kernel], ids=["forward", "backward"])
def test_rows_are_loaded_and_stored_whole(kernel, dtype, flags):
    """All neurons of a thread at once: 128 bits of fp32, 64 of bf16; half of it on the way back with noise."""
    ptx = compile_kernel(kernel, TARGETS["sm_90"], dtype, **flags).asm["ptx"]
    per_thread = 2 if kernel is lif.lif_bwd_kernel and flags is not PLAIN else 4
    words = per_thread if dtype == "fp32" else per_thread // 2
    width = f".v{words}.b32" if words > 1 else ".b32"
    assert f"ld.global{width}" in ptx and f"st.global{width}" in ptx
    assert f"ld.global{'.b32' if words > 1 else '.b16'}" not in ptx


@pytest.mark.parametrize("kernel", [lif.lif_fwd_kernel, lif.lif_bwd_kernel], ids=["forward", "backward"])
def test_no_size_is_compiled_in(kernel):
    sizes = {parameter.name: parameter for parameter in kernel.params if parameter.name in lif.SIZES}
    assert set(sizes) == set(lif.SIZES)
    for parameter in sizes.values():
        assert parameter.do_not_specialize and not parameter.is_constexpr
    integers = {p.name for p in kernel.params if p.is_constexpr} - {"ALIGNMENT", "NOISE", "CURVE", "K", "BLOCK"}
    assert all(isinstance(USUAL[name], bool) for name in integers)


@pytest.mark.parametrize("dtype", ["fp32", "fp16", "bf16"])
@pytest.mark.parametrize("kernel", [lif.lif_fwd_kernel, lif.lif_bwd_kernel], ids=["forward", "backward"])
def test_products_and_sums_are_not_contracted(kernel, dtype):
    """A spike depends on it. (The fused operations of square root and division are below PTX, and exact.)"""
    assert "fma.rn.f32" not in compile_kernel(kernel, TARGETS["sm_90"], dtype).asm["ptx"]
