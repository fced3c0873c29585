"""The cells of uploaded files, at the scale of a model, as sequences to be measured.

Promises: a sequence is what an import of the same files would give; only the frames that are measured are read.
Does not promise: anything about cells that cannot be used; they are left out, and sentences say why.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from model.card import ModelCard
from model.domain import Grid, frame_times
from model.errors import DatasetError
from model.evaluation.sequence_sources import Snapshot, nearest_frames, sampled
from model.evaluation_spec import CELLS_MIN, EvaluationSpec
from model.learning.imported_cells import stored_membrane, times_of
from model.membranes.triangle_distance import CellShape
from model.readers.open import open_recordings
from model.readers.recording import Calibration, Recording
from model.readers.survey import Surveyed, survey


@dataclass(frozen=True)
class UploadedSequences:
    """Cells of recordings.

    Attributes
    ----------
    recordings
        The open files.
    cells
        What was found of each cell.
    micrometres
        Length of one unit of Ω.
    minutes
        Of a sequence, from its first frame to its last.
    has_protrusions
        Whether to look for protrusions.
    """

    recordings: tuple[Recording, ...]
    cells: tuple[Surveyed, ...]
    micrometres: float
    minutes: float
    has_protrusions: bool = False

    def __len__(self) -> int:
        return len(self.cells)

    def name(self, index: int) -> str:
        """Name of the tracked cell."""
        return self.cells[index].sequence.name

    def snapshots(self, index: int, *, moments: int, grid: Grid) -> Iterator[Snapshot]:
        """Yield frames of a cell, the nearest to times spread evenly."""
        cell = self.cells[index]
        known = times_of(cell.sequence.frames)
        times = frame_times(len(cell.sequence.frames)) if known is None else np.array(known, dtype=np.float32)
        for row in nearest_frames(times, moments):
            yield sampled(self._shape(cell, row), grid, (float(times[row]) + 1.0) / 2.0 * self.minutes)

    def _shape(self, cell: Surveyed, row: int) -> CellShape:
        labels = list(cell.sequence.labels[row])
        membranes = self.recordings[cell.recording].membranes(cell.sequence.frames[row], labels)
        centre: NDArray[np.float64] = cell.centres[row]
        return CellShape([stored_membrane(one.placed(centre, self.micrometres)) for one in membranes])


@dataclass(frozen=True)
class UploadedCells:
    """The cells to compare with, and sentences on what was left out or is not known."""

    sequences: UploadedSequences
    warnings: tuple[str, ...]


def open_uploaded(
    spec: EvaluationSpec, card: ModelCard, folder: Path, *, on_frame: Callable[[], None] = lambda: None
) -> UploadedCells:
    """Find the uploaded cells: as many as the spec compares, spread over all.

    Parameters
    ----------
    spec
        Says the scale, where the files do not.
    card
        Of the model that they are compared with.
    folder
        Holds the files.
    on_frame
        Called after each that was read.

    Raises
    ------
    DatasetError
        If too few can be used, or one does not fit into the model's domain.
    """
    spacing = None if spec.voxel is None else (spec.voxel[0], spec.voxel[1], spec.voxel[2])
    given = Calibration(spacing=spacing, minutes=spec.interval, spacing_from="voxel", minutes_from="interval")
    recordings = open_recordings(folder, given=given)
    surveyed = survey(recordings, on_frame=lambda _done, _total: on_frame())
    usable = [one for one in surveyed if one.is_usable]
    left_out = tuple(f"{one.sequence.name} was left out: {_fault(one)}" for one in surveyed if not one.is_usable)
    if len(usable) < CELLS_MIN:
        why = f"; {left_out[0]}" if left_out else ": upload more tracked cells"
        raise DatasetError(f"the uploads show {len(usable)} usable cells, a comparison needs at least {CELLS_MIN}{why}")
    _check_scale(usable, card)
    interval = next((one.calibration.minutes for one in recordings if one.calibration.minutes), None)
    spans = [one.sequence.frames[-1] - one.sequence.frames[0] for one in usable]
    chosen = np.unique(np.linspace(0, len(usable) - 1, min(spec.count, len(usable))).round().astype(int))
    sequences = UploadedSequences(
        recordings=tuple(recordings),
        cells=tuple(usable[int(number)] for number in chosen),
        micrometres=card.micrometres,
        minutes=max(float(np.median(spans)) * (interval or 1.0), 1e-9),
        has_protrusions=card.topology == "single",
    )
    unknown = () if interval else ("the minutes between frames are not known, 1 is taken: state them with interval",)
    return UploadedCells(sequences, (*left_out, *unknown))


def _fault(one: Surveyed) -> str:
    """Say what is wrong with a sequence, by the names that a request has."""
    finding = next(finding for finding in one.findings if finding.severity == "error")
    message = finding.message.replace("--voxel X Y Z (µm; voxel in a request)", "voxel, [x, y, z] in µm")
    where = f" (frame {', '.join(map(str, finding.frames[:3]))})" if finding.frames else ""
    return f"{message}{where}"


def _check_scale(usable: list[Surveyed], card: ModelCard) -> None:
    """Refuse cells that do not fit into the model's domain: a wrong voxel size, or another model's cells."""
    for one in usable:
        reach = float(one.reaches.max())
        if reach > card.micrometres:
            raise DatasetError(
                f"{one.sequence.name}: the cell reaches {reach:.3g} µm from its middle and does not fit into the "
                f"domain of model {card.id}, {2.0 * card.micrometres:.3g} µm: give the right voxel size, or choose "
                "another model"
            )
