"""The kernels beside the scan, of norms, pools, bits and encoding: which tensors have them, and Triton's for GPUs."""

import functools
import importlib.util
from typing import Any

from torch import Tensor

from tgo_kernels import native
from tgo_kernels.call import DTYPES
from tgo_kernels.library import LIBRARY, untraced

LIBRARY.define("pack_integers(Tensor x, int planes) -> Tensor")  # of a dense x; int32 [planes, words]
LIBRARY.define("unpack_integers(Tensor words, Tensor(a!) x) -> ()")
_TRITON = {
    "bits": ("pack_integers", "unpack_integers"),
    "encoding": ("poisson_spikes",),
    "norm": ("channel_moments", "norm_line", "norm_grad", "add_affine"),
    "pool": ("max_pool", "max_pool_bwd"),
}


def serve(x: Tensor) -> bool:
    """Whether there are kernels for tensors like x: on the CPU the compiled extension's, on GPUs Triton's."""
    return x.dtype in DTYPES and x.numel() > 0 and (native.ERROR is None if x.is_cpu else x.is_cuda and has_triton())


@functools.cache
def has_triton() -> bool:
    return importlib.util.find_spec("triton") is not None


def _call(module: str, name: str, *arguments: Any) -> Any:
    """Triton is imported by the first call."""
    return getattr(importlib.import_module(f"tgo_kernels._triton.{module}"), name)(*arguments)


for _module, _names in _TRITON.items():
    for _name in _names:
        # Bits on any device, since its interpreter takes CPU tensors; the others have a CPU kernel.
        _key = "CompositeExplicitAutograd" if _module == "bits" else "CUDA"
        LIBRARY.impl(_name, untraced(functools.partial(_call, _module, _name)), _key)
