"""Which neurons the house has, and the texts that list them, which the printer writes with their steps."""

import importlib
import pkgutil
from pathlib import Path

from tgo_kernels import neurons
from tgo_kernels.neurons.base import Neuron

PRINTED = "Printed by tgo_kernels/printer.py"


def kinds() -> dict[str, type[Neuron]]:
    """Of each file of tgo_kernels/neurons that has one its neuron, in the order of their numbers."""
    found: dict[str, type[Neuron]] = {}
    for each in pkgutil.iter_modules(neurons.__path__):
        module = importlib.import_module(f"{neurons.__name__}.{each.name}")
        for kind in vars(module).values():
            here = isinstance(kind, type) and kind.__module__ == module.__name__
            if here and issubclass(kind, Neuron) and vars(kind).get("number", -1) >= 0:
                found[each.name] = kind
    found = dict(sorted(found.items(), key=lambda item: item[1].number))
    numbers = [kind.number for kind in found.values()]
    if numbers != list(range(len(numbers))):
        raise ValueError(f"the numbers of neurons go from 0 on, each once; got {numbers}")
    return found


def struct(name: str) -> str:
    """A step's name in C++, from its file's."""
    return "".join(map(str.capitalize, name.split("_")))


def house_of_neurons() -> str:
    found = kinds()
    names = sorted((kind.__name__ for kind in found.values()), key=lambda name: (not name.isupper(), name))
    return "\n".join(
        [
            f'"""{PRINTED}: the neurons of the house, in the order of their numbers."""',
            "",
            *(f"from tgo_kernels.neurons.{file} import {found[file].__name__}" for file in sorted(found)),
            "",
            "HOUSE = (",
            *(f"    {kind.__name__}," for kind in found.values()),
            ")",
            "",
            "__all__ = [",
            *(f'    "{name}",' for name in names),
            "]",
            "",
        ]
    )


def house_of_layers() -> str:
    """One for each neuron but LIF."""
    others = [kind for kind in kinds().values() if kind.number > 0]
    lines = [
        f'"""{PRINTED}: the layers of the house\'s neurons."""',
        "",
        "from torch import Tensor",
        "",
        "from tgo_kernels import neurons",
        "from tgo_kernels.family import Family",
        "",
        "__all__ = [",
        *(f'    "{name}",' for name in sorted(kind.__name__ for kind in others)),
        "]",
    ]
    for kind in others:
        name, streams = kind.__name__, kind.INPUTS
        of = f" of {len(streams)} currents, [T, *] each" if len(streams) > 1 else ""
        lines += [
            "",
            "",
            f"class {name}(Family):",
            f'    """:class:`tgo_kernels.neurons.{name}` as a layer{of}."""',
            "",
        ]
        lines += [f"    kind = neurons.{name}"]
        if len(streams) > 1:
            typed = ", ".join(f"{stream}: Tensor" for stream in streams)
            lines += ["", f"    def forward(self, {typed}) -> Tensor:  # type: ignore[override]"]
            lines += [f"        return self._output(self._run({', '.join(streams)}))"]
    return "\n".join([*lines, ""])


def house_of_steps(language: str) -> str:
    """The list of the printed steps, for "triton" or "cpp"."""
    found, what = list(kinds()), f"{PRINTED}: the steps of the house, in the order of their numbers."
    if language == "triton":
        lines = [
            f'"""{what}"""',
            "",
            "from tgo_kernels._triton.steps import (",
            *(f"    {n}," for n in sorted(found)),
            ")",
        ]
        return "\n".join([*lines, "", "STEPS = (", *(f"    {name}," for name in found), ")", ""])
    lines = [f"// {what}", "#pragma once", "", *(f'#include "{name}.h"' for name in sorted(found)), ""]
    lines += [
        "namespace tgo {",
        "",
        "using Neurons = House<",
        ",\n".join(f"    {struct(name)}" for name in found) + ">;",
    ]
    return "\n".join([*lines, "", "}  // namespace tgo", ""])


def lists(root: Path) -> dict[Path, str]:
    """The files of all that lists neurons."""
    return {
        root / "tgo_kernels/neurons/house.py": house_of_neurons(),
        root / "tgo_kernels/house.py": house_of_layers(),
        root / "tgo_kernels/_triton/steps/__init__.py": house_of_steps("triton"),
        root / "csrc/steps/house.h": house_of_steps("cpp"),
    }
