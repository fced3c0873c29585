"""Surfaces as binary STL."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import AbstractContextManager

import numpy as np

from model.encoding.surface_files import find_surface_faults, in_micrometres, surface_files
from model.engine.marching_cubes import Surface
from model.output.exporter import CellFiles, WriteFrame
from model.output.manifest import WrittenCell

_PIECE = 2**17  # triangles that are encoded at once: a fine grid has millions


def open_writer(cell: CellFiles) -> AbstractContextManager[WriteFrame]:
    """Write binary STL, a file a frame."""
    return surface_files(cell, stl_pieces, ".stl")


def find_faults(written: WrittenCell) -> Iterator[str]:
    """Read the files back with trimesh."""
    return find_surface_faults(written)


def encode_stl(surface: Surface, *, micrometres: float) -> bytes:
    """Encode a surface as binary STL, vertices in µm.

    The header does not begin with ``solid``, by which some readers tell ASCII files.

    References
    ----------
    3D Systems, StereoLithography Interface Specification, 1989.
    """
    return b"".join(stl_pieces(surface, micrometres=micrometres))


def stl_pieces(surface: Surface, *, micrometres: float) -> Iterator[bytes]:
    """Encode a surface as :func:`encode_stl`, in pieces of some megabytes."""
    yield b"binary STL, cytosynth, units micrometre".ljust(80) + struct.pack("<I", len(surface.faces))
    vertices = in_micrometres(surface, micrometres)
    for first in range(0, len(surface.faces), _PIECE):
        corner = vertices[surface.faces[first : first + _PIECE]]  # (f, 3 corners, 3)
        normal = np.cross(corner[:, 1] - corner[:, 0], corner[:, 2] - corner[:, 0])
        length = np.linalg.norm(normal, axis=1, keepdims=True)
        triangles = np.zeros(len(corner), dtype=[("normal", "<f4", 3), ("corner", "<f4", (3, 3)), ("attribute", "<u2")])
        triangles["normal"] = np.divide(normal, length, out=np.zeros_like(normal), where=length > 0)
        triangles["corner"] = corner
        yield triangles.tobytes()
