"""Recordings: a user's opened files, as frames of cells.

Promises: one frame is in memory at a time; a cell keeps its label from frame to frame.
Does not promise: that the cells are usable; :mod:`model.readers.survey` checks that first.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from model.membranes.triangle_distance import Membrane

Doubles = NDArray[np.float64]
Spacing = tuple[float, float, float]

MESHES = (".stl", ".obj", ".ply")
FIELDS = (".npy", ".mat", ".h5", ".hdf5")  # sampled signed distances
FRAGMENT = 0.02  # of a cell's volume: smaller detached bodies are errors of the segmentation and are left out
ONLY_CELL = 1  # the label of the cell where files hold no labels


@dataclass(frozen=True, kw_only=True)
class CellObservation:
    """One cell in one frame, as measured by the survey.

    Attributes
    ----------
    label
        Names the cell.
    volume
        In µm³.
    centroid, low, high
        (3,) centre of mass and box, x, y, z in µm.
    bodies
        Connected bodies, fragments left out.
    fragments
        Small detached components, under 2 % of the cell's volume.
    samples
        Voxels inside, or triangles of a mesh.
    cut
        Whether it touches the border of the volume.
    is_closed
        Whether its surface is; always for masks.
    turned
        Bodies of a mesh whose triangles faced inward and were turned round.
    nested
        Bodies that lie in another and face outward, so that inside and outside are not known.
    layers
        Voxels along its thinnest side; None for meshes and sampled distances.
    """

    label: int
    volume: float
    centroid: Doubles
    low: Doubles
    high: Doubles
    bodies: int = 1
    fragments: int = 0
    samples: int
    cut: bool = False
    is_closed: bool = True
    turned: int = 0
    nested: int = 0
    layers: int | None = None

    @property
    def is_flat(self) -> bool:
        """Whether it is a mask one voxel thick, which has no shape in three dimensions."""
        return self.layers == 1


@dataclass(frozen=True)
class Track:
    """The track of one cell: first and last frame, and the cell it was born from (0: none known)."""

    label: int
    first: int
    last: int
    parent: int = 0


@dataclass(frozen=True)
class ReadingWarning:
    """A choice that a reader made because the files are ambiguous; the survey reports it as a warning."""

    code: str
    message: str


@dataclass(frozen=True)
class Taken:
    """Description, for people, of what a reader read and how; empty where nothing needs saying.

    Attributes
    ----------
    files
        Which files were read, where others lie beside them.
    axes
        Axes of the files, and how they were read.
    order
        What gave frames their order.
    labels
        What the values are.
    tracks
        What says which cell is which, and who descends from whom.
    warnings
        Choices that may be wrong.
    """

    axes: str = ""
    order: str = ""
    labels: str = ""
    tracks: str = ""
    warnings: tuple[ReadingWarning, ...] = ()
    files: str = ""

    def also(self, other: Taken) -> Taken:
        """Both together."""

        def both(one: str, two: str) -> str:
            return "; ".join(text for text in dict.fromkeys((one, two)) if text)

        return Taken(
            axes=both(self.axes, other.axes),
            order=both(self.order, other.order),
            labels=both(self.labels, other.labels),
            tracks=both(self.tracks, other.tracks),
            warnings=tuple(dict.fromkeys((*self.warnings, *other.warnings))),
            files=both(self.files, other.files),
        )


UNREMARKABLE = Taken()


@dataclass(frozen=True)
class Calibration:
    """Scale as the files give it: µm between voxels along x, y, z, and minutes between frames; None where unknown.

    Attributes
    ----------
    spacing_from, minutes_from
        Where the values come from, in words for people.
    spacing_warnings, minutes_warnings
        What is uncertain about them.
    """

    spacing: Spacing | None = None
    minutes: float | None = None
    spacing_from: str = field(default="", compare=False, kw_only=True)
    minutes_from: str = field(default="", compare=False, kw_only=True)
    spacing_warnings: tuple[ReadingWarning, ...] = field(default=(), compare=False, kw_only=True)
    minutes_warnings: tuple[ReadingWarning, ...] = field(default=(), compare=False, kw_only=True)

    @property
    def warnings(self) -> tuple[ReadingWarning, ...]:
        """Everything that is uncertain about the scale."""
        return (*self.spacing_warnings, *self.minutes_warnings)

    def known(self, other: Calibration) -> Calibration:
        """The values of ``other``, and these where ``other`` has none."""
        space, time = other if other.spacing else self, other if other.minutes else self
        return Calibration(
            space.spacing,
            time.minutes,
            spacing_from=space.spacing_from,
            minutes_from=time.minutes_from,
            spacing_warnings=space.spacing_warnings,
            minutes_warnings=time.minutes_warnings,
        )


class Recording(Protocol):
    """Frames of one or several cells on disk."""

    @property
    def name(self) -> str:
        """Name for people: that of the file or folder."""
        ...

    @property
    def frames(self) -> list[int]:
        """Numbers of the frames, ascending; a number that is left out is a frame that is missing."""
        ...

    @property
    def calibration(self) -> Calibration:
        """Scale as the files give it."""
        ...

    @property
    def taken(self) -> Taken:
        """What was read, where the files leave a choice."""
        ...

    @property
    def tracks(self) -> list[Track] | None:
        """Tracks of the cells, where a file lists them."""
        ...

    @property
    def grid_shape(self) -> tuple[int, int, int] | None:
        """Samples of a volume along (x, y, z); None for meshes."""
        ...

    def observations(self, frame: int) -> list[CellObservation]:
        """Measure all cells of a frame.

        Raises
        ------
        DatasetError
            If the frame cannot be read.
        """
        ...

    def membranes(self, frame: int, labels: list[int]) -> list[Membrane]:
        """Find the membranes of some cells of a frame, in µm; the frame is read once.

        Raises
        ------
        DatasetError
            If the frame cannot be read or does not show one of them.
        """
        ...


def count_bodies(volumes: Doubles) -> tuple[int, int]:
    """Count bodies and fragments among the volumes of connected bodies."""
    sizes = np.abs(volumes)
    large = int((sizes >= FRAGMENT * sizes.sum()).sum())
    return large, len(sizes) - large
