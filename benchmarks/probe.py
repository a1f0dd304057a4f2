"""First-call latency and peak memory of one engine, printed as JSON by a process that does nothing else.

    python -m benchmarks.probe CASE|vgg11 ENGINE THREADS

The first call is compilation and all else that a user waits for, after imports. The peak is that of a later call, over
what was resident before it, with the default allocator, which gives pages back: kept pages would hide it. On Linux
with glibc alone.
"""

import json
import platform
import sys
from pathlib import Path

import torch

from benchmarks import record, vgg
from benchmarks.cases import selected
from benchmarks.peers import PEERS, step_of
from benchmarks.run import milliseconds, tensors

CLEAR = Path("/proc/self/clear_refs")
RESET_PEAK = "5"  # proc(5)


def status_kib(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{field}:"))


def main() -> None:
    name, engine, threads = sys.argv[1:]
    torch.set_num_threads(int(threads))
    if name == "vgg11":
        step, network, _ = vgg.training_step(PEERS[engine])
        leaves = list(network.parameters())
    else:
        (case,) = selected([name])
        x, grad = tensors(case)
        step, leaves = step_of(PEERS[engine].make(), case, x, grad), [x]
    found = {"first_call_ms": f"{milliseconds(step):.1f}"}
    if platform.libc_ver()[0] == "glibc":
        for leaf in leaves:
            leaf.grad = None
        record.release()  # what is free and resident would hide what the call takes
        CLEAR.write_text(RESET_PEAK)
        before = status_kib("VmRSS")
        step()
        found["peak_MiB"] = f"{(status_kib('VmHWM') - before) / 1024:.1f}"
    print(json.dumps(found))


if __name__ == "__main__":
    main()
