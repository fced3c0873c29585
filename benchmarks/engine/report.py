"""From measurements to figures: tables, the summary that is written as JSON, and the plot."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

Row = Mapping[str, Any]

PATHS = {
    "method": "dense, the method's own code",
    "batched": "dense, torch, code and time once a chunk",
    "kernel": "dense, our kernel",
    "ours": "sparse (ours)",
}


def table(rows: Sequence[Row]) -> str:
    """Set rows with the same members as a Markdown table; numbers with three digits."""
    names = list(rows[0])
    cells = [names, *([_cell(row[name]) for name in names] for row in rows)]
    widths = [max(len(row[n]) for row in cells) for n in range(len(names))]
    right = [all(isinstance(row[name], int | float) for row in rows) for name in names]
    lines = [
        "| " + " | ".join(c.rjust(w) if r else c.ljust(w) for c, w, r in zip(row, widths, right, strict=True)) + " |"
        for row in cells
    ]
    rule = "|" + "|".join("-" * (w + 1) + (":" if r else "-") for w, r in zip(widths, right, strict=True)) + "|"
    return "\n".join([lines[0], rule, *lines[1:]])


def _cell(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    if isinstance(value, int) or abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def extrapolated(seconds: Sequence[float], chunks: int) -> float:
    """Seconds of all chunks from those of some: what was measured, and the median for each chunk that was not."""
    if not seconds or len(seconds) > chunks:
        raise ValueError(f"{len(seconds)} chunks of {chunks} were measured")
    return sum(seconds) + statistics.median(seconds) * (chunks - len(seconds))


def noise(seconds: Sequence[float]) -> float:
    """Half the spread between the quartiles, as a part of the median."""
    low, middle, high = np.percentile(seconds, [25, 50, 75])
    return float((high - low) / (2.0 * middle))


def growth(rows: Sequence[Row]) -> float:
    """Worst factor of our time (``ours``) per doubling of the grid (``side``) from 128 on, over the models.

    Raises
    ------
    ValueError
        If no model was measured on a grid and its double.
    """
    ours = {(row["model"], row["side"]): row["ours"] for row in rows}
    factors = [
        ours[name, 2 * side] / value for (name, side), value in ours.items() if side >= 128 and (name, 2 * side) in ours
    ]
    if not factors:
        raise ValueError("no grid was measured together with its double")
    return float(max(factors))


def summary(
    costs: Sequence[Row],
    frames: Sequence[Row],
    *,
    doublings: Sequence[Row],
    kernels: Row,
    jobs: Sequence[Row],
    answers: Sequence[Row],
) -> dict[str, Any]:
    """Condense to the figures that are compared from run to run.

    Parameters
    ----------
    costs
        A row a model and grid: ``model``, ``side``, seconds of each of ``PATHS``.
    frames
        A row a frame compared with the dense evaluation.
    doublings
        Seconds of ``ours`` on grids measured in turns, a row a model and grid.
    kernels
        From :func:`benchmarks.engine.rates.kernel_rates`; the first kernel is the 8 × 128 one.
    jobs
        Memory of jobs, the one that counts last.
    answers
        Times to the first byte.
    """
    at_256 = [row for row in costs if row["side"] == 256]
    compared = [row for row in frames if row["side"] == 256]
    rates = list(kernels["kernels"].values())
    return {
        "speedup_256": round(min(row["method"] / row["ours"] for row in at_256), 1),
        "speedup_256_batched": round(min(row["batched"] / row["ours"] for row in at_256), 1),
        "speedup_256_same_kernel": round(min(row["kernel"] / row["ours"] for row in at_256), 1),
        "evaluations_over_minimal": round(max(row["adaptive"] for row in compared), 3),
        "evaluations_over_minimal_certified": round(max(row["certified"] for row in compared), 3),
        "frames_compared": len(frames),
        "samples_compared": sum(row["side"] ** 3 for row in frames),
        "differing_labels": sum(row["labels"] for row in frames),
        "differing_triangles": sum(row["triangles"] for row in frames),
        "growth_per_doubling": round(growth(doublings), 2),
        "kernel_mpoints_s": round(rates[0]["mpoints_s"], 3),
        "kernel_mpoints_s_shipped": round(rates[1]["mpoints_s"], 3),
        "fma_peak_gflop_s": round(kernels["fma_peak_gflop_s"], 1),
        "fma_peak_share": round(rates[0]["fma_peak_share"], 3),
        "peak_memory_mib": jobs[-1]["peak_memory_mib"],
        "peak_memory_job": jobs[-1]["job"],
        "first_byte_s": round(max(row["median_s"] for row in answers), 3),
    }


def plot(costs: Sequence[Row], path: Path) -> None:
    """Draw the cost of a frame against the side of the grid; hollow marks are extrapolated."""
    models = sorted({row["model"] for row in costs})
    figure = Figure(figsize=(4.6 * len(models), 4.4), layout="constrained")
    axes = figure.subplots(1, len(models), sharey=True, squeeze=False)[0]
    for ax, name in zip(axes, models, strict=True):
        rows = sorted((row for row in costs if row["model"] == name), key=lambda row: row["side"])
        for (way, title), colour in zip(PATHS.items(), ("#b3432b", "#d98b3a", "#7a7a7a", "#1f6f8b"), strict=True):
            sides, seconds = [row["side"] for row in rows], [row[way] for row in rows]
            ax.loglog(sides, seconds, color=colour, lw=1.8, label=title)
            measured = [way not in row["extrapolated"] for row in rows]
            for side, second, real in zip(sides, seconds, measured, strict=True):
                ax.plot(side, second, "o", ms=6, mec=colour, mfc=colour if real else "white")
        ax.set_xticks(sides, [f"{side}³" for side in sides])
        ax.minorticks_off()
        ax.set_title(name)
        ax.set_xlabel("grid")
        ax.grid(visible=True, which="major", alpha=0.25)
    axes[0].set_ylabel("seconds a frame")
    axes[0].legend(frameon=False, fontsize=8, loc="upper left")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130, metadata={"Software": None})
