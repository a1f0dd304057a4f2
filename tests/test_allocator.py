"""The allocator: page faults, counted in processes of their own, since the setting is the whole process's."""

import os
import platform
import subprocess
import sys

import pytest

import tgo_kernels as tgo
from tgo_kernels import allocator

GLIBC = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc alone has mallopt")
SIZES = {"64 MiB": 64 << 20, "1 GiB": 1 << 30, "2 GiB": 2 << 30}  # the last is beyond an int, as mallopt takes it
REPEATED = f"""
import resource, sys, torch
import tgo_kernels as tgo
answers = [tgo.tune_allocator() for _ in range(int(sys.argv[1]))]
counts = [all(answers)]
for size in {list(SIZES.values())}:
    faults = []
    for _ in range(30):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        torch.empty(size, dtype=torch.uint8)[: 32 << 20].fill_(1)  # no more is touched, and so no more is resident
        faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
    counts.append(sum(faults[20:]))
print(*map(int, counts))
"""
TRAINING = """
import resource, torch
import tgo_kernels as tgo
tgo.tune_allocator()
x = torch.rand(4, 1 << 20, requires_grad=True)  # 16 MiB, and so are the spikes and both gradients
grad = torch.rand_like(x)
def resident(steps):
    for _ in range(steps):
        x.grad = None
        tgo.lif(x).spikes.backward(grad)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # KiB
warm = resident(2)
print(resident(100) - warm)
"""


def printed(code: str, *arguments: object, **environment: str) -> list[int]:
    command = [sys.executable, "-c", code, *map(str, arguments)]
    run = subprocess.run(command, capture_output=True, text=True, check=True, env=os.environ | environment)
    return [int(word) for word in run.stdout.split()]


def faults(calls: int) -> tuple[bool, dict[str, int]]:
    """Page faults of ten tensors of each size, after twenty by which the heap has grown to its size."""
    answer, *counts = printed(REPEATED, calls)
    return bool(answer), dict(zip(SIZES, counts, strict=True))


@GLIBC
def test_freed_tensors_keep_their_pages():
    default = faults(calls=0)[1]
    for calls in (1, 2):
        tuned, counts = faults(calls)
        assert tuned
        for size, count in counts.items():
            assert default[size] > 100 and count < default[size] / 20, (size, default, counts)


@GLIBC
def test_without_a_cache_of_small_pieces_the_heap_does_not_outgrow_what_is_in_use():
    (grown,) = printed(TRAINING, GLIBC_TUNABLES="glibc.malloc.tcache_count=0")
    assert grown < 24 << 10, f"{grown} KiB: more than the one tensor that may find no gap; with the cache it is five"


@pytest.fixture
def untuned_allocator():
    """Not here, where it is looked at."""


def test_another_libc_is_left_alone(monkeypatch):
    monkeypatch.setattr(allocator.os, "confstr", lambda name: None)
    monkeypatch.setattr(allocator.ctypes, "CDLL", lambda name: pytest.fail("no malloc is touched"))
    assert tgo.tune_allocator() is False

    def unknown(name):
        raise ValueError("unrecognized configuration name")

    monkeypatch.setattr(allocator.os, "confstr", unknown)
    assert tgo.tune_allocator() is False
