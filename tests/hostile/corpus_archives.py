"""Archives that mean harm, each made in a few lines, beside the harmless ones they are made from.

``ARCHIVES`` maps a case to the ending it is sent under and its content. None of them may be taken.
"""

from __future__ import annotations

import gzip
import io
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

from hostile.corpus_files import bomb, box_stl, labels_tiff

Case = Callable[[], bytes]
Files = Iterable[tuple[str, bytes]]
CELL = labels_tiff()
TRACKS = b"1 0 4 0\n2 5 9 1\n"
LINK, DEVICE = 0o120777, 0o020666  # modes of Unix
LONG = 2**31 - 1

# ------------------------------------------------------------------------------------------------------------------ zip


def zipped(
    files: Files, *, method: int = zipfile.ZIP_DEFLATED, mode: int = 0, system: int = 3, **changes: Any
) -> bytes:
    """Pack files as Python does; ``mode`` is that of the last one."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as archive:
        packed = list(files)
        for number, (name, content) in enumerate(packed):
            entry = zipfile.ZipInfo(name)
            entry.compress_type, entry.create_system = method, system
            if mode and number == len(packed) - 1:
                entry.external_attr = mode << 16
            for member, value in changes.items():
                setattr(entry, member, value)
            archive.writestr(entry, content)
    return file.getvalue()


def frames(count: int = 3, ending: str = "tif") -> list[tuple[str, bytes]]:
    """Return the files of a harmless sequence."""
    content = CELL if ending == "tif" else box_stl()
    return [(f"t{number:03}.{ending}", content) for number in range(count)]


def entry(
    name: bytes, content: bytes, *, size: int | None = None, packed: int | None = None, crc: int | None = None,
    flags: int = 0, method: int = 8, offset: int = 0, extra: bytes = b"", local: bytes | None = None,
    attributes: int = 0o100644 << 16, made: int = 0x0314, local_extra: bytes = b"", local_size: int | None = None,
) -> tuple[bytes, bytes]:  # fmt: skip
    """Return the local part of an entry and its line of the directory; what is given replaces what is true."""
    raw = zlib.compressobj(9, zlib.DEFLATED, -15)
    body = raw.compress(content) + raw.flush() if method == 8 else content
    said = (
        zlib.crc32(content) if crc is None else crc, len(body) if packed is None else packed,
        len(content) if size is None else size,
    )  # fmt: skip
    named = name if local is None else local
    here = (said[0], said[1], said[2] if local_size is None else local_size)
    first = struct.pack("<4s5H3I2H", b"PK\3\4", 20, flags, method, 0, 0x21, *here, len(named), len(local_extra))
    line = struct.pack(
        "<4s6H3I5H2I", b"PK\1\2", made, 20, flags, method, 0, 0x21, *said, len(name), len(extra), 0, 0, 0, attributes,
        offset,
    )  # fmt: skip
    return first + named + local_extra + body, line + name + extra


def assembled(
    *entries: tuple[bytes, bytes], count: int | None = None, comment: bytes = b"", before: bytes = b"", shift: int = 0,
    gap: bytes = b"",
) -> bytes:  # fmt: skip
    """Put entries of :func:`entry` together; their offsets are filled in."""
    body, lines = bytearray(before), bytearray()
    for first, line in entries:
        if first:
            lines += line[:42] + struct.pack("<I", len(body)) + line[46:]
        else:
            lines += line
        body += first + gap
    number = len(entries) if count is None else count
    end = struct.pack(
        "<4s4H2IH", b"PK\5\6", 0, 0, number & 0xFFFF, number & 0xFFFF, len(lines), len(body) + shift, len(comment)
    )
    return bytes(body) + bytes(lines) + end + comment


def zip_bomb() -> bytes:
    """Twelve files of 255 MiB of zeros in three megabytes."""
    zeros = zlib.compressobj(9, zlib.DEFLATED, -15)
    piece, size, crc = bytes(2**20), 255 * 2**20, 0
    packed = bytearray()
    for _ in range(255):
        packed += zeros.compress(piece)
        crc = zlib.crc32(piece, crc)
    packed += zeros.flush()
    parts = []
    for number in range(12):
        first, line = entry(b"t%02d.tif" % number, b"", size=size, packed=len(packed), crc=crc)
        parts.append((first[:-2] + bytes(packed), line))
    return assembled(*parts)


def overlapping() -> bytes:
    """Many lines of the directory for one entry (Fifield, 2019)."""
    first, line = entry(b"t0.tif", bytes(2**22))
    names = [b"t%d.tif" % number for number in range(1, 9)]
    return assembled((first, line), *((b"", line.replace(b"t0.tif", name)) for name in names))


def quoted() -> bytes:
    """An entry that lies within the bytes of another."""
    inner, line = entry(b"b.tif", CELL)
    outer, outer_line = entry(b"a.tif", inner, method=0)
    return assembled((outer, outer_line), (b"", line[:42] + struct.pack("<I", 30 + 5) + line[46:]))


def many_entries() -> bytes:
    """A million entries, by the number at the end."""
    return assembled(entry(b"a.tif", CELL), count=65_535)


def many_real_entries(count: int = 5000) -> bytes:
    return zipped(((f"{number}.txt", b"") for number in range(count)), method=zipfile.ZIP_STORED)


def zip64_end(*, entries: int = 1, size: int = 44, length: int | None = None, offset: int | None = None) -> bytes:
    """A zip with the end of zip64, which may lie."""
    first, line = entry(b"a.tif", CELL)
    length, offset = len(line) if length is None else length, len(first) if offset is None else offset
    end = struct.pack("<4sQ2H2I4Q", b"PK\6\6", size, 45, 45, 0, 0, entries, entries, length, offset)
    place = struct.pack("<4sIQI", b"PK\6\7", 0, len(first) + len(line), 1)
    return first + line + end + place + struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, 65535, 65535, 2**32 - 1, 2**32 - 1, 0)


def wide(*values: int) -> bytes:
    """A zip64 field."""
    return struct.pack(f"<HH{len(values)}Q", 1, 8 * len(values), *values)


# ------------------------------------------------------------------------------------------------------------------ tar


def tarred(
    files: Files, *, form: int = tarfile.PAX_FORMAT, last: Callable[[tarfile.TarInfo], object] | None = None
) -> bytes:
    """Pack files as Python does; ``last`` changes the entry of the last one."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=form) as archive:
        packed = list(files)
        for number, (name, content) in enumerate(packed):
            info = tarfile.TarInfo(name)
            info.size = len(content)
            if last is not None and number == len(packed) - 1:
                last(info)
            archive.addfile(info, io.BytesIO(content) if info.isreg() else None)
    return file.getvalue()


def kind_of_entry(kind: bytes, target: str = "") -> bytes:
    def change(info: tarfile.TarInfo) -> None:
        info.type, info.linkname, info.size = kind, target, 0

    return tarred([*frames(), ("t004.tif", b"")], last=change)


def header(name: bytes, size: bytes = b"0", kind: bytes = b"0", *, magic: bytes = b"ustar\0" + b"00") -> bytes:
    """A header of tar with the right checksum."""
    head = bytearray(512)
    head[:100] = name.ljust(100, b"\0")[:100]
    head[100:108] = b"0000644\0"
    head[124:136] = size.rjust(11, b"0")[:12].ljust(12, b"\0")
    head[148:156] = b" " * 8
    head[156:157], head[257:265] = kind, magic
    head[148:156] = b"%06o\0 " % sum(head)
    return bytes(head)


def pax(*records: tuple[str, str]) -> bytes:
    """A file behind an extended header with some records."""
    text = b""
    for key, value in records:
        line = f" {key}={value}\n".encode()
        text += b"%d" % (len(line) + 2) + line
    body = text.ljust(-(-len(text) // 512) * 512, b"\0")
    cell = CELL.ljust(-(-len(CELL) // 512) * 512, b"\0")
    return header(b"x", b"%o" % len(text), b"x") + body + header(b"a.tif", b"%o" % len(CELL)) + cell + bytes(1024)


def sparse() -> bytes:
    """A sparse file of GNU's, a terabyte on the disk of who believes it."""
    head = bytearray(header(b"a.tif", b"1000", b"S", magic=b"ustar  \0"))
    head[386:410] = b"00000000000\0" + b"00000001000\0"
    head[483:495] = b"20000000000\0"
    head[148:156] = b" " * 8
    head[148:156] = b"%06o\0 " % sum(head)
    return bytes(head) + bytes(512) + bytes(1024)


def tar_bomb() -> bytes:
    """Ten files of 255 MiB of zeros, of which the first is there; the others need not be, to be refused."""
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    packed = packer.compress(header(b"a.tif", b"%o" % (255 * 2**20)))
    packed += b"".join(packer.compress(bytes(2**20)) for _ in range(255))
    for number in range(9):
        packed += packer.compress(header(b"%d.tif" % number, b"%o" % (255 * 2**20)))
        packed += packer.compress(bytes(2**20))
    return packed + packer.flush()


def gzip_of_gzip() -> bytes:
    return gzip.compress(gzip.compress(tarred(frames())))


def million_headers() -> bytes:
    """A million entries without content, 512 bytes each before gzip."""
    packer = zlib.compressobj(1, zlib.DEFLATED, 31)
    return b"".join(packer.compress(header(b"%d.tif" % number)) for number in range(6000)) + packer.flush()


def with_one_bit(content: bytes, place: int) -> bytes:
    """Return content with a bit of the byte at a place turned."""
    changed = bytearray(content)
    changed[place] ^= 1
    return bytes(changed)


def one_of(name: str, content: bytes = CELL) -> bytes:
    return zipped([*frames(), (name, content)])


def tar_of(name: str, content: bytes = CELL) -> bytes:
    return tarred([*frames(), (name, content)])


def many_labels() -> bytes:
    """Volumes with more different labels than are allowed, in several files."""
    from hostile.corpus_files import image_of_many_values

    return zipped([("a.tif", image_of_many_values()), *frames()])


def surfaces(count: int) -> bytes:
    ball = box_stl()
    return zipped((f"t{number}.stl", ball) for number in range(count))


ARCHIVES: dict[str, tuple[str, Case]] = {
    # sizes
    "zip bomb": ("zip", zip_bomb),
    "zip overlapping entries": ("zip", overlapping),
    "zip quoted entry": ("zip", quoted),
    "zip says fewer bytes": ("zip", lambda: assembled(entry(b"a.tif", bytes(2**24), size=1000))),
    "zip says more bytes": ("zip", lambda: assembled(entry(b"a.tif", CELL, size=len(CELL) + 1))),
    "zip says a gigabyte": ("zip", lambda: assembled(entry(b"a.tif", CELL, size=2**30))),
    "zip says four gigabytes": ("zip", lambda: assembled(entry(b"a.tif", CELL, size=2**32 - 1))),
    "zip packed behind the end": ("zip", lambda: assembled(entry(b"a.tif", CELL, packed=LONG))),
    "zip a million entries": ("zip", many_entries),
    "zip five thousand entries": ("zip", many_real_entries),
    "zip two thousand files and one": ("zip", lambda: zipped((f"t{n}.stl", b"") for n in range(2001))),
    "zip of an image bomb": ("zip", lambda: one_of("t9.tif", bomb())),
    # names
    "zip absolute": ("zip", lambda: one_of("/etc/passwd.tif")),
    "zip parent": ("zip", lambda: one_of("../t9.tif")),
    "zip parent inside": ("zip", lambda: one_of("a/../../t9.tif")),
    "zip backslash": ("zip", lambda: assembled(entry(b"a\\..\\b.tif", CELL))),
    "zip drive": ("zip", lambda: one_of("C:/t9.tif")),
    "zip duplicate": ("zip", lambda: assembled(entry(b"a.tif", CELL), entry(b"a.tif", CELL))),
    "zip duplicate by capitals": ("zip", lambda: one_of("T000.TIF")),
    "zip duplicate by accents": ("zip", lambda: zipped([("\u00e9.tif", CELL), ("e\u0301.tif", CELL)])),
    "zip file is a folder too": ("zip", lambda: one_of("t000.tif/a.tif")),
    "zip zero byte": ("zip", lambda: assembled(entry(b"a.tif\0.txt", CELL))),
    "zip escape sequence": ("zip", lambda: one_of("\x1b[2Ja.tif")),
    "zip right to left": ("zip", lambda: one_of("\u202efit.a.tif")),
    "zip name not of UTF-8": ("zip", lambda: assembled(entry(b"\xff\xfe.tif", CELL))),
    "zip empty name": ("zip", lambda: assembled(entry(b"", CELL))),
    "zip long name": ("zip", lambda: one_of("a" * 500 + ".tif")),
    "zip deep": ("zip", lambda: one_of("a/" * 60 + "a.tif")),
    "zip space at the end": ("zip", lambda: one_of("folder /a.tif")),
    "zip other local name": ("zip", lambda: assembled(entry(b"a.tif", CELL, local=b"b.tif"))),
    "zip other local size": ("zip", lambda: assembled(entry(b"a.tif", CELL, local_size=7))),
    "zip second name": ("zip", lambda: assembled(entry(b"a.tif", CELL, extra=struct.pack("<HH", 0x7075, 1) + b"x"))),
    # kinds
    "zip link": ("zip", lambda: zipped([*frames(), ("t9.tif", b"/etc/passwd")], mode=LINK)),
    "zip link to a parent": ("zip", lambda: zipped([*frames(), ("up", b"..")], mode=LINK)),
    "zip device": ("zip", lambda: zipped([*frames(), ("t9.tif", b"")], mode=DEVICE)),
    "zip encrypted": ("zip", lambda: assembled(entry(b"a.tif", CELL, flags=1))),
    "zip strongly encrypted": ("zip", lambda: assembled(entry(b"a.tif", CELL, flags=0x41))),
    "zip bzip2": ("zip", lambda: zipped(frames(), method=zipfile.ZIP_BZIP2)),
    "zip lzma": ("zip", lambda: zipped(frames(), method=zipfile.ZIP_LZMA)),
    "zip in a zip": ("zip", lambda: one_of("more.zip", zipped(frames()))),
    "zip with a tar": ("zip", lambda: one_of("more.tar.gz", gzip.compress(tarred(frames())))),
    "zip folder with bytes": ("zip", lambda: assembled(entry(b"a/", CELL, attributes=0o040755 << 16))),
    "zip file marked as a folder": ("zip", lambda: assembled(entry(b"a.tif", CELL, attributes=0o040755 << 16))),
    # integrity
    "zip wrong checksum": ("zip", lambda: assembled(entry(b"a.tif", CELL, crc=1))),
    "zip damaged": ("zip", lambda: with_one_bit(zipped(frames()), 80)),
    "zip cut off": ("zip", lambda: zipped(frames())[:-30]),
    "zip cut in front": ("zip", lambda: zipped(frames())[5:]),
    "zip with a program in front": ("zip", lambda: assembled(entry(b"a.tif", CELL), before=b"#!/bin/sh\n")),
    "zip with a comment": ("zip", lambda: assembled(entry(b"a.tif", CELL), comment=b"PK\5\6" + bytes(18))),
    "zip with a gap": ("zip", lambda: assembled(entry(b"a.tif", CELL), entry(b"b.tif", CELL), gap=b"hidden")),
    "zip directory elsewhere": ("zip", lambda: assembled(entry(b"a.tif", CELL), shift=4)),
    "zip fewer entries than lines": ("zip", lambda: assembled(entry(b"a.tif", CELL), entry(b"b.tif", CELL), count=1)),
    "zip64 without its field": ("zip", lambda: assembled(entry(b"a.tif", CELL, size=2**32 - 1, packed=2**32 - 1))),
    "zip64 entry lies": (
        "zip",
        lambda: assembled(entry(b"a.tif", CELL, size=2**32 - 1, extra=wide(2**60), local_extra=wide(2**60))),
    ),
    "zip64 two fields": (
        "zip",
        lambda: assembled(entry(b"a.tif", CELL, size=2**32 - 1, extra=wide(len(CELL)) + wide(5))),
    ),
    "zip64 end says 2^60 entries": ("zip", lambda: zip64_end(entries=2**60)),
    "zip64 end says a million entries": ("zip", lambda: zip64_end(entries=10**6)),
    "zip64 end says 2^62 bytes": ("zip", lambda: zip64_end(length=2**62)),
    "zip64 end of another length": ("zip", lambda: zip64_end(size=2**40)),
    "zip64 end points elsewhere": ("zip", lambda: zip64_end(offset=2**63)),
    "zip is a tar": ("zip", lambda: tarred(frames())),
    "zip empty": ("zip", lambda: zipped([])),
    "zip of nothing to read": ("zip", lambda: zipped([("README.txt", b"hello"), ("a.csv", b"1,2")])),
    "zip of one bad file": ("zip", lambda: one_of("t9.tif", b"II*\0" + bytes(40))),
    "zip of an image": ("zip", many_labels),
    "zip tracks of words": ("zip", lambda: one_of("man_track.txt", b"1 0 x 0\n")),
    "zip tracks backwards": ("zip", lambda: one_of("man_track.txt", b"1 5 2 0\n")),
    "zip tracks of many digits": ("zip", lambda: one_of("man_track.txt", b"1 5 " + b"9" * 5000 + b" 0\n")),
    "zip tracks without end": ("zip", lambda: one_of("man_track.txt", b"1 0 1 0\n" * 70_000)),
    "zip open surface": ("zip", lambda: zipped([("a.stl", box_stl()[:80] + b"\3\0\0\0" + box_stl()[84:234])])),
    # tar
    "tar symbolic link": ("tar", partial(kind_of_entry, tarfile.SYMTYPE, "/etc/passwd")),
    "tar hard link": ("tar", partial(kind_of_entry, tarfile.LNKTYPE, "t000.tif")),
    "tar character device": ("tar", partial(kind_of_entry, tarfile.CHRTYPE)),
    "tar block device": ("tar", partial(kind_of_entry, tarfile.BLKTYPE)),
    "tar pipe": ("tar", partial(kind_of_entry, tarfile.FIFOTYPE)),
    "tar contiguous": ("tar", partial(kind_of_entry, tarfile.CONTTYPE)),
    "tar long link": ("tar", lambda: header(b"././@LongLink", b"4", b"K") + b"abcd".ljust(512, b"\0") + bytes(1024)),
    "tar sparse": ("tar", sparse),
    "tar sparse by pax": ("tar", lambda: pax(("GNU.sparse.major", "1"))),
    "tar size by pax": ("tar", lambda: pax(("size", "8589934592"))),
    "tar link by pax": ("tar", lambda: pax(("linkpath", "/etc/passwd"))),
    "tar parent by pax": ("tar", lambda: pax(("path", "../../etc/cron.d/aaaaaa.tif"))),
    "tar damaged pax": ("tar", lambda: header(b"x", b"5", b"x") + b"99 a=".ljust(512, b"\0") + bytes(1024)),
    "tar pax without end": ("tar", lambda: header(b"x", b"%o" % 2**24, b"x") + bytes(2**24) + bytes(1024)),
    "tar chain of extended headers": (
        "tar",
        lambda: (header(b"x", b"14", b"x") + b"12 path=a.ti".ljust(512, b"\0")) * 1000 + bytes(1024),
    ),
    "tar absolute": ("tar", lambda: tar_of("/a.tif")),
    "tar parent": ("tar", lambda: tar_of("a/../../a.tif")),
    "tar duplicate": ("tar", lambda: tar_of("./t000.tif")),
    "tar wrong checksum": ("tar", lambda: with_one_bit(tarred(frames()), 3)),
    "tar cut off": ("tar", lambda: tarred(frames())[:2000]),
    "tar without end": ("tar", lambda: header(b"a.tif", b"%o" % len(CELL)) + CELL.ljust(-(-len(CELL) // 512) * 512)),
    "tar size of eight gigabytes": ("tar", lambda: header(b"a.tif", b"77777777777") + bytes(1024)),
    "tar size in base 256": ("tar", lambda: with_base_256()),
    "tar size below zero": ("tar", lambda: header(b"a.tif", b"-1") + bytes(1024)),
    "tar with something behind": ("tar", lambda: tarred(frames()) + b"hidden"),
    "tar in a tar": ("tar", lambda: tar_of("more.tar", tarred(frames()))),
    "tar is a zip": ("tar", lambda: zipped(frames())),
    "tar of zeros": ("tar", lambda: bytes(10_240)),
    "tar of noise": ("tar", lambda: bytes(range(256)) * 40),
    "gzip bomb": ("tar.gz", tar_bomb),
    "gzip of six thousand entries": ("tgz", million_headers),
    "gzip of gzip": ("tgz", gzip_of_gzip),
    "gzip cut off": ("tgz", lambda: gzip.compress(tarred(frames()))[:-20]),
    "gzip twice, one behind the other": ("tgz", lambda: gzip.compress(tarred(frames())) * 2),
    "gzip with a wrong checksum": ("tgz", lambda: with_one_bit(gzip.compress(tarred(frames())), -8)),
    "gzip of nothing": ("tgz", lambda: gzip.compress(b"")),
    "gzip of zeros without end": ("tgz", lambda: gzip.compress(bytes(2**28))),
    "gzip is no gzip": ("tgz", lambda: tarred(frames())),
}


def with_base_256() -> bytes:
    """A size of 2^70, as GNU tar writes what octal digits cannot hold."""
    head = bytearray(header(b"a.tif"))
    head[124:136] = b"\x80" + (2**70).to_bytes(11, "big")
    head[148:156] = b" " * 8
    head[148:156] = b"%06o\0 " % sum(head)
    return bytes(head) + bytes(1024)
