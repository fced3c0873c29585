"""Survey of a user's cells before an import: which sequences there are, and what is wrong with each.

Promises: every frame is read exactly once, one at a time. An error means that the sequence cannot be used for training
as it is; a warning means that it can.
Does not promise: that the segmentation is right.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from model.errors import DatasetError
from model.readers.lineage import CellSequence, cell_sequences, guess_tracks, track_contradictions
from model.readers.recording import Calibration, CellObservation, Recording
from model.upload_checks.surface_mesh import LENGTH_MAX, LENGTH_MIN

FRAMES_MIN = 3  # of a sequence
SAMPLES_MIN = 250  # voxels, a diameter of about 8: fewer show no shape
PIECES = "the cell is in pieces: give each cell a label of its own, or remove the pieces"
GIVE_VOXEL = "give the voxel size with --voxel X Y Z (µm; voxel in a request)"
FLAT = "the cell is one voxel thick, so it has no shape in three dimensions: give masks of several slices"
JUMP = 0.5  # change of volume from one frame to the next that is reported, relative


class Finding(BaseModel):
    """A problem of a sequence: an error must be corrected, a warning may be ignored."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    severity: Literal["error", "warning"]
    code: str
    message: str
    frames: list[int] = []


@dataclass(frozen=True)
class Surveyed:
    """One sequence and its findings.

    Attributes
    ----------
    centres, reaches
        (T, 3) in µm: the cell's centre of mass, and how far it reaches from there along x, y and z.
    volumes
        (T,) in µm³.
    parts_in_the_end
        Bodies in the last frame: 2 where a division is told by shape, not by labels.
    """

    recording: int
    sequence: CellSequence
    centres: NDArray[np.float64]
    reaches: NDArray[np.float64]
    volumes: NDArray[np.float64]
    findings: list[Finding]
    parts_in_the_end: int = 1

    @property
    def is_usable(self) -> bool:
        """No error was found."""
        return not any(finding.severity == "error" for finding in self.findings)


def survey(
    recordings: Sequence[Recording], *, on_frame: Callable[[int, int], None] = lambda _done, _total: None
) -> list[Surveyed]:
    """Check every frame of every recording.

    Parameters
    ----------
    recordings
        What :func:`model.readers.open.open_recordings` found.
    on_frame
        Called with (frames done, frames in all).
    """
    found: list[Surveyed] = []
    total, done = sum(len(recording.frames) for recording in recordings), 0
    for number, recording in enumerate(recordings):
        seen: dict[int, dict[int, CellObservation]] = {}
        unreadable: dict[int, str] = {}
        for frame in recording.frames:
            try:
                seen[frame] = {observation.label: observation for observation in recording.observations(frame)}
            except DatasetError as error:
                seen[frame], unreadable[frame] = {}, str(error)
            done += 1
            on_frame(done, total)
        present = {frame: set(cells) for frame, cells in seen.items()}
        tracks = recording.tracks if recording.tracks is not None else guess_tracks(seen)
        contradictions = track_contradictions(recording.tracks, present) if recording.tracks is not None else []
        made = cell_sequences(tracks, present, recording.name)
        lost = [f for f in recording.frames if not seen[f]]
        if not made:
            faults = [*_of_scale(recording.calibration), *_of_reader(recording)]
            faults += [*_of_frames(lost, unreadable), *_of_tracks(contradictions, None)]
            found.append(_surveyed(number, CellSequence(recording.name, [], []), seen, faults))
        single = len(made) == 1
        for sequence in made:
            named = CellSequence(recording.name, sequence.frames, sequence.labels) if single else sequence
            inner = [f for f in lost if sequence.frames[0] <= f <= sequence.frames[-1] or single]
            mine = [*_of_scale(recording.calibration), *_of_reader(recording)]
            mine += [
                *_of_frames(inner, unreadable),
                *_of_tracks(contradictions, sequence),
                *_of_size(named, seen, recording),
            ]
            found.append(_surveyed(number, named, seen, [*mine, *_of_sequence(named, seen, recording.frames)]))
    return found


def _surveyed(
    number: int, sequence: CellSequence, seen: dict[int, dict[int, CellObservation]], findings: list[Finding]
) -> Surveyed:
    centres, reaches, volumes, bodies = [], [], [], 1
    for cells in _cells(sequence, seen):
        weights = np.array([max(cell.volume, 0.0) for cell in cells])
        middle = np.average([cell.centroid for cell in cells], axis=0, weights=weights if weights.sum() > 0 else None)
        low, high = np.min([cell.low for cell in cells], axis=0), np.max([cell.high for cell in cells], axis=0)
        centres.append(middle)
        reaches.append(np.maximum(high - middle, middle - low))
        volumes.append(weights.sum())
        bodies = sum(cell.bodies for cell in cells)
    return Surveyed(
        recording=number,
        sequence=sequence,
        centres=np.array(centres).reshape(-1, 3),
        reaches=np.array(reaches).reshape(-1, 3),
        volumes=np.array(volumes),
        findings=findings,
        parts_in_the_end=bodies,
    )


def _cells(sequence: CellSequence, seen: dict[int, dict[int, CellObservation]]) -> list[list[CellObservation]]:
    return [
        [seen[frame][label] for label in labels] for frame, labels in zip(sequence.frames, sequence.labels, strict=True)
    ]


def _of_scale(calibration: Calibration) -> list[Finding]:
    spacing = calibration.spacing
    if spacing is None:
        message = f"voxel size unknown: {GIVE_VOXEL}"
        return [Finding(severity="error", code="no_spacing", message=message)]
    if not all(math.isfinite(side) and side > 0 for side in spacing):
        message = f"voxel sides {spacing} are not positive numbers: {GIVE_VOXEL}"
        return [Finding(severity="error", code="bad_spacing", message=message)]
    return []


def _of_reader(recording: Recording) -> list[Finding]:
    """Warnings for the reader's uncertain choices."""
    warnings = dict.fromkeys((*recording.calibration.warnings, *recording.taken.warnings))
    return [Finding(severity="warning", code=one.code, message=one.message) for one in warnings]


def _of_frames(empty: list[int], unreadable: dict[int, str]) -> list[Finding]:
    found = []
    if broken := [frame for frame in empty if frame in unreadable]:
        found.append(Finding(severity="error", code="unreadable", message=unreadable[broken[0]], frames=broken))
    if blank := [frame for frame in empty if frame not in unreadable]:
        found.append(
            Finding(severity="error", code="empty", message="frames show no cell: leave them out", frames=blank)
        )
    return found


def _of_tracks(contradictions: list[tuple[set[int], str]], sequence: CellSequence | None) -> list[Finding]:
    """Contradictions of the list of tracks that concern a sequence, or all if there is none."""
    labels = {label for found in sequence.labels for label in found} if sequence else set()
    concerned = [text for about, text in contradictions if sequence is None or not about or about & labels]
    return [Finding(severity="warning", code="tracks", message=text) for text in concerned]


def wrong_size(cells: Sequence[CellObservation], recording: Recording) -> str | None:
    """Explain why cells have an impossible size, and what to try; None if the size is possible or no scale is known."""
    if recording.calibration.spacing is None or not cells:
        return None
    length = float(np.max(np.max([c.high for c in cells], axis=0) - np.min([c.low for c in cells], axis=0)))
    if LENGTH_MIN <= length <= LENGTH_MAX:
        return None
    allowed = f"the cell is {length:.3g} µm long; allowed are {LENGTH_MIN:g} to {LENGTH_MAX:g} µm"
    if recording.grid_shape is not None:
        return f"{allowed}: {GIVE_VOXEL}"
    unit = "--voxel 1e6 1e6 1e6 for metres" if length < LENGTH_MIN else "--voxel 0.001 0.001 0.001 for nanometres"
    return f"{allowed}: meshes are taken in µm, and --voxel (voxel in a request) scales them: {unit}"


def _of_size(
    sequence: CellSequence, seen: dict[int, dict[int, CellObservation]], recording: Recording
) -> list[Finding]:
    wrong = {
        frame: why
        for frame, cells in zip(sequence.frames, _cells(sequence, seen), strict=True)
        if (why := wrong_size(cells, recording)) is not None
    }
    if not wrong:
        return []
    return [Finding(severity="error", code="size", message=next(iter(wrong.values())), frames=list(wrong))]


def _of_sequence(
    sequence: CellSequence, seen: dict[int, dict[int, CellObservation]], frames: list[int]
) -> list[Finding]:
    """Check one sequence."""
    found: list[Finding] = []

    def add(severity: Literal["error", "warning"], code: str, message: str, where: list[int]) -> None:
        if where:
            found.append(Finding(severity=severity, code=code, message=message, frames=where))

    def where(holds: Callable[[list[CellObservation]], bool]) -> list[int]:
        return [frame for frame, cells in zip(sequence.frames, cells_of, strict=True) if holds(cells)]

    cells_of = _cells(sequence, seen)
    if len(sequence.frames) < FRAMES_MIN:
        message = f"{len(sequence.frames)} frames; a sequence needs at least {FRAMES_MIN}"
        found.append(Finding(severity="error", code="short", message=message, frames=sequence.frames))
    add("error", "border", "the cell is cut by the border of the volume", where(lambda c: any(s.cut for s in c)))
    add("error", "flat", FLAT, where(lambda c: any(s.is_flat for s in c)))
    add("error", "open", "the surface has holes or loose edges", where(lambda c: not all(s.is_closed for s in c)))
    nested = "a body lies in another and faces outward too: remove it, or turn it inward if it is the wall of a cavity"
    add("error", "nested", nested, where(lambda c: any(s.nested for s in c)))
    turned = "the triangles of a body faced inward; it was turned outward"
    add("warning", "turned", turned, where(lambda c: any(s.turned for s in c)))
    add("error", "bodies", PIECES, _in_pieces(sequence, cells_of))
    missing = [
        f for f in frames if sequence.frames[0] < f < sequence.frames[-1] and f not in sequence.frames and seen[f]
    ]
    skipped = sorted({*range(sequence.frames[0], sequence.frames[-1] + 1)} - {*frames})
    add("warning", "gap", "frames are missing between; their times are kept free", sorted([*missing, *skipped]))
    add(
        "warning",
        "specks",
        "small bodies (under 2 % of the cell) beside it",
        where(lambda c: any(s.fragments for s in c)),
    )
    add("warning", "coarse", f"fewer than {SAMPLES_MIN} samples", where(_is_coarse))
    volumes = [sum(cell.volume for cell in cells) for cells in cells_of]
    jumps = [
        f for f, (a, b) in zip(sequence.frames[1:], pairwise(volumes), strict=True) if abs(b - a) > JUMP * max(a, 1e-9)
    ]
    add("warning", "jump", f"the volume changes by more than {JUMP:.0%} from the frame before", jumps)
    return found


def _in_pieces(sequence: CellSequence, cells_of: list[list[CellObservation]]) -> list[int]:
    """Frames with more bodies than a cell, or than two daughters once it has divided."""
    if sequence.divides:
        return [f for f, cells in zip(sequence.frames, cells_of, strict=True) if any(cell.bodies > 1 for cell in cells)]
    counts = [sum(cell.bodies for cell in cells) for cells in cells_of]
    divided = next((k for k, count in enumerate(counts) if count > 1), len(counts))
    if all(count == 2 for count in counts[divided:]) and 0 < divided < len(counts):
        return []  # a division that no labels tell of
    return [frame for frame, count in zip(sequence.frames, counts, strict=True) if count > 1]


def _is_coarse(cells: list[CellObservation]) -> bool:
    return any(cell.samples < SAMPLES_MIN for cell in cells)
