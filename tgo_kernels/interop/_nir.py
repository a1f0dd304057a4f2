"""NIR's nodes and torch's modules, one for the other; imported by the first exchange."""

import copy
from collections.abc import Callable, Mapping
from functools import partial
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Any

import nir
import nirtorch
import numpy as np
import torch
from torch import Tensor, nn

from tgo_kernels.layers import LIF
from tgo_kernels.neuron import OWN, check_number

STATELESS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.AvgPool2d, nn.Flatten)


class OverTime(nn.Module):
    """A module for [B, *], on [T, B, *]."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, x: Tensor) -> Tensor:
        return self.module(x.flatten(0, 1)).unflatten(0, x.shape[:2])


def write(model: nn.Module, example: Tensor, dt: float) -> nir.NIRGraph:
    check_number("dt", dt, minimum=1e-30)
    model = nn.Sequential(copy.deepcopy(model)).eval()  # running it leaves no trace, and a neuron alone is a graph, too
    names = {module: name for name, module in model.named_modules()}
    known = [module for module in names if isinstance(module, (LIF, OverTime, *STATELESS))]
    inner = {part for module in known for part in module.modules()}
    for module, name in names.items():
        if module not in inner and not list(module.children()):
            raise NotImplementedError(f"{name.removeprefix('0.')}: NIR holds no {type(module).__name__}")
        if isinstance(module, LIF):
            module.reset()
    shapes: dict[nn.Module, torch.Size] = {}
    handles = [m.register_forward_pre_hook(lambda m, given: shapes.update({m: given[0].shape[2:]})) for m in names]
    with torch.no_grad():
        expected = model(example)
    if isinstance(expected, tuple):  # a model that was read from NIR
        expected = expected[0]
    for handle in handles:
        handle.remove()

    def node(module: nn.Module) -> nir.NIRNode:
        try:
            return written(module, shapes[module], dt)
        except ValueError as why:
            raise ValueError(f"{names[module].removeprefix('0.')}: {why}") from None

    graph = nirtorch.torch_to_nir(model, dict.fromkeys(map(type, known), node))
    with torch.no_grad():
        found = read(graph, dt, {})(example)[0]
    if found.shape != expected.shape or not torch.allclose(found, expected, rtol=1e-4, atol=1e-5):
        raise ValueError("NIR holds modules and the sums of several of them, and this model computes something else")
    return graph


def written(module: nn.Module, shape: torch.Size, dt: float) -> nir.NIRNode:
    """``shape``: of its input, without time and batch."""
    if isinstance(module, LIF):
        return neuron(module, shape, dt)
    dropped = 1 if isinstance(module, OverTime) or getattr(module, "step_mode", "") == "m" else 2
    if isinstance(module, OverTime):
        module = module.module
    if isinstance(module, nn.Linear):
        weight = array(module.weight)
        return nir.Linear(weight) if module.bias is None else nir.Affine(weight, array(module.bias))
    if isinstance(module, nn.Flatten):
        axes = [axis - dropped if axis >= 0 else axis for axis in (module.start_dim, module.end_dim)]
        if axes[0] < -len(shape) or (module.start_dim >= 0 and axes[0] < 0):
            raise ValueError("NIR flattens neither time nor batch")
        return nir.Flatten(np.array(shape), *axes)
    if isinstance(module, nn.AvgPool2d):
        if module.ceil_mode or module.divisor_override is not None or not module.count_include_pad:
            raise ValueError("NIR's AvgPool2d has no ceil_mode, divisor_override or count_include_pad=False")
        return nir.AvgPool2d(*(np.array(pair(v)) for v in (module.kernel_size, module.stride, module.padding)))
    assert isinstance(module, (nn.Conv1d, nn.Conv2d))
    if module.padding_mode != "zeros":
        raise ValueError(f"NIR pads with zeros, not with {module.padding_mode}")
    bias = np.zeros(module.out_channels, np.float32) if module.bias is None else array(module.bias)
    how = module.stride, module.padding, module.dilation
    if isinstance(module, nn.Conv1d):
        return nir.Conv1d(
            shape[-1], array(module.weight), *(v if isinstance(v, str) else v[0] for v in how), module.groups, bias
        )
    return nir.Conv2d(tuple(shape[-2:]), array(module.weight), *how, module.groups, bias)


def neuron(layer: LIF, shape: torch.Size, dt: float) -> nir.NIRNode:
    n = layer.neuron
    if n.v_reset is None:
        raise ValueError("NIR has no soft reset (v_reset=None)")
    if n.noise_std > 0 and layer.noise_in_eval:
        raise ValueError("NIR has no noise (noise_in_eval=True)")
    own = {name: getattr(n, name) for name in OWN} | layer.learned(len(shape) + 2)
    full = partial(np.broadcast_to, shape=tuple(shape))
    decay, gain, threshold = (full(array(torch.as_tensor(own[name]).double())) for name in OWN)
    if decay.max(initial=0) > 1:
        raise ValueError(f"NIR has no growing membranes (decay={decay.max():g})")
    ends = {"v_threshold": threshold.copy(), "v_reset": np.full(tuple(shape), n.v_reset)}
    if (decay == 1).all():
        return nir.IF(r=gain / dt, **ends)
    if (decay == 1).any():
        raise ValueError("NIR has no layer in which some neurons leak and others do not")
    tau = dt / (1 - decay)
    return nir.LIF(tau=tau, r=gain * tau / dt, v_leak=ends["v_reset"], **ends)


def read(graph: nir.NIRGraph | str | Path, dt: float, options: Mapping[str, Any]) -> nn.Module:
    check_number("dt", dt, minimum=1e-30)
    if given := options.keys() & {"tau", "decay_input", "v_threshold", "v_reset"}:
        raise TypeError(f"{', '.join(sorted(given))}: NIR says it of each layer")
    if not isinstance(graph, nir.NIRGraph):
        graph = nir.read(graph)
    before: dict[str, set[str]] = {name: set() for name in graph.nodes}
    for source, target in graph.edges:
        before[target].add(source)
    try:
        TopologicalSorter(before).prepare()
    except CycleError as cycle:
        raise ValueError(f"this graph is recurrent: {' -> '.join(cycle.args[1])}") from None
    names = {id(node): name for name, node in graph.nodes.items()}

    def module(node: nir.NIRNode) -> nn.Module:
        try:
            return made(node, dt, options)
        except ValueError as why:
            raise ValueError(f"{names.get(id(node), type(node).__name__)}: {why}") from None

    return nirtorch.nir_to_torch(graph, dict.fromkeys(MADE, module))


MADE = (nir.Affine, nir.Linear, nir.Conv1d, nir.Conv2d, nir.AvgPool2d, nir.Flatten, nir.IF, nir.LIF)


def made(node: nir.NIRNode, dt: float, options: Mapping[str, Any]) -> nn.Module:
    if isinstance(node, (nir.IF, nir.LIF)):
        return layer(node, dt, options)
    if isinstance(node, nir.Flatten):
        start, end = (axis + 1 if axis >= 0 else axis for axis in (int(node.start_dim), int(node.end_dim)))
        return OverTime(nn.Flatten(start, end))
    if isinstance(node, nir.AvgPool2d):
        return OverTime(nn.AvgPool2d(pair(node.kernel_size), pair(node.stride), pair(node.padding)))
    weight = torch.tensor(node.weight)
    if isinstance(node, (nir.Affine, nir.Linear)):
        module: Any = nn.Linear(weight.shape[1], weight.shape[0], isinstance(node, nir.Affine))
    else:
        kind: Callable = nn.Conv1d if isinstance(node, nir.Conv1d) else nn.Conv2d
        how = (v if isinstance(v, str) else plain(v) for v in (node.stride, node.padding, node.dilation))
        module = kind(weight.shape[1] * node.groups, weight.shape[0], tuple(weight.shape[2:]), *how, node.groups)
    module.weight.data = weight
    if module.bias is not None:
        module.bias.data = torch.tensor(node.bias)
    return module if isinstance(module, nn.Linear) else OverTime(module)


class Held(LIF):
    """A layer whose neurons have constants of their own, as NIR gave them."""

    def __init__(self, own: Mapping[str, np.ndarray], **options: Any) -> None:
        super().__init__(**options)
        if self.learn_decay or self.learn_threshold:
            raise ValueError("constants that differ between neurons are held and do not learn")
        for name, values in own.items():
            self.register_buffer(name, torch.tensor(values, dtype=torch.float32))

    def learned(self, dims: int) -> dict[str, Tensor]:
        return {name: getattr(self, name).float() for name in OWN}


def layer(node: Any, dt: float, options: Mapping[str, Any]) -> LIF:
    v_reset = single(node, "v_reset")
    own = {"decay": np.ones_like(node.r), "gain": node.r * dt, "v_threshold": node.v_threshold}
    if isinstance(node, nir.LIF):
        v_leak = single(node, "v_leak")
        if not np.isclose(v_leak, v_reset):
            raise ValueError(f"a layer leaks to v_reset, but v_leak is {v_leak:g} and v_reset {v_reset:g}")
        if (tau := node.tau.min()) < dt * (1 - 1e-6):
            raise ValueError(f"tau={tau:g} is less than dt={dt:g}: with this step the membrane would alternate")
        own["decay"], own["gain"] = np.maximum(0.0, 1 - dt / node.tau), node.r * dt / node.tau
    for name, values in own.items():
        check_number(name, float(values.min()))
    if any(np.unique(values).size != 1 for values in own.values()):
        return Held(own, v_reset=v_reset, **options)
    return LIF.from_decay(*(float(own[name].flat[0]) for name in OWN), v_reset, **options)


def single(node: nir.NIRNode, name: str) -> float:
    values = np.unique(getattr(node, name))
    if values.size != 1:
        raise ValueError(f"{name} differs between neurons ({values.min():g} to {values.max():g})")
    return float(values[0])


def array(x: Tensor) -> np.ndarray:
    return x.detach().cpu().numpy()


def plain(value: Any) -> Any:
    return tuple(np.asarray(value).tolist()) if np.ndim(value) else int(value)


def pair(value: Any) -> tuple[int, int]:
    return (int(value), int(value)) if np.ndim(value) == 0 else plain(value)
