"""Folders of results on the client's disk: where a result may be written, and whether it is still intact.

A result is a folder with ``manifest.json``, which names every file with its size and SHA-256. This module needs neither
a service nor a numerical library; ``python -m model verify`` also opens the meshes and volumes.

Promises: a folder is replaced as a whole or not at all. Files that no manifest names are never removed.
"""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cytosynth.errors import DamagedFileError
from cytosynth.manifest import MANIFEST, RemoteFile, read_manifest

CHUNK = 2**20


class FolderError(Exception):
    """A folder cannot be used as requested; the message says what to do."""


@contextmanager
def result_folder(folder: Path, *, overwrite: bool) -> Iterator[Path]:
    """Yield a draft folder; it replaces ``folder`` when the block ends without an error.

    Parameters
    ----------
    folder
        Absent, empty, or, with ``overwrite``, an earlier result.
    overwrite
        Replace an earlier result. A folder that holds other files is refused.

    Raises
    ------
    FolderError
        Before the block runs: if ``folder`` is a file, is not empty, or cannot be created.
    """
    check_replaceable(folder, overwrite=overwrite)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        draft = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    except OSError as error:
        raise FolderError(f"{folder} cannot be created: {error.strerror}; choose another folder with --out") from None
    try:
        yield draft
        check_replaceable(folder, overwrite=overwrite)  # another process may have written to it meanwhile
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
        raise FolderError(f"{folder} is a file; --out must name a folder")
    held = _files_in(folder)
    if not held:
        return
    if MANIFEST not in held:
        raise FolderError(f"{folder} is not empty and holds no cytosynth result; choose another folder with --out")
    if not overwrite:
        raise FolderError(
            f"{folder} holds an earlier result; choose another folder with --out, or replace it with --overwrite"
        )
    if others := sorted(held - {MANIFEST} - {file.name for file in _entries(folder)}):
        raise FolderError(f"{folder} also holds {_some(others)}, which the manifest does not name; nothing was changed")


def check_result(folder: Path) -> tuple[list[str], int]:
    """Compare a result with its manifest.

    Returns
    -------
    tuple of list of str and int
        The differences, one sentence per file, and the number of files in the manifest.

    Raises
    ------
    FolderError
        If ``folder`` holds no result, or its manifest cannot be read.
    """
    if not folder.is_dir() or not (folder / MANIFEST).is_file():
        raise FolderError(f"{folder} holds no {MANIFEST}; it is not the folder of a result")
    others = _files_in(folder) - {MANIFEST}
    faults, count = list[str](), 0
    for file in _entries(folder):
        count += 1
        if fault := _fault(folder, file, others):
            faults.append(fault)
        others.discard(file.name)
    return faults + [f"{name} is not named in the manifest" for name in sorted(others)], count


def _fault(folder: Path, file: RemoteFile, held: set[str]) -> str | None:
    name = file.name
    if name not in held:
        return f"{name} is missing"
    path = folder / name
    if path.stat().st_size != file.bytes:
        return f"{name} has {path.stat().st_size:,} bytes instead of {file.bytes:,}"
    sha256 = hashlib.sha256()
    with path.open("rb") as content:
        while chunk := content.read(CHUNK):
            sha256.update(chunk)
    return None if sha256.hexdigest() == file.sha256 else f"{name} is damaged: its SHA-256 differs from the manifest"


def _entries(folder: Path) -> Iterator[RemoteFile]:
    """Yield the files that a manifest names; where those of shards list them, shard by shard."""
    try:
        yield from read_manifest(folder).files()
    except DamagedFileError as error:
        raise FolderError(f"the {MANIFEST} in {folder} cannot be used: {error}") from None
    except (OSError, ValueError, KeyError, TypeError):
        raise FolderError(
            f"the {MANIFEST} in {folder} cannot be read; it is damaged or was written by another program"
        ) from None


def _files_in(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir() or path.is_symlink()}


def _some(names: list[str]) -> str:
    shown = ", ".join(names[:3])
    return shown if len(names) <= 3 else f"{shown} and {len(names) - 3} more files"
