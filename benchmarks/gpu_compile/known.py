"""The budgets that are missed, with the worst figure over the targets, and why: with Triton 3.7.1 and CUDA 13.0."""

from benchmarks.gpu_compile.budgets import Known

FP32, NARROW, ALL = ("fp32",), ("fp16", "bf16"), ("fp32", "fp16", "bf16")
BOTH = ("forward", "backward")
WIDTH = "accesses per 16 bytes"
FLOOR = "issue floor / memory floor"
NORMAL = "instructions per normal"

FOUR_A_THREAD = "Four neurons a thread are 64 bits; eight would not fit into 64 registers with noise."
TWO_A_THREAD = "Two neurons a thread, since four take 80 to 110 registers with noise."
RAGGED = "Rows begin anywhere, so each neuron is loaded by itself: a few percent more instructions, the same bytes."
KEPT_APART = "Each neuron has its own address, in registers; the usual N is a multiple of 16."
CONVERTED = "Loads of single neurons are spread over the block, the sums are not: a conversion through shared memory."
POLYNOMIALS = "Philox and Box-Muller; the rest of 60 is passed by what two neurons a thread save less of, than four do."
NOISE_ISSUES = (
    "A normal costs more instructions than the memory of a step takes time, and bf16 halves the memory alone."
)
GUARD_ISSUES = "The reverse of a step costs more instructions than 6 bytes take time."
SCALAR = "One neuron a thread."
ANY_T = "The path for every T: checks of each step, and 64-bit positions."

KNOWN = [
    # Triton, N a multiple of 16.
    *(Known("triton", kernel, NARROW, WIDTH, 2, FOUR_A_THREAD, noise=False) for kernel in BOTH),
    Known("triton", "forward", NARROW, WIDTH, 2, FOUR_A_THREAD, noise=True),
    Known("triton", "backward", FP32, WIDTH, 2, TWO_A_THREAD, noise=True),
    Known("triton", "backward", NARROW, WIDTH, 4, TWO_A_THREAD, noise=True),
    Known("triton", "backward", FP32, NORMAL, 65.88, POLYNOMIALS, noise=True),
    Known("triton", "backward", NARROW, NORMAL, 68.69, POLYNOMIALS, noise=True),
    Known("triton", "forward", FP32, FLOOR, 1.196, NOISE_ISSUES, noise=True),
    Known("triton", "backward", FP32, FLOOR, 1.137, NOISE_ISSUES, noise=True),
    Known("triton", "forward", NARROW, FLOOR, 2.192, NOISE_ISSUES, noise=True),
    Known("triton", "backward", NARROW, FLOOR, 2.387, NOISE_ISSUES, noise=True),
    Known("triton", "backward", NARROW, FLOOR, 1.093, GUARD_ISSUES, noise=False),
    # Triton, any other N.
    *(Known("triton", kernel, FP32, WIDTH, 4, RAGGED, aligned=False) for kernel in BOTH),
    *(Known("triton", kernel, NARROW, WIDTH, 8, RAGGED, aligned=False) for kernel in BOTH),
    Known("triton", "forward", ALL, "registers", 89, KEPT_APART, aligned=False, noise=True),
    Known("triton", "backward", ALL, "registers", 87, KEPT_APART, aligned=False, noise=True),
    Known("triton", "forward", ALL, "barriers", 8, CONVERTED, aligned=False, noise=True),
    Known("triton", "forward", ALL, "shared", 4096, CONVERTED, aligned=False, targets=("gfx942",)),
    Known("triton", "forward", FP32, FLOOR, 1.273, NOISE_ISSUES, aligned=False, noise=True),
    Known("triton", "backward", FP32, FLOOR, 1.187, NOISE_ISSUES, aligned=False, noise=True),
    Known("triton", "forward", NARROW, FLOOR, 2.298, NOISE_ISSUES, aligned=False, noise=True),
    Known("triton", "backward", NARROW, FLOOR, 2.431, NOISE_ISSUES, aligned=False, noise=True),
    # CUDA, N a multiple of 16.
    Known("cuda", "forward", FP32, FLOOR, 1.07, NOISE_ISSUES, noise=True),
    Known("cuda", "backward", FP32, FLOOR, 1.01, NOISE_ISSUES, noise=True),
    Known("cuda", "forward", NARROW, FLOOR, 2.02, NOISE_ISSUES, noise=True),
    Known("cuda", "backward", NARROW, FLOOR, 2.04, NOISE_ISSUES, noise=True),
    Known("cuda", "backward", NARROW, FLOOR, 1.06, GUARD_ISSUES, noise=False),
    # CUDA, any other N.
    *(Known("cuda", kernel, FP32, WIDTH, 4, SCALAR, aligned=False) for kernel in BOTH),
    *(Known("cuda", kernel, NARROW, WIDTH, 8, SCALAR, aligned=False) for kernel in BOTH),
    *(Known("cuda", kernel, ALL, "registers", 74, ANY_T, aligned=False, noise=True) for kernel in BOTH),
    Known("cuda", "forward", FP32, FLOOR, 1.9, ANY_T, aligned=False, noise=True),
    Known("cuda", "backward", FP32, FLOOR, 1.74, ANY_T, aligned=False, noise=True),
    Known("cuda", "forward", NARROW, FLOOR, 3.49, ANY_T, aligned=False, noise=True),
    Known("cuda", "backward", NARROW, FLOOR, 3.54, ANY_T, aligned=False, noise=True),
]
