"""What decides the weights that a training ends with.

The defaults are those of the paper's tables and of its authors' code.
"""

import math
from dataclasses import asdict, dataclass
from typing import Any

NEURONS = ("LIF", "CLIF", "DN", "ReLU")
TARGETS = ("proxy", "average")
PROXY_LR = {"LIF": 1e-3, "CLIF": 3e-3, "DN": 3e-3, "ReLU": 1e-3}  # that of ReLU is ours: LIF's
FASTER = {"proxy_updates": 1, "proxy_lr": 3e-3}  # the paper's: under 1 % is lost


@dataclass(frozen=True)
class Settings:
    """One training.

    ``neuron`` is that of the actor; "ReLU" is an ordinary network. ``target`` is what gives the next action in the
    critics' target: "proxy", a ReLU network that follows the actor by ``proxy_updates`` steps of Adam at ``proxy_lr``
    (None: that of the neuron) in each step, or "average", TD3's own, the average of the actor's weights.

    ``warm_up`` steps are random. Returns are of ``episodes`` without noise, every ``evaluate_every`` steps; a training
    ends early where their mean is ``stop_at`` or more.
    """

    env: str
    neuron: str = "LIF"
    target: str = "proxy"
    seed: int = 0
    steps: int = 1_000_000
    warm_up: int = 25_000
    proxy_updates: int = 3
    proxy_lr: float | None = None
    lr: float = 3e-4
    gamma: float = 0.99
    tau: float = 0.005
    exploration: float = 0.1
    batch: int = 256
    hidden: int = 256
    evaluate_every: int = 5_000
    episodes: int = 10
    stop_at: float | None = None

    def __post_init__(self) -> None:
        for name, known in {"neuron": NEURONS, "target": TARGETS}.items():
            if getattr(self, name) not in known:
                raise ValueError(f"{name} must be one of {', '.join(known)}, got {getattr(self, name)!r}")
        for name in ("steps", "warm_up", "proxy_updates", "batch", "hidden", "evaluate_every", "episodes"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.seed < 0:
            raise ValueError(f"seed must be at least 0, got {self.seed}")
        if self.proxy_lr is None:
            object.__setattr__(self, "proxy_lr", PROXY_LR[self.neuron])
        for name in ("proxy_lr", "lr", "tau", "exploration"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be finite and above 0, got {getattr(self, name)}")
        if self.tau > 1:
            raise ValueError(f"tau must be at most 1, got {self.tau}")
        if not 0 <= self.gamma < 1:
            raise ValueError(f"gamma must be at least 0 and below 1, got {self.gamma}")

    @property
    def name(self) -> str:
        return f"{self.env.replace('/', '_')}-{self.neuron}-{self.target}-{self.seed}"

    @property
    def proxy(self) -> tuple[int, int]:
        """Sizes of the proxy's hidden layers."""
        wide = self.neuron == "CLIF" and not self.env.startswith("InvertedDoublePendulum")
        return (800, 600) if wide else (512, 512)

    def described(self) -> dict[str, Any]:
        """As columns of a table; without a proxy there are none of its settings."""
        about = asdict(self)
        return about if self.target == "proxy" else about | {"proxy_updates": None, "proxy_lr": None}
