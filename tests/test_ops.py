"""The operators as torch sees them: opcheck, torch.compile, and which engine serves a call."""

import warnings
from dataclasses import replace

import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend
from torch._inductor.utils import fresh_cache

import tgo_kernels as tgo
from tgo_kernels import native, ops

NEURONS = (
    tgo.neurons.LIF(),
    tgo.neurons.LIF(noise_std=0.2, guard_margin=0.3, v_reset=None, surrogate=tgo.NoisePDF()),
    tgo.neurons.AdaptiveLIF(membrane="u"),
)


@pytest.fixture(autouse=True)
def fresh_compiler():
    """No graph of an earlier test or run: the compiler's cache on disk does not know when a fake changes its shapes."""
    torch._dynamo.reset()
    with fresh_cache():
        yield


@pytest.mark.parametrize("neuron", NEURONS)
@pytest.mark.parametrize("steps", [3, 20])
@pytest.mark.parametrize("layout", ["contiguous", "transposed", "sliced"])
@pytest.mark.parametrize("own", [(), ("decay", "v_threshold")], ids=["plain", "own"])
def test_opcheck(neuron, steps, layout, own):
    x = torch.randn(steps, 6, 5)
    x = {"contiguous": x, "transposed": x.transpose(1, 2), "sliced": x[:, ::2]}[layout]
    neuron = replace(neuron, **{name: torch.rand(5) for name in own})
    v_init, seed = torch.randn(x.shape[1:]), torch.tensor(3)
    more = [torch.randn(x.shape[1:]) for _ in neuron.STATES[1:]]
    lengths = torch.full(x.shape[1:], 2, dtype=torch.int32)
    table = torch.rand(len(neuron.own), 5) if neuron.own else None
    forward, backward = ops.OPERATORS["native"]
    for checkpoint_every, further in ((0, more), (8, [*more, lengths])):
        torch.library.opcheck(forward, (x, v_init, further, table, seed, 5, checkpoint_every, neuron.settings))
    *_, checkpoints, outputs = forward(x, v_init, more, table, seed, 5, 8, neuron.settings)
    none = [x.new_empty(0) for _ in outputs]
    for grads in ((x, None, none, None, False, False), (None, v_init, outputs, torch.tensor(1.0), True, True)):
        torch.library.opcheck(backward, (x, v_init, more, table, seed, 5, 8, checkpoints, *grads, neuron.settings))


def model(**extras):
    torch.manual_seed(0)
    return torch.nn.Sequential(
        torch.nn.Linear(6, 32), tgo.LIF(**extras), torch.nn.Linear(32, 32), tgo.LIF(v_reset=None, **extras)
    )


@pytest.mark.parametrize("extras", [{}, {"noise_std": 0.3, "guard_margin": 0.4}], ids=["plain", "noise and guard"])
@pytest.mark.parametrize("steps", [4, 12])
def test_compiled_model_equals_eager(extras, steps):
    net = model(**extras)
    compiled = torch.compile(net, fullgraph=True)
    x = torch.randn(steps, 9, 6)
    results = []
    with torch._inductor.config.patch(fallback_random=True):  # the same draws of the seeds as eager
        for run in (net, compiled):
            net.zero_grad()
            torch.manual_seed(5)
            spikes = run(x)
            loss = (spikes * torch.linspace(-1, 1, 32)).sum()
            if extras:
                loss = loss + tgo.guard_penalty(net)
            loss.backward()
            results.append([spikes.detach(), *(p.grad.clone() for p in net.parameters())])
    assert torch.equal(results[0][0], results[1][0])
    for eager, found in zip(*results, strict=True):
        torch.testing.assert_close(found, eager)


def test_compiled_lif_is_one_graph():
    counter = CompileCounterWithBackend("aot_eager")
    call = torch.compile(
        lambda x, v: tgo.lif(x, v, noise_std=0.2, noise_seed=5, guard_margin=0.1), backend=counter, fullgraph=True
    )
    x, v = torch.randn(4, 7), torch.zeros(7)
    found, expected = call(x, v), tgo.lif(x, v, noise_std=0.2, noise_seed=5, guard_margin=0.1)
    for a, b in zip(found[:5], expected[:5], strict=True):
        assert torch.equal(a, b)
    assert counter.frame_count == 1


def test_dynamic_shapes_do_not_recompile():
    """One graph for T <= 8, which saves no states, and one for all longer: none for another T or batch size."""
    net = model(guard_margin=0.4)
    compiled = torch.compile(net, backend="aot_eager", fullgraph=True, dynamic=True)
    for first, *others in (((4, 3), (6, 7), (8, 5)), ((17, 9), (40, 2), (33, 4), (100, 6), (5, 3))):
        for shape, recompiling_raises in ((first, False), *((other, True) for other in others)):
            with torch._dynamo.config.patch(error_on_recompile=recompiling_raises):
                x = torch.randn(*shape, 6)
                spikes = compiled(x)
                (spikes.sum() + tgo.guard_penalty(net)).backward()
            with torch.no_grad():
                assert torch.equal(spikes, net(x))
            tgo.guard_penalty(net)


def test_chunks_do_not_recompile():
    """Another noise_step, nor a stateful layer that goes on."""
    call = torch.compile(
        lambda x, step: tgo.lif(x, noise_std=0.3, noise_seed=5, noise_step=step), backend="aot_eager", fullgraph=True
    )
    layers = [torch.compile(tgo.LIF(stateful=True, noise_std=s), backend="aot_eager", fullgraph=True) for s in (0, 0.2)]
    x = torch.randn(4, 7)
    for step in range(12):
        with torch._dynamo.config.patch(error_on_recompile=step > 2):
            found = call(x, 4 * step)
            for layer in layers:
                layer(x)
        assert torch.equal(found.spikes, tgo.lif(x, noise_std=0.3, noise_seed=5, noise_step=4 * step).spikes)


def test_dynamic_constants():
    call = torch.compile(
        lambda x, decay: tgo.lif(x, decay=decay).spikes, backend="aot_eager", fullgraph=True, dynamic=True
    )
    x = torch.randn(4, 7)
    for decay in (0.5, 0.25, 0.125):
        assert torch.equal(call(x, decay), tgo.lif(x, decay=decay).spikes)


def test_strides_of_the_state_of_what_is_not_dense():
    x = torch.randn(5, 3).t()[:, None, :].expand(3, 4, 5)
    found, expected = torch.compile(tgo.lif, backend="aot_eager", fullgraph=True)(x), tgo.lif(x)
    for a, b in zip(found[:5], expected[:5], strict=True):
        assert torch.equal(a, b) and a.stride() == b.stride()


def test_a_second_derivative_raises_under_compile():
    call = torch.compile(lambda x: tgo.lif(x).spikes, backend="aot_eager", fullgraph=True)
    x = torch.randn(4, 5, requires_grad=True)
    (g,) = torch.autograd.grad((call(x) * x).sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="double backward"):
        torch.autograd.grad(g.sum(), x)


def test_channels_last_keeps_its_strides_under_compile():
    conv = torch.nn.Conv2d(3, 8, 3, padding=1).to(memory_format=torch.channels_last)
    layer = tgo.LIF()

    def net(x):
        return layer(conv(x).unflatten(0, (4, 2)))

    x = torch.randn(8, 3, 10, 10).to(memory_format=torch.channels_last)
    compiled = torch.compile(net, fullgraph=True)(x)
    assert torch.equal(compiled, net(x)) and compiled[0].is_contiguous(memory_format=torch.channels_last)


def test_available_and_explained():
    assert tgo.available_impls("cpu")[0] == "native" and tgo.available_impls("cpu")[-1] == "reference"
    text = tgo.explain_impl(torch.ones(2))
    assert "'native'" in text and "reference: available" in text and "TRITON_INTERPRET" in text
    assert tgo.available_impls("cuda")[-1] == "reference"


def test_settling_for_less_warns_once(monkeypatch):
    monkeypatch.setattr(native, "ERROR", "the compiled extension was not built")
    ops._best.cache_clear()
    with pytest.warns(UserWarning, match=r"settles for impl='reference'.*not built.*pip install"):
        tgo.lif(torch.ones(2, 3))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tgo.lif(torch.ones(2, 3))
    with pytest.raises(RuntimeError, match="impl='native' cannot serve"):
        tgo.lif(torch.ones(2, 3), impl="native")
    ops._best.cache_clear()


def test_operators_refuse_what_the_door_would_not_pass():
    forward, backward = ops.OPERATORS["native"]
    with pytest.raises(RuntimeError, match="seed"):
        forward(torch.ones(2, 3), None, [], None, None, 0, 8, tgo.neurons.LIF(noise_std=0.1).settings)
    with pytest.raises(RuntimeError, match="checkpoint_every"):
        forward(torch.ones(2, 3), None, [], None, None, 0, 9, tgo.neurons.LIF().settings)
    with pytest.raises(RuntimeError, match="noise_step"):
        forward(torch.ones(2, 3), None, [], None, None, -1, 8, tgo.neurons.LIF().settings)
    of_each = tgo.neurons.LIF(decay=torch.ones(3), gain=torch.ones(3))
    for table in (
        torch.ones(3, 3),
        torch.ones(2),
        torch.ones(2, 0),
        torch.ones(2, 3).double(),
        torch.ones(2, 4)[:, ::2],
    ):
        with pytest.raises(RuntimeError, match="table must"):
            forward(torch.ones(2, 3), None, [], table, None, 0, 8, of_each.settings)
    with pytest.raises(RuntimeError, match="a table is of"):
        forward(torch.ones(2, 3), None, [], torch.ones(2, 3), None, 0, 8, tgo.neurons.LIF().settings)
    for more in ([torch.ones(3)], [torch.ones(2, dtype=torch.int32)], [torch.ones(3, dtype=torch.int32)] * 2):
        with pytest.raises(RuntimeError, match=r"lengths must be|further tensors"):
            forward(torch.ones(2, 3), None, more, None, None, 0, 8, tgo.neurons.LIF().settings)
    for settings in ((), (99.0, *tgo.neurons.LIF().settings[1:]), tgo.neurons.LIF().settings[:-1]):
        with pytest.raises(RuntimeError, match=r"settings|unknown neuron"):
            forward(torch.ones(2, 3), None, [], None, None, 0, 8, settings)
    x, nothing = torch.ones(20, 3), torch.ones(0)
    for every, checkpoints, g_spikes, message in (
        (0, nothing, x, "checkpoint_every"),
        (8, nothing, x, "checkpoints"),
        (8, torch.ones(6), x[:1], "g_spikes"),
    ):
        with pytest.raises(RuntimeError, match=message):
            backward(
                *(x, None, [], None, None, 0, every, checkpoints, g_spikes, None, [], None, False, False),
                tgo.neurons.LIF().settings,
            )
