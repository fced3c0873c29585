"""Signed distances in µm, as files hold them: their values, the attributes that describe them, and their check.

Distances beyond the clamp, which the attributes state, are the clamp (:mod:`model.engine.narrow_band`).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model.domain import Field, Grid
from model.encoding.surface_files import volumes_differ
from model.engine.marching_cubes import extract_surface
from model.engine.narrow_band import clamp_distance
from model.output.exporter import CellFiles, Exporter, ExportFrame
from model.output.manifest import WrittenCell

MEAN_CUT = 0.05  # of a grid step, over the area: how far the surface of such distances lies within the triangles


def clamp_um(exporter: Exporter) -> np.float32:
    """Return the largest magnitude of a distance in µm."""
    return np.float32(clamp_distance(exporter.grid) * np.float32(exporter.micrometres))


def distances_um(frame: ExportFrame, exporter: Exporter) -> Field:
    """Return a frame's signed distances (nz, ny, nx) float32 in µm."""
    return frame.distance_volume * np.float32(exporter.micrometres)


def attributes(cell: CellFiles) -> dict[str, Any]:
    """Return what a reader must know of the numbers: unit, sign, clamp, and where and when the samples are.

    ``spacing_um`` and ``first_sample_um`` are along x, y and z; the centre of Ω is the origin.
    """
    exporter = cell.exporter
    spacing = exporter.units.spacing
    return {
        "unit": "micrometer",
        "sign": "negative inside",
        "clamp_um": float(clamp_um(exporter)),
        "spacing_um": spacing,
        "first_sample_um": [-(side - 1) / 2 * step for side, step in zip(exporter.grid.shape, spacing, strict=True)],
        "minutes": [exporter.minutes_at(time) for time in cell.times],
    }


def is_warped(written: WrittenCell) -> bool:
    """Whether the cells of a result may be warped, by its spec."""
    return float(written.manifest.spec.get("warp", 0.0)) > 0.0


def find_distance_faults(values: NDArray[Any], frame: dict[str, Any], written: WrittenCell) -> Iterator[str]:
    """Compare the volume within the zero level set of a frame's distances [x, y, z] with the manifest."""
    nx, ny, nz = values.shape
    scale = written.manifest.units.micrometres
    field = np.ascontiguousarray(values / np.float32(scale), dtype=np.float32)
    if not np.isfinite(field).all() or not (field < 0).any():
        yield f"frame {frame['frame']} holds NaN, or no distance below 0"
        return
    volume = extract_surface(field, Grid((nx, ny, nz))).volume * scale**3
    # Distances of a warped cell are those to its triangles, whose edges a grid of the same step cuts off a little.
    cut = MEAN_CUT * frame["area_um2"] * max(written.manifest.units.spacing) if is_warped(written) else 0.0
    if abs(volume - frame["volume_um3"]) > cut and volumes_differ(volume, frame["volume_um3"]):
        yield f"frame {frame['frame']} encloses {volume:.1f} µm³, not {frame['volume_um3']:.1f}"
