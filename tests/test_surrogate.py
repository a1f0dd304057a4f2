"""Surrogate derivatives: textbook formulas, unit area, and the compiled curves."""

import math

import pytest
import torch
from cases import SURROGATES

import tgo_kernels as tgo

D = torch.linspace(-6, 6, 24_001, dtype=torch.float64)
TEXTBOOK = {
    tgo.ATan: lambda d, alpha: alpha / 2 / (1 + (math.pi / 2 * alpha * d) ** 2),
    tgo.Sigmoid: lambda d, alpha: alpha * torch.sigmoid(alpha * d) * (1 - torch.sigmoid(alpha * d)),
    tgo.Triangle: lambda d, width: torch.clamp(1 - d.abs() / width, min=0) / width,
    tgo.Rectangle: lambda d, width: (d.abs() < width / 2).double() / width,
    tgo.PiecewiseQuadratic: lambda d, alpha: torch.where(d.abs() > 1 / alpha, 0, alpha - alpha**2 * d.abs()),
    tgo.PiecewiseExp: lambda d, alpha: alpha / 2 * torch.exp(-alpha * d.abs()),
    tgo.SoftSign: lambda d, alpha: 1 / (2 * alpha * (1 / alpha + d.abs()) ** 2),
    tgo.SuperSpike: lambda d, alpha: alpha / (1 + d.abs()) ** 2,
    tgo.FastSigmoid: lambda d, slope: 1 / (1 + slope * d.abs()) ** 2,
    tgo.Erf: lambda d, alpha: alpha / math.sqrt(math.pi) * torch.exp(-((alpha * d) ** 2)),
    tgo.NoisePDF: lambda d, std: torch.exp(-((d / std) ** 2) / 2) / (std * math.sqrt(2 * math.pi)),
}


@pytest.mark.parametrize("kind", TEXTBOOK, ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("parameter", [0.5, 1.0, 2.5])
def test_textbook(kind, parameter):
    torch.testing.assert_close(kind(parameter).derivative(D), TEXTBOOK[kind](D, parameter))


WIDE = (tgo.SuperSpike, tgo.FastSigmoid)  # their area is not one


@pytest.mark.parametrize("surrogate", SURROGATES, ids=lambda s: type(s).__name__)
def test_the_compiled_curve_is_the_derivative(surrogate):
    # One step with gain 1 and threshold 0: dL/dx = z(x), at x = h.
    x = torch.cat([torch.linspace(-6, 6, 10_007), torch.tensor([-100.0, 100.0, 1e30, -1e30, 3e-39])])[None]
    x.requires_grad_()
    noise_std = 0.4 if isinstance(surrogate, tgo.NoisePDF) else 0.0
    out = tgo.lif(x, v_threshold=0.0, surrogate=surrogate, noise_std=noise_std, noise_seed=0, impl="native")
    out.spikes.sum().backward()
    torch.testing.assert_close(x.grad, surrogate.derivative(x.detach()), rtol=5e-7, atol=1e-37)


@pytest.mark.parametrize(
    "surrogate", [s for s in SURROGATES if type(s) not in (tgo.SuperSpike, tgo.FastSigmoid)], ids=str
)
def test_area_is_one(surrogate):
    d = torch.linspace(-500, 500, 4_000_001, dtype=torch.float64)
    assert float(torch.trapezoid(surrogate.derivative(d), d)) == pytest.approx(1, abs=2e-3)


@pytest.mark.parametrize("parameter", [1e-200, 1e-39, 1e39, 1e200, 10**400])
@pytest.mark.parametrize("kind", [tgo.ATan, tgo.Triangle, tgo.Rectangle, tgo.PiecewiseQuadratic, tgo.NoisePDF])
def test_parameters_beyond_fp32_are_named(kind, parameter):
    with pytest.raises(ValueError, match=r"fit in fp32|must be finite"):
        kind(parameter)


def test_parameters_are_checked():
    for bad, error in ((0.0, ValueError), (-1.0, ValueError), (float("nan"), ValueError), ("2", TypeError)):
        with pytest.raises(error, match="alpha"):
            tgo.ATan(bad)
    assert tgo.ATan(2.0) == tgo.ATan() and hash(tgo.ATan(2.0)) == hash(tgo.ATan())
