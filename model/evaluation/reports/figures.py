"""Figures of a model report: quantile plots, box plots, courses over time, and pictures of cells side by side.

Promises: needs no display; the same measurements give the same figures.
Does not promise: exact values; they are in the report's JSON.
"""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

from model.domain import TAU, Grid, frame_times
from model.engine.marching_cubes import Surface
from model.evaluation.sequence_measures import SIDE, SequenceMeasures
from model.evaluation.sequence_sources import GeneratedSequences, Sequences, Snapshot
from model.rendering.render import PALETTES, Picture, Scene, encode_png, montage, render_frames

Doubles = NDArray[np.float64]

COLOURS = {"held-out": "#5b6b83", "generated": "#17a398", "training": "#e3b23c", "baseline": "#d3408f"}
UNITS = {
    "volume": "µm³", "area": "µm²", "extent_long": "µm", "extent_middle": "µm", "extent_short": "µm",
    "speed": "µm/min", "membrane_speed": "µm/min", "division_time": "min", "protrusion_length": "µm",
    "protrusion_total_length": "µm", "protrusion_thickness": "µm",
}  # fmt: skip
COLUMNS = 5
COURSES = ("volume", "area", "sphericity", "solidity", "elongation")
PICTURE_SIDE = 190  # pixels


def label(name: str) -> str:
    """Name of a descriptor as people read it, with its unit."""
    unit = UNITS.get(name)
    return name.replace("_", " ") + (f" [{unit}]" if unit else "")


def quantile_plots(sets: dict[str, list[SequenceMeasures]], names: Sequence[str]) -> bytes:
    """Quantiles of each set against those of the held-out set, a small plot a descriptor, as PNG."""
    figure, axes = _plots(len(names))
    levels = np.linspace(0.01, 0.99, 99)
    for ax, name in zip(axes, names, strict=True):
        reference = _pooled(sets["held-out"], name)
        across = np.quantile(reference, levels)
        for side, sequences in sets.items():
            values = _pooled(sequences, name) if side != "held-out" else np.zeros(0)
            if len(values):
                ax.plot(across, np.quantile(values, levels), ".", ms=2.5, color=COLOURS[side], label=side)
        ends = [float(across.min()), float(across.max())]
        ax.plot(ends, ends, color=COLOURS["held-out"], lw=0.8)
        ax.set_title(label(name), fontsize=8)
    return _png(figure, axes)


def box_plots(sets: dict[str, list[SequenceMeasures]], names: Sequence[str]) -> bytes:
    """Median, quartiles and 5 to 95 % of each set, a small plot a descriptor, as PNG."""
    figure, axes = _plots(len(names))
    for ax, name in zip(axes, names, strict=True):
        values = {side: _pooled(sequences, name) for side, sequences in sets.items()}
        shown = [side for side in values if len(values[side])]
        boxes = ax.boxplot(
            [values[side] for side in shown], whis=(5, 95), showfliers=False, patch_artist=True, widths=0.6
        )
        for box, side in zip(boxes["boxes"], shown, strict=True):
            box.set_facecolor(COLOURS[side])
        for line in boxes["medians"]:
            line.set_color("black")
        ax.set_xticks(range(1, len(shown) + 1), shown, fontsize=5.5)
        ax.set_title(label(name), fontsize=8)
    return _png(figure, [])


def courses(sets: dict[str, list[SequenceMeasures]]) -> bytes:
    """Median and quartiles of the largest body's descriptors over time, as PNG."""
    figure, axes = _plots(len(COURSES))
    for ax, name in zip(axes, COURSES, strict=True):
        for side, sequences in sets.items():
            frames = min(len(sequence.minutes) for sequence in sequences)
            rows = np.array([[getattr(frame[0], name) for frame in sequence.bodies[:frames]] for sequence in sequences])
            minutes = np.median([sequence.minutes[:frames] for sequence in sequences], axis=0)
            low, middle, high = np.quantile(rows, [0.25, 0.5, 0.75], axis=0)
            ax.plot(minutes, middle, color=COLOURS[side], label=side, lw=1.2)
            ax.fill_between(minutes, low, high, color=COLOURS[side], alpha=0.15, lw=0)
        ax.set_title(label(name), fontsize=8)
        ax.set_xlabel("minutes", fontsize=7)
    return _png(figure, axes)


def picture_grid(sides: dict[str, Sequences], *, cells: int = 3, moments: int = 6, palette: str = "neutral") -> Picture:
    """Cells of each set, a row a cell, their frames from left to right, all at one scale.

    Parameters
    ----------
    sides
        Sets by name.
    cells
        Rows of each.
    moments
        Frames of each cell.
    palette
        One of :data:`model.rendering.render.PALETTES`.
    """
    unit = next(iter(sides.values())).micrometres
    scenes: list[Scene | None] = []
    for side, source in sides.items():
        for index in range(min(cells, len(source))):
            snapshots = source.snapshots(index, moments=moments, grid=Grid((SIDE, SIDE, SIDE)))
            row = [_scene(one, f"{side} {one.minute:.0f} min", source.micrometres / unit) for one in snapshots]
            scenes += [*row, *[None] * (moments - len(row))]
    return _sheet(scenes, columns=moments, palette=palette, unit=unit)


def picture_pairs(
    generated: Sequences,
    training: Sequences,
    pairs: Sequence[tuple[int, int, float]],
    *,
    moments: int = 4,
    palette: str = "neutral",
) -> Picture:
    """New cells beside training cells, a row a pair, all at one scale and from one side.

    Parameters
    ----------
    generated, training
        Where the cells come from.
    pairs
        New cell, training cell, and their overlap (Dice).
    moments
        Frames of each cell.
    palette
        One of :data:`model.rendering.render.PALETTES`.
    """
    unit, grid = generated.micrometres, Grid((SIDE, SIDE, SIDE))
    scenes: list[Scene | None] = []
    for new, learned, dice in pairs:
        for name, source, index in (("new", generated, new), (f"training, Dice {dice:.2f}", training, learned)):
            snapshots = source.snapshots(index, moments=moments, grid=grid)
            row = [_scene(one, f"{name} {one.minute:.0f} min", source.micrometres / unit) for one in snapshots]
            scenes += [*row, *[None] * (moments - len(row))]
    return _sheet(scenes, columns=2 * moments, palette=palette, unit=unit)


def cell_sheet(source: GeneratedSequences, *, grid: Grid, columns: int = 6, size: int = 240) -> Picture:
    """New cells of a model, one picture each, at times spread over the sequence: the first at its start.

    Parameters
    ----------
    source
        The cells.
    grid
        On which they are evaluated.
    columns
        Cells in a row.
    size
        Pixels along a side of one picture.
    """
    scenes, times, palette = [], frame_times(len(source)), "neutral"
    for index, time in enumerate(times):
        cell = source.cell(index)
        card = cell.checkpoint.card
        palette = card.cell_type if card.cell_type in PALETTES else "neutral"
        (frame,) = cell.frames(times[index : index + 1], grid)
        caption = f"{index}: {(float(time) - TAU[0]) / 2.0 * card.minutes:.0f} min"
        scenes.append(Scene(surface=frame.surface, caption=caption))
    made = render_frames(scenes, size=size, palette=palette, micrometres=source.micrometres)
    return montage(made, columns=columns)


def _sheet(scenes: list[Scene | None], *, columns: int, palette: str, unit: float) -> Picture:
    """Render scenes and lay them out in rows; blank where there is none."""
    drawn = [scene for scene in scenes if scene is not None]
    made = iter(render_frames(drawn, size=PICTURE_SIDE, palette=palette, micrometres=unit))
    blank = np.zeros((PICTURE_SIDE, PICTURE_SIDE, 3), dtype=np.uint8)
    return montage([blank if scene is None else next(made) for scene in scenes], columns=columns)


def picture_png(picture: Picture) -> bytes:
    """Encode a picture as PNG."""
    return encode_png(picture)


def _scene(snapshot: Snapshot, caption: str, scale: float) -> Scene:
    vertices = np.asarray(snapshot.surface.vertices * scale, dtype=np.float32)
    return Scene(
        surface=Surface(vertices=vertices, faces=np.asarray(snapshot.surface.faces, dtype=np.int32)), caption=caption
    )


def _pooled(sequences: list[SequenceMeasures], name: str) -> Doubles:
    values = np.array([value for sequence in sequences for value in sequence.values(name)], dtype=np.float64)
    return values[np.isfinite(values)]


def _plots(count: int) -> tuple[Figure, list[Axes]]:
    rows = -(-count // COLUMNS)
    figure = Figure(figsize=(2.35 * COLUMNS, 2.1 * rows), layout="constrained")
    axes = [figure.add_subplot(rows, COLUMNS, place + 1) for place in range(count)]
    for ax in axes:
        ax.tick_params(labelsize=6)
        ax.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _png(figure: Figure, legends: Sequence[Axes]) -> bytes:
    if legends:
        legends[0].legend(fontsize=6, frameon=False)
    FigureCanvasAgg(figure)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110, metadata={"Software": None})
    return buffer.getvalue()
