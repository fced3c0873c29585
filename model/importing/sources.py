"""What lies in a folder, and how to open it.

Promises: the kind of data is told by names and file contents, never by opening a pickle; a folder of folders is a set
of sequences.
Does not promise: to find images under other names than those listed in docs/training.md.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from model.errors import DatasetError
from model.importing.footage import Calibration, Footage
from model.importing.planes import ARRAY, is_label_array, leading_files
from model.importing.surfaces import FIELDS, MESHES, FieldSequence, MeshSequence, open_field
from model.importing.volumes import (
    TIFF,
    TRACK_FILES,
    LabelVolumes,
    frame_count,
    numbered,
    open_challenge,
    open_frames,
    open_stack,
    read_tracks,
)


def open_footages(source: Path, *, given: Calibration, tracks: Path | None = None) -> list[Footage]:
    """Open everything that a file or folder holds.

    Parameters
    ----------
    source
        A file, a folder of files, or a folder of such folders.
    given
        Scale that the user states; it goes before what the files say.
    tracks
        A list of tracks (label, first, last, parent) for a single TIFF or folder of frames.

    Raises
    ------
    DatasetError
        If there is nothing to open, or a file is malformed.
    """
    if not source.exists():
        raise DatasetError(f"there is no {source}")
    found = _open_file(source) if source.is_file() else _open_folder(source)
    if not found:
        kinds = ", ".join(f"*{suffix}" for suffix in (*TIFF, *MESHES, *FIELDS))
        raise DatasetError(f"{source} holds no cells: none of {kinds}, nor a folder of them")
    if tracks is not None:
        if len(found) != 1 or not isinstance(found[0], LabelVolumes):
            raise DatasetError(f"--tracks belongs to one footage of label volumes; {source} holds {len(found)}")
        found = [replace(found[0], tracks=read_tracks(tracks))]
    return [replace(footage, calibration=footage.calibration.known(given)) for footage in found]


_Opened = LabelVolumes | MeshSequence | FieldSequence


def _open_file(path: Path) -> list[_Opened]:
    suffix = path.suffix.lower()
    if suffix in TIFF:
        return [open_stack(path)]
    if suffix == ARRAY and is_label_array(path):
        return [open_stack(path)]
    if suffix in FIELDS:
        return [open_field(path)]
    if suffix in MESHES:
        return [MeshSequence(path.stem, {0: path})]
    return []


def _open_folder(folder: Path) -> list[_Opened]:
    if any((folder / name).is_file() for name in TRACK_FILES):
        return [open_challenge(folder)]
    entries = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    files = [path for path in entries if path.is_file()]
    if meshes := [path for path in files if path.suffix.lower() in MESHES]:
        return [MeshSequence(folder.name, numbered(meshes))]
    if stacks := [path for path in files if path.suffix.lower() in TIFF]:
        stacks = leading_files(stacks)
        if len(stacks) > 1 and not frame_count(stacks[0])[1]:
            return [open_frames(stacks, folder.name)]
        return [open_stack(path) for path in stacks]
    if fields := [path for path in files if path.suffix.lower() in FIELDS]:
        arrays = [path for path in fields if path.suffix.lower() == ARRAY and is_label_array(path)]
        if arrays == fields and len(arrays) > 1 and not frame_count(arrays[0])[1]:
            return [open_frames(arrays, folder.name)]
        return [footage for path in fields for footage in _open_file(path)]
    return [footage for path in entries if path.is_dir() for footage in _named(_open_folder(path), folder, path)]


def _named(found: list[_Opened], folder: Path, path: Path) -> list[_Opened]:
    """Name footages of a nested folder after the path to it, so that names stay distinct."""
    prefix = path.relative_to(folder).as_posix()
    return [one if one.name == prefix else replace(one, name=f"{prefix}/{one.name}") for one in found]
