"""Strict readers of zip and tar: which files an archive holds, and their bytes.

Promises: every bound is checked before a byte is unpacked: entries, bytes in all and of one file, the ratio of unpacked
to packed bytes. No two entries share bytes of the archive, and directory and local headers say the same. No memory
grows with a number that the archive merely declares. A file has a name that is a plain relative path, different from
all others also where capitals do not count.
Does not promise: to read archives of several volumes, encrypted ones, links, devices, sparse files, or other
compressions than deflate.

Formats: .ZIP File Format Specification 6.3.10 (PKWARE, 2022); pax, POSIX.1-2017; ustar and GNU tar 1.35; gzip, RFC
1952.
"""

from __future__ import annotations

import os
import re
import struct
import unicodedata
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

from model.errors import UploadError

ENTRIES_MAX = 4096  # files and folders
FILES_MAX = 2000
UNPACKED_MAX = 2**31  # bytes of all files
MEMBER_MAX = 2**28  # bytes of one file
RATIO_MAX = 1100  # unpacked over packed bytes; deflate reaches 1032
PATH_MAX, NAME_MAX, DEPTH_MAX = 200, 100, 8  # characters, characters of one part, parts
DIRECTORY_MAX = 4 * 2**20  # bytes of a zip's central directory
PAX_MAX = 65_536  # bytes of one extended header
PIECE = 2**20
_NESTED = re.compile(r"\.(?:zip|tar|tgz|gz|bz2|xz|zst|7z|rar|lz4|lzma|jar|cab|iso|tbz2?|txz)$", re.IGNORECASE)
_BLOCK = 512
_END = struct.Struct("<4s4H2IH")
_CENTRAL = struct.Struct("<4s6H3I5H2I")
_LOCAL = struct.Struct("<4s5H3I2H")
_PAX_IGNORED = re.compile(
    r"mtime|atime|ctime|uid|gid|uname|gname|comment|charset|(?:LIBARCHIVE|SCHILY)\.[A-Za-z0-9_.:%/=+-]*"
)
Bytes = Callable[[], bytes]


@dataclass(frozen=True)
class Member:
    """One file of an archive: its path, its bytes unpacked, and how to get them."""

    path: str
    size: int
    read: Bytes


class Paths:
    """Checks the paths of one archive or folder, one after another."""

    def __init__(self) -> None:
        self._known: dict[str, bool] = {}  # folded path → whether it is a folder

    def add(self, path: str, *, is_folder: bool) -> str:
        """Return a path as it is used.

        Raises
        ------
        UploadError
            If it leads elsewhere, is not plain, or was there before.
        """
        plain = plain_path(path)
        parts = plain.casefold().split("/")
        for end in range(1, len(parts)):
            if not self._known.setdefault("/".join(parts[:end]), True):
                raise UploadError(f"{shown(plain)} lies in another file of the archive")
        key = "/".join(parts)
        if key in self._known and not (is_folder and self._known[key]):
            raise UploadError(f"two entries of the archive have the name {shown(plain)}")
        self._known[key] = is_folder
        return plain


def plain_path(path: str) -> str:
    """Return a path without ``./`` before and ``/`` after it, if it is a plain relative one; raises ``UploadError``."""
    while path.startswith("./"):
        path = path[2:]
    path = path.removesuffix("/")
    parts = path.split("/")
    if not path or len(path) > PATH_MAX or len(parts) > DEPTH_MAX or max(map(len, parts)) > NAME_MAX:
        raise UploadError(
            f"a path is empty or too long ({shown(path)}); at most {PATH_MAX} characters, {NAME_MAX} a part, "
            f"{DEPTH_MAX} parts are allowed"
        )
    if path.startswith("/") or "\\" in path or ":" in path or any(part in ("", ".", "..") for part in parts):
        raise UploadError(f"the path {shown(path)} is not relative and plain")
    if any(unicodedata.category(letter)[0] in "CZ" and letter != " " for letter in path):
        raise UploadError(f"the path {shown(path)} holds letters that cannot be printed")
    if any(part != part.strip() or part.endswith(".") for part in parts):
        raise UploadError(f"a part of the path {shown(path)} begins or ends with a space, or ends with a point")
    return unicodedata.normalize("NFC", path)


def shown(path: str) -> str:
    """Return a path for a message: short, and in letters of ASCII."""
    text = path if len(path) <= 60 else f"{path[:57]}..."
    return ascii(text)


def read_archive(descriptor: int, kind: str, *, names_only: bool = False) -> Iterator[Member]:
    """Yield the files of an archive of kind ``zip``, ``tar`` or ``tgz``.

    The bytes of a member are to be read before the next is asked for; with ``names_only`` they are not to be read.

    Raises
    ------
    UploadError
        If it is damaged, or holds what is not allowed.
    """
    size = os.fstat(descriptor).st_size
    archive: _Zip | _Tar
    if kind == "zip":
        archive = _Zip(descriptor, size)
    else:
        archive = _Tar(descriptor, size) if kind == "tar" else _GzipTar(descriptor, size, keeps=not names_only)
    yield from archive.members()


class _Budget:
    """Counts what an archive unpacks to."""

    def __init__(self, packed: int) -> None:
        self._packed, self._unpacked, self._entries, self._files = packed, 0, 0, 0
        self._paths = Paths()

    def entry(self, path: str, size: int, *, is_folder: bool) -> str:
        """Count an entry; return its path."""
        self._entries += 1
        self._files += not is_folder
        if self._entries > ENTRIES_MAX or self._files > FILES_MAX:
            raise UploadError(f"the archive has more than {FILES_MAX} files, or {ENTRIES_MAX} entries")
        if is_folder and re.fullmatch(r"(?:\./)+|\.", path) and not size:
            return ""  # the folder that was packed
        path = self._paths.add(path, is_folder=is_folder)
        if is_folder:
            if size:
                raise UploadError(f"the folder {shown(path)} has {size} bytes")
            return path
        if _NESTED.search(path):
            raise UploadError(f"{shown(path)} is an archive in the archive; send its files themselves")
        if size > MEMBER_MAX:
            raise UploadError(f"{shown(path)} has {size:,} bytes; a file of an archive has at most {MEMBER_MAX:,}")
        self._unpacked += size
        if self._unpacked > UNPACKED_MAX:
            raise UploadError(f"the archive unpacks to more than {UNPACKED_MAX:,} bytes")
        if self._unpacked > RATIO_MAX * self._packed:
            raise UploadError(f"the archive unpacks to more than {RATIO_MAX} times its size")
        return path


class _Zip:
    """The entries of a zip by its central directory, each held against its local header."""

    def __init__(self, descriptor: int, size: int) -> None:
        self._descriptor, self._size, self._budget = descriptor, size, _Budget(size)

    def members(self) -> Iterator[Member]:
        directory, count, first = self._directory()
        place, ranges = 0, []
        found: list[tuple[Member, bool]] = []
        for _ in range(count):
            member, is_folder, span, length = self._entry(directory, place)
            place += length
            ranges.append(span)
            found.append((member, is_folder))
        if place != len(directory):
            raise UploadError("the directory of the zip holds more than its entries")
        end = 0
        for start, stop in sorted(ranges):
            if start != end:
                raise UploadError("entries of the zip share bytes, or bytes lie between them")
            end = stop
        if end != first:
            raise UploadError("bytes lie between the entries of the zip and its directory")
        yield from (member for member, is_folder in found if not is_folder)

    def _directory(self) -> tuple[bytes, int, int]:
        """Return the central directory, the number of its entries, and its offset."""
        if self._size < _END.size:
            raise UploadError("the file does not end as a zip does")
        tail = self._read(self._size - _END.size, _END.size)
        mark, disk, first, on_disk, total, length, offset, comment = _END.unpack(tail)
        if mark != b"PK\5\6" or comment:
            raise UploadError("the file does not end as a zip without a comment does")
        if disk or first or on_disk != total:
            raise UploadError("the zip has several volumes")
        end = self._size - _END.size
        if 0xFFFF in (total, on_disk) or 0xFFFFFFFF in (length, offset):
            total, length, offset, end = self._zip64(end, total, length, offset)
        if total > ENTRIES_MAX or length > DIRECTORY_MAX:
            raise UploadError(f"the zip has {total:,} entries; at most {ENTRIES_MAX:,} are allowed")
        if offset + length != end:
            raise UploadError("the directory of the zip is not where its end says")
        return self._read(offset, length), total, offset

    def _zip64(self, end: int, total: int, length: int, offset: int) -> tuple[int, int, int, int]:
        place = end - 20
        if place < 56:
            raise UploadError("the zip is cut off")
        mark, disk, at, disks = struct.unpack("<4sIQI", self._read(place, 20))
        if mark != b"PK\6\7" or disk or disks != 1 or at + 56 != place:
            raise UploadError("the zip64 end of the file is damaged")
        mark, size, _, _, here, start, on_disk, entries, bytes_, first = struct.unpack("<4sQ2H2I4Q", self._read(at, 56))
        if mark != b"PK\6\6" or size != 44 or here or start or on_disk != entries:
            raise UploadError("the zip64 end of the file is damaged")
        small = ((total, 0xFFFF, entries), (length, 0xFFFFFFFF, bytes_), (offset, 0xFFFFFFFF, first))
        if any(short not in (mark_, long) for short, mark_, long in small):
            raise UploadError("the two ends of the zip contradict each other")
        return entries, bytes_, first, at

    def _entry(self, directory: bytes, place: int) -> tuple[Member, bool, tuple[int, int], int]:
        """Return an entry, whether it is a folder, the bytes of the zip that are its own, and its length here."""
        if place + _CENTRAL.size > len(directory):
            raise UploadError("the directory of the zip is cut off")
        (mark, made, _, flags, method, _, _, crc, packed, size, name_length, extra_length, comment, disk, _, mode,
         offset) = _CENTRAL.unpack_from(directory, place)  # fmt: skip
        length = _CENTRAL.size + name_length + extra_length + comment
        if mark != b"PK\1\2" or place + length > len(directory):
            raise UploadError("the directory of the zip is damaged")
        raw = directory[place + _CENTRAL.size : place + _CENTRAL.size + name_length]
        extra = directory[place + _CENTRAL.size + name_length :][:extra_length]
        size, packed, offset, disk = _wide(extra, size, packed, offset, disk)
        if disk:
            raise UploadError("the zip has several volumes")
        path = _decoded(raw, flags)
        if flags & ~(0x0008 | 0x0800 | 0x0006):
            raise UploadError(f"{shown(path)} is encrypted or patched")
        if method not in (0, 8):
            raise UploadError(f"{shown(path)} is compressed by method {method}; stored and deflate are allowed")
        kind = mode >> 28 if made >> 8 == 3 else 0  # Unix
        if kind not in (0, 0o10, 0o4):
            raise UploadError(f"{shown(path)} is a link or a device")
        is_folder = path.endswith("/")
        if (kind == 0o4) is not is_folder and kind:
            raise UploadError(f"{shown(path)} is a file and a folder")
        if method == 0 and packed != size:
            raise UploadError(f"{shown(path)} is stored, but in {packed} bytes instead of {size}")
        plain = self._budget.entry(path, size, is_folder=is_folder)
        if size > RATIO_MAX * packed:
            raise UploadError(f"{shown(path)} unpacks to more than {RATIO_MAX} times its size")
        start, end = self._local(offset, raw, flags, method, (crc, packed, size))
        member = Member(plain, size, partial(self._unpacked, plain, start, method, (crc, packed, size)))
        return member, is_folder, (offset, end), length

    def _local(self, offset: int, raw: bytes, flags: int, method: int, facts: tuple[int, int, int]) -> tuple[int, int]:
        """Hold a local header against the directory; return where the packed bytes begin and what follows them."""
        head = self._read(offset, _LOCAL.size)
        mark, _, flags_, method_, _, _, crc, packed, size, name_length, extra_length = _LOCAL.unpack(head)
        rest = self._read(offset + _LOCAL.size, name_length + extra_length)
        start = offset + _LOCAL.size + name_length + extra_length
        if mark != b"PK\3\4" or (rest[:name_length], flags_, method_) != (raw, flags, method):
            raise UploadError("an entry of the zip contradicts its directory")
        size, packed, _, _ = _wide(rest[name_length:], size, packed, 0, 0)
        end = start + facts[1]
        if end > self._size:
            raise UploadError("an entry of the zip reaches behind the end of the file")
        if not flags & 0x0008:
            if (crc, packed, size) != facts:
                raise UploadError("an entry of the zip contradicts its directory")
            return start, end
        # What was streamed has zeros here, and the facts behind the bytes, marked or not, in 32 or 64 bits.
        if (crc, packed, size) not in ((0, 0, 0), facts):
            raise UploadError("an entry of the zip contradicts its directory")
        behind = self._read(end, min(24, self._size - end))
        for mark_ in (b"PK\7\x08", b""):
            for code in ("<III", "<IQQ"):
                if behind.startswith(mark_ + struct.pack(code, *_fitting(facts, code))):
                    return start, end + len(mark_) + struct.calcsize(code)
        raise UploadError("an entry of the zip contradicts its directory")

    def _unpacked(self, path: str, start: int, method: int, facts: tuple[int, int, int]) -> bytes:
        crc, packed, size = facts
        if method == 0:
            content = self._read(start, size)
        else:
            stream = zlib.decompressobj(-15)
            content = _inflated(stream, self._pieces(start, packed), size, path)
            if not stream.eof or stream.unused_data:
                raise UploadError(f"{shown(path)} is damaged: its compressed bytes end elsewhere")
        if zlib.crc32(content) != crc:
            raise UploadError(f"{shown(path)} is damaged: its checksum is wrong")
        return content

    def _pieces(self, start: int, length: int) -> Iterator[bytes]:
        for place in range(start, start + length, PIECE):
            yield self._read(place, min(PIECE, start + length - place))

    def _read(self, offset: int, length: int) -> bytes:
        if offset < 0 or offset + length > self._size:
            raise UploadError("the zip is cut off, or points behind its own end")
        return _read_at(self._descriptor, offset, length)


def _fitting(facts: tuple[int, int, int], code: str) -> tuple[int, int, int]:
    """Return facts that a struct can hold; those that do not fit match nothing that is allowed."""
    return facts if code == "<IQQ" or max(facts) < 2**32 else (0, 0, 0)


def _wide(extra: bytes, size: int, packed: int, offset: int, disk: int) -> tuple[int, int, int, int]:
    """Replace what is marked as too wide by what the zip64 field of an entry says."""
    wide: bytes | None = None
    place = 0
    while place + 4 <= len(extra):
        kind, length = struct.unpack_from("<HH", extra, place)
        if place + 4 + length > len(extra):
            break
        if kind == 1:
            if wide is not None:
                raise UploadError("an entry of the zip has two zip64 fields")
            wide = extra[place + 4 : place + 4 + length]
        elif kind == 0x7075:
            raise UploadError("an entry of the zip has two names")
        place += 4 + length
    values = [size, packed, offset]
    for number, value in enumerate(values):
        if value == 0xFFFFFFFF:
            if wide is None or len(wide) < 8:
                raise UploadError("an entry of the zip lacks its zip64 field")
            values[number], wide = int.from_bytes(wide[:8], "little"), wide[8:]
    if disk == 0xFFFF:
        disk = int.from_bytes((wide or b"")[:4], "little")
    return values[0], values[1], values[2], disk


def _decoded(raw: bytes, flags: int) -> str:
    """Return a name; one that is not ASCII must be marked as UTF-8, or be it."""
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError:
        raise UploadError(
            "the name of an entry is neither ASCII nor UTF-8; pack the archive with UTF-8 names"
        ) from None
    if "\0" in text:
        raise UploadError("the name of an entry holds a zero byte")
    return text


class _Tar:
    """The entries of a tar, one after another."""

    def __init__(self, descriptor: int, size: int) -> None:
        self._descriptor, self._size, self._budget, self._at = descriptor, size, _Budget(size), 0

    def members(self) -> Iterator[Member]:
        path: str | None = None  # from an extended header
        extended = 0
        while True:
            head = self._take(_BLOCK)
            if not head.strip(b"\0"):
                break
            kind, size, name = _tar_header(head)
            if kind in (b"x", b"L", b"g"):
                extended += 1
                if extended > 2:
                    raise UploadError("an entry of the tar has more than two extended headers")
                if size > PAX_MAX:
                    raise UploadError(f"an extended header of the tar has {size:,} bytes")
                content = self._content(size)
                found = _long_name(content) if kind == b"L" else _pax_path(content)
                path = found if found is not None and kind != b"g" else path
                continue
            name, path, extended = path if path is not None else name, None, 0
            if kind not in (b"0", b"\0", b"5"):
                what = {
                    b"1": "a link",
                    b"2": "a link",
                    b"3": "a device",
                    b"4": "a device",
                    b"6": "a pipe",
                    b"S": "sparse",
                }
                raise UploadError(f"{shown(name)} is {what.get(kind, 'of a kind that is not allowed')}")
            is_folder = kind == b"5" or name.endswith("/")
            plain = self._budget.entry(name, size, is_folder=is_folder)
            if is_folder:
                continue
            yield Member(plain, size, self._reader(size))
        self._check_end()

    def _reader(self, size: int) -> Bytes:
        """Go past a file; return what reads it."""
        start = self._at
        if start + size > self._size:
            raise UploadError("the tar is cut off")
        self._at += size
        self._take(-size % _BLOCK)
        return partial(_read_at, self._descriptor, start, size)

    def _content(self, size: int) -> bytes:
        content = self._take(size)
        self._take(-size % _BLOCK)
        return content

    def _take(self, length: int) -> bytes:
        if self._at + length > self._size:
            raise UploadError("the tar is cut off")
        self._at += length
        return _read_at(self._descriptor, self._at - length, length)

    def _check_end(self) -> None:
        rest = self._size - self._at
        if rest > 2**20 or self._take(rest).strip(b"\0"):
            raise UploadError("something lies behind the end of the tar")


class _GzipTar(_Tar):
    """The entries of a tar that is unpacked as it is read."""

    def __init__(self, descriptor: int, size: int, *, keeps: bool) -> None:
        super().__init__(descriptor, size)
        self._keeps = keeps  # the bytes of files, or only what lies between them
        self._stream = zlib.decompressobj(31)
        self._ready = bytearray()
        self._packed_at = 0
        self._made = 0

    def _reader(self, size: int) -> Bytes:
        if self._keeps:
            return partial(bytes, self._content(size))
        left = size + -size % _BLOCK
        while left:
            left -= len(self._take(min(left, PIECE)))
        return bytes

    def _take(self, length: int) -> bytes:
        while len(self._ready) < length:
            piece = self._piece()
            if not piece:
                raise UploadError("the tar is cut off")
            self._ready += piece
        part = bytes(self._ready[:length])
        del self._ready[:length]
        return part

    def _piece(self) -> bytes:
        """Return the next unpacked bytes, at most a piece; empty at the end."""
        while not self._stream.eof:
            packed = self._stream.unconsumed_tail
            if not packed:
                length = min(PIECE, self._size - self._packed_at)
                if not length:
                    raise UploadError("the archive is cut off")
                packed = _read_at(self._descriptor, self._packed_at, length)
                self._packed_at += length
            piece = self._stream.decompress(packed, PIECE)
            self._made += len(piece)
            if self._made > UNPACKED_MAX + 2 * _BLOCK * ENTRIES_MAX or self._made > RATIO_MAX * self._size + PIECE:
                raise UploadError(
                    f"the archive unpacks to more than {UNPACKED_MAX:,} bytes, or {RATIO_MAX} times its size"
                )
            if piece:
                return piece
        return b""

    def _check_end(self) -> None:
        rest = len(self._ready)
        if self._ready.strip(b"\0"):
            raise UploadError("something lies behind the end of the tar")
        while piece := self._piece():
            rest += len(piece)
            if rest > 2**20 or piece.strip(b"\0"):
                raise UploadError("something lies behind the end of the tar")
        if self._stream.unused_data or self._packed_at != self._size:
            raise UploadError("something lies behind the end of the compressed bytes")


def _tar_header(head: bytes) -> tuple[bytes, int, str]:
    """Return type, size and name of a header whose checksum is right."""
    unsigned = sum(head[:148]) + 8 * 32 + sum(head[156:])
    if _octal(head[148:156]) != unsigned:
        raise UploadError("the file is no tar, or damaged: the checksum of a header is wrong")
    name = _text(head[:100])
    if head[257:263] == b"ustar\0" and (prefix := _text(head[345:500])):
        name = f"{prefix}/{name}"
    return head[156:157], _octal(head[124:136]), name


def _octal(field: bytes) -> int:
    text = field.rstrip(b"\0 ").lstrip(b" ")
    if not re.fullmatch(rb"[0-7]{1,12}", text):
        raise UploadError("a number in the tar is not octal, or larger than is allowed")
    return int(text, 8)


def _text(field: bytes) -> str:
    raw, _, rest = field.partition(b"\0")
    if rest.strip(b"\0"):
        raise UploadError("a name in the tar has something behind its end")
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        raise UploadError("a name in the tar is neither ASCII nor UTF-8") from None


def _long_name(content: bytes) -> str:
    return _text(content)


def _pax_path(content: bytes) -> str | None:
    """Return the path of an extended header, if it has one; refuse what changes more than that."""
    path: str | None = None
    place = 0
    while place < len(content):
        match = re.compile(rb"([1-9][0-9]{0,5}) ").match(content, place)
        if match is None or place + int(match[1]) > len(content) or content[place + int(match[1]) - 1 :][:1] != b"\n":
            raise UploadError("an extended header of the tar is damaged")
        record = content[match.end() : place + int(match[1]) - 1]
        place += int(match[1])
        key, equals, value = record.partition(b"=")
        word = key.decode("ascii", "replace")
        if not equals or not (word == "path" or _PAX_IGNORED.fullmatch(word)):
            raise UploadError(f"an extended header of the tar has the key {shown(word)}")
        if word == "path":
            if path is not None:
                raise UploadError("an extended header of the tar has two paths")
            path = _text(value)
    return path


def _inflated(stream: zlib._Decompress, pieces: Iterator[bytes], size: int, path: str) -> bytes:
    """Return exactly ``size`` unpacked bytes; one more is unpacked at most."""
    content = bytearray()
    for piece in pieces:
        filled = True
        while piece or filled:  # zlib may have taken all of a piece and still hold bytes of it
            most = min(PIECE, size + 1 - len(content))
            part = stream.decompress(piece, most)
            content += part
            if len(content) > size:
                raise UploadError(f"{shown(path)} holds more than the {size:,} bytes that the archive says")
            piece, filled = stream.unconsumed_tail, len(part) == most
    if len(content) != size:
        raise UploadError(f"{shown(path)} holds fewer than the {size:,} bytes that the archive says")
    return bytes(content)


def _read_at(descriptor: int, offset: int, length: int) -> bytes:
    parts, got = [], 0
    while got < length:
        part = os.pread(descriptor, min(length - got, 2**30), offset + got)
        if not part:
            raise UploadError("the archive is cut off")
        parts.append(part)
        got += len(part)
    return parts[0] if len(parts) == 1 else b"".join(parts)
