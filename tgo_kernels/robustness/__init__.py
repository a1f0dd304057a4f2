"""How robust a model of spiking neurons is: attacks that see through masked gradients, and the worst case of all.

``evaluate(model, images, labels)`` takes models of tgo_kernels, SpikingJelly and snnTorch as they are. The attacks, the
adaptive surrogates, the rules along rates, the checklist and the diagnostics are of use alone; so are what says which
channels are fragile, and which neurons fire for anything.
"""

from tgo_kernels.robustness import andness, attacks, attribution, channels, diagnostics, rates
from tgo_kernels.robustness.adaptive import AdaptiveATan, sa_pgd
from tgo_kernels.robustness.attribution import naa
from tgo_kernels.robustness.checklist import checklist
from tgo_kernels.robustness.evaluation import accuracy, evaluate, fingerprint, withstood
from tgo_kernels.robustness.outcome import Outcome
from tgo_kernels.robustness.search import local_search
from tgo_kernels.robustness.suite import EFFORTS, Effort, suite
from tgo_kernels.robustness.transfer import transfers
from tgo_kernels.robustness.victim import ANSWERS, Victim

__all__ = [
    "ANSWERS",
    "EFFORTS",
    "AdaptiveATan",
    "Effort",
    "Outcome",
    "Victim",
    "accuracy",
    "andness",
    "attacks",
    "attribution",
    "channels",
    "checklist",
    "diagnostics",
    "evaluate",
    "fingerprint",
    "local_search",
    "naa",
    "rates",
    "sa_pgd",
    "suite",
    "transfers",
    "withstood",
]
