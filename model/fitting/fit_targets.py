"""Frames of an unseen cell as targets of a fit: shapes in Ω with their times.

Promises: the same readers and the same membranes as the import.
Does not promise: to find one cell in several frames where its label changes; the caller gives the labels.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Literal

import numpy as np

from model.card import ModelCard
from model.domain import Grid, frame_times
from model.errors import DatasetError
from model.fitting.fit import TargetFrame
from model.membranes.triangle_distance import CellShape
from model.readers.open import open_recordings
from model.readers.recording import Calibration, CellObservation, Recording
from model.readers.survey import FLAT, wrong_size

Place = Literal["centre", "omega"]
SMALLEST = 0.05  # of Ω's side; a cell that is smaller has another scale than the model's


def read_target(
    sources: list[Path],
    *,
    micrometres: float,
    voxel: tuple[float, float, float] | None = None,
    place: Place = "centre",
    times: list[float] | None = None,
    labels: list[int] | None = None,
    on_warning: Callable[[str], None] = lambda _message: None,
) -> list[TargetFrame]:
    """Read the frames of one cell.

    Parameters
    ----------
    sources
        Files of one frame each in the order of time, or one file or folder of many.
    micrometres
        Length of one unit of Ω in the model that is fitted.
    voxel
        Distance of voxels along x, y, z in µm, where the files do not say it.
    place
        ``centre``: each frame lies with its centre of mass at the middle of Ω; ``omega``: volumes cover Ω, their first
        and last samples on its border, as those that the service writes do; meshes have their origin at its middle.
    times
        In τ, one a frame; evenly spread when None.
    labels
        Of the cell, where a volume shows several; two for a mother's daughters.
    on_warning
        Called with each choice of the readers that may be wrong.

    Raises
    ------
    DatasetError
        If there are no frames, the number of times differs, a frame shows no cell or several, or the voxel's size is
        not known.
    """
    opened = [
        (recording, frame)
        for source in sources
        for recording in open_recordings(source, given=Calibration(voxel))
        for frame in recording.frames
    ]
    for name, warning in dict.fromkeys(
        (recording.name, warning.message)
        for recording, _ in opened
        for warning in (*recording.calibration.warnings, *recording.taken.warnings)
    ):
        on_warning(f"{name}: {warning}")
    if times is None:
        times = [float(t) for t in frame_times(max(len(opened), 1))]
    if len(times) != len(opened):
        raise DatasetError(f"{len(times)} times were given for {len(opened)} frames")
    return [
        TargetFrame(time, shape_in_frame(recording, frame, micrometres=micrometres, place=place, labels=labels))
        for (recording, frame), time in zip(opened, times, strict=True)
    ]


def shape_in_frame(
    recording: Recording, frame: int, *, micrometres: float, place: Place, labels: list[int] | None
) -> CellShape:
    """Return the shape of a cell in a frame, in Ω.

    The parameters are those of :func:`read_target`.

    Raises
    ------
    DatasetError
        If the frame does not show the cell, or shows something else.
    """
    spacing = recording.calibration.spacing
    if spacing is None and place == "centre":
        raise DatasetError(
            f"{recording.name} does not say how large a voxel is: give --voxel X Y Z (µm; voxel in a request)"
        )
    cells = _cells_in_frame(recording, frame, labels)
    wanted = [cell.label for cell in cells]
    membranes = recording.membranes(frame, wanted)
    if place == "centre":
        centre = np.average([cell.centroid for cell in cells], axis=0, weights=[cell.volume for cell in cells])
        return CellShape([membrane.placed(centre, micrometres) for membrane in membranes])
    if recording.grid_shape is None:
        return CellShape([membrane.placed(np.zeros(3), micrometres) for membrane in membranes])
    step = Grid(recording.grid_shape).step
    factors = step / np.array(spacing or (1.0, 1.0, 1.0))
    return CellShape([membrane.stretched(factors).placed(np.ones(3), 1.0) for membrane in membranes])


def _cells_in_frame(recording: Recording, frame: int, labels: list[int] | None) -> list[CellObservation]:
    """Return the bodies of the cell in a frame; raises ``DatasetError`` as :func:`shape_in_frame`."""
    seen = {observation.label: observation for observation in recording.observations(frame)}
    wanted = [label for label in labels if label in seen] if labels else sorted(seen)
    if not wanted:
        what = "leave the frame out, and give the times of the others with --times (given_times in a request)"
        if seen:
            what = f"it shows {sorted(seen)}; name the label that the cell has there with --label (labels in a request)"
        raise DatasetError(f"{recording.name}: frame {frame} does not show the cell: {what}")
    if labels is None and len(wanted) > 1:
        raise DatasetError(
            f"{recording.name}: frame {frame} shows the cells {wanted}; name one with --label (labels in a request)"
        )
    cells = [seen[label] for label in wanted]
    if (why := wrong_size(cells, recording)) is not None:
        raise DatasetError(f"{recording.name}: frame {frame}: {why}")
    if any(cell.is_flat for cell in cells):
        raise DatasetError(f"{recording.name}: frame {frame}: {FLAT}")
    if not all(cell.is_closed for cell in cells):
        raise DatasetError(f"{recording.name}: frame {frame}: the surface has holes or loose edges; close it")
    if any(cell.nested for cell in cells):
        raise DatasetError(f"{recording.name}: frame {frame}: a body lies in another and faces outward too; remove it")
    return cells


def check_scale(target: list[TargetFrame], card: ModelCard) -> None:
    """Refuse a cell that does not fit into Ω, or is a speck in it."""
    for number, frame in enumerate(target):
        points = frame.shape.outline.vertices
        reach, side = float(np.abs(points).max()), float(np.ptp(points, axis=0).max())
        if reach > 1.0 or side < 2.0 * SMALLEST:
            what = "does not fit into" if reach > 1.0 else "is too small for"
            raise DatasetError(
                f"frame {number}: the cell is {side * card.micrometres:.3g} µm long and {what} the domain of model "
                f"{card.id}, {2.0 * card.micrometres:.3g} µm: give the right voxel size, or choose another model"
            )
