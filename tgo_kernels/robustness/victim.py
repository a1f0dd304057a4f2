"""What an attack needs of a model: logits of images from rest, its noise, and its neurons' surrogates."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from tgo_kernels.neurons import check_bool
from tgo_kernels.robustness.frameworks import Neurons, Ours, SpikingJelly, Undo, neurons
from tgo_kernels.surrogate import Surrogate

ANSWERS = 64  # draws of the noise behind one answer of a noisy model: our decision
ASKED = 8  # images, at most, of the checks
SAME = 1e-4  # of the largest logit: what two ways to the same logits may differ by
STRAY = 1 / 4  # share of the images that rounding, which flips a spike, may move further
COMPARED, BY_CHANCE = 64, 6  # draws behind means that should be the same; standard errors, at most, between them


class Victim:
    """A model of spiking neurons as what is attacked: images [B, *] in [0, 1] to logits [B, classes].

    Every call starts from rest: the states of tgo_kernels', SpikingJelly's and snnTorch's neurons are reset. The model
    is not converted, and everything is put back.

    Args:
        model: its layers of neurons may be of all three, also mixed.
        steps: where the time steps are not inside the model, how many: the image is the input of each. A model whose
            neurons see [T, *] gets them in one call, others one step a call.
        read: what makes logits of the model's output, or with ``steps`` of the outputs [T, B, classes], whose mean it
            is if None. Of several outputs, as snnTorch's neurons have them, the first counts.
        switch: called with True or False, turns on or off a noise that is not of tgo_kernels' layers.

    Raises:
        TypeError, ValueError: naming the argument, what was expected and what came.
    """

    def __init__(
        self,
        model: nn.Module,
        steps: int | None = None,
        read: Callable[[Any], Tensor] | None = None,
        switch: Callable[[bool], None] | None = None,
    ) -> None:
        if not isinstance(model, nn.Module):
            raise TypeError(f"model must be an nn.Module, got {type(model).__name__}")
        if steps is not None and (not isinstance(steps, int) or isinstance(steps, bool) or steps < 1):
            raise ValueError(f"steps must be None or an int >= 1, got {steps!r}")
        self.model, self.steps, self.read, self.switch = model, steps, read, switch
        self.neurons: list[Neurons] = neurons(model)
        self.layers = [each.module for each in self.neurons if isinstance(each, Ours)]
        self.random = False  # whether it draws in every call, without a switch
        self._on = False  # whether a noise that has a switch is on
        self.made: list[Any] = []  #: surrogates in the place of the neurons' own
        self._swaps: list[tuple[Neurons, Any, str | None]] = []  # and whose they are, on which engine
        self._undo: list[Undo] = []

    @classmethod
    def of(cls, model: "nn.Module | Victim", steps: int | None = None) -> "Victim":
        """The model as a victim, which it may be already; then it has said its steps."""
        if isinstance(model, Victim):
            if steps is not None:
                raise ValueError(f"steps are said by Victim(model, steps={steps!r}) where a Victim is given")
            return model
        return cls(model, steps)

    @property
    def name(self) -> str:
        return type(self.model).__name__

    @property
    def described(self) -> list[str]:
        """Its kinds of neurons, with their constants."""
        return list(dict.fromkeys(repr(each.module) for each in self.neurons))

    @property
    def can_be_noisy(self) -> bool:
        """Whether there is a noise that can be turned on and off."""
        return self.switch is not None or any(layer.neuron.noisy for layer in self.layers)

    @property
    def noisy(self) -> bool:
        """Whether it answers with noise as it stands."""
        return any(x.noise_in_eval and x.neuron.noisy for x in self.layers) or self._on or self.random

    def __call__(self, images: Tensor) -> Tensor:
        """Logits [B, classes], from rest, in one draw of the noise."""
        for each in self.neurons:
            each.reset()
        for surrogate in self.made:
            if begin := getattr(surrogate, "begin", None):
                begin()
        logits = self._read(images)
        if not isinstance(logits, Tensor) or logits.dim() != 2 or len(logits) != len(images):
            got = f"{tuple(logits.shape)}" if isinstance(logits, Tensor) else type(logits).__name__
            raise ValueError(
                f"{self.name} must give logits [B, classes] for {len(images)} images, got {got}: say how by "
                "Victim(model, steps=..., read=...)"
            )
        return logits

    def _read(self, images: Tensor) -> Any:
        if self.steps is None:
            out = first(self.model(images))
        elif any(each.sees_time for each in self.neurons):
            out = first(self.model(images.expand(self.steps, *images.shape)))
        else:
            out = torch.stack([first(self.model(images)) for _ in range(self.steps)])
        if self.read is not None:
            return self.read(out)
        return out if self.steps is None else out.mean(0)

    @contextmanager
    def evaluating(self, noise: bool) -> Iterator[None]:
        """Evaluation mode with the noise on or off; everything is put back afterwards."""
        check_bool("noise", noise)
        modes = [(module, module.training) for module in self.model.modules()]
        before, on = [layer.noise_in_eval for layer in self.layers], self._on
        self.model.eval()
        try:
            for each in self.neurons:
                if isinstance(each, SpikingJelly) and each.forgets_gradients:
                    each.module.training = True
            for layer in self.layers:
                layer.noise_in_eval = noise
            self._turn(noise)
            yield
        finally:
            self._turn(on)
            for layer, was in zip(self.layers, before, strict=True):
                layer.noise_in_eval = was
            for module, training in modes:
                module.training = training

    def _turn(self, on: bool) -> None:
        if self.switch is not None and on != self._on:
            self.switch(on)
            self._on = on

    @contextmanager
    def surrogates(self, make: Callable[[float], Surrogate], impl: str | None = None) -> Iterator[list[Any]]:
        """Every layer of neurons that fires with a surrogate of its own, while the spikes stay the same.

        ``make`` is given the layer's depth, 0 for the first and 1 for the last; layers of tgo_kernels are served by
        ``impl`` if given. Everything is put back afterwards.
        """
        firing = [each for each in self.neurons if each.has_surrogate]
        made = [make(i / max(1, len(firing) - 1)) for i in range(len(firing))]
        former = self.made, self._swaps, self._undo
        try:
            self._swaps, self._undo = [(each, new, impl) for each, new in zip(firing, made, strict=True)], []
            self._swap()
            self.made = made
            yield made
        finally:
            self._unswap()
            self.made, self._swaps, self._undo = former

    def _swap(self) -> None:
        for each, surrogate, impl in self._swaps:
            self._undo.append(each.swap(surrogate, impl))

    def _unswap(self) -> None:
        while self._undo:
            self._undo.pop()()

    @contextmanager
    def _itself(self) -> Iterator[None]:
        """An answer has no gradient: the neurons' own surrogates, on their own engines, give the same spikes sooner."""
        former, self.made = self.made, []
        self._unswap()
        try:
            yield
        finally:
            self.made = former
            self._swap()

    def mean(self, images: Tensor, draws: int = 1) -> Tensor:
        """The mean of the logits over so many draws, each a fresh one."""
        total = self(images)
        for _ in range(draws - 1):
            total = total + self(images)
        return total / draws

    @torch.no_grad()
    def margins(self, images: Tensor, labels: Tensor, draws: int | None = None) -> Tensor:
        """[B]: by how much the best other logit is above that of the label, > 0 where the model is wrong.

        Of the mean of ANSWERS fresh draws' logits where it is noisy. Of a tie the answer is the first.
        """
        with self._itself():
            logits = self.mean(images, draws or (ANSWERS if self.noisy else 1))
        found = margin(logits, labels)
        lost = (found == 0) & (logits.argmax(1) != labels)
        return torch.where(lost, torch.finfo(found.dtype).tiny, found)

    @torch.no_grad()
    def wrong(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """[B] bool, and the margins: whether the model is wrong; where it is noisy, by ANSWERS draws, and once more."""
        margins = self.margins(images, labels)
        wrong = margins > 0
        if self.noisy and wrong.any():
            margins[wrong] = torch.minimum(margins[wrong], self.margins(images[wrong], labels[wrong]))
        return margins > 0, margins

    def check(self, images: Tensor, noise: bool) -> float:
        """That the model can be attacked soundly; returns the share of images that no gradient reaches.

        Its answer is a function of the image and the noise: of torch's seed, where the noise is on. It does not depend
        on the other images of the batch, nor on what was asked before; and there is a graph from it to the image.

        Raises:
            ValueError: naming what does not hold.
        """
        x = images[:ASKED]
        with self.evaluating(noise):
            first, again = (self._seeded(x) if noise else self(x).detach() for _ in range(2))
            if not torch.equal(first.isfinite(), torch.ones_like(first, dtype=torch.bool)):
                raise ValueError(f"{self.name} must give finite logits, got {first.flatten().tolist()[:4]} ...")
            if stray(first, again) > 0:
                raise ValueError(
                    f"{self.name} cannot be attacked soundly: the same images give other logits the second time"
                    + (", with the same seed" if noise else ", without noise")
                    + ". It keeps a state from call to call that no reset of its neurons reaches, or draws noise: say "
                    "noise=True where that comes from torch's generator"
                )
            if not self.noisy:
                alone = torch.cat([self(x[i : i + 1]) for i in range(len(x))]).detach()
                depends = stray(first, self(x.flip(0)).detach().flip(0)) > STRAY or stray(first, alone) > STRAY
            else:  # a noise with a switch has been checked without it
                depends = not self.can_be_noisy and self._means_differ(x) > STRAY
            if depends:
                raise ValueError(
                    f"{self.name} cannot be attacked soundly: an image's logits depend on the others of its batch"
                )
            with torch.no_grad():
                blind = self._seeded(x) if noise else self(x)
            if stray(first, blind) > STRAY:
                raise ValueError(
                    f"{self.name} cannot be attacked soundly: it answers otherwise where no gradient is asked for"
                )
            x = x.detach().clone().requires_grad_()
            logits = self(x)
            (g,) = torch.autograd.grad(logits.sum(), x, allow_unused=True) if logits.requires_grad else (None,)
            if g is None:
                raise ValueError(
                    f"{self.name} cannot be attacked soundly: its graph is detached from the image, and no gradient "
                    "says anything of it (torch.no_grad, .detach, .data or numpy on the way)"
                )
            rows = [torch.autograd.grad(row.sum(), x, retain_graph=True)[0] for row in self(x).unbind(1)]
        return (torch.stack(rows).abs().flatten(2).amax((0, 2)) == 0).float().mean().item()

    @torch.no_grad()
    def _means_differ(self, x: Tensor) -> float:
        """Share of the images whose mean logits over many draws are others beside black ones, by more than chance."""
        with seeded(x, 0):
            batches = x, torch.cat([x, torch.zeros_like(x)])
            a, b = (torch.stack([self(each)[: len(x)] for _ in range(COMPARED)]) for each in batches)
        apart, error = (a.mean(0) - b.mean(0)).abs(), ((a.var(0) + b.var(0)) / COMPARED).sqrt()
        return (apart > BY_CHANCE * error + SAME * (1 + a.abs().max())).any(1).float().mean().item()

    def _seeded(self, x: Tensor) -> Tensor:
        with seeded(x, 0):
            return self(x).detach()


@contextmanager
def seeded(images: Tensor, seed: int) -> Iterator[None]:
    """torch's generators from this seed, and as they were afterwards."""
    with torch.random.fork_rng(devices=[] if images.device.type == "cpu" else [images.device]):
        torch.manual_seed(seed)
        yield


def first(out: Any) -> Any:
    return out[0] if isinstance(out, (tuple, list)) and out else out


def margin(logits: Tensor, labels: Tensor) -> Tensor:
    """[B]: the best other logit minus that of the label."""
    label = nn.functional.one_hot(labels, logits.shape[1]).bool()
    return logits.masked_fill(label, -torch.inf).amax(1) - logits[label]


def stray(a: Tensor, b: Tensor) -> float:
    """Share of the images whose logits are not the same."""
    return ((a - b).abs().amax(1) > SAME * (1 + a.abs().max())).float().mean().item()
