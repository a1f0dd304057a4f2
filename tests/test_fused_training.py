"""Fused and packed models under what training puts around them: the outputs and gradients are those of the others."""

import copy
from datetime import timedelta

import pytest
import torch
from models import exact, gradients
from torch import nn
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

import tgo_kernels as tgo
from tgo_kernels import native, packing

pytestmark = pytest.mark.skipif(bool(native.serves(torch.device("cpu"))), reason="the compiled extension packs spikes")


UNIT_ROUNDOFF = 2**-9  # of bf16


class Unit(nn.Module):
    def __init__(self, a, b):
        super().__init__()
        self.conv = tgo.OverTime(nn.Conv2d(a, b, 3, padding=1, bias=False), nn.BatchNorm2d(b))
        self.fire = tgo.LIF(guard_margin=1e-5)

    def forward(self, x):
        return self.fire(self.conv(x))


def net():
    torch.manual_seed(0)
    return nn.Sequential(
        Unit(3, 8),
        tgo.OverTime(nn.MaxPool2d(2)),
        Unit(8, 8),
        nn.Sequential(Unit(8, 8), tgo.OverTime(nn.AvgPool2d(2))),
        tgo.OverTime(nn.Flatten(), nn.Linear(128, 5)),
    )


def fused(model):
    assert len(tgo.fuse(model).fused) == 3
    tgo.pack_spikes(model)
    return model


def outcome(model, x):
    """The output, the gradients, what was kept as bits, and how many membranes rounding may have moved."""
    model.zero_grad()
    y = model(x)
    bits = len(packing._packed)
    y.float().mul(torch.linspace(-1, 1, y.numel()).reshape(y.shape)).sum().backward()
    grads = [getattr(p.grad, "full_tensor", lambda p=p: p.grad)() for p in model.parameters()]
    return y.detach(), grads, bits, max(tgo.neighbor_rates(model).values())


def assert_same(found, expected):
    for rates in (found[3], expected[3]):
        assert rates == 0.0  # so that spikes are the same
    torch.testing.assert_close(found[:2], expected[:2])


@pytest.fixture
def x():
    return torch.randn(4, 4, 3, 16, 16)


def test_it_is_fused_and_packed(x):
    expected, found = outcome(net(), x), outcome(fused(net()), x)
    assert_same(found, expected)
    assert expected[2] == 0 and found[2] > 0


def test_copies(x):
    model = fused(net())
    found, expected = outcome(copy.deepcopy(model), x), outcome(model, x)
    for a, b in zip([found[0], *found[1]], [expected[0], *expected[1]], strict=True):
        assert torch.equal(a, b)
    assert found[2] == expected[2] > 0
    average = torch.optim.swa_utils.AveragedModel(model)
    average.update_parameters(model)
    assert_same(outcome(average, x), expected)


def test_compiled_it_is_as_without(x):
    plain, model = net(), torch.compile(fused(net()), backend="aot_eager", fullgraph=True)
    assert_same(outcome(model, x), outcome(plain, x))
    assert_same(outcome(model.eval(), x), outcome(plain.eval(), x))


def test_exported_it_is_as_without(x):
    program = torch.export.export(fused(net()).eval(), (x,))
    torch.testing.assert_close(program.module()(x), net().eval()(x))


def on_a_coarse_grid(model):
    """So that convolutions and norms are exact in bf16."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            module.weight.data.copy_(torch.randint(-1, 2, module.weight.shape))
        if isinstance(module, nn.BatchNorm2d):
            module.eps = 0.0
            module.running_var.fill_(16.0)
            module.bias.data.copy_(torch.randint(-4, 5, module.bias.shape) / 8)
    return model.eval()


def test_autocast_errs_no_more_than_without():
    plain, x = on_a_coarse_grid(net()), torch.randint(-2, 3, (4, 4, 3, 16, 16)).float()
    model = fused(copy.deepcopy(plain))
    right = outcome(exact(copy.deepcopy(plain)), x.double())
    with torch.autocast("cpu", torch.bfloat16):
        expected, found = outcome(plain, x), outcome(model, x)
    assert torch.equal(found[0], expected[0])
    assert found[2] > 0
    for ours, theirs, exactly in zip(found[1], expected[1], right[1], strict=True):
        assert exactly.any()
        assert (ours - exactly).norm() <= (theirs - exactly).norm() + UNIT_ROUNDOFF * exactly.norm()


def test_autocast_in_training_errs_no_more_than_without(x):
    """With a neuron that does not spike, so that no rounding is more than that."""
    plain = nn.Sequential(tgo.OverTime(nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8)), tgo.LeakyIntegrator(2.0))
    model, right = copy.deepcopy(plain), gradients(exact(copy.deepcopy(plain)), x.double())
    assert tgo.fuse(model).fused
    with torch.autocast("cpu", torch.bfloat16):
        expected, found = gradients(plain, x), gradients(model, x)
    for ours, theirs, exactly in zip(found, expected, right, strict=True):
        assert (ours - exactly).norm() <= (theirs - exactly).norm() + UNIT_ROUNDOFF * exactly.norm()


def _sharded(kind, **options):
    def shard(model, prepare):
        mesh = torch.distributed.init_device_mesh("cpu", (2,))
        prepare(model)
        for module in [each for each in model.modules() if each is not model and isinstance(each, kind)]:
            fully_shard(module, mesh=mesh, **options)
        return fully_shard(model, mesh=mesh, **options)

    return shard


def _prepared_late(way):
    def late(model, prepare):
        model = way(model, lambda model: model)
        prepare(model)
        return model

    return late


def _ddp(**options):
    return lambda model, prepare: DistributedDataParallel(prepare(model), **options)


WAYS = {
    "DDP": _ddp(),
    "DDP, then fused": _prepared_late(_ddp()),
    "DDP, static": _ddp(static_graph=True),
    "DDP, unused parameters": _ddp(find_unused_parameters=True),
    "FSDP": _sharded(()),
    "FSDP, units": _sharded(Unit),
    "FSDP, units, then fused": _prepared_late(_sharded(Unit)),
    "FSDP, norms": _sharded(nn.BatchNorm2d),
    "FSDP, convolutions and norms apart": _sharded((nn.BatchNorm2d, nn.Conv2d)),
    "FSDP, containers that end in a norm": _sharded(tgo.OverTime),
}


def _one_of_two(rank, port, path):
    torch.set_num_threads(1)
    store = torch.distributed.TCPStore("127.0.0.1", port, 2, rank == 0, timedelta(seconds=60))
    torch.distributed.init_process_group("gloo", store=store, rank=rank, world_size=2)
    torch.manual_seed(1)
    x, results = torch.randn(4, 4, 3, 16, 16)[:, 2 * rank : 2 * rank + 2], {}
    for name, way in WAYS.items():
        for how, prepare in ((name, lambda model: model), (f"{name}, fused", fused)):
            try:
                results[how] = outcome(way(net(), prepare), x)
            except RuntimeError as error:
                results[how] = str(error)
    torch.save(results, f"{path}.{rank}")
    torch.distributed.destroy_process_group()


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    path, store = (
        str(tmp_path_factory.mktemp("two") / "results.pt"),
        torch.distributed.TCPStore("127.0.0.1", 0, 1, True),
    )
    port = store.port
    del store
    torch.multiprocessing.spawn(_one_of_two, (port, path), nprocs=2)
    return [torch.load(f"{path}.{rank}") for rank in range(2)]


@pytest.mark.parametrize("name", WAYS)
def test_two_processes(results, name):
    for rank in range(2):
        found, expected = results[rank][f"{name}, fused"], results[rank][name]
        assert_same(found, expected)
        assert expected[2] == 0 and found[2] > 0
