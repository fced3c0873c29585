"""Reconstruction of every tracked cell of one recording, and their way back into one label volume.

Each cell is fitted by itself, centred on its centre of mass, over the frames in which it is tracked. The cells are then
written one by one, as a single reconstructed cell is, and together: each at every moment of its life in the place where
it was, on a grid finer than the given one, with its label and its lineage.

Promises: samples of the given grid are samples of the finer one, with the same coordinates. Between given frames a
cell's centre moves in a straight line. Where two fitted cells overlap, a sample belongs to the one deeper inside which
it lies.
Does not promise: that daughters part where the labels say: of a cell that divides within one sequence, each sample
belongs to the daughter whose given centre is nearer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from model.card import ModelCard
from model.domain import TAU, frame_times
from model.errors import DatasetError
from model.export.imagej_tiff import Hyperstack, HyperstackWriter
from model.fitting.fit import TargetFrame
from model.fitting.fit_targets import check_scale, shape_in_frame
from model.living_cell import LivingCell
from model.readers.lineage import CellSequence, cell_sequences, guess_tracks
from model.readers.open import open_recordings
from model.readers.recording import Calibration, CellObservation, Recording, Track

RECORDING_FOLDER = "recording"  # of the label volume of all cells, in the result
CELLS_MAX = 100
SAMPLES_MAX = 2**25  # of a frame on the finer grid; its labels and depths take 6 bytes a sample
MARGIN = 1.25  # on a cell's reach, for what the fit adds to it

Doubles = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class TrackedCell:
    """One cell of a recording.

    Attributes
    ----------
    sequence
        Its frames, and its labels in each: two for the daughters of one that divides.
    target
        Its shapes in Ω, centred, at their times in τ.
    centres
        (T, 3) centre of mass in µm.
    parts
        For each frame the centre of each label in µm.
    reach
        How far it reaches from its centre, in µm.
    """

    sequence: CellSequence
    target: list[TargetFrame]
    centres: Doubles
    parts: list[dict[int, Doubles]]
    reach: float

    @property
    def labels(self) -> list[int]:
        """All its labels."""
        return sorted({label for labels in self.sequence.labels for label in labels})


@dataclass(frozen=True, kw_only=True)
class TrackedRecording:
    """The tracked cells of one recording, its tracks, and sentences on what was left out or is doubtful."""

    recording: Recording
    cells: list[TrackedCell]
    tracks: list[Track]
    warnings: list[str]


def read_tracked(
    sources: Sequence[Path], card: ModelCard, *, voxel: tuple[float, float, float] | None
) -> TrackedRecording:
    """Read every tracked cell of one recording of label volumes.

    Raises
    ------
    DatasetError
        If there is not one recording of known scale, or no cell of it can be used.
    """
    opened = [one for source in sources for one in open_recordings(source, given=Calibration(voxel))]
    if len(opened) != 1 or opened[0].grid_shape is None:
        raise DatasetError(f"all cells are taken from one recording of label volumes; the uploads hold {len(opened)}")
    recording = opened[0]
    if recording.calibration.spacing is None:
        raise DatasetError(f"{recording.name} does not say how large a voxel is: give voxel, [x, y, z] in µm")
    seen = {frame: {one.label: one for one in recording.observations(frame)} for frame in recording.frames}
    tracks = recording.tracks if recording.tracks is not None else guess_tracks(seen)
    warnings = [warning.message for warning in (*recording.calibration.warnings, *recording.taken.warnings)]
    cells = []
    for sequence in _sequences(tracks, seen, recording.name, divides=card.topology == "division"):
        try:
            cells.append(_cell(sequence, recording, seen, card))
        except DatasetError as error:
            warnings.append(f"{sequence.name} was left out: {error}")
    if not cells:
        raise DatasetError(warnings[-1] if warnings else f"{recording.name} shows no tracked cell")
    if len(cells) > CELLS_MAX:
        raise DatasetError(f"{recording.name} shows {len(cells)} cells; a request may have {CELLS_MAX}: name some")
    return TrackedRecording(recording=recording, cells=cells, tracks=tracks, warnings=warnings)


_Seen = dict[int, dict[int, CellObservation]]


def _sequences(tracks: list[Track], seen: _Seen, name: str, *, divides: bool) -> list[CellSequence]:
    """Sequences of cells; where the model's cells do not divide, mother and daughters are cells of their own."""
    present = {frame: set(cells) for frame, cells in seen.items()}
    if divides:
        return cell_sequences(tracks, present, name)
    found = []
    for track in sorted(tracks, key=lambda track: track.label):
        frames = [frame for frame in seen if track.first <= frame <= track.last and track.label in seen[frame]]
        if frames:
            found.append(CellSequence(f"{name}-{track.label}", frames, [(track.label,)] * len(frames)))
    return found


def _cell(sequence: CellSequence, recording: Recording, seen: _Seen, card: ModelCard) -> TrackedCell:
    target, centres, parts, reach = [], [], [], 0.0
    for frame, labels in zip(sequence.frames, sequence.labels, strict=True):
        shown = [seen[frame][label] for label in labels]
        if any(one.cut for one in shown):
            raise DatasetError(f"frame {frame}: the border of the volume cuts it")
        shape = shape_in_frame(recording, frame, micrometres=card.micrometres, place="centre", labels=list(labels))
        target.append(TargetFrame(_time(frame, sequence.frames), shape))
        centre = np.average([one.centroid for one in shown], axis=0, weights=[one.volume for one in shown])
        centres.append(centre)
        parts.append({one.label: np.asarray(one.centroid) for one in shown})
        corners = np.abs(np.concatenate([[one.low - centre, one.high - centre] for one in shown]))
        reach = max(reach, float(corners.max()))
    check_scale(target, card)
    return TrackedCell(sequence=sequence, target=target, centres=np.array(centres), parts=parts, reach=MARGIN * reach)


def _time(moment: float, frames: list[int]) -> float:
    """Time in τ of a moment of a cell's life, counted in frames of the recording."""
    span = frames[-1] - frames[0]
    return float(TAU[0] + (TAU[1] - TAU[0]) * (moment - frames[0]) / span) if span else float(TAU[0])


def fine_grid(recording: Recording, refine: int) -> tuple[tuple[int, int, int], Doubles]:
    """Return samples along (x, y, z) of the finer grid, and their distances in µm.

    Raises
    ------
    DatasetError
        If it has too many samples.
    """
    assert recording.grid_shape is not None
    assert recording.calibration.spacing is not None
    nx, ny, nz = ((count - 1) * refine + 1 for count in recording.grid_shape)
    if nx * ny * nz > SAMPLES_MAX:
        raise DatasetError(
            f"{recording.name} on a grid {refine} times finer has {nx * ny * nz:.3g} samples a frame; at most "
            f"{SAMPLES_MAX:.3g} are possible: lower refine"
        )
    return (nx, ny, nz), np.array(recording.calibration.spacing) / refine


def write_recording(
    found: TrackedRecording,
    fitted: Sequence[tuple[LivingCell, Doubles]],
    folder: Path,
    *,
    frames: int,
    refine: int,
    micrometres: float,
    after_frame: Callable[[int], None],
) -> list[Path]:
    """Write all fitted cells into one label volume a frame, with the list of tracks.

    Parameters
    ----------
    found
        The recording.
    fitted
        Of each of its cells the fitted one, and where the middle of its Ω lies in that of the given shapes, in Ω.
    folder
        Gets ``labels.tif`` and ``man_track.txt``.
    frames
        Number of frames, spread evenly over those of the recording.
    refine
        How many times finer than the given one the grid is along each side.
    micrometres
        Length of one unit of Ω.
    after_frame
        Called with the number of frames written.
    """
    recording = found.recording
    shape, step = fine_grid(recording, refine)
    first, last = recording.frames[0], recording.frames[-1]
    moments = first + (frame_times(frames).astype(np.float64) - TAU[0]) / (TAU[1] - TAU[0]) * (last - first)
    minutes = recording.calibration.minutes
    interval = 60.0 * minutes * (last - first) / (frames - 1) if minutes and frames > 1 else None
    dx, dy, dz = (float(size) for size in step)
    stack = Hyperstack(
        shape=(frames, shape[2], shape[1], shape[0]), spacing=(dz, dy, dx), origin=(0.0, 0.0, 0.0),
        interval_s=interval,
    )  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    lives: dict[int, tuple[int, int]] = {}
    with (folder / "labels.tif").open("xb") as file:
        writer = HyperstackWriter(file.write, stack)
        for number, moment in enumerate(moments):
            labels, depth = np.zeros(shape, dtype=np.uint16), np.zeros(shape, dtype=np.float32)
            for cell, (living, shift) in zip(found.cells, fitted, strict=True):
                _place(cell, living, shift, float(moment), labels, depth, step=step, micrometres=micrometres)
            for label in np.unique(labels[labels > 0]).tolist():
                lives[label] = (lives.get(label, (number, number))[0], number)
            writer.write(labels.T)
            after_frame(number + 1)
        writer.close()
    parents = {track.label: track.parent for track in found.tracks}
    rows = [
        f"{label} {begin} {end} {parents.get(label, 0) if parents.get(label, 0) in lives else 0}\n"
        for label, (begin, end) in sorted(lives.items())
    ]
    (folder / "man_track.txt").write_text("".join(rows), encoding="ascii")
    return [folder / "labels.tif", folder / "man_track.txt"]


def _place(
    cell: TrackedCell,
    living: LivingCell,
    shift: Doubles,
    moment: float,
    labels: NDArray[np.uint16],
    depth: NDArray[np.float32],
    *,
    step: Doubles,
    micrometres: float,
) -> None:
    """Label the samples inside a cell at a moment, unless they lie deeper in another; nothing outside its life."""
    frames = cell.sequence.frames
    if not frames[0] - 0.5 <= moment < frames[-1] + 0.5:
        return
    within = min(max(moment, frames[0]), frames[-1])
    centre = np.array([np.interp(within, frames, cell.centres[:, axis]) for axis in range(3)])
    low = np.maximum(np.ceil((centre - cell.reach) / step), 0).astype(np.int64)
    high = np.minimum(np.floor((centre + cell.reach) / step) + 1, labels.shape).astype(np.int64)
    if np.any(high <= low):
        return
    box = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
    axes = [np.arange(a, b) * size for a, b, size in zip(low, high, step, strict=True)]
    places = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 3)  # µm
    points = ((places - centre) / micrometres - shift).astype(np.float32)
    values = np.asarray(living.shape(_time(within, frames))(points), dtype=np.float32)
    values[np.abs(points).max(axis=1) > 1.0] = 1.0  # beyond Ω the network knows nothing
    values = values.reshape(depth[box].shape)
    inside = (values < 0.0) & (values < depth[box])
    near = int(np.abs(np.array(frames) - within).argmin())
    parts = cell.parts[near]
    owners = np.array(sorted(parts), dtype=np.uint16)
    moved = np.stack([parts[int(label)] for label in owners]) + centre - cell.centres[near]
    closest = np.linalg.norm(places[:, None] - moved, axis=2).argmin(axis=1).reshape(values.shape)
    labels[box][inside] = owners[closest][inside]
    depth[box][inside] = values[inside]
