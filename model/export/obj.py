"""Surfaces as Wavefront OBJ."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import AbstractContextManager

import numpy as np
from numpy.typing import NDArray

from model.encoding.surface_files import body_files, find_surface_faults, surface_files
from model.engine.marching_cubes import Surface
from model.output.exporter import CellFiles, WriteFrame
from model.output.manifest import WrittenCell


def open_writer(cell: CellFiles) -> AbstractContextManager[WriteFrame]:
    """Write Wavefront OBJ, a file a frame."""
    if cell.spec.get("separate_bodies"):
        return body_files(cell, encode_bodies, ".obj")
    return surface_files(cell, encode_obj, ".obj")


def find_faults(written: WrittenCell) -> Iterator[str]:
    """Read the files back with trimesh."""
    return find_surface_faults(written)


def encode_obj(surface: Surface, *, micrometres: float) -> bytes:
    """Encode a surface as Wavefront OBJ, vertices in µm with as many decimals as keep 1e-7 of a unit of Ω.

    Notes
    -----
    Numbers are turned into digits as whole columns, 1.5 million lines a second; line by line it takes ten times that.
    """
    decimals = max(0, math.ceil(-math.log10(1e-7 * micrometres)))
    vertices = np.rint(surface.vertices.astype(np.float64) * (micrometres * 10.0**decimals)).astype(np.int64)
    head = b"# cytosynth, units micrometre\n"
    return head + _lines("v", vertices, decimals) + _lines("f", surface.faces.astype(np.int64) + 1, 0)


def encode_bodies(surface: Surface, *, micrometres: float, face_labels: NDArray[np.uint16]) -> bytes:
    """Encode a surface as :func:`encode_obj`, its triangles in one object a label, ``o cell_1``."""
    decimals = max(0, math.ceil(-math.log10(1e-7 * micrometres)))
    vertices = np.rint(surface.vertices.astype(np.float64) * (micrometres * 10.0**decimals)).astype(np.int64)
    content = b"# cytosynth, units micrometre\n" + _lines("v", vertices, decimals)
    for label in np.unique(face_labels):
        triangles = surface.faces[face_labels == label].astype(np.int64) + 1
        content += f"o cell_{label}\n".encode("ascii") + _lines("f", triangles, 0)
    return content


def _lines(keyword: str, rows: NDArray[np.int64], decimals: int) -> bytes:
    """Write each row as ``keyword a b c``, the integers having ``decimals`` digits behind the point."""
    if len(rows) == 0:
        return b""
    columns = [np.full((len(rows), 1), ord(keyword), dtype=np.uint8)]
    for column in rows.T:
        columns += [np.full((len(rows), 1), ord(" "), dtype=np.uint8), _digits(column, decimals)]
    columns.append(np.full((len(rows), 1), ord("\n"), dtype=np.uint8))
    text = np.concatenate(columns, axis=1)
    return text[text > 0].tobytes()


def _digits(values: NDArray[np.int64], decimals: int) -> NDArray[np.uint8]:
    """Write integers as characters (n, width), right-aligned, 0 where a character is to be left out."""
    rest = np.abs(values)
    if rest.max() < 2**32:
        rest = rest.astype(np.uint32)  # divides four times as fast
    width = max(len(str(int(rest.max()))), decimals + 1)
    text = np.zeros((len(values), 1 + width + (decimals > 0)), dtype=np.uint8)
    position = text.shape[1]
    for place in range(width):
        position -= 1
        if place == decimals > 0:
            text[:, position] = ord(".")
            position -= 1
        rest, digit = np.divmod(rest, 10)
        shown = (digit > 0) | (rest > 0) if place > decimals else True
        text[:, position] = np.where(shown, digit + ord("0"), 0)
    text[:, 0] = np.where(values < 0, ord("-"), 0)
    return text
