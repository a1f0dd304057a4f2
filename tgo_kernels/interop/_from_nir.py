"""Modules from NIR's nodes; imported by the first exchange."""

from collections.abc import Callable, Mapping
from graphlib import CycleError, TopologicalSorter
from inspect import signature
from pathlib import Path
from typing import Any

import nir
import nirtorch
import numpy as np
import torch
from torch import Tensor, nn

from tgo_kernels.constants import OWN, beside_lif, held
from tgo_kernels.house import SynapticLIF
from tgo_kernels.layers import LIF, LeakyIntegrator
from tgo_kernels.neurons import MINIMUM, check_number
from tgo_kernels.over_time import OverTime


def read(graph: nir.NIRGraph | str | Path, dt: float, options: Mapping[str, Any]) -> nn.Module:
    check_number("dt", dt, minimum=1e-30)
    if given := options.keys() & {"tau", "decay_input", "v_threshold", "v_reset", *beside_lif(SynapticLIF.kind)}:
        raise TypeError(f"{', '.join(sorted(given))}: NIR says it of each layer")
    if not isinstance(graph, nir.NIRGraph):
        graph = nir.read(graph)
    names = checked(graph)

    def module(node: nir.NIRNode) -> nn.Module:
        try:
            return made(node, dt, options)
        except (ValueError, RuntimeError) as why:
            raise ValueError(f"{names[id(node)]}: {why}") from None

    return nirtorch.nir_to_torch(graph, dict.fromkeys(MADE, module))


MADE = (
    nir.Affine,
    nir.Linear,
    nir.Conv1d,
    nir.Conv2d,
    nir.AvgPool2d,
    nir.SumPool2d,
    nir.Flatten,
    nir.IF,
    nir.LIF,
    nir.CubaLIF,
    nir.I,
    nir.LI,
)


def checked(graph: nir.NIRGraph, within: str = "") -> dict[int, str]:
    """The names of all nodes, by identity; nirtorch would make something of each graph that is refused here."""
    before: dict[str, list[str]] = {name: [] for name in graph.nodes}
    for source, target in graph.edges:
        before[target].append(source)
    try:
        TopologicalSorter(before).prepare()
    except CycleError as cycle:
        raise ValueError(f"this graph is recurrent: {' -> '.join(within + name for name in cycle.args[1])}") from None
    for end in (nir.Input, nir.Output):
        ends = [within + name for name, node in graph.nodes.items() if isinstance(node, end)]
        if len(ends) != 1:
            where = ", ".join(ends) or within.removesuffix(".") or "nodes"
            raise ValueError(f"{where}: a graph needs one {end.__name__}, got {len(ends)}")
    if len({name.replace(".", "_") for name in graph.nodes}) != len(graph.nodes):
        raise ValueError(f"names that differ in . and _ alone: {', '.join(within + name for name in graph.nodes)}")
    names = {}
    for name, node in graph.nodes.items():
        if name in ("", "self", "graph", "training") or hasattr(torch.fx.GraphModule, name):
            raise ValueError(f"{within}{name}: a module of torch has no room for this name; rename the node")
        names[id(node)] = within + name
        if type(node) is nir.NIRGraph:
            names |= checked(node, f"{within}{name}.")
        elif type(node) not in (nir.Input, nir.Output, *MADE):
            known = ", ".join(kind.__name__ for kind in MADE)
            raise NotImplementedError(f"{within}{name}: no layer computes a {type(node).__name__}; known are {known}")
        lead = len(before[name])
        if lead > 1 and isinstance(node, nir.Output):
            sources = ", ".join(before[name])
            raise ValueError(f"{within}{name}: {sources} lead to it, but a sum needs a node that takes it")
        if not lead and not isinstance(node, nir.Input):
            raise ValueError(f"{within}{name}: nothing leads to it")
    return names


def made(node: nir.NIRNode, dt: float, options: Mapping[str, Any]) -> nn.Module:
    if isinstance(node, (nir.I, nir.LI)):
        return integrator(node, dt, options)
    if isinstance(node, (nir.IF, nir.LIF, nir.CubaLIF)):
        return layer(node, dt, options)
    if isinstance(node, nir.Flatten):
        start, end = (axis + 1 if axis >= 0 else axis for axis in (int(node.start_dim), int(node.end_dim)))
        shape = node.input_type["input"]
        if shape is not None and -start > len(shape):
            raise ValueError(f"start_dim={start} flattens the batch of inputs {tuple(map(int, shape))}")
        return OverTime(nn.Flatten(start, end))
    if isinstance(node, (nir.AvgPool2d, nir.SumPool2d)):
        size, stride, padding = pair(node.kernel_size), pair(node.stride), pair(node.padding)
        if any(2 * p > k for p, k in zip(padding, size, strict=True)):
            raise ValueError(f"padding={padding} is more than half of kernel_size={size}")
        divisor = 1 if isinstance(node, nir.SumPool2d) else None
        return OverTime(nn.AvgPool2d(size, stride, padding, divisor_override=divisor))
    weight, bias = torch.tensor(node.weight, dtype=torch.float32), getattr(node, "bias", None)
    if isinstance(node, (nir.Affine, nir.Linear)):
        if weight.dim() != 2:
            raise ValueError(f"weight must be a matrix, got shape {tuple(weight.shape)}")
        module: Any = nn.Linear(weight.shape[1], weight.shape[0], bias is not None)
    else:
        kind: Callable = nn.Conv1d if isinstance(node, nir.Conv1d) else nn.Conv2d
        how = (v if isinstance(v, str) else plain(v) for v in (node.stride, node.padding, node.dilation))
        channels = weight.shape[1] * node.groups, weight.shape[0]
        module = kind(*channels, tuple(weight.shape[2:]), *how, node.groups, bias is not None)
    module.weight.data = weight
    if bias is not None:
        if np.shape(bias) != (weight.shape[0],):
            raise ValueError(f"bias must have shape ({weight.shape[0]},), got {np.shape(bias)}")
        module.bias.data = torch.tensor(bias, dtype=torch.float32)
    return module if isinstance(module, nn.Linear) else OverTime(module)


class Held(LIF):
    """A layer whose neurons have constants of their own, as NIR gave them."""

    def __init__(self, own: Mapping[str, np.ndarray], **options: Any) -> None:
        super().__init__(**options)
        if self.learn_decay or self.learn_threshold or self._learns:
            raise ValueError("constants that differ between neurons are held and do not learn")
        for name, values in own.items():
            self.register_buffer(name, torch.tensor(values, dtype=torch.float32))

    def learned(self, dims: int) -> dict[str, Tensor]:
        names = (*OWN, *beside_lif(self.kind))
        own = {name: held(value) for name in names if (value := self._buffers.get(name)) is not None}
        return super().learned(dims) | own


class HeldIntegrator(Held, LeakyIntegrator):
    """An integrator likewise."""


class HeldSynaptic(Held, SynapticLIF):
    """One behind a synapse likewise."""


def taken(options: Mapping[str, Any], kind: type[LIF]) -> dict[str, Any]:
    """Those that are for layers of this kind: but for those of others alone."""
    parameters = {each: signature(each).parameters.keys() for each in (LIF, SynapticLIF, kind)}
    others = (parameters[LIF] | parameters[SynapticLIF]) - parameters[kind]
    return {name: value for name, value in options.items() if name not in others}


def integrator(node: Any, dt: float, options: Mapping[str, Any]) -> LeakyIntegrator:
    v_rest, own = 0.0, {"decay": np.ones_like(node.r), "gain": node.r * dt}
    if isinstance(node, nir.LI):
        v_rest, own = single(node, "v_leak"), leak(node, "tau", dt)
    for name, values in own.items():
        check_number(name, float(values.min()))
    plain = taken(options, LeakyIntegrator)
    if any(np.unique(values).size != 1 for values in own.values()):
        return HeldIntegrator(own, decay_input=False, v_rest=v_rest, **plain)
    decay, gain = (float(own[name].flat[0]) for name in ("decay", "gain"))
    return LeakyIntegrator.from_decay(decay, gain, v_rest, **plain)  # type: ignore[return-value]


def rate(node: Any, name: str, dt: float) -> np.ndarray:
    """How much of a state a step of Euler's rule replaces."""
    tau = getattr(node, name)
    if tau.min() < dt * (1 - 1e-6):
        raise ValueError(f"{name}={tau.min():g} is less than dt={dt:g}: with this step its state would alternate")
    return dt / tau


def leak(node: Any, name: str, dt: float) -> dict[str, np.ndarray]:
    leaks = rate(node, name, dt)
    return {"decay": np.maximum(0.0, 1 - leaks), "gain": node.r * leaks}


def layer(node: Any, dt: float, options: Mapping[str, Any]) -> LIF:
    v_reset, kind = single(node, "v_reset"), SynapticLIF if isinstance(node, nir.CubaLIF) else LIF
    own = {"decay": np.ones_like(node.r), "gain": node.r * dt, "v_threshold": node.v_threshold}
    if not isinstance(node, nir.IF):
        v_leak = single(node, "v_leak")
        if not np.isclose(v_leak, v_reset):
            raise ValueError(f"a layer leaks to v_reset, but v_leak is {v_leak:g} and v_reset {v_reset:g}")
        own |= leak(node, "tau" if kind is LIF else "tau_mem", dt)
    if kind is SynapticLIF:
        filters = rate(node, "tau_syn", dt)
        own |= {"current_decay": np.maximum(0.0, 1 - filters), "scale": node.w_in * filters}
    for name, values in own.items():
        check_number(name, float(values.min()), MINIMUM.get(name, 0.0))
    plain = taken(options, kind)
    if any(np.unique(values).size != 1 for values in own.values()):
        return (Held if kind is LIF else HeldSynaptic)(own, decay_input=False, v_reset=v_reset, **plain)
    numbers = {name: float(values.flat[0]) for name, values in own.items()}
    return kind.from_decay(numbers.pop("decay"), numbers.pop("gain"), v_reset=v_reset, **numbers, **plain)


def single(node: nir.NIRNode, name: str) -> float:
    values = np.unique(getattr(node, name))
    if values.size != 1:
        raise ValueError(f"{name} differs between neurons ({values.min():g} to {values.max():g})")
    return float(values[0])


def plain(value: Any) -> Any:
    return tuple(np.asarray(value).tolist()) if np.ndim(value) else int(value)


def pair(value: Any) -> tuple[int, int]:
    return (int(value), int(value)) if np.ndim(value) == 0 else plain(value)
