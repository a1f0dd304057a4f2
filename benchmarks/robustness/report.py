"""The demonstration's table, and what a time depends on."""

import os
import platform
from typing import Any

import torch

import tgo_kernels as tgo
from benchmarks import processor
from tgo_kernels.robustness.outcome import markdown


def table(rows: list[dict[str, Any]], steps: int, narrow_alpha: float) -> list[str]:
    """An aligned Markdown table of the rows: two columns of text, then numbers."""
    shares = {
        "clean": "clean",
        "fgsm": "FGSM",
        "pgd": f"PGD-{steps}",
        "pgd_narrow": f"PGD-{steps}, ATan({narrow_alpha:g})",
        "neighbors": "threshold neighbours",
    }
    cells = [["model", "noise in test", *shares.values(), "s/epoch fused", "s/epoch reference"]]
    for row in rows:
        seconds = [f"{row['seconds'][engine]:.2f}" for engine in ("fused", "reference")]
        noise = "on" if row["noise"] else "off"
        cells.append([row["model"], noise, *(f"{100 * row[key]:.1f} %" for key in shares), *seconds])
    return markdown(cells, left=2)


def machine() -> dict[str, str]:
    """What a time depends on."""
    return {
        "CPU": processor.name(processor.text_of(processor.CPUINFO)),
        "threads": f"{torch.get_num_threads()} (OMP_WAIT_POLICY {os.environ.get('OMP_WAIT_POLICY') or 'not set'})",
        "fused layer": tgo.available_impls("cpu")[0],
        "versions": f"tgo_kernels {tgo.__version__}, torch {torch.__version__}, Python {platform.python_version()}",
        "memory allocator": os.environ.get("LD_PRELOAD") or "the system's",
    }
