"""Files that outlive a power cut: written aside, synced, and only then given their name.

A name is given by a hard link, which fails where the name exists: whoever is first wins, for every process and host
that shares the folder. Pillai et al. (OSDI 2014) tell which of these steps a crash may undo without its sync.

Promises: under a name there is the whole content or nothing; what :func:`write_once` returned for is on disk.
Does not promise: anything on a disk that lies about fsync.
"""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from secrets import token_hex

DRAFT = "."  # begins the name of a file that is not finished
# What file systems without hard links say, or with as many as a file may have.
NO_LINKS = frozenset({errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EMLINK, errno.EXDEV, errno.ENOSYS})


def write_once(path: Path, content: bytes) -> bool:
    """Write a file under a name that is free; False, and nothing changed, if it is taken.

    Raises
    ------
    OSError
        If the disk does not take it; nothing is left of it then.
    """
    with _written(path, content) as draft:
        first = _name(draft, path)
        sync_folder(path.parent)  # also where somebody else was first, who may not have come so far
    return first


def write_over(path: Path, content: bytes) -> None:
    """Write a file in the place of one that may exist; raises ``OSError`` and leaves that one."""
    with _written(path, content) as draft:
        draft.replace(path)
        sync_folder(path.parent)


def draft_of(path: Path) -> Path:
    """Return a name beside ``path`` that nobody else uses and that shows that the file is not finished."""
    return path.with_name(f"{DRAFT}{path.name}.{token_hex(4)}")


def sync_file(path: Path) -> str:
    """Bring a file's content to disk; return its SHA-256."""
    with path.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        os.fsync(file.fileno())
    return sha256


def checksum(path: Path, *, from_disk: bool = False) -> str:
    """Return the SHA-256 of a file; ``from_disk``: not of what memory holds of it, where the system can tell."""
    with path.open("rb") as file:
        if from_disk and hasattr(os, "posix_fadvise"):
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        return hashlib.file_digest(file, "sha256").hexdigest()


def sync_folder(path: Path) -> None:
    """Bring the names in a folder to disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def _written(path: Path, content: bytes) -> Iterator[Path]:
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = draft_of(path)
    try:
        with draft.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        yield draft
    finally:
        draft.unlink(missing_ok=True)


def _name(draft: Path, path: Path) -> bool:
    try:
        os.link(draft, path)
    except FileExistsError:
        return False
    except OSError as error:
        if error.errno not in NO_LINKS:
            raise
        if path.exists():
            return False
        draft.replace(path)  # two at the same instant would both succeed; names here are random, so there are none
    return True


def entries(folder: Path) -> list[Path]:
    """Return what a folder holds; nothing if it does not exist."""
    return list(folder.iterdir()) if folder.is_dir() else []


def age_s(path: Path) -> float:
    """Return how many seconds ago a file or folder was changed; 0 if it does not exist any more."""
    try:
        return time.time() - path.stat().st_mtime
    except FileNotFoundError:
        return 0.0


def link_tree(source: Path, target: Path, *, without: str) -> None:
    """Give a tree's files further names below ``target``: hard links, or copies where the disk has no links.

    Parameters
    ----------
    without
        Name of a file at the top that is left out.

    Raises
    ------
    FileNotFoundError
        If the source is removed meanwhile, or was never there.
    OSError
        If the disk takes no more.
    """
    for place, _, files in os.walk(source, onerror=_raise):
        folder = target / Path(place).relative_to(source)
        folder.mkdir(parents=True, exist_ok=True)
        for name in files:
            if folder == target and name == without:
                continue
            try:
                os.link(Path(place) / name, folder / name)
            except OSError as error:
                if error.errno not in NO_LINKS:
                    raise
                shutil.copyfile(Path(place) / name, folder / name)


def _raise(error: OSError) -> None:
    raise error
