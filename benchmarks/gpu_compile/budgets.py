"""What compiled kernels may cost, what is known to cost more, and the comparison of the two."""

from collections.abc import Iterator
from dataclasses import dataclass

from benchmarks.gpu_compile.code import Case
from benchmarks.gpu_compile.report import Row
from tgo_kernels.surrogate import Curve

REGISTERS = 64
INSTRUCTIONS_PER_NORMAL = {"sm_90": 31, "gfx942": 22}
SLACK = 1.01  # of a known figure


@dataclass(frozen=True)
class Miss:
    """A figure over its limit; more is worse."""

    case: Case
    budget: str
    figure: float
    limit: float

    def __str__(self) -> str:
        return f"{self.case}: {self.budget} {self.figure:.4g}, budget {self.limit:g}"


def accesses_per_16_bytes(row: Row) -> float:
    """1 where every access to a row of x, spikes or their gradients is 128 bits wide."""
    if row.early_barriers is None:  # AMD: the state and the sums are among them, but fewer
        return 128 / min(max(counts, key=lambda width: counts[width]) for counts in (row.loads, row.stores))
    both = [*row.loads.items(), *row.stores.items()]
    return sum(count for _, count in both) / sum(width * count / 128 for width, count in both)


def figures(row: Row) -> Iterator[tuple[str, float, float]]:
    """Name, figure and limit of every budget that a row has."""
    case = row.case
    yield "spills", row.spilled, 0
    if case.curve != Curve.LORENTZ:
        return
    if case.noise and case.guard:
        yield "registers", row.registers, REGISTERS
    if row.early_barriers is not None:
        yield "barriers", row.early_barriers, 0
    else:  # AMD: the final sum of the forward needs 32 bytes, and nothing else may share memory
        yield "shared", row.shared, 32 if case.kernel == "forward" else 0
    yield "accesses per 16 bytes", accesses_per_16_bytes(row), 1 if case.aligned else 2
    if row.bytes is not None:
        yield "bytes", row.bytes, case.budget_bytes
    if row.per_normal is not None and case.target in INSTRUCTIONS_PER_NORMAL and case.aligned:
        yield "instructions per normal", row.per_normal, INSTRUCTIONS_PER_NORMAL[case.target]
    if row.memory_ps and row.issue_ps and case.target == "sm_90":
        narrow = case.noise and case.dtype != "fp32"  # 16 bits halve the memory's time, and not the noise's
        yield "issue floor / memory floor", row.issue_ps / row.memory_ps, 1.25 if narrow else 1


def misses(row: Row) -> list[Miss]:
    return [Miss(row.case, *figure) for figure in figures(row) if figure[1] > figure[2]]


@dataclass(frozen=True)
class Known:
    """A miss that is understood: which cases, which budget, the worst figure measured, and why."""

    engine: str
    kernel: str
    dtypes: tuple[str, ...]
    budget: str
    figure: float
    reason: str
    aligned: bool = True
    noise: bool | None = None  # None: with and without
    targets: tuple[str, ...] = ()  # empty: all

    def covers(self, case: Case) -> bool:
        alike = (case.engine, case.kernel, case.aligned) == (self.engine, self.kernel, self.aligned)
        alike = alike and case.dtype in self.dtypes and self.noise in (None, case.noise)
        return alike and (not self.targets or case.target in self.targets)

    def __str__(self) -> str:
        which = [self.engine, self.kernel, "/".join(self.targets), "/".join(self.dtypes)]
        which += [{True: "noise", False: "no noise", None: ""}[self.noise], "" if self.aligned else "ragged"]
        return f"{' '.join(filter(None, which))}: {self.budget} {self.figure:.4g}. {self.reason}"


def judge(rows: list[Row], known: list[Known]) -> tuple[list[str], list[Known]]:
    """Complaints: misses that are not known or worse than known, and known ones that are gone. And those that stand."""
    complaints: list[str] = []
    worst: dict[Known, float] = {}
    for row in rows:
        for miss in misses(row):
            entry = next((k for k in known if k.budget == miss.budget and k.covers(row.case)), None)
            if entry is None:
                complaints.append(f"{miss}; not known")
            elif miss.figure > entry.figure * SLACK:
                complaints.append(f"{miss}; known was {entry.figure:.4g}")
            if entry is not None:
                worst[entry] = max(worst.get(entry, 0), miss.figure)
    for entry in known:
        if entry not in worst and any(entry.covers(row.case) and entry.budget in has(row) for row in rows):
            complaints.append(f"{entry} -- is gone: take it off the list")
    return complaints, list(worst)


def has(row: Row) -> set[str]:
    return {name for name, _, _ in figures(row)}
