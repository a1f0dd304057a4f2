"""What an evaluation found, image by image: as a record in JSON, and as a table."""

import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tgo_kernels.robustness.suite import against

Bits = dict[str, Tensor]
# In a record: which the evaluation has, versions and threads, and the neurons' constants, which the digest has too.
ATTACKS, MADE, NEURONS = "attacks", "made with", "neurons"


@dataclass
class Outcome:
    """Which images a model got right under each attack."""

    stood: Bits  #: [N] bool by attack; what was wrong before an attack on the survivors did not stand it
    about: dict[str, Any] = field(default_factory=dict)  #: whose model and images, and what the attacks had
    tried: Bits = field(default_factory=dict)  #: [N] bool of the attacks on the survivors: which these were
    spent: dict[str, float] = field(default_factory=dict)  #: seconds by attack
    points: dict[str, Tensor] = field(default_factory=dict)  #: "best": [N, *], of each image the point nearest to wrong

    def __len__(self) -> int:
        return len(self.stood["clean"])

    def first(self, count: int) -> "Outcome":
        """The same of the first images alone."""
        cut = [{name: x[:count] for name, x in each.items()} for each in (self.stood, self.tried, self.points)]
        return Outcome(cut[0], self.about, cut[1], self.spent, cut[2])

    @property
    def through(self) -> bool:
        """Whether all attacks of the evaluation have been tried."""
        return bool(self.stood) and set(self.about.get(ATTACKS, ["?"])) <= self.stood.keys()

    def accuracy(self, name: str) -> float:
        return self.stood[name].float().mean().item()

    @property
    def right(self) -> Tensor:
        """[N] bool: the images that withstand every attack within eps so far."""
        return torch.stack([right for name, right in self.stood.items() if against(name)]).all(0)

    @property
    def worst(self) -> float:
        """Their share."""
        return self.right.float().mean().item()

    @property
    def shares(self) -> dict[str, float]:
        return {name: self.accuracy(name) for name in self.stood} | {"worst": self.worst}

    def found(self, name: str) -> Tensor:
        """[N] bool: the images that this attack was tried on and got wrong."""
        return self.tried.get(name, self.stood["clean"]) & ~self.stood[name]

    @property
    def alone(self) -> dict[str, int]:
        """By attack within eps, how many images no other one got wrong."""
        found = {name: self.found(name) for name in self.stood if against(name)}
        times = torch.stack([each.int() for each in found.values()]).sum(0)
        return {name: int((each & (times == 1)).sum()) for name, each in found.items()}

    def table(self) -> list[str]:
        """In Markdown, the strongest attack last."""
        alone, cells = self.alone, [["attack", "images right (%)", "alone got wrong", "seconds"]]
        for name in sorted(self.stood, key=self.accuracy, reverse=True):
            seconds = f"{self.spent[name]:.1f}" if name in self.spent else ""
            mine = str(alone[name]) if name in alone and name != "clean" else ""
            cells.append([name, f"{100 * self.accuracy(name):.1f}", mine, seconds])
        total = f"{sum(self.spent.values()):.1f}" if self.spent else ""
        return markdown([*cells, ["worst, image by image", f"{100 * self.worst:.1f}", "", total]], left=1)

    def __str__(self) -> str:
        return "\n".join(self.table())

    def write(self, path: Path) -> None:
        """Whole or not at all, with the points beside it."""
        stood = {name: "".join("01"[int(bit)] for bit in right) for name, right in self.stood.items()}
        for name, tried in self.tried.items():
            pairs = zip(stood[name], tried, strict=True)
            stood[name] = "".join(bit if asked else "-" for bit, asked in pairs)
        spent = {name: round(seconds, 2) for name, seconds in self.spent.items()}
        record = {"about": self.about, "stood": stood} | ({"seconds": spent} if spent else {})
        if self.points:
            part = path.with_name(f"{path.name}.{os.getpid()}.part")
            torch.save(self.points, part)
            part.replace(beside(path))
        part = path.with_name(f"{path.name}.{os.getpid()}.part")
        part.write_text(json.dumps(record, indent=1) + "\n")
        part.replace(path)

    @classmethod
    def read(cls, path: Path) -> "Outcome":
        """Empty where there is none."""
        if not path.exists():
            return cls({})
        record = json.loads(path.read_text())
        stood = {name: torch.tensor([bit == "1" for bit in bits]) for name, bits in record["stood"].items()}
        tried = {
            name: torch.tensor([bit != "-" for bit in bits]) for name, bits in record["stood"].items() if "-" in bits
        }
        points = torch.load(beside(path)) if beside(path).exists() else {}
        return cls(stood, record["about"], tried, record.get("seconds", {}), points)


def beside(path: Path) -> Path:
    """Where the points of a record are."""
    return path.with_suffix(".points.pt")


def markdown(cells: list[list[str]], left: int) -> list[str]:
    """An aligned Markdown table: the first line is its head, the first ``left`` columns are text."""
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    rule = ["-" * w if i < left else "-" * (w - 1) + ":" for i, w in enumerate(widths)]
    lines = [
        [cell.ljust(w) if i < left else cell.rjust(w) for i, (cell, w) in enumerate(zip(line, widths, strict=True))]
        for line in cells
    ]
    return [f"| {' | '.join(line)} |" for line in (lines[0], rule, *lines[1:])]
