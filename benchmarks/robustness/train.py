"""Training: cross entropy plus, for guarded neurons, the membrane-distance penalty under its schedule."""

import copy
import math
import statistics
import time
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

import tgo_kernels as tgo
from benchmarks.robustness.data import Split
from benchmarks.robustness.models import lif_layers

SHIFT = 2  # pixels, of the augmentation
TIMED_BATCHES = 7


def tensors(split: Split) -> tuple[Tensor, Tensor]:
    """Images [N, 1, 28, 28] fp32 in [0, 1] and labels [N] int64."""
    return torch.from_numpy(split.images).unsqueeze(1).float() / 255, torch.from_numpy(split.labels).long()


def fit(
    model: nn.Module, split: Split, *, epochs: int, batch: int, lr: float, lambda_max: float = 0.0, seed: int, name: str
) -> list[dict[str, Any]]:
    """Trains with AdamW under a learning rate that warms up and falls by a cosine; returns one record per epoch.

    ``seed`` fixes order and augmentation, whatever noise the neurons draw: models trained with one seed see the same
    images in the same order.
    """
    images, labels = tensors(split)
    random = torch.Generator().manual_seed(seed)
    schedule = tgo.GuardSchedule(lambda_max, total=epochs)
    per_epoch = batches_per_epoch(len(images), batch)
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=0.01)
    learning_rate = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda i: warm_cosine((i + 1) / (epochs * per_epoch)))
    history = []
    with tqdm(total=epochs * per_epoch, desc=f"train {name}", unit="batch", disable=None) as bar:
        for epoch in range(epochs):
            start, losses, weight = time.perf_counter(), [], schedule.weight(epoch)
            model.train()
            for x, y in batches(images, labels, batch, random):
                losses.append(step(model, optimizer, x, y, weight))
                learning_rate.step()
                bar.update()
            record = {"epoch": epoch, "loss": sum(losses) / len(losses), "lambda": weight}
            history.append(record | {"seconds": time.perf_counter() - start})
            bar.set_postfix({key: f"{record[key]:.3f}" for key in ("loss", "lambda")} | {"epoch": epoch + 1})
    return history


def warm_cosine(progress: float) -> float:
    """Factor of the learning rate: up along a line for a tenth of the training, then along a cosine to 0."""
    return min(10 * progress, (1 + math.cos(math.pi * progress)) / 2)


def step(model: nn.Module, optimizer: torch.optim.Optimizer, x: Tensor, y: Tensor, guard_weight: float = 0.0) -> float:
    """One update; returns the loss."""
    loss = F.cross_entropy(model(x), y)
    if guard_weight > 0:
        loss = loss + guard_weight * tgo.guard_penalty(model)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss.item()


def batches_per_epoch(images: int, batch: int) -> int:
    return max(1, images // batch)


def batches(images: Tensor, labels: Tensor, batch: int, random: torch.Generator) -> Iterator[tuple[Tensor, Tensor]]:
    """One epoch in random order, augmented; a last, smaller batch is left out where there are others."""
    order = torch.randperm(len(images), generator=random)
    for chosen in order.split(batch)[: batches_per_epoch(len(images), batch)]:
        yield augment(images[chosen], random), labels[chosen]


def augment(images: Tensor, random: torch.Generator) -> Tensor:
    """Each image [B, C, H, W] moved by up to SHIFT pixels in both directions, every other one mirrored."""
    count, side = len(images), images.shape[-1]
    rows, columns = torch.randint(0, 2 * SHIFT + 1, (2, count, 1), generator=random) + torch.arange(side)
    mirrored = torch.rand(count, 1, generator=random) < 0.5
    columns = torch.where(mirrored, columns.flip(1), columns)
    padded = F.pad(images, [SHIFT] * 4)
    moved = padded[torch.arange(count)[:, None, None], :, rows[:, :, None], columns[:, None, :]]
    return moved.permute(0, 3, 1, 2)


def seconds_per_epoch(
    models: dict[str, nn.Module], split: Split, batch: int, guard_weight: float
) -> dict[str, dict[str, float]]:
    """Training time of each model with the fused layer and with the reference.

    Copies of the models take turns on one batch: the median of TIMED_BATCHES turns after a warm-up, times the batches
    of an epoch.
    """
    images, labels = tensors(split)
    x, y = next(batches(images, labels, batch, torch.Generator().manual_seed(0)))
    runners: dict[tuple[str, str], Any] = {}
    for name, model in models.items():
        for engine, impl in (("fused", "auto"), ("reference", "reference")):
            twin = copy.deepcopy(model).train()
            for layer in lif_layers(twin):
                layer.impl = impl
            guarded = any(layer.neuron.guard_margin > 0 for layer in lif_layers(twin))
            optimizer = torch.optim.AdamW(twin.parameters(), lr=1e-4)
            runners[name, engine] = (twin, optimizer, x, y, guard_weight if guarded else 0.0)
    times: dict[tuple[str, str], list[float]] = {key: [] for key in runners}
    for _ in tqdm(range(1 + TIMED_BATCHES), desc="timing", unit="turn", leave=False, disable=None):
        for key, arguments in runners.items():
            start = time.perf_counter()
            step(*arguments)
            times[key].append(time.perf_counter() - start)
    per_epoch = batches_per_epoch(len(images), batch)
    medians = {key: per_epoch * statistics.median(turns[1:]) for key, turns in times.items()}
    return {name: {engine: medians[name, engine] for engine in ("fused", "reference")} for name in models}
