"""Models in other forms: ONNX, TorchScript, torch.fx; what counters of operations see."""

import io

import onnxruntime
import pytest
import snntorch
import torch
from spikingjelly.activation_based import functional, layer, neuron
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import tgo_kernels as tgo
from tgo_kernels.interop import snntorch as from_snntorch
from tgo_kernels.interop import spikingjelly


def network(**options) -> nn.Module:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 16), tgo.LIF(v_threshold=0.5, **options), nn.Linear(16, 4), tgo.LIF(**options))
    with torch.no_grad():
        net[2].weight *= 8
    return net.eval()


def from_spikingjelly() -> nn.Module:
    torch.manual_seed(0)
    net = nn.Sequential(layer.Linear(6, 16), neuron.LIFNode(v_threshold=0.2), layer.Linear(16, 4), neuron.IFNode())
    functional.set_step_mode(net, "m")
    spikingjelly.convert(net)
    return net.eval()


class FromSnnTorch(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.fc, self.lif = nn.Linear(6, 16), snntorch.Leaky(0.9, threshold=0.3, reset_delay=False)
        from_snntorch.convert(self, sequence=True)

    def forward(self, x):
        return self.lif(self.fc(x), self.lif.init_leaky())[0]


def through_onnx(net: nn.Module, x: torch.Tensor, tmp_path, **options):
    path = str(tmp_path / "net.onnx")
    torch.onnx.export(net, (x,), path, **options)
    session = onnxruntime.InferenceSession(path)
    return lambda x: torch.from_numpy(session.run(None, {session.get_inputs()[0].name: x.numpy()})[0])


@pytest.mark.parametrize(
    "make",
    [
        network,
        lambda: network(impl="reference", noise_std=0.2, guard_margin=0.5),  # the noise is off in evaluation
        lambda: network(learn_decay=True, learn_threshold=True),
        lambda: network(v_reset=None),
        from_spikingjelly,
        FromSnnTorch,
    ],
    ids=["plain", "guarded", "learned", "soft reset", "SpikingJelly", "snnTorch"],
)
def test_onnx(make, tmp_path):
    net, x = make(), 4 * torch.rand(5, 3, 6)
    run = through_onnx(net, x, tmp_path, dynamo=True, dynamic_shapes=({1: "batch"},))
    for other in (x, 4 * torch.rand(5, 7, 6)):
        functional.reset_net(net)
        assert torch.equal(run(other), net(other)) and net(other).any()


def test_onnx_by_torchscript(tmp_path):
    net, x = network(), 4 * torch.rand(5, 3, 6)
    assert torch.equal(through_onnx(net, x, tmp_path, dynamo=False, opset_version=17)(x), net(x))


@pytest.mark.parametrize("dynamo", [True, False])
def test_onnx_of_a_compiled_engine_names_the_way(dynamo, tmp_path):
    net, x = network(impl="native"), torch.rand(5, 3, 6)
    with pytest.raises(Exception, match=r"impl='native' cannot be written as ONNX: .* impl='reference'"):
        through_onnx(net, x, tmp_path, dynamo=dynamo)


@pytest.mark.parametrize("dynamo", [True, False])
def test_noise_is_not_written_as_onnx(dynamo, tmp_path):
    net, x = network(noise_std=0.2, noise_in_eval=True), torch.rand(5, 3, 6)
    with pytest.raises(Exception, match=r"noise cannot be written as ONNX: .* noise_in_eval=False"):
        through_onnx(net, x, tmp_path, dynamo=dynamo)


@pytest.mark.parametrize("learns", [False, True])
@pytest.mark.parametrize("impl", ["native", "reference"])
def test_a_torchscript_trace_is_saved(impl, learns):
    net, x = network(impl=impl, learn_decay=learns), 4 * torch.rand(5, 3, 6)
    file = io.BytesIO()
    torch.jit.save(torch.jit.trace(net, x), file)
    file.seek(0)
    loaded = torch.jit.load(file)
    assert torch.equal(loaded(x), net(x)) and net(x).any()
    gradients = []
    for model in (loaded, net):
        leaf = x.clone().requires_grad_()
        gradients += torch.autograd.grad(model(leaf).sum(), leaf)
    assert torch.equal(*gradients) and gradients[0].any()


def test_torchscript_names_the_way():
    with pytest.raises(RuntimeError, match=r"torch\.jit\.script .* torch\.jit\.trace"):
        torch.jit.script(network())


@pytest.mark.parametrize("options", [{}, {"learn_decay": True, "channels": 16}], ids=["plain", "learned"])
def test_fx_names_the_way_and_the_way_works(options):
    net, x = nn.Sequential(nn.Linear(6, 16), tgo.LIF(**options)), 4 * torch.rand(5, 3, 6)
    with pytest.raises(TypeError, match=r"torch\.fx.*is_leaf_module"):
        torch.fx.symbolic_trace(net)

    class Tracer(torch.fx.Tracer):
        def is_leaf_module(self, module, name):
            return isinstance(module, tgo.LIF) or super().is_leaf_module(module, name)

    traced = torch.fx.GraphModule(net, Tracer().trace(net))
    assert torch.equal(traced(x), net(x)) and net(x).any()


def test_flop_counters_count_matrices_and_no_neurons():
    """As of every elementwise operation; docs/machinery.md says so."""
    counts = []
    for net in (network(), nn.Sequential(nn.Linear(6, 16), nn.Linear(16, 4))):
        with FlopCounterMode(display=False) as counter:
            net(torch.rand(5, 3, 6))
        counts.append(counter.get_total_flops())
    assert counts[0] == counts[1] == 2 * 5 * 3 * (6 * 16 + 16 * 4)
