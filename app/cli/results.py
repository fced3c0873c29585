"""Results in folders on the client's disk: where a result may be written, and whether one is still as it was made.

A result is a folder with ``manifest.json``, which names every file with its size and SHA-256. Nothing here needs a
service or a numerical library; ``python -m model verify`` also opens the meshes and volumes.

Promises: a folder is replaced whole or not at all, and nothing that a manifest does not name is ever removed.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

MANIFEST = "manifest.json"
CHUNK = 2**20


class FolderError(Exception):
    """A folder cannot be used as asked; the message says what to do."""


@contextmanager
def result_folder(folder: Path, *, overwrite: bool) -> Iterator[Path]:
    """Yield a draft folder; when the block ends without an error it takes the place of ``folder``.

    Parameters
    ----------
    folder
        Absent, empty or, with ``overwrite``, an earlier result.
    overwrite
        Whether an earlier result is replaced: its own files are removed. A folder that holds anything else is refused.

    Raises
    ------
    FolderError
        Before anything is computed: if ``folder`` is a file, is not empty, or cannot be made.
    """
    check_replaceable(folder, overwrite=overwrite)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        draft = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    except OSError as error:
        raise FolderError(f"{folder} cannot be made: {error.strerror}; choose another folder with --out") from None
    try:
        yield draft
        check_replaceable(folder, overwrite=overwrite)  # it may have been filled meanwhile
        draft.chmod(0o755)
        if folder.is_dir():
            shutil.rmtree(folder)
        draft.rename(folder)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def check_replaceable(folder: Path, *, overwrite: bool) -> None:
    """Raise :class:`FolderError` unless a result may be written to ``folder``."""
    if not folder.exists() and not folder.is_symlink():
        return
    if not folder.is_dir():
        raise FolderError(f"{folder} is a file; --out names the folder that the files go into")
    held = _files_in(folder)
    if not held:
        return
    if MANIFEST not in held:
        raise FolderError(f"{folder} is not empty and holds no result of cytosynth; choose another folder with --out")
    if not overwrite:
        raise FolderError(f"{folder} holds an earlier result; choose another folder with --out, or --overwrite it")
    if strays := sorted(held - {MANIFEST} - {entry["name"] for entry in _entries(folder)}):
        raise FolderError(f"{folder} also holds {_some(strays)}, which no result wrote; it is left as it is")


def check_result(folder: Path) -> tuple[list[str], int]:
    """Compare a result with its manifest.

    Returns
    -------
    tuple of list of str and int
        What is wrong, a sentence a file, and how many files the manifest names.

    Raises
    ------
    FolderError
        If ``folder`` holds no result, or its manifest cannot be read.
    """
    if not folder.is_dir() or not (folder / MANIFEST).is_file():
        raise FolderError(f"{folder} holds no {MANIFEST}; name the folder of a result")
    entries = _entries(folder)
    held = _files_in(folder)
    faults = [fault for entry in entries if (fault := _fault(folder, entry, held))]
    strays = held - {MANIFEST} - {entry["name"] for entry in entries}
    return faults + [f"{name} is not named in the manifest" for name in sorted(strays)], len(entries)


def _fault(folder: Path, entry: dict[str, Any], held: set[str]) -> str | None:
    name = entry["name"]
    if name not in held:
        return f"{name} is missing"
    path = folder / name
    if path.stat().st_size != entry["bytes"]:
        return f"{name} has {path.stat().st_size:,} bytes instead of {entry['bytes']:,}"
    sha256 = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            sha256.update(chunk)
    return None if sha256.hexdigest() == entry["sha256"] else f"{name} is damaged: its SHA-256 is not the manifest's"


def _entries(folder: Path) -> list[dict[str, Any]]:
    try:
        document = json.loads((folder / MANIFEST).read_bytes())
        entries = [{"name": f["name"], "bytes": int(f["bytes"]), "sha256": str(f["sha256"])} for f in document["files"]]
    except (OSError, ValueError, KeyError, TypeError):
        raise FolderError(f"the {MANIFEST} in {folder} cannot be read; it is damaged or of another program") from None
    for entry in entries:
        name = PurePosixPath(str(entry["name"]))
        if name.is_absolute() or ".." in name.parts:
            raise FolderError(f"the {MANIFEST} in {folder} names a file outside the folder: {entry['name']!r}")
    return entries


def _files_in(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir() or path.is_symlink()}


def _some(names: list[str]) -> str:
    shown = ", ".join(names[:3])
    return shown if len(names) <= 3 else f"{shown} and {len(names) - 3} more files"
