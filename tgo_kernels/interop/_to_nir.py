"""NIR's nodes from torch's modules; imported by the first exchange."""

import copy
import operator
import warnings
from collections import defaultdict
from collections.abc import Mapping
from functools import partial
from typing import Any, NamedTuple

import nir
import nirtorch
import numpy as np
import torch
from nirtorch.torch_tracer import NIRTorchTracer
from torch import Tensor, nn

from tgo_kernels import neurons
from tgo_kernels.constants import OWN, beside_lif
from tgo_kernels.interop._from_nir import pair, read
from tgo_kernels.layers import LIF, LeakyIntegrator
from tgo_kernels.neurons import check_number

ORIGINS = ("torch.nn.modules.", "spikingjelly.activation_based.layer", "tgo_kernels.")
NEURONS = (neurons.LIF, neurons.SynapticLIF)  # those of the family that NIR holds
HELD = ("Linear", "Conv1d", "Conv2d", "AvgPool2d", "Flatten")
OVER_TIME = ("OverTime", "SeqToANNContainer")
PASSED = ("Identity", "Dropout", "Dropout1d", "Dropout2d", "Dropout3d", "AlphaDropout", "FeatureAlphaDropout")
WAYS = {
    "BatchNorm": "fold it into the layer before, with torch.nn.utils.fusion.fuse_conv_bn_eval or fuse_linear_bn_eval",
    "MaxPool2d": "of spikes it is AvgPool2d(..., divisor_override=1) and then LIF.from_decay(0.0)",
    "AdaptiveAvgPool2d": "use AvgPool2d of the kernel_size that it comes to",
    "AvgPool1d": "use a Conv1d with weights of 1 / kernel_size from each channel to itself",
}
SUMS = "NIR holds modules and the sums of several of them, and this model computes something else"


class Call(NamedTuple):
    """What a module was given and gave, as [T, B, *]."""

    name: str
    given: Tensor
    gave: Tensor
    lead: int  # how many axes before those of a sample the module itself sees
    state: bool  # whether it gave a state beside


def write(model: nn.Module, example: Tensor, dt: float) -> nir.NIRGraph:
    check_number("dt", dt, minimum=1e-30)
    if example.dim() < 2:
        raise ValueError(f"example must have shape [T, B, *], got {tuple(example.shape)}")
    model = getattr(model, "_orig_mod", model)  # of torch.compile
    variables = (value for m in model.modules() for value in vars(m).values() if isinstance(value, Tensor))
    cut = {id(value): value.detach() for value in variables if not value.is_leaf}  # deepcopy takes leaves alone
    # What is done to a copy leaves no trace, and in a Sequential a neuron alone is a graph, too.
    model, example = nn.Sequential(copy.deepcopy(model, cut)).eval().float(), example.float()
    names = {module: name.removeprefix("0.") if "." in name else "the model" for name, module in model.named_modules()}
    for module, name in names.items():
        if isinstance(module, LIF):
            check_steps(module, name)
            module.reset()
            if module.v is not None and (torch.as_tensor(module.v) != module.neuron.v_rest).any():
                raise ValueError(f"{name}: NIR has no initial state (v={module.v} after a reset)")
    expected, calls = run(model, example, names)
    for module in names:
        if kind(module) in (*OVER_TIME, *PASSED):
            module.__class__ = nn.Sequential  # NIR has neither time nor batch; an empty Sequential passes its input on
    types = tuple({type(module) for module in calls})
    stateful = {type(module) for module, of in calls.items() if of[0].state}
    check_functions(NIRTorchTracer(types).trace(model), bool(stateful))
    coming, held = {module: iter(of) for module, of in calls.items()}, {}

    def node(module: nn.Module) -> nir.NIRNode:
        call = next(coming[module])
        try:
            made = written(module, call, dt)
        except ValueError as why:
            raise ValueError(f"{call.name}: {why}") from None
        held[id(made)] = call
        return made

    graph = nirtorch.torch_to_nir(model, dict.fromkeys(types, node), None, stateful_modules=stateful)
    compare(graph, {name: held[id(n)] for name, n in graph.nodes.items() if id(n) in held}, example, expected, dt)
    fires = [module for module in calls if isinstance(module, LIF) and not module.neuron.never_fires]
    fired = [call for module in fires for call in calls[module]]
    same = [f"no neuron of {c.name} fires" for c in fired if not c.gave.any()]
    same += [f"all neurons of {c.name} fire in every step" for c in fired if c.gave.all()]
    same += [f"all that {c.name} is given is 0" for of in calls.values() for c in of if not c.given.any()]
    if same:
        what = f"for this example {', '.join(same)}: that the graph gives what the model gives says little there"
        warnings.warn(f"{what}; take an example like the data", stacklevel=3)
    return graph


def kind(module: nn.Module) -> str:
    """The class of torch, SpikingJelly or ours whose code runs; of a subclass with a forward of its own, none."""
    base = next(base for base in type(module).__mro__ if base.__module__.startswith(ORIGINS))
    runs = (getattr(getattr(module, name, None), "__func__", None) for name in ("forward", "_conv_forward"))
    inherited = (getattr(base, name, None) for name in ("forward", "_conv_forward"))
    ours = isinstance(module, LIF) and module.kind in NEURONS
    return ("LIF" if ours and issubclass(base, LIF) else base.__name__) if tuple(runs) == tuple(inherited) else ""


def check_steps(layer: LIF, name: str) -> None:
    for attribute, value, way in (
        ("sequence", False, "convert(model, sequence=True)"),
        ("step_mode", "s", "functional.set_step_mode(model, 'm')"),
    ):
        if getattr(layer, attribute, None) == value:
            raise ValueError(f"{name}: it takes one time step a call, and NIR all of [T, B, *]; {way} is missing")


def run(
    model: nn.Module, example: Tensor, names: Mapping[nn.Module, str]
) -> tuple[Tensor, dict[nn.Module, list[Call]]]:
    """What the model gives, and what each module that NIR holds is given and gives, call by call."""
    kinds = {module: kind(module) for module in names}
    whole = [module for module, what in kinds.items() if what in ("LIF", *HELD)]
    parts = {part for module in whole for part in module.modules() if part is not module}  # parametrizations
    steps: list[torch.Size] = []  # [T, B], within a container
    calls: dict[nn.Module, list[Call]] = defaultdict(list)

    def before(module: nn.Module, given: tuple, named: dict) -> None:
        if kinds[module] in OVER_TIME:
            steps.append((*given, *named.values())[0].shape[:2])
        try:
            check_module(module, kinds[module], bool(steps))
        except (ValueError, NotImplementedError) as why:
            raise type(why)(f"{names[module]}: {why}") from None

    def after(module: nn.Module, given: tuple, named: dict, gave: Any) -> None:
        if kinds[module] in OVER_TIME:
            steps.pop()
        if module in whole:
            x, y = (*given, *named.values())[0], gave[0] if isinstance(gave, tuple) else gave
            if steps:
                x, y = x.unflatten(0, steps[-1]), y.unflatten(0, steps[-1])
            lead = 1 if steps or getattr(module, "step_mode", "s") == "m" else 2
            calls[module].append(Call(names[module], x, y, lead, isinstance(gave, tuple)))

    watched = [module for module in names if module not in parts]
    handles = [module.register_forward_pre_hook(before, with_kwargs=True) for module in watched]
    handles += [module.register_forward_hook(after, with_kwargs=True) for module in watched]
    with torch.no_grad():
        expected = model(example)
    for handle in handles:
        handle.remove()
    return expected[0] if isinstance(expected, tuple) else expected, calls


def check_module(module: nn.Module, what: str, within: bool) -> None:
    """``what``: its kind; ``within`` a container that takes time and batch for one axis."""
    if what == "LIF" and within:
        raise ValueError("it would take the T*B samples for time steps; put it beside the container")
    if what in ("Conv1d", "Conv2d", "AvgPool2d") and not within and getattr(module, "step_mode", "s") == "s":
        raise ValueError(f"{what} takes no time axis; tgo.OverTime({what}(...)) runs it on all steps")
    if what in ("LIF", *HELD, *OVER_TIME, *PASSED):
        return
    name = type(module).__name__
    if isinstance(module, LIF) and module.kind not in NEURONS:
        known = ", ".join(each.__name__ for each in NEURONS)
        raise NotImplementedError(f"NIR holds no {module.kind.__name__}; of the neurons it holds {known}")
    for base in (LIF, nn.Linear, nn.Conv1d, nn.Conv2d, nn.AvgPool2d, nn.Flatten):
        if isinstance(module, base):
            plain = f"{base.__name__} with the constants in effect"
            raise NotImplementedError(f"{name} computes by code of its own, which NIR does not hold; use a {plain}")
    if module.__module__.startswith(("spikingjelly.activation_based.neuron", "snntorch.")):
        raise NotImplementedError(f"{name} is no layer of tgo_kernels; tgo_kernels.interop converts models to such")
    leaf = module.__module__.startswith("torch.nn") and not isinstance(module, nn.Sequential)  # as torch.fx has it
    if leaf or not list(module.children()):
        way = next((way for part, way in WAYS.items() if name.startswith(part)), f"it holds {', '.join(HELD)}, neurons")
        raise NotImplementedError(f"NIR holds no {name}; {way}")


def check_functions(graph: torch.fx.Graph, states: bool) -> None:
    known = (operator.add, "add", *[operator.getitem] * states)
    for step in graph.nodes:
        if step.op in ("call_function", "call_method") and step.target not in known:
            what = getattr(step.target, "__name__", step.target)
            raise ValueError(f"{what}: {SUMS}; use a module for it, such as tgo.OverTime(nn.Flatten())")


def compare(graph: nir.NIRGraph, calls: Mapping[str, Call], example: Tensor, expected: Tensor, dt: float) -> None:
    """The graph, read again, against the model: what each layer is given and gives, and what all give."""
    model = read(graph, dt, {}).to(example.device)

    def differ(found: Tensor, of: Tensor) -> bool:
        return found.shape != of.shape or not torch.allclose(found, of, rtol=1e-4, atol=1e-5)

    def check(call: Call, module: nn.Module, given: tuple, gave: Tensor) -> None:
        if differ(given[0], call.given):
            raise ValueError(f"{call.name}: {SUMS} before it")
        if differ(gave, call.gave):
            raise ValueError(f"{call.name}: what it computes is not what NIR holds of it; a hook may change it")

    for name, call in calls.items():
        model.get_submodule(name).register_forward_hook(partial(check, call))
    with torch.no_grad():
        if differ(model(example)[0], expected):
            raise ValueError(f"the model: {SUMS} at its end")


def written(module: nn.Module, call: Call, dt: float) -> nir.NIRNode:
    shape = call.given.shape[2:]
    if isinstance(module, LIF):
        return neuron(module, shape, dt)
    if isinstance(module, nn.Linear):
        weight = array(module.weight)
        return nir.Linear(weight) if module.bias is None else nir.Affine(weight, array(module.bias))
    if isinstance(module, nn.Flatten):
        axes = [axis - call.lead if axis >= 0 else axis for axis in (module.start_dim, module.end_dim)]
        if axes[0] < -len(shape) or (module.start_dim >= 0 and axes[0] < 0):
            raise ValueError("NIR flattens neither time nor batch; tgo.OverTime(nn.Flatten()) flattens the rest")
        return nir.Flatten(np.array(shape), *axes)
    if isinstance(module, nn.AvgPool2d):
        size, stride, padding = (pair(value) for value in (module.kernel_size, module.stride, module.padding))
        total = module.divisor_override == 1
        if module.ceil_mode or not (total or module.divisor_override is None):
            raise ValueError("NIR's pools have no ceil_mode, and no divisor_override but 1, which is its SumPool2d")
        if any(padding) and not (total or module.count_include_pad):
            raise ValueError("NIR's AvgPool2d counts the padding (count_include_pad=True)")
        pool = (nir.SumPool2d if total else nir.AvgPool2d)(np.array(size), np.array(stride), np.array(padding))
        ends = np.array(shape), np.array(call.gave.shape[2:])  # which a graph that starts with a pool needs
        pool.input_type, pool.output_type = {"input": ends[0]}, {"output": ends[1]}
        return pool
    assert isinstance(module, (nn.Conv1d, nn.Conv2d))
    if module.padding_mode != "zeros":
        raise ValueError(f"NIR pads with zeros, not with {module.padding_mode}")
    if module.groups != 1:
        way = "groups=1 with weights of zero between the groups computes the same"
        raise ValueError(f"a file of NIR loses the channels of groups={module.groups}; {way}")
    if len(set(module.kernel_size)) > 1 and module.padding != "same":
        way = "weights of zero around it, and that much more padding, make it square"
        raise ValueError(f"NIR takes kernels for square, and this is of {module.kernel_size}; {way}")
    bias = np.zeros(module.out_channels, np.float32) if module.bias is None else array(module.bias)
    how = module.stride, module.padding, module.dilation
    if isinstance(module, nn.Conv1d):
        return nir.Conv1d(shape[-1], array(module.weight), *(v if isinstance(v, str) else v[0] for v in how), 1, bias)
    return nir.Conv2d(tuple(shape[-2:]), array(module.weight), *how, 1, bias)


def neuron(layer: LIF, shape: torch.Size, dt: float) -> nir.NIRNode:
    n = layer.neuron
    if n.never_fires != isinstance(layer, LeakyIntegrator):
        raise ValueError("NIR has no LIF that never fires; a tgo.LeakyIntegrator is its LI")
    if n.v_reset is None:
        raise ValueError("NIR has no soft reset (v_reset=None)")
    if n.noisy and layer.noise_in_eval:
        raise ValueError("NIR has no noise (noise_in_eval=True)")
    names = (*OWN, *beside_lif(layer.kind), "bias")
    given = {name: getattr(n, name) for name in names} | layer.learned(len(shape) + 2)
    own = {name: np.broadcast_to(array(torch.as_tensor(given[name]).double()), tuple(shape)) for name in names}
    decay, gain, threshold = (own[name] for name in OWN)
    if decay.max(initial=0) > 1:
        raise ValueError(f"NIR has no growing membranes (decay={decay.max():g})")
    for name in ("bias", "shift"):
        if name in own and own[name].any():
            raise ValueError(f"NIR has no neuron with a constant current ({name}={own[name].flat[0]:g})")
    rest = np.full(tuple(shape), n.v_reset)
    if n.strict:  # as at the next number, which is how it is read
        threshold = np.nextafter(threshold.astype(np.float32), np.float32(np.inf)).astype(threshold.dtype)
    ends = {} if n.never_fires else {"v_threshold": threshold.copy(), "v_reset": rest}
    if layer.kind is neurons.SynapticLIF:
        for name in ("decay", "current_decay"):
            if own[name].max(initial=0) >= 1:
                raise ValueError(f"a CubaLIF leaks, and so does its current ({name}={own[name].max():g})")
        tau, tau_syn = dt / (1 - decay), dt / (1 - own["current_decay"])
        constants = {"tau_mem": tau, "tau_syn": tau_syn, "r": gain * tau / dt, "w_in": own["scale"] * tau_syn / dt}
        return nir.CubaLIF(**constants, v_leak=rest, **ends)
    if (decay == 1).all():
        return (nir.I if n.never_fires else nir.IF)(r=gain / dt, **ends)
    if (decay == 1).any():
        raise ValueError("NIR has no layer in which some neurons leak and others do not")
    tau = dt / (1 - decay)
    return (nir.LI if n.never_fires else nir.LIF)(tau=tau, r=gain * tau / dt, v_leak=rest, **ends)


def array(x: Tensor) -> np.ndarray:
    return x.detach().cpu().numpy()
