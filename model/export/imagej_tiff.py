"""TIFF hyperstacks for ImageJ, written page by page.

``tifffile.TiffWriter`` is not used: it seeks back to fill in counts, so that checksums cannot be computed while
writing.

Promises: ImageJ and tifffile read axes TZYX, the spacing in µm, the frame interval, the origin, and as *Info* the spec
of this cell. ImageJ shows each label up to 255 in a colour of its own. The file is written forward only, with one frame
in memory. The same volumes and spec give the same bytes.
Does not promise: files over 4 GiB. ImageJ does not read its own hyperstacks from BigTIFF, so they are refused. Labels
above 255 have the colour of 255.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray

from model.encoding.plane_tiff import deflate_planes, deflated_planes
from model.errors import ExportError
from model.output.exporter import CellFiles, WriteFrame
from model.output.manifest import CellEntry, WrittenCell
from model.rendering.label_colours import ENTRIES, label_colours

_LIMIT = 2**32  # bytes: offsets of classic TIFF have 32 bits
_HEADER = struct.pack("<2sHI", b"II", 42, 8)  # little endian, classic TIFF, first directory at byte 8
_BYTE, _ASCII, _SHORT, _LONG, _RATIONAL = 1, 2, 3, 4, 5
_BYTES = {_BYTE: 1, _ASCII: 1, _SHORT: 2, _LONG: 4, _RATIONAL: 8}
_OF_OTHERS = ("separate_bodies",)  # members of a spec that concern other formats only
_Entry = tuple[int, int, bytes]  # tag, type, value


@contextmanager
def open_writer(cell: CellFiles) -> Iterator[WriteFrame]:
    """Write the label volumes of all frames as one hyperstack, ``labels.tif``.

    When the times are evenly spaced, the file states the frame interval.

    Raises
    ------
    ExportError
        If the file cannot be written, grows over 4 GiB, is handed a frame of another grid, or is left before its last
        frame.
    """
    exporter = cell.exporter
    nx, ny, nz = exporter.grid.shape
    dx, dy, dz = exporter.units.spacing
    stack = Hyperstack(
        shape=(len(cell.times), nz, ny, nx),
        spacing=(dz, dy, dx),
        origin=((nz - 1) / 2, (ny - 1) / 2, (nx - 1) / 2),
        interval_s=_interval([60.0 * exporter.minutes_at(time) for time in cell.times]),
        info=_info(cell.spec),
    )
    with exporter.open(f"{cell.name}/labels.tif") as file:
        writer = HyperstackWriter(file.write, stack)
        yield lambda frame: writer.write(frame.label_volume, strips=frame.once(deflated_planes))
        writer.close()


def find_faults(written: WrittenCell) -> Iterator[str]:
    """Read the hyperstack back with tifffile and compare axes, type, frames, labels and spec with the manifest."""
    for name in written.files:
        for fault in _label_faults(
            written.folder / name, written.entry, written.manifest.cells_spec or written.manifest.spec
        ):
            yield f"{name}: {fault}"


@dataclass(frozen=True, kw_only=True)
class Hyperstack:
    """Size, spacing and times of a hyperstack.

    Parameters
    ----------
    shape
        (T, Z, Y, X).
    spacing
        Distance of neighbouring voxels along (z, y, x) in µm.
    origin
        Where (z, y, x) are 0 µm, in voxels.
    interval_s
        Seconds between frames, if they are evenly spaced.
    info
        Text that ImageJ shows as the image's information; none if empty.
    """

    shape: tuple[int, int, int, int]
    spacing: tuple[float, float, float]
    origin: tuple[float, float, float]
    interval_s: float | None = None
    info: str = ""

    def description(self) -> bytes:
        """ImageDescription as ImageJ writes it, with a closing zero."""
        frames, slices, _, _ = self.shape
        lines: dict[str, object] = {
            "ImageJ": "1.54f",
            "images": frames * slices,
            "slices": slices,
            "frames": frames,
            "hyperstack": "true",
            "mode": "grayscale",
            "unit": "micron",
            "spacing": repr(self.spacing[0]),
            "loop": "false",
            "min": "0.0",
            "max": f"{ENTRIES - 1}.0",  # a label is shown by the entry of its number in the lookup table
            "xorigin": repr(self.origin[2]),
            "yorigin": repr(self.origin[1]),
            "zorigin": repr(self.origin[0]),
        }
        if self.interval_s is not None:
            lines |= {"finterval": repr(self.interval_s), "tunit": "sec"}
        return "".join(f"{key}={value}\n" for key, value in lines.items()).encode("ascii") + b"\0"


class HyperstackWriter:
    """Writes uint16 volumes as one TIFF: one page a z-plane, one zlib-compressed strip a page.

    Parameters
    ----------
    write
        Appends bytes to an empty file.
    stack
        What will come.

    References
    ----------
    TIFF revision 6.0, Adobe 1992; Adobe Photoshop TIFF Technical Notes 2002 (compression 8).
    """

    def __init__(self, write: Callable[[bytes], object], stack: Hyperstack) -> None:
        self._write = write
        self._stack = stack
        self._frame = 0
        self._position = len(_HEADER)
        write(_HEADER)

    def write(self, volume: NDArray[np.uint16], *, strips: Sequence[bytes] | None = None) -> None:
        """Append one frame.

        Parameters
        ----------
        volume
            (Z, Y, X) uint16.
        strips
            Its planes, compressed with zlib; compressed here if None.

        Raises
        ------
        ExportError
            If all announced frames are written, the frame has another shape or type, or the file grows over 4 GiB.
        """
        frames, *shape = self._stack.shape
        if self._frame == frames:
            raise ExportError(f"the hyperstack already holds all of its {frames} frames")
        if list(volume.shape) != shape or volume.dtype != np.uint16:
            raise ExportError(
                f"a frame of the hyperstack is uint16 of shape {shape}, not {volume.dtype} {volume.shape}"
            )
        self._frame += 1
        for z, strip in enumerate(deflate_planes(volume) if strips is None else strips):
            self._append(strip, last=self._frame == frames and z == len(volume) - 1)

    def close(self) -> None:
        """Check that all frames were written; the caller closes the file.

        Raises
        ------
        ExportError
            If some are missing.
        """
        if self._frame != self._stack.shape[0]:
            raise ExportError(f"the hyperstack holds {self._frame} of {self._stack.shape[0]} frames")

    def _append(self, strip: bytes, *, last: bool) -> None:
        """Append one page: its directory, the values too long to stand in it, the strip."""
        entries = self._entries(len(strip))
        strip += b"\0" * (len(strip) % 2)  # offsets are even
        behind = self._position + 2 + 12 * len(entries) + 4
        long_values = b"".join(_even(value) for _, _, value in entries if len(value) > 4)
        strip_offset = behind + len(long_values)
        end = strip_offset + len(strip)
        if end >= _LIMIT:
            raise ExportError(
                "the label volumes of one cell would exceed 4 GiB, more than a TIFF that ImageJ reads can hold; ask "
                "for fewer frames or a coarser grid"
            )
        directory = [struct.pack("<H", len(entries))]
        for tag, kind, value in entries:
            count = len(value) // _BYTES[kind]
            if tag == 273:
                value = struct.pack("<I", strip_offset)
            elif len(value) > 4:
                value, behind = struct.pack("<I", behind), behind + len(_even(value))
            directory.append(struct.pack("<HHI", tag, kind, count) + value.ljust(4, b"\0"))
        directory.append(struct.pack("<I", 0 if last else end))
        self._write(b"".join(directory) + long_values + strip)
        self._position = end

    def _entries(self, strip_bytes: int) -> list[_Entry]:
        """Directory of a page, tags ascending; the strip's offset is filled in later."""
        _, _, height, width = self._stack.shape
        _, dy, dx = self._stack.spacing
        entries: list[_Entry] = [
            (256, _SHORT, struct.pack("<H", width)),  # ImageWidth
            (257, _SHORT, struct.pack("<H", height)),  # ImageLength
            (258, _SHORT, struct.pack("<H", 16)),  # BitsPerSample
            (259, _SHORT, struct.pack("<H", 8)),  # Compression: zlib
            (262, _SHORT, struct.pack("<H", 1)),  # PhotometricInterpretation: 0 is black
            (273, _LONG, bytes(4)),  # StripOffsets
            (277, _SHORT, struct.pack("<H", 1)),  # SamplesPerPixel
            (278, _SHORT, struct.pack("<H", height)),  # RowsPerStrip
            (279, _LONG, struct.pack("<I", strip_bytes)),  # StripByteCounts
            (282, _RATIONAL, _rational(1.0 / dx)),  # XResolution: voxels a unit
            (283, _RATIONAL, _rational(1.0 / dy)),  # YResolution
            (296, _SHORT, struct.pack("<H", 1)),  # ResolutionUnit: none; the description names it
            (339, _SHORT, struct.pack("<H", 1)),  # SampleFormat: unsigned
        ]
        if self._position == len(_HEADER):
            entries += self._first_page_entries()
        return sorted(entries)

    def _first_page_entries(self) -> list[_Entry]:
        """What concerns the whole stack and stands in the first page only."""
        # ImageJ reads the lookup table of a single channel from ColorMap, as (3, 256) SHORT whatever the sample's bits,
        # and not from its own metadata; other programs ignore ColorMap where 0 is black.
        colours = (label_colours().T.astype("<u2") * 257).tobytes()
        entries = [(270, _ASCII, self._stack.description()), (320, _SHORT, colours)]  # ImageDescription, ColorMap
        if self._stack.info:
            text = self._stack.info.encode("utf-16-le")
            header = b"JIJI" + b"ofni" + struct.pack("<I", 1)  # "IJIJ", "info", one item: in little-endian words
            entries += [
                (50838, _LONG, struct.pack("<II", len(header), len(text))),  # IJMetadataByteCounts
                (50839, _BYTE, header + text),  # IJMetadata
            ]
        return entries


def _info(spec: Mapping[str, Any]) -> str:
    """Return as JSON the spec that gives this file alone: its bytes must not depend on other formats asked for."""
    own = {name: value for name, value in spec.items() if name not in _OF_OTHERS} | {"formats": ["tiff"]}
    return json.dumps(own, sort_keys=True, indent=2, ensure_ascii=True) if spec else ""


def _label_faults(path: Path, cell: CellEntry, spec: Mapping[str, Any]) -> Iterator[str]:
    try:
        opened = tifffile.TiffFile(path)
    except (OSError, ValueError):  # tifffile's own error is a ValueError
        yield "cannot be read as TIFF"
        return
    with opened as tiff:
        series = tiff.series[0]
        if not tiff.is_imagej:
            yield "no ImageJ metadata"
        axes = series.get_axes(squeeze=False)
        if axes != "TZCYXS" or series.dtype != np.uint16:  # one channel, one sample: TZYX
            yield f"{axes} {series.dtype}, not TZYX uint16"
            return
        info = (tiff.imagej_metadata or {}).get("Info")
        if info is not None and not _states_the_cell(str(info), cell, spec):  # older files have none
            yield "Info does not hold the manifest's spec"
        volume = series.asarray(squeeze=False)  # (t, z, 1, y, x, 1)
    if len(volume) != len(cell.frames):
        yield f"{len(volume)} frames, the manifest says {len(cell.frames)}"
        return
    for number, (labels, frame) in enumerate(zip(volume, cell.frames, strict=True)):
        found = [int(label) for label in np.unique(labels) if label]
        if found != frame["labels"]:
            yield f"frame {number} holds labels {found}, the manifest says {frame['labels']}"


def _states_the_cell(info: str, cell: CellEntry, spec: Mapping[str, Any]) -> bool:
    """Whether a file's Info is the manifest's spec, for this cell alone; of a reconstruction, the cell's own code."""
    try:
        stated = json.loads(info)
    except ValueError:
        return False
    if not isinstance(stated, dict):
        return False
    if "latent" not in spec:  # a reconstruction's spec: Info generates the cell that was found
        return bool(stated.get("latent") == {"kind": "explicit", "values": cell.latent})
    own = {"first_index", "count", "formats", *_OF_OTHERS}
    same = {name: value for name, value in spec.items() if name not in own}
    rest = {name: value for name, value in stated.items() if name not in own}
    return stated.get("first_index", 0) == cell.index and rest == same


def _interval(times: Sequence[float]) -> float | None:
    """Return the distance of evenly spaced times, or nothing if they are not."""
    gaps = np.diff(np.asarray(times, dtype=np.float64))
    if len(gaps) == 0 or np.ptp(gaps) > 1e-5 * gaps.max():
        return None
    return float(f"{gaps.mean():.9g}")


def _even(value: bytes) -> bytes:
    return value + b"\0" * (len(value) % 2)


def _rational(value: float) -> bytes:
    """Numerator and denominator, 32 bits each."""
    if value >= 1.0:
        numerator, denominator = Fraction(value).limit_denominator(10**5).as_integer_ratio()
    else:
        denominator, numerator = Fraction(1.0 / value).limit_denominator(10**5).as_integer_ratio()
    return struct.pack("<II", numerator, denominator)
