"""Shared by the mesh formats: one file a frame, vertices in µm; reading them back."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import trimesh
from numpy.typing import NDArray

from model.domain import Grid
from model.engine.marching_cubes import Surface
from model.output.exporter import CellFiles, ExportFrame, WriteFrame
from model.output.manifest import WrittenCell
from model.rendering.render import vertex_labels

VOLUME_TOLERANCE = 1e-3  # relative difference allowed, because files hold float32
ROUNDED = 5e-4  # µm³: manifests state volumes with three decimals


class EncodeSurface(Protocol):
    """Encodes a surface, given in Ω, as a whole file with vertices in µm."""

    def __call__(self, surface: Surface, *, micrometres: float) -> bytes | Iterator[bytes]:
        """Return the file, or its pieces in order; ``micrometres`` is the length of one unit of Ω."""
        ...


class EncodeBodies(Protocol):
    """Encodes a surface as a whole file that tells its cells apart."""

    def __call__(self, surface: Surface, *, micrometres: float, face_labels: NDArray[np.uint16]) -> bytes:
        """Return the file; ``face_labels`` (f,) holds the label of each triangle."""
        ...


@contextmanager
def surface_files(cell: CellFiles, encode: EncodeSurface, suffix: str) -> Iterator[WriteFrame]:
    """Write each frame's surface as a file of its own."""

    def write(frame: ExportFrame) -> None:
        content = encode(frame.surface, micrometres=cell.exporter.micrometres)
        with cell.exporter.open(cell.frame_file(frame.number, suffix)) as file:
            for piece in [content] if isinstance(content, bytes) else content:
                file.write(piece)

    yield write


@contextmanager
def body_files(cell: CellFiles, encode: EncodeBodies, suffix: str) -> Iterator[WriteFrame]:
    """Write each frame's surface as a file of its own, in which cells are told apart."""
    exporter = cell.exporter

    def write(frame: ExportFrame) -> None:
        labels = frame.once(frame_vertex_labels, exporter.grid)
        of_face = labels[frame.surface.faces[:, 0]]
        content = encode(frame.surface, micrometres=exporter.micrometres, face_labels=of_face)
        exporter.write_bytes(cell.frame_file(frame.number, suffix), content)

    yield write


def frame_vertex_labels(frame: ExportFrame, grid: Grid) -> NDArray[np.uint16]:
    """Label of each vertex of a frame's surface, (v,), as :func:`model.rendering.render.vertex_labels`."""
    return vertex_labels(frame.surface, frame.labelled.runs, grid)


def in_micrometres(surface: Surface, micrometres: float) -> NDArray[np.float32]:
    """Vertices (v, 3) in µm."""
    return (surface.vertices.astype(np.float64) * micrometres).astype(np.float32)


def find_surface_faults(written: WrittenCell) -> Iterator[str]:
    """Read meshes, one a frame, with trimesh and compare them with the manifest: closed, outward, volume in µm³."""
    for name in written.files:
        frame = written.entry.frames[int(Path(name).stem.removeprefix("frame_"))]
        for fault in _mesh_faults(written.folder / name, frame):
            yield f"{name}: {fault}"


def _mesh_faults(path: Path, frame: dict[str, Any]) -> Iterator[str]:
    try:
        mesh = trimesh.load_mesh(path)
    except Exception:  # noqa: BLE001 (its readers raise almost anything on a bad file)
        yield "cannot be read as a mesh"
        return
    yield from _faults_of(mesh, frame)


def mesh_faults(vertices: NDArray[np.float32], triangles: NDArray[np.int32], frame: dict[str, Any]) -> Iterator[str]:
    """Compare a mesh with vertices (v, 3) in µm and triangles (f, 3) with its frame in the manifest."""
    return _faults_of(trimesh.Trimesh(vertices, triangles, process=False), frame)


def volumes_differ(found: float, stated: float) -> bool:
    """Whether a volume in µm³ is not the one that a manifest states."""
    return abs(found - stated) > VOLUME_TOLERANCE * stated + ROUNDED


def _faults_of(mesh: Any, frame: dict[str, Any]) -> Iterator[str]:
    if not mesh.is_watertight:
        yield "the surface is not closed"
    elif mesh.volume <= 0.0:
        yield "triangles face inward"
    elif volumes_differ(mesh.volume, frame["volume_um3"]):
        yield f"encloses {mesh.volume:.1f} µm³, the manifest says {frame['volume_um3']:.1f}"
