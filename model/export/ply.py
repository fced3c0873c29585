"""Surfaces as binary PLY."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager

import numpy as np
from numpy.typing import NDArray

from model.encoding.surface_files import body_files, find_surface_faults, in_micrometres, surface_files
from model.engine.marching_cubes import Surface
from model.output.exporter import CellFiles, WriteFrame
from model.output.manifest import WrittenCell


def open_writer(cell: CellFiles) -> AbstractContextManager[WriteFrame]:
    """Write binary little-endian PLY, a file a frame."""
    if cell.spec.get("separate_bodies"):
        return body_files(cell, encode_bodies, ".ply")
    return surface_files(cell, encode_ply, ".ply")


def find_faults(written: WrittenCell) -> Iterator[str]:
    """Read the files back with trimesh."""
    return find_surface_faults(written)


def encode_ply(surface: Surface, *, micrometres: float) -> bytes:
    """Encode a surface as binary little-endian PLY, vertices in µm."""
    return _encode(surface, micrometres=micrometres, face_labels=None)


def encode_bodies(surface: Surface, *, micrometres: float, face_labels: NDArray[np.uint16]) -> bytes:
    """Encode a surface as :func:`encode_ply`, each triangle with a property ``label``."""
    return _encode(surface, micrometres=micrometres, face_labels=face_labels)


def _encode(surface: Surface, *, micrometres: float, face_labels: NDArray[np.uint16] | None) -> bytes:
    label = "" if face_labels is None else "property ushort label\n"
    header = (
        "ply\nformat binary_little_endian 1.0\ncomment cytosynth, units micrometre\n"
        f"element vertex {len(surface.vertices)}\nproperty float x\nproperty float y\nproperty float z\n"
        f"element face {len(surface.faces)}\nproperty list uchar int vertex_indices\n{label}end_header\n"
    )
    members: list[tuple[str, str, int]] = [("count", "u1", 1), ("corner", "<i4", 3)]
    if face_labels is not None:
        members.append(("label", "<u2", 1))
    faces = np.empty(len(surface.faces), dtype=[(n, k) if c == 1 else (n, k, c) for n, k, c in members])
    faces["count"] = 3
    faces["corner"] = surface.faces
    if face_labels is not None:
        faces["label"] = face_labels
    vertices = in_micrometres(surface, micrometres).astype("<f4", copy=False)
    return header.encode() + vertices.tobytes() + faces.tobytes()
