"""Plain copies of what the readers have understood: the only files that later readers open.

A label volume becomes a TIFF of one strip a page, deflate, unsigned integers of at most 32 bits, little-endian, frame
after frame, with a description that holds axes and scale and nothing else. A surface becomes a binary PLY of triangles.

Promises: a copy holds what was checked, and nothing that was skipped: no other tags, pages, comments or materials.
Labels have the same values, or the numbers that they were given; axes, scale and vertices are the same to the last bit.
Does not promise: the layout of the original: order of pages, type of samples, faces of four corners.

Formats: TIFF 6.0 (Aldus, 1992), ImageJ's and OME's descriptions, PLY 1.0 (Turk, 1994).
"""

from __future__ import annotations

import struct
import zlib
from array import array
from collections.abc import Iterable, Sequence
from itertools import chain
from typing import BinaryIO

COPY_MAX = 2**30  # bytes of all copies of one upload
_PAGE_END = struct.Struct("<I")
_ENTRY = struct.Struct("<HHII")
_SHORT, _LONG, _RATIONAL, _ASCII = 3, 4, 5, 2
_HEAD = 8  # bytes before the first page


class LabelsCopy:
    """Writes the planes of a label volume as TIFF, at the place of a file where it stands.

    Parameters
    ----------
    item
        Bytes of a sample: 1, 2 or 4.
    """

    def __init__(self, file: BinaryIO, *, width: int, height: int, item: int) -> None:
        self._file, self._width, self._height, self._item = file, width, height, item
        self._start = file.tell()
        self._strips: list[tuple[int, int]] = []  # offset and size of each page
        self._last = b""
        self._at = _HEAD
        file.write(bytes(_HEAD))

    def add(self, plane: bytes) -> None:
        """Add a plane of little-endian samples."""
        if plane == self._last:  # background, mostly: pages may share a strip
            self._strips.append(self._strips[-1])
            return
        packed = zlib.compress(plane, 1)
        self._file.write(packed)
        self._strips.append((self._at, len(packed)))
        self._at += len(packed)
        self._last = plane

    def finish(self, description: str, resolution: Sequence[Sequence[int]] = ()) -> None:
        """Write the directories.

        Parameters
        ----------
        description
            Of the first page; empty for none.
        resolution
            Of x and of y, numerator and denominator, as ImageJ has it; may be empty.
        """
        text = description.encode() + b"\0" if description else b""
        text += bytes(-len(text) % 4 + (4 if 0 < len(text) <= 4 else 0))
        rationals = b"".join(struct.pack("<II", *pair) for pair in resolution)
        padding = bytes(self._at % 2)
        extra = self._at + len(padding)
        first = extra + len(text) + len(rationals)
        self._file.write(padding + text + rationals)
        place = first
        for number, strip in enumerate(self._strips):
            entries = self._entries(strip)
            if number == 0:
                if text:
                    entries.append((270, _ASCII, len(text), extra))
                entries += [(282 + k, _RATIONAL, 1, extra + len(text) + 8 * k) for k in range(len(resolution))]
                entries += [(296, _SHORT, 1, 1)] if resolution else []
            place += 2 + _ENTRY.size * len(entries) + _PAGE_END.size
            following = place if number + 1 < len(self._strips) else 0
            self._file.write(
                struct.pack("<H", len(entries))
                + b"".join(_ENTRY.pack(*entry) for entry in sorted(entries))
                + _PAGE_END.pack(following)
            )
        self._file.seek(self._start)
        self._file.write(struct.pack("<2sHI", b"II", 42, first))
        self._file.seek(0, 2)

    def _entries(self, strip: tuple[int, int]) -> list[tuple[int, int, int, int]]:
        offset, size = strip
        return [
            (256, _LONG, 1, self._width), (257, _LONG, 1, self._height), (258, _SHORT, 1, 8 * self._item),
            (259, _SHORT, 1, 8), (262, _SHORT, 1, 1), (273, _LONG, 1, offset), (277, _SHORT, 1, 1),
            (278, _LONG, 1, self._height), (279, _LONG, 1, size), (339, _SHORT, 1, 1),
        ]  # fmt: skip


def write_surface(
    file: BinaryIO, points: Iterable[Sequence[float]], faces: Sequence[tuple[int, int, int]], *, single: bool
) -> None:
    """Write triangles as PLY.

    Parameters
    ----------
    single
        Whether the coordinates are those of 32-bit numbers.
    """
    corners = array("f" if single else "d", chain.from_iterable(points))
    if struct.pack("=H", 1) != b"\1\0":
        corners.byteswap()
    kind = "float" if single else "double"
    file.write(
        f"ply\nformat binary_little_endian 1.0\nelement vertex {len(corners) // 3}\nproperty {kind} x\n"
        f"property {kind} y\nproperty {kind} z\nelement face {len(faces)}\n"
        "property list uchar int vertex_indices\nend_header\n".encode()
    )
    file.write(corners.tobytes())
    triangle = struct.Struct("<Biii")
    file.write(b"".join(triangle.pack(3, a, b, c) for a, b, c in faces))


def imagej_description(frames: int, planes: int, said: dict[str, str]) -> str:
    """Return ImageJ's description of frames of planes; ``said`` holds its lines on scale and time, kept as they are."""
    lines = ["ImageJ=1.54f", f"images={frames * planes}"]
    lines += [f"slices={planes}"] if planes > 1 else []
    lines += [f"frames={frames}"] if frames > 1 else []
    lines += ["hyperstack=true"] + [
        f"{key}={said[key]}" for key in ("unit", "spacing", "finterval", "tunit") if key in said
    ]
    return "\n".join(lines) + "\n"


def ome_description(shape: Sequence[int], bits: int, said: dict[str, str]) -> str:
    """Return OME's description of a volume (T, Z, Y, X); ``said`` holds attributes of Pixels on scale and time."""
    frames, planes, height, width = shape
    sizes = f'SizeX="{width}" SizeY="{height}" SizeZ="{planes}" SizeC="1" SizeT="{frames}"'
    scale = "".join(f' {name}="{_escaped(value)}"' for name, value in said.items())
    return (
        '<?xml version="1.0" encoding="UTF-8"?><OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06">'
        f'<Image ID="Image:0"><Pixels ID="Pixels:0" DimensionOrder="XYZCT" Type="uint{bits}" {sizes}{scale}>'
        f'<Channel ID="Channel:0:0" SamplesPerPixel="1"/><TiffData IFD="0" PlaneCount="{frames * planes}"/>'
        "</Pixels></Image></OME>"
    )


def _escaped(text: str) -> str:
    for mark, name in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;"), ('"', "&quot;")):
        text = text.replace(mark, name)
    return text
