"""Runs an unpacked wheel, given by its file, with the torch of the Python that runs this: ``make wheel``."""

import os
import sys
import tempfile
import zipfile

with tempfile.TemporaryDirectory() as directory:
    zipfile.ZipFile(sys.argv[1]).extractall(directory)
    sys.path.insert(0, directory)
    import torch

    import tgo_kernels as tgo
    from tgo_kernels import native
    from tgo_kernels.__main__ import info

    assert tgo.__file__.startswith(directory), tgo.__file__
    print(info())
    assert native.ERROR is None and native._has_cuda()
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

    os.environ["TGO_KERNELS_CACHE"] = f"{directory}/cache"
    assert torch.equal(tgo.scan(Doubled(), x, impl="native").spikes, tgo.lif(2 * x).spikes)
    print("the same spikes as the reference, and the same gradients to rounding; a neuron of one's own is compiled")
