"""Label volumes as TIFF: stacks over time, a stack a frame, and the folders of the Cell Tracking Challenge.

Promises: any integer type; value 0 is background, every other value a cell; frames are read one by one, also from
files that are larger than memory.
Does not promise: multi-channel images, or TIFF compressions beyond zlib unless their codecs are installed.

Formats: ImageJ and OME hyperstacks; https://celltrackingchallenge.net/datasets (mask and man_track files, and the text
file of tracks: label, first frame, last frame, parent).
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray
from scipy import ndimage

from model.errors import DatasetError
from model.importing.calibration import read_calibration
from model.importing.footage import ONLY_CELL, SPECK, UNREMARKABLE, Calibration, Sighting, Taken, Track, without_specks
from model.importing.membrane import membrane_of_mask
from model.importing.triangles import Membrane

TIFF = (".tif", ".tiff")
TRACK_FILES = ("man_track.txt", "res_track.txt")
_TOUCHING = np.ones((3, 3, 3), dtype=bool)  # bodies are sets that touch by faces, edges or corners
_CHALLENGE_FRAME = re.compile(r"(?:mask|man_track|man_seg)(\d+)\.tiff?$", re.IGNORECASE)
_SPACE_UNKNOWN = (1.0, 1.0, 1.0)


@dataclass(frozen=True)
class LabelVolumes:
    """Frames of labelled cells.

    Attributes
    ----------
    places
        For each frame the file, and which of its frames.
    calibration
        Scale; where the spacing is unknown, lengths are in voxels.
    labelled
        False: every value but 0 is the same, only cell.
    """

    name: str
    places: dict[int, tuple[Path, int]]
    calibration: Calibration
    tracks: list[Track] | None = None
    labelled: bool = True
    taken: Taken = UNREMARKABLE
    frames: list[int] = field(init=False)

    def __post_init__(self) -> None:
        """List the frames."""
        object.__setattr__(self, "frames", sorted(self.places))

    @property
    def grid_shape(self) -> tuple[int, int, int] | None:
        """Samples of the first frame along (x, y, z)."""
        nz, ny, nx = read_frame(*self.places[self.frames[0]]).shape
        return nx, ny, nz

    def sightings(self, frame: int) -> list[Sighting]:
        """Look at all cells of a frame."""
        volume, spacing = self._read(frame), np.array(self.calibration.spacing or _SPACE_UNKNOWN)
        found = []
        for label, box in enumerate(ndimage.find_objects(volume), start=1):
            if box is None:
                continue
            inside = volume[box] == label
            low = np.array([side.start for side in box])
            high = np.array([side.stop for side in box])
            numbers, count = ndimage.label(inside, _TOUCHING)
            bodies, specks = without_specks(np.bincount(numbers.reshape(-1), minlength=count + 1)[1:].astype(float))
            centre = np.array(ndimage.center_of_mass(inside)) + low
            found.append(
                Sighting(
                    label=label,
                    volume=float(inside.sum() * spacing.prod()),
                    centroid=centre * spacing,
                    low=(low - 0.5) * spacing,
                    high=(high - 0.5) * spacing,
                    bodies=bodies,
                    specks=specks,
                    samples=int(inside.sum()),
                    cut=bool((low == 0).any() or (high == volume.shape).any()),
                )
            )
        return found

    def membranes(self, frame: int, labels: list[int]) -> list[Membrane]:
        """Find the membranes of some cells of a frame, specks left out."""
        volume, spacing = self._read(frame), self.calibration.spacing or _SPACE_UNKNOWN
        boxes = ndimage.find_objects(volume)
        found = []
        for label in labels:
            box = boxes[label - 1] if label <= len(boxes) else None
            if box is None:
                raise DatasetError(f"{self.name}: frame {frame} does not show cell {label}")
            inside = _without_specks(volume[box] == label)
            membrane = membrane_of_mask(inside, spacing)
            first = np.array([side.start for side in box]) * np.array(spacing)
            found.append(Membrane(membrane.vertices + first, membrane.faces))
        return found

    def _read(self, frame: int) -> NDArray[Any]:
        """Labels of a frame, (x, y, z), small integers."""
        path, number = self.places[frame]
        volume = np.ascontiguousarray(read_frame(path, number).transpose(2, 1, 0))
        if self.labelled and np.issubdtype(volume.dtype, np.integer):
            return volume.astype(np.int32, copy=False)
        return np.where(volume != 0, np.int32(ONLY_CELL), np.int32(0))


def open_stack(path: Path) -> LabelVolumes:
    """Open one TIFF with all frames (TZYX), or one frame (ZYX)."""
    with _opened(path) as tiff:
        frames, calibration = _shape(tiff, path)[0], read_calibration(tiff)
    places = {t: (path, t) for t in range(frames)}
    return LabelVolumes(path.stem, places, calibration, labelled=_is_labelled([*places.values()]))


def open_frames(files: list[Path], name: str) -> LabelVolumes:
    """Open 3D TIFFs, a frame a file, in the order of the numbers in their names."""
    with _opened(files[0]) as tiff:
        calibration = read_calibration(tiff)
    places = {frame: (path, 0) for frame, path in numbered(files).items()}
    return LabelVolumes(name, places, calibration, labelled=_is_labelled([*places.values()]))


def open_challenge(folder: Path) -> LabelVolumes:
    """Open a folder of the Cell Tracking Challenge.

    Raises
    ------
    DatasetError
        If it has no frames, or its file of tracks is malformed.
    """
    places = {}
    for path in sorted(folder.iterdir()):
        if (match := _CHALLENGE_FRAME.match(path.name)) is not None:
            places[int(match[1])] = (path, 0)
    if not places:
        raise DatasetError(f"{folder} has a file of tracks but no mask000.tif or man_track000.tif")
    with _opened(next(iter(places.values()))[0]) as tiff:
        calibration = read_calibration(tiff)
    table = next(folder / name for name in TRACK_FILES if (folder / name).is_file())
    return LabelVolumes(folder.name, places, calibration, read_tracks(table))


def read_tracks(path: Path) -> list[Track]:
    """Read a list of tracks, four integers a line: label, first frame, last frame, parent.

    Raises
    ------
    DatasetError
        If a line is something else.
    """
    tracks = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        parts = line.split()
        if not parts:
            continue
        try:
            label, first, last, parent = (int(part) for part in parts)
        except ValueError:
            raise DatasetError(f"{path.name}, line {number}: not four integers (label, first, last, parent)") from None
        tracks.append(Track(label, first, last, parent))
    return tracks


def numbered(files: list[Path]) -> dict[int, Path]:
    """Frames by the last number in their names; in the order of names where those are not distinct numbers."""
    digits = [re.findall(r"\d+", path.stem) for path in files]
    numbers = [int(found[-1]) if found else -1 for found in digits]
    if -1 in numbers or len(set(numbers)) != len(files):
        return dict(enumerate(sorted(files)))
    return dict(sorted(zip(numbers, files, strict=True)))


def frame_count(path: Path) -> tuple[int, bool]:
    """Frames of a TIFF, and whether it has an axis of time."""
    with _opened(path) as tiff:
        frames, _, has_time = _shape(tiff, path)
    return frames, has_time


def read_frame(path: Path, frame: int) -> NDArray[Any]:
    """Read one frame of a TIFF, (z, y, x)."""
    with _opened(path) as tiff:
        frames, slices, _ = _shape(tiff, path)
        series = tiff.series[0]
        try:
            if series.dataoffset is not None and series.dtype is not None:  # one run of bytes: map, do not read
                mapped = tiff.filehandle.memmap_array(
                    series.dtype.newbyteorder(tiff.byteorder), series.shape, series.dataoffset
                )
                return np.array(mapped.reshape(frames, slices, *series.shape[-2:])[frame])
            pages = tiff.asarray(key=range(frame * slices, (frame + 1) * slices))
        except (ValueError, OSError, KeyError, RuntimeError) as error:
            raise DatasetError(f"{path.name}: frame {frame} cannot be read: {error}") from None
    return np.asarray(pages).reshape(slices, *pages.shape[-2:])


def _opened(path: Path) -> tifffile.TiffFile:
    try:
        return tifffile.TiffFile(path)
    except (OSError, ValueError, tifffile.TiffFileError) as error:
        raise DatasetError(f"{path.name} cannot be read as TIFF: {error}") from None


def _shape(tiff: tifffile.TiffFile, path: Path) -> tuple[int, int, bool]:
    """Frames, slices, and whether there is an axis of time."""
    series = tiff.series[0]
    axes = "".join(a for a, n in zip(series.axes, series.shape, strict=True) if a not in "CS" or n > 1)
    shape = [n for a, n in zip(series.axes, series.shape, strict=True) if a not in "CS" or n > 1]
    axes = {3: {"IYX": "ZYX", "QYX": "ZYX"}, 4: {"IZYX": "TZYX", "QZYX": "TZYX", "QQYX": "TZYX"}}.get(
        len(axes), {}
    ).get(axes, axes)
    if axes == "TZYX":
        return shape[0], shape[1], True
    if axes == "ZYX":
        return 1, shape[0], False
    raise DatasetError(f"{path.name} has the axes {axes}; label volumes are TZYX, or ZYX for one frame")


def _is_labelled(places: list[tuple[Path, int]]) -> bool:
    """Tell labels from a mask by the first and the last frame: a mask has one value besides 0, 1 or 255."""
    values: set[int] = set()
    for path, frame in {places[0], places[-1]}:
        values |= {int(value) for value in np.unique(read_frame(path, frame)) if value}
    return not (values <= {1} or values <= {255})


def _without_specks(inside: NDArray[np.bool_]) -> NDArray[np.bool_]:
    numbers, count = ndimage.label(inside, _TOUCHING)
    if count <= 1:
        return inside
    sizes = np.bincount(numbers.reshape(-1))
    sizes[0] = 0
    return np.asarray((sizes >= SPECK * sizes.sum())[numbers])
