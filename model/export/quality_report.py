"""The quality of each frame's surface as a table of numbers: ``report.json``.

What the manifest has already, volumes and areas by the surface, is not repeated.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from model.engine.marching_cubes import Surface
from model.output.exporter import CellFiles, ExportFrame, WriteFrame
from model.output.manifest import WrittenCell

NAME = "report.json"


@contextmanager
def open_writer(cell: CellFiles) -> Iterator[WriteFrame]:
    """Write the report when all frames have come."""
    exporter = cell.exporter
    voxel = float(np.prod(exporter.units.spacing))
    frames: list[dict[str, Any]] = []

    def write(frame: ExportFrame) -> None:
        inside = int(frame.labelled.runs.sizes()[1:].sum())
        frames.append({"frame": frame.number, **measure(frame.surface), "voxel_volume_um3": round(inside * voxel, 3)})

    yield write
    document = {
        "format": "cytosynth-report/1",
        # Each vertex lies on an edge between two samples on different sides of the network's membrane.
        "surface_error_bound_um": max(exporter.units.spacing),
        "self_intersections": "not examined",
        "frames": frames,
    }
    exporter.write_bytes(f"{cell.name}/{NAME}", (json.dumps(document, indent=2, allow_nan=False) + "\n").encode())


def measure(surface: Surface) -> dict[str, Any]:
    """Examine a surface.

    Returns
    -------
    dict
        ``watertight``: each edge belongs to two triangles of opposite sense; ``outward``: every body encloses a
        positive volume or is the wall of a cavity in another; ``bodies``: Euler number and genus of each, the largest
        first; ``smallest_angle_deg`` of all triangles; ``degenerate``: triangles without area.
    """
    faces = surface.faces.astype(np.int64)
    count, of_face = surface.components()
    of_vertex = np.full(len(surface.vertices), -1, dtype=np.int64)  # −1: no triangle
    of_vertex[faces] = of_face[:, None]
    triangles, vertices = (np.bincount(of + 1, minlength=count + 1)[1:] for of in (of_face, of_vertex))
    corners = surface.vertices.astype(np.float64)[faces]
    normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    volumes = np.bincount(of_face, weights=np.einsum("fi,fi->f", corners[:, 0], normals) / 6.0, minlength=count)
    bodies = []
    for body in np.argsort(-np.abs(volumes), kind="stable"):
        mine = int(triangles[body])
        euler = int(vertices[body]) - 3 * mine // 2 + mine
        bodies.append({"euler_number": euler, "genus": (2 - euler) // 2, "triangles": mine})
    a, b, c = (np.linalg.norm(corners[:, n] - corners[:, n - 1], axis=1) for n in range(3))
    area = np.linalg.norm(normals, axis=1)
    middle = np.maximum(np.minimum(a, b), np.minimum(np.maximum(a, b), c))
    longest_two = middle * np.maximum(np.maximum(a, b), c)  # the smallest angle lies between the two longest sides
    sine = np.divide(area, longest_two, out=np.zeros_like(area), where=longest_two > 0)
    smallest = float(np.degrees(np.arcsin(np.clip(sine, 0.0, 1.0))).min())
    return {
        "watertight": bool(surface.is_watertight),
        "outward": bool((volumes[np.abs(volumes).argmax()] > 0.0) and volumes.sum() > 0.0),
        "bodies": bodies,
        "smallest_angle_deg": float(f"{smallest:.4g}"),
        "degenerate": int(np.count_nonzero(area == 0.0)),
    }


def find_faults(written: WrittenCell) -> Iterator[str]:
    """Compare the frames with the manifest; surfaces that are open or face inward are faults."""
    for name in written.files:
        frames = json.loads((written.folder / name).read_bytes())["frames"]
        if [row["frame"] for row in frames] != [row["frame"] for row in written.entry.frames]:
            yield f"{name}: not the frames of the manifest"
        for row in frames:
            if not (row["watertight"] and row["outward"]):
                yield f"{name}: the surface of frame {row['frame']} is open or faces inward"
