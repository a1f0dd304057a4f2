"""What a model is like inside: threshold neighbours, gradients, and flips under noise. Of LIF layers, but gradients."""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tgo_kernels import functional, guard, noise, reference
from tgo_kernels.layers import LIF
from tgo_kernels.robustness.frameworks import watched
from tgo_kernels.robustness.victim import Victim

SMALL = 0.01  # of an image's largest gradient: below, a pixel's gradient counts as none
FAR, BINS = 2.0, 80  # histograms of h - v_threshold span -+ FAR
REACH, STEPS = 1.0, 20  # the flips are counted by |h - v_threshold| up to REACH


def lif_layers(victim: Victim) -> list[LIF]:
    layers = [layer for layer in victim.layers if isinstance(layer, LIF)]
    if not layers:
        raise ValueError(f"membranes are looked at in layers of tgo_kernels.LIF; {victim.name} has none")
    return layers


@dataclass(frozen=True)
class Distances:
    """The distribution of ``h - v_threshold`` over every neuron, time step and image."""

    counts: Tensor  #: [BINS], of those within FAR
    margin: float
    neighbors: int  #: how many within margin: the threshold neighbours
    total: int
    layers: tuple[float, ...]  #: the share of threshold neighbours of each LIF layer

    @property
    def neighbor_rate(self) -> float:
        return self.neighbors / self.total


@torch.no_grad()
def measure(
    model: nn.Module | Victim, images: Tensor, margin: float, *, noisy: bool = False, batch: int = 100
) -> Distances:
    """Watches the potential before noise and reset in all LIF layers while the model looks at ``images``."""
    victim = Victim.of(model)
    layers = lif_layers(victim)
    counts, near, total = torch.zeros(BINS), dict.fromkeys(layers, 0), dict.fromkeys(layers, 0)

    def watch(layer: LIF, inputs: tuple[Tensor], _: Tensor) -> None:
        neuron = layer.neuron if noisy else layer.neuron.without_noise()
        seed = noise.draw_seed(inputs[0].device) if neuron.noise_std > 0 else None
        d = reference.membrane(inputs[0], seed=seed, neuron=neuron) - neuron.v_threshold
        counts.add_(torch.histc(d, BINS, -FAR, FAR))
        near[layer] += int((d.abs() < margin).sum())
        total[layer] += d.numel()

    with watched(layers, watch), victim.evaluating(noisy):
        for x in images.split(batch):
            victim(x)
    shares = tuple(near[layer] / total[layer] for layer in layers)
    return Distances(counts, margin, sum(near.values()), sum(total.values()), shares)


@dataclass(frozen=True)
class Gradients:
    """Means over images, noise off, along the surrogate gradient of training."""

    sparsity: float  #: share of pixels whose gradient of the loss is below SMALL of the image's largest
    norm: float  #: of the loss's gradient with respect to the image, L1
    jacobian: float  #: Frobenius norm of d logits / d image


def gradients(model: nn.Module | Victim, images: Tensor, labels: Tensor) -> Gradients:
    victim = Victim.of(model)
    with victim.evaluating(False):
        x = images.detach().requires_grad_()
        logits = victim(x)
        (g,) = torch.autograd.grad(F.cross_entropy(logits, labels, reduction="sum"), x, retain_graph=True)
        rows = [torch.autograd.grad(logits[:, c].sum(), x, retain_graph=True)[0] for c in range(logits.shape[1])]
    g = g.flatten(1).abs()
    small = g <= SMALL * g.amax(1, keepdim=True)
    jacobian = torch.stack(rows).square().sum((0, 2, 3, 4)).sqrt()
    return Gradients(small.float().mean().item(), g.sum(1).mean().item(), jacobian.mean().item())


@dataclass(frozen=True)
class Flips:
    """How often the noise flips the firing of a membrane, by its distance from the threshold."""

    distance: tuple[float, ...]  #: the middle of each bin that has membranes
    measured: tuple[float, ...]
    expected: tuple[float, ...]  #: Phi(-distance / noise_std), the mean over the bin's membranes
    count: tuple[int, ...]

    @property
    def largest_deviation(self) -> float:
        """Of a bin's measured share from the expected, in standard errors."""
        errors = [
            abs(m - e) / math.sqrt(max(e * (1 - e), 1e-12) / n)
            for m, e, n in zip(self.measured, self.expected, self.count, strict=True)
            if n * e > 10
        ]
        return max(errors, default=0.0)


@torch.no_grad()
def flips(model: nn.Module, images: Tensor, noise_std: float) -> Flips:
    """Membranes of the noise-free model, and one step of the fused layer with noise on each of them."""
    found: list[Tensor] = []

    def watch(layer: LIF, inputs: tuple[Tensor], _: Tensor) -> None:
        h = reference.membrane(inputs[0], neuron=layer.neuron.without_noise())
        threshold = layer.neuron.v_threshold
        noisy = functional.lif(h.reshape(1, -1), decay=0.0, v_threshold=threshold, noise_std=noise_std).spikes[0]
        d = h.reshape(-1) - threshold
        found.append(torch.stack([d.abs(), (noisy != (d >= 0)).float(), guard.flip_probability(d, 0.0, noise_std)]))

    victim = Victim.of(model)
    with watched(lif_layers(victim), watch), victim.evaluating(False):
        victim(images)
    distance, flipped, expected = torch.cat(found, 1)
    index = (distance * STEPS / REACH).long()
    rows = []
    for i in range(STEPS):
        mine = index == i
        if count := int(mine.sum()):
            shares = flipped[mine].double().mean().item(), expected[mine].double().mean().item()
            rows.append(((i + 0.5) * REACH / STEPS, *shares, count))
    return Flips(*(tuple(column) for column in zip(*rows, strict=True)))


@dataclass(frozen=True)
class Diagnosis:
    """One model's membranes, gradients and flips."""

    distances: Distances
    gradients: Gradients
    flips: Flips


def diagnose(model: nn.Module, images: Tensor, labels: Tensor, margin: float, noise_std: float) -> Diagnosis:
    """Measured with the same margin and noise for every model, defended or not."""
    found = measure(model, images, margin)
    return Diagnosis(found, gradients(model, images, labels), flips(model, images, noise_std))
