"""Label volumes as OME-TIFF: one file a cell, ``labels.ome.tif``, written page by page.

Classic TIFF, or BigTIFF where the file could exceed 4 GiB. The OME-XML stands in the first page and names axes, voxel
size in µm, and the time of each frame in minutes.

Promises: the file is written forward only, with one frame in memory; the same volumes give the same bytes.

References
----------
OME-TIFF specification and OME schema 2016-06; TIFF revision 6.0, Adobe 1992; Adobe Photoshop TIFF Technical Notes 2002;
BigTIFF by AWare Systems.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from xml.sax.saxutils import quoteattr

import numpy as np
import tifffile

from model.encoding.plane_tiff import deflated_planes
from model.errors import ExportError
from model.output.exporter import CellFiles, ExportFrame, HashedFile, WriteFrame
from model.output.manifest import WrittenCell

NAME = "labels.ome.tif"
LIMIT = 2**32 - 2**20  # bytes up to which classic TIFF is used, for data that may not be compressible
PAGE = 512  # bytes of a page's directory, at most
_ASCII, _SHORT, _LONG, _LONG8 = 2, 3, 4, 16
_BYTES = {_ASCII: 1, _SHORT: 2, _LONG: 4, _LONG8: 8}


@contextmanager
def open_writer(cell: CellFiles) -> Iterator[WriteFrame]:
    """Write the label volumes of all frames.

    Raises
    ------
    ExportError
        If the file cannot be written, or is left before its last frame.
    """
    exporter = cell.exporter
    nx, ny, nz = exporter.grid.shape
    pages = len(cell.times) * nz
    big = pages * (2 * nx * ny + PAGE) + 200 * pages > LIMIT
    minutes = [exporter.minutes_at(time) for time in cell.times]
    description = describe((len(cell.times), nz, ny, nx), spacing=exporter.units.spacing, minutes=minutes)
    with exporter.open(f"{cell.name}/{NAME}") as file:
        writer = PageWriter(file, pages=pages, shape=(ny, nx), big=big, description=description.encode("utf-8") + b"\0")

        def write(frame: ExportFrame) -> None:
            for strip in frame.once(deflated_planes):
                writer.append(strip)

        yield write
        writer.close()


def describe(shape: tuple[int, int, int, int], *, spacing: list[float], minutes: list[float]) -> str:
    """Return the OME-XML of a label volume over time.

    Parameters
    ----------
    shape
        (T, Z, Y, X).
    spacing
        Distance of neighbouring voxels along x, y and z in µm.
    minutes
        Time of each frame.
    """
    frames, slices, height, width = shape
    sizes = {
        "SizeX": width, "SizeY": height, "SizeZ": slices, "SizeC": 1, "SizeT": frames,
        "PhysicalSizeX": spacing[0], "PhysicalSizeY": spacing[1], "PhysicalSizeZ": spacing[2],
    }  # fmt: skip
    gaps = np.diff(minutes)
    if len(gaps) and np.ptp(gaps) <= 1e-5 * gaps.max():
        sizes["TimeIncrement"] = float(f"{gaps.mean():.9g}")
    units = {f"PhysicalSize{axis}Unit": "µm" for axis in "XYZ"} | {"TimeIncrementUnit": "min"}
    attributes = "".join(f" {name}={quoteattr(str(value))}" for name, value in (sizes | units).items())
    planes = "".join(
        f'<Plane TheC="0" TheT="{t}" TheZ="{z}" DeltaT="{minutes[t]:.9g}" DeltaTUnit="min"/>'
        for t in range(frames)
        for z in ((0,) if "TimeIncrement" in sizes else range(slices))
    )
    return (
        '<?xml version="1.0" encoding="UTF-8"?>'
        '<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06" '
        'xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance" xsi:schemaLocation='
        '"http://www.openmicroscopy.org/Schemas/OME/2016-06 http://www.openmicroscopy.org/Schemas/OME/2016-06/ome.xsd" '
        'Creator="cytosynth"><Image ID="Image:0" Name="labels">'
        f'<Pixels ID="Pixels:0" DimensionOrder="XYZCT" Type="uint16" BigEndian="false"{attributes}>'
        '<Channel ID="Channel:0:0" Name="labels" SamplesPerPixel="1"/>'
        f'<TiffData FirstC="0" FirstT="0" FirstZ="0" IFD="0" PlaneCount="{frames * slices}"/>{planes}'
        "</Pixels></Image></OME>"
    )


class PageWriter:
    """Writes uint16 planes as the pages of one TIFF, each one zlib-compressed strip.

    Parameters
    ----------
    file
        Empty, to be written forward only.
    pages
        How many will come.
    shape
        (Y, X) of each.
    big
        BigTIFF, whose offsets have 64 bits.
    description
        Of the first page, with a closing zero.
    """

    def __init__(self, file: HashedFile, *, pages: int, shape: tuple[int, int], big: bool, description: bytes) -> None:
        self._file, self._left, self._shape, self._big = file, pages, shape, big
        self._description = description
        self._file.write(struct.pack("<2sHHHQ", b"II", 43, 8, 0, 16) if big else struct.pack("<2sHI", b"II", 42, 8))

    def append(self, strip: bytes) -> None:
        """Append one plane, compressed with zlib.

        Raises
        ------
        ExportError
            If all pages are written, or classic TIFF cannot hold this one.
        """
        if self._left == 0:
            raise ExportError("the OME-TIFF already holds all of its planes")
        self._left -= 1
        if self._description:
            word = _LONG8 if self._big else _LONG
            fields = [*self._fields, (270, _ASCII, self._description), (279, word, _packed(word, [len(strip)]))]
            self._description = b""
            self._file.write(self._directory(sorted(fields), strip))
        else:
            self._file.write(self._plain_directory(strip))

    @cached_property
    def _fields(self) -> list[tuple[int, int, bytes]]:
        """Tags that all pages have alike; the strip's offset is filled in later, its size is lacking."""
        height, width = self._shape
        entries = [
            (256, _SHORT, width), (257, _SHORT, height), (258, _SHORT, 16), (259, _SHORT, 8), (262, _SHORT, 1),
            (273, _LONG8 if self._big else _LONG, 0), (277, _SHORT, 1), (278, _SHORT, height), (339, _SHORT, 1),
        ]  # fmt: skip
        return [(tag, kind, _packed(kind, [value])) for tag, kind, value in entries]

    @cached_property
    def _template(self) -> tuple[struct.Struct, bytes, bytes, bytes]:
        """Layout of a page without description, and what stands before, between and behind its offset and size."""
        count, entry, word, inline = ("<Q", "<HHQ", "Q", 8) if self._big else ("<H", "<HHI", "I", 4)
        kind = _LONG8 if self._big else _LONG
        page = struct.pack(count, len(self._fields) + 1)
        ends = []
        for tag, of, value in sorted([*self._fields, (279, kind, bytes(inline))]):
            page += struct.pack(entry, tag, of, len(value) // _BYTES[of])
            ends += [len(page)] if tag in (273, 279) else []
            page += value.ljust(inline, b"\0")
        offset, size = ends
        parts = page[:offset], page[offset + inline : size], page[size + inline :]
        first, between, last = parts
        return struct.Struct(f"<{len(first)}s{word}{len(between)}s{word}{len(last)}s{word}"), *parts

    def _plain_directory(self, strip: bytes) -> bytes:
        """Return a page without description, whose values all stand in its directory."""
        layout, first, between, last = self._template
        strip_at = self._file.size + layout.size
        end = self._checked_end(strip_at, strip)
        page = layout.pack(first, strip_at, between, len(strip), last, end if self._left else 0)
        return page + _even(strip)

    def _checked_end(self, strip_at: int, strip: bytes) -> int:
        """Return where the next page begins."""
        end = strip_at + len(strip) + len(strip) % 2
        if not self._big and end >= 2**32:
            raise ExportError("the label volumes of one cell exceed 4 GiB; ask for fewer frames or a coarser grid")
        return end

    def _directory(self, fields: list[tuple[int, int, bytes]], strip: bytes) -> bytes:
        """Return a page: its directory, the values too long to stand in it, the strip; everything at even offsets."""
        count, entry, word, inline = ("<Q", "<HHQ", "<Q", 8) if self._big else ("<H", "<HHI", "<I", 4)
        start = self._file.size
        behind = start + struct.calcsize(count) + len(fields) * (struct.calcsize(entry) + inline) + inline
        long_values = b"".join(_even(value) for _, _, value in fields if len(value) > inline)
        strip_at = behind + len(long_values)
        end = self._checked_end(strip_at, strip)
        page = struct.pack(count, len(fields))
        for tag, kind, value in fields:
            number = len(value) // _BYTES[kind]
            if tag == 273:
                value = struct.pack(word, strip_at)
            elif len(value) > inline:
                value, behind = struct.pack(word, behind), behind + len(_even(value))
            page += struct.pack(entry, tag, kind, number) + value.ljust(inline, b"\0")
        return page + struct.pack(word, end if self._left else 0) + long_values + _even(strip)

    def close(self) -> None:
        """Check that all pages were written; the caller closes the file.

        Raises
        ------
        ExportError
            If some are missing.
        """
        if self._left:
            raise ExportError(f"the OME-TIFF lacks {self._left} planes")


def _packed(kind: int, values: list[int]) -> bytes:
    return struct.pack(f"<{len(values)}{ {_SHORT: 'H', _LONG: 'I', _LONG8: 'Q'}[kind] }", *values)


def _even(value: bytes) -> bytes:
    return value + b"\0" * (len(value) % 2)


def find_faults(written: WrittenCell) -> Iterator[str]:
    """Read the file back with tifffile and compare axes, type, voxel size and labels with the manifest."""
    for name in written.files:
        with tifffile.TiffFile(written.folder / name) as tiff:
            series = tiff.series[0]
            axes = series.get_axes(squeeze=False)
            if not tiff.is_ome or axes != "TCZYXS" or series.dtype != np.uint16:
                yield f"{name}: {axes} {series.dtype}, not TCZYX uint16 of OME-TIFF"
                continue
            frames, _, slices = series.get_shape(squeeze=False)[:3]
            for number, frame in enumerate(written.entry.frames[:frames]):
                pages = tiff.pages[number * slices : (number + 1) * slices]
                found = sorted({int(label) for page in pages for label in np.unique(page.asarray())} - {0})
                if found != frame["labels"]:
                    yield f"{name}: frame {number} holds labels {found}, the manifest says {frame['labels']}"
        if frames != len(written.entry.frames):
            yield f"{name}: {frames} frames, the manifest says {len(written.entry.frames)}"
