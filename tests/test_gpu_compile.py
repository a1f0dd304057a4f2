"""What the GPUs of five makes would run, read from the compiled kernels: no GPU is needed to know.

The budgets of benchmarks/gpu_compile, and that they can fail; what is special beyond the usual calls; and that no size
is compiled in.
"""

import os
import re
import struct
from dataclasses import replace

import pytest

triton = pytest.importorskip("triton")
if os.environ.get("TRITON_INTERPRET") == "1":
    pytest.skip("the interpreter replaces the kernels; make test runs this file without it", allow_module_level=True)

from benchmarks.gpu_compile import cuda_code, sass, triton_code  # noqa: E402
from benchmarks.gpu_compile.__main__ import main, measure  # noqa: E402
from benchmarks.gpu_compile.budgets import Known, judge, misses  # noqa: E402
from benchmarks.gpu_compile.code import Case, cases  # noqa: E402
from benchmarks.gpu_compile.known import KNOWN  # noqa: E402
from benchmarks.gpu_compile.report import read  # noqa: E402
from benchmarks.gpu_compile.triton_code import TARGETS, USUAL, compile_kernel, resources  # noqa: E402
from tgo_kernels._triton import launch, lif  # noqa: E402
from tgo_kernels._triton.math import NO_NOISE, THRESHOLD  # noqa: E402
from tgo_kernels.surrogate import Curve  # noqa: E402

PINNED = triton.__version__.startswith("3.7.")  # the release that torch 2.13 pairs with
PLAIN = {"NOISE": NO_NOISE.value, "GUARD": False}
STATEFUL = {"HAS_V_INIT": True, "HAS_G_V_FINAL": True, "HAS_G_V_INIT": True}
EXTREMES = {
    "plain": PLAIN,
    "guarded": {"NOISE": NO_NOISE.value},
    "noise gradient, stateful": {"CURVE": Curve.GAUSSIAN.value, "SURROGATE_AT_H": True, **STATEFUL},
    "soft reset, noisy threshold": {"SOFT": True, "NOISE": THRESHOLD.value, "CURVE": Curve.LOGISTIC.value},
    "odd sizes": {"ALIGNMENT": 1},
    "T = 8, 12, ...": {"ONCE": False, "SAVES": True},
    "any T, stateful": {"WHOLE": False, "ONCE": False, "SAVES": True, **STATEFUL},
    "permuted layout, any T, stateful": {
        **{"TIME_OUTERMOST": False, "PERMUTED": True, "WHOLE": False, "ONCE": False, "SAVES": True, **STATEFUL}
    },
    "constants of its own": {"OWN": True},
    "constants of its own, soft reset, any T, stateful": {
        **{"OWN": True, "SOFT": True, "WHOLE": False, "ONCE": False, "SAVES": True, **STATEFUL}
    },
    "penalty alone": {"HAS_G_SPIKES": False, "DETACH_RESET": True},
}


@pytest.mark.skipif(not PINNED, reason="the figures are those of another compiler")
@pytest.mark.parametrize("engine", ["triton", "cuda"])
def test_budgets(engine):
    """Nothing is over budget but what is known to be, and that as listed."""
    if engine == "cuda" and not (cuda_code.available() and cuda_code.release() == "13.0"):
        pytest.skip("the figures are those of CUDA 13.0")
    complaints, _ = judge(measure(list(cases(True, (engine,)))), KNOWN)
    assert not complaints


@pytest.mark.skipif(not PINNED, reason="another compiler may spill an address, which the walk then does not know")
def test_a_kernel_over_budget_is_found(monkeypatch):
    """Too few registers: the compiler has to spill."""
    monkeypatch.setattr(launch, "OPTIONS", {**launch.OPTIONS, "maxnreg": 48})
    case = Case("triton", "backward", "sm_90")
    row = read(case, triton_code.compiled.__wrapped__(case))
    assert "spills" in [miss.budget for miss in misses(row)]
    assert any("spills" in complaint and "not known" in complaint for complaint in judge([row], KNOWN)[0])


def test_a_known_miss_may_neither_grow_nor_linger():
    case = Case("triton", "backward", "sm_80")
    row = read(case, triton_code.compiled(case))
    over = replace(row, registers=70)
    known = Known("triton", "backward", ("fp32",), "registers", 70, "for this test")
    assert not judge([over], [known, *KNOWN])[0]
    assert "known was 70" in judge([replace(row, registers=72)], [known, *KNOWN])[0][0]
    assert "is gone" in judge([row], [known, *KNOWN])[0][0]


def test_the_command_fails_over_budget(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["gpu_compile", "--quick", "--engine", "triton", "--target", "sm_90"])
    monkeypatch.setattr("benchmarks.gpu_compile.__main__.KNOWN", [])
    assert main() == 1
    printed = capsys.readouterr().out
    missed = (
        r"triton forward sm_90 bf16 noise\+guard\+ragged: issue floor / memory floor [\d.]+, budget 1.25; not known"
    )
    assert re.search(missed, printed)


def test_the_walk_counts_every_trip():
    """A loop of five trips that stores to tensor 3, and a slow path that is not taken."""
    code = """
        /*0000*/                   MOV R0, c[0x0][0x160] ;
        /*0010*/                   IMAD.MOV.U32 R2, RZ, RZ, RZ ;
        /*0020*/                   IMAD.MOV.U32 R3, RZ, RZ, c[0x0][0x164] ;
.L_x_0:
        /*0030*/                   IADD3 R0, R0, -0x1, RZ ;
        /*0040*/                   STG.E.128 [R2.64+0x10], R4 ;
        /*0050*/                   FSETP.GT.AND P1, PT, R4, R5, PT ;
        /*0060*/              @!P1 BRA `(.L_x_1) ;
        /*0070*/                   CALL.REL.NOINC `($slow) ;
.L_x_1:
        /*0080*/                   ISETP.NE.AND P0, PT, R0, RZ, PT ;
        /*0090*/               @P0 BRA `(.L_x_0) ;
        /*00a0*/                   EXIT ;
$slow:
        /*00b0*/                   RET.REL.NODEC R6 ;
"""
    constants = dict(enumerate(struct.pack("<II", 5, 3 << (sass.TENSOR_SHIFT - 32)), 0x160))
    walk = sass.walk(code, constants, 33)
    assert walk.executed == 3 + 5 * 6 + 1 and walk.accesses == {("STG", 3, 16): 5} and not walk.divergent


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
@pytest.mark.parametrize("name", TARGETS)
@pytest.mark.parametrize("kernel", [lif.lif_fwd_kernel, lif.lif_bwd_kernel], ids=["forward", "backward"])
def test_noise_and_penalty_fit_into_64_registers(kernel, name, dtype):
    target = TARGETS[name]
    compiled = compile_kernel(kernel, target, dtype)
    registers, spilled = resources(compiled, target)
    assert registers <= (64 if PINNED else 80) and spilled == 0  # Triton 3.9 needs 74
    assert compiled.metadata.shared <= (32 if kernel is lif.lif_fwd_kernel else 0)  # the block's sums alone


@pytest.mark.parametrize("extreme", EXTREMES)
@pytest.mark.parametrize("name", ["sm_90", "gfx942"])
@pytest.mark.parametrize("kernel", [lif.lif_fwd_kernel, lif.lif_bwd_kernel], ids=["forward", "backward"])
def test_nothing_spills(kernel, name, extreme):
    target, flags = TARGETS[name], EXTREMES[extreme]
    own, backward, several = flags.get("OWN", False), kernel is lif.lif_bwd_kernel, not flags.get("ONCE", True)
    most = 224 if own else 128 if several and backward else 96
    for dtype in ("fp32", "bf16"):
        registers, spilled = resources(compile_kernel(kernel, target, dtype, **flags), target)
        assert registers <= most and spilled == 0


@pytest.mark.skipif(not cuda_code.available(), reason="needs nvcc")
def test_nothing_spills_in_cuda():
    functions = cuda_code.functions("sm_90")
    spills = [name for name, (_, usage) in functions.items() if not re.search("STACK:0 .*LOCAL:0", usage)]
    assert len(functions) > 200 and not spills


@pytest.mark.parametrize("flags", [PLAIN, {"GUARD": False}], ids=["plain", "noisy"])
@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
@pytest.mark.parametrize("kernel", [lif.lif_fwd_kernel, lif.lif_bwd_kernel], ids=["forward", "backward"])
def test_rows_are_loaded_and_stored_whole(kernel, dtype, flags):
    """All neurons of a thread at once: 128 bits. (The seed is one number, read as two words.)"""
    ptx = compile_kernel(kernel, TARGETS["sm_90"], dtype, **flags).asm["ptx"]
    assert "ld.global.v4.b32" in ptx and "st.global.v4.b32" in ptx
    assert ptx.count("ld.global.b32") == (0 if flags == PLAIN else 2) and "ld.global.b16" not in ptx


@pytest.mark.parametrize("kernel", [lif.lif_fwd_kernel, lif.lif_bwd_kernel], ids=["forward", "backward"])
def test_no_size_is_compiled_in(kernel):
    sizes = {parameter.name: parameter for parameter in kernel.params if parameter.name in lif.SIZES}
    assert set(sizes) == set(lif.SIZES)
    for parameter in sizes.values():
        assert parameter.do_not_specialize and not parameter.is_constexpr
    integers = (
        {p.name for p in kernel.params if p.is_constexpr}
        - {"ALIGNMENT", "NOISE", "CURVE"}
        - launch.shape(16, 4, 32, light=True).keys()
    )
    assert all(isinstance(USUAL[name], bool) for name in integers)  # T: whether 4, or a multiple of it, and no more


@pytest.mark.parametrize("dtype", ["fp32", "fp16", "bf16"])
@pytest.mark.parametrize("kernel", [lif.lif_fwd_kernel, lif.lif_bwd_kernel], ids=["forward", "backward"])
def test_products_and_sums_are_not_contracted(kernel, dtype):
    """A spike depends on it. Of the noise, exact products are, and the root that is correctly rounded by them."""
    target, fused = TARGETS["sm_90"], re.compile(r"fma\.rn\.f32\s+(.*);")
    assert not fused.search(compile_kernel(kernel, target, dtype, **PLAIN).asm["ptx"])
    found = fused.findall(compile_kernel(kernel, target, dtype).asm["ptx"])
    exact = [name for name in found if re.search(r"0fBDA00000|0fB4800000|0f3F000000", name)]  # -5/64, -2^-22, 1/2
    words = 2 * launch.shape(16, 4 if dtype == "fp32" else 2, 32, light=True)["AT_ONCE"]
    assert (len(exact), len(found)) == (3 * words, 5 * words)
