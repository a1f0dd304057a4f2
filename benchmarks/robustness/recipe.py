"""Everything that decides what a training ends with."""

import math
from dataclasses import dataclass

import torch

import tgo_kernels as tgo
from benchmarks.inhibition_models import slow
from benchmarks.robustness.models import NETWORKS, Classifier, Pixels, Poisson, classifier
from benchmarks.robustness.neurons import NEURONS, exchanged
from tgo_kernels.inhibition import PAPERS, Circuit

OF_PAPER = ("BPTT", "AT", "RAT")  # methods that TGO is tried with
METHODS = (*OF_PAPER, "TRADES")
PARTS = {"": (False, False), "guard": (True, False), "noise": (False, True), "TGO": (True, True)}  # guard and noise
POWERS = {1: "hinge", 2: "squared"}
CHOICES = {
    "network": NETWORKS,
    "method": METHODS,
    "attack": ("pgd", "fgsm"),
    "optimizer": ("sgd", "adamw"),
    "guard_side": ("both", "below"),
    "guard_power": POWERS,
    "neurons": ("LIF", *NEURONS),
    "input": ("current", "Poisson"),
    "norm": ("batch", "inhibition"),
}


@dataclass(frozen=True)
class Recipe:
    """One training run.

    BPTT trains on the images; AT (adversarial training) on images attacked with ``attack`` within ``eps``; RAT,
    besides, pulls the weights towards orthogonal rows after every update, ``W <- (1 + b) W - b W W^T W``; TRADES (arXiv
    1901.08573) on the images, and on the divergence of an attacked image's answer from the image's, ``beta`` times.
    ``guard`` adds the membrane-distance penalty, on both sides of the threshold or below it alone, to the power of 1 or
    2, and ``noise`` the noisy neurons: both together are TGO.

    ``neurons`` are LIF, or one of :data:`NEURONS`; ``input`` is the image's current in every step, or "Poisson" spikes;
    ``norm`` is "batch", or "inhibition" in its place, which learns slowly, with its paper's reset and surrogate;
    ``scrambled`` weighs the mean spike rate on images whose pixels are shuffled among them (arXiv 2102.07389, ours).

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
    guard_side: str = "both"
    guard_power: int = 1
    beta: float = 6.0
    neurons: str = "LIF"
    input: str = "current"
    norm: str = "batch"
    scrambled: float = 0.0
    width: float = 1.0  # of VGG-11 and its layers
    longer: int = 1  # times the epochs

    def __post_init__(self) -> None:
        for name, known in CHOICES.items():
            if getattr(self, name) not in known:
                raise ValueError(f"{name} must be one of {', '.join(known)}, got {getattr(self, name)!r}")
        for name in ("epochs", "batch", "steps", "attack_steps", "longer"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        for name in ("lr", "momentum", "weight_decay", "eps", "attack_alpha", "retraction", "beta", "scrambled"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be finite and >= 0, got {getattr(self, name)}")

    @property
    def name(self) -> str:
        """Unique among the runs of a study, for instance ``AT+TGO-2``."""
        return f"{self.defence}-{self.seed}"

    @property
    def defence(self) -> str:
        """The method, and what differs from LIF on currents behind batch norms."""
        network = "" if self.network == "conv" else f"{self.network.upper()}-"
        parts = [network + self.method]
        parts += [name for name, switches in PARTS.items() if name and switches == (self.guard, self.noise)]
        if self.guard and (self.guard_side, self.guard_power) != ("both", 1):
            parts[-1] += "-below" if self.guard_side == "below" else f"-{POWERS[self.guard_power]}"
        if self.neurons != "LIF":
            parts.append(self.neurons)
        if self.input == "Poisson":
            parts.append(f"Poisson-T{self.steps}-decay{self.decay:g}")
        if self.norm != "batch":
            parts.append(self.norm)
        if self.scrambled:
            parts.append("scrambled")
        if self.longer > 1:
            parts.append(f"x{self.longer}")
        return "+".join(parts)

    def model(self) -> Classifier:
        """The untrained network, with the same weights for every defence."""
        torch.manual_seed(self.seed)
        steps = 1 if self.neurons == "ANN" else self.steps
        sizes = {"width": self.width} if self.network == "vgg11" else {}
        model = classifier(self.network, self.lif, steps, **sizes)
        if self.input == "Poisson":
            model.encoder = Poisson(steps)
        if self.norm == "inhibition":
            model.layers, model.encoder = tgo.inhibited(model.layers)[0], Pixels(steps)
            for layer in model.modules():
                if isinstance(layer, Circuit):
                    slow(layer)
        model = model.to(memory_format=torch.channels_last)
        return model if self.neurons == "LIF" else exchanged(model, self.neurons)

    def lif(self) -> tgo.LIF:
        guard = {"guard_margin": self.guard_margin, "guard_side": self.guard_side, "guard_power": self.guard_power}
        return tgo.LIF.from_decay(
            self.decay,
            self.gain,
            noise_std=self.noise_std if self.noise else 0.0,
            **{"surrogate": tgo.ATan(self.alpha)} if self.norm == "batch" else PAPERS,
            **guard if self.guard else {},
        )

    def schedule(self) -> tgo.GuardSchedule:
        return tgo.GuardSchedule(self.lambda_max if self.guard else 0.0, total=self.epochs * self.longer)
