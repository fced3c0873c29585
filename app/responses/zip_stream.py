"""All files of a job as one zip archive, or a byte range of it, built while it is sent.

Promises: the same files give the same bytes on every machine at any time. The length is known before the first byte. A
range is built without reading the files before it.
Does not promise: compression. Meshes shrink little, and the bytes must not depend on the version of a compressor.

zipstream-ng 1.9 does not replace this module: it knows the length in advance, but writes modification times, so that
copies of the same files give different bytes, and it cannot start at a byte offset.
"""

from __future__ import annotations

import hashlib
import io
import struct
import zipfile
import zlib
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from worker.errors import ArtifactDamagedError
from worker.storage.artifacts import StoredFile

CHUNK = 256 * 1024


@dataclass(frozen=True)
class Entry:
    """One file of an archive."""

    name: str
    path: StoredFile
    size: int
    sha256: str | None = None  # the expected checksum; None: not checked

    @classmethod
    def of(cls, name: str, path: StoredFile, *, sha256: str | None = None) -> Entry:
        """Read the size of a file."""
        return cls(name, path, path.stat().st_size, sha256)

    def crc(self) -> int:
        """Return the CRC-32 of the content; computed again only if the file changes."""
        facts = self.path.stat()
        return _known_crc(self, facts.st_mtime_ns, facts.st_ino)


class _Pipe(io.RawIOBase):
    """A file object without seek, into which zipfile writes the directory that begins at ``position``."""

    def __init__(self, position: int) -> None:
        self._position = position
        self.held = bytearray()

    def writable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position + len(self.held)

    def write(self, data: Any, /) -> int:
        self.held += data
        return len(data)


def archive(entries: Sequence[Entry], *, first: int = 0, last: int | None = None) -> Iterator[bytes]:
    """Yield the bytes ``first`` to ``last``, inclusive, of a zip archive.

    Times and modes are fixed, so that two calls give the same bytes. Sizes and checksums follow the data of each file
    (APPNOTE 6.3.9 §4.3.9), so that sending starts before the file has been read to its end.

    Raises
    ------
    ArtifactDamagedError
        If a file differs from its entry. The archive then ends within that file, without its directory.
    """
    stop = archive_length(entries) if last is None else last + 1
    offset = 0
    offsets = []
    sums: dict[str, int] = {}  # CRC-32 of the files that are sent completely
    for entry in entries:
        offsets.append(offset)
        header = _header(entry).FileHeader(_needs_zip64(entry))
        yield from _cut(header, first - offset, stop - offset)
        offset += len(header)
        if first <= offset and offset + entry.size <= stop:
            sums[entry.name] = yield from _read_file(entry)
        elif first < offset + entry.size and offset < stop:
            entry.crc()  # a range does not show whether the file is damaged, so the whole file is checked
            yield from _read_range(entry, max(0, first - offset), min(entry.size, stop - offset))
        offset += entry.size
        length = 24 if _needs_zip64(entry) else 16
        if offset < stop and first < offset + length:
            crc = sums[entry.name] if entry.name in sums else entry.crc()
            yield from _cut(_descriptor(entry, crc), first - offset, stop - offset)
        offset += length
    if offset < stop:
        crcs = [sums[entry.name] if entry.name in sums else entry.crc() for entry in entries]
        directory = _directory(entries, crcs=crcs, offsets=offsets, position=offset)
        yield from _cut(directory, first - offset, stop - offset)


def archive_length(entries: Sequence[Entry]) -> int:
    """Return the length of :func:`archive` without building it; headers depend on sizes only (APPNOTE 6.3.9 §4.3)."""
    limit, position, directory = zipfile.ZIP64_LIMIT, 0, 0
    for entry in entries:
        name = len(entry.name.encode("utf-8"))
        offset_large, size_large = position > limit, entry.size > limit
        large = _needs_zip64(entry)
        position += 30 + name + 20 * large + entry.size + (24 if large else 16)
        fields = 2 * size_large + offset_large
        directory += 46 + name + (4 + 8 * fields if fields else 0)
    beyond = len(entries) > zipfile.ZIP_FILECOUNT_LIMIT or position > limit or directory > limit
    return position + directory + 22 + 76 * beyond


def _cut(data: bytes, first: int, stop: int) -> Iterator[bytes]:
    part = data[max(0, first) : max(0, stop)]
    if part:
        yield part


def _read_file(entry: Entry) -> Generator[bytes, None, int]:
    """Yield a file and return its CRC-32; raises ``ArtifactDamagedError`` at its end if it differs from its entry."""
    sha256, crc, size = hashlib.sha256(), 0, 0
    with entry.path.open("rb") as source:
        while chunk := source.read(CHUNK):
            sha256.update(chunk)
            crc = zlib.crc32(chunk, crc)
            size += len(chunk)
            yield chunk
    if size != entry.size or entry.sha256 not in (None, sha256.hexdigest()):
        raise ArtifactDamagedError(f"the file {entry.name[:200]!r} is not what its manifest says")
    return crc


def _read_range(entry: Entry, first: int, stop: int) -> Iterator[bytes]:
    with entry.path.open("rb") as source:
        source.seek(first)
        while first < stop and (chunk := source.read(min(CHUNK, stop - first))):
            first += len(chunk)
            yield chunk


def _needs_zip64(entry: Entry) -> bool:
    return entry.size * 1.05 > zipfile.ZIP64_LIMIT  # zipfile's own margin


def _descriptor(entry: Entry, crc: int) -> bytes:
    form = "<4sLQQ" if _needs_zip64(entry) else "<4sLLL"
    return struct.pack(form, b"PK\x07\x08", crc, entry.size, entry.size)


def _directory(entries: Sequence[Entry], *, crcs: Sequence[int], offsets: Sequence[int], position: int) -> bytes:
    pipe = _Pipe(position)
    with zipfile.ZipFile(pipe, "w", zipfile.ZIP_STORED) as target:
        for entry, crc, offset in zip(entries, crcs, offsets, strict=True):
            header = _header(entry)
            header.FileHeader(_needs_zip64(entry))  # sets the version that is needed to read it
            header.header_offset = offset
            header.CRC = crc
            header.file_size = header.compress_size = entry.size
            target.filelist.append(header)
        target.start_dir = position
    return bytes(pipe.held)


def _header(entry: Entry) -> zipfile.ZipInfo:
    header = zipfile.ZipInfo(entry.name, date_time=(1980, 1, 1, 0, 0, 0))
    header.create_system = 3  # Unix, wherever this runs
    header.external_attr = 0o644 << 16
    header.file_size = entry.size
    header.flag_bits = 0x08  # sizes and CRC follow the data
    return header


@lru_cache(maxsize=100_000)
def _known_crc(entry: Entry, _changed: int, _inode: int) -> int:
    crc = _read_file(entry)
    while True:
        try:
            next(crc)
        except StopIteration as end:
            return int(end.value)
