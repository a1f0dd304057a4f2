"""The container: what it computes, keeps and refuses."""

import pytest
import snntorch
import torch
from spikingjelly.activation_based import layer, neuron
from torch import nn
from torch._dynamo.testing import CompileCounter

import tgo_kernels as tgo


def block() -> tgo.OverTime:
    torch.manual_seed(0)
    return tgo.OverTime(nn.Conv2d(2, 4, 3, padding=1), nn.BatchNorm2d(4), nn.MaxPool2d(2))


def images(t: int = 5, b: int = 3) -> torch.Tensor:
    return torch.randn(t, b, 2, 8, 8)


def test_each_step_is_computed_as_alone():
    eager = block().eval()
    x = images()
    steps = torch.stack([nn.Sequential(*eager)(step) for step in x])
    torch.testing.assert_close(eager(x), steps)
    assert eager(x).shape == (5, 3, 4, 4, 4)
    flat = x.transpose(0, 1).contiguous().transpose(0, 1)  # batch first in memory
    assert torch.equal(eager(flat), eager(x))


def test_statistics_are_those_of_all_steps():
    ours, x = block(), images()
    seen = nn.Sequential(*block())
    seen(x.flatten(0, 1))
    ours(x)
    assert torch.equal(ours[1].running_var, seen[1].running_var) and (ours[1].running_var != 1).all()


def test_spikingjelly_loads_what_it_saved():
    ours, theirs, x = block().eval(), layer.SeqToANNContainer(*block()).eval(), images()
    with torch.no_grad():
        ours[0].weight.mul_(2)
    theirs.load_state_dict(ours.state_dict())
    assert torch.equal(theirs(x), ours(x))
    ours.load_state_dict(theirs.state_dict())


def test_compiled_in_one_graph_for_all_lengths():
    counted = CompileCounter()
    torch.compiler.reset()
    model = nn.Sequential(block().eval(), tgo.OverTime(nn.Flatten()), tgo.LIF())
    compiled = torch.compile(model, backend=counted, fullgraph=True, dynamic=True)
    for t, b in ((5, 4), (7, 3), (9, 4)):  # torch has another convolution below 16 samples
        x = images(t, b)
        assert torch.equal(compiled(x), model(x))
    assert counted.frame_count == 1
    torch.compiler.reset()


def test_traced_by_fx():
    ours, x = block().eval(), images()
    assert torch.equal(torch.fx.symbolic_trace(ours)(x), ours(x))


@pytest.mark.parametrize(
    "module",
    [
        tgo.LIF(),
        neuron.IFNode(),
        snntorch.Leaky(0.9, init_hidden=True),
        nn.Sequential(nn.Linear(3, 3), tgo.LIF()),
        block(),
    ],
)
def test_what_keeps_a_state_is_refused(module):
    with pytest.raises(ValueError, match=r"OverTime takes modules without a time axis, but 0.* is "):
        tgo.OverTime(module)


def test_what_keeps_a_state_is_refused_where_it_is_added_later():
    changed = tgo.OverTime(nn.Sequential(nn.ReLU()))
    changed[0].append(tgo.LIF())
    with pytest.raises(ValueError, match=r"but 0\.1 is LIF"):
        changed(torch.rand(2, 3, 4))
    with pytest.raises(ValueError, match=r"but 0\.1 is LIF"):
        torch.export.export(changed, (torch.rand(2, 3, 4),))


def test_script_says_what_can():
    with pytest.raises(RuntimeError, match=r"torch.jit.script cannot compile OverTime; torch.jit.trace"):
        torch.jit.script(tgo.OverTime(nn.ReLU()))


def test_wrong_shapes_are_named():
    with pytest.raises(ValueError, match=r"OverTime takes x of shape \[T, B, \*\], got \(3,\)"):
        tgo.OverTime(nn.ReLU())(torch.rand(3))
    with pytest.raises(ValueError, match=r"OverTime needs one tensor of T\*B = 6 samples, got shape \(24,\)"):
        tgo.OverTime(nn.Flatten(0))(torch.rand(2, 3, 4))
    with pytest.raises(ValueError, match=r"of T\*B = 6 samples, got tuple"):
        tgo.OverTime(nn.LSTM(4, 4))(torch.rand(2, 3, 4))
    with pytest.raises(TypeError, match=r"x must be a dense .* nested one; torch.nested.to_padded_tensor"):
        tgo.OverTime(nn.Linear(3, 3))(torch.nested.as_nested_tensor([torch.rand(2, 3)]))
    assert tgo.OverTime(nn.ReLU())(torch.rand(2, 0, 4)).shape == (2, 0, 4)
