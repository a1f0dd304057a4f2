"""From a neuron's step in plain torch to its text for the engines, in Triton and in C++, and that of its reverse.

The step is traced into a graph, and its vector-Jacobian product into another (``make_fx``, ``torch.func.vjp``). They
are printed operator by operator, in the graph's order and grouped as it is, so that all engines round alike. Firing is
one operator, with the noise, the reset and the surrogate in it: every engine has it by hand (``fire``, ``fire_back``).

    python -m tgo_kernels.printer    # prints the steps of the house anew, and what lists them
"""

import operator
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx
from torch.fx.experimental.proxy_tensor import make_fx

from tgo_kernels import registry
from tgo_kernels.languages import Cpp, Language, Triton

ROOT = Path(__file__).parents[1]
Tensors = tuple[Tensor, ...]

LIBRARY = torch.library.Library("tgo_kernels_step", "DEF")
LIBRARY.define("fire(Tensor h, Tensor threshold, Tensor by, Tensor noise_std) -> (Tensor after, Tensor s)")
LIBRARY.define(
    "fire_back(Tensor g_s, Tensor g_after, Tensor h, Tensor threshold, Tensor by, Tensor noise_std)"
    " -> (Tensor g_h, Tensor g_threshold, Tensor g_by, Tensor g_std)"
)
for _name, count in (("fire", 2), ("fire_back", 4)):  # as in a graph: of these shapes
    LIBRARY.impl(_name, lambda *given, count=count: tuple(map(torch.clone, given[:count])), "CompositeExplicitAutograd")
FIRE, FIRE_BACK = torch.ops.tgo_kernels_step.fire.default, torch.ops.tgo_kernels_step.fire_back.default


class _Fire(torch.autograd.Function):
    @staticmethod
    def forward(*given: Tensor) -> Tensors:
        return FIRE(*given)

    @staticmethod
    def setup_context(ctx, inputs, output) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx, g_after, g_s):
        return FIRE_BACK(g_s, g_after, *ctx.saved_tensors)


class Traced:
    """What a step is given while it is traced: the constants by name, and a firing that is one operator."""

    after: Tensor
    spikes: Tensor
    times = 0  # that it fired

    def __init__(self, names: Sequence[str], values: Tensors) -> None:
        self.__dict__.update(zip(names, values, strict=True))

    def fire(self, h: Tensor, threshold: Tensor, by: Tensor) -> Tensor:
        self.times += 1
        threshold, by = (each if isinstance(each, Tensor) else torch.full_like(h, each) for each in (threshold, by))
        self.after, self.spikes = _Fire.apply(h, threshold, by, self.noise_std)  # type: ignore[attr-defined]
        return self.after

    def __getattr__(self, name: str) -> Any:
        known = ", ".join(each for each in vars(self) if each not in ("after", "spikes", "times"))
        raise AttributeError(f"a step has no n.{name}; it has {known}, fire and, once it has fired, spikes")


def graphs(neuron: Any) -> tuple[fx.Graph, fx.Graph]:
    """Of the step, from (states, inputs, constants) to states and spikes, and of its reverse."""

    def step(states: Tensors, inputs: Tensors, constants: Tensors) -> tuple[Tensors, Tensor]:
        n = Traced(neuron.CONSTANTS, constants)
        return neuron.step(n, *states, *inputs), n.spikes

    def back(states: Tensors, inputs: Tensors, constants: Tensors, g_states: Tensors, g_s: Tensor) -> Any:
        return torch.func.vjp(step, states, inputs, constants)[1]((g_states, g_s))

    given = [
        tuple(torch.ones(1, dtype=torch.float32) for _ in names)
        for names in (neuron.STATES, neuron.INPUTS, neuron.CONSTANTS)
    ]
    g_states = tuple(map(torch.ones_like, given[0]))
    return make_fx(step)(*given).graph, make_fx(back)(*given, g_states, torch.ones_like(g_states[0])).graph


POWERS = 2, 3  # as which torch, too, takes products


def plainer(name: str, args: list[Any]) -> tuple[str, list[Any]]:
    """An operator by others."""
    x, *more = args
    name = name.replace("bitwise_", "logical_")
    if name == "logical_and_":
        return "logical_and", args
    if name == "rsub":
        return "sub", [*more, x]
    if name == "full_like":
        return "scalar_tensor", more
    if name == "relu":
        return "maximum", [x, 0.0]
    if name == "clamp_min" or (name == "clamp" and more[1:] in ([], [None])):
        return "maximum", [x, more[0]]
    if name == "clamp_max" or (name == "clamp" and more[0] is None):
        return "minimum", [x, more[-1]]
    if name == "masked_fill_":
        return "where", [*more, x]
    if name == "threshold_backward":
        return name, [*more, x]
    return name, args


class Text:
    """A graph in a language: what is used once stands where it is used, all else is a line with a name."""

    def __init__(self, graph: fx.Graph, names: Sequence[str], language: type[Language]) -> None:
        self.language, self.lines = language, list[str]()
        placeholders = [node for node in graph.nodes if node.op == "placeholder"]
        self.names: dict[fx.Node, str] = dict(zip(placeholders, names, strict=True))
        self.read: set[str] = set()
        (output,) = (node for node in graph.nodes if node.op == "output")
        fire = next((node for node in graph.nodes if node.target is FIRE), None)
        back = next((node for node in graph.nodes if node.target is FIRE_BACK), None)
        if back is not None:  # what the forward has found is at hand
            if fire is not None:
                self.names[fire] = "fired"
            for node, name in zip(back.args[2:4], ("h", "threshold"), strict=True):
                self.names.setdefault(node, language.FIRED[name])
        results = ("after", language.FIRED["s"]) if back is None else ("g_h", "g_threshold", "g_by", "g_std")
        found = language.FIRED["after"], language.FIRED["s"]
        at: Any = fire if back is None else back
        for node in graph.nodes:
            if node.target is operator.getitem:
                self.names[node] = results[node.args[1]] if node.args[0] is at else found[node.args[1]]
        uses = self.uses(output.args[0])
        for node in graph.nodes:
            if node is at:
                self.results, self.arguments = results, list(map(self.written, self.operands(node)))
                self.fired_at = len(self.lines)
            elif uses[node] > 1 and node not in self.names:
                name = f"t{len(self.lines)}"
                declare = language.declare_bool if node.meta["val"].dtype == torch.bool else language.declare
                self.lines.append(f"{declare}{name} = {self.phrase(node)[0]}")
                self.names[node] = name
        self.outputs = [self.written(node) for node in output.args[0]]

    def unpacked(self, line: str, neuron: Any, *g_states: str) -> list[str]:
        """What is read of the groups that a step is given, each by ``line`` with its name, group and place."""
        groups = dict(zip(("states", "inputs", "constants"), names_of(neuron), strict=True)) | {"g_states": g_states}
        given = [(n, group, i) for group, names in groups.items() for i, n in enumerate(names) if n in self.read]
        return [line.format(*each) for each in given]

    @staticmethod
    def operands(node: fx.Node) -> list[Any]:
        return list(node.args[:2] if node.target is FIRE_BACK else node.args)

    def uses(self, outputs: Sequence[fx.Node]) -> Counter[fx.Node]:
        found, waiting = Counter[fx.Node](), list(outputs)
        while waiting:
            node = waiting.pop()
            found[node] += 1
            if found[node] == 1 and (node not in self.names or node.target is operator.getitem):
                waiting += [a for a in self.operands(node) if isinstance(a, fx.Node)]
        return found

    def factor(self, value: Any, least: int) -> str:
        """An operand of arithmetic, where what is true is 1."""
        if isinstance(value, fx.Node) and value.meta["val"].dtype == torch.bool:
            return self.language.CALLS["_to_copy"].format(self.written(value, 1))
        return self.written(value, least)

    def written(self, value: Any, least: int = 0) -> str:
        """An operand; in parentheses if it does not bind at least so tightly."""
        if not isinstance(value, fx.Node):
            return self.language.number(value)
        if value in self.names:
            self.read.add(self.names[value])
            return self.names[value]
        phrase, tightness = self.phrase(value)
        return phrase if tightness >= least else f"({phrase})"

    def phrase(self, node: fx.Node) -> tuple[str, int]:
        if node.op == "get_attr":
            raise NotImplementedError("a tensor that is no state, input or constant of the step")
        name, args = plainer(str(node.target).split(".")[1], list(node.args))
        if name == "pow" and args[1] == 1:
            return self.written(args[0], 4), 4
        if name == "pow" and args[1] in POWERS:
            return " * ".join([self.written(args[0], 3)] * int(args[1])), 2
        if name == "neg":
            return f"-{self.factor(args[0], 3)}", 3
        if name == "add" and any(self.names.get(a) == "g_s" for a in args):  # which may be missing
            name, args = "plus", sorted(args, key=lambda a: self.names.get(a) != "g_s")
        if name in self.language.BINARY:
            sign, tightness = self.language.BINARY[name]
            return f"{self.factor(args[0], tightness)} {sign} {self.factor(args[1], tightness + 1)}", tightness
        if name in self.language.COMPARED:
            return f"{self.written(args[0], 1)} {self.language.COMPARED[name]} {self.written(args[1], 1)}", 0
        if name in self.language.CALLS:
            call = self.language.CALLS[name]
            count = call.count("{}") or "{0}" in call
            return call.format(*(self.written(a, 1) for a in args[:count])), 4
        raise NotImplementedError(f"the printer does not know the operator {node.target}, in {node.format_node()}")


def names_of(neuron: Any) -> tuple[Sequence[str], ...]:
    """Of states, inputs and constants; a user's own may be words of a language, or of the printer's."""
    groups = neuron.STATES, neuron.INPUTS, neuron.CONSTANTS
    return tuple([f"{name}_" for name in names] for names in groups) if neuron.ITS_OWN else groups


def texts(neuron: Any, language: type[Language]) -> tuple[Text, Text]:
    states, inputs, constants = names_of(neuron)
    given = (*states, *inputs, *constants)
    forward, back = graphs(neuron)
    return Text(forward, given, language), Text(back, (*given, *(f"g_{s}" for s in states), "g_s"), language)


def tuple_of(items: Sequence[str], indent: int = 8, before: str = "") -> str:
    """A tuple, or the arguments of a call, after some text; over several lines if one is too long."""
    line = f"{before}({', '.join(items)}{',' if len(items) == 1 else ''})"
    if indent + len(line) < 120:
        return line
    return "\n".join([f"{before}(", *(f"{' ' * (indent + 4)}{item}," for item in items), f"{' ' * indent})"])


def triton(name: str, neuron: Any) -> str:
    """The module of a step and its reverse."""
    forward, back = texts(neuron, Triton)
    g_states, line = [f"g_{state}" for state in names_of(neuron)[0]], "    {} = {}[{}]"
    sizes = len(neuron.STATES), len(neuron.STATES) + len(neuron.INPUTS)
    g = back.outputs
    lines = [
        "@triton.jit",
        "def step(states, inputs, constants, firing, F: tl.constexpr):",
        *forward.unpacked(line, neuron),
        *(f"    {each}" for each in forward.lines),
        "    " + tuple_of([*forward.arguments, "firing", "F"], 4, "after, fired = fire"),
        f"    return {tuple_of(forward.outputs[: sizes[0]], 4)}, fired",
        "",
        "",
        "@triton.jit",
        "def step_back(states, inputs, constants, fired, firing, g_states, g_s, F: tl.constexpr):",
        *back.unpacked(line, neuron, *g_states),
        *(f"    {each}" for each in back.lines[: back.fired_at]),
        "    " + tuple_of([*back.arguments, "fired", "firing", "F"], 4, f"{', '.join(back.results)} = fire_back"),
        *(f"    {each}" for each in back.lines[back.fired_at :]),
        "    return (",
        *(f"        {tuple_of(part)}," for part in (g[: sizes[0]], g[sizes[0] : sizes[1]], g[sizes[1] :])),
        "    )",
        "",
    ]
    body = "\n".join(lines)
    helpers = [
        each
        for each in ("after_of", "fire", "fire_back", "larger", "plus", "smaller", "spike_of")
        if f"{each}(" in body
    ]
    head = [
        f'"""Printed by tgo_kernels/printer.py from the step of tgo_kernels/neurons/{name}.py."""',
        "",
        "import triton",
        "import triton.language as tl",
        "",
        f"from tgo_kernels._triton.math import {', '.join(helpers)}",
        "",
        "",
        "",
    ]
    return "\n".join(head) + body


def cpp(name: str, neuron: Any) -> str:
    """The header of a step and its reverse."""
    forward, back = texts(neuron, Cpp)
    states, inputs, constants = names_of(neuron)
    g_states, line = [f"g_{state}" for state in states], "const F {} = {}[{}];"
    gradients = iter(back.outputs)
    ends = "g_states", "g_inputs", "g_constants"
    sizes = len(states), len(inputs), len(constants)
    assigned = [f"{to}[{i}] = {next(gradients)};" for to, size in zip(ends, sizes, strict=True) for i in range(size)]
    first = [
        *forward.unpacked(line, neuron),
        *(f"{each};" for each in forward.lines),
        f"const F after = fire({', '.join(forward.arguments)}, f, xi, found);",
        *(
            ["const Fired<F>& fired = *found;"]
            if any("fired" in output for output in forward.outputs[: len(states)])
            else []
        ),
        *(f"states[{i}] = {output};" for i, output in enumerate(forward.outputs[: len(states)])),
    ]
    second = [
        *back.unpacked(line, neuron, *g_states),
        *(f"{each};" for each in back.lines[: back.fired_at]),
        f"const auto [{', '.join(back.results)}] = fire_back({', '.join(back.arguments)}, g_m, fired, f, xi);",
        *(f"{each};" for each in back.lines[back.fired_at :]),
        *assigned,
    ]
    indented = ["\n".join(f"    {each}" for each in part) for part in (first, second)]
    return f"""// Printed by tgo_kernels/printer.py from the step of tgo_kernels/neurons/{name}.py.
#pragma once

#include "../fire.h"

namespace tgo {{

struct {registry.struct(name)} {{
  static constexpr int kStates = {len(states)}, kInputs = {len(inputs)}, kConstants = {len(constants)};
  static constexpr Spikes kSpikes = Spikes::k{neuron.SPIKES.name.capitalize()};

  template <class F, class Flags>
  static TGO_HD void step(F states[], const F inputs[], const F constants[], const Flags& f, F xi, Fired<F>* found) {{
{indented[0]}
  }}

  template <class F, class Flags>
  static TGO_HD void step_back(const F states[], const F inputs[], const F constants[], const Fired<F>& fired,
                               const Flags& f, F xi, F g_s, F g_m, F g_states[], F g_inputs[],
                               F g_constants[]) {{
{indented[1]}
  }}
}};

}}  // namespace tgo
"""


def house() -> dict[Path, str]:
    """The files of the house's steps, and those that list them."""
    files = registry.lists(ROOT)
    for name, neuron in registry.kinds().items():
        files[ROOT / "tgo_kernels/_triton/steps" / f"{name}.py"] = triton(name, neuron)
        files[ROOT / "csrc/steps" / f"{name}.h"] = cpp(name, neuron)
    return files


if __name__ == "__main__":
    for path, text in house().items():
        path.write_text(text)
        print(path.relative_to(ROOT))
