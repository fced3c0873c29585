"""Files a client downloads: meshes, label volumes, and the manifest that lists them.

Promises: this is the one change of units (Ω → µm, τ → minutes) and the one transposition ([x, y, z] → z, y, x). The
origin of mesh coordinates is the centre of Ω, and label volumes say so, so that both lie on one another in ImageJ.
Files are written forward, frame by frame, and hold no date, host or path: the same cells give the same bytes. Checksums
are taken from the bytes as they are written.
Does not promise: atomicity or durability; the worker publishes a finished folder whole.
"""

from __future__ import annotations

import hashlib
import json
import math
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np
from numpy.typing import NDArray

from model.domain import TAU, Grid
from model.engine.marching_cubes import Surface
from model.engine.runs import Labels
from model.errors import ExportError
from model.export.imagej_tiff import Hyperstack, HyperstackWriter
from model.export.manifest import (
    MANIFEST_FILE,
    CellEntry,
    FileEntry,
    Manifest,
    ModelEntry,
    SoftwareEntry,
    Units,
    WarningEntry,
)
from model.formats import media_type

MeshFormat = Literal["stl", "obj", "ply"]


class Exporter:
    """Writes the files of one result into a folder and remembers their checksums.

    Parameters
    ----------
    folder
        Existing or not; must not hold files of the names written.
    grid
        The samples of all frames.
    micrometres
        Length of one unit of Ω in µm.
    minutes
        Duration of τ in minutes.
    """

    def __init__(self, folder: Path, *, grid: Grid, micrometres: float, minutes: float) -> None:
        self.folder = folder
        self.grid = grid
        self.micrometres = micrometres
        self.minutes = minutes
        self._files: dict[str, FileEntry] = {}

    @property
    def files(self) -> tuple[FileEntry, ...]:
        """Files completed so far, by name."""
        return tuple(self._files[name] for name in sorted(self._files))

    @property
    def units(self) -> Units:
        """Units of all files, for the manifest."""
        spacing = (self.grid.step * self.micrometres).tolist()
        return Units(micrometres=self.micrometres, minutes=self.minutes, spacing=spacing)

    def minutes_at(self, time: float) -> float:
        """Minutes since the first frame of a time in τ."""
        return (float(time) - TAU[0]) / (TAU[1] - TAU[0]) * self.minutes

    def write_surface(self, name: str, surface: Surface, mesh_format: MeshFormat) -> FileEntry:
        """Write one frame's mesh.

        Parameters
        ----------
        name
            Path inside the result without extension, ``cell_0000/frame_0000``.
        surface
            In Ω.
        mesh_format
            ``stl`` (binary), ``obj`` or ``ply`` (binary, little endian).

        Raises
        ------
        ExportError
            If the file cannot be written.
        """
        encode = {"stl": encode_stl, "obj": encode_obj, "ply": encode_ply}[mesh_format]
        return self.write_bytes(f"{name}.{mesh_format}", encode(surface, micrometres=self.micrometres))

    def write_bytes(self, name: str, content: bytes) -> FileEntry:
        """Write a whole file and add it to the manifest."""
        with self._open(name) as file:
            file.write(content)
        return self._files[name]

    @contextmanager
    def label_volumes(self, name: str, *, times: Sequence[float]) -> Iterator[Callable[[Labels], None]]:
        """Open a TIFF of label volumes: a context whose value takes one frame after another.

        Parameters
        ----------
        name
            Path inside the result, ``cell_0000/labels.tif``.
        times
            Times in τ of all frames to come. When they are evenly spaced, the file states the frame interval.

        Raises
        ------
        ExportError
            If the file cannot be written, grows over 4 GiB, is handed a frame of another grid, or is left before its
            last frame.
        """
        nx, ny, nz = self.grid.shape
        dx, dy, dz = self.units.spacing
        stack = Hyperstack(
            shape=(len(times), nz, ny, nx),
            spacing=(dz, dy, dx),
            origin=((nz - 1) / 2, (ny - 1) / 2, (nx - 1) / 2),
            interval_s=_interval([60.0 * self.minutes_at(time) for time in times]),
        )
        with self._open(name) as file:
            writer = HyperstackWriter(file.write, stack)
            yield lambda labels: writer.write(labels.T)  # [x, y, z] → z, y, x
            writer.close()

    def write_manifest(
        self,
        *,
        spec: Mapping[str, Any],
        model_id: str,
        model_sha256: str,
        version: str,
        device_class: str,
        cells: Sequence[Mapping[str, Any]],
        warnings: Sequence[Mapping[str, str]] = (),
    ) -> dict[str, Any]:
        """Write ``manifest.json``, the last file, and return it as a dictionary.

        Raises
        ------
        ExportError
            If the file cannot be written.
        """
        manifest = Manifest(
            spec=dict(spec),
            model=ModelEntry(id=model_id, sha256=model_sha256),
            software=SoftwareEntry(version=version),
            device_class=device_class,
            units=self.units,
            cells=[CellEntry.model_validate(cell) for cell in cells],
            files=list(self.files),
            warnings=[WarningEntry.model_validate(warning) for warning in warnings],
        )
        text = manifest.to_json()
        with _export_errors(MANIFEST_FILE):
            self.folder.mkdir(parents=True, exist_ok=True)
            (self.folder / MANIFEST_FILE).write_bytes(text)
        document: dict[str, Any] = json.loads(text)
        return document

    @contextmanager
    def _open(self, name: str) -> Iterator[_HashedFile]:
        with _export_errors(name):
            path = self.folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("xb") as raw:
                file = _HashedFile(raw)
                yield file
        self._files[name] = FileEntry(
            name=name,
            bytes=file.size,
            sha256=file.sha256,
            media_type=media_type(name),
        )


class _HashedFile:
    """A file written forward only, with the SHA-256 of what was written."""

    def __init__(self, raw: BinaryIO) -> None:
        self._raw = raw
        self._hash = hashlib.sha256()
        self.size = 0

    @property
    def sha256(self) -> str:
        """Checksum of the bytes so far, 64 hexadecimal digits."""
        return self._hash.hexdigest()

    def write(self, content: bytes) -> None:
        """Append bytes."""
        self._raw.write(content)
        self._hash.update(content)
        self.size += len(content)


@contextmanager
def _export_errors(name: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise ExportError(
            f"{name!r} could not be written: {reason.lower()}; free disk space or ask for fewer frames, formats or a "
            "coarser grid"
        ) from error


# ----------------------------------------------------------------------------------------------------------- meshes


def encode_stl(surface: Surface, *, micrometres: float) -> bytes:
    """Encode a surface as binary STL, vertices in µm.

    The header does not begin with ``solid``, by which some readers tell ASCII files.

    References
    ----------
    3D Systems, StereoLithography Interface Specification, 1989.
    """
    corner = _in_micrometres(surface, micrometres)[surface.faces]  # (f, 3 corners, 3)
    normal = np.cross(corner[:, 1] - corner[:, 0], corner[:, 2] - corner[:, 0])
    length = np.linalg.norm(normal, axis=1, keepdims=True)
    triangles = np.zeros(
        len(surface.faces), dtype=[("normal", "<f4", 3), ("corner", "<f4", (3, 3)), ("attribute", "<u2")]
    )
    triangles["normal"] = np.divide(normal, length, out=np.zeros_like(normal), where=length > 0)
    triangles["corner"] = corner
    header = b"binary STL, cytosynth, units micrometre".ljust(80)
    return header + struct.pack("<I", len(triangles)) + triangles.tobytes()


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
    vertices = _in_micrometres(surface, micrometres).astype("<f4", copy=False)
    return header.encode() + vertices.tobytes() + faces.tobytes()


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


def _in_micrometres(surface: Surface, micrometres: float) -> NDArray[np.float32]:
    return (surface.vertices.astype(np.float64) * micrometres).astype(np.float32)


def _interval(times: Sequence[float]) -> float | None:
    """Return the distance of evenly spaced times, or nothing if they are not."""
    gaps = np.diff(np.asarray(times, dtype=np.float64))
    if len(gaps) == 0 or np.ptp(gaps) > 1e-5 * gaps.max():
        return None
    return float(f"{gaps.mean():.9g}")
