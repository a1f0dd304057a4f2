"""Finds and loads the compiled extension (csrc/): importing this module registers its operators, if it is there."""

from pathlib import Path

import torch

_LIBRARIES = sorted(Path(__file__).parent.glob("_C*.so"))
ERROR: str | None = None  #: why the extension is not there

if not _LIBRARIES:
    ERROR = "the compiled extension was not built (no C++ compiler, or no torch, when tgo_kernels was installed)"
else:
    try:
        torch.ops.load_library(str(_LIBRARIES[0]))
    except OSError as error:
        ERROR = f"the compiled extension {_LIBRARIES[0].name} does not load: {error}"

REMEDY = (
    "pip install torch numpy setuptools && "
    "TGO_KERNELS_NATIVE=1 pip install --no-build-isolation --force-reinstall --no-deps ."
)


def description() -> str:
    """What was built, for people."""
    if ERROR:
        return ERROR
    return f"{_LIBRARIES[0].name}, CPU kernels for {torch.ops.tgo_kernels.cpu_kernels()}"


def serves(device: torch.device) -> str | None:
    """None if the extension can serve tensors on ``device``, else the reason why not."""
    if ERROR:
        return f"{ERROR}; to build it, in a clone of tgo_kernels: {REMEDY}"
    if device.type != "cpu":
        return f"the compiled extension serves CPU tensors, not {device.type}"
    return None
