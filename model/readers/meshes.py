"""Cells as surfaces: meshes, one file a frame, and sampled signed distances (NumPy, MAT, the authors' HDF5).

Promises: a mesh is used as it is, and its distances are exact. Of sampled distances only the zero level set is used, so
that their scale, which the method's release changes from frame to frame, does not matter. Bodies of a mesh that face
inward are turned outward.
Does not promise: a cell from a mesh with holes; the survey reports those.

Formats: STL, OBJ, PLY in µm; arrays (t, x, y, z) of NumPy, negative inside; variables ``sdf_vid`` (t, y, x, z) of MAT
files, as the release makes them of images, whose first axis is the row: reversed to (z, x, y, t) in HDF5.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import trimesh
from numpy.typing import NDArray
from scipy.io import loadmat

from model.errors import DatasetError
from model.membranes.mask_surface import membrane_of_field
from model.membranes.triangle_distance import Membrane
from model.readers.recording import ONLY_CELL, UNREMARKABLE, Calibration, CellObservation, Taken, Track, count_bodies
from model.readers.winding import Facing, facing_outward

HDF5 = (".h5", ".hdf5")
FIELD_NAME = "sdf_vid"
MICROMETRES = Calibration(spacing=(1.0, 1.0, 1.0), spacing_from="meshes are in µm")
UNKNOWN = Calibration()


@dataclass(frozen=True)
class MeshSequence:
    """One cell, a mesh a frame."""

    name: str
    files: dict[int, Path]
    calibration: Calibration = MICROMETRES
    tracks: list[Track] | None = None
    taken: Taken = UNREMARKABLE
    frames: list[int] = field(init=False)

    def __post_init__(self) -> None:
        """List the frames."""
        object.__setattr__(self, "frames", sorted(self.files))

    @property
    def grid_shape(self) -> tuple[int, int, int] | None:
        """None: a mesh has no samples."""
        return None

    def observations(self, frame: int) -> list[CellObservation]:
        """Measure the cell."""
        facing = read_mesh(self.files[frame], self.calibration)
        seen = _observed(facing.membrane, cut=False)
        return [replace(seen, turned=facing.turned, nested=facing.nested)]

    def membranes(self, frame: int, labels: list[int]) -> list[Membrane]:
        """Read the mesh."""
        membrane = read_mesh(self.files[frame], self.calibration).membrane
        return [membrane for _ in labels]


@dataclass(frozen=True)
class FieldSequence:
    """One cell, its signed distances sampled on a grid; several frames, or one without an axis of time."""

    name: str
    path: Path
    calibration: Calibration = UNKNOWN
    tracks: list[Track] | None = None
    taken: Taken = UNREMARKABLE
    frames: list[int] = field(init=False)

    def __post_init__(self) -> None:
        """List the frames."""
        object.__setattr__(self, "frames", list(range(self._frames())))

    @property
    def grid_shape(self) -> tuple[int, int, int] | None:
        """Samples along (x, y, z)."""
        nx, ny, nz = self._read(0).shape
        return nx, ny, nz

    def observations(self, frame: int) -> list[CellObservation]:
        """Measure the cell."""
        values = self._read(frame)
        if not (values < 0).any():
            if (values > 0).any() and (values == np.floor(values)).all():
                raise DatasetError(
                    f"{self.path.name}: frame {frame} holds whole numbers and none below 0: labels, not distances; "
                    "save them as integers"
                )
            return []
        inside = values < 0
        cut = any(bool(np.take(inside, end, axis=axis).any()) for axis in range(3) for end in (0, -1))
        return [_observed(self.membranes(frame, [ONLY_CELL])[0], cut=cut)]

    def membranes(self, frame: int, labels: list[int]) -> list[Membrane]:
        """Find the zero level set."""
        try:
            membrane = membrane_of_field(self._read(frame), self.calibration.spacing or (1.0, 1.0, 1.0))
        except DatasetError as error:
            raise DatasetError(f"{self.name}: frame {frame}: {error}") from None
        return [membrane for _ in labels]

    def _frames(self) -> int:
        shape, kind = _described(self.path)
        if len(shape) not in (3, 4) or 0 in shape:
            raise DatasetError(f"{self.path.name} has the shape {shape}; {_axes(self.path, 4)} is wanted")
        if kind != "f":
            raise DatasetError(
                f"{self.path.name} holds values of type {kind!r}, which cannot be distances; labels are read from TIFF "
                "and .npy"
            )
        return shape[0] if len(shape) == 4 else 1

    def _read(self, frame: int) -> NDArray[Any]:
        """Distances of a frame, (x, y, z)."""
        suffix = self.path.suffix.lower()
        if suffix in HDF5:
            with _hdf5(self.path) as file, _readable(self.path):
                stored = file[FIELD_NAME]
                values = np.asarray(stored[..., frame] if stored.ndim == 4 else stored[()]).transpose(1, 2, 0)
        else:
            whole = _array(self.path)
            values = np.asarray(whole[frame] if whole.ndim == 4 else whole)
            if suffix == ".mat":
                values = values.transpose(1, 0, 2)
        if not np.isfinite(values).all():
            raise DatasetError(f"{self.path.name}: frame {frame} holds NaN or infinity")
        return values


def read_mesh(path: Path, calibration: Calibration = MICROMETRES) -> Facing:
    """Read one mesh, in µm, and turn its bodies outward.

    Raises
    ------
    DatasetError
        If it cannot be read, holds no triangles, or a vertex is not a finite point.
    """
    try:
        mesh = trimesh.load_mesh(path, process=False)
    except Exception as error:  # noqa: BLE001 (its readers raise almost anything on a bad file)
        why = str(error).strip().splitlines()[:1] or [type(error).__name__]
        raise DatasetError(f"{path.name} cannot be read as a mesh: {why[0]}") from None
    if not isinstance(mesh, trimesh.Trimesh) or len(mesh.faces) == 0:
        raise DatasetError(f"{path.name} holds no triangles")
    used = np.asarray(mesh.faces)
    if used.min() < 0 or used.max() >= len(mesh.vertices):
        raise DatasetError(f"{path.name}: a triangle names a vertex that is not in the file")
    if not np.isfinite(np.asarray(mesh.vertices)[used]).all():
        raise DatasetError(f"{path.name}: a vertex is not a finite point; export the mesh again")
    mesh.merge_vertices(merge_tex=True, merge_norm=True)  # an STL repeats every corner
    faces = np.asarray(mesh.faces, dtype=np.int32)
    faces = faces[(faces[:, 0] != faces[:, 1]) & (faces[:, 1] != faces[:, 2]) & (faces[:, 2] != faces[:, 0])]
    if len(faces) == 0:
        raise DatasetError(f"{path.name} holds no triangles with an area")
    scale = np.array(calibration.spacing or (1.0, 1.0, 1.0))
    kept, numbers = np.unique(faces, return_inverse=True)  # vertices of no triangle would count in the box
    vertices = np.asarray(mesh.vertices, dtype=np.float64)[kept] * scale
    return facing_outward(Membrane(vertices, numbers.reshape(-1, 3).astype(np.int32)))


def open_field(path: Path) -> FieldSequence:
    """Open sampled signed distances."""
    shape, _ = _described(path)
    taken = Taken(axes=_axes(path, len(shape)), labels="the zero level set of signed distances is the one cell")
    return FieldSequence(path.stem, path, taken=taken)


def _observed(membrane: Membrane, *, cut: bool) -> CellObservation:
    volumes = membrane.bodies()
    walls = volumes < 0  # of cavities: they belong to the body around them
    bodies, fragments = count_bodies(volumes if walls.all() else volumes[~walls])
    return CellObservation(
        label=ONLY_CELL,
        volume=membrane.volume,
        centroid=membrane.centroid,
        low=membrane.vertices.min(axis=0),
        high=membrane.vertices.max(axis=0),
        bodies=bodies,
        fragments=fragments,
        samples=len(membrane.faces),
        cut=cut,
        is_closed=membrane.is_closed,
    )


def _axes(path: Path, axes: int) -> str:
    """Axes of an array of distances, in words."""
    named = {".npy": "(t, x, y, z)", ".mat": "(t, y, x, z)"}.get(path.suffix.lower(), "(z, x, y, t)")
    return named if axes == 4 else named.replace("t, ", "").replace(", t", "")


def _described(path: Path) -> tuple[tuple[int, ...], str]:
    """Shape, time first, and kind of the values."""
    if path.suffix.lower() in HDF5:
        with _hdf5(path) as file, _readable(path):
            return tuple(file[FIELD_NAME].shape[::-1]), str(file[FIELD_NAME].dtype.kind)
    array = _array(path)
    return array.shape, array.dtype.kind


def _array(path: Path) -> NDArray[Any]:
    with _readable(path):
        if path.suffix.lower() == ".npy":
            return np.asarray(np.load(path, mmap_mode="r", allow_pickle=False))
        try:
            return np.asarray(loadmat(path, variable_names=[FIELD_NAME])[FIELD_NAME])
        except KeyError:
            raise DatasetError(f"{path.name} holds no variable {FIELD_NAME}") from None
        except NotImplementedError:  # version 7.3 is HDF5
            raise DatasetError(f"{path.name} is a MAT file of version 7.3: rename it to end in .h5") from None


def _hdf5(path: Path) -> Any:
    try:
        h5py = importlib.import_module("h5py")
    except ImportError:
        raise DatasetError(f"{path.name} is HDF5; install the package h5py to read it") from None
    try:
        file = h5py.File(path, "r")
    except OSError as error:
        raise DatasetError(f"{path.name} cannot be read as HDF5: {error}") from None
    if not isinstance(file.get(FIELD_NAME), h5py.Dataset):
        file.close()
        raise DatasetError(f"{path.name} holds no dataset {FIELD_NAME}")
    return file


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Convert every error that a reader raises on a bad file to a DatasetError."""
    try:
        yield
    except DatasetError:
        raise
    except Exception as error:  # noqa: BLE001 (NumPy, SciPy and h5py raise almost anything on a bad file)
        why = " ".join(str(error).split()) or type(error).__name__
        raise DatasetError(f"{path.name} cannot be read: {why}") from None
