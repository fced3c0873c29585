"""What a manifest says about the files of a job."""

from __future__ import annotations

import bisect
import hashlib
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import quote

from cytosynth.errors import DamagedFileError

MANIFEST = "manifest.json"


@dataclass(frozen=True, kw_only=True)
class RemoteFile:
    """One file of a job.

    Parameters
    ----------
    name
        Relative to the folder of the result, with slashes, such as ``cell_0000/labels.tif``.
    bytes
        Its size.
    sha256
        Its checksum, 64 hexadecimal digits.
    media_type
        Its type.
    href
        Where it is downloaded.
    """

    name: str
    bytes: int
    sha256: str
    media_type: str
    href: str


class Manifest:
    """The manifest of a result; where it cannot list all cells, those of its shards do, which are read as needed.

    Parameters
    ----------
    document
        ``manifest.json``.
    read
        Returns the content of one file of the result, such as ``manifests/000012.json``; it is compared here.
    below
        Address of the list of files; each file is below it.
    """

    def __init__(self, document: dict[str, Any], read: Callable[[RemoteFile], bytes], *, below: str = "") -> None:
        self.document, self._read, self._below = document, read, below
        self.shards: list[dict[str, Any]] = document.get("shards", []) if "files" not in document else []
        self._firsts = [shard["first_index"] for shard in self.shards]
        self._last: tuple[int, Manifest] | None = None

    @property
    def bytes(self) -> int:
        """Size of all files together."""
        if self.shards:
            return sum(int(shard["bytes"]) + int(shard["bytes_of_files"]) for shard in self.shards)
        return sum(int(entry["bytes"]) for entry in self.document["files"])

    def files(self) -> Iterator[RemoteFile]:
        """Yield the files; those of a shard after its manifest.

        Raises
        ------
        DamagedFileError
            If a name leads outside the folder of the result, or the manifest of a shard differs from the root manifest.
        """
        if not self.shards:
            yield from (_remote(entry, self._below) for entry in self.document["files"])
        for number, shard in enumerate(self.shards):
            yield _remote(shard, self._below)
            yield from self._shard(number).files()

    def files_of_cell(self, cell: int) -> list[RemoteFile]:
        """Return the files of a cell, by its index; raises as :meth:`files`."""
        folder = f"cell_{cell:04d}/"
        if not self.shards:
            return [file for file in self.files() if file.name.startswith(folder)]
        number = bisect.bisect_right(self._firsts, cell) - 1
        return self._shard(number).files_of_cell(cell) if number >= 0 else []

    def file(self, name: str) -> RemoteFile:
        """Return one file by its name; raises ``KeyError``, or as :meth:`files`."""
        found = re.match(r"cell_(\d+)/", name)
        near = self.files_of_cell(int(found[1])) if self.shards and found else self.files()
        for file in near:
            if file.name == name:
                return file
        raise KeyError(name)

    def cells(self) -> Iterator[dict[str, Any]]:
        """Yield what is said of each cell: its code, its tracks, its frames; raises as :meth:`files`."""
        yield from self.document.get("cells", [])
        for number in range(len(self.shards)):
            yield from self._shard(number).cells()

    def cell(self, position: int) -> dict[str, Any]:
        """Return what is said of a cell, counted from 0; raises ``IndexError``, or as :meth:`files`."""
        if not self.shards:
            return dict(self.document["cells"][position])
        number = bisect.bisect_right(self._firsts, self._firsts[0] + position) - 1
        return self._shard(number).cell(self._firsts[0] + position - self._firsts[number])

    def _shard(self, number: int) -> Manifest:
        if self._last is None or self._last[0] != number:
            file = _remote(self.shards[number], self._below)
            content = self._read(file)
            if hashlib.sha256(content).hexdigest() != file.sha256:
                raise DamagedFileError(f"{file.name} differs from the root manifest")
            self._last = number, Manifest(json.loads(content), self._read, below=self._below)
        return self._last[1]


def read_manifest(folder: Path) -> Manifest:
    """Read the manifest of a downloaded result; raises ``OSError`` or ``ValueError``."""
    return Manifest(
        json.loads((folder / MANIFEST).read_bytes()), lambda file: folder.joinpath(*file.name.split("/")).read_bytes()
    )


def _remote(entry: dict[str, Any], below: str) -> RemoteFile:
    name = PurePosixPath(entry["name"])
    if name.is_absolute() or not name.parts or ".." in name.parts or "\\" in entry["name"]:
        raise DamagedFileError(f"the service names a file outside the folder: {entry['name']!r}")
    return RemoteFile(
        name=entry["name"],
        bytes=int(entry["bytes"]),
        sha256=entry["sha256"],
        media_type=entry.get("media_type", ""),
        href=f"{below}/{quote(entry['name'])}",
    )
