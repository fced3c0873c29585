"""All files of a job as one zip archive, made while it is sent.

Promises: the same files give the same bytes on any machine at any time; the length is known before the first byte.
Does not promise: compression. Meshes shrink little, and the bytes must not depend on a compressor.
"""

from __future__ import annotations

import hashlib
import io
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from model.errors import ArtifactDamagedError


@dataclass(frozen=True)
class Entry:
    """One file on its way into an archive."""

    name: str
    path: Path
    size: int
    sha256: str | None = None  # what it must be; None: whatever it is

    @classmethod
    def of(cls, name: str, path: Path, *, sha256: str | None = None) -> Entry:
        """Look at the file's size."""
        return cls(name, path, path.stat().st_size, sha256)


class _Pipe(io.RawIOBase):
    """Where zipfile writes; what has gathered is taken out and sent. It cannot seek, so sizes follow the data."""

    def __init__(self) -> None:
        self._held = bytearray()

    def writable(self) -> bool:
        return True

    def write(self, data: Any, /) -> int:
        self._held += data
        return len(data)

    def take(self) -> bytes:
        data = bytes(self._held)
        self._held.clear()
        return data


def archive(entries: Sequence[Entry]) -> Iterator[bytes]:
    """Yield a zip archive; everything that could differ between two calls or machines (times, modes) is fixed.

    Raises
    ------
    ArtifactDamagedError
        If a file is not what its entry says. The archive then ends within that file, without its directory.
    """
    pipe = _Pipe()
    with zipfile.ZipFile(pipe, "w", zipfile.ZIP_STORED) as target:
        for entry in entries:
            with target.open(_header(entry), "w") as member, entry.path.open("rb") as source:
                sha256 = hashlib.sha256()
                while chunk := source.read(256 * 1024):
                    sha256.update(chunk)
                    member.write(chunk)
                    yield pipe.take()
            if entry.sha256 is not None and sha256.hexdigest() != entry.sha256:
                raise ArtifactDamagedError(f"the file {entry.name[:200]!r} is not what its manifest says")
    yield pipe.take()


def archive_length(entries: Sequence[Entry]) -> int:
    """Return the length of :func:`archive` without making it (APPNOTE 6.3.9 §4.3): headers depend on sizes only."""
    limit, position, directory = zipfile.ZIP64_LIMIT, 0, 0
    for entry in entries:
        name = len(entry.name.encode("utf-8"))
        large = entry.size * 1.05 > limit  # zipfile's own margin
        offset_large, size_large = position > limit, entry.size > limit
        position += 30 + name + 20 * large + entry.size + (24 if large else 16)
        fields = 2 * size_large + offset_large
        directory += 46 + name + (4 + 8 * fields if fields else 0)
    beyond = len(entries) > zipfile.ZIP_FILECOUNT_LIMIT or position > limit or directory > limit
    return position + directory + 22 + 76 * beyond


def _header(entry: Entry) -> zipfile.ZipInfo:
    header = zipfile.ZipInfo(entry.name, date_time=(1980, 1, 1, 0, 0, 0))
    header.create_system = 3  # Unix, wherever this runs
    header.external_attr = 0o644 << 16
    header.file_size = entry.size
    return header
