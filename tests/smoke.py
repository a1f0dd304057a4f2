"""Uses a tgo_kernels that is installed: see installed.py. With ``--cuda`` it must have CUDA kernels."""

import os
import sys
import tempfile
from pathlib import Path

import torch

import tgo_kernels as tgo
from tgo_kernels import compiler, native
from tgo_kernels.__main__ import info

print(info())
assert "site-packages" in tgo.__file__, tgo.__file__
assert native.ERROR is None, native.ERROR
assert native._has_cuda() or "--cuda" not in sys.argv
x = torch.randn(20, 3, 1000)
results = []
for impl in ("native", "reference"):
    leaf = x.clone().requires_grad_()
    out = tgo.lif(leaf, impl=impl, noise_std=0.3, noise_seed=7, guard_margin=0.5)
    (out.spikes.sum() + out.penalty).backward()
    results.append((out.spikes, out.v_final, out.penalty, leaf.grad))
for ours, expected in zip(*results, strict=True):
    torch.testing.assert_close(ours, expected)
assert torch.equal(results[0][0], results[1][0])


class Doubled(tgo.neurons.LIF):
    @staticmethod
    def step(n, v, x):
        return tgo.neurons.LIF.step(n, v, 2 * x)


with tempfile.TemporaryDirectory() as folder:
    os.environ[compiler.CACHE] = str(Path(folder, "cache"))
    assert torch.equal(tgo.scan(Doubled(), x, impl="native").spikes, tgo.lif(2 * x).spikes)
print("the same spikes as the reference, and the same gradients to rounding; a neuron of one's own is compiled")
