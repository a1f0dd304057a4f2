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
import struct
from collections import Counter
from dataclasses import dataclass, field

MASK = 2**32 - 1
TENSOR_SHIFT = 40  # pointers of different tensors differ above this bit
THREAD, PROGRAM = 33, 1  # one that has no part in the sums over its block
LINE = re.compile(r"\s*/\*[0-9a-f]{4,}\*/\s+(?:@(!?U?P\w+)\s+)?([A-Z][\w.]*)\s*(.*?)\s*;")
LABEL = re.compile(r"(\.L_\w+|\$[^:]+|[\w.$]+):\s*$")
OPERAND = re.compile(r"[^,\[`]*(?:`\([^)]*\)|(?:\[[^\]]*\])+)?[^,\[]*")
WIDTHS = {"64": 8, "128": 16, "256": 32, "U8": 1, "S8": 1, "U16": 2, "S16": 2}
COMPARE = {
    "LT": lambda a, b: a < b,
    "LE": lambda a, b: a <= b,
    "GT": lambda a, b: a > b,
    "GE": lambda a, b: a >= b,
    "EQ": lambda a, b: a == b,
    "NE": lambda a, b: a != b,
}


@dataclass(frozen=True)
class Instruction:
    guard: str  # predicate, or ""
    name: str
    modifiers: tuple[str, ...]
    operands: tuple[str, ...]

    @property
    def width(self) -> int:
        return next((WIDTHS[m] for m in self.modifiers if m in WIDTHS), 4)


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


def signed(x: int, bits: int = 32) -> int:
    x &= 2**bits - 1
    return x - 2**bits if x >> (bits - 1) else x


class Thread:
    """Registers hold an integer of 32 bits, or None for what is not known."""

    def __init__(self, constants: dict[int, int]) -> None:
        self.constants = constants  # bytes of bank 0
        self.registers: dict[str, int | None] = {}
        self.predicates: dict[str, bool | None] = {}

    def constant(self, at: int, width: int) -> int | None:
        found = [self.constants.get(at + i) for i in range(width)]
        return None if None in found else int.from_bytes(bytes(b for b in found if b is not None), "little")

    @staticmethod
    def following(name: str, i: int) -> str:
        return re.sub(r"\d+$", lambda m: str(int(m[0]) + i), name)

    def predicate(self, text: str) -> bool | None:
        value = True if text.lstrip("!") in ("PT", "UPT") else self.predicates.get(text.lstrip("!"))
        return value if value is None or text[0] != "!" else not value

    def value(self, text: str, width: int = 4) -> int | None:
        """An operand of 4 or 8 bytes, as a non-negative integer."""
        sign, text = (text[0], text[1:]) if text[0] in "-~" and not re.match(r"-[\d.]", text) else ("", text)
        text = text.strip("|").split(".")[0] if text[0] in "RU|" else text
        found: int | None
        if text in ("RZ", "URZ", "SRZ"):
            found = 0
        elif re.fullmatch(r"U?R\d+", text):
            words = [self.registers.get(self.following(text, i)) for i in range(width // 4)]
            found = None if None in words else sum((w or 0) << 32 * i for i, w in enumerate(words))
        elif match := re.fullmatch(r"c\[0x0\]\[(?:(U?R\w+)\+?)?(-?0x[0-9a-f]+)?\]", text):
            base = self.value(match[1]) if match[1] else 0
            found = None if base is None else self.constant(base + int(match[2] or "0", 16), width)
        elif re.fullmatch(r"-?0x[0-9a-f]+", text):
            found = int(text, 16)
        else:
            try:
                found = int.from_bytes(struct.pack("<f", float(text.replace("QNAN", "nan"))), "little")
            except (ValueError, OverflowError):
                found = None
        if found is None:
            return None
        found = -found if sign == "-" else ~found if sign == "~" else found
        return found & (2 ** (8 * width) - 1)

    def address(self, text: str) -> int | None:
        """Of ``desc[UR4][R2.64+UR6+0x10]``."""
        total = 0
        for term in re.sub(r".*\[", "", text.rstrip("]")).replace("-0x", "+-0x").split("+"):
            if term:
                part = self.value(term, 8 if ".64" in term or term.startswith("UR") else 4)
                if part is None:
                    return None
                total += signed(part) if "0x" in term else part
        return total & (2**64 - 1)

    def set(self, name: str, value: int | None, width: int = 4) -> None:
        if name not in ("RZ", "URZ"):
            for i in range(max(1, width // 4)):
                self.registers[self.following(name, i)] = None if value is None else value >> 32 * i & MASK

    def set_predicate(self, name: str, value: bool | None) -> None:
        if name not in ("PT", "UPT"):
            self.predicates[name] = value


def is_predicate(text: str) -> bool:
    return re.fullmatch(r"!?U?P[T\d]", text) is not None


FLOATS = {"FADD", "FMUL", "FFMA", "FSEL", "FSET", "FADD2", "FMUL2", "FFMA2", "FHADD", "HADD2", "HMUL2", "MUFU", "FCHK"}
FLOATS |= {"DADD", "DFMA", "DMUL", "DSETP", "F2F", "F2FP", "F2I", "I2F", "I2FP", "FMNMX", "HSETP2", "FRND", "FSWZADD"}
OTHERS = {"SHFL", "POPC", "LDSM", "BSSY", "BSYNC", "BREAK", "NOP", "BAR", "WARPSYNC", "YIELD", "STG", "STS", "DEPBAR"}
OTHERS |= {"WARPGROUP", "ERRBAR", "LDS", "LDG", "FLO", "VOTE", "VOTEU", "PREEXIT", "ACQBULK", "CCTL", "R2P", "LDL"}


def step(thread: Thread, i: Instruction) -> bool:
    """Executes what is not control flow; False where the instruction is not known to this walk."""
    outputs: list[str] = []  # the result, and predicates beside it
    for n, operand in enumerate(i.operands):
        if n == 0 or (is_predicate(operand) and operand[0] != "!" and n <= 2 and len(outputs) == n):
            outputs.append(operand)
        else:
            break
    name = i.name[1:] if re.match(r"U(I|L|M|S|P|V|F)", i.name) and i.name != "UP2UR" else i.name
    modifiers = i.modifiers
    if name in ("ISETP", "FSETP", "DSETP", "PLOP3"):
        outputs = list(i.operands[:2])
    if name == "IMNMX" and is_predicate(i.operands[0]):  # two predicates before the result
        outputs = [i.operands[2]]
        sources = list(i.operands[3:-1])
    else:
        sources = list(i.operands[len(outputs) :])
    wide = name in ("IMAD",) and "WIDE" in modifiers
    result_width = 8 if wide or "64" in modifiers or "U64" in modifiers or "S64" in modifiers else 4
    if name in ("LDG", "LDS", "LDL", "LDSM", "LDC", "LDCU"):
        result_width = max(4, i.width)
    if name in ("DADD", "DMUL", "DFMA", "FADD2", "FMUL2", "FFMA2") or (
        name in ("F2F", "I2F") and modifiers[:1] == ("F64",)
    ):
        result_width = 8
    result: int | None = None
    carries: list[bool | None] = [None, None]

    def value(n: int, width: int = 4) -> int | None:
        return thread.value(sources[n], width)

    known = True
    if name in ("STG", "STS", "STL", "BAR", "BSSY", "BSYNC", "NOP"):
        return True
    predicates = [thread.predicate(s) for s in sources if is_predicate(s)]
    plain = [s for s in sources if not is_predicate(s)]
    width = 8 if {"64", "U64", "S64"} & set(modifiers) and name != "SHF" else 4
    values = [thread.value(s, width) for s in plain] if name not in FLOATS | OTHERS | {"LDC", "LDCU", "LDG"} else []
    complete = None not in values and None not in predicates
    unsigned = "U32" in modifiers or "U64" in modifiers
    if name in ("MOV", "R2UR", "MOV32I"):
        result = values[0]
    elif name in ("S2R", "S2UR"):
        result = {"SR_TID.X": THREAD, "SR_CTAID.X": PROGRAM, "SR_LANEID": THREAD % 32}.get(i.operands[1], 0)
    elif name == "CS2R":
        result, result_width = 0, 4 if "32" in modifiers else 8
    elif name == "HFMA2" and {s.lstrip("-") for s in sources[:2]} == {"RZ"}:
        high, low = (struct.pack("<e", float(s)) if abs(float(s)) < 65520 else None for s in sources[2:4])
        result = None if high is None or low is None else int.from_bytes(low + high, "little")
    elif name in ("LDC", "LDCU"):
        result = thread.value(sources[0], max(4, i.width)) if i.width >= 4 else None
        if i.width < 4 and (match := re.search(r"\[(0x[0-9a-f]+)\]$", sources[0])):
            result = thread.constant(int(match[1], 16), i.width)
    elif name == "IMAD":
        if wide:
            values[2] = thread.value(plain[2], 8)
            complete = None not in values and None not in predicates
        zero = 0 in values[:2] and (values[2] is not None) and None not in predicates
        if complete or zero:
            a, b = (0, 0) if zero else (values[0], values[1])
            if (wide or "HI" in modifiers) and not unsigned:
                a, b = signed(a), signed(b)
            total = a * b
            carry = int(predicates[0]) if "X" in modifiers and predicates else 0
            result = (total >> 32) + values[2] if "HI" in modifiers else total + values[2] + carry
            if wide:
                carries[0] = (total % 2**64) + values[2] + carry >= 2**64
            result &= 2 ** (8 * result_width) - 1
    elif name in ("IADD3", "VIADD", "IADD"):
        if complete:
            carry = sum(map(bool, predicates)) if "X" in modifiers else 0
            total = sum(values) + carry
            total += 0 if "X" in modifiers else borrows(plain, values, width)
            carries = [total >> (8 * width) >= 1, total >> (8 * width) >= 2]
            result = total & (2 ** (8 * width) - 1)
    elif name == "LEA":
        shift = int(sources[-1], 16) if not is_predicate(sources[-1]) else int(plain[-1], 16)
        operands = plain[:-1]
        vs = [thread.value(s, width) for s in operands]
        if None not in vs and None not in predicates:
            carry = int(any(map(bool, predicates))) if "X" in modifiers else 0
            if "HI" in modifiers:
                a = signed(vs[0]) if "SX32" in modifiers else vs[0] | (vs[2] << 32 if len(vs) > 2 else 0)
                total = ((a << shift >> 32) & MASK) + vs[1] + carry
            else:
                total = (vs[0] << shift & (2 ** (8 * width) - 1)) + vs[1] + borrows(plain[1:2], vs[1:2], width)
            carries[0] = total >> (8 * width) != 0
            result = total & (2 ** (8 * width) - 1)
    elif name == "SHF":
        if complete:
            low, amount, high = values
            both = high << 32 | low
            if "L" in modifiers:
                amount &= 63
                result = (both << amount >> 32) & MASK if "HI" in modifiers else low << amount & MASK
            elif "HI" in modifiers:
                number = signed(high) if "S32" in modifiers or "S64" in modifiers else high
                result = (number >> amount) & MASK
            else:
                number = signed(both, 64) if "S64" in modifiers else both
                result = (number >> (amount & 63)) & MASK
            result_width = 4
    elif name == "ISETP":
        compare = COMPARE[next(m for m in modifiers if m in COMPARE)]
        outcome: bool | None = None
        if len(values) >= 2 and None not in values[:2]:
            a, b = values[:2] if unsigned else (signed(values[0], 8 * width), signed(values[1], 8 * width))
            outcome = predicates[1] if "EX" in modifiers and a == b else compare(a, b)
        setp(thread, outputs, outcome, predicates[0], modifiers)
        return True
    elif name == "FSETP":
        outcome = None
        magnitudes = [s.strip("-").startswith("|") for s in plain[:2]]
        if None not in values[:2]:
            a, b = (
                struct.unpack("<f", struct.pack("<I", v & (MASK >> m)))[0]
                for v, m in zip(values[:2], magnitudes, strict=True)
            )
            comparison = next((m for m in modifiers if m.removesuffix("U") in COMPARE), "")
            outcome = COMPARE[comparison.removesuffix("U")](a, b) if comparison else None
        setp(thread, outputs, outcome, predicates[0], modifiers)
        return True
    elif name == "LOP3":
        tables = [s for s in plain if re.fullmatch(r"0x[0-9a-f]+", s)]
        inputs = values[:3]
        lut = int(tables[-1], 16)
        if is_predicate(outputs[0]):
            target = sources[0]
            inputs, register = values[1:4], target
        else:
            register = outputs[0]
        bits: int | None = 0
        for minterm in range(8):
            if lut >> minterm & 1:
                terms = [
                    v if minterm >> (2 - n) & 1 else None if v is None else ~v & MASK for n, v in enumerate(inputs)
                ]
                product: int | None = 0 if 0 in terms else MASK
                for t in terms:
                    product = None if t is None and product else 0 if not product else product & (t or 0)
                    if product is None:
                        break
                bits = None if bits is None or product is None else bits | product
        thread.set(register, bits)
        if is_predicate(outputs[0]):
            thread.set_predicate(outputs[0], None if bits is None else bits != 0)
        return True
    elif name == "PLOP3":
        lut = int(plain[0], 16)
        inputs = predicates[:3]
        results = set()
        for minterm in range(8):
            bits_of = [bool(minterm >> (2 - n) & 1) for n in range(3)]
            if all(p is None or p == b for p, b in zip(inputs, bits_of, strict=True)):
                results.add(bool(lut >> minterm & 1))
        thread.set_predicate(outputs[0], results.pop() if len(results) == 1 else None)
        thread.set_predicate(outputs[1], None)
        return True
    elif name == "P2R":
        bits_of = [(n, thread.predicates.get(f"P{n}")) for n in range(7) if int(sources[-1], 16) >> n & 1]
        if all(p is not None for _, p in bits_of):
            result = sum(1 << n for n, p in bits_of if p)
    elif name == "SEL":
        choice = predicates[0]
        result = None if choice is None else values[0] if choice else values[1]
    elif name in ("IMNMX", "VIMNMX", "VIADDMNMX"):
        if name == "VIADDMNMX" and complete:
            values = [(values[0] + values[1]) & MASK, values[2]]
        if None not in values and predicates[-1] is not None:
            numbers = values if unsigned else [signed(v, 8 * width) for v in values]
            result = (min if predicates[-1] else max)(numbers) & (2 ** (8 * width) - 1)
    elif name == "PRMT":
        if complete:
            source = (values[2] << 32 | values[0]).to_bytes(8, "little")
            chosen = []
            for n in range(4):
                selector = values[1] >> 4 * n & 15
                byte = source[selector & 7]
                chosen.append((255 if byte >> 7 else 0) if selector & 8 else byte)
            result = int.from_bytes(bytes(chosen), "little")
    elif name not in FLOATS | OTHERS and name not in ("HFMA2", "UP2UR"):
        known = False
    if outputs and not is_predicate(outputs[0]):
        thread.set(outputs[0], result, result_width)
    else:
        for predicate in outputs[:1]:
            thread.set_predicate(predicate, None)
    for predicate, carry in zip(outputs[1:], carries, strict=False):
        thread.set_predicate(predicate, carry)
    return known


def borrows(texts: list[str], values: list[int], width: int) -> int:
    """What the carry of a sum lacks where the word 0 is negated: -a is ~a + 1, and carries where a is 0."""
    return sum(2 ** (8 * width) for text, v in zip(texts, values, strict=True) if text.startswith("-") and v == 0)


def setp(
    thread: Thread, outputs: list[str], outcome: bool | None, other: bool | None, modifiers: tuple[str, ...]
) -> None:
    """A comparison, combined with a predicate by AND or OR."""

    def combine(value: bool | None) -> bool | None:
        absorbing = "OR" in modifiers
        if value is absorbing or other is absorbing:
            return absorbing
        return None if value is None or other is None else not absorbing

    thread.set_predicate(outputs[0], combine(outcome))
    thread.set_predicate(outputs[1], combine(None if outcome is None else not outcome))


def calls(code: list[Instruction], at: int, labels: set[int]) -> bool:
    """Whether the block that begins here calls a function."""
    for n in range(at, len(code)):
        if code[n].name == "CALL" and "$" in code[n].operands[-1]:
            return True
        if code[n].name in ("BRA", "EXIT", "RET") or (n > at and n in labels):
            return False
    return False


def walk(text: str, constants: dict[int, int], limit: int = 100_000) -> Walk:
    code, labels = parse(text)
    thread, seen, at = Thread(constants), Walk(), 0
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
