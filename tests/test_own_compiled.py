"""Neurons of a user's own in the compiled engine: compiled once, on every road, by what the user alone could write."""

import os
import stat
import subprocess
import sys
import textwrap
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

import tgo_kernels as tgo
from tgo_kernels import compiler, native
from tgo_kernels.neurons import LIF

pytestmark = pytest.mark.skipif(native.ERROR is not None, reason="the compiled extension's")


class Compiled(LIF):
    @staticmethod
    def step(n, v, x):
        return LIF.step(n, v, 2 * x)


def grad(layer, x):
    torch.func.grad(lambda x: layer(x).sum())(x)
    return layer(x)


def jit_trace(layer, x):
    return torch.jit.trace(layer, (x,), check_trace=False)(x)


def export(layer, x):
    program = torch.export.export(layer, (x,), strict=False)
    assert [node.target for node in program.graph.nodes if "own_neuron" in str(node.target)] == []
    return program.module()(x)


def make_fx(layer, x):
    return torch.fx.experimental.proxy_tensor.make_fx(layer)(x)(x)


def packed(layer, x):
    with tgo.pack_spikes():
        return layer(x)


def inference(layer, x):
    with torch.inference_mode():
        return layer(x)


def threads(layer, x):
    with ThreadPoolExecutor(4) as pool:
        spikes = list(pool.map(layer, [x] * 8))
    assert all(torch.equal(each, spikes[0]) for each in spikes)
    return spikes[0]


ROADS = (grad, jit_trace, export, make_fx, packed, inference, threads)


def test_it_is_kept_for_the_user_alone(cache):
    x = torch.randn(5, 30)
    assert torch.equal(tgo.scan(Compiled(), x).spikes, tgo.lif(2 * x).spikes)
    assert torch.equal(tgo.scan(Compiled(), x, impl="native").spikes, tgo.lif(2 * x).spikes)
    assert stat.S_IMODE(cache.stat().st_mode) == 0o700 and list(cache.glob("*.so")) and not list(cache.glob("*.part"))
    assert all(not each.stat().st_mode & 0o077 for each in cache.iterdir())


@pytest.mark.parametrize("compiled", [False, True])
def test_another_process_compiles_it_no_more(cache, compiled, tmp_path):
    tgo.scan(Compiled(), torch.randn(5, 30))
    code = """
        import torch, tgo_kernels as tgo
        from tgo_kernels.neurons import LIF
        class Compiled(LIF):
            @staticmethod
            def step(n, v, x):
                return LIF.step(n, v, 2 * x)
        x = torch.randn(5, 30, requires_grad=True)
        call = lambda x: tgo.scan(Compiled(), x, impl="native").spikes
        spikes = (torch.compile(call, fullgraph=True) if COMPILED else call)(x)
        spikes.sum().backward()
        assert torch.equal(spikes, tgo.lif(2 * x).spikes) and x.grad.any()
    """
    script = tmp_path / "script.py"
    script.write_text(textwrap.dedent(code).replace("COMPILED", str(compiled)))
    # torch.compile has a use for a compiler.
    environment = os.environ | ({} if compiled else {"CXX": "no-such-compiler"})
    before = set(cache.iterdir())
    subprocess.run([sys.executable, script], env=environment, check=True, cwd=Path(__file__).parents[1])
    assert set(cache.iterdir()) == before


def test_without_a_compiler_it_is_plain_torch_and_says_so_once(monkeypatch):
    class Once(LIF):
        @staticmethod
        def step(n, v, x):
            return LIF.step(n, v, 3 * x)

    monkeypatch.setenv("CXX", "no-such-compiler")
    x = torch.randn(5, 30)
    with pytest.warns(
        UserWarning, match=r"Once runs in plain torch on cpu: .*no C\+\+ compiler: no-such-comp"
    ) as found:
        spikes = [tgo.scan(Once(), x).spikes for _ in range(2)]
    assert len(found) == 1 and all(torch.equal(each, tgo.lif(3 * x).spikes) for each in spikes)
    with pytest.raises(RuntimeError, match="no-such-compiler"):
        tgo.scan(Once(), x, impl="native")
    monkeypatch.setenv("CXX", "false")
    with pytest.raises(RuntimeError, match=r"Once could not be compiled: .*false .* failed"):
        tgo.scan(Once(), x, impl="native")


def test_other_headers_than_the_extensions_are_refused(monkeypatch):
    class Other(LIF):
        @staticmethod
        def step(n, v, x):
            return LIF.step(n, v, 5 * x)

    monkeypatch.setattr(compiler, "digest", lambda folder: "another")
    with pytest.raises(RuntimeError, match="is not what the compiled extension was built from"):
        tgo.scan(Other(), torch.randn(5, 30), impl="native")


@pytest.mark.parametrize("road", ROADS, ids=lambda road: road.__name__)
def test_the_first_call_may_be_on_any_road(road):
    """Where the same text was compiled before, so that it takes no time."""
    x = torch.randn(5, 30)
    tgo.scan(Compiled(), x)
    layer = tgo.Layer(type("Fresh", (LIF,), {"step": staticmethod(Compiled.step)})())
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="Fresh runs in plain torch")
        spikes = road(layer, x)
    assert torch.equal(spikes, tgo.lif(2 * x).spikes)


def test_a_number_that_nobody_has_run_is_named():
    neuron = LIF()
    settings = [float(2**40 + 5), *neuron.settings[1:]]
    with pytest.raises(RuntimeError, match="unknown neuron 1099511627781: one of a user's own is known where it has"):
        torch.ops.tgo_kernels.scan_fwd(torch.randn(3, 4), None, None, None, None, 0, 0, settings)
