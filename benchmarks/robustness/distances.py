"""How far the membranes are from their threshold, drawn."""

from pathlib import Path

import torch

from tgo_kernels.robustness.diagnostics import BINS, FAR, Distances

NAMES, COLORS = ("plain LIF (before the guard)", "TGO (after the guard)"), ("#3b4252", "#d9713c")


def draw(before: Distances, after: Distances, title: str, path: Path) -> None:
    """Both histograms side by side, the guarded band shaded, saved as ``path``."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4.4), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, 2, sharex=True, sharey=True)
    edges = torch.linspace(-FAR, FAR, BINS + 1).tolist()
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
        panel.set(xlim=(-FAR, FAR), ylim=(0, top))
        panel.spines[["top", "right"]].set_visible(False)
    panels[1].stairs(heights[0], edges, color=COLORS[0], lw=1.2, label=NAMES[0])
    figure.legend(*panels[1].get_legend_handles_labels(), loc="outside lower center", ncols=2, frameon=False)
    panels[0].set_ylabel(f"neuron-steps per {2 * FAR / BINS:g} (%)")
    figure.suptitle(title, fontsize=13)
    figure.savefig(path, dpi=150)
