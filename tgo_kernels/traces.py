"""What a module's forward does with its submodules, read from torch.fx."""

import copy

import torch
from torch import Tensor, fx, nn

WAYS = 32  # through a forward that are looked at


def traced(module: nn.Module) -> tuple[list[list[fx.Node]], str]:
    """Of its forward, one for each way that its branches on tensors may take; or why there is none.

    It runs with no tensors; what it changes in the module or draws is undone.
    """
    graphs: list[list[fx.Node]] = []
    ways: list[tuple[bool, ...]] = [()]
    seen, error = 0, ""
    state = torch.get_rng_state()
    try:
        while ways and seen < WAYS:
            tracer = _OneLevel(ways.pop())
            try:
                graphs.append(list(tracer.trace(_shadow(module)).nodes))
            except Exception as raised:  # whatever a forward raises that is given no tensors
                why = (str(raised) or repr(raised)).splitlines()[0].split(". ")[0]
                error = error or f"cannot be traced ({why[:80]})"
            ways += tracer.others
            seen += 1
    finally:
        torch.set_rng_state(state)
    return graphs, "" if graphs else error


def _shadow(module: nn.Module) -> nn.Module:
    shadow: nn.Module = object.__new__(type(module))  # copy.copy would run the __init__ of one that FSDP shards
    modules = {id(each): each for each in module.modules()}
    vars(shadow).update(vars(module))
    for attribute, value in vars(module).items():
        if attribute not in ("_modules", "_parameters") and "hooks" not in attribute and not isinstance(value, Tensor):
            try:
                vars(shadow)[attribute] = copy.deepcopy(value, dict(modules))
            except Exception:  # what cannot be copied is not kept from it
                vars(shadow)[attribute] = value
    return shadow


class _OneLevel(fx.Tracer):
    """Takes one way: branches on tensors answer as ``way`` says and then False; ``others`` are those that say True."""

    def __init__(self, way: tuple[bool, ...]) -> None:
        super().__init__()
        self.way, self.asked = way, 0
        self.others: list[tuple[bool, ...]] = []

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return True

    def to_bool(self, obj: fx.Proxy) -> bool:
        if self.asked == WAYS:
            return super().to_bool(obj)
        self.asked += 1
        if self.asked <= len(self.way):
            return self.way[self.asked - 1]
        self.others.append((*self.way, *[False] * (self.asked - 1 - len(self.way)), True))
        return False
