"""Lineage: which cell is the daughter of which, and which cells make up one training sequence.

A mother and both her daughters are one sequence. It begins with the mother and ends when the first of the daughters
divides or is lost. A daughter that divides begins a sequence of her own; one that does not is part of her mother's
sequence only. A track whose parent has no other child is the same cell after a gap. A parent that is not in the list,
or does not end before its daughter begins, is ignored.

Promises: a given list of tracks is followed. Without one, a division is detected where a cell vanishes and exactly two
new ones of about its volume stand in its place in the next frame.
Does not promise: to understand, without a list, trackers that keep the mother's label in one daughter.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from model.errors import DatasetError
from model.readers.recording import CellObservation, Track

REACH = 0.25  # of the mother's bounding box: distance outside it at which a daughter's centre may lie
VOLUME = (0.5, 1.6)  # range of both daughters' volume together, relative to the mother's


@dataclass(frozen=True)
class CellSequence:
    """The frames of one training sequence, ascending, and the labels that belong to it in each."""

    name: str
    frames: list[int]
    labels: list[tuple[int, ...]]

    @property
    def divides(self) -> bool:
        """Whether a mother and both daughters are in it."""
        return any(len(found) > 1 for found in self.labels)


def guess_tracks(observations: dict[int, dict[int, CellObservation]]) -> list[Track]:
    """Derive tracks and divisions from the observed cells.

    Parameters
    ----------
    observations
        For each frame, ascending, the cells by label.
    """
    frames = list(observations)
    seen: dict[int, list[int]] = {}
    for number, frame in enumerate(frames):
        for label in observations[frame]:
            seen.setdefault(label, []).append(number)
    born: dict[int, list[int]] = {}
    for label, numbers in seen.items():
        born.setdefault(numbers[0], []).append(label)
    parents: dict[int, int] = {}
    for mother, numbers in seen.items():
        if (last := numbers[-1]) + 1 >= len(frames):
            continue
        before, after = observations[frames[last]][mother], observations[frames[last + 1]]
        newborn = [label for label in born.get(last + 1, []) if label not in parents]
        daughters = [label for label in newborn if _beside(before, after[label])]
        total = sum(after[label].volume for label in daughters)
        if len(daughters) == 2 and VOLUME[0] * before.volume <= total <= VOLUME[1] * before.volume:
            parents |= dict.fromkeys(daughters, mother)
    return [Track(label, frames[n[0]], frames[n[-1]], parents.get(label, 0)) for label, n in sorted(seen.items())]


def with_known_parents(tracks: list[Track]) -> list[Track]:
    """Return the tracks, those without a parent whose parent is not in the list or does not end before they begin.

    A list may be cut from that of a longer movie, and some programs write -1 for a parent that is not known.
    """
    ends = {track.label: track.last for track in tracks}
    return [
        track if track.parent in ends and ends[track.parent] < track.first else replace(track, parent=0)
        for track in tracks
    ]


def track_contradictions(tracks: list[Track], present: dict[int, set[int]]) -> list[tuple[set[int], str]]:
    """List contradictions within a list of tracks, and with the observed labels.

    Returns
    -------
    list
        Labels that a sentence concerns (none: all of the list), and the sentence.
    """
    known, seen = {track.label for track in tracks}, set().union(*present.values())
    parents = {track.label: track.parent for track in with_known_parents(tracks)}
    found: list[tuple[set[int], str]] = []
    for track in tracks:
        if track.parent <= 0 or parents[track.label]:
            continue
        if track.parent in known:
            why = f"the parent of cell {track.label}, {track.parent}, does not end before it begins"
        else:
            why = f"the parent of cell {track.label}, {track.parent}, is in no line of the list of tracks"
        found.append(({track.label}, f"{why}; it is taken as a cell without a mother"))
    if extra := sorted(seen - known):
        text = f"labels {_some(extra)} are in the volumes but not in the list of tracks; they are left out"
        found.append((set(), text))
    if lost := sorted(known - seen):
        found.append((set(), f"tracks {_some(lost)} are in the list but in none of the volumes"))
    return found


def read_tracks(path: Path) -> list[Track]:
    """Read a list of tracks, four integers a line: label, first frame, last frame, parent.

    Raises
    ------
    DatasetError
        If the file cannot be read, a line is something else, or a label has two lines.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise DatasetError(f"there is no list of tracks {path}") from None
    except (OSError, UnicodeDecodeError):
        raise DatasetError(f"{path} cannot be read as a list of tracks: it is not a text file in UTF-8") from None
    tracks: dict[int, Track] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        parts = line.split()
        if not parts:
            continue
        try:
            label, first, last, parent = (int(part) for part in parts)
        except ValueError:
            raise DatasetError(f"{path.name}, line {number}: not four integers (label, first, last, parent)") from None
        if label in tracks:
            raise DatasetError(f"{path.name}, line {number}: label {label} has a line already; write one line a cell")
        if label < 1 or first > last:
            raise DatasetError(f"{path.name}, line {number}: a label is at least 1, and ends after it begins")
        tracks[label] = Track(label, first, last, parent)
    return list(tracks.values())


def cell_sequences(tracks: list[Track], present: dict[int, set[int]], name: str) -> list[CellSequence]:
    """Make sequences of tracks.

    Parameters
    ----------
    tracks
        Tracks with their parents.
    present
        For each frame the labels that are really there; a label that is missing leaves a gap.
    name
        Of the recording; sequences are called after it and the mother's label.
    """
    tracks = with_known_parents(tracks)
    by_parent: dict[int, list[Track]] = {}
    for track in tracks:
        if track.parent:
            by_parent.setdefault(track.parent, []).append(track)
    follows = {children[0].label for children in by_parent.values() if len(children) == 1}
    found = []
    for track in sorted(tracks, key=lambda track: track.label):
        siblings = by_parent.get(track.parent, []) if track.parent else []
        if track.label in follows:
            continue
        own, daughters = _to_division(track, by_parent)
        if len(daughters) != 2 and len(siblings) == 2:
            continue  # part of the mother's sequence
        labels: dict[int, tuple[int, ...]] = {frame: (label,) for label, frame in _frames_of(own, present)}
        if len(daughters) == 2:
            parts = [_to_division(daughter, by_parent)[0] for daughter in daughters]
            ends = [part[-1].last for part in parts]
            both = [{frame: label for label, frame in _frames_of(part, present)} for part in parts]
            for frame in sorted(both[0].keys() & both[1].keys()):
                if frame <= min(ends):
                    labels[frame] = (both[0][frame], both[1][frame])
        if labels:
            frames = sorted(labels)
            found.append(CellSequence(f"{name}-{track.label}", frames, [labels[frame] for frame in frames]))
    return found


def _to_division(track: Track, by_parent: dict[int, list[Track]]) -> tuple[list[Track], list[Track]]:
    """Follow a cell over its gaps; its pieces, and the tracks born from the last one."""
    pieces = [track]
    children = by_parent.get(track.label, [])
    while len(children) == 1 and children[0] not in pieces:
        pieces.append(children[0])
        children = by_parent.get(children[0].label, [])
    return pieces, children


def _frames_of(pieces: list[Track], present: dict[int, set[int]]) -> list[tuple[int, int]]:
    return [
        (piece.label, frame)
        for piece in pieces
        for frame in range(piece.first, piece.last + 1)
        if piece.label in present.get(frame, set())
    ]


def _some(labels: list[int]) -> str:
    return ", ".join(map(str, labels[:6])) + (" …" if len(labels) > 6 else "")


def _beside(mother: CellObservation, daughter: CellObservation) -> bool:
    """Whether the centre of a daughter lies in or near the mother's bounding box."""
    slack = REACH * (mother.high - mother.low)
    inside = (daughter.centroid >= mother.low - slack) & (daughter.centroid <= mother.high + slack)
    return bool(np.all(inside))
