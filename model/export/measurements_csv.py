"""Measurements of each cell in each frame as a table: ``measurements.csv``, one row a label and frame.

Volumes, areas and centroids are those of the surface, so that they do not depend on voxels.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from model.export.exporter import CellFiles, ExportFrame, WriteFrame
from model.export.manifest import WrittenCell
from model.export.render import vertex_labels

NAME = "measurements.csv"
COLUMNS = (
    "frame", "minutes", "label", "parent", "volume_um3", "area_um2", "sphericity", "x_um", "y_um", "z_um",
)  # fmt: skip


@contextmanager
def open_writer(cell: CellFiles) -> Iterator[WriteFrame]:
    """Write the table when all frames have come; a row of about 80 bytes a label and frame is kept until then."""
    exporter = cell.exporter
    rows: list[list[object]] = []

    def write(frame: ExportFrame) -> None:
        surface = frame.surface
        labels = vertex_labels(surface, frame.labelled.labels, exporter.grid)
        corners = surface.vertices.astype(np.float64)[surface.faces]  # (f, 3 corners, 3)
        owner = np.asarray(labels)[surface.faces[:, 0]]
        cross = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
        areas = np.linalg.norm(cross, axis=1) / 2.0
        volumes = np.einsum("fi,fi->f", corners[:, 0], cross) / 6.0  # of the tetrahedra with the origin
        for label in np.unique(owner):
            mine = owner == label
            volume, area = float(volumes[mine].sum()), float(areas[mine].sum())
            centroid = (volumes[mine, None] * corners[mine].sum(axis=1) / 4.0).sum(axis=0) / volume
            rows.append([
                frame.number, _digits(exporter.minutes_at(frame.time)), int(label), 0,
                _digits(volume * exporter.micrometres**3), _digits(area * exporter.micrometres**2),
                _digits(sphericity(volume, area)), *(_digits(value) for value in centroid * exporter.micrometres),
            ])  # fmt: skip

    yield write
    parents = {track.label: track.parent for track in cell.tracks()}
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(COLUMNS)
    for row in rows:
        row[3] = parents.get(int(str(row[2])), 0)
        table.writerow(row)
    exporter.write_bytes(f"{cell.name}/{NAME}", text.getvalue().encode("ascii"))


def sphericity(volume: float, area: float) -> float:
    """Return the area of the ball of the same volume over the area: 1 for a ball, less for any other body."""
    return math.cbrt(math.pi) * math.cbrt(6.0 * volume) ** 2 / area


def _digits(value: float) -> str:
    return f"{value:.6g}"


def find_faults(written: WrittenCell) -> Iterator[str]:
    """Compare labels, and the sum of the volumes of each frame, with the manifest."""
    for name in written.files:
        with (written.folder / name).open(encoding="ascii", newline="") as file:
            rows = list(csv.DictReader(file))
        for frame in written.entry.frames:
            mine = [row for row in rows if int(row["frame"]) == frame["frame"]]
            labels = sorted(int(row["label"]) for row in mine)
            volume = sum(float(row["volume_um3"]) for row in mine)
            if labels != frame["labels"]:
                yield f"{name}: frame {frame['frame']} has labels {labels}, the manifest says {frame['labels']}"
            elif abs(volume - frame["volume_um3"]) > 1e-3 * frame["volume_um3"]:
                yield f"{name}: frame {frame['frame']} has {volume:.1f} µm³, not {frame['volume_um3']:.1f}"
