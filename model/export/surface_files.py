"""Shared by the mesh formats: one file a frame, vertices in µm."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from model.engine.marching_cubes import Surface
from model.export.exporter import CellFiles, ExportFrame, WriteFrame


class EncodeSurface(Protocol):
    """Encodes a surface, given in Ω, as a whole file with vertices in µm."""

    def __call__(self, surface: Surface, *, micrometres: float) -> bytes:
        """Return the file; ``micrometres`` is the length of one unit of Ω."""
        ...


@contextmanager
def surface_files(cell: CellFiles, encode: EncodeSurface, suffix: str) -> Iterator[WriteFrame]:
    """Write each frame's surface as a file of its own."""

    def write(frame: ExportFrame) -> None:
        content = encode(frame.surface, micrometres=cell.exporter.micrometres)
        cell.exporter.write_bytes(cell.frame_file(frame.number, suffix), content)

    yield write


def in_micrometres(surface: Surface, micrometres: float) -> NDArray[np.float32]:
    """Vertices (v, 3) in µm."""
    return (surface.vertices.astype(np.float64) * micrometres).astype(np.float32)
