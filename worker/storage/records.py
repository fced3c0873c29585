"""Small records, each at a place: files below the data folder, or objects in the store; for the journal.

A place is ``<folder>/<name>``. Promises of both: a record exists whole or not at all; it is durable when the call that
wrote it returns; of several writers of :meth:`Records.put_once`, on any host, one makes the record.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from worker.storage.durable_files import (
    DRAFT,
    age_s,
    entries,
    sync_folder,
    write_all_once,
    write_once,
    write_over,
)
from worker.storage.objects import ObjectStore


class Records(Protocol):
    """Where records are kept. Every method may raise ``OSError``."""

    def put_once(self, place: str, content: bytes) -> bool:
        """Make a record; False, and nothing changed, if there is one."""

    def put_all_once(self, contents: Mapping[str, bytes]) -> None:
        """Make records at places of one folder that nobody else uses."""

    def put_over(self, place: str, content: bytes) -> None:
        """Make or replace a record."""

    def get(self, place: str) -> bytes | None:
        """Return a record; None if there is none."""

    def modified(self, place: str) -> float | None:
        """Return when a record was written, in seconds since 1970 by the storage's clock; None if there is none."""

    def delete(self, place: str) -> None:
        """Remove a record, if there is one."""

    def names(self, folder: str) -> list[str]:
        """Return the names of the records of a folder, sorted."""

    def sweep_drafts(self, folders: Iterable[str], *, grace_s: float, now: float) -> int:
        """Remove what unfinished writes left, once it is ``grace_s`` old at ``now``; return how many."""


class FolderRecords:
    """Records that are files below a folder."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def put_once(self, place: str, content: bytes) -> bool:
        """Make a record; False, and nothing changed, if there is one."""
        path = self._root / place
        if not path.exists() and write_once(path, content):
            return True
        sync_folder(path.parent)  # the process that wrote it may not have synced it yet
        return False

    def put_all_once(self, contents: Mapping[str, bytes]) -> None:
        """Make records at places of one folder that nobody else uses."""
        write_all_once({self._root / place: content for place, content in contents.items()})

    def put_over(self, place: str, content: bytes) -> None:
        """Make or replace a record."""
        write_over(self._root / place, content)

    def get(self, place: str) -> bytes | None:
        """Return a record; None if there is none."""
        try:
            return (self._root / place).read_bytes()
        except FileNotFoundError:
            return None

    def modified(self, place: str) -> float | None:
        """Return when a record was written; None if there is none."""
        try:
            return (self._root / place).stat().st_mtime
        except FileNotFoundError:
            return None

    def delete(self, place: str) -> None:
        """Remove a record, if there is one."""
        (self._root / place).unlink(missing_ok=True)

    def names(self, folder: str) -> list[str]:
        """Return the names of the records of a folder, sorted; raises ``OSError`` if it cannot be read."""
        try:
            found = [path.name for path in (self._root / folder).iterdir()]
        except FileNotFoundError:
            return []
        return sorted(name for name in found if not name.startswith(DRAFT))

    def sweep_drafts(self, folders: Iterable[str], *, grace_s: float, now: float) -> int:
        """Remove what unfinished writes left, once it is ``grace_s`` old at ``now``; return how many."""
        drafts = [path for folder in folders for path in entries(self._root / folder) if path.name.startswith(DRAFT)]
        old = [path for path in drafts if age_s(path, now=now) > grace_s]
        for path in old:
            path.unlink(missing_ok=True)
        return len(old)


class ObjectRecords:
    """Records that are objects."""

    def __init__(self, store: ObjectStore) -> None:
        self._store = store

    def put_once(self, place: str, content: bytes) -> bool:
        """Make a record; False, and nothing changed, if there is one."""
        return self._store.put_once(place, content)

    def put_all_once(self, contents: Mapping[str, bytes]) -> None:
        """Make records at places that nobody else uses."""
        for place, content in contents.items():
            self._store.put_once(place, content)

    def put_over(self, place: str, content: bytes) -> None:
        """Make or replace a record."""
        self._store.put_over(place, content)

    def get(self, place: str) -> bytes | None:
        """Return a record; None if there is none."""
        return self._store.get(place)

    def modified(self, place: str) -> float | None:
        """Return when a record was written; None if there is none."""
        info = self._store.head(place)
        return None if info is None else info.modified

    def delete(self, place: str) -> None:
        """Remove a record, if there is one."""
        with suppress(FileNotFoundError):
            self._store.delete([place])

    def names(self, folder: str) -> list[str]:
        """Return the names of the records of a folder, sorted."""
        return [info.key.removeprefix(f"{folder}/") for info in self._store.below(f"{folder}/")]

    def sweep_drafts(self, folders: Iterable[str], *, grace_s: float, now: float) -> int:
        """Return 0: an object that was not written whole is not there."""
        return 0
