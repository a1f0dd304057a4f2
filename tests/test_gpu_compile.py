"""What the GPUs of five makes would run, read from the compiled kernels: no GPU is needed to know.

The budgets of benchmarks/gpu_compile, and that they can fail; what is special beyond the usual calls; and that no size
is compiled in.
"""

import os
import re
import struct
from dataclasses import fields, replace

import pytest

triton = pytest.importorskip("triton")
if os.environ.get("TRITON_INTERPRET") == "1":
    pytest.skip("the interpreter replaces the kernels; make test runs this file without it", allow_module_level=True)

from benchmarks.gpu_compile import beside, cuda_code, family, sass, triton_code  # noqa: E402
from benchmarks.gpu_compile.__main__ import main, measure  # noqa: E402
from benchmarks.gpu_compile.budgets import Known, judge, misses  # noqa: E402
from benchmarks.gpu_compile.code import Case, cases  # noqa: E402
from benchmarks.gpu_compile.known import KNOWN  # noqa: E402
from benchmarks.gpu_compile.report import read  # noqa: E402
from benchmarks.gpu_compile.triton_code import TARGETS, compile_kernel, flags_for, resources  # noqa: E402
from tgo_kernels._triton import launch, norm, walk  # noqa: E402
from tgo_kernels._triton.flags import Flags  # noqa: E402
from tgo_kernels._triton.math import NO_NOISE, NOISY, RESET, SOFT, SUBTRACTED, THRESHOLD  # noqa: E402
from tgo_kernels.neurons import HOUSE, AdaptiveLIF  # noqa: E402
from tgo_kernels.surrogate import Curve  # noqa: E402

PINNED = triton.__version__.startswith("3.7.")  # the release that torch 2.13 pairs with
KERNELS = pytest.mark.parametrize("kernel", [walk.forward_kernel, walk.backward_kernel], ids=["forward", "backward"])
PLAIN = {"noise": NO_NOISE.value, "guard": False}
ANY_T = {"whole": False, "once": False, "saves": True, "stateful": True}
OWN = {"own": (True, True, False, True, False, False)}
NORMED = {"own": (False, True, True, False, False, False)}  # gain and bias
TIMED = {"own": (True,) * 6, "timed": (True,) * 6, "alignment": 1, "reset": SUBTRACTED.value}
ENDS = {"lengths": True, "membrane": RESET.value, "below": True, "squared": True, "strict": True}
EXTREMES = {
    "plain": PLAIN,
    "guarded": {"noise": NO_NOISE.value},
    "noise gradient, stateful": {"curve": Curve.GAUSSIAN.value, "surrogate_at_h": True, "stateful": True},
    "soft reset, noisy threshold": {"reset": SOFT.value, "noise": THRESHOLD.value, "curve": Curve.LOGISTIC.value},
    "odd sizes": {"alignment": 1},
    "T = 8, 12, ...": {"once": False, "saves": True},
    "any T, stateful": ANY_T,
    "permuted layout, any T, stateful": {"time_outermost": False, "permuted": True, **ANY_T},
    "constants of its own": OWN,
    "constants of its own, soft reset, any T, stateful": {**OWN, "reset": SOFT.value, **ANY_T},
    "penalty alone": {"g_spikes": False, "detach_reset": True},
    "all constants of its own, any T": {"own": (True,) * 6, "reset": SUBTRACTED.value, **ANY_T},
    "all constants with a time axis, any T": {**TIMED, **ANY_T},
    "two states": {"neuron": AdaptiveLIF},
    "two states, any T, stateful": {"neuron": AdaptiveLIF, **ANY_T},
    "two states, all constants of its own, any T": {"neuron": AdaptiveLIF, "own": (True,) * 9, **ANY_T},
    "membrane": {"membrane": NOISY.value},
    "sequences end, membrane, squares below, any T": {**ENDS, **ANY_T},
}


@pytest.mark.skipif(not PINNED, reason="the figures are those of another compiler")
@pytest.mark.parametrize("engine", ["triton", "cuda"])
def test_budgets(engine):
    """Nothing is over budget but what is known to be, and that as listed; nvcc takes minutes for a target, so one."""
    if engine == "cuda" and not (cuda_code.available() and cuda_code.release() == "13.0"):
        pytest.skip("the figures are those of CUDA 13.0")
    targets = TARGETS if engine == "triton" else ("sm_90",)
    complaints, _ = judge(measure(list(cases(True, (engine,), targets))), KNOWN)
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
@KERNELS
def test_noise_and_penalty_fit_into_64_registers(kernel, name, dtype):
    target = TARGETS[name]
    compiled = compile_kernel(kernel, target, dtype)
    registers, spilled = resources(compiled, target)
    assert registers <= (64 if PINNED else 80) and spilled == 0  # Triton 3.9 needs 74
    assert compiled.metadata.shared <= (32 if kernel is walk.forward_kernel else 0)  # the block's sums alone


@pytest.mark.skipif(not PINNED, reason="the figures are those of another compiler")
@pytest.mark.parametrize("flags", [{}, PLAIN], ids=["noise and penalty", "plain"])
@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
@pytest.mark.parametrize("name", [name for name in TARGETS if name.startswith("sm_")])
@KERNELS
def test_four_steps_behind_a_norm(kernel, name, dtype, flags):
    registers, spilled = resources(compile_kernel(kernel, TARGETS[name], dtype, **NORMED, **flags), TARGETS[name])
    assert registers <= (80 if kernel is walk.forward_kernel else 88) and spilled == 0


@pytest.mark.skipif(not PINNED, reason="the figures are those of another compiler")
@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
@pytest.mark.parametrize("name", TARGETS)
def test_kernels_beside_the_scan(name, dtype):
    rows = [beside.read(call) for call in beside.calls(name, dtype)]
    assert not [miss for row in rows for miss in row.over()]


@pytest.mark.skipif(not PINNED, reason="the figures are those of another compiler")
def test_kernels_of_other_neurons():
    """On one target; make gpu-compile has five."""
    rows = [family.read(kernel) for kernel in family.kernels("sm_90", "fp32")]
    assert not [miss for row in rows for miss in row.over()]
    assert {row.of.neuron for row in rows} == set(HOUSE[1:])


def test_a_kernel_of_another_neuron_over_budget_is_found(monkeypatch):
    monkeypatch.setattr(launch, "OPTIONS", {**launch.OPTIONS, "maxnreg": 32})
    kernel = family.Kernel(AdaptiveLIF, "backward", "sm_90", "fp32", "T=4")
    assert family.read(kernel).spilled and "spilled" in family.read(kernel).over()[-1]
    row = family.Read(kernel, 97, 0)
    assert row.over() == ["AdaptiveLIF backward sm_90 fp32 T=4: 97 registers, not 96"]


def test_a_kernel_beside_the_scan_over_budget_is_found():
    """All of an odd number of channels: no access is wide."""
    tile = norm.shape(4, 63, 1, 32)
    row = beside.read(beside.Call("add_affine", "sm_90", "fp32", norm.affine_kernel, tile, beside.BOTH))
    assert row.over() == [f"add_affine sm_90 fp32: no {name} of 128 bits" for name in ("loads", "stores")]


@pytest.mark.parametrize("extreme", EXTREMES)
@pytest.mark.parametrize("name", ["sm_90", "gfx942"])
@KERNELS
def test_nothing_spills(kernel, name, extreme):
    target, flags = TARGETS[name], EXTREMES[extreme]
    much = kernel is walk.backward_kernel and not flags.get("once", True) and "neuron" not in flags
    most = 128 if much or "own" in flags or "lengths" in flags else 96
    for dtype in ("fp32", "bf16"):
        registers, spilled = resources(compile_kernel(kernel, target, dtype, **flags), target)
        assert registers <= most and spilled == 0


@pytest.mark.skipif(not cuda_code.available(), reason="needs nvcc")
def test_nothing_spills_in_cuda():
    functions = cuda_code.functions("sm_90")
    spills = [name for name, (_, usage) in functions.items() if not re.search("STACK:0 .*LOCAL:0", usage)]
    assert len(functions) > 200 and not spills


@pytest.mark.parametrize("flags", [PLAIN, {"guard": False}], ids=["plain", "noisy"])
@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
@KERNELS
def test_rows_are_loaded_and_stored_whole(kernel, dtype, flags):
    """All neurons of a thread at once: 128 bits. (The seed is one number, read as two words.)"""
    ptx = compile_kernel(kernel, TARGETS["sm_90"], dtype, **flags).asm["ptx"]
    assert "ld.global.v4.b32" in ptx and "st.global.v4.b32" in ptx
    assert ptx.count("ld.global.b32") == (0 if flags == PLAIN else 2) and "ld.global.b16" not in ptx


@KERNELS
def test_no_size_is_compiled_in(kernel):
    sizes = {parameter.name: parameter for parameter in kernel.params if parameter.name in walk.SIZES}
    assert set(sizes) == set(walk.SIZES)
    for parameter in sizes.values():
        assert parameter.do_not_specialize and not parameter.is_constexpr
    assert [parameter.name for parameter in kernel.params if parameter.is_constexpr] == ["F"]
    flags = flags_for(kernel, TARGETS["sm_90"], "fp32")
    shape = launch.shape(False, flags, 32).keys()
    call = {"step", "step_back", "states", "inputs", "own", "timed", "fixed", "owned"}
    call |= {"dtype", "noise", "reset", "spikes", "membrane", "curve"}
    others = {field.name for field in fields(Flags)} - call - shape
    assert all(isinstance(getattr(Flags(**flags), name).value, bool) for name in others)


@pytest.mark.parametrize("dtype", ["fp32", "fp16", "bf16"])
@KERNELS
def test_products_and_sums_are_not_contracted(kernel, dtype):
    """A spike depends on it. Of the noise, exact products are, and the root that is correctly rounded by them."""
    target, fused = TARGETS["sm_90"], re.compile(r"fma\.rn\.f32\s+(.*);")
    assert not fused.search(compile_kernel(kernel, target, dtype, **PLAIN).asm["ptx"])
    found = fused.findall(compile_kernel(kernel, target, dtype).asm["ptx"])
    exact = [name for name in found if re.search(r"0fBDA00000|0fB4800000|0f3F000000", name)]  # -5/64, -2^-22, 1/2
    words = 2 * flags_for(kernel, target, dtype)["at_once"]
    assert (len(exact), len(found)) == (3 * words, 5 * words)
