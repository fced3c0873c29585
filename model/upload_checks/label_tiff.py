"""Strict reader of label volumes in TIFF: whole numbers over (t, z, y, x), 0 is background.

Promises: sizes are checked against the length of the file before anything is unpacked. An unpacked strip or tile has
exactly the size that its directory declares, and declared sizes are bounded, so a file cannot grow in memory. The work
is bounded by counts (samples, pages, entries and values of directories), not by the speed of the machine. Plain and
deflate pages need Python's standard library only; other codecs and predictors import
:mod:`model.upload_checks.strip_codecs`.
Does not promise: to read pyramids, or codecs that lose information.

Formats: TIFF 6.0 (Aldus, 1992), BigTIFF, ImageJ's and OME's descriptions of axes.
"""

from __future__ import annotations

import json
import math
import struct
import zlib
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from types import ModuleType
from typing import Any, BinaryIO
from xml.etree import ElementTree

from model.errors import UploadError
from model.upload_checks.plain_copies import LabelsCopy, imagej_description, ome_description

SIDE_MIN, SIDE_MAX = 4, 2048  # samples along x, y and z
SAMPLES_MAX = 2**27  # of all frames
PAGES_MAX = 32_768
STRIPS_MAX = 65_536  # of one page
ENTRIES_MAX = 2**20  # of all directories: 32 for each of the largest number of pages
VALUES_MAX = 2**21  # of all directories that are read: offsets and sizes of strips, mostly
CHUNK = 4096  # bytes; a chunk equal to an earlier one is not checked again
CHUNKS_KEPT = 4096  # chunks remembered: 16 MiB
DESCRIPTION_MAX = 4 * 2**20  # bytes
LABEL_MAX = 2**63 - 1
LABELS_MAX = 65_535  # different ones
LABEL_WRITTEN_MAX = 65_535  # uint16; files with larger ones are renumbered
FLAT = "the cells are one voxel thick in every frame, so they have no shape in three dimensions"
RENUMBERED_SHOWN = 2000  # labels whose new number is told
SAID_MAX = 64  # characters of a number or a unit that a description gives
TILE_MIN, TILE_MAX = 16, 4096  # samples along x and y; TIFF 6.0 has multiples of 16
TILES_MAX = 2**17  # of all pages: those of 32 x 32 samples of the largest volume
PARTS_MAX = 2**19  # strips and tiles that other codecs or predictors unpack
UNPACKED_MAX = 2 * SAMPLES_MAX  # samples of all tiles, those beyond the border of the page included
ALLOWED = (
    f"a TIFF of grey pages of 8 to 64 bit integers or of floating point numbers that are whole, 0 for background, at "
    f"most {LABELS_MAX} labels, {SIDE_MIN} to {SIDE_MAX} samples a side and {SAMPLES_MAX:,} in all, a page a z-plane "
    "and frame after frame, in strips or tiles, uncompressed, deflate, LZW, PackBits or Zstandard; axes by ImageJ's or "
    "OME's description, else all pages are one volume"
)
_CODES = {1: "B", 2: "s", 3: "H", 4: "I", 5: "II", 16: "Q"}  # TIFF type → struct
_BYTES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 16: 8}
_ARRAYS = {(8, 1): "B", (8, 2): "b", (16, 1): "H", (16, 2): "h", (32, 1): "I", (32, 2): "i"}
_ARRAYS |= {(64, 1): "Q", (64, 2): "q", (32, 3): "f", (64, 3): "d"}
_WIDE = "Qqfd"
_EXACT = {"f": 2**24, "d": 2**53}  # up to here every whole number has a value of its own
_WIDTH, _HEIGHT, _BITS, _COMPRESSION, _DESCRIPTION, _OFFSETS, _SAMPLES, _ROWS, _COUNTS = (
    256, 257, 258, 259, 270, 273, 277, 278, 279,
)  # fmt: skip
_FILL_ORDER, _X_RESOLUTION, _Y_RESOLUTION, _PREDICTOR, _FORMAT = 266, 282, 283, 317, 339
_TILE_WIDTH, _TILE_HEIGHT, _TILE_OFFSETS, _TILE_COUNTS = 322, 323, 324, 325
_KNOWN = frozenset(
    {_WIDTH, _HEIGHT, _BITS, _COMPRESSION, _DESCRIPTION, _OFFSETS, _SAMPLES, _ROWS, _COUNTS, _X_RESOLUTION,
     _Y_RESOLUTION, _FILL_ORDER, _PREDICTOR, _FORMAT, _TILE_WIDTH, _TILE_HEIGHT, _TILE_OFFSETS, _TILE_COUNTS}
)  # fmt: skip
_PLAIN, _DEFLATE = 1, (8, 32946)
_OTHERS = (5, 32773, 50000)  # those of strip_codecs: LZW, PackBits, Zstandard
_REFUSED = {6: "JPEG", 7: "JPEG", 34712: "JPEG 2000", 34887: "LERC", 34925: "LZMA", 50001: "WebP", 50002: "JPEG XL"}
_DIFFERENCES, _FLOAT_DIFFERENCES = 2, 3  # predictors
_MICRONS = {  # units of length, without regard to case
    **dict.fromkeys(("µm", "um", "micron", "microns", "micrometer", "micrometers", "micrometre", "micrometres"), 1.0),
    **dict.fromkeys(("nm", "nanometer", "nanometers", "nanometre", "nanometres"), 1e-3),
    **dict.fromkeys(("mm", "millimeter", "millimeters", "millimetre", "millimetres"), 1e3),
    **dict.fromkeys(("cm", "centimeter", "centimeters", "centimetre", "centimetres"), 1e4),
    **dict.fromkeys(("m", "meter", "meters", "metre", "metres"), 1e6),
}
Tags = dict[int, tuple[int, ...]]


@dataclass(frozen=True)
class _Axes:
    """Axes as the description gives them.

    Attributes
    ----------
    voxel
        (x, y, z) in µm.
    order
        The number of the page of each plane, frame after frame; None: the pages are in that order.
    notes
        What was assumed.
    program
        Whose description it is: ``ImageJ``, ``OME``, ``shape`` (tifffile's), or empty for none.
    said
        What it says of scale and time, as it says it.
    """

    frames: int
    planes: int
    voxel: tuple[float | None, float | None, float | None] = (None, None, None)
    order: tuple[int, ...] | None = None
    notes: tuple[str, ...] = ()
    program: str = ""
    said: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class ReadLabels:
    """What a file of label volumes holds.

    Attributes
    ----------
    shape
        (T, Z, Y, X).
    found
        The labels, without 0.
    voxel
        (x, y, z) in µm; None where the file does not say.
    flat
        Whether in every frame that shows cells they lie in one layer of voxels; None if no frame shows any.
    notes
        What was assumed.
    """

    shape: tuple[int, int, int, int]
    found: set[int]
    touches_border: bool
    flat: bool | None
    voxel: tuple[float | None, float | None, float | None]
    notes: tuple[str, ...]


def read_labels(
    data: memoryview,
    *,
    copy: BinaryIO | None = None,
    after_import: Callable[[], None] = lambda: None,
) -> dict[str, Any]:
    """Return what a file of label volumes holds; labels over 65,535 are renumbered in the copy.

    Parameters
    ----------
    copy
        Gets a plain copy of the volumes (:mod:`model.upload_checks.plain_copies`).
    after_import
        Called once codecs beyond the standard library are imported, before they see the file; from then on nothing is
        imported.

    Returns
    -------
        ``axes``, ``shape`` (T, Z, Y, X), ``labels`` (how many in all), ``largest_label``, ``touches_border``, ``voxel``
        ((x, y, z) in µm, null where the file does not say); ``flat``, true where cells lie in one layer of voxels in
        every frame; ``renumbered`` (label → number), where labels are too large; ``notes``, where something was
        assumed.

    Raises
    ------
    UploadError
        If it holds anything else.
    """
    read = labels_of(data, copy=copy, after_import=after_import)
    facts = _facts(read)
    notes = [*read.notes, *([FLAT] if read.flat else [])]
    if (numbers := renumbering(read.found)) is not None:
        if copy is not None:
            copy.seek(0)
            copy.truncate()
            labels_of(data, copy=copy, numbers=numbers, after_import=after_import)
        note, facts["renumbered"] = numbers_of(numbers)
        notes.append(note)
    return facts | ({"notes": notes} if notes else {})


def read_frame_labels(
    data: memoryview,
    *,
    copy: BinaryIO | None = None,
    numbers: dict[int, int] | None = None,
    after_import: Callable[[], None] = lambda: None,
) -> dict[str, Any]:
    """Return what a file of a sequence holds that is sent file by file; it may show no cell.

    Labels have the same number in all files of the sequence, so the caller gives the numbers.

    Parameters
    ----------
    copy, numbers, after_import
        As of :func:`labels_of`.

    Returns
    -------
        As of :func:`read_labels`, and ``found``: the labels, ascending.

    Raises
    ------
    UploadError
        If it holds anything else.
    """
    read = labels_of(data, copy=copy, numbers=numbers, empty_frames=True, after_import=after_import)
    return _facts(read) | ({"notes": [*read.notes]} if read.notes else {}) | {"found": sorted(read.found)}


def _facts(read: ReadLabels) -> dict[str, Any]:
    facts: dict[str, Any] = {
        "axes": "TZYX", "shape": list(read.shape), "labels": len(read.found),
        "largest_label": max(read.found, default=0), "touches_border": read.touches_border, "voxel": list(read.voxel),
    }  # fmt: skip
    return facts | ({"flat": True} if read.flat else {})


def renumbering(found: set[int]) -> dict[int, int] | None:
    """Return the number of each label, from 1 in ascending order, if labels are too large; else None."""
    if max(found, default=0) <= LABEL_WRITTEN_MAX:
        return None
    return {label: number for number, label in enumerate(sorted(found), start=1)}


def numbers_of(numbers: dict[int, int]) -> tuple[str, dict[str, int]]:
    """Return a note on labels that were renumbered, and the numbers to show."""
    listed = {str(label): number for label, number in list(numbers.items())[:RENUMBERED_SHOWN]}
    note = (
        f"labels reach {max(numbers)}: they were renumbered from 1 to {len(numbers)}, in ascending order; renumbered "
        f"gives the number of each{f' of the first {RENUMBERED_SHOWN:,}' if len(numbers) > RENUMBERED_SHOWN else ''}"
    )
    return note, listed


def labels_of(
    data: memoryview,
    *,
    copy: BinaryIO | None = None,
    numbers: dict[int, int] | None = None,
    empty_frames: bool = False,
    samples_max: int = SAMPLES_MAX,
    after_import: Callable[[], None] = lambda: None,
) -> ReadLabels:
    """Read a file of label volumes.

    Parameters
    ----------
    copy
        Gets a plain copy where it stands; one that is of no use if a label is larger than 65,535 and has no number.
    numbers
        The new number of each label, ascending by label.
    empty_frames
        Whether a frame may hold no label.
    samples_max
        Samples that the file may hold.
    after_import
        As of :func:`read_labels`.

    Raises
    ------
    UploadError
        If it holds anything else.
    """
    file = _File(data, after_import)
    pages = list(file.directories())
    first = pages[0]
    width, height, code = _page_kind(first)
    description = file.text(first)
    contiguous = _contiguous(description, first, len(pages))
    count = contiguous or len(pages)
    if width * height * count > min(samples_max, SAMPLES_MAX):
        raise UploadError(f"{count} pages of {width} x {height} are {width * height * count:,} samples")
    axes = _axes(description, count, first)
    for name, side in (("x", width), ("y", height), ("z", axes.planes)):
        if not SIDE_MIN <= side <= SIDE_MAX:
            raise UploadError(f"the volumes have {side} samples along {name}")
    if contiguous:
        planes = file.contiguous(first, count, width * height * array(code).itemsize)
    else:
        for number, page in enumerate(pages):
            if _page_kind(page) != (width, height, code):
                raise UploadError(f"page {number} differs from the first in size or type")
        ordered = pages if axes.order is None else [pages[number] for number in axes.order]
        planes = (file.unpacked(page, width, height, code) for page in ordered)
    values = _Values(code, file, numbers)
    shape = (axes.frames, axes.planes, height, width)
    written = None if copy is None else LabelsCopy(copy, width=width, height=height, item=values.item)
    labels, border, flat = _labels(planes, axes, width, values, written, empty_frames=empty_frames)
    if written is not None:
        resolution = [tags for tag in (_X_RESOLUTION, _Y_RESOLUTION) if len(tags := first.get(tag, ())) == 2]
        scaled = axes.program == "ImageJ" and len(resolution) == 2
        written.finish(_description(axes, shape, 8 * values.item), resolution if scaled else ())
    rounded: tuple[str, ...] = ()
    if max(labels, default=0) >= _EXACT.get(code, LABEL_MAX + 1):
        rounded = (f"labels from {_EXACT[code]} on are not exact in floating point; neighbours may have become one",)
    return ReadLabels(shape, labels, border, flat, axes.voxel, (*axes.notes, *rounded))


def _description(axes: _Axes, shape: tuple[int, int, int, int], bits: int) -> str:
    """Return the description of a plain copy: axes and scale as the original has them, and nothing else."""
    if axes.program == "ImageJ":
        return imagej_description(axes.frames, axes.planes, axes.said)
    if axes.program == "OME":
        return ome_description(shape, bits, axes.said)
    if axes.program == "shape":
        sides = shape if len(axes.said["axes"]) == 4 else shape[1:]
        return json.dumps({"shape": sides} | ({"axes": axes.said["axes"]} if axes.said["named"] else {}))
    return ""


class _File:
    """The structure of a TIFF: directories and strips, every offset checked."""

    def __init__(self, data: memoryview, after_import: Callable[[], None]) -> None:
        self._data, self._after_import = data, after_import
        self._imported: ModuleType | None = None
        self._entries = self._values = self._unpacked = self._tiles_read = self._parts = 0
        mark = bytes(data[:4])
        if mark[:2] not in (b"II", b"MM") or len(data) < 8:
            raise UploadError("the file does not begin as a TIFF does")
        self.order = "<" if mark[:2] == b"II" else ">"
        self.swap = (self.order == "<") != (struct.pack("=H", 1) == b"\1\0")
        version = self._number("H", 2)
        if version == 42:
            self._first, self._count, self._entry, self._word = self._number("I", 4), "H", 12, "I"
        elif version == 43 and self._number("H", 4) == 8:
            self._first, self._count, self._entry, self._word = self._number("Q", 8), "Q", 20, "Q"
        else:
            raise UploadError(f"version {version} of TIFF is not known")

    def directories(self) -> Iterator[Tags]:
        """Yield the tags of each page."""
        seen: set[int] = set()
        offset = self._first
        while offset:
            if offset in seen:
                raise UploadError("the directories of the file go round in a circle")
            if len(seen) == PAGES_MAX:
                raise UploadError(f"the file has more than {PAGES_MAX} pages")
            seen.add(offset)
            entries = self._number(self._count, offset)
            self._entries += entries
            if entries > 512 or self._entries > ENTRIES_MAX:
                raise UploadError(
                    f"the directories of the file have more than {min(self._entries, ENTRIES_MAX)} entries"
                )
            start = offset + struct.calcsize(self._count)
            yield dict(self._tags(start, entries, first=len(seen) == 1))
            offset = self._number(self._word, start + entries * self._entry)
        if not seen:
            raise UploadError("the file has no pages")

    def text(self, tags: Tags) -> str:
        """Return the description of a page."""
        text = bytes(tags.get(_DESCRIPTION, ()))
        try:
            return text.decode("utf-8").rstrip("\0")
        except UnicodeDecodeError:  # the micro sign of older programs
            return text.decode("cp1252", "replace").rstrip("\0")

    def unpacked(self, tags: Tags, width: int, height: int, code: str) -> bytes:
        """Return the samples of a page, exactly as many as it declares."""
        if _TILE_WIDTH in tags:
            return self._tiles(tags, width, height, code)
        rows = min(one(tags, _ROWS, height) or height, height)
        offsets, counts = tags.get(_OFFSETS, ()), tags.get(_COUNTS, ())
        strips = -(-height // rows)
        if not len(offsets) == len(counts) == strips:
            raise UploadError(f"a page of {height} rows has {len(offsets)} strips of {rows}")
        return b"".join(
            self._part(tags, offset, count, width=width, rows=min(rows, height - strip * rows), code=code)
            for strip, (offset, count) in enumerate(zip(offsets, counts, strict=True))
        )

    def _tiles(self, tags: Tags, width: int, height: int, code: str) -> bytes:
        """Return the samples of a page in tiles, without what lies beyond its border."""
        across, down = one(tags, _TILE_WIDTH), one(tags, _TILE_HEIGHT)
        offsets, counts = tags.get(_TILE_OFFSETS, ()), tags.get(_TILE_COUNTS, ())
        columns = -(-width // across)
        if not len(offsets) == len(counts) == columns * -(-height // down):
            raise UploadError(f"a page of {width} x {height} has {len(offsets)} tiles of {across} x {down}")
        self._tiles_read += len(offsets)
        if self._tiles_read > TILES_MAX:
            raise UploadError(f"the file has more than {TILES_MAX:,} tiles; use larger ones")
        self._unpacked += len(offsets) * across * down
        if self._unpacked > UNPACKED_MAX:
            raise UploadError(f"the tiles hold more than {UNPACKED_MAX:,} samples, those beyond the border included")
        item = array(code).itemsize
        page = bytearray(width * height * item)
        for number, (offset, count) in enumerate(zip(offsets, counts, strict=True)):
            tile = self._part(tags, offset, count, width=across, rows=down, code=code)
            left, top = number % columns * across, number // columns * down
            length = min(across, width - left) * item
            for row in range(min(down, height - top)):
                start = ((top + row) * width + left) * item
                page[start : start + length] = tile[row * across * item : row * across * item + length]
        return bytes(page)

    def _part(self, tags: Tags, offset: int, count: int, *, width: int, rows: int, code: str) -> bytes:
        """Return the samples of a strip or tile, rows of ``width``, exactly as many as there must be."""
        compression, predictor = one(tags, _COMPRESSION, 1), one(tags, _PREDICTOR, 1)
        wanted = rows * width * array(code).itemsize
        # No codec makes anything larger but by half: more is not read, it would be copied for each strip.
        if count > (wanted if compression == _PLAIN else 2 * wanted + 1024):
            raise UploadError(f"a strip or tile of {wanted} bytes takes {count}")
        if predictor != 1 or compression in _OTHERS:
            self._parts += 1
            if self._parts > PARTS_MAX:
                raise UploadError(f"the file has more than {PARTS_MAX:,} compressed strips; use larger ones")
        packed = self._bytes(offset, count)
        # One byte more than wanted is unpacked at most: a bomb stays small.
        if compression == _PLAIN:
            part = bytes(packed)
        elif compression in _DEFLATE:
            part = zlib.decompressobj().decompress(packed, wanted + 1)
        else:
            part = self.codecs().unpacked(packed, compression, most=wanted + 1)
        if len(part) != wanted:
            raise UploadError(f"a strip or tile of {wanted} bytes holds {'more' if len(part) > wanted else 'fewer'}")
        if predictor == 1:
            return part
        undo = self.codecs().summed if predictor == _DIFFERENCES else self.codecs().float_summed
        plain: bytes = undo(part, width, code, order=self.order)
        return plain

    @property
    def codecs_are_imported(self) -> bool:
        """Whether a page needed codecs that Python's standard library does not have."""
        return self._imported is not None

    def codecs(self) -> ModuleType:
        """Import the codecs that Python's standard library does not have.

        Raises
        ------
        UploadError
            If they are not installed.
        """
        if self._imported is None:
            try:
                self._imported = import_module("model.upload_checks.strip_codecs")
            except ImportError:
                raise UploadError(
                    "this installation reads plain and deflate pages of integers of up to 32 bits only"
                ) from None
            self._after_import()
        return self._imported

    def contiguous(self, tags: Tags, count: int, size: int) -> Iterator[bytes]:
        """Yield pages that follow each other behind one directory, as ImageJ writes long stacks."""
        start = tags[_OFFSETS][0]
        self._bytes(start, count * size)
        return (bytes(self._bytes(start + number * size, size)) for number in range(count))

    def _tags(self, start: int, entries: int, *, first: bool) -> Iterator[tuple[int, tuple[int, ...]]]:
        inline = struct.calcsize(self._word)
        for number in range(entries):
            place = start + number * self._entry
            tag, kind = self._number("H", place), self._number("H", place + 2)
            if tag not in _KNOWN or (tag == _DESCRIPTION and not first):
                continue
            count = self._number(self._word, place + 4)
            if kind not in _CODES or count > (DESCRIPTION_MAX if tag == _DESCRIPTION else STRIPS_MAX):
                raise UploadError(f"tag {tag} has {count} values of type {kind}")
            self._values += 0 if tag == _DESCRIPTION else count
            if self._values > VALUES_MAX:
                raise UploadError(f"the directories of the file have more than {VALUES_MAX:,} values (small strips?)")
            size = _BYTES[kind] * count
            value = place + 4 + inline
            raw = self._bytes(value if size <= inline else self._number(self._word, value), size)
            if kind in (1, 2):
                yield tag, tuple(raw)
                continue
            code = _CODES[kind]
            yield tag, struct.unpack(f"{self.order}{count * len(code)}{code[0]}", raw)

    def _number(self, code: str, offset: int) -> int:
        number: int = struct.unpack(self.order + code, self._bytes(offset, struct.calcsize(code)))[0]
        return number

    def _bytes(self, offset: int, count: int) -> memoryview:
        if offset + count > len(self._data):
            raise UploadError("the file is cut off: it points behind its own end")
        return self._data[offset : offset + count]


def one(tags: Tags, tag: int, default: int = 0) -> int:
    """Return the first value of a tag."""
    return tags.get(tag, (default,))[0] if tags.get(tag, (default,)) else default


def _page_kind(tags: Tags) -> tuple[int, int, str]:
    """Return width, height and the array type of a page, after refusing what labels cannot be."""
    width, height = one(tags, _WIDTH), one(tags, _HEIGHT)
    if not (1 <= width <= SIDE_MAX and 1 <= height <= SIDE_MAX):
        raise UploadError(f"a page has {width} x {height} samples")
    if {_TILE_WIDTH, _TILE_HEIGHT} & tags.keys():
        sides = one(tags, _TILE_WIDTH), one(tags, _TILE_HEIGHT)
        if _OFFSETS in tags or _COUNTS in tags:
            raise UploadError("a page is both in strips and in tiles")
        if not all(TILE_MIN <= side <= TILE_MAX and side % TILE_MIN == 0 for side in sides):
            raise UploadError(f"a page has tiles of {sides[0]} x {sides[1]} samples")
    if one(tags, _SAMPLES, 1) != 1:
        raise UploadError(f"a sample has {one(tags, _SAMPLES)} values (colours?)")
    bits, form = one(tags, _BITS, 1), one(tags, _FORMAT, 1)
    if (bits, form) not in _ARRAYS:
        names = {
            1: "unsigned integers",
            2: "integers",
            3: "floating point numbers",
            5: "complex integers",
            6: "complex",
        }
        raise UploadError(f"the samples are {names.get(form, 'of an unknown type')} of {bits} bits")
    codec, predictor = one(tags, _COMPRESSION, 1), one(tags, _PREDICTOR, 1)
    if codec not in (_PLAIN, *_DEFLATE, *_OTHERS):
        raise UploadError(f"the pages are compressed by {_REFUSED.get(codec, f'codec {codec}')}")
    if predictor not in (1, _FLOAT_DIFFERENCES if form == 3 else _DIFFERENCES) or (codec == _PLAIN and predictor != 1):
        raise UploadError(f"the pages have predictor {predictor}, which samples of this kind cannot have")
    if one(tags, _FILL_ORDER, 1) != 1:
        raise UploadError("the bits of each byte are in reversed order")
    return width, height, _ARRAYS[bits, form]


def _contiguous(description: str, tags: Tags, pages: int) -> int:
    """Return how many pages ImageJ put behind one directory; 0: every page has its own."""
    images = _imagej(description).get("images", "1")
    if pages > 1 or not images.isdigit() or len(images) > 9 or int(images) < 2:
        return 0
    if one(tags, _COMPRESSION, 1) != 1 or not tags.get(_OFFSETS):
        raise UploadError(f"the description speaks of {images} pages, but there is one")
    return int(images)


def _axes(description: str, pages: int, tags: Tags) -> _Axes:
    fields = _imagej(description)
    if fields:
        axes = _imagej_axes(fields, tags)
    elif "<OME" in description:
        axes = _ome_axes(description)
    elif description.startswith('{"shape"'):
        axes = _shape_axes(json.loads(description))
    else:
        axes = _Axes(1, pages)
    if axes.frames < 1 or axes.planes < 1 or axes.frames * axes.planes != pages:
        raise UploadError(
            f"the description speaks of {axes.frames} frames of {axes.planes} planes, the file has {pages} pages"
        )
    for size in axes.voxel:
        if size is not None and not (math.isfinite(size) and 1e-6 <= size <= 1e6):
            raise UploadError("the size of a voxel must be between 1e-6 and 1e6 µm")
    return axes


def _shape_axes(said: Any) -> _Axes:
    """Read the description that tifffile writes: a shape, and the names of its axes where they were given."""
    shape, named = said["shape"], said.get("axes", "")
    if len(shape) not in (3, 4) or named not in ("", "TZYX"[-len(shape) :], "QZYX"[-len(shape) :]):
        raise UploadError("the description gives other axes than (t, z, y, x) and (z, y, x)")
    frames, planes = [1, *shape][-4:-2]
    return _Axes(frames, planes, program="shape", said={"axes": "TZYX"[-len(shape) :], "named": named})


def _imagej(description: str) -> dict[str, str]:
    if not description.startswith("ImageJ="):
        return {}
    return dict(line.split("=", 1) for line in description.splitlines() if "=" in line)


def _imagej_axes(fields: dict[str, str], tags: Tags) -> _Axes:
    if int(fields.get("channels", "1")) != 1:
        raise UploadError("the stack has several channels")
    frames, planes = int(fields.get("frames", "1")), int(fields.get("slices", "1"))
    unit = _unit(fields.get("unit", ""))
    said = _said(fields, ("unit", "spacing", "finterval", "tunit"))
    if unit is None:
        return _Axes(frames, planes, program="ImageJ", said=said)
    sides = [length and length * unit for length in (_length(tags.get(tag)) for tag in (_X_RESOLUTION, _Y_RESOLUTION))]
    if "spacing" in fields or planes == 1:
        notes: tuple[str, ...] = ()
        spacing = float(fields.get("spacing", 1.0))
    else:
        # ImageJ writes no line when the step is 1.0 of the unit, and reads a missing one so
        # (ij.io.FileSaver.getDescriptionString).
        spacing, notes = 1.0, (f"the step along z was taken to be 1 {fields['unit']}: ImageJ writes no spacing for it",)
    voxel = (sides[0], sides[1], spacing * unit)
    return _Axes(frames, planes, voxel, notes=notes, program="ImageJ", said=said)


def _said(fields: Mapping[str, str], names: Iterable[str]) -> dict[str, str]:
    """Return what a description says under some names, if that is short and can be printed."""
    return {
        name: fields[name]
        for name in names
        if name in fields and len(fields[name]) <= SAID_MAX and fields[name].isprintable()
    }


def _unit(name: str) -> float | None:
    """Return a unit of length in µm; None where it is none."""
    for escaped in ("\\u00B5", "\\u00b5"):  # as ImageJ writes the micro sign
        name = name.replace(escaped, "µ")
    return _MICRONS.get(name.strip().casefold().replace("\u03bc", "µ"))


def _length(resolution: tuple[int, ...] | None) -> float | None:
    if not resolution or len(resolution) != 2:
        return None
    samples, units = resolution
    return units / samples if samples else math.inf


def _ome_axes(description: str) -> _Axes:
    if "<!DOCTYPE" in description or "<!ENTITY" in description:
        raise UploadError("the OME description defines entities of its own")
    pixels = ElementTree.fromstring(description).find("{*}Image/{*}Pixels")
    if pixels is None:
        raise UploadError("the OME description has no Pixels")
    frames, planes, channels = (int(pixels.attrib[f"Size{axis}"]) for axis in "TZC")
    if channels != 1:
        raise UploadError(f"the image has {channels} channels")
    if not (1 <= frames <= PAGES_MAX and 1 <= planes <= PAGES_MAX and frames * planes <= PAGES_MAX):
        raise UploadError(f"the description speaks of {frames} frames of {planes} planes")
    sizes = []
    for axis in "XYZ":
        text, unit = pixels.get(f"PhysicalSize{axis}"), _unit(pixels.get(f"PhysicalSize{axis}Unit", "µm"))
        sizes.append(float(text) * (math.nan if unit is None else unit) if text else None)
    order = _ome_order(pixels, frames, planes)
    names = [f"PhysicalSize{axis}{unit}" for axis in "XYZ" for unit in ("", "Unit")]
    said = _said(pixels.attrib, [*names, "TimeIncrement", "TimeIncrementUnit"])
    return _Axes(frames, planes, (sizes[0], sizes[1], sizes[2]), order=order, program="OME", said=said)


def _ome_order(pixels: ElementTree.Element, frames: int, planes: int) -> tuple[int, ...]:
    """Return the page of each plane, frame after frame: the TiffData elements say it, not the order of the pages."""
    dimensions = pixels.attrib["DimensionOrder"].replace("C", "")
    if dimensions not in ("XYZT", "XYTZ"):
        raise UploadError(f"the order of dimensions {pixels.attrib['DimensionOrder'][:16]!r} is not known")
    total = frames * planes

    def place(number: int) -> int:  # of the n-th plane in the file's own order, in frame after frame
        return number if dimensions == "XYZT" else number % frames * planes + number // frames

    blocks = pixels.findall("{*}TiffData")
    if not blocks:
        return tuple(sorted(range(total), key=place))
    if len({name.text for name in pixels.iterfind("{*}TiffData/{*}UUID")}) > 1:
        raise UploadError("the image is spread over several files; send one file that holds all planes")
    pages: dict[int, int] = {}
    left = total
    for block in blocks:
        first_z, first_t = int(block.get("FirstZ", "0")), int(block.get("FirstT", "0"))
        ifd = block.get("IFD")
        count = int(block.get("PlaneCount", "1" if ifd is not None else str(total)))
        start = first_z + planes * first_t if dimensions == "XYZT" else first_t + frames * first_z
        if not (start >= 0 and 1 <= count <= min(total - start, left) and 0 <= int(ifd or 0) <= PAGES_MAX):
            raise UploadError("the description names planes that the image does not have")
        left -= count
        for step in range(count):
            pages[place(start + step)] = int(ifd or 0) + step
    if sorted(pages) != list(range(total)) or sorted(pages.values()) != list(range(total)):
        raise UploadError("the description does not give each plane a page of its own")
    return tuple(pages[number] for number in range(total))


def _labels(
    planes: Iterator[bytes], axes: _Axes, width: int, values: _Values, copy: LabelsCopy | None, *, empty_frames: bool
) -> tuple[set[int], bool, bool | None]:
    """Collect the labels of all frames, and copy them; also whether a cell touches the border of its volume.

    Last, whether cells lie in one layer of voxels in every frame that shows any; None if no frame does.
    """
    touches = False
    flat: bool | None = None
    for frame in range(axes.frames):
        labelled = False
        box = _Box(width * values.sample_bytes, values.sample_bytes)
        for plane in range(axes.planes):
            samples = next(planes)
            here = values.add(samples)
            labelled = labelled or here
            if here and flat is not False:
                box.add(samples)
            outer = plane in (0, axes.planes - 1)
            touches = touches or (here and (outer or values.at_edge(samples, width)))
            if len(values.found) > LABELS_MAX + 1:
                raise UploadError(f"the file holds more than {LABELS_MAX} different labels (is it an image?)")
            if min(values.found) < 0 or max(values.found) > LABEL_MAX:
                wrong = min(values.found) if min(values.found) < 0 else max(values.found)
                raise UploadError(f"frame {frame} holds the label {wrong}")
            if copy is not None and values.can_be_written:
                copy.add(values.written(samples))
        if not labelled and not empty_frames:
            raise UploadError(f"frame {frame} holds no label, all its samples are 0: leave the frame out")
        if labelled and flat is not False:
            flat = box.is_flat
    if 0 not in values.found:
        raise UploadError("no sample is 0: there is no background")
    return values.found - {0}, touches, flat


class _Box:
    """The box around all cells of a frame, in voxels, as far as it takes to see that it is no single layer.

    Parameters
    ----------
    row, item
        Bytes of a row, and of a sample.
    """

    def __init__(self, row: int, item: int) -> None:
        self._row, self._item = row, item
        self._planes = 0
        self._rows: set[int] = set()
        self._columns: set[int] = set()

    @property
    def is_flat(self) -> bool:
        """Whether the cells lie in one layer along an axis."""
        return min(self._planes, len(self._rows), len(self._columns)) < 2

    def add(self, samples: bytes) -> None:
        """Add a plane that shows cells; two rows and two columns are enough to know."""
        self._planes += 1
        for number, start in enumerate(range(0, len(samples), self._row)):
            if len(self._rows) > 1 and len(self._columns) > 1:
                return
            row = samples[start : start + self._row]
            if row.count(0) != len(row):
                self._rows.add(number)
                first, last = self._row - len(row.lstrip(b"\0")), len(row.rstrip(b"\0")) - 1
                self._columns |= {first // self._item, last // self._item}


class _Values:
    """The values among samples.

    Integers of up to 32 bits need the standard library only: chunks that repeat are compared as bytes, much faster than
    number by number. For others, and where codecs are imported anyway, NumPy does it.
    """

    def __init__(self, code: str, file: _File, numbers: dict[int, int] | None = None) -> None:
        self.found: set[int] = set()
        self._code, self._file, self._new_numbers = code, file, numbers
        self._seen: dict[bytes, bool] = {}  # chunk → whether it has a value other than 0

    @property
    def sample_bytes(self) -> int:
        """Bytes of a sample in the file."""
        return array(self._code).itemsize

    @property
    def item(self) -> int:
        """Bytes of a sample in a copy."""
        return 2 if self._code in _WIDE or self._new_numbers is not None else array(self._code).itemsize

    @property
    def can_be_written(self) -> bool:
        """Whether all labels so far have a number that a copy can hold."""
        return self._new_numbers is not None or max(self.found) <= LABEL_WRITTEN_MAX

    def written(self, samples: bytes) -> bytes:
        """Return a plane as a copy holds it: little-endian, of :attr:`item` bytes, with the new numbers."""
        if self._new_numbers is not None or self._code in _WIDE:
            short: bytes = self._file.codecs().shortened(
                samples, self._code, order=self._file.order, numbers=self._new_numbers
            )
            return short
        if self._file.order == "<" or array(self._code).itemsize == 1:
            return samples
        numbers = array(self._code, samples)
        numbers.byteswap()
        return numbers.tobytes()

    def add(self, samples: bytes) -> bool:
        """Add one plane; return whether it has a value other than 0.

        Raises
        ------
        UploadError
            If a value is not whole.
        """
        if self._code in _WIDE or self._file.codecs_are_imported:
            here: set[int] = self._file.codecs().distinct(
                samples, self._code, order=self._file.order, most=LABELS_MAX + 2
            )
            self.found |= here
            return here != {0}
        labelled = False
        for start in range(0, len(samples), CHUNK):
            chunk = samples[start : start + CHUNK]
            known = self._seen.get(chunk)
            if known is None:
                known = chunk.count(0) != len(chunk)
                if len(self._seen) == CHUNKS_KEPT:
                    self._seen.clear()
                self._seen[chunk] = known
                self.found.update(self._numbers(chunk))
            labelled = labelled or known
        return labelled

    def at_edge(self, samples: bytes, width: int) -> bool:
        """Return whether a value at the edge of a plane is not 0."""
        numbers = self._numbers(samples)
        return any(map(any, (numbers[:width], numbers[-width:], numbers[::width], numbers[width - 1 :: width])))

    def _numbers(self, samples: bytes) -> array[Any]:
        numbers = array(self._code)
        numbers.frombytes(samples)
        if self._file.swap:
            numbers.byteswap()
        return numbers
