"""Arguments of ``tgo.lif``: what is refused, and by which words; fp64 and physiological units."""

import pytest
import torch
from torch import nn

import tgo_kernels as tgo

BAD = {
    "x=list": (lambda: tgo.lif([1.0]), TypeError, "x must be a torch.Tensor"),
    "x=int": (lambda: tgo.lif(torch.ones(2, 3, dtype=torch.int64)), TypeError, "x must be float32.*int64"),
    "x=double": (
        lambda: tgo.lif(torch.ones(2, 3).double()),
        TypeError,
        r"bfloat16 \(or float64 with impl='reference'\), got torch.float64",
    ),
    "x=nested": (
        lambda: tgo.lif(torch.nested.nested_tensor([torch.ones(2, 3)])),
        TypeError,
        "dense .* got a nested one; torch.nested.to_padded_tensor",
    ),
    "x=jagged": (
        lambda: tgo.lif(torch.nested.nested_tensor([torch.ones(2, 3)], layout=torch.jagged)),
        TypeError,
        "dense .* got a nested one",
    ),
    "v_init=half of fp64": (
        lambda: tgo.lif(torch.ones(2, 3).double(), torch.ones(3), impl="reference"),
        TypeError,
        "v_init must be float64 for x in float64, got torch.float32",
    ),
    "decay=fp32 of fp64": (
        lambda: tgo.lif(torch.ones(2, 3).double(), decay=torch.tensor(0.5), impl="reference"),
        TypeError,
        "decay must be float64 for x in float64, got torch.float32",
    ),
    "x=scalar": (lambda: tgo.lif(torch.tensor(1.0)), ValueError, "time axis"),
    "x=T0": (lambda: tgo.lif(torch.ones(0, 3)), ValueError, "at least one time step"),
    "x=sparse": (lambda: tgo.lif(torch.ones(2, 3).to_sparse()), TypeError, "dense .* torch.sparse_coo; its to_dense"),
    "v_init=shape": (lambda: tgo.lif(torch.ones(2, 3), torch.ones(4)), ValueError, r"v_init must have shape \(3,\)"),
    "v_init=dtype": (lambda: tgo.lif(torch.ones(2, 3), torch.ones(3).half()), TypeError, "v_init must be float32"),
    "v_init=device": (lambda: tgo.lif(torch.ones(2, 3), torch.ones(3, device="meta")), ValueError, "v_init must be on"),
    "v_init=sparse": (
        lambda: tgo.lif(torch.ones(2, 3), torch.ones(3).to_sparse()),
        TypeError,
        "v_init must be a dense",
    ),
    "v_init=nested": (
        lambda: tgo.lif(torch.ones(2, 3), torch.nested.as_nested_tensor([torch.ones(3)])),
        TypeError,
        "v_init must be a dense .* nested one; torch.nested.to_padded_tensor",
    ),
    "v_init=float": (lambda: tgo.lif(torch.ones(2, 3), 0.0), TypeError, "v_init must be a torch.Tensor"),
    "decay=nan": (lambda: tgo.lif(torch.ones(2, 3), decay=float("nan")), ValueError, "decay must be finite"),
    "decay<0": (
        lambda: tgo.lif(torch.ones(2, 3), decay=-0.1),
        ValueError,
        "decay must be finite and >= 0 in fp32, got -0.1",
    ),
    "decay=fp64": (
        lambda: tgo.lif(torch.ones(2, 3), decay=torch.tensor(0.5, dtype=torch.float64)),
        TypeError,
        "decay must be float32 for x in float32, got torch.float64",
    ),
    "v_threshold=shape": (
        lambda: tgo.lif(torch.ones(2, 3, 4, 5), v_threshold=torch.ones(4)),
        ValueError,
        r"v_threshold must broadcast to \(3, 4, 5\) \(x without time\), got \(4,\); one value for each channel",
    ),
    "v_threshold=double": (
        lambda: tgo.lif(torch.ones(2, 3), v_threshold=torch.ones(3).double()),
        TypeError,
        "v_threshold must be float32 for x in float32, got torch.float64",
    ),
    "v_threshold=sparse": (
        lambda: tgo.lif(torch.ones(2, 3), v_threshold=torch.ones(3).to_sparse()),
        TypeError,
        "v_threshold must be a dense .*; its to_dense",
    ),
    "gain=device": (
        lambda: tgo.lif(torch.ones(2, 3), gain=torch.ones((), device="meta")),
        ValueError,
        "constants that are tensors must be on cpu as x is, got meta",
    ),
    "gain=list": (
        lambda: tgo.lif(torch.ones(2, 3), gain=[1.0]),
        TypeError,
        "gain must be a Python float or a tensor, got list",
    ),
    "gain=str": (
        lambda: tgo.lif(torch.ones(2, 3), gain="1"),
        TypeError,
        "gain must be a Python float or a tensor, got str",
    ),
    "gain=huge": (lambda: tgo.lif(torch.ones(2, 3), gain=1e39), ValueError, "gain must be finite"),
    "decay=10^400": (lambda: tgo.lif(torch.ones(2, 3), decay=10**400), ValueError, "decay must be finite"),
    "leak": (lambda: tgo.lif(torch.ones(2, 3), decay=1e38, v_reset=-1e30), ValueError, r"\(1 - decay\) \* v_reset"),
    "v_threshold=nan": (lambda: tgo.lif(torch.ones(2, 3), v_threshold=float("nan")), ValueError, "v_threshold"),
    "v_threshold=-inf": (lambda: tgo.lif(torch.ones(2, 3), v_threshold=-float("inf")), ValueError, "v_threshold"),
    "v_reset=nan": (lambda: tgo.lif(torch.ones(2, 3), v_reset=float("nan")), ValueError, "v_reset"),
    "noise_std<0": (lambda: tgo.lif(torch.ones(2, 3), noise_std=-1.0), ValueError, "noise_std"),
    "guard_margin<0": (lambda: tgo.lif(torch.ones(2, 3), guard_margin=-1.0), ValueError, "guard_margin"),
    "surrogate": (lambda: tgo.lif(torch.ones(2, 3), surrogate="atan"), TypeError, "surrogate must be"),
    "surrogate=abstract": (lambda: tgo.lif(torch.ones(2, 3), surrogate=tgo.Surrogate()), TypeError, "surrogate"),
    "surrogate alpha": (lambda: tgo.lif(torch.ones(2, 3), surrogate=tgo.ATan(0.0)), ValueError, "alpha"),
    "NoisePDF": (lambda: tgo.lif(torch.ones(2, 3), surrogate=tgo.NoisePDF()), ValueError, "noise_std > 0"),
    "noise_mode": (lambda: tgo.lif(torch.ones(2, 3), noise_mode="both"), ValueError, "noise_mode must be"),
    "detach_reset": (lambda: tgo.lif(torch.ones(2, 3), detach_reset=1), TypeError, "detach_reset must be a bool"),
    "seed=float": (lambda: tgo.lif(torch.ones(2, 3), noise_std=1.0, noise_seed=1.5), TypeError, "noise_seed"),
    "seed unused": (lambda: tgo.lif(torch.ones(2, 3), noise_seed="abc"), TypeError, "noise_seed"),
    "seed=big": (lambda: tgo.lif(torch.ones(2, 3), noise_std=1.0, noise_seed=2**64), ValueError, "64 bits"),
    "seed=int32": (
        lambda: tgo.lif(torch.ones(2, 3), noise_std=1.0, noise_seed=torch.ones((), dtype=torch.int32)),
        TypeError,
        "noise_seed must be one int64",
    ),
    "noise_step<0": (lambda: tgo.lif(torch.ones(2, 3), noise_step=-1), ValueError, "noise_step"),
    "noise_step=float": (lambda: tgo.lif(torch.ones(2, 3), noise_step=1.0), TypeError, "noise_step"),
    "noise_step=big": (lambda: tgo.lif(torch.ones(2, 3), noise_step=2**34 - 1), ValueError, "2\\^34"),
    "impl": (lambda: tgo.lif(torch.ones(2, 3), impl="cuda"), ValueError, "impl must be"),
    "impl=triton": (lambda: tgo.lif(torch.ones(2, 3), impl="triton"), RuntimeError, "TRITON_INTERPRET"),
}


@pytest.mark.parametrize(("call", "error", "message"), BAD.values(), ids=BAD.keys())
def test_bad_input_is_named(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_gradcheck_in_fp64():
    """A membrane that never fires is smooth: state and penalty against finite differences, through a network."""
    torch.manual_seed(0)
    linear = nn.Linear(5, 4).double()
    x, v_init = torch.randn(6, 2, 5).double().requires_grad_(), torch.randn(2, 4).double().requires_grad_()
    decay = torch.rand(4).double().requires_grad_()
    threshold = torch.tensor(9.0).double().requires_grad_()

    def smooth(x, v_init, decay, threshold, *_):
        constants = {"decay": decay, "v_threshold": threshold, "v_reset": -0.5, "surrogate": tgo.Triangle()}
        out = tgo.lif(linear(x), v_init, **constants, guard_margin=15.0, impl="reference")
        assert out.v_final.dtype == out.penalty.dtype == out.spikes.dtype == torch.float64
        return out.v_final, out.penalty

    assert torch.autograd.gradcheck(smooth, (x, v_init, decay, threshold, *linear.parameters()))
    assert torch.autograd.gradgradcheck(smooth, (x, v_init, decay, threshold, *linear.parameters()))


def test_a_layer_in_fp64():
    torch.manual_seed(0)
    x = 2 * torch.randn(6, 3, 5)
    learns = {"learn_decay": True, "learn_threshold": True, "noise_std": 0.1, "guard_margin": 0.5, "stateful": True}
    net = nn.Sequential(nn.Linear(5, 8), tgo.LIF(3.0, **learns, impl="reference"))
    twin = nn.Sequential(nn.Linear(5, 8), tgo.LIF(3.0, **learns, impl="reference")).double()
    twin.load_state_dict(net.state_dict())
    for chunk in (x, 2 * x):  # the second goes on from a state in fp64
        found = []
        for model, given in ((net, chunk), (twin, chunk.double())):
            torch.manual_seed(1)
            model.zero_grad()
            spikes = model(given)
            (spikes.mean() + tgo.guard_penalty(model) + model[1].v.square().mean()).backward()
            found.append([spikes, *(p.grad for p in model.parameters())])
            model[1].detach()
        assert found[1][0].dtype == torch.float64 and found[1][0].any()
        assert twin[1].penalty.dtype == twin[1].v.dtype == torch.float64
        for a, b in zip(*found, strict=True):
            torch.testing.assert_close(a.double(), b.double(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("impl", ["native", "reference"])
def test_physiological_units(impl):
    """Millivolts are the same neuron, moved: powers of two apart, so that the spikes are the same to the bit."""
    x = torch.randint(-64, 128, (9, 500)) / 64
    plain = tgo.lif(x, decay=0.5, gain=0.5, v_threshold=1.0, v_reset=0.0, guard_margin=0.25, impl=impl)
    constants = {"v_threshold": -48.0, "v_reset": -64.0, "guard_margin": 4.0, "surrogate": tgo.ATan(2 / 16)}
    given = (16 * x).requires_grad_()
    out = tgo.lif(given, decay=0.5, gain=0.5, **constants, impl=impl)
    assert torch.equal(out.spikes, plain.spikes) and out.spikes.any() and not out.spikes.all()
    assert torch.equal(out.v_final, 16 * plain.v_final - 64) and torch.equal(out.penalty, 16 * plain.penalty)
    assert out.neighbors == plain.neighbors > 0
    out.spikes.sum().backward()
    leaf = x.clone().requires_grad_()
    tgo.lif(leaf, decay=0.5, gain=0.5, impl=impl).spikes.sum().backward()
    torch.testing.assert_close(16 * given.grad, leaf.grad)
    layer = tgo.LIF(2.0, v_threshold=-48.0, v_reset=-64.0, impl=impl)
    assert torch.equal(layer(16 * x), plain.spikes) and layer.v.min() >= -192
