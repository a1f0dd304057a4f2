"""Norm, neuron and pool as one: what the modules compute one after the other."""

import copy
import pickle
from datetime import timedelta

import pytest
import torch
from cases import lay
from torch import nn

import tgo_kernels as tgo
from tgo_kernels import native

NORMS = {3: nn.BatchNorm1d, 4: nn.BatchNorm1d, 5: nn.BatchNorm2d, 6: nn.BatchNorm3d}
SHAPES = [(4, 3, 6), (4, 3, 6, 7), (4, 3, 6, 5, 7), (2, 3, 16, 8, 9), (3, 2, 4, 3, 4, 5), (4, 3, 1, 5, 7)]


class Apart(nn.Module):
    """The same modules, one after the other."""

    def __init__(self, block):
        super().__init__()
        self.norm, self.neuron, self.pool, self.add = map(
            copy.deepcopy, (block.norm, block.neuron, block.pool, block.add)
        )

    def forward(self, x, residual=None):
        over = lambda module, x: module(x.flatten(0, 1)).unflatten(0, x.shape[:2])  # noqa: E731
        y = over(self.norm, x)
        y = self.neuron(y + residual if self.add == "membrane" else y)
        y = over(self.pool, y) if self.pool else y
        return y + residual if self.add == "spikes" else y


def block_for(x, pool=None, add=None, **options):
    norm = NORMS[x.dim()](x.shape[2], **options)
    for each in norm.parameters():
        nn.init.uniform_(each, 0.5, 1.5)
    return tgo.Block(norm, tgo.LIF(detach_reset=True), pool, add=add)


def outcome(module, x, *others):
    leaves = [each.detach().clone(memory_format=torch.preserve_format).requires_grad_() for each in (x, *others)]
    module.zero_grad()
    y = module(*leaves)
    y.float().mul(torch.linspace(-1, 1, y.numel()).reshape(y.shape)).sum().backward()
    return y.detach(), [leaf.grad for leaf in leaves], {name: p.grad for name, p in module.named_parameters()}


def assert_alike(block, apart, x, *others, tolerance=2e-5):
    (y, grads, learned), (expected, g_expected, l_expected) = outcome(block, x, *others), outcome(apart, x, *others)
    differ = (y != expected).float().mean()
    if isinstance(block.neuron, tgo.LeakyIntegrator):
        torch.testing.assert_close(y, expected)
    elif differ:  # a membrane at the threshold, to rounding
        assert differ <= 1e-3
        return
    for found, wanted in zip([*grads, *learned.values()], [*g_expected, *l_expected.values()], strict=True):
        torch.testing.assert_close(found, wanted, rtol=tolerance, atol=tolerance * max(1, wanted.abs().max().item()))
    assert list(learned) == list(l_expected)
    for name, running in apart.norm.named_buffers():
        torch.testing.assert_close(dict(block.norm.named_buffers())[name], running)


@pytest.mark.parametrize("impl", ["native", "reference"])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_as_the_modules_apart(shape, training, impl):
    x = torch.randn(shape) * 2 + 0.5
    block = block_for(x)
    block.neuron.impl = impl
    apart = Apart(block)
    for _ in range(3):
        assert_alike(block.train(training), apart.train(training), x)
    assert_alike(block.eval(), apart.eval(), x)


@pytest.mark.parametrize(
    "options", [{"affine": False}, {"momentum": None}, {"momentum": 0.3, "eps": 1e-2}, {"track_running_stats": False}]
)
def test_options_of_the_norm(options):
    x = torch.randn(4, 3, 6, 5, 7) * 2 + 0.5
    block = block_for(x, **options)
    apart = Apart(block)
    for _ in range(3):
        assert_alike(block, apart, x)
    assert_alike(block.eval(), apart.eval(), x)


@pytest.mark.parametrize("layout", ["contiguous", "channels_last", "batch_first", "reversed", "strided"])
@pytest.mark.parametrize("size", [5, 9])
def test_layouts(layout, size):
    x = torch.randn(4, 3, 6, size, 8)
    x = torch.stack((x, x), -1)[..., 0] if layout == "strided" else lay(x, layout)
    block = block_for(x)
    y = block(x)
    assert layout == "strided" or y.stride() == x.stride()
    assert_alike(block, Apart(block), x)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("size", [5, 9])
def test_narrow_types_are_nearer_to_the_truth_than_the_modules_apart(dtype, layout, size):
    x = lay((torch.randn(4, 3, 6, size, 8) * 2 + 0.5), layout).to(dtype)
    block = block_for(x)
    block.neuron.set(surrogate=tgo.Sigmoid(4.0), v_threshold=100.0)  # no spikes that rounding moves
    exact = copy.deepcopy(block).double()
    exact.neuron.impl = "reference"
    truth, found, plain = outcome(exact, x.double()), outcome(block, x), outcome(Apart(block), x)
    for k in (0, 1):
        error = [(each[1][0].double() - truth[1][0]).norm() for each in (found, plain)]
        assert error[0] <= 1.1 * error[1], k


def test_gradients_are_as_exact_as_torchs():
    """Against fp64, for inputs whose mean is a few of their deviations; error at most twice that of plain torch."""
    x = torch.randn(4, 16, 8, 9, 9) + torch.linspace(-3, 3, 8).reshape(8, 1, 1)
    block = block_for(x)
    block.neuron.set(v_threshold=100.0)
    apart = Apart(block)
    exact = copy.deepcopy(apart).double()
    exact.neuron.impl = "reference"
    truth, found, plain = outcome(exact, x.double()), outcome(block, x), outcome(apart, x)
    flat = lambda each: [each[1][0], *each[2].values()]  # noqa: E731
    for wanted, a, b in zip(flat(truth), flat(found), flat(plain), strict=True):
        assert (a.double() - wanted).norm() <= 2 * (b.double() - wanted).norm() + 1e-7 * wanted.norm()


def test_gradients_in_double_precision():
    x = torch.randn(3, 2, 3, 2, 2, dtype=torch.float64, requires_grad=True)
    block = block_for(x).double()
    block.neuron = tgo.LIF(v_threshold=float("inf"), membrane="v", impl="reference")
    membrane = lambda x, *_: (block(x), block.neuron.membrane)[1]  # noqa: E731
    assert torch.autograd.gradcheck(membrane, (x, *block.norm.parameters()))


@pytest.mark.parametrize("pool", [None, nn.MaxPool2d(2), nn.AvgPool2d(2), tgo.MaxPool2d(3, 2, 1)])
@pytest.mark.parametrize("add", [None, "spikes", "membrane"])
def test_pools_and_residuals(pool, add):
    x = torch.randn(4, 3, 6, 8, 8) * 2
    block = block_for(x, pool, add)
    y = Apart(block)(x, *[torch.zeros(())] * (add is not None))
    others = [] if add is None else [torch.rand(y.shape if add == "spikes" else x.shape)]
    assert_alike(block, Apart(block), x, *others)


@pytest.mark.parametrize(
    "neuron",
    [
        lambda: tgo.LIF(v_reset=None, decay_input=False),
        lambda: tgo.LIF(tau=3.0, v_reset=-0.25, learn_decay=True, learn_threshold=True),
        lambda: tgo.LIF(learn_decay=True, channels=6, guard_margin=0.3),
        lambda: tgo.LIF(stateful=True),
        lambda: tgo.LeakyIntegrator(),
    ],
)
def test_neurons(neuron):
    x = torch.randn(4, 3, 6, 5, 5) * 2
    block = tgo.Block(nn.BatchNorm2d(6), neuron())
    apart = Apart(block)
    for _ in range(2):
        assert_alike(block, apart, x)
        block.neuron.detach()
        apart.neuron.detach()
    if block.neuron.penalty is not None:
        torch.testing.assert_close(block.neuron.penalty, apart.neuron.penalty)


def test_noise_is_the_neurons():
    x = torch.randn(4, 3, 6, 5, 5) * 2
    block = tgo.Block(nn.BatchNorm2d(6), tgo.LIF(noise_std=0.3))
    apart, found = Apart(block), []
    for module in (block, apart):
        torch.manual_seed(3)
        found.append(module(x))
    assert (found[0] != found[1]).float().mean() < 1e-3
    assert found[0].any()


@pytest.mark.skipif(native.ERROR is not None, reason="the compiled extension's")
def test_x_alone_is_kept():
    for dtype, each in ((torch.float32, 4), (torch.bfloat16, 2)):
        x, sizes = torch.randn(4, 16, 32, 16, 16, dtype=dtype, requires_grad=True), {}
        block, y = tgo.Block(nn.BatchNorm2d(32), tgo.LIF()), None

        def keep(tensor, sizes=sizes):
            sizes[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            y = block(x)
        assert y.numel() * each <= sum(sizes.values()) <= y.numel() * each + 32 * 64


def test_the_same_bits_on_every_number_of_threads():
    for shape in ((4, 8, 16, 16, 16), (4, 8, 48, 3, 3), (2, 3, 1, 65, 65)):
        x, found = torch.randn(shape), []
        block = block_for(x)
        try:
            for threads in (1, 2, 3):
                torch.set_num_threads(threads)
                found.append(outcome(copy.deepcopy(block), x))
        finally:
            torch.set_num_threads(2)
        for other in found[1:]:
            assert torch.equal(other[0], found[0][0])
            assert torch.equal(other[1][0], found[0][1][0])
            assert all(torch.equal(other[2][name], grad) for name, grad in found[0][2].items())


def test_on_every_road():
    x = torch.randn(4, 3, 6, 5, 5) * 2
    block = block_for(x)
    block.neuron.set(v_threshold=100.0)  # spikes that rounding cannot move, and gradients of the surrogate
    block.neuron.set(surrogate=tgo.Sigmoid(1.0))
    expected = copy.deepcopy(block)
    leaf = x.clone().requires_grad_()
    (g_x,) = torch.autograd.grad(expected(leaf).sum(), leaf)
    compiled = copy.deepcopy(block)
    (found,) = torch.autograd.grad(torch.compile(compiled, fullgraph=True, backend="aot_eager")(leaf).sum(), leaf)
    torch.testing.assert_close(found, g_x, atol=1e-7, rtol=1e-4)
    torch.testing.assert_close(compiled.norm.running_var, expected.norm.running_var)
    assert compiled.norm.num_batches_tracked == 1
    functional = copy.deepcopy(block).eval()
    values = dict(functional.named_parameters())
    grads = torch.func.grad(lambda values: torch.func.functional_call(functional, values, (x,)).sum())(values)
    functional(x).sum().backward()
    for name, value in functional.named_parameters():
        torch.testing.assert_close(grads[name], value.grad, atol=1e-6, rtol=1e-4)
    y = copy.deepcopy(block)(leaf)
    with pytest.raises(RuntimeError, match="once"):
        (first,) = torch.autograd.grad(y.sum(), leaf, create_graph=True)
        first.sum().backward()
    block.eval()
    exported = torch.export.export(block, (x,)).module()
    assert torch.equal(exported(x), block(x))
    assert torch.equal(pickle.loads(pickle.dumps(block))(x), block(x))


def test_gradients_in_batches():
    x = torch.randn(4, 3, 6, 5, 5, requires_grad=True)
    y = block_for(x)(x)
    grads = torch.randn(3, *y.shape)
    (many,) = torch.autograd.grad(y, x, grads, is_grads_batched=True, retain_graph=True)
    for found, grad in zip(many, grads, strict=True):
        torch.testing.assert_close(found, torch.autograd.grad(y, x, grad, retain_graph=True)[0], atol=1e-6, rtol=1e-4)


def test_keys_and_hooks_stay():
    x = torch.randn(4, 3, 6, 5, 5)
    block = block_for(x, nn.MaxPool2d(2))
    assert list(block.state_dict()) == [f"norm.{name}" for name in nn.BatchNorm2d(6).state_dict()]
    assert isinstance(nn.SyncBatchNorm.convert_sync_batchnorm(block).norm, nn.SyncBatchNorm)
    y = block(x)
    frozen = copy.deepcopy(block)
    frozen.norm.requires_grad_(False)
    assert torch.equal(frozen.eval()(x), block.eval()(x))
    assert y.shape == (4, 3, 6, 2, 2)


def _one_of_two(rank, port, path):
    torch.set_num_threads(1)
    store = torch.distributed.TCPStore("127.0.0.1", port, 2, rank == 0, timedelta(seconds=60))
    torch.distributed.init_process_group("gloo", store=store, rank=rank, world_size=2)
    given = torch.load(path, weights_only=False)
    block, x = given["block"], given["x"][:, rank * 3 : rank * 3 + 3]
    block.norm = nn.SyncBatchNorm.convert_sync_batchnorm(block.norm)
    y, (g_x,), learned = outcome_of_half(block, x, given["grad"][:, rank * 3 : rank * 3 + 3])
    for grad in learned.values():
        torch.distributed.all_reduce(grad)
    torch.save({"y": y, "g_x": g_x, "learned": learned, "running": block.norm.running_var}, f"{path}.{rank}")
    torch.distributed.destroy_process_group()


def outcome_of_half(block, x, grad):
    leaf = x.detach().clone().requires_grad_()
    y = block(leaf)
    y.backward(grad)
    return y.detach(), [leaf.grad], {name: p.grad for name, p in block.named_parameters()}


def test_two_processes_are_one(tmp_path):
    x = torch.randn(4, 6, 6, 5, 5) * 2 + 0.5
    block = block_for(x)
    block.neuron.set(v_threshold=100.0, surrogate=tgo.Sigmoid(1.0))
    grad = torch.randn(x.shape)
    path = str(tmp_path / "given.pt")
    torch.save({"block": block, "x": x, "grad": grad}, path)
    store = torch.distributed.TCPStore("127.0.0.1", 0, 1, True)
    port = store.port
    del store
    torch.multiprocessing.spawn(_one_of_two, (port, path), nprocs=2)
    halves = [torch.load(f"{path}.{rank}") for rank in range(2)]
    y, (g_x,), learned = outcome_of_half(block, x, grad)
    assert torch.equal(torch.cat([half["y"] for half in halves], 1), y)
    torch.testing.assert_close(torch.cat([half["g_x"] for half in halves], 1), g_x, atol=1e-6, rtol=1e-4)
    for half in halves:
        torch.testing.assert_close(half["running"], block.norm.running_var)
        for name, value in learned.items():
            torch.testing.assert_close(half["learned"][name], value, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: tgo.Block(nn.GroupNorm(2, 4), tgo.LIF()), TypeError, "norm must be a torch.nn.BatchNorm1d"),
        (lambda: tgo.Block(nn.LazyBatchNorm2d(), tgo.LIF()), TypeError, "that is initialised"),
        (lambda: tgo.Block(nn.BatchNorm2d(4), nn.ReLU()), TypeError, "neuron must be a layer of tgo_kernels"),
        (lambda: tgo.Block(nn.BatchNorm2d(4), tgo.LIF(), 2), TypeError, "pool must be a torch.nn.Module"),
        (
            lambda: tgo.Block(nn.BatchNorm2d(4), tgo.LIF(), nn.MaxPool2d(2, return_indices=True)),
            ValueError,
            "pool must give its output alone",
        ),
        (
            lambda: tgo.Block(nn.BatchNorm2d(4), tgo.LIF(), add="x"),
            ValueError,
            "add must be None, 'membrane' or 'spikes'",
        ),
    ],
)
def test_bad_modules(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_bad_inputs():
    block, x = tgo.Block(nn.BatchNorm2d(4), tgo.LIF()), torch.zeros(2, 3, 4, 5, 5)
    running = block.norm.running_mean.clone()
    for bad, message in (
        (x[0, 0], "takes other x"),
        (x[0], "takes other x"),
        (x[:, :, :3], "norm has 4 channels, but x"),
        (x[:0], "x must have at least one time step"),
        (x[:, :0], "time steps and samples for a norm"),
        (None, "x must be"),
    ):
        with pytest.raises(ValueError, match=message):
            block(bad)
    with pytest.raises(TypeError, match="x must be float32"):
        block(x.long())
    with pytest.raises(ValueError, match="a residual is joined nowhere"):
        block(x, x)
    with pytest.raises(ValueError, match="Expected more than 1 value per channel"):
        block(x[:1, :1, :, :1, :1])
    for add in ("spikes", "membrane"):
        with pytest.raises(ValueError, match="a residual is missing"):
            tgo.Block(nn.BatchNorm2d(4), tgo.LIF(), add=add)(x)
        with pytest.raises(ValueError, match="residual must be float32"):
            tgo.Block(nn.BatchNorm2d(4), tgo.LIF(), add=add)(x, x[:, :, :, :2])
    assert torch.equal(block.norm.running_mean, running)
