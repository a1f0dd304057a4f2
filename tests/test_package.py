"""The package as a stranger meets it: a cold import, and what it says of itself."""

import subprocess
import sys

COLD = """
import sys
sys.modules["triton"] = None  # as if it were not installed
import torch
import tgo_kernels as tgo
assert not torch.cuda.is_initialized()
spikes = tgo.LIF()(torch.ones(4, 3))
assert "triton" not in tgo.available_impls("cpu")
try:
    tgo.lif(torch.ones(4, 3), impl="triton")
except RuntimeError as error:
    assert "tgo_kernels[triton]" in str(error) or "TRITON_INTERPRET" in str(error), error
else:
    raise AssertionError("triton was not missed")
"""


def python(*arguments: str) -> str:
    run = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    return run.stdout


def test_import_needs_torch_alone_and_is_silent():
    assert python("-W", "error::UserWarning", "-c", COLD) == ""


def test_info_names_engines_and_reasons():
    text = python("-m", "tgo_kernels", "info")
    assert 'native    yes, taken by impl="auto"' in text and "reference yes" in text
    assert "triton    no: Triton serves GPU tensors" in text and "CPU kernels for" in text
