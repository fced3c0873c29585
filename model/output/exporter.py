"""The folder of one result: opens files, records their checksums, writes the manifest that lists them.

Promises: this is the one change of units (Ω → µm, τ → minutes) and the one transposition ([x, y, z] → z, y, x). The
origin of mesh coordinates is the centre of Ω; label volumes state it, so that both coincide in ImageJ. Files are
written forward only, frame by frame, and hold no date, host or path: the same cells give the same bytes. Checksums are
computed from the bytes as they are written.
Does not promise: atomicity or durability; the worker publishes a finished folder.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO, Concatenate, ParamSpec, Protocol, TypeVar

from model.domain import TAU, Field, Grid
from model.engine.marching_cubes import Surface
from model.engine.narrow_band import NarrowBand
from model.engine.runs import Labels, Runs
from model.engine.tracking import Track
from model.errors import ExportError
from model.formats import media_type
from model.output.manifest import (
    MANIFEST_FILE,
    CellEntry,
    FileEntry,
    Manifest,
    ModelEntry,
    SoftwareEntry,
    Units,
    WarningEntry,
)

_Made = TypeVar("_Made")
_Arguments = ParamSpec("_Arguments")


class Labelled(Protocol):
    """A frame with labelled cells."""

    @property
    def runs(self) -> Runs:
        """The samples inside, row by row, with their labels."""
        ...


@dataclass(frozen=True, kw_only=True)
class ExportFrame:
    """One frame of a cell, as every format gets it.

    Parameters
    ----------
    number
        From 0.
    time
        In τ.
    surface
        In Ω.
    labelled
        The cells in it.
    band
        Distances near the membrane, evaluated on first use.
    """

    number: int
    time: float
    surface: Surface
    labelled: Labelled
    band: NarrowBand | None = None
    _made: dict[Hashable, Any] = field(default_factory=dict, init=False, repr=False, compare=False)

    @cached_property
    def label_volume(self) -> Labels:
        """Labels (nz, ny, nx) uint16, as image files have them: the one transposition, [x, y, z] → z, y, x."""
        return self.labelled.runs.turned_volume()

    @cached_property
    def labels_present(self) -> tuple[int, ...]:
        """Labels that some voxel has, ascending."""
        return self.labelled.runs.present()

    def once(
        self,
        compute: Callable[Concatenate[ExportFrame, _Arguments], _Made],
        *arguments: _Arguments.args,
        **named: _Arguments.kwargs,
    ) -> _Made:
        """Return what a function makes of this frame, computed once for all formats that ask for the same."""
        key = (compute, arguments, tuple(sorted(named.items())))
        if key not in self._made:
            self._made[key] = compute(self, *arguments, **named)
        made: _Made = self._made[key]
        return made

    @property
    def distance_volume(self) -> Field:
        """Signed distances (nz, ny, nx) float32 in units of Ω, clamped; transposed as labels are.

        Raises
        ------
        ValueError
            If the frame has no signed distance function.
        """
        if self.band is None:
            raise ValueError("this frame has no signed distance function")
        return self.band.distances.T


@dataclass(frozen=True, kw_only=True)
class CellFiles:
    """The files of one cell, and what is known before its first frame.

    Parameters
    ----------
    exporter
        Writes the files; knows grid and units.
    name
        Folder of the cell inside the result, ``cell_0000``.
    times
        Times in τ of all frames to come.
    palette
        Colours of pictures, by cell type.
    spec
        The completed spec of this cell alone, for formats that state it: it does not depend on the other cells of a
        request, nor on its division.
    tracks
        Gives the tracks of the frames labelled so far. All frames are labelled when the writers are left, and some that
        a writer has not been given yet may be.
    """

    exporter: Exporter
    name: str
    times: Sequence[float]
    palette: str = "neutral"
    spec: Mapping[str, Any] = field(default_factory=dict)
    tracks: Callable[[], Sequence[Track]] = tuple

    def frame_file(self, number: int, suffix: str) -> str:
        """Name of a frame's own file, ``cell_0000/frame_0000.stl``."""
        return f"{self.name}/frame_{number:04d}{suffix}"


WriteFrame = Callable[[ExportFrame], None]
"""Takes the frames of one cell in their order, in one format."""


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
        self._folders: set[Path] = set()  # made already

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

    def write_bytes(self, name: str, content: bytes) -> FileEntry:
        """Write a whole file and add it to the manifest."""
        with self.open(name) as file:
            file.write(content)
        return self._files[name]

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
    def open(self, name: str) -> Iterator[HashedFile]:
        """Open a new file, to be written forward only; it is added to the manifest when the context ends well.

        Raises
        ------
        ExportError
            If it exists or cannot be written.
        """
        with _export_errors(name):
            path = self.folder / name
            if path.parent not in self._folders:
                path.parent.mkdir(parents=True, exist_ok=True)
                self._folders.add(path.parent)
            with path.open("xb") as raw:
                file = HashedFile(raw)
                yield file
        self._files[name] = FileEntry(
            name=name,
            bytes=file.size,
            sha256=file.sha256,
            media_type=media_type(name),
        )


class HashedFile:
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
