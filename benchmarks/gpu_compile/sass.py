"""What one thread of a compiled NVIDIA kernel executes: its machine code, walked with concrete integers.

A kernel's static instructions say little where loops are rolled, so the code is walked from entry to exit as one thread
of a full block would, with the kernel's sizes and pointers in the constant bank. Integers, predicates and addresses are
computed; floats are left unknown, as is all that is read from memory. Sizes decide nearly every branch. Of the others,
those around a function call (the slow paths of square root and division, for subnormals and infinities) skip it, and
the rest fall through, as in a warp whose threads disagree. An instruction counts whether its predicate holds or not,
since it takes its turn in either case.

Limits: this is a count of instructions issued, not a simulation of pipelines; and a kernel whose branches depended on
data in a larger way than to skip a few instructions would be counted wrongly (the number of such branches is reported).
"""

import re
from collections import Counter
from dataclasses import dataclass, field

from benchmarks.gpu_compile.execute import step
from benchmarks.gpu_compile.thread import Instruction, Thread, is_predicate

TENSOR_SHIFT = 40  # pointers of different tensors differ above this bit
LINE = re.compile(r"\s*/\*[0-9a-f]{4,}\*/\s+(?:@(!?U?P\w+)\s+)?([A-Z][\w.]*)\s*(.*?)\s*;")
LABEL = re.compile(r"(\.L_\w+|\$[^:]+|[\w.$]+):\s*$")
OPERAND = re.compile(r"[^,\[`]*(?:`\([^)]*\)|(?:\[[^\]]*\])+)?[^,\[]*")


@dataclass
class Walk:
    """What was executed: instructions, and bytes by (load or store, tensor number, width)."""

    executed: int = 0
    names: Counter[str] = field(default_factory=Counter)
    accesses: Counter[tuple[str, int | None, int]] = field(default_factory=Counter)
    divergent: int = 0
    order: list[int | str | None] = field(default_factory=list)  # tensors accessed, and "barrier"
    unknown: set[str] = field(default_factory=set)  # integer instructions that the walk does not know

    def early_barriers(self, tensors: tuple[str, ...], rows: tuple[str, ...]) -> int:
        """Barriers before the last access to one of the tensors ``rows``."""
        last = max((n for n, t in enumerate(self.order) if isinstance(t, int) and tensors[t - 1] in rows), default=0)
        return self.order[:last].count("barrier")


def parse(text: str) -> tuple[list[Instruction], dict[str, int]]:
    """Instructions of one function, and where its labels are."""
    code: list[Instruction] = []
    labels = {}
    for line in text.splitlines():
        if match := LINE.match(line):
            guard, opcode, rest = match.groups()
            name, *modifiers = opcode.split(".")
            operands = [o.strip().removesuffix(".reuse") for o in OPERAND.findall(rest) if o.strip()]
            code.append(Instruction(guard or "", name, tuple(modifiers), tuple(operands)))
        elif match := LABEL.match(line):
            labels[match[1]] = len(code)
    return code, labels


def calls(code: list[Instruction], at: int, labels: set[int]) -> bool:
    """Whether the block that begins here calls a function."""
    for n in range(at, len(code)):
        if code[n].name == "CALL" and "$" in code[n].operands[-1]:
            return True
        if code[n].name in ("BRA", "EXIT", "RET") or (n > at and n in labels):
            return False
    return False


def walk(text: str, constants: dict[int, int], index: int, limit: int = 100_000) -> Walk:
    """As the thread ``index`` of its block."""
    code, labels = parse(text)
    thread, seen, at = Thread(constants, index), Walk(), 0
    places, returns = set(labels.values()), list[int]()
    while at < len(code):
        i = code[at]
        seen.executed += 1
        if seen.executed > limit:
            raise RuntimeError(f"no end after {limit} instructions")
        seen.names[i.name] += 1
        taken = thread.predicate(i.guard) if i.guard else True
        if i.name in ("BRA", "EXIT", "CALL", "RET"):
            for operand in i.operands[:-1]:
                if is_predicate(operand):
                    other = thread.predicate(operand)
                    taken = False if False in (taken, other) else None if None in (taken, other) else True
            if i.name == "EXIT":
                if taken:
                    break
                at += 1
                continue
            if i.name == "RET":
                at = returns.pop()
                continue
            target = labels[re.sub(r"^`\(|\)$", "", i.operands[-1])]
            if taken is None:
                if calls(code, at + 1, places):
                    taken = True
                else:
                    taken = False
                    seen.divergent += not calls(code, target, places)
            if taken and i.name == "CALL" and "$" in i.operands[-1]:  # else a far jump
                returns.append(at + 1)
            at = target if taken else at + 1
            continue
        if i.name == "BAR":
            seen.order.append("barrier")
        if taken is not False:
            if i.name in ("LDG", "STG"):
                pointer = next(o for o in i.operands if "[" in o)
                address = thread.address(pointer)
                tensor = None if address is None else address >> TENSOR_SHIFT
                seen.accesses[i.name, tensor, i.width] += 1
                seen.order.append(tensor)
            if taken is None:
                before = dict(thread.registers), dict(thread.predicates)
                seen.unknown |= set() if step(thread, i) else {i.name}
                for now, old in zip((thread.registers, thread.predicates), before, strict=True):
                    for key in now:
                        if now[key] != old.get(key):
                            now[key] = None  # type: ignore[assignment]
            elif not step(thread, i):
                seen.unknown.add(i.name)
        at += 1
    return seen
