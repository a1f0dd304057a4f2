"""What users put around a layer: torch.compile, export, AMP, checkpointing, DDP, FSDP2, DataLoader workers, threads."""

import copy
import faulthandler
import os
import threading

import pytest
import snntorch
import torch
import torch.distributed as dist
from spikingjelly.activation_based import functional, layer, neuron, surrogate
from torch import nn
from torch.utils.checkpoint import checkpoint
from torch.utils.data import DataLoader, Dataset

import tgo_kernels as tgo
from tgo_kernels.interop import snntorch as from_snntorch
from tgo_kernels.interop import spikingjelly

on_every_device = pytest.mark.parametrize("device", ["cpu", "cuda"][: 1 + torch.cuda.is_available()])


def network(**options) -> nn.Module:
    torch.manual_seed(0)
    learns = {"learn_decay": True, "learn_threshold": True, "channels": 16}
    model = nn.Sequential(nn.Linear(6, 32), tgo.LIF(**options), nn.Linear(32, 16), tgo.LIF(**options, **learns))
    with torch.no_grad():
        model[2].weight *= 8
    return model


def converted() -> nn.Module:
    torch.manual_seed(0)
    made = [layer.Conv2d(2, 4, 3, padding=1), layer.BatchNorm2d(4), neuron.LIFNode(surrogate_function=surrogate.ATan())]
    model = nn.Sequential(*made, layer.Flatten(), layer.Linear(256, 10), neuron.ParametricLIFNode())
    functional.set_step_mode(model, "m")
    spikingjelly.convert(model, guard_margin=0.5)
    return model


def loss_of(model: nn.Module, out: torch.Tensor) -> torch.Tensor:
    return (out.float().mean(0) - 0.5).square().mean() + tgo.guard_penalty(model)


def run(model: nn.Module, x: torch.Tensor, call=None) -> tuple[torch.Tensor, ...]:
    """Output, penalty and gradients; ``call`` runs the model, for instance compiled."""
    model.zero_grad()
    out = (call or model)(x)
    loss_of(model, out).backward()
    return out.detach(), tgo.guard_penalty(model).detach(), *(p.grad.clone() for p in model.parameters())


@on_every_device
def test_a_converted_model_compiles_to_one_graph_for_all_sizes(device):
    torch.compiler.reset()
    eager, model = (converted().to(device) for _ in range(2))
    compiled = torch.compile(model, fullgraph=True)
    graphs = []
    sizes = ((5, 16), (6, 20), (7, 17), (4, 24))  # inductor has another graph for less than 4096 elements
    for steps, batch in sizes:
        functional.reset_net(model)
        functional.reset_net(eager)
        x = torch.randint(-8, 16, (steps, batch, 2, 8, 8), device=device) / 8
        for axis in (0, 1):
            torch._dynamo.mark_dynamic(x, axis)
        torch.testing.assert_close(run(model, x, compiled), run(eager, x), rtol=1e-4, atol=1e-5)
        graphs.append(torch._dynamo.utils.counters["stats"]["unique_graphs"])
    assert len(set(graphs)) == 1
    torch.compiler.reset()


@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_inference_compiles_where_constants_learn(backend):
    torch.compiler.reset()
    x = torch.randn(4, 3, 16)
    for model in (tgo.LIF(learn_decay=True, channels=16), neuron.ParametricLIFNode(step_mode="m")):
        model = nn.Sequential(model).eval()
        spikingjelly.convert(model)
        with torch.no_grad():
            found = torch.compile(model, fullgraph=True, backend=backend)(x)
            functional.reset_net(model)
            assert torch.equal(found, model(x)) and found.any()
    torch.compiler.reset()


def test_step_by_step_compiles_to_one_graph():
    """One for the first step, and one for all that follow."""
    torch.compiler.reset()
    torch.manual_seed(0)
    model = nn.Sequential(layer.Linear(6, 8), neuron.LIFNode())
    spikingjelly.convert(model, guard_margin=0.5)
    compiled, found = torch.compile(model, fullgraph=True, backend="aot_eager"), []
    x = 4 * torch.randn(12, 16, 6)
    for call in (model, compiled):
        functional.reset_net(model)
        spikes = torch.stack([call(step) for step in x])
        found.append((spikes, tgo.guard_penalty(model), model[1].firing_rate))
    torch.testing.assert_close(*found)
    with torch._dynamo.config.patch(error_on_recompile=True):
        functional.reset_net(model)
        for step in x:
            compiled(step)
    torch.compiler.reset()


@pytest.mark.parametrize("sequence", [True, False])
def test_a_converted_snntorch_model_compiles_for_all_batches(sequence):
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc, self.lif = nn.Linear(6, 8), snntorch.Leaky(0.9, learn_beta=True, reset_delay=False)

        def forward(self, x):
            if sequence:
                return self.lif(self.fc(x), self.lif.init_leaky())[0]
            mem, spikes = self.lif.init_leaky(), []
            for step in x:
                spike, mem = self.lif(self.fc(step), mem)
                spikes.append(spike)
            return torch.stack(spikes)

    torch.compiler.reset()
    model = Net()
    from_snntorch.convert(model, sequence=sequence)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    for i, batch in enumerate((16, 20, 17, 24)):
        x = 4 * torch.randn(4, batch, 6)
        torch._dynamo.mark_dynamic(x, 1)
        with torch._dynamo.config.patch(error_on_recompile=i > 1):
            found = compiled(x)
        found.sum().backward()
        assert torch.equal(found, model(x)) and found.any()
    torch.compiler.reset()


@on_every_device
def test_channels_last_goes_through_without_a_copy(device):
    class Seen(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            names.append(str(func))
            return func(*args, **(kwargs or {}))

    names: list[str] = []
    images = torch.randn(8, 8, 5, 5, device=device).to(memory_format=torch.channels_last)
    x = images.unflatten(0, (4, 2))
    x.requires_grad_()
    with Seen():
        spikes = tgo.LIF()(x)
        again = spikes.flatten(0, 1)
        spikes.backward(spikes.detach())
    assert again.is_contiguous(memory_format=torch.channels_last) and x.grad.stride() == x.stride()
    copies = [name for name in names if "copy" in name or "clone" in name or "contiguous" in name]
    assert not copies and any("scan_bwd" in name for name in names), names


def test_export_and_aot_inductor(tmp_path):
    model = network().eval()
    x = 4 * torch.randn(4, 3, 6)
    dims = {0: torch.export.Dim("T", min=2), 1: torch.export.Dim("batch", min=2)}
    with torch.no_grad():
        exported = torch.export.export(model, (x,), dynamic_shapes=(dims,))
        package = torch._inductor.aoti_compile_and_package(exported, package_path=str(tmp_path / "model.pt2"))
        loaded = torch._inductor.aoti_load_package(package)
        for other in (x, 4 * torch.randn(7, 5, 6)):
            expected = model(other)
            assert torch.equal(exported.module()(other), expected) and torch.equal(loaded(other), expected)
    assert expected.any()


@on_every_device
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast(dtype, device):
    x = 4 * torch.randn(4, 256, 6, device=device)
    model = network(guard_margin=0.5).to(device)
    exact = run(model, x)
    assert exact[0].mean() > 0.05
    with torch.autocast(device, dtype):
        out = model(x)
        loss = loss_of(model, out)
    assert out.dtype == dtype and tgo.guard_penalty(model).dtype == torch.float32
    scaler = torch.amp.GradScaler(device, init_scale=2.0**10)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model.zero_grad()
    scaler.scale(loss).backward()
    scaler.unscale_(optimizer)
    found = [p.grad for p in model.parameters()]
    assert all(g.dtype == torch.float32 for g in found)
    for a, b in zip(found, exact[2:], strict=True):
        assert (a - b).norm() < 0.2 * b.norm()
    before = [p.detach().clone() for p in model.parameters()]
    scaler.step(optimizer)
    assert any(not torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))

    too_large = torch.amp.GradScaler(device, init_scale=2.0**120)  # overflows: the step is left out
    before = [p.detach().clone() for p in model.parameters()]
    model.zero_grad()
    with torch.autocast(device, dtype):
        loss = loss_of(model, model(x))
    too_large.scale(2.0**20 * loss).backward()
    too_large.step(optimizer)
    too_large.update()
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    assert too_large.get_scale() < 2.0**120


@on_every_device
def test_checkpointing_draws_the_same_noise_again(device):
    class Recomputed(nn.Sequential):
        def forward(self, x):
            for module in self:
                x = checkpoint(module, x, use_reentrant=False)
            return x

    plain = network(noise_std=0.5, guard_margin=0.5).to(device)
    recomputed = Recomputed(*copy.deepcopy(plain))
    x = 4 * torch.randn(12, 8, 6, device=device)
    found = []
    for model in (plain, recomputed):
        torch.manual_seed(1)
        found.append(run(model, x))
    for a, b in zip(*found, strict=True):
        assert torch.equal(a, b)


def test_deterministic_algorithms():
    torch.use_deterministic_algorithms(True)
    try:
        a, b = (run(network(noise_std=0.0, guard_margin=0.5), torch.ones(10, 4, 6)) for _ in range(2))
    finally:
        torch.use_deterministic_algorithms(False)
    assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def test_several_threads_at_once():
    x = [torch.randn(4, 500, generator=torch.Generator().manual_seed(i)) for i in range(4)]
    wrong, done = [], []

    def gradient(i: int) -> tuple[torch.Tensor, torch.Tensor]:
        given = x[i].clone().requires_grad_()
        spikes = tgo.lif(given, noise_std=0.3, noise_seed=i).spikes
        spikes.sum().backward()
        return spikes, given.grad

    def work(i: int) -> None:
        for _ in range(50):
            if any(not torch.equal(a, b) for a, b in zip(gradient(i), expected[i], strict=True)):
                wrong.append(i)
        done.append(i)

    expected = [gradient(i) for i in range(4)]
    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong and len(done) == 4


class Encoded(Dataset):
    """Spikes that a worker of a DataLoader computes."""

    def __len__(self) -> int:
        return 6

    def __getitem__(self, index: int) -> torch.Tensor:
        return tgo.lif(torch.full((4, 20_000), 0.3 * index)).spikes


@pytest.mark.parametrize("context", ["fork", "spawn"])
def test_workers_of_a_data_loader(context):
    tgo.lif(torch.ones(4, 100_000))  # the pool of threads is there before the fork
    loader = DataLoader(Encoded(), batch_size=3, num_workers=2, multiprocessing_context=context, timeout=60)
    found = torch.cat(list(loader))
    assert torch.equal(found, torch.stack([Encoded()[i] for i in range(6)])) and found.any()


def share(rank: int, folder: str, wrap: str) -> None:
    faulthandler.dump_traceback_later(120, exit=True)
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": os.environ["TGO_TEST_PORT"]}
    torch.set_num_threads(1)
    dist.init_process_group("gloo", rank=rank, world_size=2)
    model = network(guard_margin=0.5)
    x = 4 * torch.randn(4, 8, 6, generator=torch.Generator().manual_seed(3))[:, 4 * rank : 4 * rank + 4]
    if wrap == "ddp":
        wrapped = nn.parallel.DistributedDataParallel(model)
    else:
        mesh = dist.init_device_mesh("cpu", (2,))
        wrapped = dist.fsdp.fully_shard(model, mesh=mesh)
    loss_of(wrapped, wrapped(x)).backward()
    gradients = [p.grad.full_tensor() if wrap == "fsdp" else p.grad for p in wrapped.parameters()]
    if rank == 0:
        torch.save(gradients, folder)
    dist.barrier()
    os._exit(0)  # gloo's threads drop tensors late, and then abort, or wait for, an interpreter that ends


@pytest.mark.parametrize("wrap", ["ddp", "fsdp"])
def test_two_processes_have_the_gradients_of_one(wrap, tmp_path, monkeypatch):
    monkeypatch.setenv("TGO_TEST_PORT", str(29_500 + os.getpid() % 2_000))
    torch.multiprocessing.spawn(share, (str(tmp_path / "found.pt"), wrap), nprocs=2)
    model = network(guard_margin=0.5)
    x = 4 * torch.randn(4, 8, 6, generator=torch.Generator().manual_seed(3))
    loss_of(model, model(x)).backward()
    for found, p in zip(torch.load(tmp_path / "found.pt"), model.parameters(), strict=True):
        torch.testing.assert_close(found, p.grad, rtol=1e-4, atol=1e-6)
