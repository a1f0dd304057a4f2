"""What an instruction of an NVIDIA GPU does to a thread's integers and predicates.

Floats, and what is read from memory, become unknown. The carry of a sum whose word is negated follows from -a = ~a + 1.
"""

import re
import struct

from benchmarks.gpu_compile.thread import MASK, Instruction, Thread, is_predicate, signed

PROGRAM = 1
COMPARE = {
    "LT": lambda a, b: a < b,
    "LE": lambda a, b: a <= b,
    "GT": lambda a, b: a > b,
    "GE": lambda a, b: a >= b,
    "EQ": lambda a, b: a == b,
    "NE": lambda a, b: a != b,
}
FLOATS = {"FADD", "FMUL", "FFMA", "FSEL", "FSET", "FADD2", "FMUL2", "FFMA2", "FHADD", "HADD2", "HMUL2", "MUFU", "FCHK"}
FLOATS |= {"DADD", "DFMA", "DMUL", "DSETP", "F2F", "F2FP", "F2I", "I2F", "I2FP", "FMNMX", "HSETP2", "FRND", "FSWZADD"}
OTHERS = {"SHFL", "REDUX", "POPC", "BSSY", "BSYNC", "BREAK", "NOP", "BAR", "WARPSYNC", "YIELD", "STG", "STS", "DEPBAR"}
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
        result = {"SR_TID.X": thread.index, "SR_CTAID.X": PROGRAM, "SR_LANEID": thread.index % 32}.get(i.operands[1], 0)
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
