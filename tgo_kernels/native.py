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
CUDA_REMEDY = REMEDY.replace("TGO_KERNELS_NATIVE=1", "TGO_KERNELS_NATIVE=1 TGO_KERNELS_CUDA=1")


def description() -> str:
    """What was built, for people."""
    if ERROR:
        return ERROR
    cuda = "CUDA kernels" if _has_cuda() else "no CUDA kernels"
    kernels, built_by = torch.ops.tgo_kernels.cpu_kernels(), torch.ops.tgo_kernels.built_by()
    return f"{_LIBRARIES[0].name}, CPU kernels for {kernels}, {cuda}; built by {built_by}"


def _has_cuda() -> bool:
    return torch._C._dispatch_has_kernel_for_dispatch_key("tgo_kernels::scan_fwd", "CUDA")


def serves(device: torch.device) -> str | None:
    """None if the extension can serve tensors on ``device``, else the reason why not."""
    if ERROR:
        return f"{ERROR}; to build it, in a clone of tgo_kernels: {REMEDY}"
    if device.type == "cpu" or (device.type == "cuda" and _has_cuda()):
        return None
    if device.type == "cuda" and torch.version.cuda:
        return f"the compiled extension was built without CUDA; with nvcc, in a clone of tgo_kernels: {CUDA_REMEDY}"
    return f"the compiled extension serves CPU and CUDA tensors, not {device.type}"
