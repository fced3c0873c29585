"""Label volumes in TIFF or NumPy files: stacks over time, one stack a frame, and Cell Tracking Challenge folders.

Promises: any integer type is read, and floating point where all values are whole. Value 0 is background; every other
value is a cell. Frames are read one by one, also from files that are larger than memory. Measuring cells needs NumPy
and tifffile only; finding their membranes imports SciPy and more.
Does not promise: multi-channel images.

Formats: ImageJ and OME hyperstacks; https://celltrackingchallenge.net/datasets (mask and man_track files, and the text
file of tracks: label, first frame, last frame, parent).
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from model.errors import DatasetError
from model.readers.bodies import measure_labels
from model.readers.lineage import read_tracks
from model.readers.naming import Ordered
from model.readers.planes import Contents, read_contents, read_frame
from model.readers.recording import (
    FRAGMENT,
    ONLY_CELL,
    UNREMARKABLE,
    Calibration,
    CellObservation,
    ReadingWarning,
    Taken,
    Track,
    count_bodies,
)

if TYPE_CHECKING:
    from model.membranes.triangle_distance import Membrane

TIFF = (".tif", ".tiff")
TRACK_FILES = ("man_track.txt", "res_track.txt")
_TOUCHING = np.ones((3, 3, 3), dtype=bool)  # bodies are sets that touch by faces, edges or corners
_CHALLENGE_FRAME = re.compile(r"(?:mask|man_track|man_seg)(\d+)\.tiff?$", re.IGNORECASE)
MASK = 255  # value of the cell in binary masks of image programs
_SPACE_UNKNOWN = (1.0, 1.0, 1.0)  # used where files give no voxel size; the survey reports the error


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

    def observations(self, frame: int) -> list[CellObservation]:
        """Measure all cells of a frame."""
        volume, spacing = self._values(frame), np.array(self.calibration.spacing or _SPACE_UNKNOWN)
        sides = np.array(volume.shape[::-1])
        found = []
        for cell in measure_labels(volume):
            bodies, fragments = count_bodies(cell.bodies.astype(float))
            found.append(
                CellObservation(
                    label=cell.label,
                    volume=float(cell.voxels * spacing.prod()),
                    centroid=(cell.sums / cell.voxels + cell.low) * spacing,
                    low=(cell.low - 0.5) * spacing,
                    high=(cell.high - 0.5) * spacing,
                    bodies=bodies,
                    fragments=fragments,
                    samples=cell.voxels,
                    cut=bool((cell.low == 0).any() or (cell.high == sides).any()),
                    layers=int((cell.high - cell.low).min()),
                )
            )
        return found

    def membranes(self, frame: int, labels: list[int]) -> list[Membrane]:
        """Find the membranes of some cells of a frame, fragments left out."""
        from scipy import ndimage

        from model.membranes.mask_surface import membrane_of_mask
        from model.membranes.triangle_distance import Membrane

        (volume, known), spacing = self._numbered(frame), self.calibration.spacing or _SPACE_UNKNOWN
        boxes = ndimage.find_objects(volume)
        found = []
        for label in labels:
            if label not in known:
                raise DatasetError(f"{self.name}: frame {frame} does not show cell {label}")
            number = known.index(label) + 1
            box = boxes[number - 1]
            inside = _without_fragments(volume[box] == number)
            membrane = membrane_of_mask(inside, spacing)
            first = np.array([side.start for side in box]) * np.array(spacing)
            found.append(Membrane(membrane.vertices + first, membrane.faces))
        return found

    def _values(self, frame: int) -> NDArray[Any]:
        """Labels of a frame, (z, y, x)."""
        path, number = self.places[frame]
        volume = _labels_of(read_frame(path, number), f"{path.name}: frame {number}")
        return volume if self.labelled else np.where(volume != 0, np.int32(ONLY_CELL), np.int32(0))

    def _numbered(self, frame: int) -> tuple[NDArray[np.int32], list[int]]:
        """Cells of a frame, (x, y, z), numbered from 1, and the label of each."""
        return _numbered(np.ascontiguousarray(self._values(frame).transpose(2, 1, 0)))


def _opened(
    name: str, places: dict[int, tuple[Path, int]], contents: Contents, *, labelled: bool | None = None
) -> LabelVolumes:
    """Label volumes with what can be said of them after a look at the values; None: find out what they are."""
    if labelled is None:
        labelled = _is_labelled([*places.values()])
    said, warnings = "", contents.warnings
    try:
        first = read_frame(*next(iter(places.values())))
    except DatasetError:
        pass  # the survey reports it with its frame
    else:
        said, warnings = _what(first, labelled=labelled), (*warnings, *_label_warnings(first))
    taken = Taken(axes=contents.axes, labels=said, warnings=warnings)
    return LabelVolumes(name, places, contents.calibration, labelled=labelled, taken=taken)


def open_stack(path: Path) -> LabelVolumes:
    """Open one file with all frames (TZYX), or one frame (ZYX)."""
    contents = read_contents(path)
    return _opened(path.stem, {t: (path, t) for t in range(contents.frames)}, contents)


def open_frames(ordered: Ordered, name: str) -> LabelVolumes:
    """Open 3D files, a frame a file."""
    places = {frame: (path, 0) for frame, path in ordered.files.items()}
    opened = _opened(ordered.name or name, places, read_contents(next(iter(places.values()))[0]))
    return replace(opened, taken=opened.taken.also(ordered.taken))


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
    table = next(folder / name for name in TRACK_FILES if (folder / name).is_file())
    tracks = read_tracks(table)
    contents = read_contents(next(iter(places.values()))[0])
    return replace(_opened(folder.name, places, contents, labelled=True), tracks=tracks)


def frame_count(path: Path) -> tuple[int, bool]:
    """Frames of a file, and whether it has an axis of time."""
    contents = read_contents(path)
    return contents.frames, contents.has_time


def _is_labelled(places: list[tuple[Path, int]]) -> bool:
    """Tell labels from a mask of 0 and 255 by all frames; the 1 of a mask of 0 and 1 is the label of the only cell."""
    for path, frame in places:
        try:
            volume = read_frame(path, frame)
        except DatasetError:
            continue  # the survey reports it with its frame
        if not ((volume == 0) | (volume == MASK)).all():
            return True
    return False


def _what(volume: NDArray[Any], *, labelled: bool) -> str:
    """Description of the values of a file, for people."""
    if not labelled:
        return f"a mask, every {MASK} is the one cell"
    kinds = {"b": "a mask, True is the one cell", "f": "whole numbers stored as floating point, each a cell"}
    return kinds.get(volume.dtype.kind, f"integers of {8 * volume.dtype.itemsize} bits, each a cell")


def _label_warnings(volume: NDArray[Any]) -> tuple[ReadingWarning, ...]:
    """Warn where floating point cannot tell labels apart."""
    if volume.dtype.kind != "f":
        return ()
    limit = 2 ** (np.finfo(volume.dtype).nmant + 1)
    if not float(volume.max(initial=0)) >= limit:
        return ()
    message = f"labels above {limit} are not exact in {volume.dtype.name}; neighbours may have become one cell"
    return (ReadingWarning("rounded", message),)


def _labels_of(volume: NDArray[Any], name: str) -> NDArray[Any]:
    """Labels as integers.

    Raises
    ------
    DatasetError
        If a value is no label.
    """
    if volume.dtype.kind == "b":
        return volume.astype(np.uint8)
    if volume.dtype.kind == "f":
        whole = np.isfinite(volume) & (volume == np.floor(volume))
        if not whole.all():
            value = volume[~whole][0]
            raise DatasetError(
                f"{name} holds {value:.6g}; labels are whole numbers. If this is a probability map or an image, "
                "segment it first"
            )
        if float(volume.max(initial=0)) >= 2.0**63:
            raise DatasetError(f"{name} holds {volume.max():.6g}; labels are at most 2^63")
        volume = volume.astype(np.int64)
    if volume.dtype.kind not in "iu":
        raise DatasetError(f"{name} holds values of the type {volume.dtype.name}; labels are integers")
    if (low := int(volume.min(initial=0))) < 0:
        raise DatasetError(f"{name} holds {low}; labels are positive, and 0 is background")
    return volume


def _numbered(volume: NDArray[Any]) -> tuple[NDArray[np.int32], list[int]]:
    """Number the labels of a volume from 1, ascending, and list them: labels may be large though few."""
    inside = volume != 0
    found = np.unique(volume[inside])
    numbers = np.zeros(volume.shape, dtype=np.int32)
    numbers[inside] = np.searchsorted(found, volume[inside]) + 1
    return numbers, [int(label) for label in found]


def _without_fragments(inside: NDArray[np.bool_]) -> NDArray[np.bool_]:
    from scipy import ndimage

    numbers, count = ndimage.label(inside, _TOUCHING)
    if count <= 1:
        return inside
    sizes = np.bincount(numbers.reshape(-1))
    sizes[0] = 0
    return np.asarray((sizes >= FRAGMENT * sizes.sum())[numbers])
