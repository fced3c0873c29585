"""What a manifest names: in its own lists, or, where they would be too long, in the manifests of its shards.

A result of up to :data:`model.spec.LISTED_MAX` sequences has one manifest, with the members ``cells`` and ``files``. A
larger one has a root manifest with the member ``shards`` instead: an entry for each manifest of a range of sequences.
Those are files of the result, ``manifests/000012.json``, of the same form as the manifest of a request for that range.
:class:`Contents` reads both alike, one shard at a time.

Promises: memory is that of a few shards, whatever the number of sequences. A shard's manifest is read once for all its
files. This module loads no numerical library.
Does not promise: that files exist or are intact.
"""

from __future__ import annotations

import bisect
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

FORMAT, SHARDED_FORMAT = "cytosynth-manifest/1", "cytosynth-manifest/2"
FOLDER = "manifests"
KEPT = 4  # manifests of shards in memory for one result
CELL = re.compile(r"cell_(\d+)/")
MANIFEST_OF_SHARD = re.compile(rf"{FOLDER}/(\d{{6,}})\.json")
FILE_MEMBERS = (("name", str), ("bytes", int), ("sha256", str))
SHARD_MEMBERS = (*FILE_MEMBERS, ("first_index", int), ("cells", int), ("files", int), ("bytes_of_files", int))


def shard_manifest(number: int) -> str:
    """Return the name of the manifest of a shard, numbered from 0."""
    return f"{FOLDER}/{number:06d}.json"


@dataclass(frozen=True)
class Position:
    """A place in the list of files: the number of a shard, and that of a file within it, counted from 0."""

    shard: int = 0
    file: int = 0


class Contents:
    """The files and cells of one result.

    Parameters
    ----------
    manifest
        The document.
    read
        Returns the contents of one shard; gets the shard's entry in the root manifest. Its errors are passed on.

    Attributes
    ----------
    manifest
        The document; shared, so do not change it.
    shards
        Entries of the manifests of shards, by number; none where the manifest lists everything itself.

    Raises
    ------
    ValueError
        If an entry is malformed, or there is no list of files; also ``KeyError`` and ``TypeError``.
    """

    def __init__(
        self, manifest: Mapping[str, Any], read: Callable[[Mapping[str, Any]], Contents] | None = None
    ) -> None:
        self.manifest = manifest
        self.shards: list[Mapping[str, Any]] = manifest["shards"] if "files" not in manifest else []
        if self.shards and read is None:
            raise ValueError("the manifest of a shard has shards")
        for number, entry in enumerate(self.shards):
            _check(entry, SHARD_MEMBERS, required=True)
            if entry["name"] != shard_manifest(number):
                raise ValueError("a shard's manifest has another name than it should")
        self._files: list[Mapping[str, Any]] = [] if self.shards else manifest["files"]
        for entry in self._files:
            _check(entry, FILE_MEMBERS, required=False)
        self._by_name = {entry["name"]: entry for entry in self._files}
        self._firsts = [entry["first_index"] for entry in self.shards]
        self._shard = lru_cache(maxsize=KEPT)(lambda number: read(self.shards[number])) if read else None

    @property
    def is_sharded(self) -> bool:
        """Whether the manifests of shards list files and cells."""
        return bool(self.shards)

    @property
    def bytes(self) -> int:
        """Size of all files together, without ``manifest.json``."""
        if self.shards:
            return sum(entry["bytes"] + entry["bytes_of_files"] for entry in self.shards)
        return sum(entry.get("bytes", 0) for entry in self._files)

    @property
    def count(self) -> int:
        """Number of files, without ``manifest.json``."""
        return sum(1 + entry["files"] for entry in self.shards) if self.shards else len(self._files)

    def shard(self, number: int) -> Contents:
        """Return the contents of one shard; itself where there are none."""
        return self._shard(number) if self._shard and self.shards else self

    def files(self, *, start: Position = Position()) -> Iterator[tuple[Position, Mapping[str, Any]]]:
        """Yield each file's position and entry: of each shard first its manifest, then its files by name."""
        if not self.shards:
            for number, entry in enumerate(self._files[start.file :], start=start.file):
                yield Position(0, number), entry
            return
        for number in range(start.shard, len(self.shards)):
            first = start.file if number == start.shard else 0
            if first == 0:
                yield Position(number, 0), self.shards[number]
                first = 1
            for place, entry in enumerate(self.shard(number)._files[first - 1 :], start=first):
                yield Position(number, place), entry

    def entry(self, name: str) -> Mapping[str, Any] | None:
        """Return the entry of a file; None if there is none of that name."""
        if not self.shards:
            return self._by_name.get(name)
        number = self.shard_of(name)
        if number is None:
            return None
        return self.shards[number] if name == shard_manifest(number) else self.shard(number).entry(name)

    def shard_of(self, name: str) -> int | None:
        """Return the number of the shard that a file belongs to, by its name; None where that is none."""
        if found := MANIFEST_OF_SHARD.fullmatch(name):
            number = int(found[1])
            return number if number < len(self.shards) and name == shard_manifest(number) else None
        found = CELL.match(name)
        return self._shard_with(int(found[1])) if found else None

    def files_of_cell(self, index: int) -> Iterator[Mapping[str, Any]]:
        """Yield the entries of the files of one cell, by its index."""
        number = self._shard_with(index) if self.shards else 0
        if number is not None:
            folder = f"cell_{index:04d}/"
            yield from (entry for entry in self.shard(number)._files if entry["name"].startswith(folder))

    def cells(self) -> Iterator[Mapping[str, Any]]:
        """Yield what the manifest says of each cell, in order."""
        for number in range(len(self.shards) or 1):
            yield from self.shard(number).manifest.get("cells", [])

    def cell(self, index: int) -> Mapping[str, Any] | None:
        """Return what the manifest says of one cell, by its index; None if there is none."""
        number = self._shard_with(index) if self.shards else 0
        if number is None:
            return None
        return next((cell for cell in self.shard(number).manifest.get("cells", []) if cell["index"] == index), None)

    def indices(self) -> tuple[int, int] | None:
        """Return the indices of the first and the last cell; None if there is no cell."""
        if self.shards:
            return self.shards[0]["first_index"], self.shards[-1]["first_index"] + self.shards[-1]["cells"] - 1
        found = [cell["index"] for cell in self.manifest.get("cells", [])]
        return (min(found), max(found)) if found else None

    def _shard_with(self, index: int) -> int | None:
        number = bisect.bisect_right(self._firsts, index) - 1
        if number < 0 or index >= self.shards[number]["first_index"] + self.shards[number]["cells"]:
            return None
        return number


def _check(entry: object, members: tuple[tuple[str, type], ...], *, required: bool) -> None:
    if not isinstance(entry, dict) or any(
        not isinstance(entry.get(member) if required else entry.get(member, kind()), kind) for member, kind in members
    ):
        raise ValueError("an entry of the manifest is malformed")
