"""The budgets that are missed, with the worst figure over the targets, and why: with Triton 3.7.1 and CUDA 13.0."""

from benchmarks.gpu_compile.budgets import Known

FP32, NARROW = ("fp32",), ("fp16", "bf16")
ENGINES = ("triton", "cuda")
BOTH = ("forward", "backward")
WIDTH = "accesses per 16 bytes"
FLOOR = "issue floor / memory floor"

SINGLE = "Rows begin anywhere, so a thread has one neuron: the same bytes, in whole sectors, by more instructions."
NOISE_ISSUES = "A normal costs as many instructions as fp32 takes time to move, and 16 bits halve the memory alone."
GUARD_ISSUES = "The reverse of a step costs more instructions than 6 bytes take time."
ALONE = "What a thread does once, addresses and the sum over its block, serves one neuron, not four or eight."

KNOWN = [
    # N a multiple of 16.
    Known("triton", "forward", NARROW, FLOOR, 1.71, NOISE_ISSUES, noise=True),
    Known("triton", "backward", NARROW, FLOOR, 1.80, NOISE_ISSUES, noise=True),
    Known("cuda", "forward", NARROW, FLOOR, 1.92, NOISE_ISSUES, noise=True),
    Known("cuda", "backward", NARROW, FLOOR, 1.97, NOISE_ISSUES, noise=True),
    Known("cuda", "backward", NARROW, FLOOR, 1.06, GUARD_ISSUES, noise=False),
    # Any other N.
    *(Known(engine, kernel, FP32, WIDTH, 4, SINGLE, aligned=False) for engine in ENGINES for kernel in BOTH),
    *(Known(engine, kernel, NARROW, WIDTH, 8, SINGLE, aligned=False) for engine in ENGINES for kernel in BOTH),
    Known("triton", "forward", FP32, FLOOR, 1.38, ALONE, aligned=False, noise=True),
    Known("triton", "backward", FP32, FLOOR, 1.05, ALONE, aligned=False, noise=True),
    Known("triton", "forward", NARROW, FLOOR, 2.54, ALONE, aligned=False, noise=True),
    Known("triton", "backward", NARROW, FLOOR, 2.17, ALONE, aligned=False, noise=True),
    Known("triton", "forward", NARROW, FLOOR, 1.25, ALONE, aligned=False, noise=False),
    Known("triton", "backward", NARROW, FLOOR, 1.08, ALONE, aligned=False, noise=False),
    Known("cuda", "forward", NARROW, FLOOR, 1.25, ALONE, aligned=False, noise=False),
    Known("cuda", "backward", NARROW, FLOOR, 1.23, ALONE, aligned=False, noise=False),
    Known("cuda", "forward", FP32, FLOOR, 1.31, ALONE, aligned=False, noise=True),
    Known("cuda", "backward", FP32, FLOOR, 1.10, ALONE, aligned=False, noise=True),
    Known("cuda", "forward", NARROW, FLOOR, 2.41, ALONE, aligned=False, noise=True),
    Known("cuda", "backward", NARROW, FLOOR, 2.25, ALONE, aligned=False, noise=True),
]
