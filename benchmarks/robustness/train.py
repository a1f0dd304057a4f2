"""Training: BPTT, AT and RAT, plain or guarded and noisy, in one process or several, resumable at any moment.

    python -m benchmarks.robustness.train --method AT --guard --noise --seed 0 [--data full] [--out runs/train]
    torchrun --nproc-per-node 2 -m benchmarks.robustness.train ...

Writes ``OUT/NAME.pt`` after every epoch, a checkpoint from which the same command goes on after a kill to the same
weights, bit for bit (CPU, same number of threads and processes), and ``OUT/NAME.json``, the record.
"""

import argparse
import copy
import json
import math
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

import tgo_kernels as tgo
from benchmarks.record import agree, keep
from benchmarks.robustness import data, distributed, neurons, report
from benchmarks.robustness.models import lif_layers
from benchmarks.robustness.recipe import METHODS, Recipe
from tgo_kernels.robustness import Victim, attacks
from tgo_kernels.robustness.andness import scrambled_penalty

SHIFT = 2  # pixels, of the augmentation
BESIDE = 1e-3  # standard deviation of TRADES' start
TIMED_BATCHES = 7
DEFAULTS = asdict(Recipe())


def tensors(split: data.Split) -> tuple[Tensor, Tensor]:
    """Images [N, 1, 28, 28] fp32 in [0, 1] and labels [N] int64."""
    return torch.from_numpy(split.images).unsqueeze(1).float() / 255, torch.from_numpy(split.labels).long()


def fit(
    model: nn.Module,
    split: data.Split,
    recipe: Recipe,
    checkpoint: Path | None = None,
    watch: Callable[[nn.Module], dict[str, Any]] = lambda model: {},
) -> list[dict[str, Any]]:
    """Trains, from where ``checkpoint`` stops if it is there; returns one record per epoch, with what ``watch`` saw.

    The recipe's seed fixes order and augmentation, whatever noise the neurons draw: models trained with one seed see
    the same images in the same order. Noise and random starts of attacks come from torch's default generator, seeded
    by process.

    Raises:
        ValueError: the checkpoint is that of another recipe, or the batch does not divide among the processes.
    """
    images, labels = tensors(split)
    if (size := min(recipe.batch, len(images))) % distributed.world():
        raise ValueError(f"a batch of {size} does not divide among {distributed.world()} processes")
    random = torch.Generator().manual_seed(recipe.seed)
    torch.manual_seed(1000 * recipe.seed + distributed.rank())
    optimizer = make_optimizer(model, recipe)
    about = identity(recipe, split)
    history = [] if checkpoint is None else resume(checkpoint, about, model, optimizer, random)
    attack, schedule = adversary(model, recipe), recipe.schedule()
    per_epoch = batches_per_epoch(len(images), recipe.batch)
    epochs = recipe.epochs * recipe.longer
    total = epochs * per_epoch
    hidden = True if distributed.rank() else None
    done = len(history)
    with tqdm(total=total, initial=done * per_epoch, desc=recipe.name, unit="batch", disable=hidden) as bar:
        for epoch in range(done, epochs):
            start, losses, weight = time.perf_counter(), [], schedule.weight(epoch)
            net = distributed.wrapped(model).train()  # anew, since its sums depend on what it has seen
            for i, (x, y) in enumerate(batches(images, labels, recipe.batch, random)):
                for group in optimizer.param_groups:
                    group["lr"] = recipe.lr * warm_cosine((epoch * per_epoch + i + 1) / total)
                x, y = distributed.share(x), distributed.share(y)
                attacked = x if attack is None else attack(x, y)
                neurons.widened(model, optimizer.param_groups[0]["lr"], epoch)
                losses.append(step(net, optimizer, attacked, y, weight, recipe, x))
                neurons.bounded(model)
                if recipe.method == "RAT":
                    retract(model, recipe.retraction)
                bar.update()
            loss = distributed.mean(sum(losses) / len(losses))
            record = {"epoch": epoch, "loss": loss, "lambda": weight, "seconds": time.perf_counter() - start}
            history.append(record | watch(model))
            bar.set_postfix({key: f"{record[key]:.3f}" for key in ("loss", "lambda")} | {"epoch": epoch + 1})
            if checkpoint is not None:
                save(checkpoint, about, model, optimizer, random, history)
    return history


def step(
    net: nn.Module,
    optimizer: torch.optim.Optimizer,
    x: Tensor,
    y: Tensor,
    guard_weight: float = 0.0,
    recipe: Recipe | None = None,
    clean: Tensor | None = None,
) -> float:
    """One update on x, which were ``clean`` before they were attacked; returns the loss."""
    logits = net(x)
    if recipe is not None and recipe.method == "TRADES":
        assert clean is not None
        attacked, logits = logits, net(clean)
        loss = F.cross_entropy(logits, y) + recipe.beta * divergence(attacked, logits.softmax(1)).mean()
    else:
        loss = F.cross_entropy(logits, y)
    if guard_weight > 0:
        loss = loss + guard_weight * tgo.guard_penalty(net)
    if recipe is not None and recipe.scrambled:
        loss = loss + recipe.scrambled * scrambled_penalty(net, x)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss.item()


def divergence(logits: Tensor, answer: Tensor) -> Tensor:
    """[B]: of the softmax of these logits from this answer, KL(answer || softmax)."""
    return F.kl_div(logits.log_softmax(1), answer, reduction="none").sum(1)


def make_optimizer(model: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    widths = set(neurons.sigmas(model))  # which the paper's weight decay leaves alone
    groups = [
        {"params": [p for p in model.parameters() if p not in widths], "weight_decay": recipe.weight_decay},
        *([{"params": list(widths), "weight_decay": 0.0}] if widths else []),
    ]
    kind, options = (
        (torch.optim.AdamW, {}) if recipe.optimizer == "adamw" else (torch.optim.SGD, {"momentum": recipe.momentum})
    )
    optimizer = kind(groups, lr=recipe.lr, **options)
    if recipe.norm == "inhibition":
        tgo.keep_nonnegative(optimizer, model)
    return optimizer


def adversary(model: nn.Module, recipe: Recipe) -> Callable[[Tensor, Tensor], Tensor] | None:
    """The attack of adversarial training, against the model in evaluation mode: noise off, batch statistics fixed.

    That of TRADES starts beside the image, and is for the divergence from the image's answer.
    """
    if recipe.method == "BPTT":
        return None
    settings = recipe.eps, recipe.attack_alpha, recipe.attack_steps
    victim = Victim(model)
    plain = attacks.fgsm(recipe.eps) if recipe.attack == "fgsm" else attacks.pgd(*settings)

    def attacked(images: Tensor, labels: Tensor) -> Tensor:
        with victim.evaluating(False):
            if recipe.method != "TRADES":
                return plain(victim, images, labels)
            with torch.no_grad():
                answer = victim(images).softmax(1)
            away = attacks.pgd(*settings, loss=lambda logits, _: divergence(logits, answer))
            return away(victim, images, labels, start=(images + BESIDE * torch.randn_like(images)).clamp(0, 1))

    return attacked


@torch.no_grad()
def retract(model: nn.Module, b: float) -> None:
    """``W <- (1 + b) W - b W W^T W`` for each convolution and linear layer, W being [outputs, inputs] (RAT)."""
    for layer in model.modules():
        if isinstance(layer, (nn.Conv2d, nn.Linear)):
            w = layer.weight.flatten(1)
            layer.weight.copy_(((1 + b) * w - b * (w @ w.T) @ w).view(layer.weight.shape))


def warm_cosine(progress: float) -> float:
    """Factor of the learning rate: up along a line for a tenth of the training, then along a cosine to 0."""
    return min(10 * progress, (1 + math.cos(math.pi * progress)) / 2)


def identity(recipe: Recipe, split: data.Split) -> dict[str, Any]:
    """What a checkpoint must agree in: the settings and the images."""
    return asdict(recipe) | {"images": len(split.labels), "digest": data.digest(split)}


def save(
    path: Path,
    identity: dict[str, Any],
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    random: torch.Generator,
    history: list[dict[str, Any]],
) -> None:
    """Everything that the next epoch depends on, written by the first process, whole or not at all."""
    noise = distributed.gathered(torch.get_rng_state())
    if distributed.rank():
        return
    state = {"recipe": identity, "history": history, "model": model.state_dict()}
    if len(history) < identity["epochs"] * identity.get("longer", 1):  # a finished model is small
        state |= {"optimizer": optimizer.state_dict(), "order": random.get_state(), "noise": noise}
    keep(path, state)


def resume(
    path: Path, identity: dict[str, Any], model: nn.Module, optimizer: torch.optim.Optimizer, random: torch.Generator
) -> list[dict[str, Any]]:
    """Puts everything back as :func:`save` found it; returns the history, empty where there is no checkpoint."""
    if not path.exists():
        return []
    state = torch.load(path)
    known = {name: value for name, value in DEFAULTS.items() if name in identity}
    agree(path, known | state["recipe"], identity)  # a setting that it does not know had its default
    model.load_state_dict(state["model"])
    if "optimizer" not in state:
        return state["history"]
    if len(state["noise"]) != distributed.world():
        raise ValueError(f"{path} was written by {len(state['noise'])} processes; go on with as many")
    optimizer.load_state_dict(state["optimizer"])
    random.set_state(state["order"])
    torch.set_rng_state(state["noise"][distributed.rank()])
    return state["history"]


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
    models: dict[str, nn.Module], split: data.Split, batch: int, guard_weight: float
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


def run(recipe: Recipe, dataset: data.Dataset, out: Path) -> nn.Module:
    """The trained model of a recipe; trains what ``out`` does not hold yet, and writes the record."""
    model, checkpoint = recipe.model(), out / f"{recipe.name}.pt"
    out.mkdir(parents=True, exist_ok=True)
    if recipe.neurons == "HoSNN" and not checkpoint.exists():
        plain = run(replace(recipe, method="BPTT", guard=False, noise=False, neurons="LIF"), dataset, out)
        neurons.record_signature(model, plain, tensors(dataset.train)[0])
    before = checkpoint.stat().st_mtime_ns if checkpoint.exists() else None
    history = fit(model, dataset.train, recipe, checkpoint)
    written = checkpoint.with_suffix(".json")
    if distributed.rank() == 0 and (checkpoint.stat().st_mtime_ns != before or not written.exists()):
        settings = {"settings": asdict(recipe), "images": len(dataset.train.labels), "processes": distributed.world()}
        record = settings | {"machine": report.machine(), "history": history}
        written.write_text(json.dumps(record, indent=2) + "\n")
    return model.eval()


def parser(description: str) -> argparse.ArgumentParser:
    """A command line with an option for every field of a Recipe."""
    made = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    for field in fields(Recipe):
        option = f"--{field.name.replace('_', '-')}"
        if isinstance(field.default, bool):
            made.add_argument(option, action="store_true")
        else:
            kind: Callable = type(field.default)
            choices = METHODS if field.name == "method" else None
            made.add_argument(option, type=kind, default=field.default, choices=choices, help="default: %(default)s")
    return made


def main(argv: list[str] | None = None) -> int:
    arguments = parser(str(__doc__))
    arguments.add_argument("--train-images", type=int, help="train on so many, the same number of each class")
    arguments.add_argument("--out", type=Path, default=Path("runs/train"), help="default: %(default)s")
    options = vars(arguments.parse_args(argv))
    limit, out = options.pop("train_images"), options.pop("out")
    try:
        tgo.tune_allocator()  # every batch frees as much as it takes
        distributed.join()
        recipe = Recipe(**options)
        run(recipe, data.load(recipe.data).limited(limit, None, recipe.seed), out)
    except (ValueError, data.DataError, ImportError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
