"""The Triton engine, for NVIDIA and AMD GPUs. Import it late: it needs triton, and the package does not."""

from tgo_kernels._triton.launch import lif_bwd, lif_fwd

__all__ = ["lif_bwd", "lif_fwd"]
