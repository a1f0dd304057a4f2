"""What tests/portable.py finds in machine code, and in digests; ``make arm`` and ``make clang`` run it."""

import subprocess
import sys
from pathlib import Path

import portable
import pytest

LOOP = """0000000000000000 <tgo::(anonymous namespace)::noise(unsigned long)>:
   0:\tfadd\ts1, s1, s0
   4:\tldr\tq1, [x0]
   8:\t{}
   c:\tfmul\tv1.4s, v1.4s, v2.4s
  10:\tb.ne\t4 <tgo::(anonymous namespace)::noise(unsigned long)+0x4>  // b.any
  14:\tbl\t0 <memcpy>
  18:\tret
"""


@pytest.mark.parametrize(
    ("instruction", "good"),
    [("fadd\tv1.4s, v1.4s, v0.4s", True), ("fadd\ts1, s1, s0", False), ("bl\t40 <sqrtf>", False)],
)
def test_loops_of_single_floats_and_calls_are_found(instruction, good):
    (found,) = portable.counted(LOOP.format(instruction))
    assert found.good() is good and found.vectors == 1 + good


def test_a_kernel_that_is_missing_is_named(monkeypatch):
    monkeypatch.setattr(portable, "run", lambda *command: LOOP.format("nop"))
    with pytest.raises(portable.Failed, match="no forward is there\nno backward is there"):
        portable.check_vectors("objdump", Path("any.o"))


def test_a_digest_that_differs_is_named():
    record = portable.RECORD.read_text().splitlines()
    assert portable.differences(record, record) == []
    wrong = [*record[:3], record[3][:-1] + "-", *record[4:]]
    assert portable.differences(wrong, record) == [f"{wrong[3]}, recorded {record[3]}"]
    assert portable.differences(record[1:], record)


def test_a_missing_compiler_is_named(monkeypatch):
    monkeypatch.setenv("PATH", "")
    command = [sys.executable, portable.__file__, "arm"]
    ran = subprocess.run(command, cwd=portable.ROOT, capture_output=True, text=True, check=False)
    assert ran.returncode == 1 and "apt-get install g++-aarch64-linux-gnu qemu-user" in ran.stderr
