"""A model under every attack, image by image, and the worst of them."""

import hashlib
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tgo_kernels import __version__
from tgo_kernels.neurons import check_number
from tgo_kernels.robustness.attacks import EPS, INSTALL, Attack, autoattack, better
from tgo_kernels.robustness.outcome import ATTACKS, MADE, NEURONS, Outcome, beside
from tgo_kernels.robustness.suite import EFFORTS, Effort, Stage, against, selected, suite
from tgo_kernels.robustness.victim import ANSWERS, Victim, seeded

Model = nn.Module | Victim
STRAY = 0.02  # share of the images that another machine's rounding may answer otherwise
AWRY = "no gradient"  # in a record, the share of images that none reaches


def evaluate(
    model: Model,
    images: Tensor,
    labels: Tensor,
    *,
    eps: float = EPS,
    norm: str = "linf",
    noise: bool | None = None,
    effort: str | Effort = "standard",
    record: str | Path | None = None,
    twin: Model | Sequence[Model] | None = None,
    steps: int | None = None,
    attacks: Sequence[str] | None = None,
    batch: int = 100,
    seed: int = 0,
    progress: bool | None = None,
) -> Outcome:
    """Runs every attack on the images, and returns which of them the model got right under each.

    An image that the model gets wrong anyway is not attacked. With noise, the model answers by the mean logits of
    64 fresh draws; an image counts as wrong where these are wrong and 64 others too, and gradients of all attacks but
    the plain FGSM and PGD are means over several draws (EoT). Each attack starts from a seed of its own; the last ones,
    on what survives all others, from the best points of these.

    Args:
        model: of spiking neurons, of tgo_kernels, SpikingJelly or snnTorch, as it is; or a :class:`Victim` where its
            logits, or a noise of its own, have to be explained.
        images: [N, C, H, W] in [0, 1]; what else the model needs, such as a normalisation, is inside of it.
        labels: [N] int64.
        eps: how far an attack may move each value.
        norm: "linf" is all there is.
        noise: whether the model has its noise on; None: as it has in ``eval()``. Noise that has no switch needs True.
        effort: "quick", "standard" or "full", or an :class:`Effort`.
        record: a JSON file, written after each attack; one that is there is gone on with. Beside it, in
            ``.points.pt``, the best points.
        twin: other models, such as an undefended one, that examples are made on too.
        steps: as of :class:`Victim`.
        attacks: the names of those to run alone, "clean" with them; None: all that are not idle (:data:`suite.IDLE`).
        batch: images at once.
        seed: of the attacks' starts and the noise.
        progress: whether a bar is shown; None: on a terminal.

    Raises:
        TypeError, ValueError: naming the argument, what was expected and what came; the model cannot be attacked
            soundly (:meth:`Victim.check`); ``record`` is of another model, other images, or another effort.
        ImportError: naming what to install.
    """
    victim, effort, twins = Victim.of(model, steps), checked(effort), sources(twin)
    check(images, labels, eps, norm, batch)
    noise = victim.noisy if noise is None else noise
    path = None if record is None else Path(record)
    with settled(victim, noise, images[:1]):
        awry = victim.check(images, False) if victim.can_be_noisy or not noise else 0.0
        if noise:
            awry = max(awry, victim.check(images, True))
        stages = selected(suite(victim, effort, noise, twins, eps), effort, attacks)
        if {"APGD", "Square"} & set(stages):
            autoattack("square")  # what is missing is said before anything is attacked
        outcome = Outcome({}) if path is None else Outcome.read(path)
        about = {
            "model": fingerprint(victim),
            "twin": [fingerprint(each) for each in twins],
            "noise": noise,
            "images": len(images),
            "digest": digest(images),
            "labels": digest(labels),
            "eps": eps,
            "norm": norm,
            "steps": victim.steps,
            "seed": seed,
            "batch": batch,
            AWRY: round(awry, 4),
            **asdict(effort),
        } | ({"answers": ANSWERS} if noise else {})
        was = {key: value for key, value in outcome.about.items() if key not in (ATTACKS, MADE, NEURONS)}
        if outcome.stood and was != about:
            keys = [key for key in about | was if was.get(key) != about.get(key)]
            said = ", ".join(f"{key} {outcome.about.get(key)!r}, now {about.get(key)!r}" for key in keys)
            raise ValueError(f"{path} is of another evaluation ({said}): move it away")
        names = list(dict.fromkeys([*outcome.about.get(ATTACKS, ()), *stages]))  # what was begun is not through
        outcome.about = about | {ATTACKS: names, MADE: made_with(), NEURONS: victim.described}
        todo = {name: stage for name, stage in stages.items() if name not in outcome.stood}
        if outcome.stood and todo and not outcome.points:
            assert path is not None
            raise ValueError(f"{path} is not through, and {beside(path)} is missing: move it away")
        if todo and outcome.stood and not noise:
            same(path, victim, images, labels, outcome, batch)
        for name, stage in bar(todo.items(), desc=path.stem if path else victim.name, shown=progress):
            start = time.perf_counter()
            tried(victim, images, labels, outcome, name, stage, noise, batch, seed)
            outcome.spent[name] = time.perf_counter() - start
            if path is not None:
                path.parent.mkdir(parents=True, exist_ok=True)
                outcome.write(path)
    return outcome


def made_with() -> str:
    versions = [f"torch {torch.__version__}", f"tgo_kernels {__version__}"]
    with suppress(PackageNotFoundError):
        versions.append(f"pyautoattack {version('pyautoattack')}")
    return ", ".join([*versions, f"{torch.get_num_threads()} threads"])


def same(path: Path | None, victim: Victim, images: Tensor, labels: Tensor, outcome: Outcome, batch: int) -> None:
    """That the model answers as it did: what a fingerprint does not show, as steps inside of it, may have changed."""
    clean = withstood(victim, images, labels, noise=False, batch=batch)
    if (clean != outcome.stood["clean"]).float().mean() > STRAY:
        raise ValueError(f"{path} is of a model that answers otherwise: move it away")


def tried(
    victim: Victim,
    images: Tensor,
    labels: Tensor,
    outcome: Outcome,
    name: str,
    stage: Stage,
    noise: bool,
    batch: int,
    seed: int,
) -> None:
    """One attack more in the outcome."""
    if name == "clean":
        chosen = torch.ones(len(images), dtype=torch.bool)
        outcome.points = {"best": images.clone(), "margin": torch.full_like(images.flatten(1)[:, 0], -torch.inf)}
    else:
        chosen = (outcome.right if stage.on == "survivors" else outcome.stood["clean"]).clone()
    right, points = chosen.clone(), outcome.points
    start = points.get(stage.start, points["best"]) if stage.start else None
    left, made = [], []
    with seeded(images, zlib.crc32(f"{seed} {name}".encode())), victim.evaluating(noise):
        indices = chosen.nonzero().flatten()
        for index in indices.split(batch) if len(indices) else ():
            x, y = images[index], labels[index]
            if stage.attack is not None:
                x = stage.attack(victim, x, y, None if start is None else start[index])
            wrong, margins = victim.wrong(x, y)
            left.append(~wrong)
            made.append(x.detach())
            if against(name):
                kept, highest = points["best"][index], points["margin"][index]
                points["best"][index], points["margin"][index] = better(x.detach(), margins, kept, highest)
    if left:
        right[chosen] = torch.cat(left).to(right.device)
        if stage.quiet:
            points["quiet"] = points.get("quiet", points["best"]).clone()
            points["quiet"][chosen] = torch.cat(made)
    outcome.stood[name] = right
    if stage.on == "survivors":
        outcome.tried[name] = chosen


@contextmanager
def settled(victim: Victim, noise: bool, image: Tensor) -> Iterator[None]:
    """Where noise is asked for and has no switch, the model is one that draws in every call."""
    if not isinstance(noise, bool):
        raise TypeError(f"noise must be None or a bool, got {type(noise).__name__}")
    before = victim.random
    try:
        if noise and not victim.can_be_noisy:
            with victim.evaluating(True), torch.no_grad():
                if all(torch.equal(victim(image), victim(image)) for _ in range(8)):
                    raise ValueError(f"noise=True, but {victim.name} gives the same logits in every call: it has none")
            victim.random = True
        yield
    finally:
        victim.random = before
        for each in victim.neurons:
            each.reset()


def checked(effort: str | Effort) -> Effort:
    if isinstance(effort, Effort):
        return effort
    if effort not in EFFORTS:
        raise ValueError(f"effort must be an Effort or one of {', '.join(EFFORTS)}, got {effort!r}")
    return EFFORTS[effort]


def sources(twin: Model | Sequence[Model] | None) -> list[Victim]:
    given = [] if twin is None else [twin] if isinstance(twin, (nn.Module, Victim)) else list(twin)
    return [Victim.of(each) for each in given]


def check(images: Tensor, labels: Tensor, eps: float, norm: str, batch: int) -> None:
    if not isinstance(images, Tensor) or images.dim() != 4 or not images.is_floating_point() or not len(images):
        got = f"{images.dtype} {tuple(images.shape)}" if isinstance(images, Tensor) else type(images).__name__
        raise ValueError(f"images must be a float tensor [N, C, H, W] in [0, 1] with N >= 1, got {got}")
    low, high = images.aminmax()
    if not 0 <= low.item() <= high.item() <= 1:
        raise ValueError(f"images must be in [0, 1], got values from {low.item():g} to {high.item():g}")
    if not isinstance(labels, Tensor) or labels.dtype != torch.int64 or labels.shape != images.shape[:1]:
        got = f"{labels.dtype} {tuple(labels.shape)}" if isinstance(labels, Tensor) else type(labels).__name__
        raise ValueError(f"labels must be an int64 tensor [{len(images)}], got {got}")
    check_number("eps", eps)
    if not 0 < eps <= 1:
        raise ValueError(f"eps must be > 0 and at most 1, got {eps}")
    if norm != "linf":
        raise ValueError(f"norm must be 'linf', got {norm!r}")
    if not isinstance(batch, int) or batch < 1:
        raise ValueError(f"batch must be an int >= 1, got {batch!r}")


def digest(tensor: Tensor) -> str:
    return hashlib.sha256(raw(tensor)).hexdigest()[:16]


def raw(tensor: Tensor) -> bytes:
    return tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()


def fingerprint(victim: Victim) -> str:
    """Of the network, its neurons' constants and its weights."""
    found = hashlib.sha256(str(victim.model).encode())
    for name, value in victim.model.state_dict().items():
        found.update(name.encode() + (raw(value) if isinstance(value, Tensor) else repr(value).encode()))
    return found.hexdigest()[:16]


def bar(items: Any, desc: str, shown: bool | None = None) -> Any:
    """With the time that is left."""
    if shown is False:
        return items
    try:
        from tqdm import tqdm
    except ImportError as error:
        raise ImportError(f"progress is shown by tqdm ({error}): {INSTALL}") from error
    return tqdm(items, desc=f"{desc}: attacks", leave=False, disable=None if shown is None else not shown)


def withstood(
    model: Model,
    images: Tensor,
    labels: Tensor,
    attack: Attack | None = None,
    *,
    noise: bool,
    batch: int = 100,
    show: Callable[[Any], Any] = iter,
) -> Tensor:
    """[N] bool: which images, attacked one batch at a time where there is an attack, the model labels right.

    With ``noise`` both see it, in draws of their own. ``show`` is given the batches, to show how far it is.
    """
    victim, found = Victim.of(model), []
    with victim.evaluating(noise):
        for x, y in show(list(zip(images.split(batch), labels.split(batch), strict=True))):
            found.append(~victim.wrong(x if attack is None else attack(victim, x, y), y)[0])
    return torch.cat(found)


def accuracy(model: Model, images: Tensor, labels: Tensor, attack: Attack | None = None, **options: Any) -> float:
    """Share of the images that :func:`withstood` finds."""
    return withstood(model, images, labels, attack, **options).float().mean().item()
