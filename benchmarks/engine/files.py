"""What meshing and writing cost: ours beside the libraries that one would take otherwise."""

from __future__ import annotations

import io
import tempfile
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
import trimesh
from skimage.measure import marching_cubes

from benchmarks.engine.cells import Case
from benchmarks.engine.paths import Ours, ours, timed
from model.domain import Field, Grid, frame_times
from model.engine.bricks import Bricks
from model.engine.marching_cubes import Surface, extract_surface
from model.engine.runs import Labels
from model.engine.tracking import label_volume
from model.output.exporter import CellFiles, Exporter, ExportFrame, WriteFrame
from model.output.frame_writers import open_writers

FRAMES = 30
_DISTINCT = 3  # frames that are computed; the writers get them in turn


def meshing(dense: Field, found: Ours, grid: Grid, *, rounds: int) -> list[dict[str, Any]]:
    """Milliseconds of a frame's surface from what each way has at hand, in turns; medians."""
    low, high = (edge(np.argwhere(found.labels), axis=0) for edge in (np.min, np.max))
    box = tuple(slice(max(0, a - 1), b + 2) for a, b in zip(low, high, strict=True))
    kept = np.ascontiguousarray(dense[box])
    ways: dict[str, Callable[[], object]] = {
        "ours, sparse": lambda: extract_surface(found.field, grid, inside=found.runs),
        "ours, from a dense field": lambda: extract_surface(dense, grid),
        "scikit-image, bounding box": lambda: marching_cubes(kept, 0.0),
        "scikit-image, whole volume": lambda: marching_cubes(dense, 0.0),
        "labels, ours, sparse": lambda: label_volume(found.field),
        "labels, ours, from a dense field": lambda: label_volume(dense),
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            seconds[name].append(timed(way))
    return [{"way": name, "ms": 1e3 * float(np.median(values))} for name, values in seconds.items()]


def writing(case: Case, grid: Grid) -> list[dict[str, Any]]:
    """Seconds and megabytes of 30 frames in each format, checksums and disk included, beside a library's encoder."""
    bricks = Bricks(grid)
    moments = [Case(case.name, "", case.cell, float(t), case.lipschitz) for t in frame_times(_DISTINCT)]
    made = [ours(moment, grid, bricks) for moment in moments]
    surfaces, volumes = [one.surface for one in made], [one.labels for one in made]
    card = case.cell.checkpoint.card
    rows = []
    with tempfile.TemporaryDirectory(prefix="cytosynth-") as folder:
        exporter = Exporter(Path(folder), grid=grid, micrometres=card.micrometres, minutes=card.minutes)
        cell = CellFiles(exporter=exporter, name="cell_0000", times=frame_times(FRAMES).tolist())
        frames = [
            ExportFrame(number=n, time=cell.times[n], surface=made[n % _DISTINCT].surface, labelled=made[n % _DISTINCT])
            for n in range(FRAMES)
        ]
        for kind in ("stl", "ply", "obj"):
            with open_writers([kind], cell) as write:
                seconds, library = _in_turns(
                    (_frame(write, frame) for frame in frames),
                    (_library_mesh(surface, kind, card.micrometres) for surface in surfaces),
                )
            rows.append(_row(kind, seconds, "trimesh", library, exporter))
        with open_writers(["tiff"], cell) as write:
            seconds, library = _in_turns(
                (_frame(write, frame) for frame in frames),
                (_library_volume(labels) for labels in volumes),
            )
        rows.append(_row("tif", seconds, "tifffile", library, exporter))
    return rows


def _row(
    kind: str, seconds: Sequence[float], library: str, library_seconds: Sequence[float], exporter: Exporter
) -> dict[str, Any]:
    size = sum(file.bytes for file in exporter.files if file.name.endswith(kind))
    return {
        "format": kind,
        "frames": FRAMES,
        "megabytes": size / 1e6,
        "seconds": sum(seconds),
        "library": library,
        "library_frames": len(library_seconds),
        "library_seconds": FRAMES * float(np.mean(library_seconds)),
    }


def _in_turns(
    our: Iterator[Callable[[], object]], theirs: Iterator[Callable[[], object]]
) -> tuple[list[float], list[float]]:
    """Time our steps and, between them, the others; the machine's noise meets both."""
    first: list[float] = []
    second: list[float] = []
    for step in our:
        first.append(timed(step))
        if len(first) % (FRAMES // _DISTINCT) == 0:
            second += [timed(other) for other in islice(theirs, 1)]
    return first, second


def _frame(write: WriteFrame, frame: ExportFrame) -> Callable[[], object]:
    return lambda: write(frame)


def _library_mesh(surface: Surface, kind: str, micrometres: float) -> Callable[[], object]:
    mesh = trimesh.Trimesh(surface.vertices * micrometres, surface.faces, process=False)
    return lambda: mesh.export(file_type=kind)


def _library_volume(labels: Labels) -> Callable[[], object]:
    return lambda: tifffile.imwrite(
        io.BytesIO(), np.ascontiguousarray(labels.T), compression="zlib", imagej=False, photometric="minisblack"
    )
