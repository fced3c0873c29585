"""Data sets of the Cell Tracking Challenge, as unpacked: which of their folders hold whole cells.

``01`` holds images, ``01_GT/TRA`` markers with the tracks, ``01_GT/SEG`` masks of a few frames or slices, ``01_ST/SEG``
masks of all frames with the labels of the tracks. Only masks of all frames are usable shapes.

Promises: images and markers of a data set are never read as cells. A data set with incomplete masks is refused.
Does not promise: gold-standard masks of single slices.

Formats: https://celltrackingchallenge.net/datasets.
"""

from __future__ import annotations

import re
from pathlib import Path

from model.errors import DatasetError

MARKERS = "man_track"
_PART = re.compile(r"(\d{2,3})_(GT|ST|RES)$")
_FRAME = re.compile(r"man_(?:track|seg)(\d+)\.tiff?$", re.IGNORECASE)


def parts_of_dataset(folder: Path, entries: list[Path]) -> dict[str, set[str]]:
    """Which of GT, ST and RES there are for each number of a video; empty if the folder is no such data set."""
    parts: dict[str, set[str]] = {}
    for path in entries:
        if path.is_dir() and (match := _PART.match(path.name)):
            parts.setdefault(match[1], set()).add(match[2])
    if not parts and (match := _PART.match(folder.resolve().name)) and match[2] == "GT" and (folder / "TRA").is_dir():
        parts[match[1]] = {"GT"}
    return parts


def masks_and_tracks(folder: Path, number: str, kinds: set[str]) -> tuple[Path, Path]:
    """Find the masks of all frames of a video, and its list of tracks.

    Raises
    ------
    DatasetError
        If there are none, or two.
    """
    truth = folder if _PART.match(folder.resolve().name) else folder / f"{number}_GT"
    tracks = truth / "TRA" / "man_track.txt"
    marked = _frames(truth / "TRA")
    found = []
    if "ST" in kinds and _frames(folder / f"{number}_ST" / "SEG"):
        found.append(folder / f"{number}_ST" / "SEG")
    if marked and _frames(truth / "SEG") >= marked:
        found.append(truth / "SEG")
    if "RES" in kinds:
        found.append(folder / f"{number}_RES")
    if len(found) != 1 or (found[0].name == "SEG" and not tracks.is_file()):
        place = " and ".join(path.relative_to(folder).as_posix() for path in found)
        why = f"has masks in {place}" if found else "has no masks of all frames (TRA holds markers, not shapes)"
        raise DatasetError(
            f"{folder} is a data set of the Cell Tracking Challenge and {number} {why}: give one folder of masks and "
            f"its tracks, as {number}_ST/SEG --tracks {number}_GT/TRA/man_track.txt"
        )
    return found[0], tracks


def _frames(folder: Path) -> set[int]:
    """Frames of which a folder holds a whole file."""
    if not folder.is_dir():
        return set()
    return {int(match[1]) for path in folder.iterdir() if (match := _FRAME.match(path.name))}
