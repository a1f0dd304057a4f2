"""Networks with norms become networks with lateral inhibition; what does not is named."""

import pytest
import torch
from models import descent
from torch import nn

import tgo_kernels as tgo


def conv(a, b, **options):
    return nn.Conv2d(a, b, 3, padding=1, bias=False, **options)


def net():
    lif = {"v_reset": None, "surrogate": tgo.Sigmoid(4.0), "detach_reset": True}
    return nn.Sequential(
        tgo.OverTime(conv(1, 8), nn.BatchNorm2d(8)),
        tgo.LIF(tau=4.0, noise_std=0.1, impl="reference", **lif),
        nn.Sequential(tgo.OverTime(nn.AvgPool2d(2), conv(8, 16, stride=2)), nn.Identity()),
        tgo.OverTime(nn.BatchNorm2d(16)),
        tgo.LIF(**lif),
        tgo.OverTime(nn.Flatten()),
        nn.Linear(64, 12),
        tgo.LIF(**lif),
        nn.Linear(12, 2),
    )


def test_chains_are_found_and_the_rest_is_the_same():
    model = net()
    made, report = tgo.inhibited(model)
    assert report.converted == {"0": "0.0, 0.1, 1", "2": "2.0.1, 2.1, 3.0, 4", "4": "6, 7", "5": "8"}
    assert not report.left
    assert str(report).splitlines()[0] == "converted  0.0, 0.1, 1 -> 0"
    kinds = [tgo.EIConv2d, tgo.OverTime, tgo.EIConv2d, tgo.OverTime, tgo.EILinear, tgo.EILinear]
    assert [type(each) for each in made] == kinds
    assert made[1][0] is model[2][0][0]
    assert made[5].readout and not made[4].readout
    first = made[0].neuron
    assert (first.neuron.decay, first.neuron.v_reset, first.neuron.noise_std, first.impl) == (
        0.75,
        None,
        0.1,
        "reference",
    )
    assert made[2].stride == (2, 2)
    assert type(model[0][1]) is nn.BatchNorm2d
    assert made(torch.rand(4, 3, 1, 8, 8)).shape == (4, 3, 2)
    assert (made[0].g_E == 1).all()


def test_it_trains():
    torch.manual_seed(1)
    x, y = torch.rand(32, 1, 8, 8), torch.arange(32) % 2
    x[torch.arange(32), 0, 4 * y] = 0
    x = x.expand(4, -1, -1, -1, -1)
    model, _ = tgo.inhibited(net())
    model(x)
    losses = descent(model, x, y, 15)
    assert losses[-1] < 0.8 * losses[0], losses


def hooked(module):
    module.register_forward_hook(lambda *_: None)
    return module


def biased(layer):
    layer.neuron = layer.neuron.replaced(bias=0.5)
    return layer


TWICE = nn.Linear(4, 4)
LEFT = [
    (lambda: [tgo.OverTime(conv(4, 4, groups=2)), tgo.LIF()], {"0.0": "groups"}),
    (lambda: [tgo.OverTime(conv(4, 4, dilation=2)), tgo.LIF()], {"0.0": "dilation"}),
    (lambda: [tgo.OverTime(conv(4, 4, padding_mode="circular")), tgo.LIF()], {"0.0": "padding"}),
    (lambda: [conv(4, 4), tgo.LIF()], {"0": "not in an OverTime"}),
    (lambda: [tgo.OverTime(conv(4, 4))], {"0.0": "no neuron that fires"}),
    (
        lambda: [tgo.OverTime(conv(4, 4), nn.BatchNorm2d(4), nn.MaxPool2d(2)), tgo.LIF()],
        {"0.0": r"0\.2 \(MaxPool2d\), not to a LIF", "0.1": "goes straight into it"},
    ),
    (lambda: [tgo.OverTime(nn.Conv1d(4, 4, 1)), tgo.LIF()], {"0.0": "Conv1d is no nn.Conv2d"}),
    (lambda: [hooked(nn.Linear(4, 4)), tgo.LIF()], {"0": "hooks"}),
    (lambda: [hooked(nn.Sequential(nn.Linear(4, 4), tgo.LIF()))], {"0": "Sequential has hooks"}),
    (lambda: [nn.Linear(4, 4), hooked(tgo.LIF())], {"0": "hooks"}),
    (lambda: [nn.Linear(4, 4), biased(tgo.LIF())], {"0": "a bias"}),
    (
        lambda: [nn.Linear(4, 4), nn.LayerNorm(4), nn.LayerNorm(4), tgo.LIF()],
        {"0": r"2 \(LayerNorm\), not to a LIF", "1": "straight into it", "2": "straight into it"},
    ),
    (lambda: [nn.utils.parametrizations.weight_norm(nn.Linear(4, 4)), tgo.LIF()], {"0": "parametrizations"}),
    (lambda: [TWICE, tgo.LIF(), TWICE, tgo.LIF()], {"0": "called twice", "2": "called twice"}),
    (lambda: [nn.Linear(4, 4), tgo.LIF(learn_decay=True)], {"0": r"1 \(LIF\) learn"}),
    (lambda: [nn.Linear(4, 4), tgo.AdLIF()], {"0": r"1 \(AdLIF\), not to a LIF"}),
]


@pytest.mark.parametrize("make, left", LEFT)
def test_what_is_left_is_named_with_the_reason(make, left):
    model = nn.Sequential(*make())
    made, report = tgo.inhibited(model)
    assert report.left.keys() == left.keys()
    for name, why in left.items():
        with pytest.raises(ValueError, match=why):
            raise ValueError(report.left[name])
    assert not report.converted
    leaves = [each for each in model.modules() if type(each) not in (nn.Sequential, tgo.OverTime)]
    assert [each for each in made.modules() if type(each) not in (nn.Sequential, tgo.OverTime)] == leaves
    assert "left       " in str(report)


def test_a_linear_layer_of_an_integrator_is_a_readout():
    model = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), tgo.LeakyIntegrator())
    made, report = tgo.inhibited(model)
    assert report.converted == {"0": "0, 1"}
    assert made[0].readout
    assert made[1] is model[2]


def test_what_is_converted_is_where_and_as_it_was():
    model = nn.Sequential(nn.Linear(4, 6), tgo.LIF(impl="reference")).double().eval()
    made, _ = tgo.inhibited(model)
    assert made[0].W_EE.dtype == torch.float64 and not made[0].training and not made[0].neuron.training
    assert made(torch.rand(4, 3, 4, dtype=torch.float64)).dtype == torch.float64


def test_a_model_that_is_no_sequential_is_refused():
    with pytest.raises(TypeError, match=r"must be an nn\.Sequential, got Linear"):
        tgo.inhibited(nn.Linear(3, 3))
