"""A model under every attack, image by image, and the worst of them.

The record of one model holds, for each attack, which images withstood it. It is written after each attack, so that an
evaluation goes on where it was stopped.
"""

import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn
from tqdm import tqdm

import tgo_kernels as tgo
from benchmarks.robustness import adaptive, attacks, straight
from benchmarks.robustness.attacks import EPS, Attack

LARGER = (16, 32, 64, 128)  # eps * 255, that shall leave nothing
SWEEP = {"ATan(4)": tgo.ATan(4.0), "Sigmoid(4)": tgo.Sigmoid(4.0), "Triangle(1)": tgo.Triangle(1.0)}
QUIET = "SA-PGD + ASSG, gradients without noise"
Make = Callable[[nn.Module, int], Attack | None]  # the model, and over how many draws of its noise -> the attack


@dataclass(frozen=True)
class Effort:
    """How hard the strong attacks try; the quick study has less time."""

    restarts: int = 3
    apgd_steps: int = 30
    queries: int = 300
    iterations: int = 100  # of SA-PGD
    draws: int = 4  # EoT


QUICK = Effort(restarts=2, apgd_steps=10, queries=50, iterations=20, draws=2)


def suite(effort: Effort, twin: nn.Module | None, noise: bool = False) -> dict[str, Make]:
    """Every attack by name; those in :func:`against` count for the worst case. ``twin``: an undefended model."""

    def pgd(steps: int, alpha: float, eps: float = EPS) -> Make:
        return lambda model, draws: attacks.pgd(model, eps, alpha / 255, steps)

    def along(surrogate: tgo.Surrogate) -> Make:
        return lambda model, draws: attacks.through(surrogate, model, attacks.pgd(model, EPS, 1 / 255, 20))

    def rated(rule: straight.Rule) -> Make:
        return lambda model, draws: straight.along(rule, model, attacks.pgd(model, EPS, 1 / 255, 20))

    made: dict[str, Make] = {
        "clean": lambda model, draws: None,
        "random": lambda model, draws: attacks.random_signs(),
        "FGSM": lambda model, draws: attacks.fgsm(model),
        "RFGSM": lambda model, draws: attacks.rfgsm(model),
        "PGD7": pgd(7, 2.0),
        "PGD10": pgd(10, 2.0),
        "PGD20": pgd(20, 1.0),
        "PGD40": pgd(40, 0.5),
        "PGD40 restarted": lambda model, draws: attacks.repeated(
            model, attacks.pgd(model, EPS, 0.5 / 255, 40), effort.restarts
        ),
        "PGD20, EoT": lambda model, draws: attacks.pgd(attacks.Averaged(model, draws), EPS, 1 / 255, 20),
        "APGD": lambda model, draws: attacks.apgd(model, EPS, effort.apgd_steps, draws),
        "Square": lambda model, draws: attacks.square(model, EPS, effort.queries, draws),
        **{f"PGD20, {name}": along(surrogate) for name, surrogate in SWEEP.items()},
        "PGD20, BPTR": rated(straight.bptr),
        "PGD20, RGA": rated(straight.rga),
        "SA-PGD + ASSG": lambda model, draws: adaptive.sa_pgd(model, EPS, effort.iterations, draws),
        **{f"PGD20, eps {eps}/255": pgd(20, eps / 8, eps / 255) for eps in LARGER},
    }
    if noise:
        made[QUIET] = lambda model, draws: adaptive.sa_pgd(model, EPS, effort.iterations, quiet=True)
    if twin is not None:
        made["transfer"] = lambda model, draws: attacks.pgd(twin, EPS, 1 / 255, 20)
    return made


def against(name: str) -> bool:
    """Whether this attack, within eps 8/255, counts for the worst case. Clean images do: they must be right too."""
    return "eps" not in name


@dataclass
class Outcome:
    """Which images a model got right under each attack."""

    stood: dict[str, Tensor]  #: [N] bool by attack
    about: dict[str, object] = field(default_factory=dict)  #: whose model, and what the attacks had

    def __len__(self) -> int:
        return len(self.stood["clean"])

    def first(self, count: int) -> "Outcome":
        """The same of the first images alone."""
        return Outcome({name: right[:count] for name, right in self.stood.items()}, self.about)

    def accuracy(self, name: str) -> float:
        return self.stood[name].float().mean().item()

    @property
    def worst(self) -> float:
        """Share of the images that withstand every attack within eps."""
        return torch.stack([right for name, right in self.stood.items() if against(name)]).all(0).float().mean().item()

    @property
    def shares(self) -> dict[str, float]:
        return {name: self.accuracy(name) for name in self.stood} | {"worst": self.worst}

    def write(self, path: Path) -> None:
        stood = {name: "".join("01"[int(bit)] for bit in right) for name, right in self.stood.items()}
        part = path.with_name(f"{path.name}.{os.getpid()}.part")
        part.write_text(json.dumps({"about": self.about, "stood": stood}, indent=1) + "\n")
        part.replace(path)

    @classmethod
    def read(cls, path: Path) -> "Outcome":
        """Empty where there is none."""
        if not path.exists():
            return cls({})
        record = json.loads(path.read_text())
        stood = {name: torch.tensor([bit == "1" for bit in bits]) for name, bits in record["stood"].items()}
        return cls(stood, record["about"])


def fingerprint(model: nn.Module) -> str:
    """Of the network, its neurons' constants and its weights."""
    digest = hashlib.sha256(str(model).encode())
    for name, value in model.state_dict().items():
        digest.update(name.encode() + value.contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


def evaluate(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    path: Path,
    *,
    noise: bool,
    effort: Effort,
    twin: nn.Module | None = None,
    batch: int = 125,
) -> Outcome:
    """Runs the attacks that ``path`` does not hold yet. Images that the model gets wrong anyway are not attacked.

    With ``noise`` on, the model answers with the mean of ``attacks.ANSWERS`` draws, and the strong attacks follow that
    of ``effort.draws``, always fresh ones. Each attack starts from the same seed.

    Raises:
        ValueError: ``path`` is the record of another model or effort.
    """
    outcome = Outcome.read(path)
    about = {"model": fingerprint(model), "twin": twin and fingerprint(twin), "noise": noise, "images": len(images)}
    about |= {"digest": hashlib.sha256(images.numpy().tobytes()).hexdigest()[:16], **asdict(effort)}
    if noise:
        about["answers"] = attacks.ANSWERS
    if outcome.stood and outcome.about != about:
        raise ValueError(f"{path} is of another model or effort ({outcome.about}, now {about}): move it away")
    outcome.about = about
    draws = effort.draws if noise else 1
    todo = {name: make for name, make in suite(effort, twin, noise).items() if name not in outcome.stood}
    for name, make in tqdm(todo.items(), desc=f"{path.stem}: attacks", leave=False, disable=None):
        torch.manual_seed(0)
        right = torch.ones(len(images), dtype=torch.bool) if name == "clean" else outcome.stood["clean"].clone()
        if right.any():
            with attacks.evaluating(model, noise):
                attack = make(model, draws)
            options = {"noise": noise, "batch": batch, "name": name}
            right[right.clone()] = attacks.withstood(model, images[right], labels[right], attack, **options)
        outcome.stood[name] = right
        outcome.write(path)
    return outcome
