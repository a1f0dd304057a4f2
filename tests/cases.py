"""Random calls of lif() and scan(), and what it means that an engine agrees with the specification on one."""

from dataclasses import dataclass, field, replace
from typing import Any
from unittest.mock import patch

import torch
from family import MEMBERS
from hypothesis import strategies as st
from torch import Tensor

import tgo_kernels as tgo
from tgo_kernels import table
from tgo_kernels.neurons import LIF, OscillatingLIF

SURROGATES = (
    tgo.ATan(2.0),
    tgo.Sigmoid(4.0),
    tgo.Triangle(1.0),
    tgo.Rectangle(0.7),
    tgo.PiecewiseQuadratic(1.5),
    tgo.PiecewiseExp(),
    tgo.SoftSign(),
    tgo.SuperSpike(),
    tgo.FastSigmoid(),
    tgo.Erf(),
    tgo.NoisePDF(0.4),
)
SHAPES = ((), (1,), (7,), (0,), (600,), (1031,), (3, 5), (2, 3, 4, 5), (2, 16, 3, 3), (2, 3, 2, 3, 4))
LAYOUTS = ("contiguous", "channels_last", "batch_first", "reversed", "sliced", "expanded")


def dyadic(*shape: int) -> Tensor:
    """Inputs on a binary grid, on which sums of few bits are exact in every order."""
    return torch.randint(-16, 33, shape) / 8


def lay(x: Tensor, layout: str) -> Tensor:
    """The same values in another layout; x is [T, *]."""
    if layout == "channels_last" and x.dim() > 3:
        return x.movedim(2, -1).contiguous().movedim(-1, 2)
    if layout == "batch_first" and x.dim() > 1:
        return x.transpose(0, 1).contiguous().transpose(0, 1)
    if layout == "reversed":  # column-major
        return x.permute(*reversed(range(x.dim()))).contiguous().permute(*reversed(range(x.dim())))
    if layout == "sliced" and x.dim() > 1:
        return torch.stack([x, x], -1).flatten(-2)[..., ::2]
    if layout == "expanded" and x.dim() > 1:
        return x[:, :1].expand_as(x)
    return x


@dataclass
class Case:
    """One call, with the gradients that come back to it. Of a neuron with several states they are stacked."""

    x: Tensor
    v_init: Tensor | None
    constants: dict[str, Any]
    g_spikes: Tensor | None
    g_v_final: Tensor | None
    g_penalty: float | None
    layout: str = ""
    columns: int | None = None  # of a table at least; as it comes if None
    extra: dict[str, Any] = field(default_factory=dict)
    g_membrane: Tensor | None = None
    neuron: type[tgo.neurons.Neuron] = LIF
    streams: tuple[Tensor, ...] = ()  # beside x
    learns: bool = True  # whether constants that are tensors ask for gradients

    def on(self, device: str) -> "Case":
        """The same call there, layouts included."""
        tensors = {name: value.to(device) for name, value in vars(self).items() if isinstance(value, Tensor)}
        own = {name: value.to(device) for name, value in self.constants.items() if isinstance(value, Tensor)}
        streams = tuple(stream.to(device) for stream in self.streams)
        return replace(self, **tensors, constants=self.constants | own, streams=streams)

    def run(self, impl: str) -> tuple[tgo.LIFOutput, Tensor, Tensor | None, list[Tensor]]:
        """Outputs and the gradients of x, v_init, and constants that are tensors and further streams."""
        x, v_init, own, streams = self._leaves(self.x.dtype, torch.float32)
        turns = 8 if impl == "triton" else x.numel() + 1  # of which an interpreter takes milliseconds
        columns = None if self.columns is None else max(self.columns, x.numel() // len(x) // turns)
        least = {} if columns is None else dict.fromkeys(table.COLUMNS, columns)
        with patch.dict(table.COLUMNS, least):
            out = self._call(x, v_init, impl, own, streams)
        return self._backward(out, x, v_init, [*own.values(), *streams])

    def _call(
        self, x: Tensor, v_init: Tensor | None, impl: str, own: dict[str, Tensor], streams: list[Tensor]
    ) -> tgo.LIFOutput:
        if self.neuron is LIF:
            call = tgo.reference.lif if x.dtype == torch.float64 else tgo.lif
            return call(x, v_init, impl=impl, **self.constants | own)
        constants = self.constants | own
        call = {name: constants.pop(name) for name in ("noise_seed", "noise_step", "valid") if name in constants}
        states = len(self.neuron.STATES)
        state = None if v_init is None else v_init.unbind(0) if states > 1 else v_init
        out = tgo.scan(self.neuron(**constants), [x, *streams], state, impl=impl, **call)
        return tgo.LIFOutput(out.spikes, torch.stack(out.state) if states > 1 else out.state[0], *out[2:])

    def run_double(self) -> tuple[tgo.LIFOutput, Tensor, Tensor | None, list[Tensor]]:
        """The specification in fp64."""
        x, v_init, own, streams = self._leaves(torch.float64, torch.float64)
        out = self._call(x, None if v_init is None else v_init.double(), "reference", own, streams)
        return self._backward(out, x, v_init, [*own.values(), *streams])

    def _leaves(self, dtype: torch.dtype, own_dtype: torch.dtype) -> tuple[Tensor, Any, dict[str, Tensor], Any]:
        x = self.x.detach().to(dtype)  # keeps dense strides; what is not dense stays as it is
        if dtype == self.x.dtype:
            x = self.x.detach()
        tensors = {
            name: self.constants[name] for name in self.neuron.OWN if isinstance(self.constants.get(name), Tensor)
        }
        own = {name: value.detach().to(own_dtype).requires_grad_(self.learns) for name, value in tensors.items()}
        streams = [stream.detach().to(dtype).requires_grad_() for stream in self.streams]
        return x.requires_grad_(), None if self.v_init is None else self.v_init.detach().requires_grad_(), own, streams

    def _backward(self, out: tgo.LIFOutput, x: Tensor, v_init: Tensor | None, own: list[Tensor]):
        outputs, grads = [], []
        pairs = (out.spikes, self.g_spikes), (out.v_final, self.g_v_final), (out.membrane, self.g_membrane)
        for output, grad in pairs:
            if grad is not None and output is not None:
                outputs.append(output)
                grads.append(grad.to(output.dtype))
        if self.g_penalty is not None and self.constants["guard_margin"] > 0 and x.numel():
            outputs.append(out.penalty)
            grads.append(torch.tensor(self.g_penalty, device=x.device))
        leaves = [leaf for leaf in (x, v_init, *own) if leaf is not None]
        asked = [leaf for leaf in leaves if leaf.requires_grad]
        found = torch.autograd.grad(outputs, asked, grads, allow_unused=True) if outputs else [None] * len(asked)
        given = dict(zip(map(id, asked), found, strict=True))
        g = [torch.zeros_like(leaf) if given.get(id(leaf)) is None else given[id(leaf)] for leaf in leaves]
        return out, g.pop(0), None if v_init is None else g.pop(0), g


def own_constant(draw: st.DrawFn, number: float, steps: int, shape: tuple[int, ...], generator: torch.Generator) -> Any:
    """The number, or a scalar, one value along one dimension, one for each neuron, or such ones for each step."""
    kinds = [lambda size: number, lambda size: (), lambda size: size]
    kinds += [lambda size, d=d: (*[1] * d, size[d], *[1] * (len(size) - d - 1)) for d in range(len(shape))]
    size = draw(st.sampled_from(kinds))(shape)
    if isinstance(size, tuple) and len(size) == len(shape) and draw(st.integers(0, 3)) == 0:
        size = (steps, *size)
    return number + 0.2 * torch.rand(size, generator=generator) if isinstance(size, tuple) else number


@st.composite
def cases(draw: st.DrawFn) -> Case:
    pick = lambda *values: draw(st.sampled_from(values))  # noqa: E731
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32)))
    steps, shape, layout = pick(1, 2, 3, 4, 5, 7, 8, 9, 16, 17, 33), pick(*SHAPES), pick(*LAYOUTS)
    dtype = pick(torch.float32, torch.float32, torch.float16, torch.bfloat16)
    surrogate, noise_std = pick(*SURROGATES), pick(0.0, 0.3, 0.3)
    if isinstance(surrogate, tgo.NoisePDF) and noise_std and draw(st.booleans()):
        surrogate = tgo.NoisePDF()
    normal = lambda *size: torch.randn(size, generator=generator)  # noqa: E731
    constants = {"decay": pick(0.5, 0.9, 1.0, 0.0, 1 / 3), "gain": pick(1.0, 0.5, 0.37)}
    millivolts = pick(False, False, False, True)
    constants["v_threshold"] = -50.0 if millivolts else pick(1.0, 0.7, 0.0)
    v_reset = pick(-65.0, -65.0, None) if millivolts else pick(0.0, None, -0.2, 0.3)
    constants["noise_std"] = noise_std
    if v_reset is None and draw(st.booleans()):
        constants["reset_by"] = 0.8
    member = draw(st.sampled_from([MEMBERS[0], *MEMBERS]))
    neuron = type(member.neuron)
    constants |= {name: pick(*values) for name, values in member.vary.items()}
    scale = 20.0 if millivolts else 1.0
    states = [len(neuron.STATES)] if len(neuron.STATES) > 1 else []
    at_noise = isinstance(surrogate, tgo.NoisePDF) and surrogate.std is None
    if draw(st.booleans()):
        fixed = ("noise_std",) if at_noise or noise_std == 0 else ()
        constants = {
            name: value
            if name in fixed or name not in neuron.OWN
            else own_constant(draw, value, steps, shape, generator)
            for name, value in constants.items()
        }
    if draw(st.booleans()):
        constants |= {"strict": True} if draw(st.booleans()) else {"guard_side": "below"}
        constants |= {"guard_power": pick(1, 2), "membrane": pick(None, "h", "u", "v")}
        if len(shape) > 0 and draw(st.booleans()):
            lengths = torch.randint(0, steps + 2, shape[:1], generator=generator)
            mask = torch.arange(steps)[:, None] < lengths
            constants["valid"] = mask if draw(st.booleans()) else lengths
    v_init = lay(scale * normal(1, *shape), pick(*LAYOUTS[:4]))[0]
    if states:
        v_init = torch.stack([v_init, normal(*shape).abs()])
    more = [normal(steps, *shape), 0.5 + torch.rand(steps, *shape, generator=generator)][: len(neuron.INPUTS) - 1]
    return Case(
        x=lay(1.2 * scale * normal(steps, *shape), layout).to(dtype),
        v_init=v_init if draw(st.booleans()) else None,
        constants={
            **constants,
            **{name: getattr(member.neuron, name) for name in member.options},
            "v_reset": v_reset,
            "surrogate": surrogate,
            "detach_reset": draw(st.booleans()),
            "noise_mode": pick("membrane", "threshold"),
            "noise_seed": draw(st.integers(0, 2**64 - 1)),
            "noise_step": pick(0, 0, 1, 3, 4, 6, 2**33 + 5 if neuron is not OscillatingLIF else 17),
            "guard_margin": pick(0.0, 0.5, 0.2),
            **member.fixed,
        },
        g_spikes=pick(None, lay(normal(steps, *shape), pick(*LAYOUTS)), normal(steps, *shape)),
        g_v_final=pick(None, normal(*states, *shape)),
        g_penalty=pick(None, 3.0, -7.0),
        layout=layout,
        columns=pick(None, 1, 64),
        g_membrane=pick(None, normal(steps, *shape)),
        neuron=neuron,
        streams=tuple(lay(stream, pick(*LAYOUTS)).to(dtype) for stream in more),
        learns=pick(True, True, False),
    )


def assert_agrees(case: Case, impl: str, device: str = "cpu") -> None:
    """Equal spikes, counters and penalty; state and gradients as close to fp64 as the specification in fp32 is.

    The specification runs on the CPU, the engine on ``device``.
    """
    spec, exact = case.run("reference"), case.run_double()
    there, *gradients = case.on(device).run(impl)
    out, expected = tgo.LIFOutput(*(None if t is None else t.cpu() for t in there)), spec[0]
    *gradients, own = gradients
    assert torch.equal(out.spikes, expected.spikes)
    assert out.spikes.stride() == torch.empty_like(case.x).stride() and out.spikes.dtype == case.x.dtype
    assert out.neighbors == expected.neighbors and out.fired == expected.fired
    assert out.neighbors.dtype == out.fired.dtype == torch.int64
    assert torch.equal(out.penalty, expected.penalty) and out.penalty.dtype == torch.float32
    assert torch.equal(out.v_final, expected.v_final) and out.v_final.dtype == torch.float32
    if expected.membrane is not None:
        assert torch.equal(out.membrane, expected.membrane) and out.membrane.stride() == out.spikes.stride()
    through = float(exact[1].abs().max()) if case.x.numel() else 0.0  # dL/dv_init comes through them, and may cancel
    for found, plain, true in zip(gradients, spec[1:3], exact[1:3], strict=True):
        if found is not None and found.numel():
            assert found.dtype == plain.dtype
            assert_as_exact(found.cpu().double(), plain.double(), true.double(), through)
    if own and case.x.numel():
        terms = float(exact[1].abs().sum() * (1 + case.x.abs().max())) / 0.37  # of a sum: gain * g_h, times v or x
        for found, plain, true in zip(own, spec[3], exact[3], strict=True):
            assert found.shape == plain.shape and found.dtype == plain.dtype
            assert_as_exact(found.cpu().double(), plain.double(), true.double(), terms)


def assert_as_exact(found: Tensor, plain: Tensor, exact: Tensor, terms: float = 0.0) -> None:
    """At most twice the error of plain torch, where its error is rounding (fp64 may fire at another step).

    ``terms``: how large the terms are that a gradient is the sum of, since they are what is rounded.
    """
    scale = max(float(exact.abs().max()), terms)
    smallest = torch.finfo(torch.float32).tiny  # below it, exp_negative is 0
    atol = smallest + 2**-10 * float(plain.abs().max()) + 2**-20 * terms
    torch.testing.assert_close(found, plain, rtol=2**-6, atol=atol)
    rounding = (plain - exact).abs() <= 2**-8 * exact.abs() + 1e-4 * scale
    bound = 2 * torch.where(rounding, (plain - exact).abs(), 0).max() + 2**-22 * scale + smallest
    error = torch.where(rounding, (found - exact).abs(), 0).max()
    assert error <= bound, f"error {error:g} > {bound:g}"
