"""The budgets that are missed, with the worst figure over the targets, and why: with Triton 3.7.1 and CUDA 13.0."""

from benchmarks.gpu_compile.budgets import Known

FP32, NARROW = ("fp32",), ("fp16", "bf16")
ENGINES = ("triton", "cuda")
BOTH = ("forward", "backward")
WIDTH = "accesses per 16 bytes"
FLOOR = "issue floor / memory floor"
NORMAL = "instructions per normal"

SINGLE = "Rows begin anywhere, so a thread has one neuron: the same bytes, in whole sectors, by more instructions."
ALONE = "What a thread does once, addresses and the sum over its block, serves one neuron, not four or eight."
DRAWN_TWICE = f"A thread with one neuron draws a block of the noise, and uses half of it. {ALONE}"
NOT_PACKED = "A pair's operations at once would be 23, but need 66 registers: so its neurons are taken in turn."
MOVED = "Ten more moves of registers than fp32 has, and nearly the same operations otherwise."

KNOWN = [
    # N a multiple of 16.
    Known("triton", "forward", NARROW, NORMAL, 23.0, MOVED, targets=("gfx942",)),
    Known("triton", "backward", FP32, NORMAL, 36.3, NOT_PACKED, targets=("gfx942",)),
    Known("triton", "backward", NARROW, NORMAL, 33.1, NOT_PACKED, targets=("gfx942",)),
    # Any other N.
    *(Known(engine, kernel, FP32, WIDTH, 4, SINGLE, aligned=False) for engine in ENGINES for kernel in BOTH),
    *(Known(engine, kernel, NARROW, WIDTH, 8, SINGLE, aligned=False) for engine in ENGINES for kernel in BOTH),
    Known("triton", "forward", FP32, FLOOR, 1.15, DRAWN_TWICE, aligned=False, noise=True),
    Known("triton", "forward", NARROW, FLOOR, 2.13, DRAWN_TWICE, aligned=False, noise=True),
    Known("triton", "backward", NARROW, FLOOR, 1.71, DRAWN_TWICE, aligned=False, noise=True),
    Known("triton", "forward", NARROW, FLOOR, 1.25, ALONE, aligned=False, noise=False),
    Known("cuda", "forward", FP32, FLOOR, 1.11, DRAWN_TWICE, aligned=False, noise=True),
    Known("cuda", "forward", NARROW, FLOOR, 2.05, DRAWN_TWICE, aligned=False, noise=True),
    Known("cuda", "backward", NARROW, FLOOR, 1.78, DRAWN_TWICE, aligned=False, noise=True),
    Known("cuda", "forward", NARROW, FLOOR, 1.11, ALONE, aligned=False, noise=False),
    Known("cuda", "backward", NARROW, FLOOR, 1.05, ALONE, aligned=False, noise=False),
]
