"""Which attacks an evaluation has, in which order, and how hard they try."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace

from tgo_kernels import surrogate
from tgo_kernels.neurons import check_bool
from tgo_kernels.robustness import attacks, rates
from tgo_kernels.robustness.adaptive import sa_pgd
from tgo_kernels.robustness.attacks import Attack
from tgo_kernels.robustness.search import local_search
from tgo_kernels.robustness.victim import Victim, margin
from tgo_kernels.surrogate import ATan, Surrogate

LARGER = (2, 4, 8, 16)  # times eps, that shall leave nothing
SWEEP: dict[str, Surrogate] = {
    "ATan(4)": ATan(4.0),
    "Sigmoid(4)": surrogate.Sigmoid(4.0),
    "Triangle(1)": surrogate.Triangle(1.0),
}
QUIET = "SA-PGD + ASSG, gradients without noise"
NARROW, FIRST, LAST = 8.0, 8.0, 2.0  # ATan's alpha; of the first layer and of the last
ANNEALED = (1.0, 2.0, 4.0, 8.0, 16.0)


# What found no image alone, that others did not, on LIF networks trained with and without attacks, the guard and noise:
# the study's ``*.idle-*.json`` are records of it.
IDLE = ("RFGSM", "PGD40 restarted", "PGD20, Sigmoid(4)", "PGD20, Triangle(1)", "PGD20, BPTR", "PGD20, RGA")
IDLE_WITH_NOISE = ("APGD", "Square")  # where the noise can be turned off
IDLE_OF_LAYERS = ("SA-PGD + ASSG",)  # where it is, besides, of a fixed width in layers of tgo_kernels


@dataclass(frozen=True)
class Effort:
    """How hard the strong attacks try."""

    restarts: int = 3  #: of PGD-40
    apgd_steps: int = 30
    queries: int = 300  #: of Square
    iterations: int = 100  #: of SA-PGD
    draws: int = 4  #: of the noise behind a gradient (EoT)
    margin_steps: int = 40  #: of PGD on the margin
    search: int = 4000  #: queries of the local search
    many: int = 16  #: draws behind a gradient of the last attacks on a noisy model
    everything: bool = False  #: also the attacks that found nothing alone

    def __post_init__(self) -> None:
        check_bool("everything", self.everything)
        for each in NUMBERS:
            value = getattr(self, each.name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ValueError(f"{each.name} must be an int >= 1, got {value!r}")


NUMBERS = fields(Effort)[:-1]
EFFORTS = {
    "quick": Effort(2, 10, 50, 20, 2, 10, 300, 4),
    "standard": Effort(),
    "full": Effort(5, 100, 1000, 100, 8, 100, 10_000, 32, everything=True),
}


@dataclass(frozen=True)
class Stage:
    """One attack of a suite."""

    attack: Attack | None  #: None: the images as they are
    on: str = "all"  #: the images that it is tried on: "all" that the model labels right, or the "survivors" of all
    start: str = ""  #: from the "best" points of those before it, from the "quiet" ones, or anew
    quiet: bool = False  #: whether its points, made without noise, are where others start
    idle: bool = False  #: whether it is run only where it is named, or by an effort that has everything


def against(name: str) -> bool:
    """Whether this attack, within eps, counts for the worst case. Clean images do: they must be right too."""
    return "eps" not in name


def selected(stages: dict[str, Stage], effort: Effort, names: Sequence[str] | None = None) -> dict[str, Stage]:
    """Those of these names, and "clean"; None: all, or without the idle ones, unless the effort has everything.

    Raises:
        ValueError: one of the names is not known.
    """
    if names is not None:
        if unknown := set(names) - set(stages):
            got = ", ".join(map(repr, sorted(unknown))) + (", which needs a twin" if "transfer" in unknown else "")
            raise ValueError(f"attacks must be of {', '.join(map(repr, stages))}; got {got}")
        return {name: stage for name, stage in stages.items() if name in ("clean", *names)}
    return {name: stage for name, stage in stages.items() if effort.everything or not stage.idle}


def suite(
    victim: Victim, effort: Effort, noise: bool, twins: list[Victim] | None = None, eps: float = attacks.EPS
) -> dict[str, Stage]:
    """Every attack by name, in its order; those in :func:`against` count for the worst case.

    ``twins``: other models that examples are made on, such as an undefended one.
    """
    draws = effort.draws if noise else 1

    def pgd(steps: int, alpha: float, times: float = 1.0, draws: int = 1) -> Attack:
        return attacks.pgd(times * eps, times * alpha * eps, steps, draws=draws)

    def along(surrogate: Surrogate) -> Attack:
        return attacks.through(lambda depth: surrogate, pgd(20, 1 / 8, draws=draws))

    made = {
        "clean": Stage(None),
        "random": Stage(attacks.random_signs(eps)),
        "FGSM": Stage(attacks.fgsm(eps)),
        "RFGSM": Stage(attacks.rfgsm(eps)),
        "PGD7": Stage(pgd(7, 1 / 4)),
        "PGD10": Stage(pgd(10, 1 / 4)),
        "PGD20": Stage(pgd(20, 1 / 8)),
        "PGD40": Stage(pgd(40, 1 / 16)),
        "PGD40 restarted": Stage(attacks.restarted(pgd(40, 1 / 16, draws=draws), effort.restarts)),
        "PGD20, EoT": Stage(pgd(20, 1 / 8, draws=draws)),
        "APGD": Stage(attacks.apgd(eps, effort.apgd_steps, draws)),
        "Square": Stage(attacks.square(eps, effort.queries, draws)),
        **{f"PGD20, {name}": Stage(along(surrogate)) for name, surrogate in SWEEP.items()},
        "PGD20, BPTR": Stage(rates.along(rates.bptr, pgd(20, 1 / 8, draws=draws))),
        "PGD20, RGA": Stage(rates.along(rates.rga, pgd(20, 1 / 8, draws=draws))),
        "SA-PGD + ASSG": Stage(sa_pgd(eps, effort.iterations, draws)),
        **{f"PGD20, eps {255 * eps * k:g}/255": Stage(pgd(20, 1 / 8, k, draws)) for k in LARGER},
    }
    if not rates.applies(victim):
        del made["PGD20, BPTR"], made["PGD20, RGA"]
    if not noise:
        del made["PGD20, EoT"]
    can_be_quiet = noise and victim.can_be_noisy
    if can_be_quiet:
        made[QUIET] = Stage(sa_pgd(eps, effort.iterations, quiet=True))
    if twins:
        made["transfer"] = Stage(attacks.transferred(twins, pgd(20, 1 / 8, draws=draws)))
    made |= noisy(victim, effort, eps, can_be_quiet) if noise else exact(effort, eps)
    idle = set(IDLE)
    if can_be_quiet:
        idle.update(IDLE_WITH_NOISE)
        if victim.switch is None and not any(layer._learn_noise for layer in victim.layers):
            idle.update(IDLE_OF_LAYERS)
    return {name: replace(stage, idle=name in idle) for name, stage in made.items()}


def exact(effort: Effort, eps: float) -> dict[str, Stage]:
    """What comes last without noise: the margin along narrow surrogates, and the search."""
    narrow = on_margin(eps, effort.margin_steps)
    phase = on_margin(eps, max(1, effort.margin_steps // len(ANNEALED)))
    stages = {
        f"margin, ATan({NARROW:g})": attacks.through(fixed(NARROW), narrow),
        f"margin, ATan({FIRST:g}) to ATan({LAST:g}) by layer": attacks.through(by_depth, narrow),
        f"margin, ATan({ANNEALED[0]:g}) to ATan({ANNEALED[-1]:g})": attacks.annealed(
            [fixed(alpha) for alpha in ANNEALED], phase
        ),
        "local search": local_search(eps, effort.search),
    }
    return {name: Stage(attack, "survivors", "best") for name, attack in stages.items()}


def noisy(victim: Victim, effort: Effort, eps: float, can_be_quiet: bool) -> dict[str, Stage]:
    """What comes last with noise: means over many draws, from what is wrong without it."""
    many = attacks.through(fixed(ANNEALED[2]), on_margin(eps, effort.margin_steps, effort.many))
    made = {}
    if can_be_quiet:
        narrow = attacks.quietly(attacks.through(fixed(NARROW), on_margin(eps, effort.margin_steps)))
        made["margin, without noise"] = Stage(narrow, "survivors", "best", quiet=True)
        made["local search, without noise"] = Stage(local_search(eps, effort.search), "survivors", "quiet", quiet=True)
    made[f"margin, EoT-{effort.many}"] = Stage(many, "survivors", "quiet" if can_be_quiet else "best")
    if any(layer.neuron.noisy for layer in victim.layers):
        width = attacks.through(lambda depth: surrogate.NoisePDF(), on_margin(eps, effort.margin_steps, effort.many))
        made[f"margin, NoisePDF, EoT-{effort.many}"] = Stage(width, "survivors", "best")
    if not can_be_quiet:
        blind = local_search(eps, max(1, effort.search // effort.many), draws=effort.many)
        made[f"local search, EoT-{effort.many}"] = Stage(blind, "survivors", "best")
    return made


def on_margin(eps: float, steps: int, draws: int = 1) -> Attack:
    return attacks.pgd(eps, eps / 8, steps, loss=margin, draws=draws, best=True)


def fixed(alpha: float) -> Callable[[float], Surrogate]:
    return lambda depth: ATan(alpha)


def by_depth(depth: float) -> Surrogate:
    """From the first layer to the last along a geometric row."""
    return ATan(FIRST * (LAST / FIRST) ** depth)
