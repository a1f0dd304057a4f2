"""Everything that decides what a training ends with."""

import math
from dataclasses import dataclass

import torch

import tgo_kernels as tgo
from benchmarks.robustness.models import NETWORKS, Classifier, classifier

METHODS = ("BPTT", "AT", "RAT")


@dataclass(frozen=True)
class Recipe:
    """One training run.

    BPTT trains on the images; AT (adversarial training) on images attacked with ``attack`` within ``eps``; RAT,
    besides, pulls the weights towards orthogonal rows after every update, ``W <- (1 + b) W - b W W^T W``. ``guard``
    adds the membrane-distance penalty and ``noise`` the noisy neurons: both together are TGO.

    Protocol of AT and RAT, SGD with momentum and weight decay under a cosine: that of the code line which TGO compares
    with. Warming the learning rate up for the first tenth, the neuron's constants, ``noise_std``, ``guard_margin``,
    ``lambda_max`` and ``alpha``: ours, found by ``search.py``.
    """

    data: str = "full"
    network: str = "conv"
    method: str = "BPTT"
    guard: bool = False
    noise: bool = False
    seed: int = 0
    epochs: int = 5
    batch: int = 100
    optimizer: str = "sgd"
    lr: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 5e-4
    attack: str = "pgd"  # or "fgsm"
    eps: float = 2 / 255
    attack_alpha: float = 1 / 255
    attack_steps: int = 2
    retraction: float = 1e-3
    steps: int = 4
    decay: float = 0.5
    gain: float = 1.0
    alpha: float = 1.0  # of the surrogate ATan(alpha)
    noise_std: float = 0.1
    guard_margin: float = 0.5
    lambda_max: float = 3.0

    def __post_init__(self) -> None:
        choices = {"network": NETWORKS, "method": METHODS, "attack": ("pgd", "fgsm"), "optimizer": ("sgd", "adamw")}
        for name, known in choices.items():
            if getattr(self, name) not in known:
                raise ValueError(f"{name} must be one of {', '.join(known)}, got {getattr(self, name)!r}")
        for name in ("epochs", "batch", "steps", "attack_steps"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        for name in ("lr", "momentum", "weight_decay", "eps", "attack_alpha", "retraction"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be finite and >= 0, got {getattr(self, name)}")

    @property
    def name(self) -> str:
        """Unique among the runs of a study, for instance ``AT+TGO-2``."""
        return f"{self.defence}-{self.seed}"

    @property
    def defence(self) -> str:
        extra = {(True, True): "+TGO", (True, False): "+guard", (False, True): "+noise", (False, False): ""}
        return self.method + extra[self.guard, self.noise]

    def model(self) -> Classifier:
        """The untrained network, with the same weights for every defence."""
        margin = self.guard_margin if self.guard else 0.0
        options = {"noise_std": self.noise_std if self.noise else 0.0, "guard_margin": margin}
        torch.manual_seed(self.seed)
        surrogate = tgo.ATan(self.alpha)
        model = classifier(
            self.network, lambda: tgo.LIF.from_decay(self.decay, self.gain, surrogate=surrogate, **options), self.steps
        )
        return model.to(memory_format=torch.channels_last)

    def schedule(self) -> tgo.GuardSchedule:
        return tgo.GuardSchedule(self.lambda_max if self.guard else 0.0, total=self.epochs)
