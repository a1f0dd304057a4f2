"""What ``benchmarks.goals`` measures: the fused layer beside itself, and other engines beside it.

What is compared takes turns in the same rounds; a figure is a ratio of medians.
"""

import math
import statistics
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from itertools import product

import torch
from torch import Tensor

import tgo_kernels as tgo
from benchmarks import learned
from benchmarks.cases import BOTH, HEADLINES, PLAIN, Case
from benchmarks.peers import OURS, Peer, fused, step_of
from benchmarks.run import tensors, times_of

COMPILED = "torch.compile"
COST, TIME = "noise + penalty / plain", "noise + penalty, ns per neuron-step"
OTHERS = {name: f"noise + penalty, {name} / fused" for name in (COMPILED, "eager")}
TRAINING, INFERENCE = (f"{mode}, {COMPILED} / fused" for mode in ("training", "inference"))
LEARNED = {
    "one for all": "one constant for all / plain",
    "one a channel": "one a channel / plain",
    "one a neuron": "one a neuron / plain",
}
TWO_STATES, BF16 = "two states / plain", "bf16 / fp32"
CONTIGUOUS = "contiguous"
Shape = tuple[int, ...]  # T, and that of a step; with layouts T, batch, channels, height, width
Row = dict[str, object]
Stage = Callable[[], list[Row]]

THREADS = 2
OTHER_ROUNDS = 5  # of engines that take twenty times as long
GRID_ROUNDS = 5  # where there are many shapes
AXES = "TBCHW"
LAYOUTS = {CONTIGUOUS: AXES, "channels-last": "TBHWC", "batch first": "BTCHW", "H and W swapped": "TBCWH"}  # in memory
SHAPES: dict[Shape, tuple[str, ...]] = {(4, 16, 64, 64, 64): tuple(LAYOUTS), (16, 1, 64, 64, 64): (CONTIGUOUS,)}
LEARNED_SHAPES: tuple[Shape, ...] = (learned.SHAPE, (16, 4, 64, 32, 32))
GRID_STEPS = (1, 2, 3, 4, 5, 8, 16, 32)
FIGURES = ("figure", "layout", "T", "N", "vectors", "threads", "ms", "of_ms", "value")


def case_of(shape: Shape) -> Case:
    return Case("goals", "x", shape[0], shape[1:], BOTH)


def laid(x: Tensor, order: str) -> Tensor:
    """A tensor of x's shape in x's memory, in which the axes lie in this order."""
    return x.view([x.shape[AXES.index(axis)] for axis in order]).permute([order.index(axis) for axis in AXES])


def kernels() -> str:
    """For which vectors those are that this process takes."""
    return str(torch.ops.tgo_kernels.cpu_kernels())


def row_of(figure: str, layout: str, shape: Shape, ms: float, of_ms: float | None) -> Row:
    """A figure: the ratio of two medians, or the time of a neuron-step."""
    case = case_of(shape)
    value = ms / of_ms if of_ms else 1e6 * ms / case.size
    times = (f"{ms:.3f}", f"{of_ms:.3f}" if of_ms else "", f"{value:.3f}")
    values = (figure, layout, case.steps, case.neurons, kernels(), torch.get_num_threads(), *times)
    return dict(zip(FIGURES, values, strict=True))


def medians(calls: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    return {name: statistics.median(times) for name, times in times_of(calls, rounds).items()}


def noise_and_penalty(shape: Shape, rounds: int) -> list[Row]:
    """Noise and penalty beside the plain neuron, in each layout of x."""
    case = case_of(shape)
    x, grad = tensors(case)
    calls: dict[str, Callable[[], object]] = {}
    for layout in SHAPES[shape]:
        leaf, upstream = (laid(tensor.detach(), LAYOUTS[layout]) for tensor in (x, grad))
        leaf.requires_grad_()
        for extras in (PLAIN, BOTH):
            calls[f"{layout}, {extras.name}"] = step_of(fused, replace(case, extras=extras), leaf, upstream)
    found = medians(calls, rounds)
    pairs = {layout: [found[f"{layout}, {extras.name}"] for extras in (BOTH, PLAIN)] for layout in SHAPES[shape]}
    rows = [row_of(COST, layout, shape, *pair) for layout, pair in pairs.items()]
    return [*rows, row_of(TIME, CONTIGUOUS, shape, pairs[CONTIGUOUS][0], None)]


def learning(shape: Shape, rounds: int) -> list[Row]:
    """Constants that learn beside the plain layer."""
    found = medians(learned.variants(shape), rounds)
    return [row_of(figure, CONTIGUOUS, shape, found[name], found["plain"]) for name, figure in LEARNED.items()]


def two_states(shape: Shape, rounds: int) -> list[Row]:
    """A neuron with a second state beside the plain one."""
    x, grad = tensors(case_of(shape))
    neuron = tgo.neurons.AdaptiveLIF()
    calls: dict[str, Callable[[], object]] = {
        "plain": learned.step_of(lambda x: tgo.lif(x).spikes, [x], grad),
        "two states": learned.step_of(lambda x: tgo.scan(neuron, x).spikes, [x], grad),
    }
    found = medians(calls, rounds)
    return [row_of(TWO_STATES, CONTIGUOUS, shape, found["two states"], found["plain"])]


def bf16(shape: Shape, rounds: int) -> list[Row]:
    """The plain neuron in bf16 beside that in fp32."""
    calls: dict[str, Callable[[], object]] = {}
    for dtype in ("bf16", "fp32"):
        case = replace(case_of(shape), extras=PLAIN, dtype=dtype)
        calls[dtype] = step_of(fused, case, *tensors(case))
    found = medians(calls, rounds)
    return [row_of(BF16, CONTIGUOUS, shape, found["bf16"], found["fp32"])]


def both(shape: Shape, peers: list[Peer], rounds: int) -> list[Row]:
    """Other engines with noise and penalty beside the fused layer with both."""
    x, grad = tensors(case_of(shape))
    calls: dict[str, Callable[[], object]] = {
        peer.name: step_of(peer.make(), case_of(shape), x, grad) for peer in peers
    }
    found = medians(calls, rounds)
    return [row_of(OTHERS[name], CONTIGUOUS, shape, ms, found[OURS]) for name, ms in found.items() if name in OTHERS]


def loop(figure: str, shape: Shape, threads: int, peers: list[Peer], rounds: int) -> list[Row]:
    """torch.compile's plain loop over time, compiled anew for this shape, beside the fused layer."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    case = replace(case_of(shape), extras=PLAIN, training=figure == TRAINING)
    x, grad = tensors(case)
    found = medians({peer.name: step_of(peer.make(), case, x, grad) for peer in peers}, rounds)
    row = row_of(figure, CONTIGUOUS, shape, found[COMPILED], found[OURS])
    torch.set_num_threads(before)
    return [row]


def grid(whole: bool) -> list[Shape]:
    """Where the plain neuron is measured beside torch.compile's loop, other than at the headlines."""
    exponents, limit = (range(10, 27), 27) if whole else (range(10, 23, 4), 24)
    shapes = product(GRID_STEPS, (1 << exponent for exponent in exponents))
    return [shape for shape in shapes if math.prod(shape) <= 1 << limit and shape not in HEADLINES]


def beside_itself(rounds: int) -> list[Stage]:
    return [
        *(partial(noise_and_penalty, shape, rounds) for shape in SHAPES),
        *(partial(learning, shape, rounds) for shape in LEARNED_SHAPES),
        *(partial(stage, shape, rounds) for stage in (two_states, bf16) for shape in HEADLINES),
    ]


def beside_others(peers: list[Peer], rounds: int, whole: bool) -> list[Stage]:
    stages: list[Stage] = [partial(both, shape, peers, min(rounds, OTHER_ROUNDS)) for shape in SHAPES]
    pair = [peer for peer in peers if peer.name in (OURS, COMPILED)]
    if len(pair) == 2:
        for figure, threads in ((TRAINING, THREADS), (TRAINING, 1), (INFERENCE, THREADS)):
            stages += [partial(loop, figure, shape, threads, pair, rounds) for shape in HEADLINES]
        few = min(rounds, GRID_ROUNDS)
        stages += [partial(loop, TRAINING, shape, THREADS, pair, few) for shape in grid(whole)]
    return stages
