"""TD3 (Fujimoto et al. 2018, arXiv 1802.09477), with a proxy in the place of the target actor (arXiv 2505.24161)."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.control.actors import Critics, Policy, SpikingActor
from benchmarks.control.settings import Settings

SMOOTHING, SMOOTHING_LIMIT = 0.2, 0.5  # of the largest action
ACTOR_EVERY = 2
WINDOW = 1_000_000  # transitions that are sampled from, the last ones


class Batch(NamedTuple):
    observation: Tensor  # [B, D]
    action: Tensor  # [B, A]
    reward: Tensor  # [B]
    after: Tensor  # [B, D], the next observation
    ended: Tensor  # [B], 1 where the episode came to its end, which its limit of steps is not


class Replay:
    """All transitions of a training, in a file that is mapped into memory.

    Nothing is written over: what a checkpoint needs is there whatever came after it.
    """

    def __init__(self, path: Path, steps: int, observations: int, actions: int) -> None:
        widths = (observations, actions, 1, observations, 1)
        ends = np.cumsum(widths)
        self.columns = [slice(end - width, end) for end, width in zip(ends, widths, strict=True)]
        shape = (steps, int(ends[-1]))
        size = 4 * shape[0] * shape[1]
        mode = "r+" if path.exists() and path.stat().st_size == size else "w+"
        self.rows = np.memmap(path, np.float32, mode, shape=shape)
        self.path = path

    def add(self, at: int, *parts: np.ndarray | float) -> None:
        """The transition of that number."""
        for columns, part in zip(self.columns, parts, strict=True):
            self.rows[at, columns] = part

    def sample(self, random: np.random.Generator, count: int, known: int) -> Batch:
        """With replacement, from the last :data:`WINDOW` of so many that are known."""
        chosen = self.rows[random.integers(max(0, known - WINDOW), known, count)]
        parts = [torch.from_numpy(chosen[:, columns]) for columns in self.columns]
        return Batch(*(part.squeeze(1) if i in (2, 4) else part for i, part in enumerate(parts)))


class TD3(nn.Module):
    """The agent: its networks, their optimizers, and one update of all.

    ``target`` gives the next action: the proxy, or the average of the actor's weights.
    """

    def __init__(self, settings: Settings, observations: int, largest: np.ndarray, impl: str = "auto") -> None:
        super().__init__()
        torch.manual_seed(settings.seed)
        self.settings = settings
        bound = torch.from_numpy(largest)
        self.actor: nn.Module
        if settings.neuron == "ReLU":
            self.actor = Policy(observations, bound, (settings.hidden,) * 2)
        else:
            self.actor = SpikingActor(settings.neuron, observations, bound, settings.hidden, impl)
        self.critics = Critics(observations, len(largest), settings.hidden)
        self.critic_targets = copy.deepcopy(self.critics)
        self.by_proxy = settings.target == "proxy"
        self.target = Policy(observations, bound, settings.proxy) if self.by_proxy else copy.deepcopy(self.actor)
        rates = {"actor": settings.lr, "critics": settings.lr} | (
            {"target": settings.proxy_lr} if self.by_proxy else {}
        )
        self.optimizers = {
            name: torch.optim.Adam(getattr(self, name).parameters(), lr, fused=True) for name, lr in rates.items()
        }

    @torch.no_grad()
    def act(self, observation: np.ndarray) -> np.ndarray:
        """[D] -> [A], without noise."""
        return self.actor(torch.from_numpy(observation).unsqueeze(0))[0].numpy()

    def explore(self, observation: np.ndarray, random: np.random.Generator) -> np.ndarray:
        largest = self.actor.largest.numpy()
        noise = self.settings.exploration * largest * random.standard_normal(len(largest), np.float32)
        return (self.act(observation) + noise).clip(-largest, largest)

    def update(self, number: int, sample: Callable[[], Batch], random: np.random.Generator) -> None:
        """The update of that number, from 1 on: proxy, critics, and every second time the actor and the averages.

        The critics and the actor have the last batch that the proxy had.
        """
        if self.by_proxy:
            for _ in range(self.settings.proxy_updates):
                batch = sample()
                self.follow(batch.observation)
        else:
            batch = sample()
        wanted = self.targets(batch, random)
        self.descend("critics", sum(F.mse_loss(q, wanted) for q in self.critics(batch.observation, batch.action)))
        if number % ACTOR_EVERY == 0:
            self.critics.requires_grad_(False)
            self.descend("actor", -self.critics.first(batch.observation, self.actor(batch.observation)).mean())
            self.critics.requires_grad_(True)
            average(self.critic_targets, self.critics, self.settings.tau)
            if not self.by_proxy:
                average(self.target, self.actor, self.settings.tau)

    def follow(self, observation: Tensor) -> None:
        """A step of the proxy towards the actor: the mean over batch and action of ``(actor - proxy)^2``."""
        with torch.no_grad():
            wanted = self.actor(observation)
        self.descend("target", F.mse_loss(self.target(observation), wanted))

    @torch.no_grad()
    def targets(self, batch: Batch, random: np.random.Generator) -> Tensor:
        """``r + gamma (1 - ended) min_i Q'_i(s', clip(target(s') + clip(noise)))``, [B]."""
        largest = self.actor.largest
        noise = torch.from_numpy(random.standard_normal(batch.action.shape, np.float32))
        noise = (SMOOTHING * noise).clamp(-SMOOTHING_LIMIT, SMOOTHING_LIMIT) * largest
        action = (self.target(batch.after) + noise).clamp(-largest, largest)
        return batch.reward + self.settings.gamma * (1 - batch.ended) * torch.minimum(
            *self.critic_targets(batch.after, action)
        )

    def descend(self, name: str, loss: Tensor) -> None:
        self.optimizers[name].zero_grad()
        loss.backward()
        self.optimizers[name].step()


@torch.no_grad()
def average(target: nn.Module, source: nn.Module, tau: float) -> None:
    """``target <- target + tau (source - target)`` (Polyak)."""
    for mean, new in zip(target.parameters(), source.parameters(), strict=True):
        mean.lerp_(new, tau)
