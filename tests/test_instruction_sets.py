"""The same bits from every instruction set in what the compiled engine has beside the walk."""

import os
import subprocess
import sys

import pytest

from tgo_kernels import native

CODE = """
import hashlib, numpy, torch, tgo_kernels as tgo
from tgo_kernels import norm
draw = numpy.random.default_rng(0).standard_normal
normal = lambda *shape: torch.from_numpy(draw(shape, numpy.float32))  # torch's differ between instruction sets
digest = hashlib.sha256(torch.ops.tgo_kernels.cpu_kernels().encode() if ASKED else b"")
def found(*tensors):
    for tensor in tensors:
        digest.update(tensor.detach().contiguous().view(torch.uint8).numpy().tobytes())
for dtype in (torch.float32, torch.float16, torch.bfloat16):
    for values in (1, 2, 4, 8):
        x = (normal(10_007).mul(9).long() % values).to(dtype)
        packed, back = torch.ops.tgo_kernels.pack(x), torch.empty_like(x)
        torch.ops.tgo_kernels.unpack(packed, back)
        assert torch.equal(back, x)
        found(packed)
    rates = normal(3, 5, 7, 9).abs().clamp(max=1).to(dtype)
    for x in (rates, rates.to(memory_format=torch.channels_last), -rates):
        found(tgo.poisson(x, 7, bool((x < 0).any()), 5, 3))
    for shape in ((2, 3, 5, 9, 17), (2, 3, 64, 4, 4), (1, 2, 3, 40, 40)):
        for last in (False, True):
            x = normal(*shape)
            x = x.permute(0, 1, 3, 4, 2).contiguous().permute(0, 1, 4, 2, 3) if last else x
            x = x.to(dtype)
            dense, inner = norm._lying(x, 2)
            grad, slope, offset = torch.empty_like(dense).copy_(normal(*shape)), normal(shape[2]), normal(shape[2])
            found(torch.ops.tgo_kernels.channel_moments(dense, shape[2], inner))
            torch.ops.tgo_kernels.add_affine(grad, dense, slope, offset, inner)
            image = x.flatten(0, 1).requires_grad_()
            y = tgo.MaxPool2d(*((3, 2, 1) if last else (2,)))(image)
            y.backward(normal(*y.shape).to(dtype))
            found(grad, y, image.grad)
print(digest.hexdigest())
"""


def digest(capability, asked=False):
    environment = os.environ | {"ATEN_CPU_CAPABILITY": capability}
    run = [sys.executable, "-c", f"ASKED = {asked}{CODE}"]
    return subprocess.run(run, env=environment, check=True, capture_output=True, text=True).stdout


@pytest.mark.skipif(native.ERROR is not None, reason="the compiled extension's")
def test_the_same_bits():
    assert len({digest(capability) for capability in ("default", "avx2", "avx512")}) == 1
    assert digest("default", asked=True) != digest("avx2", asked=True) or "x86" not in os.uname().machine
