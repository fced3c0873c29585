"""Files that survive a power cut: written under another name, synced, and only then given their name.

The name is given by a hard link, which fails if the name exists: of several processes and hosts that share the folder,
the first one succeeds. Pillai et al. (OSDI 2014) describe which of these steps a crash may undo without its sync.

Promises: a name has its complete content or does not exist; when :func:`write_once` returns, the file is on disk.
Does not promise: anything on a disk that does not honour fsync.
"""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from secrets import token_hex

DRAFT = "."  # the beginning of the name of an unfinished file
# The errors of file systems without hard links, and of files that have the most links they may have.
NO_LINKS = frozenset({errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EMLINK, errno.EXDEV, errno.ENOSYS})


def write_once(path: Path, content: bytes) -> bool:
    """Write a new file; False, and nothing changed, if the name exists.

    Raises
    ------
    OSError
        If the disk refuses it; nothing of it is left then.
    """
    with _written(path, content) as draft:
        first = _name(draft, path)
        sync_folder(path.parent)  # also if another process made the name, because it may not have synced it yet
    return first


def write_all_once(files: Mapping[Path, bytes]) -> None:
    """Write files of one folder under names that nobody else uses; they are on disk together when this returns.

    Raises
    ------
    OSError
        If the disk does not take one; others may be there.
    """
    for path, content in files.items():
        with _written(path, content) as draft:
            _name(draft, path)
    for folder in {path.parent for path in files}:
        sync_folder(folder)


def write_over(path: Path, content: bytes) -> None:
    """Write a file, replacing one of that name; raises ``OSError`` and leaves the old one if the disk refuses."""
    with _written(path, content) as draft:
        draft.replace(path)
        sync_folder(path.parent)


def draft_of(path: Path) -> Path:
    """Return an unused name in the folder of ``path`` that marks a file as unfinished."""
    return path.with_name(f"{DRAFT}{path.name}.{token_hex(4)}")


def sync_file(path: Path) -> str:
    """Sync a file's content to disk; return its SHA-256."""
    with path.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        os.fsync(file.fileno())
    return sha256


def checksum(path: Path, *, from_disk: bool = False) -> str:
    """Return the SHA-256 of a file; ``from_disk``: past the page cache, where the system allows it."""
    with path.open("rb") as file:
        if from_disk and hasattr(os, "posix_fadvise"):
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        return hashlib.file_digest(file, "sha256").hexdigest()


def sync_folder(path: Path) -> None:
    """Sync the names in a folder to disk."""
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
        draft.replace(
            path
        )  # not atomic: two processes could both succeed. Names here are random, so two never write the same one
    return True


def entries(folder: Path) -> list[Path]:
    """Return the entries of a folder; none if it does not exist."""
    return list(folder.iterdir()) if folder.is_dir() else []


def file_system_time(folder: Path) -> float:
    """Return the time that the file system gives to what is written in a folder now, in seconds since 1970.

    A shared file system may have a clock of its own, and this machine's may be wrong: ages of files are differences of
    times of one clock.

    Raises
    ------
    OSError
        If the folder accepts no file.
    """
    folder.mkdir(parents=True, exist_ok=True)
    draft = folder / f"{DRAFT}clock.{token_hex(8)}"
    try:
        draft.touch()
        return draft.stat().st_mtime
    finally:
        draft.unlink(missing_ok=True)


def age_s(path: Path, *, now: float) -> float:
    """Return how many seconds before ``now`` a file or folder was changed; 0 if it does not exist any more.

    ``now`` is :func:`file_system_time` of the same file system.
    """
    try:
        return now - path.stat().st_mtime
    except FileNotFoundError:
        return 0.0


def link_tree(source: Path, target: Path, *, without: str) -> None:
    """Link all files of a tree below ``target``: hard links, or copies where the file system has none.

    Parameters
    ----------
    without
        Name of a file at the top that is left out.

    Raises
    ------
    FileNotFoundError
        If the source is removed meanwhile, or was never there.
    OSError
        If the disk refuses a write.
    """
    for place, _, files in os.walk(source, onerror=_raise):
        folder = target / Path(place).relative_to(source)
        folder.mkdir(parents=True, exist_ok=True)
        for name in files:
            if folder == target and name == without:
                continue
            link_or_copy(Path(place) / name, folder / name)


def link_or_copy(source: Path, target: Path) -> None:
    """Give a file a further name: a hard link, or a copy where the disk has no links; raises ``OSError``."""
    try:
        os.link(source, target)
    except OSError as error:
        if error.errno not in NO_LINKS:
            raise
        shutil.copyfile(source, target)


def _raise(error: OSError) -> None:
    raise error
