"""Files that mean harm, each made in a few lines, beside the harmless ones they are made from.

``TIFFS``, ``MESHES`` and ``MODELS`` map a case to the name and the content it is sent under. None of them may be taken.
"""

from __future__ import annotations

import json
import math
import struct
import zlib
from collections.abc import Callable, Iterable
from functools import partial
from itertools import pairwise, product
from typing import Any

import imagecodecs

from model.upload_checks.weights import CONFIG_KEY, expected_shapes

Case = Callable[[], bytes]

# ----------------------------------------------------------------------------------------------------------------- TIFF

SIDE = 8
SHORT, LONG, RATIONAL, LONG8, ASCII = 3, 4, 5, 16, 2
CODES = {ASCII: "s", 1: "B", SHORT: "H", LONG: "I", RATIONAL: "I", LONG8: "Q", 9: "i", 12: "d"}
IMAGEJ = "ImageJ=1.54f\nimages={pages}\nslices={slices}\nframes={frames}\nunit=micron\nspacing=0.5\n"
OME = (
    '<?xml version="1.0"?>{head}<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06"><Image ID="Image:0">'
    '<Pixels SizeX="8" SizeY="8" SizeZ="{z}" SizeC="{c}" SizeT="{t}" DimensionOrder="{order}" Type="uint16" {more}/>'
    "</Image></OME>"
)


def cell_plane(plane: int, *, code: str = "H", label: float = 1, background: float = 0) -> bytes:
    """One z-plane of a box in the middle of the volume."""
    inside = [1 < k < SIDE - 2 for k in range(SIDE)]
    values = [
        label if inside[plane % SIDE] and inside[y] and inside[x] else background
        for y, x in product(range(SIDE), repeat=2)
    ]
    return struct.pack(f"<{len(values)}{code}", *values)


def tiff(
    planes: Iterable[bytes] | None = None,
    *,
    description: str | bytes | None = None,
    tags: dict[int, tuple[int, list[int]] | None] | None = None,
    big: bool = False,
    pages: int = SIDE,
    loop: bool = False,
    tail: bytes = b"",
) -> bytes:
    """Build a little-endian TIFF; ``tags`` replace (or, None, take out) those of every page."""
    word, count, head = ("Q", "Q", 16) if big else ("I", "H", 8)
    parts = list(planes) if planes is not None else [cell_plane(plane) for plane in range(pages)]
    body, places = bytearray(), []
    for part in parts:
        places.append((head + len(body), len(part)))
        body += part
    directories = bytearray()
    start = head + len(body)
    for number, (offset, size) in enumerate(places):
        entries: dict[int, tuple[int, list[int]] | None] = {
            256: (LONG, [SIDE]), 257: (LONG, [SIDE]), 258: (SHORT, [16]), 259: (SHORT, [1]), 262: (SHORT, [1]),
            273: (LONG, [offset]), 277: (SHORT, [1]), 278: (LONG, [SIDE]), 279: (LONG, [size]),
            282: (RATIONAL, [2, 1]), 283: (RATIONAL, [2, 1]), 339: (SHORT, [1]),
        }  # fmt: skip
        if description is not None and number == 0:
            raw = description.encode() if isinstance(description, str) else description
            entries[270] = (ASCII, list(raw + b"\0"))
        entries |= tags or {}
        kept = {tag: entry for tag, entry in sorted(entries.items()) if entry is not None}
        table, extra = bytearray(), bytearray()
        here = start + len(directories)
        behind = here + struct.calcsize("<" + count) + len(kept) * (20 if big else 12) + struct.calcsize("<" + word)
        for tag, (kind, values) in kept.items():
            raw = bytes(values) if kind == ASCII else struct.pack(f"<{len(values)}{CODES[kind]}", *values)
            declared = len(values) // 2 if kind == RATIONAL else len(values)
            inline = struct.calcsize("<" + word)
            if len(raw) > inline:
                value = struct.pack("<" + word, behind + len(extra))
                extra += raw
            else:
                value = raw.ljust(inline, b"\0")
            table += struct.pack(f"<HH{word}", tag, kind, declared) + value
        last = number == len(places) - 1
        following = (start if loop else 0) if last else behind + len(extra)
        directories += struct.pack("<" + count, len(kept)) + table + struct.pack("<" + word, following) + extra
    magic = struct.pack("<2sHHHQ", b"II", 43, 8, 0, start) if big else struct.pack("<2sHI", b"II", 42, start)
    return magic + bytes(body) + bytes(directories) + tail


def labels_tiff(*, frames: int = 1) -> bytes:
    """A harmless stack of label volumes, as ImageJ describes it."""
    description = IMAGEJ.format(pages=frames * SIDE, slices=SIDE, frames=frames)
    return tiff(pages=frames * SIDE, description=description)


def flat_labels_tiff(*, frames: int = 1, along: str = "z") -> bytes:
    """Frames whose cell is one voxel thick along an axis."""
    box = {axis: range(3, 4) if axis == along else range(2, SIDE - 2) for axis in "xyz"}
    planes = [
        struct.pack(
            f"<{SIDE * SIDE}H",
            *(z in box["z"] and y in box["y"] and x in box["x"] for y, x in product(range(SIDE), repeat=2)),
        )
        for z in range(SIDE)
    ]
    return tiff(planes * frames, description=IMAGEJ.format(pages=frames * SIDE, slices=SIDE, frames=frames))


def described(description: str | bytes, **changes: Any) -> bytes:
    return tiff(description=description, **changes)


def imagej(**fields: object) -> bytes:
    values: dict[str, object] = {
        "images": SIDE,
        "slices": SIDE,
        "frames": 1,
        "unit": "micron",
        "spacing": 0.5,
        **fields,
    }
    return described("ImageJ=1.54f\n" + "".join(f"{key}={value}\n" for key, value in values.items()))


def ome(
    *, z: object = SIDE, t: object = 1, c: object = 1, order: str = "XYZCT", head: str = "", more: str = ""
) -> bytes:
    return described(OME.format(z=z, t=t, c=c, order=order, head=head, more=more))


def tagged(tag: int, kind: int, *values: int, **changes: Any) -> bytes:
    return tiff(tags={tag: (kind, list(values))}, **changes)


def without(tag: int) -> bytes:
    return tiff(tags={tag: None})


def values_of(code: str, bits: int, form: int, **changes: float) -> bytes:
    planes = [cell_plane(plane, code=code, **changes) for plane in range(SIDE)]
    return tiff(planes, tags={258: (SHORT, [bits]), 339: (SHORT, [form])})


def deflated(unpacked: bytes, **tags: Any) -> bytes:
    return tiff([zlib.compress(unpacked)] * SIDE, tags={259: (SHORT, [8])})


def bomb() -> bytes:
    squeeze = zlib.compressobj(9)
    packed = b"".join(squeeze.compress(bytes(2**20)) for _ in range(128)) + squeeze.flush()
    return tiff([packed] * SIDE, tags={259: (SHORT, [8])})


def many_pages_of_one_bomb() -> bytes:
    """Every page unpacks the same strip of four megabytes; together they are more than may be."""
    packed = zlib.compress(bytes(2048 * 2048))
    side: dict[int, tuple[int, list[int]] | None] = {
        256: (LONG, [2048]), 257: (LONG, [2048]), 258: (SHORT, [8]), 259: (SHORT, [8]), 278: (LONG, [2048]),
        273: (LONG, [8]), 279: (LONG, [len(packed)]),
    }  # fmt: skip
    return tiff([packed] + [b""] * 63, tags=side)


def overlapping_directories() -> bytes:
    """30,000 directories of 500 entries each, twelve bytes apart: 15 million entries in 366 kB."""
    head, step, entries = 8, 12, 500
    body = bytearray(head + 30_000 * step + 2 + entries * 12 + 4)
    struct.pack_into("<2sHI", body, 0, b"II", 42, head)
    for number in range(30_000):
        start = head + number * step
        struct.pack_into("<H", body, start, entries)
        # The link to the next directory lies among the entries of later ones, whose tags are unknown.
        struct.pack_into("<I", body, start + 2 + entries * 12, start + step)
    return bytes(body)


def many_strips() -> bytes:
    """Every page of 4000 has the same 2048 strips: eight million offsets in a small file."""
    strips = 2048
    body = bytearray(struct.pack("<2sHI", b"II", 42, 0))
    table = len(body)
    body += struct.pack(f"<{strips}I", *[8] * strips) + struct.pack(f"<{strips}I", *[4] * strips)
    tags = [
        (256, LONG, 1, 4), (257, LONG, 1, strips), (258, SHORT, 1, 8), (259, SHORT, 1, 1),
        (273, LONG, strips, table), (277, SHORT, 1, 1), (278, LONG, 1, 1), (279, LONG, strips, table + 4 * strips),
    ]  # fmt: skip
    struct.pack_into("<I", body, 4, len(body))
    for _ in range(4000):
        body += struct.pack("<H", len(tags)) + b"".join(struct.pack("<HHII", *tag) for tag in tags)
        body += struct.pack("<I", len(body) + 4)
    struct.pack_into("<I", body, len(body) - 4, 0)
    return bytes(body)


def placed(*blocks: tuple[int, int], pages: int = 16, files: bool = False) -> bytes:
    """An OME-TIFF of two frames whose TiffData elements say (page, frame) of eight planes each."""
    unit = "<UUID>urn:uuid:{0}</UUID>" if files else ""
    data = "".join(
        f'<TiffData IFD="{page}" FirstT="{frame}" PlaneCount="8">{unit.format(frame)}</TiffData>'
        for page, frame in blocks
    )
    text = OME.format(z=SIDE, t=2, c=1, order="XYZCT", head="", more="").replace(
        "/></Image>", f">{data}</Pixels></Image>"
    )
    return tiff(pages=pages, description=text)


def image_of_many_values() -> bytes:
    side = 300
    values = struct.pack(f"<{side * side}I", *range(side * side))
    tags = {256: (LONG, [side]), 257: (LONG, [side]), 258: (SHORT, [32]), 278: (LONG, [side])}
    return tiff([values] * 4, tags=tags)  # type: ignore[arg-type]


def coded(codec: int, packed: bytes, *, predictor: int | None = None, **changes: Any) -> bytes:
    """Pages whose one strip is packed by a codec of TIFF."""
    tags: dict[int, tuple[int, list[int]] | None] = {259: (SHORT, [codec])}
    if predictor is not None:
        tags[317] = SHORT, [predictor]
    return tiff([packed] * SIDE, tags=tags | changes.pop("tags", {}), **changes)


def tiled(
    tile: bytes, *, across: int = 16, down: int = 16, tiles: int = 1, side: int = SIDE, pages: int = SIDE,
    codec: int = 1, tags: dict[int, tuple[int, list[int]] | None] | None = None,
) -> bytes:  # fmt: skip
    """Pages in tiles; every tile of every page is the same bytes of the file."""
    more: dict[int, tuple[int, list[int]] | None] = {
        256: (LONG, [side]), 257: (LONG, [side]), 259: (SHORT, [codec]), 273: None, 278: None, 279: None,
        322: (LONG, [across]), 323: (LONG, [down]), 324: (LONG, [8] * tiles), 325: (LONG, [len(tile)] * tiles),
    }  # fmt: skip
    return tiff([tile] + [b""] * (pages - 1), tags=more | (tags or {}))


def cell_tile() -> bytes:
    """A tile of 16 x 16 samples, of which a page of 8 x 8 shows a corner with a cell."""
    rows = [cell_plane(3)[2 * SIDE * y : 2 * SIDE * (y + 1)] + bytes(2 * SIDE) for y in range(SIDE)]
    return b"".join(rows) + bytes(2 * 16 * 8)


def harmless_tiles() -> bytes:
    return tiled(cell_tile())


def zstd(content: bytes) -> bytes:
    return bytes(imagecodecs.zstd_encode(content))


def body_round_many() -> bytes:
    """A box that faces inward round 30,000 tetrahedra: every one must be looked at from the box, or none."""
    triangles: list[tuple[Any, ...]] = list(box_triangles(100.0, inward=True))
    for x, y, z in product(range(1, 32), repeat=3):
        a, b, c, d = (x, y, z), (x + 0.5, y, z), (x, y + 0.5, z), (x, y, z + 0.5)
        triangles += [(a, c, b), (a, b, d), (b, c, d), (a, d, c)]
    return stl(triangles)


ZSTD_HUGE = b"\x28\xb5\x2f\xfd"  # magic number of a frame
CODEC_TIFFS: dict[str, Case] = {
    "LZW bomb": lambda: coded(5, bytes(imagecodecs.lzw_encode(bytes(2**24)))),
    "LZW of 2^24 in a strip that may hold it": lambda: coded(5, bytes(imagecodecs.lzw_encode(bytes(2**14)))[:1100]),
    "LZW cut off": lambda: coded(5, bytes(imagecodecs.lzw_encode(cell_plane(3)))[:-4]),
    "LZW of noise": lambda: coded(5, bytes(range(7, 107))),
    "LZW of nothing": lambda: coded(5, b""),
    "LZW of codes that are not yet there": lambda: coded(5, b"\x80\x3f\xff\xff\xff\xff" * 10),
    "zstd bomb": lambda: coded(50000, zstd(bytes(2**26))),
    "zstd bomb of four frames": lambda: coded(50000, zstd(bytes(128)) * 4),
    "zstd that is cut off": lambda: coded(50000, zstd(cell_plane(3))[:-3]),
    "zstd of noise": lambda: coded(50000, b"\x99" * 60),
    "zstd that claims 2^62 bytes": lambda: coded(50000, ZSTD_HUGE + b"\xe0" + struct.pack("<Q", 2**62) + bytes(20)),
    "zstd with a window of 2^41": lambda: coded(50000, ZSTD_HUGE + b"\x00\xff" + bytes(20)),
    "zstd with a dictionary": lambda: coded(50000, ZSTD_HUGE + b"\x23" + bytes(4) + b"\x80" + bytes(20)),
    "zstd of a frame to skip": lambda: coded(50000, b"\x50\x2a\x4d\x18" + struct.pack("<I", 2**32 - 1)),
    "zstd of the wrong content": lambda: coded(50000, zstd(bytes(127))),
    "PackBits bomb": lambda: coded(32773, b"\x81\x00" * 600),
    "PackBits cut off": lambda: coded(32773, b"\x7f" + bytes(5)),
    "PackBits of operations that do nothing": lambda: coded(32773, b"\x80" * 1000),
    "JPEG XL": partial(coded, 50002, bytes(100)),
    "WebP": partial(coded, 50001, bytes(100)),
    "LZMA": partial(coded, 34925, bytes(100)),
    "JPEG 2000": partial(coded, 34712, bytes(100)),
    "predictor 3 of integers": lambda: coded(8, zlib.compress(cell_plane(3)), predictor=3),
    "predictor 2 of floats": lambda: coded(
        8, zlib.compress(bytes(256)), predictor=2, tags={258: (SHORT, [32]), 339: (SHORT, [3])}
    ),
    "predictor 34892": lambda: coded(8, zlib.compress(cell_plane(3)), predictor=34892),
    "predictor that makes labels of noise": lambda: coded(
        8, zlib.compress(struct.pack("<64H", *range(1, 65))), predictor=2
    ),
    "bits in reversed order": partial(tagged, 266, SHORT, 2),
    "tiles in strips": lambda: tiled(cell_tile(), tags={273: (LONG, [8]), 279: (LONG, [128])}),
    "tiles of 8": lambda: tiled(bytes(128), across=8, down=8),
    "tiles of 0": lambda: tiled(cell_tile(), across=0),
    "tiles without a height": lambda: tiled(cell_tile(), tags={323: None}),
    "tiles of 2^31": lambda: tiled(cell_tile(), across=2**31),
    "tiles of 24": lambda: tiled(bytes(1152), across=24, down=24),
    "tiles of 4112": lambda: tiled(cell_tile(), across=4112),
    "a tile too few": lambda: tiled(cell_tile(), side=32, tiles=3),
    "a tile too many": lambda: tiled(cell_tile(), tiles=2),
    "65,536 tiles of a page of one": lambda: tiled(cell_tile(), tiles=65_536),
    "a tile behind the end": lambda: tiled(cell_tile(), tags={324: (LONG, [2**31])}),
    "tiles without sizes": lambda: tiled(cell_tile(), tags={325: None}),
    "tile of too little": lambda: tiled(cell_tile()[:-2]),
    "tile bomb": lambda: tiled(zlib.compress(bytes(2**26), 9)[:1000], codec=8),
    "tiles far larger than their pages": lambda: tiled(
        zlib.compress(bytes(2 * 4096 * 4096), 9), across=4096, down=4096, codec=8, pages=64
    ),
    "zstd tiles far larger than their pages": lambda: tiled(
        zstd(bytes(2 * 4096 * 4096)), across=4096, down=4096, codec=50000, pages=2000
    ),
    "half a million tiles of one zstd": lambda: tiled(zstd(bytes(512)), side=2048, tiles=16_384, codec=50000, pages=32),
    "131,072 tiles of one zstd": lambda: tiled(
        zstd(bytes(2048)), across=32, down=32, side=2048, tiles=4096, codec=50000, pages=32
    ),
    "half a million strips of one zstd": lambda: tiff(
        [zstd(bytes(256))] + [b""] * 255,
        tags={
            256: (LONG, [128]),
            257: (LONG, [2048]),
            259: (SHORT, [50000]),
            278: (LONG, [1]),
            273: (LONG, [8] * 2048),
            279: (LONG, [len(zstd(bytes(256)))] * 2048),
        },
    ),
    "half a million tiles of one LZW": lambda: tiled(
        bytes(imagecodecs.lzw_encode(bytes(512))), side=2048, tiles=16_384, codec=5, pages=32, tags={317: (SHORT, [2])}
    ),
}

LAUGHS = (
    '<!DOCTYPE x [<!ENTITY a "ha">'
    + "".join(f'<!ENTITY {chr(98 + k)} "{f"&{chr(97 + k)};" * 10}">' for k in range(9))
    + "]>"
)
TIFFS: dict[str, Case] = {
    "empty": lambda: b"",
    "four bytes": lambda: b"II*\0",
    "not a TIFF": lambda: b"PK\3\4" + bytes(1000),
    "a page of HTML": lambda: b"<html><script>alert(1)</script></html>" * 10,
    "version 44": lambda: b"II\x2c\0" + bytes(100),
    "no page": lambda: struct.pack("<2sHI", b"II", 42, 0),
    "first directory behind the end": lambda: struct.pack("<2sHI", b"II", 42, 2**31),
    "BigTIFF directory at 2^40": lambda: struct.pack("<2sHHHQ", b"II", 43, 8, 0, 2**40),
    "BigTIFF directory at 2^64 - 1": lambda: struct.pack("<2sHHHQ", b"II", 43, 8, 0, 2**64 - 1),
    "BigTIFF with 2^60 entries": lambda: struct.pack("<2sHHHQQ", b"II", 43, 8, 0, 16, 2**60),
    "65535 entries": lambda: struct.pack("<2sHIH", b"II", 42, 8, 65535) + bytes(100),
    "directories in a circle": partial(tiff, loop=True),
    "a directory that follows itself": lambda: struct.pack("<2sHIHI", b"II", 42, 8, 0, 8),
    "cut in half": lambda: labels_tiff()[: len(labels_tiff()) // 2],
    "last byte missing": lambda: labels_tiff()[:-1],
    "a million by a million": partial(tiff, tags={256: (LONG, [10**6]), 257: (LONG, [10**6])}),
    "2^40 samples in BigTIFF": partial(tiff, big=True, tags={256: (LONG8, [2**40]), 257: (LONG8, [1])}),
    "no width": partial(without, 256),
    "width 0": partial(tagged, 256, LONG, 0),
    "width 2^32 - 1": partial(tagged, 256, LONG, 2**32 - 1),
    "no offsets": partial(without, 273),
    "strip behind the end": partial(tagged, 273, LONG, 2**32 - 1),
    "strip counts lie": partial(tagged, 279, LONG, 4),
    "strip counts claim 4 GiB": partial(tagged, 279, LONG, 2**32 - 1),
    "4 GiB of offsets": partial(tagged, 273, LONG, *range(70_000)),
    "rows per strip 0": lambda: tiff(tags={278: (LONG, [0]), 279: (LONG, [5])}),
    "one row per strip, one strip": partial(tagged, 278, LONG, 1),
    "value of an unknown type": lambda: tiff(tags={258: (SHORT, [16])}).replace(
        struct.pack("<HHI", 258, SHORT, 1), struct.pack("<HHI", 258, 77, 1)
    ),
    "deflate bomb": bomb,
    "one bomb on many pages": many_pages_of_one_bomb,
    "deflate of too little": partial(deflated, bytes(5)),
    "deflate that is noise": lambda: tiff([b"\x99" * 50] * SIDE, tags={259: (SHORT, [8])}),
    "deflate cut off": lambda: tiff([zlib.compress(cell_plane(3))[:-8]] * SIDE, tags={259: (SHORT, [8])}),
    "LZW": partial(tagged, 259, SHORT, 5),
    "JPEG": partial(tagged, 259, SHORT, 7),
    "LERC": partial(tagged, 259, SHORT, 34887),
    "zstd": partial(tagged, 259, SHORT, 50000),
    "predictor": partial(tagged, 317, SHORT, 2),
    "tiles of 2^30": lambda: tiff(tags={322: (LONG, [2**30]), 323: (LONG, [2**30])}),
    "tiles": lambda: tiff(tags={322: (LONG, [16]), 323: (LONG, [16])}),
    "colours": partial(tagged, 277, SHORT, 3),
    "65535 samples a pixel": partial(tagged, 277, SHORT, 65535),
    "one bit": partial(tagged, 258, SHORT, 1),
    "64 bits": lambda: tiff([bytes(512)] * SIDE, tags={258: (SHORT, [64])}),
    "float labels that are not whole": lambda: values_of("f", 32, 3, label=0.5),
    "infinite labels": lambda: values_of("d", 64, 3, label=math.inf),
    "negative float labels": lambda: values_of("d", 64, 3, label=-1.0),
    "float labels of 10^300": lambda: values_of("d", 64, 3, label=1e300),
    "floats of 16 bits": lambda: values_of("H", 16, 3),
    "floats of 128 bits": lambda: tiff([bytes(1024)] * SIDE, tags={258: (SHORT, [128]), 339: (SHORT, [3])}),
    "labels of 2^64 - 1": lambda: values_of("Q", 64, 1, label=2**64 - 1),
    "an image of 70,000 values": image_of_many_values,
    **CODEC_TIFFS,
    "NaN labels": lambda: values_of("f", 32, 3, label=math.nan),
    "complex labels": lambda: tiff([bytes(512)] * SIDE, tags={258: (SHORT, [64]), 339: (SHORT, [6])}),
    "negative labels": lambda: values_of("h", 16, 2, label=-1),
    "no label": lambda: tiff([bytes(128)] * SIDE),
    "a frame without a label": lambda: tiff(
        [cell_plane(plane) for plane in range(SIDE)] + [bytes(128)] * SIDE,
        description=IMAGEJ.format(pages=16, slices=8, frames=2),
    ),
    "all one": lambda: values_of("H", 16, 1, background=1),
    "one plane": lambda: tiff([cell_plane(3)]),
    "three planes": lambda: tiff([cell_plane(3)] * 3),
    "pages of two sizes": lambda: tiff([cell_plane(3), cell_plane(3)[:64]], tags={256: (LONG, [8])}),
    "no frames": partial(imagej, frames=0),
    "minus one frame": partial(imagej, frames=-1),
    "a billion frames": partial(imagej, frames=10**9),
    "frames without end": partial(imagej, frames="9" * 5000),
    "frames that are no number": partial(imagej, frames="many"),
    "more images than pages": lambda: described(IMAGEJ.format(pages=64, slices=8, frames=8)),
    "pages behind one directory that are not there": lambda: tiff(
        [cell_plane(3)], description=IMAGEJ.format(pages=100_000, slices=100, frames=1000)
    ),
    "two channels": partial(imagej, channels=2),
    "spacing NaN": partial(imagej, spacing="nan"),
    "spacing zero": partial(imagej, spacing=0),
    "spacing minus": partial(imagej, spacing=-0.5),
    "spacing infinite": partial(imagej, spacing="1e999"),
    "resolution by zero": lambda: tiff(
        description=IMAGEJ.format(pages=8, slices=8, frames=1), tags={282: (RATIONAL, [0, 1])}
    ),
    "OME with other sizes": partial(ome, z=64),
    "OME with minus sizes": partial(ome, z=-8, t=-1),
    "OME with channels": partial(ome, c=4),
    "OME without end": lambda: described(OME.format(z=8, t=1, c=1, order="XYZCT", head="", more="")[:-20]),
    "OME without Pixels": partial(described, "<OME></OME>"),
    "OME in another order": lambda: tiff(
        pages=16, description=OME.format(z=8, t=2, c=1, order="XZYTC", head="", more="")
    ),
    "OME voxel of zero": partial(ome, more='PhysicalSizeX="0"'),
    "OME voxel of NaN": partial(ome, more='PhysicalSizeX="NaN"'),
    "OME voxel in parsecs": partial(ome, more='PhysicalSizeX="1" PhysicalSizeXUnit="pc"'),
    "billion laughs": partial(ome, head=LAUGHS, more='Name="&j;"'),
    "an entity from a file": partial(
        ome, head='<!DOCTYPE x [<!ENTITY e SYSTEM "file:///etc/passwd">]>', more='Name="&e;"'
    ),
    "OME that gives two planes one page": lambda: placed((0, 0), (0, 1), pages=16),
    "OME that names pages that are not there": lambda: placed((0, 0), (99, 1), pages=16),
    "OME that leaves planes out": lambda: placed((0, 0), pages=16),
    "OME of 10^5 blocks": lambda: placed(*[(0, 0)] * 20_000, pages=16),
    "OME of several files": lambda: placed((0, 0), (8, 1), files=True),
    "directories that lie over each other": overlapping_directories,
    "a million small strips": many_strips,
    "strips that are larger packed": lambda: tiff(
        [zlib.compress(cell_plane(3)) + bytes(4000)] * SIDE, tags={259: (SHORT, [8])}
    ),
    "a shape of text": partial(described, '{"shape": "8"}'),
    "a shape 10^5 deep": partial(described, '{"shape"' + ":[" * 100_000),
    "a shape of another size": partial(described, '{"shape": [4, 4, 8, 8]}'),
}  # fmt: skip

# --------------------------------------------------------------------------------------------------------------- meshes

BOX_QUADS = [(0, 1, 3, 2), (4, 6, 7, 5), (0, 4, 5, 1), (2, 3, 7, 6), (0, 2, 6, 4), (1, 5, 7, 3)]
Point = tuple[float, float, float]


def box_corners(side: float, *, at: float = 0.0) -> list[Point]:
    return [(at + x, at + y, at + z) for x, y, z in product((0.0, side), repeat=3)]


def box_triangles(side: float = 10.0, *, at: float = 0.0, inward: bool = False) -> list[tuple[Point, Point, Point]]:
    corners = box_corners(side, at=at)
    found = []
    for a, b, c, d in BOX_QUADS:
        for face in ((a, b, c), (a, c, d)):
            p, q, r = (corners[k] for k in face)
            found.append((p, r, q) if inward else (p, q, r))
    return found


def stl(triangles: Iterable[tuple[Any, ...]], *, count: int | None = None, tail: bytes = b"") -> bytes:
    rows = [struct.pack("<12fH", 0, 0, 0, *(x for point in triangle for x in point), 0) for triangle in triangles]
    return bytes(80) + struct.pack("<I", len(rows) if count is None else count) + b"".join(rows) + tail


def box_stl(*, side: float = 10.0) -> bytes:
    """A harmless closed surface."""
    return stl(box_triangles(side))


def spoiled(value: float) -> bytes:
    triangles: list[tuple[Any, ...]] = list(box_triangles())
    triangles[3] = ((value, 0.0, 0.0), *triangles[3][1:])
    return stl(triangles)


def moebius() -> bytes:
    """A band with one side, made of twelve quadrilaterals."""
    rims = []
    for k in range(13):
        turn = 2.0 * math.pi * k / 12
        rims.append([
            (
                (10.0 + w * math.cos(turn / 2)) * math.cos(turn),
                (10.0 + w * math.cos(turn / 2)) * math.sin(turn),
                w * math.sin(turn / 2),
            )
            for w in (-2.0, 2.0)
        ])  # fmt: skip
    rims[12] = rims[0][::-1]
    triangles = []
    for (a, b), (c, d) in pairwise(rims):
        triangles += [(a, b, c), (b, d, c)]
    return stl(triangles)


def ply(header: str, body: bytes = b"") -> bytes:
    return b"ply\n" + header.encode() + b"end_header\n" + body


def ply_of(vertices: object, faces: object, *, form: str = "ascii", body: bytes = b"", more: str = "") -> bytes:
    return ply(
        f"format {form} 1.0\nelement vertex {vertices}\nproperty float x\nproperty float y\nproperty float z\n"
        f"element face {faces}\nproperty list uchar int vertex_indices\n{more}",
        body,
    )


def obj(*lines: str) -> bytes:
    corners = [f"v {x} {y} {z}" for x, y, z in box_corners(10.0)]
    return "\n".join([*corners, *lines, ""]).encode()


QUADS = [" ".join(["f", *(str(corner + 1) for corner in quad)]) for quad in BOX_QUADS]
MESHES: dict[str, tuple[str, Case]] = {
    "stl empty": ("stl", lambda: b""),
    "stl of 80 bytes": ("stl", lambda: bytes(80)),
    "stl without triangles": ("stl", lambda: stl([])),
    "stl that claims 2^32 - 1 triangles": ("stl", lambda: stl(box_triangles(), count=2**32 - 1)),
    "stl that claims none": ("stl", lambda: stl(box_triangles(), count=0)),
    "stl with a tail": ("stl", lambda: stl(box_triangles(), tail=b"x")),
    "stl cut off": ("stl", lambda: box_stl()[:-20]),
    "stl of too many triangles": ("stl", lambda: stl([], count=400_001) + bytes(50 * 400_001)),
    "stl of one triangle": ("stl", lambda: stl(box_triangles()[:1])),
    "stl of slivers": ("stl", lambda: stl([((1.0, 1.0, 1.0),) * 3] * 40)),
    "stl with NaN": ("stl", lambda: spoiled(math.nan)),
    "stl with infinity": ("stl", lambda: spoiled(math.inf)),
    "stl with 3e38": ("stl", lambda: spoiled(3e38)),
    "stl open": ("stl", lambda: stl(box_triangles()[1:])),
    "stl with a fin": ("stl", lambda: stl([*box_triangles(), ((0.0, 0.0, 0.0), (0.0, 0.0, 10.0), (5.0, 5.0, 5.0))])),
    "stl twice the same": ("stl", lambda: stl(box_triangles() * 2)),
    "stl of nine bodies inside out": (
        "stl", lambda: stl([t for k in range(9) for t in box_triangles(1.0, at=2.0 * k, inward=True)])
    ),
    "stl of a body inside out round nine others": (
        "stl",
        lambda: stl(
            [*box_triangles(20.0, inward=True), *(t for k in range(9) for t in box_triangles(1.0, at=2 * k + 1.0))]
        ),
    ),
    "stl of a body inside out round 30,000 others": ("stl", body_round_many),
    "stl of nine cavities": (
        "stl",
        lambda: stl(
            [*box_triangles(20.0), *(t for k in range(9) for t in box_triangles(1.0, at=2 * k + 1.0, inward=True))]
        ),
    ),
    "stl with a face turned round": ("stl", lambda: stl([box_triangles(inward=True)[0], *box_triangles()[1:]])),
    "stl moebius": ("stl", moebius),
    "stl flat": ("stl", lambda: stl([((x, y, 0.0), (z, x, 0.0), (y, z, 0.0)) for x, y, z in box_corners(10.0)])),
    "stl in metres": ("stl", lambda: stl(box_triangles(1e-12))),
    "stl as large as the moon": ("stl", lambda: stl(box_triangles(1e12))),
    "stl that is a zip": ("stl", lambda: b"PK\3\4" + bytes(500)),
    "stl of text without end": ("stl", lambda: b"solid\n" + b"facet normal 0 0 1\nouter loop\nvertex 0 0 0\n" * 3),
    "stl of one endless line": ("stl", lambda: b"solid " + b"x" * 1_000_000),
    "stl of strange words": ("stl", lambda: b"solid x\nimport os\nendsolid"),
    "stl with a vertex of words": ("stl", lambda: b"solid x\nvertex a b c\n" * 3),
    "stl not in UTF-8": ("stl", lambda: b"solid \xff\xfe\nvertex 0 0 0\n"),
    "obj empty": ("obj", lambda: b""),
    "obj without faces": ("obj", lambda: obj()),
    "obj index out of range": ("obj", lambda: obj(*QUADS[:-1], "f 1 2 9")),
    "obj index 0": ("obj", lambda: obj(*QUADS[:-1], "f 0 1 2")),
    "obj index 2^63": ("obj", lambda: obj(*QUADS, f"f 1 2 {2**63}")),
    "obj index far below": ("obj", lambda: obj(*QUADS, "f -1 -2 -900")),
    "obj index of 5000 digits": ("obj", lambda: obj("f 1 2 " + "9" * 4000)),
    "obj 20,000-gon": ("obj", lambda: obj("f " + " ".join(["1"] * 2000))),
    "obj with NaN": ("obj", lambda: obj("v nan nan nan", *QUADS, "f 1 2 9")),
    "obj with 1e400": ("obj", lambda: obj("v 1e400 0 0", *QUADS, "f 1 2 9")),
    "obj that calls a program": ("obj", lambda: obj("csh rm -rf /", *QUADS)),
    "obj of curves": ("obj", lambda: obj("curv 0 1 1 2 3", *QUADS)),
    "obj of too many lines": ("obj", lambda: obj(*QUADS) + b"\n" * 4_800_001),
    "obj open": ("obj", lambda: obj(*QUADS[:-1])),
    "obj of a vertex without numbers": ("obj", lambda: obj("v 1", *QUADS)),
    "ply empty": ("ply", lambda: b""),
    "ply without end of header": ("ply", lambda: b"ply\nformat ascii 1.0\n" + b"comment x\n" * 20_000),
    "ply of 10^12 vertices": ("ply", lambda: ply_of(10**12, 0)),
    "ply of -1 vertices": ("ply", lambda: ply_of(-1, 0)),
    "ply of many vertices that are not there": ("ply", lambda: ply_of(1_000_000, 300_000, form="binary_little_endian")),
    "ply of as many without properties": (
        "ply", lambda: ply("format ascii 1.0\nelement vertex 1000000\nelement face 1\n"),
    ),
    "ply of an unknown type": ("ply", lambda: ply("format ascii 1.0\nelement vertex 8\nproperty quad x\n")),
    "ply of an unknown format": ("ply", lambda: ply_of(8, 12, form="binary_middle_endian")),
    "ply of another element": ("ply", lambda: ply_of(8, 12, more="element tristrips 1\n")),
    "ply index out of range": (
        "ply",
        lambda: ply_of(3, 4, form="binary_little_endian", body=bytes(36) + struct.pack("<Biii", 3, 0, 1, 99) * 4),
    ),
    "ply 255-gon": ("ply", lambda: ply_of(3, 1, form="binary_little_endian", body=bytes(36) + b"\xff" + bytes(1020))),
    "ply cut off": ("ply", lambda: ply_of(3, 4, form="binary_little_endian", body=bytes(20))),
    "ply of three thousand properties": (
        "ply",
        lambda: ply("format ascii 1.0\nelement vertex 1000000\n" + "property char a\n" * 3000 + "element face 1\n"),
    ),
    "ply of properties that are not there": (
        "ply",
        lambda: ply(
            "format ascii 1.0\nelement vertex 1200000\n" + "".join(f"property char {c}\n" for c in "xyzabcdefghijklm")
            + "element face 400000\nproperty list uchar int vertex_indices\n"
        ),
    ),
    "ply of words": ("ply", lambda: ply_of(3, 1, body=b"a b c d e f g h i 3 0 1 2\n")),
    "ply with a list of floats for corners": (
        "ply", lambda: ply_of(3, 1, body=b"0 0 0 1 0 0 0 1 0 3 0.5 1 2\n"),
    ),
}  # fmt: skip

# --------------------------------------------------------------------------------------------------------------- models

CONFIG = {"latent_size": 4, "width": 8, "depth": 2, "conditioning_width": 8}
Header = dict[str, Any]


def weights(
    change: Callable[[Header], object] | None = None,
    *,
    config: object = None,
    number: float = 0.5,
    length: int | None = None,
    tail: bytes = b"",
    cut: int = 0,
) -> bytes:
    """A tiny model; ``change`` edits its header before it is written."""
    shapes = expected_shapes(CONFIG) | {"latent_codes": (3, 4), "prior.bandwidth": (1,), "prior.factor": (2, 4)}
    header: Header = {"__metadata__": {CONFIG_KEY: json.dumps(CONFIG if config is None else config)}}
    place = 0
    for name, shape in shapes.items():
        size = 4 * math.prod(shape)
        header[name] = {"dtype": "F32", "shape": list(shape), "data_offsets": [place, place + size]}
        place += size
    if change is not None:
        change(header)
    text = json.dumps(header).encode()
    data = struct.pack("<f", 0.5) * (place // 4 - 1) + struct.pack("<f", number)
    content = struct.pack("<Q", len(text) if length is None else length) + text + data + tail
    return content[: len(content) - cut]


def raw_header(text: bytes, data: bytes = b"") -> bytes:
    return struct.pack("<Q", len(text)) + text + data


def edit(name: str, **members: Any) -> Callable[[Header], object]:
    return lambda header: header[name].update(members)


MODELS: dict[str, Case] = {
    "empty": lambda: b"",
    "four bytes": lambda: b"\x04\0\0\0",
    "header longer than the file": lambda: weights(length=10**6 - 1),
    "header of 2^64 - 1 bytes": lambda: weights(length=2**64 - 1),
    "header of nothing": lambda: weights(length=0),
    "header that is no JSON": lambda: raw_header(b"{" * 100),
    "header that is an array": lambda: raw_header(b"[]"),
    "header 10^5 deep": lambda: raw_header(b'{"a":' * 100_000 + b"}" * 100_000),
    "a million tensors": lambda: raw_header(
        json.dumps({str(k): {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]} for k in range(12_000)}).encode()
    ),
    "two tensors of one name": lambda: raw_header(b'{"a": {"dtype": "F32"}, "a": {"dtype": "F32"}}'),
    "a pickle": lambda: b"\x80\x04\x95\x1c\0\0\0\0\0\0\0\x8c\x05posix\x8c\x06system\x93\x8c\x02id\x85R." * 4,
    "a zip of pickles": lambda: b"PK\3\4archive/data.pkl" + bytes(500),
    "tensors that overlap": lambda: weights(edit("decoder.out_bias", data_offsets=[0, 4])),
    "tensors with gaps": lambda: weights(edit("decoder.out_bias", data_offsets=[10**6, 10**6 + 4])),
    "offsets below zero": lambda: weights(edit("decoder.out_bias", data_offsets=[-4, 0])),
    "offsets turned round": lambda: weights(edit("decoder.out_bias", data_offsets=[8, 4])),
    "offsets of 2^63": lambda: weights(edit("decoder.out_bias", data_offsets=[2**63, 2**63 + 4])),
    "offsets that are text": lambda: weights(edit("decoder.out_bias", data_offsets=["0", "4"])),
    "a shape that does not fit its bytes": lambda: weights(edit("decoder.out_bias", shape=[2])),
    "a shape of 2^62": lambda: weights(edit("decoder.out_bias", shape=[2**31, 2**31])),
    "a shape below zero": lambda: weights(edit("decoder.out_bias", shape=[-1])),
    "a shape of 10^5 axes": lambda: weights(edit("decoder.out_bias", shape=[1] * 100_000)),
    "a scalar": lambda: weights(edit("decoder.out_bias", shape=[])),
    "doubles": lambda: weights(edit("decoder.out_bias", dtype="F64")),
    "halves": lambda: weights(edit("decoder.out_bias", dtype="BF16")),
    "a tensor missing": lambda: weights(lambda header: header.pop("decoder.out_bias")),
    "a tensor too many": lambda: weights(lambda header: header.update(evil=header["decoder.out_bias"])),
    "a tensor of another name": lambda: weights(lambda header: header.update(evil=header.pop("decoder.out_bias"))),
    "two tensors exchanged": lambda: weights(
        lambda header: header.update(
            {"decoder.mix.bias": header["decoder.mix.weight"], "decoder.mix.weight": header["decoder.mix.bias"]}
        )
    ),
    "NaN": lambda: weights(number=math.nan),
    "infinity": lambda: weights(number=math.inf),
    "a tail": lambda: weights(tail=bytes(4)),
    "cut off": lambda: weights(cut=4),
    "no sizes": lambda: weights(lambda header: header.pop("__metadata__")),
    "sizes that are text": lambda: weights(edit("__metadata__", **{CONFIG_KEY: "{"})),
    "a width of 10^9": lambda: weights(config={**CONFIG, "width": 10**9}),
    "a depth of true": lambda: weights(config={**CONFIG, "depth": True}),
    "a frequency of NaN": lambda: weights(config={**CONFIG, "frequency": math.nan}),
    "a size of another name": lambda: weights(config={**CONFIG, "evil": 1}),
    "sizes of another network": lambda: weights(config={**CONFIG, "width": 16}),
}  # fmt: skip
