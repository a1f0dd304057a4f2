"""Constants of their own: the table that the engines read, and the gradients that they learn by."""

import pytest
import torch
from cases import Case, assert_agrees, dyadic, lay
from spikingjelly.activation_based import neuron, surrogate
from torch import nn

import tgo_kernels as tgo
from tgo_kernels import native, table
from tgo_kernels.neurons import LIF, with_time
from tgo_kernels.norm import folded

EVERYTHING = {"noise_std": 0.3, "noise_seed": 7, "noise_step": 0, "guard_margin": 0.5}


@pytest.mark.parametrize("layout", ["contiguous", "channels_last", "batch_first", "reversed"])
@pytest.mark.parametrize("shape", [(), (6, 1, 1), (6, 4, 1), (64, 1, 4, 1), (64, 6, 4, 5)])
def test_columns_repeat_in_the_order_of_memory(layout, shape):
    """A value can be found again: neuron m has column m % D."""
    x = lay(torch.zeros(2, 64, 6, 4, 5), layout)
    own = torch.arange(float(torch.Size(shape).numel())).reshape(shape)
    found, _, dense = table.table_of((own, own + 0.25, own + 0.5), x)
    assert dense is x
    columns = found.shape[1]
    expected = torch.empty_like(x[0]).copy_(own.expand(x.shape[1:]))
    in_memory = expected.as_strided((expected.numel(),), (1,)) if layout != "batch_first" else expected.flatten()
    repeated = found.repeat(1, -(-in_memory.numel() // columns))[:, : in_memory.numel()]
    for row, offset in zip(repeated, (0.0, 0.25, 0.5), strict=True):
        assert torch.equal(row, in_memory + offset)


@pytest.mark.skipif(native.ERROR is not None, reason="the compiled extension's")
def test_gradients_of_constants_that_do_not_learn_take_no_memory():
    x, own = torch.randn(5, 4, 64, requires_grad=True), torch.full((5, 1, 64), 0.7)
    tgo.lif(x, v_threshold=own, impl="native").spikes.backward(torch.ones(5, 4, 64))
    scan = tgo.ops.OPERATORS["native"]
    arguments = x.detach(), None, None, own.reshape(5, 64).contiguous(), None, 0, 8
    settings = with_time(LIF(v_threshold=own).settings, [True])
    checkpoints = scan[0](*arguments, settings)[5]
    grads = torch.ones_like(x), None, None, None, False
    for needed, size in ((True, own.numel()), (False, 0)):
        g_x, _, g_own, _ = scan[1](*arguments, checkpoints, *grads, needed, settings)
        assert g_own.numel() == size and torch.equal(g_x, x.grad)


def test_a_table_is_small_beside_its_neurons():
    x = torch.zeros(1, 128, 64, 32, 32)
    for shape in ((), (64, 1, 1), (32,)):
        assert table.table_of((torch.ones(shape),) * 3, x)[0].shape == (3, table.COLUMNS["cpu"])
    assert table.table_of((torch.ones(64, 1, 1),) * 3, x[:, :, :, :31, :31].contiguous())[0].shape[1] % 16 == 0
    assert table.table_of((torch.ones(()),) * 3, x[:, 0, 0])[0].shape == (3, 32 * 32)


def test_a_sum_is_the_same_on_every_number_of_threads():
    x = torch.randn(3, 100_003) * torch.logspace(-20, 4, 100_003)
    found = []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        found.append(table.sum_to_size(x, (3, 1)))
    torch.set_num_threads(2)
    assert torch.equal(found[0], found[1]) and torch.equal(found[0], found[2])
    torch.testing.assert_close(found[0], x.double().sum(1, keepdim=True).float())
    rows = torch.randn(70, 3, 5)
    torch.testing.assert_close(table.sum_to_size(rows, (1, 3, 1)), rows.sum((0, 2), keepdim=True))
    assert torch.equal(table.sum_to_size(torch.zeros(2, 0), (2, 1)), torch.zeros(2, 1))


QUIET = {**EVERYTHING, "noise_std": 0.0, "guard_margin": 0.0}
MET = [("contiguous", 0.1, EVERYTHING), ("contiguous", None, QUIET)]
MET += [("channels_last", 0.1, QUIET), ("channels_last", None, EVERYTHING)]


@pytest.mark.parametrize(("layout", "v_reset", "extras"), MET)
def test_many_blocks(layout, v_reset, extras):
    """Hundreds of blocks of the CPU engine, which go over their columns several times; T past two checkpoints.

    Any two settings meet; all of them together would take minutes.
    """
    x, grad = (lay(torch.randn(17, 48, 16, 20, 16), layout) for _ in range(2))
    own = {"decay": torch.rand(16, 1, 1), "gain": torch.tensor(0.8), "v_threshold": 0.5 + torch.rand(16, 20, 16)}
    case = Case(x, None, {**own, **extras, "v_reset": v_reset}, grad, torch.randn(48, 16, 20, 16), 1e6)
    assert_agrees(case, "native")


def test_many_blocks_as_spikingjellys_parametric_node():
    x, grad = dyadic(4, 64, 16, 32, 32), torch.rand(4, 64, 16, 32, 32)
    theirs = neuron.ParametricLIFNode(2.0, surrogate_function=surrogate.ATan(), step_mode="m")
    ours = tgo.LIF(2.0, learn_decay=True)
    spikes = [node(x) for node in (theirs, ours)]
    assert torch.equal(*spikes) and 0 < spikes[0].mean() < 1
    for each in spikes:
        each.backward(grad)
    torch.testing.assert_close(ours.w.grad, theirs.w.grad, rtol=1e-5, atol=0)


@pytest.mark.parametrize("shape", [(), (24, 1, 1), (24, 11, 13)])
def test_the_same_bits_on_every_run_and_thread_count(shape):
    x, grad = torch.randn(2, 9, 64, 24, 11, 13)
    found = []
    for threads in (2, 1, 2):
        torch.set_num_threads(threads)
        own = [(0.5 + torch.zeros(shape)).requires_grad_() for _ in range(3)]
        out = tgo.lif(x, decay=own[0], gain=own[1], v_threshold=own[2], impl="native")
        found.append(torch.autograd.grad(out.spikes, own, grad))
    torch.set_num_threads(2)
    for other in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(found[0], other, strict=True))


def test_a_gradient_of_its_own_has_no_derivative():
    decay = torch.tensor(0.5, requires_grad=True)
    (g,) = torch.autograd.grad(tgo.lif(torch.randn(4, 30), decay=decay).spikes.sum(), decay, create_graph=True)
    with pytest.raises(RuntimeError, match="differentiable once"):
        g.backward()


def test_numbers_that_do_not_lie_side_by_side():
    """Parameters and statistics that are slices, and gradients that are one number for all channels."""
    x, found = torch.randn(2, 3, 4, 5, 5), []
    for sliced in (False, True):
        norm = nn.BatchNorm2d(4)
        w = torch.arange(1.0, 9.0)[::2]
        norm.weight = nn.Parameter(w if sliced else w.clone())
        if sliced:
            norm.running_mean = torch.zeros(8)[::2]
        tgo.Block(norm, tgo.LIF())(x).sum().backward()
        leaf = x.clone().requires_grad_()
        for of in ("scale", "shift"):
            getattr(folded(norm, leaf, 2), of).sum().backward()
        found.append([norm.weight.grad, norm.bias.grad, norm.running_mean, leaf.grad])
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b)
