"""Measurements of each cell in each frame: volume, area, sphericity and centroid.

They are those of the surface, so that they do not depend on voxels.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from model.encoding.surface_files import frame_vertex_labels
from model.output.exporter import Exporter, ExportFrame


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
