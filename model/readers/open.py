"""Find the recordings in a file or folder, and open them.

Promises: the kind of data is decided by names and file contents, never by opening a pickle. A folder of folders is a
set of recordings. A recording says what was chosen or left out; an uncertain choice is refused.
Does not promise: to find images under other names than those listed in docs/how-to/train-on-your-own-cells.md.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from model.errors import DatasetError
from model.readers.challenge import MARKERS, masks_and_tracks, parts_of_dataset
from model.readers.label_volumes import (
    TIFF,
    TRACK_FILES,
    LabelVolumes,
    frame_count,
    open_challenge,
    open_frames,
    open_stack,
)
from model.readers.lineage import read_tracks
from model.readers.naming import in_order_of_time, is_image_name, is_mask_name, one_a_frame, without_images
from model.readers.planes import ARRAY, is_label_array, leading_files
from model.readers.recording import FIELDS, MESHES, Calibration, ReadingWarning, Recording, Taken

if TYPE_CHECKING:
    from model.readers.meshes import FieldSequence, MeshSequence

_MARKERS = ReadingWarning(
    "markers",
    "man_track files of the Cell Tracking Challenge hold markers, not shapes, unless the data set says otherwise; "
    "masks with the same labels are in 01_ST/SEG (give them with --tracks)",
)


def open_recordings(source: Path, *, given: Calibration, tracks: Path | None = None) -> list[Recording]:
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
        If there is nothing to open, a file is malformed, or names do not tell what belongs together.
    """
    try:
        if not source.exists():
            raise DatasetError(f"there is no {source}")
        found = _open_file(source) if source.is_file() else _open_folder(source, ())
    except OSError as error:
        raise DatasetError(f"{error.filename or source} cannot be read: {error.strerror or error}") from None
    if not found:
        kinds = ", ".join(f"*{suffix}" for suffix in (*TIFF, *MESHES, *FIELDS))
        raise DatasetError(f"{source} holds no cells: none of {kinds}, nor a folder of them")
    if tracks is not None:
        if len(found) != 1 or not isinstance(found[0], LabelVolumes):
            raise DatasetError(f"--tracks belongs to one recording of label volumes; {source} holds {len(found)}")
        taken = replace(found[0].taken, tracks=f"from {tracks.name}")
        found = [replace(found[0], tracks=read_tracks(tracks), taken=taken)]
    return [replace(recording, calibration=recording.calibration.known(given)) for recording in found]


if TYPE_CHECKING:
    _Opened = LabelVolumes | MeshSequence | FieldSequence


def _open_file(path: Path) -> list[_Opened]:
    suffix = path.suffix.lower()
    if suffix in TIFF:
        return [open_stack(path)]
    if suffix == ARRAY and is_label_array(path):
        return [open_stack(path)]
    if suffix not in (*FIELDS, *MESHES):
        return []
    from model.readers.meshes import MeshSequence, open_field  # which needs more libraries than label volumes

    return [open_field(path) if suffix in FIELDS else MeshSequence(path.stem, {0: path})]


def _open_folder(folder: Path, above: tuple[Path, ...]) -> list[_Opened]:
    """Open a folder; ``above`` are the folders that it was reached through, lest a link lead back to one."""
    if folder.resolve() in above:
        raise DatasetError(f"{folder} is a link to a folder that it lies in: remove the link")
    above = (*above, folder.resolve())
    entries = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    _refuse_broken_links(entries)
    if any((folder / name).is_file() for name in TRACK_FILES):
        return [_open_challenge(folder)]
    if parts := parts_of_dataset(folder, entries):
        return [_open_masks_of_dataset(folder, number, kinds) for number, kinds in sorted(parts.items())]
    files, folders = [path for path in entries if path.is_file()], [path for path in entries if path.is_dir()]
    by_kind = {kind: [path for path in files if path.suffix.lower() in kind] for kind in (MESHES, TIFF, FIELDS)}
    if meshes := by_kind[MESHES]:
        return _with_taken(_open_meshes(meshes, folder), _left_out([*by_kind[TIFF], *by_kind[FIELDS]], folders))
    if stacks := by_kind[TIFF]:
        return _with_taken(_open_stacks(stacks, folder), _left_out(by_kind[FIELDS], folders))
    if fields := by_kind[FIELDS]:
        return _with_taken(_open_arrays(fields, folder), _left_out([], folders))
    folders, taken = _masks_of(folders)
    found = [one for path in folders for one in _named(_open_folder(path, above), folder, path)]
    return _with_taken(found, taken)


def _open_meshes(meshes: list[Path], folder: Path) -> list[_Opened]:
    from model.readers.meshes import MeshSequence

    chosen, taken = one_a_frame(meshes, MESHES)
    return [
        MeshSequence(ordered.name or folder.name, ordered.files, taken=taken.also(ordered.taken))
        for ordered in in_order_of_time(chosen)
    ]


def _open_stacks(stacks: list[Path], folder: Path) -> list[_Opened]:
    stacks, taken = without_images(stacks)
    if unsaved := [path for path in stacks if (folder / f"{path.stem}_seg.npy").is_file()]:
        raise DatasetError(
            f"{unsaved[0]} is an image with Cellpose's {unsaved[0].stem}_seg.npy beside it, which is not read: save "
            "the masks as TIFF and give a folder with them only"
        )
    stacks = leading_files(stacks)
    has_time = [frame_count(path)[1] for path in stacks]
    if len(stacks) == 1 or all(has_time):
        return _with_taken([open_stack(path) for path in stacks], taken)
    if any(has_time):
        one, other = stacks[has_time.index(True)].name, stacks[has_time.index(False)].name
        raise DatasetError(f"{folder} holds files of all frames ({one}) and of one frame ({other}): part them")
    return _with_taken([open_frames(ordered, folder.name) for ordered in in_order_of_time(stacks)], taken)


def _open_arrays(fields: list[Path], folder: Path) -> list[_Opened]:
    arrays = [path for path in fields if path.suffix.lower() == ARRAY and is_label_array(path)]
    if arrays == fields and len(arrays) > 1 and not any(frame_count(path)[1] for path in arrays):
        return [open_frames(ordered, folder.name) for ordered in in_order_of_time(arrays)]
    return [recording for path in fields for recording in _open_file(path)]


def _open_challenge(folder: Path) -> LabelVolumes:
    opened = open_challenge(folder)
    first = opened.places[opened.frames[0]][0]
    table = next(name for name in TRACK_FILES if (folder / name).is_file())
    warnings = (_MARKERS,) if first.name.lower().startswith(MARKERS) else ()
    taken = Taken(order="by the numbers of the frames", tracks=f"from {table}", warnings=warnings)
    return replace(opened, taken=opened.taken.also(taken))


def _open_masks_of_dataset(folder: Path, number: str, kinds: set[str]) -> LabelVolumes:
    masks, tracks = masks_and_tracks(folder, number, kinds)
    if masks.name != "SEG":
        return replace(_open_challenge(masks), name=number)
    files = [path for path in masks.iterdir() if path.suffix.lower() in TIFF and not path.name.startswith(".")]
    (ordered,) = in_order_of_time(sorted(files))
    place = masks.relative_to(folder).as_posix()
    taken = Taken(
        files=f"masks of {place}; images and markers of the data set are not read",
        tracks=f"from {tracks.relative_to(folder).as_posix()}",
    )
    opened = open_frames(ordered, number)
    return replace(opened, tracks=read_tracks(tracks), labelled=True, taken=taken.also(opened.taken))


def _masks_of(folders: list[Path]) -> tuple[list[Path], Taken]:
    """Leave out folders of images that lie beside folders of masks."""
    masks = [path for path in folders if is_mask_name(path.name)]
    images = [path for path in folders if is_image_name(path.name)]
    if not masks or not images:
        return folders, Taken()
    names = ", ".join(path.name for path in images)
    return [path for path in folders if path not in images], Taken(files=f"{names} beside masks: not read")


def _left_out(files: list[Path], folders: list[Path]) -> Taken:
    """Say which cells of a folder are not read, as others were found first."""
    names = [path.name for path in (*files, *folders)]
    if not names:
        return Taken()
    shown = ", ".join(names[:3]) + (" …" if len(names) > 3 else "")
    written_by_us = not folders and any((path.parents[k] / "manifest.json").is_file() for path in files for k in (0, 1))
    text = f"{shown} beside the files that are read: not read; give a file or folder by its own name to read it"
    return Taken(files=text, warnings=() if written_by_us else (ReadingWarning("left_out", text),))


def _refuse_broken_links(entries: list[Path]) -> None:
    for path in entries:
        if path.suffix.lower() in ("", *TIFF, *MESHES, *FIELDS) and not path.exists():
            raise DatasetError(f"{path} is a link to nothing: remove it, or bring back what it names")


def _with_taken(found: Iterable[_Opened], taken: Taken) -> list[_Opened]:
    return [replace(one, taken=taken.also(one.taken)) for one in found]


def _named(found: list[_Opened], folder: Path, path: Path) -> list[_Opened]:
    """Name recordings of a nested folder after the path to it, so that names stay distinct."""
    prefix = path.relative_to(folder).as_posix()
    return [one if one.name == prefix else replace(one, name=f"{prefix}/{one.name}") for one in found]
