"""That the sanitizers of ``make sanitize`` see the compiled engine: faults are planted, and must be reported."""

import os
import subprocess
import sys

import pytest

from tgo_kernels import native

SANITIZER = os.environ.get("TGO_SANITIZER")
if SANITIZER is None:
    pytest.skip("make sanitize runs it", allow_module_level=True)

# A tensor with fewer floats behind it than it says, a seed that is not aligned, and a tensor for two threads.
CALL = "import numpy as np, torch, tgo_kernels as tgo; lif = lambda x: tgo.lif(torch.from_numpy(x), impl='native'); "
SHORT = CALL + "lif(np.lib.stride_tricks.as_strided(np.zeros(4000, np.float32), (4, 1001), (4004, 4)))"
SEED = "torch.from_numpy(np.frombuffer(bytearray(9), np.int64, 1, 1)).reshape(())"
UNALIGNED = CALL + f"tgo.lif(torch.zeros(4, 8), noise_std=0.5, noise_seed={SEED}, impl='native')"
THREADS = CALL + "lif(np.zeros((4, 4096), np.float32))"
PLANTED = {
    "address": [
        (SHORT, {}, ["ERROR: AddressSanitizer", "READ of size", "tgo::cpu"]),
        (UNALIGNED, {}, ["runtime error: load of misaligned address", "tgo::cpu"]),
    ],
    "thread": [(THREADS, {"TGO_PLANTED_RACE": "1"}, ["ThreadSanitizer: data race", "tgo::cpu"])],
}


def test_the_library_is_the_sanitized_one():
    assert f"/build/{SANITIZER}/lib/" in str(native._LIBRARIES[0])


@pytest.mark.parametrize(("code", "variables", "report"), PLANTED[SANITIZER or "address"])
def test_planted_faults_are_reported(code, variables, report):
    run = lambda extra: subprocess.run(  # noqa: E731
        [sys.executable, "-c", code], env=os.environ | extra, capture_output=True, text=True
    )
    planted = run(variables)
    assert planted.returncode != 0
    for part in report:
        assert part in planted.stderr, planted.stderr
    if variables:  # and nothing without it
        plain = run({})
        assert plain.returncode == 0, plain.stderr
