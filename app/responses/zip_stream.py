"""All files of a job as one zip archive, or a byte range of it, built while it is sent.

Promises: the same files give the same bytes on every machine at any time. The length is known before the first byte. A
range is built without reading the files before it. The list of files is gone through and never held: memory is 13 bytes
a file, and that of the directory a thousand files at a time.
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
from array import array
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import islice
from typing import Any

from worker.errors import ArtifactDamagedError
from worker.storage.artifacts import StoredFile

CHUNK = 256 * 1024
AT_ONCE = 1000  # files whose part of the directory is built together
END_BYTES, END_64_BYTES = 22, 76  # of the records at the end, and of those that a large archive has besides


@dataclass(frozen=True)
class Entry:
    """One file of an archive.

    Parameters
    ----------
    name, size
        As they are in the archive.
    sha256
        The expected checksum; None: not checked.
    find
        Returns where the file lies; called when it is read.
    """

    name: str
    size: int
    sha256: str | None
    find: Callable[[], StoredFile] = field(compare=False, repr=False)

    @classmethod
    def of(cls, name: str, path: StoredFile, *, sha256: str | None = None) -> Entry:
        """Read the size of a file."""
        return cls(name, path.stat().st_size, sha256, lambda: path)

    def crc(self) -> int:
        """Return the CRC-32 of the content; computed again only if the file changes."""
        path = self.find()
        facts = path.stat()
        return _known_crc(self, path, facts.st_mtime_ns, facts.st_ino)


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


def archive(entries: Iterable[Entry], *, first: int = 0, last: int | None = None) -> Iterator[bytes]:
    """Yield the bytes ``first`` to ``last``, inclusive, of a zip archive.

    ``entries`` is gone through two or three times. Times and modes are fixed, so that two calls give the same bytes.
    Sizes and checksums follow the data of each file (APPNOTE 6.3.9 §4.3.9), so that sending starts before the file has
    been read to its end.

    Raises
    ------
    ArtifactDamagedError
        If a file differs from its entry. The archive then ends within that file, without its directory.
    """
    stop = archive_length(entries) if last is None else last + 1
    offset = 0
    crcs, known = array("Q"), bytearray()  # CRC-32 of the files, and whether it was computed
    for entry in entries:
        crc: int | None = None
        header = _header(entry).FileHeader(_needs_zip64(entry))
        yield from _cut(header, first - offset, stop - offset)
        offset += len(header)
        if first <= offset and offset + entry.size <= stop:
            crc = yield from _read_file(entry)
        elif first < offset + entry.size and offset < stop:
            crc = entry.crc()  # a range does not show whether the file is damaged, so the whole file is checked
            yield from _read_range(entry, max(0, first - offset), min(entry.size, stop - offset))
        offset += entry.size
        length = 24 if _needs_zip64(entry) else 16
        if offset < stop and first < offset + length:
            crc = entry.crc() if crc is None else crc
            yield from _cut(_descriptor(entry, crc), first - offset, stop - offset)
        offset += length
        if offset >= stop:
            return
        crcs.append(crc or 0)
        known.append(crc is not None)
    for piece in _directory(entries, crcs=crcs, known=known, position=offset):
        yield from _cut(piece, first - offset, stop - offset)
        offset += len(piece)


def archive_length(entries: Iterable[Entry]) -> int:
    """Return the length of :func:`archive` without building it; headers depend on sizes only (APPNOTE 6.3.9 §4.3)."""
    limit, position, directory, count = zipfile.ZIP64_LIMIT, 0, 0, 0
    for entry in entries:
        count += 1
        name = len(entry.name.encode("utf-8"))
        offset_large, size_large = position > limit, entry.size > limit
        large = _needs_zip64(entry)
        position += 30 + name + 20 * large + entry.size + (24 if large else 16)
        fields = 2 * size_large + offset_large
        directory += 46 + name + (4 + 8 * fields if fields else 0)
    beyond = count > zipfile.ZIP_FILECOUNT_LIMIT or position > limit or directory > limit
    return position + directory + END_BYTES + END_64_BYTES * beyond


def _cut(data: bytes, first: int, stop: int) -> Iterator[bytes]:
    part = data[max(0, first) : max(0, stop)]
    if part:
        yield part


def _read_file(entry: Entry) -> Generator[bytes, None, int]:
    """Yield a file and return its CRC-32; raises ``ArtifactDamagedError`` at its end if it differs from its entry."""
    sha256, crc, size = hashlib.sha256(), 0, 0
    with entry.find().open("rb") as source:
        while chunk := source.read(CHUNK):
            sha256.update(chunk)
            crc = zlib.crc32(chunk, crc)
            size += len(chunk)
            yield chunk
    if size != entry.size or entry.sha256 not in (None, sha256.hexdigest()):
        raise ArtifactDamagedError(f"the file {entry.name[:200]!r} is not what its manifest says")
    return crc


def _read_range(entry: Entry, first: int, stop: int) -> Iterator[bytes]:
    with entry.find().open("rb") as source:
        source.seek(first)
        while first < stop and (chunk := source.read(min(CHUNK, stop - first))):
            first += len(chunk)
            yield chunk


def _needs_zip64(entry: Entry) -> bool:
    return entry.size * 1.05 > zipfile.ZIP64_LIMIT  # zipfile's own margin


def _descriptor(entry: Entry, crc: int) -> bytes:
    form = "<4sLQQ" if _needs_zip64(entry) else "<4sLLL"
    return struct.pack(form, b"PK\x07\x08", crc, entry.size, entry.size)


def _directory(entries: Iterable[Entry], *, crcs: array[int], known: bytearray, position: int) -> Iterator[bytes]:
    """Yield the central directory, which begins at ``position``, in pieces."""
    offset, at, count, remaining = 0, position, 0, iter(entries)
    while some := list(islice(remaining, AT_ONCE)):
        pipe = _Pipe(at)
        with zipfile.ZipFile(pipe, "w", zipfile.ZIP_STORED) as target:
            for entry in some:
                header = _header(entry)
                length = len(header.FileHeader(_needs_zip64(entry)))  # sets the version that is needed to read it
                header.header_offset = offset
                header.CRC = crcs[count] if known[count] else entry.crc()
                header.file_size = header.compress_size = entry.size
                target.filelist.append(header)
                offset += length + entry.size + (24 if _needs_zip64(entry) else 16)
                count += 1
            target.start_dir = at
        # It ends with the records of an archive of these files alone.
        piece = bytes(pipe.held[: -(END_BYTES + (END_64_BYTES if at > zipfile.ZIP64_LIMIT else 0))])
        yield piece
        at += len(piece)
    yield _end(count, size=at - position, position=position)


def _end(count: int, *, size: int, position: int) -> bytes:
    """Return the records at the end of an archive (APPNOTE 6.3.9 §4.3.14 to §4.3.16)."""
    limit, further = zipfile.ZIP64_LIMIT, b""
    if count > zipfile.ZIP_FILECOUNT_LIMIT or position > limit or size > limit:
        at = position + size
        further = struct.pack("<4sQ2H2L4Q", b"PK\x06\x06", 44, 45, 45, 0, 0, count, count, size, position)
        further += struct.pack("<4sLQL", b"PK\x06\x07", 0, at, 1)
        count, size, position = min(count, 0xFFFF), min(size, 0xFFFFFFFF), min(position, 0xFFFFFFFF)
    return further + struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, count, count, size, position, 0)


def _header(entry: Entry) -> zipfile.ZipInfo:
    header = zipfile.ZipInfo(entry.name, date_time=(1980, 1, 1, 0, 0, 0))
    header.create_system = 3  # Unix, wherever this runs
    header.external_attr = 0o644 << 16
    header.file_size = entry.size
    header.flag_bits = 0x08  # sizes and CRC follow the data
    return header


@lru_cache(maxsize=100_000)
def _known_crc(entry: Entry, _path: StoredFile, _changed: int, _inode: int) -> int:
    crc = _read_file(entry)
    while True:
        try:
            next(crc)
        except StopIteration as end:
            return int(end.value)
