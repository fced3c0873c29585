"""Strict reader of a sequence in many files: an archive of label volumes, surfaces and lists of tracks.

Promises: every file that is kept passed the strict reader of its kind, and only its plain copy is kept. What the
readers of cells would not read (images beside masks, hidden files, other formats) is left out, and named. Labels over
65,535 are renumbered in all files and lists of tracks together.
Does not promise: that the files are one sequence; the readers of cells say what belongs together.

Formats: https://celltrackingchallenge.net/datasets (folders, and lists of tracks: label, first, last, parent).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import PurePosixPath
from typing import Any, BinaryIO

from model.errors import UploadError
from model.upload_checks.archives import FILES_MAX, MEMBER_MAX, UNPACKED_MAX, Member, read_archive, shown
from model.upload_checks.label_tiff import (
    FLAT,
    LABEL_WRITTEN_MAX,
    LABELS_MAX,
    ReadLabels,
    labels_of,
    numbers_of,
    renumbering,
)
from model.upload_checks.plain_copies import write_surface
from model.upload_checks.surface_mesh import Surface, surface_of

SAMPLES_MAX = 2**28  # of all label volumes
TRIANGLES_MAX = 2**21  # of all surfaces
TRACKS_MAX = 65_535  # lines of a list
NAMED_MAX = 20  # files that are left out and named
LABELS = (".tif", ".tiff")
SURFACES = (".stl", ".obj", ".ply")
TRACKS = ("man_track.txt", "res_track.txt")
ALLOWED = (
    f"a zip (stored or deflate) or tar (plain or gzip) of at most {FILES_MAX:,} files, {MEMBER_MAX:,} bytes each and "
    f"{UNPACKED_MAX:,} in all, unpacked: label volumes (.tif), surfaces (.stl, .obj, .ply) and lists of tracks "
    f"({', '.join(TRACKS)}); no links, no archives in it; at most {SAMPLES_MAX:,} samples and {TRIANGLES_MAX:,} "
    "triangles in all"
)
TRACKS_ALLOWED = (
    f"a list of at most {TRACKS_MAX:,} tracks, four whole numbers a line: label, first frame, last frame, parent"
)
_Track = tuple[int, int, int, int]
_HIDDEN = frozenset({"__MACOSX", "Thumbs.db", "desktop.ini"})
_NUMBER_OF_VIDEO = re.compile(r"\d{2,3}")
_SLICE = re.compile(r"man_seg_\d+_\d+\.tiff?", re.IGNORECASE)  # gold truth of one slice
_MASK_PART = re.compile(r"(\d{2,3})_(?:GT|ST|RES)")


@dataclass
class _Contents:
    """What was found in the files of an archive."""

    stored: list[dict[str, Any]] = field(default_factory=list)
    paths: set[str] = field(default_factory=set)  # folded
    labels: set[int] = field(default_factory=set)
    named: set[int] = field(default_factory=set)  # labels and parents of lists of tracks
    voxels: set[tuple[float | None, ...]] = field(default_factory=set)
    left_out: list[str] = field(default_factory=list)
    notes: dict[str, None] = field(default_factory=dict)
    volumes: int = 0
    frames: int = 0
    samples: int = 0
    surfaces: int = 0
    triangles: int = 0
    tracks: int = 0
    largest: int = 0
    solid: bool = False  # whether a volume shows cells of more than one layer of voxels


def read_file_set(
    descriptor: int, kind: str, copy: BinaryIO | None, *, after_import: Callable[[], None] = lambda: None
) -> dict[str, Any]:
    """Return what an archive holds.

    Parameters
    ----------
    descriptor
        Of the archive, which can be read at any place.
    kind
        ``zip``, ``tar`` or ``tgz``.
    copy
        Gets the plain copies one after another; None: nothing is written.
    after_import
        As of :func:`model.upload_checks.label_tiff.read_labels`.

    Returns
    -------
        ``files`` (kept), ``volumes``, ``frames`` (of volumes), ``surfaces``, ``triangles``, ``tracks`` (lines of
        lists), ``labels``, ``largest_label``, ``voxel`` (of all volumes, null where they differ or do not say it);
        ``left_out``, ``flat``, ``renumbered`` and ``notes``, where there are any; ``stored``: path, place and size of
        each copy.

    Raises
    ------
    UploadError
        If a file of it is damaged or is not allowed, or it holds no cells.
    """
    contents = _read(descriptor, kind, copy, None, after_import)
    numbers = renumbering(contents.labels | contents.named)
    if numbers is not None:
        if copy is not None:
            copy.seek(0)
            copy.truncate()
        contents = _read(descriptor, kind, copy, numbers, after_import)
    if not contents.volumes and not contents.surfaces:
        raise UploadError("the archive holds no label volumes and no surfaces")
    facts: dict[str, Any] = {
        "files": len(contents.stored), "volumes": contents.volumes, "frames": contents.frames,
        "surfaces": contents.surfaces, "triangles": contents.triangles, "tracks": contents.tracks,
        "labels": len(contents.labels), "largest_label": contents.largest,
        "voxel": list(*contents.voxels) if len(contents.voxels) == 1 else None,
    }  # fmt: skip
    notes = [*contents.notes]
    if contents.labels and not contents.solid and not contents.surfaces:
        facts["flat"] = True
        notes.append(FLAT)
    if contents.left_out:
        more = len(contents.left_out) - NAMED_MAX
        facts["left_out"] = contents.left_out[:NAMED_MAX]
        notes.append(f"{_count(len(contents.left_out))} not read" + (f"; {NAMED_MAX} are named" if more > 0 else ""))
    if numbers is not None:
        note, shown_numbers = numbers_of(numbers)
        notes.append(note)
        facts["renumbered"] = shown_numbers
    return facts | ({"notes": notes} if notes else {}) | {"stored": contents.stored}


def _read(
    descriptor: int, kind: str, copy: BinaryIO | None, numbers: dict[int, int] | None,
    after_import: Callable[[], None],
) -> _Contents:  # fmt: skip
    contents = _Contents()
    image_folders = cache(partial(_image_folders, descriptor, kind))  # looked for if a folder may be one
    for member in read_archive(descriptor, kind):
        path = PurePosixPath(member.path)
        if any(part.startswith(".") or part in _HIDDEN for part in path.parts):
            continue
        try:
            if path.name in TRACKS:
                _add_tracks(contents, path, member, copy, numbers)
            elif _is_beside_masks(path, image_folders) or path.suffix.lower() not in (*LABELS, *SURFACES):
                contents.left_out.append(member.path)
            elif path.suffix.lower() in LABELS:
                # Once a label is too large, all is written anew.
                wide = numbers is None and contents.largest > LABEL_WRITTEN_MAX
                _add_volume(contents, path, member, None if wide else copy, numbers, after_import)
            else:
                _add_surface(contents, path, member, copy)
        except UploadError as error:
            raise UploadError(f"{shown(member.path)}: {error.message}") from None
        except (MemoryError, OSError):
            raise
        except Exception as error:  # noqa: BLE001 - a parser may raise anything at what means harm
            raise UploadError(f"{shown(member.path)} is damaged ({type(error).__name__})") from None
    return contents


def _image_folders(descriptor: int, kind: str) -> set[str]:
    """Return the folders of the Cell Tracking Challenge that hold images: ``01`` beside ``01_GT``."""
    found = set()
    for member in read_archive(descriptor, kind, names_only=True):
        *above, _ = member.path.split("/")
        for depth, part in enumerate(above):
            if match := _MASK_PART.fullmatch(part):
                found.add("/".join([*above[:depth], match[1]]))
    return found


def _is_beside_masks(path: PurePosixPath, image_folders: Callable[[], set[str]]) -> bool:
    """Whether a file is an image, or a slice, of a data set of the Cell Tracking Challenge."""
    if _NUMBER_OF_VIDEO.fullmatch(path.parent.name) and path.parent.as_posix() in image_folders():
        return True
    return _SLICE.fullmatch(path.name) is not None


def _add_volume(
    contents: _Contents, path: PurePosixPath, member: Member, copy: BinaryIO | None, numbers: dict[int, int] | None,
    after_import: Callable[[], None],
) -> None:  # fmt: skip
    start = copy.tell() if copy is not None else 0
    read: ReadLabels = labels_of(
        memoryview(member.read()), copy=copy, numbers=numbers, empty_frames=True, after_import=after_import,
        samples_max=SAMPLES_MAX - contents.samples,
    )  # fmt: skip
    frames, planes, height, width = read.shape
    contents.samples += frames * planes * height * width
    contents.volumes += 1
    contents.frames += frames
    contents.labels |= read.found
    contents.largest = max([contents.largest, *read.found])
    contents.solid = contents.solid or read.flat is False
    if len(contents.labels) > LABELS_MAX:
        raise UploadError(f"the files hold more than {LABELS_MAX} different labels (are they images?)")
    contents.voxels.add(read.voxel)
    contents.notes |= dict.fromkeys(read.notes)
    _store(contents, path.with_suffix(".tif"), copy, start)


def _add_surface(contents: _Contents, path: PurePosixPath, member: Member, copy: BinaryIO | None) -> None:
    surface: Surface = surface_of(memoryview(member.read()), path.suffix.lower()[1:])
    contents.surfaces += 1
    contents.triangles += len(surface.faces)
    if contents.triangles > TRIANGLES_MAX:
        raise UploadError(f"the surfaces of the archive have more than {TRIANGLES_MAX:,} triangles")
    contents.notes |= dict.fromkeys(surface.facts.get("notes", ()))
    start = copy.tell() if copy is not None else 0
    name = path.with_suffix(".ply")
    if name.as_posix().casefold() in contents.paths:
        contents.left_out.append(member.path)  # the same frame in another format
        return
    if copy is not None:
        write_surface(copy, surface.points, surface.faces, single=surface.single)
    _store(contents, name, copy, start)


def _add_tracks(
    contents: _Contents, path: PurePosixPath, member: Member, copy: BinaryIO | None, numbers: dict[int, int] | None
) -> None:
    start = copy.tell() if copy is not None else 0
    tracks = read_tracks(member.read())
    contents.tracks += len(tracks)
    contents.named |= {label for label, *_ in tracks} | {parent for *_, parent in tracks if parent > 0}
    if numbers is not None:
        tracks = _with_numbers(tracks, numbers)
    if copy is not None:
        _write_tracks(copy, tracks)
    _store(contents, path, copy, start)


def copy_tracks(data: memoryview, copy: BinaryIO | None, numbers: dict[int, int] | None) -> dict[str, Any]:
    """Return how many ``tracks`` a list has and which labels are ``found`` in it, and copy it.

    Parameters
    ----------
    numbers
        The new number of each label; None: labels keep theirs.

    Raises
    ------
    UploadError
        If it is no list of tracks.
    """
    tracks = read_tracks(bytes(data))
    if copy is not None:
        _write_tracks(copy, tracks if numbers is None else _with_numbers(tracks, numbers))
    found = {label for label, *_ in tracks} | {parent for *_, parent in tracks if parent > 0}
    return {"tracks": len(tracks), "largest_label": max(found, default=0), "found": sorted(found)}


def _with_numbers(tracks: list[_Track], numbers: dict[int, int]) -> list[_Track]:
    return [(numbers[label], first, last, numbers.get(parent, parent)) for label, first, last, parent in tracks]


def _write_tracks(copy: BinaryIO, tracks: list[_Track]) -> None:
    copy.write("".join(f"{' '.join(map(str, track))}\n" for track in tracks).encode())


def read_tracks(content: bytes) -> list[tuple[int, int, int, int]]:
    """Return the lines of a list of tracks: label, first frame, last frame, parent.

    Raises
    ------
    UploadError
        If a line holds anything else, or too many there are.
    """
    lines = content.decode("utf-8-sig").splitlines()
    tracks = []
    for number, line in enumerate(lines, start=1):
        words = line.split()
        if not words:
            continue
        if len(words) != 4 or any(re.fullmatch(r"-?[0-9]{1,19}", word) is None for word in words):
            raise UploadError(f"line {number} is not four whole numbers (label, first frame, last frame, parent)")
        label, first, last, parent = map(int, words)
        if not (1 <= label < 2**63 and 0 <= first <= last < 2**31 and -1 <= parent < 2**63):
            raise UploadError(f"line {number}: a label is at least 1, and ends after it begins")
        tracks.append((label, first, last, parent))
        if len(tracks) > TRACKS_MAX:
            raise UploadError(f"the list has more than {TRACKS_MAX:,} tracks")
    return tracks


def _store(contents: _Contents, path: PurePosixPath, copy: BinaryIO | None, start: int) -> None:
    if path.as_posix().casefold() in contents.paths:
        raise UploadError(f"another file would have the same name, {path.name}")
    contents.paths.add(path.as_posix().casefold())
    end = copy.tell() if copy is not None else start
    contents.stored.append({"path": path.as_posix(), "offset": start, "bytes": end - start})


def _count(files: int) -> str:
    return "1 file is" if files == 1 else f"{files} files are"
