"""The allocator: page faults, counted in processes of their own, since the setting is the whole process's."""

import platform
import subprocess
import sys

import pytest

import tgo_kernels as tgo
from tgo_kernels import allocator

COUNT = """
import resource, sys, torch
import tgo_kernels as tgo
answers = [tgo.tune_allocator() for _ in range(int(sys.argv[1]))]
faults = []
for _ in range(20):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(16 << 20)  # 64 MiB, written and freed
    faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
print(all(answers), sum(faults[10:]))
"""


def faults(calls: int) -> tuple[bool, int]:
    """Page faults of ten tensors, after ten by which the heap has grown to its size."""
    command = [sys.executable, "-c", COUNT, str(calls)]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    answer, count = run.stdout.split()
    return answer == "True", int(count)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc alone has mallopt")
def test_freed_tensors_keep_their_pages():
    default = faults(calls=0)[1]
    for calls in (1, 2):
        tuned, count = faults(calls)
        assert tuned
        assert default > 100 and count < default / 20, (default, count)


def test_another_libc_is_left_alone(monkeypatch):
    monkeypatch.setattr(allocator.os, "confstr", lambda name: None)
    monkeypatch.setattr(allocator.ctypes, "CDLL", lambda name: pytest.fail("no malloc is touched"))
    assert tgo.tune_allocator() is False

    def unknown(name):
        raise ValueError("unrecognized configuration name")

    monkeypatch.setattr(allocator.os, "confstr", unknown)
    assert tgo.tune_allocator() is False
