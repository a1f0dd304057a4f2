"""How far the membranes are from their threshold: measured on a model, and drawn."""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

import tgo_kernels as tgo
from benchmarks.robustness.attacks import evaluating
from benchmarks.robustness.models import lif_layers, watched

REACH, BINS = 2.0, 80  # the histograms span v_threshold -+ REACH
NAMES, COLORS = ("plain LIF (before the guard)", "TGO (after the guard)"), ("#3b4252", "#d9713c")


@dataclass(frozen=True)
class Distances:
    """The distribution of ``h - v_threshold`` over every neuron, time step and image."""

    counts: Tensor  #: [BINS], of those within REACH
    margin: float
    neighbors: int  #: how many within margin: the threshold neighbours
    total: int
    layers: tuple[float, ...]  #: the share of threshold neighbours of each LIF layer

    @property
    def neighbor_rate(self) -> float:
        return self.neighbors / self.total


@torch.no_grad()
def measure(model: nn.Module, images: Tensor, margin: float, *, noise: bool = False, batch: int = 100) -> Distances:
    """Watches the potential before noise and reset in all LIF layers while the model looks at ``images``."""
    layers = lif_layers(model)
    counts, near, total = torch.zeros(BINS), dict.fromkeys(layers, 0), dict.fromkeys(layers, 0)

    def watch(layer: tgo.LIF, inputs: tuple[Tensor], _: Tensor) -> None:
        neuron = layer.neuron if noise else layer.neuron.without_noise()
        seed = tgo.noise.draw_seed(inputs[0].device) if neuron.noise_std > 0 else None
        d = tgo.reference.membrane(inputs[0], seed=seed, neuron=neuron) - neuron.v_threshold
        counts.add_(torch.histc(d, BINS, -REACH, REACH))
        near[layer] += int((d.abs() < margin).sum())
        total[layer] += d.numel()

    with watched(model, watch), evaluating(model, noise):
        for x in images.split(batch):
            model(x)
    shares = tuple(near[layer] / total[layer] for layer in layers)
    return Distances(counts, margin, sum(near.values()), sum(total.values()), shares)


def draw(before: Distances, after: Distances, title: str, path: Path) -> None:
    """Both histograms side by side, the guarded band shaded, saved as ``path``."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4.4), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, 2, sharex=True, sharey=True)
    edges = torch.linspace(-REACH, REACH, BINS + 1).tolist()
    heights = [(100 * shown.counts / shown.total).tolist() for shown in (before, after)]
    top = 1.2 * max(map(max, heights))
    for panel, shown, name, color, height in zip(panels, (before, after), NAMES, COLORS, heights, strict=True):
        panel.axvspan(-shown.margin, shown.margin, color="#f6d365", alpha=0.4, lw=0, label="guarded band")
        panel.stairs(height, edges, fill=True, color=color)
        panel.axvline(0, color="black", lw=1, ls="--")
        panel.text(0.05, 0.97 * top, r"fires $\rightarrow$", va="top")
        panel.text(-0.05, 0.97 * top, r"$\leftarrow$ silent", va="top", ha="right")
        panel.set_title(f"{name}\n{shown.neighbor_rate:.1%} threshold neighbours", fontsize=11)
        panel.set_xlabel(r"distance of the membrane from its threshold, $h - v_\mathrm{threshold}$")
        panel.set(xlim=(-REACH, REACH), ylim=(0, top))
        panel.spines[["top", "right"]].set_visible(False)
    panels[1].stairs(heights[0], edges, color=COLORS[0], lw=1.2, label=NAMES[0])
    figure.legend(*panels[1].get_legend_handles_labels(), loc="outside lower center", ncols=2, frameon=False)
    panels[0].set_ylabel(f"neuron-steps per {2 * REACH / BINS:g} (%)")
    figure.suptitle(title, fontsize=13)
    figure.savefig(path, dpi=150)
