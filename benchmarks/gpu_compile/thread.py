"""One thread of an NVIDIA GPU: its registers and predicates, known or not, and the operands of its instructions."""

import re
import struct
from dataclasses import dataclass

MASK = 2**32 - 1
WIDTHS = {"64": 8, "128": 16, "256": 32, "U8": 1, "S8": 1, "U16": 2, "S16": 2}


@dataclass(frozen=True)
class Instruction:
    guard: str  # predicate, or ""
    name: str
    modifiers: tuple[str, ...]
    operands: tuple[str, ...]

    @property
    def width(self) -> int:
        return next((WIDTHS[m] for m in self.modifiers if m in WIDTHS), 4)


def signed(x: int, bits: int = 32) -> int:
    x &= 2**bits - 1
    return x - 2**bits if x >> (bits - 1) else x


class Thread:
    """Registers hold an integer of 32 bits, or None for what is not known."""

    def __init__(self, constants: dict[int, int], index: int) -> None:
        self.index = index  # in its block
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
