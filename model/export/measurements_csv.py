"""Measurements of each cell in each frame as a table: ``measurements.csv``, one row a label and frame.

Volumes, areas and centroids are those of the surface, so that they do not depend on voxels.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

from model.encoding.surface_files import frame_vertex_labels, volumes_differ
from model.output.exporter import CellFiles, Exporter, ExportFrame, WriteFrame
from model.output.manifest import WrittenCell

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
        for one in frame.once(measure, exporter):
            rows.append([
                one.frame, digits(one.minutes), one.label, 0, digits(one.volume_um3), digits(one.area_um2),
                digits(one.sphericity), *(digits(value) for value in one.centroid_um),
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


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """A label in a frame: time in minutes, volume in µm³, area in µm², centroid (x, y, z) in µm."""

    frame: int
    minutes: float
    label: int
    volume_um3: float
    area_um2: float
    sphericity: float
    centroid_um: tuple[float, float, float]


def measure(frame: ExportFrame, exporter: Exporter) -> tuple[Measurement, ...]:
    """Measure the surface of each label in a frame, labels ascending."""
    return tuple(_measurements(frame, exporter))


def _measurements(frame: ExportFrame, exporter: Exporter) -> Iterator[Measurement]:
    surface = frame.surface
    labels = frame.once(frame_vertex_labels, exporter.grid)
    corners = surface.vertices.astype(np.float64)[surface.faces]  # (f, 3 corners, 3)
    owner = np.asarray(labels)[surface.faces[:, 0]]
    cross = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    areas = np.linalg.norm(cross, axis=1) / 2.0
    volumes = np.einsum("fi,fi->f", corners[:, 0], cross) / 6.0  # of the tetrahedra with the origin
    for label in np.unique(owner):
        mine = owner == label
        volume, area = float(volumes[mine].sum()), float(areas[mine].sum())
        x, y, z = (volumes[mine, None] * corners[mine].sum(axis=1) / 4.0).sum(axis=0) / volume * exporter.micrometres
        yield Measurement(
            frame=frame.number,
            minutes=exporter.minutes_at(frame.time),
            label=int(label),
            volume_um3=volume * exporter.micrometres**3,
            area_um2=area * exporter.micrometres**2,
            sphericity=sphericity(volume, area),
            centroid_um=(float(x), float(y), float(z)),
        )


def sphericity(volume: float, area: float) -> float:
    """Return the area of the ball of the same volume over the area: 1 for a ball, less for any other body."""
    return math.cbrt(math.pi) * math.cbrt(6.0 * volume) ** 2 / area


def digits(value: float) -> str:
    """Return a number in the six digits that the table has."""
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
            elif volumes_differ(volume, frame["volume_um3"]):
                yield f"{name}: frame {frame['frame']} has {volume:.1f} µm³, not {frame['volume_um3']:.1f}"
