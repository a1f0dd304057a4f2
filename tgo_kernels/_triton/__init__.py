"""The Triton engine, for NVIDIA and AMD GPUs. Import it late: it needs triton, and the package does not."""

from tgo_kernels._triton.launch import scan_bwd, scan_fwd

__all__ = ["scan_bwd", "scan_fwd"]
