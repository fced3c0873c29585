"""Surfaces as binary PLY."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager

import numpy as np

from model.engine.marching_cubes import Surface
from model.export.exporter import CellFiles, WriteFrame
from model.export.manifest import WrittenCell
from model.export.surface_files import find_surface_faults, in_micrometres, surface_files


def open_writer(cell: CellFiles) -> AbstractContextManager[WriteFrame]:
    """Write binary little-endian PLY, a file a frame."""
    return surface_files(cell, encode_ply, ".ply")


def find_faults(written: WrittenCell) -> Iterator[str]:
    """Read the files back with trimesh."""
    return find_surface_faults(written)


def encode_ply(surface: Surface, *, micrometres: float) -> bytes:
    """Encode a surface as binary little-endian PLY, vertices in µm."""
    header = (
        "ply\nformat binary_little_endian 1.0\ncomment cytosynth, units micrometre\n"
        f"element vertex {len(surface.vertices)}\nproperty float x\nproperty float y\nproperty float z\n"
        f"element face {len(surface.faces)}\nproperty list uchar int vertex_indices\nend_header\n"
    )
    faces = np.empty(len(surface.faces), dtype=[("count", "u1"), ("corner", "<i4", 3)])
    faces["count"] = 3
    faces["corner"] = surface.faces
    vertices = in_micrometres(surface, micrometres).astype("<f4", copy=False)
    return header.encode() + vertices.tobytes() + faces.tobytes()
