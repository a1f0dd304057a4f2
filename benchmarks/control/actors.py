"""Networks of the agent: the spiking actor, ReLU networks for proxy and baseline, and two critics."""

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

import tgo_kernels as tgo

STEPS = 5  # of the neurons, for one action
POPULATION = 10  # neurons of an observation's or an action's dimension
ENCODER_THRESHOLD = 0.999
ONE = tgo.FastSigmoid(1e-30)  # 1 / (1 + 1e-30 |d|)^2 is 1 in fp32: the encoder's spikes have derivative 1
FIRES = {"v_threshold": 0.5, "strict": True, "surrogate": tgo.Rectangle(1.0)}  # the reset stays in the graph


@dataclass(frozen=True)
class DN(tgo.neurons.Neuron):
    """Dynamic neuron, second order (MDC-SAN, Zhang et al. 2022; constants of the proxy target's code)::

        c <- c/2 + x
        h <- v + (v^2 - v - u + c);    u <- u + (-.172 v + .529 u)
        s = 1 if h > .5 else 0;        v <- .021 if s else h;    u <- u + .132 s

    The last sign is the code's, by which the published tables came about; the paper has ``-.529 u``.
    """

    v_threshold: float | Tensor = 0.5
    v_reset: float | None = 0.021
    of_v: float | Tensor = -0.172
    of_u: float | Tensor = 0.529
    jump: float | Tensor = 0.132
    current_decay: float | Tensor = 0.5

    @staticmethod
    def step(n: Any, v: Tensor, u: Tensor, c: Tensor, x: Tensor) -> tuple[Tensor, ...]:
        c = n.current_decay * c + x
        h = v + (v * v - v - u + c)
        u = u + (n.of_v * v + n.of_u * u)
        return n.fire(h, n.v_threshold, n.reset_by), u + n.jump * n.spikes, c


class Dynamic(nn.Module):
    """A layer of :class:`DN`, [T, B, N] -> spikes. All states start at 0, which is not what v is reset to."""

    def __init__(self, impl: str) -> None:
        super().__init__()
        self.neuron, self.impl = DN(strict=True, surrogate=FIRES["surrogate"]), impl

    def forward(self, x: Tensor) -> Tensor:
        state = tuple(x.new_zeros(x.shape[1:]) for _ in DN.STATES)
        return tgo.scan(self.neuron, x, state, impl=self.impl).spikes


def neurons(kind: str, impl: str = "auto") -> nn.Module:
    """A layer of them: LIF, ``h = .75 v + x``, CLIF, the same behind a synapse, ``i <- i/2 + x``, or DN."""
    if kind == "DN":
        return Dynamic(impl)
    if kind == "CLIF":
        return tgo.SynapticLIF.from_decay(0.75, current_decay=0.5, impl=impl, **FIRES)
    return tgo.LIF.from_decay(0.75, impl=impl, **FIRES)


class Encoder(nn.Module):
    """Observations [B, D] in [-1, 1] -> spikes [T, B, 10 D], by populations of Gaussian receptive fields (pop-SAN,
    Tang et al. 2020)::

        a = exp(-(o - mu)^2 / (2 sigma^2)),    mu evenly in [-1, 1], sigma = sqrt(.05), both learn
        h = v + a;    s = 1 if h > .999 else 0;    v = h - .999 s,    ds/dh = 1
    """

    def __init__(self, observations: int, impl: str = "auto") -> None:
        super().__init__()
        self.mu = nn.Parameter(torch.linspace(-1, 1, POPULATION).repeat(observations, 1))
        self.sigma = nn.Parameter(torch.full((observations, POPULATION), 0.05**0.5))
        options = {"v_threshold": ENCODER_THRESHOLD, "v_reset": None, "strict": True}
        self.neuron = tgo.LIF.from_decay(1.0, surrogate=ONE, impl=impl, **options)

    def forward(self, observation: Tensor) -> Tensor:
        fields = torch.exp(-0.5 * ((observation.unsqueeze(-1) - self.mu) / self.sigma).square())
        return self.neuron(fields.flatten(1).expand(STEPS, -1, -1))


class SpikingActor(nn.Module):
    """Observations [B, D] -> actions [B, A], at most ``largest`` [A] in size.

    tanh, :class:`Encoder`, two hidden layers and an output population of 10 A neurons. An action is its population's
    rates over the steps, weighted: ``largest tanh(conv(mean_t s))``, a convolution of A groups of 10.
    """

    def __init__(self, kind: str, observations: int, largest: Tensor, hidden: int, impl: str = "auto") -> None:
        super().__init__()
        self.register_buffer("largest", largest)
        actions = len(largest)
        sizes = (POPULATION * observations, hidden, hidden, POPULATION * actions)
        self.encoder = Encoder(observations, impl)
        self.layers = nn.ModuleList(
            nn.Sequential(nn.Linear(before, after), neurons(kind, impl)) for before, after in pairwise(sizes)
        )
        self.decoder = nn.Conv1d(actions, actions, POPULATION, groups=actions)

    def spikes(self, observation: Tensor) -> list[Tensor]:
        """Of the encoder and of each layer, [T, B, neurons]."""
        found = [self.encoder(observation.tanh())]
        for layer in self.layers:
            found.append(layer(found[-1]))
        return found

    def forward(self, observation: Tensor) -> Tensor:
        rates = self.spikes(observation)[-1].mean(0)
        return self.largest * self.decoder(rates.unflatten(1, (-1, POPULATION))).squeeze(-1).tanh()

    @torch.no_grad()
    def firing_rate(self, observation: Tensor) -> float:
        """Spikes of a neuron and step, without the encoder."""
        spikes = self.spikes(observation)[1:]
        return sum(each.sum().item() for each in spikes) / sum(each.numel() for each in spikes)


def mlp(*sizes: int) -> nn.Sequential:
    layers: list[nn.Module] = [nn.Linear(sizes[0], sizes[1])]
    for before, after in pairwise(sizes[1:]):
        layers += [nn.ReLU(), nn.Linear(before, after)]
    return nn.Sequential(*layers)


class Policy(nn.Module):
    """Observations [B, D] -> actions [B, A] by a ReLU network: the proxy, and TD3's own actor."""

    def __init__(self, observations: int, largest: Tensor, hidden: tuple[int, ...]) -> None:
        super().__init__()
        self.register_buffer("largest", largest)
        self.layers = mlp(observations, *hidden, len(largest))

    def forward(self, observation: Tensor) -> Tensor:
        return self.largest * self.layers(observation).tanh()


class Critics(nn.Module):
    """Two values of an action, [B] each."""

    def __init__(self, observations: int, actions: int, hidden: int) -> None:
        super().__init__()
        self.both = nn.ModuleList(mlp(observations + actions, hidden, hidden, 1) for _ in range(2))

    def forward(self, observation: Tensor, action: Tensor) -> list[Tensor]:
        x = torch.cat([observation, action], 1)
        return [critic(x).squeeze(1) for critic in self.both]

    def first(self, observation: Tensor, action: Tensor) -> Tensor:
        return self.both[0](torch.cat([observation, action], 1)).squeeze(1)
