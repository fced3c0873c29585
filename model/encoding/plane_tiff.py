"""What the formats that are TIFF share: a frame's label volume as one plain file, and its planes compressed.

The plain file is uncompressed, one page a plane, with its spacing. Both are made in memory: they are one frame.
"""

from __future__ import annotations

import io
import zlib
from collections.abc import Sequence

import numpy as np
import tifffile
from numpy.typing import NDArray

from model.output.exporter import ExportFrame

LEVEL = 6  # of zlib


def frame_file(frame: ExportFrame, spacing: tuple[float, float, float]) -> bytes:
    """Encode a frame's label volume as :func:`encode_volume` does."""
    return encode_volume(frame.label_volume, spacing=spacing)


def deflated_planes(frame: ExportFrame) -> list[bytes]:
    """Compress each plane of a frame's label volume as :func:`deflate_planes` does."""
    return deflate_planes(frame.label_volume)


def deflate_planes(volume: NDArray[np.uint16]) -> list[bytes]:
    """Compress each plane of a volume (Z, Y, X) with zlib."""
    return [zlib.compress(plane, level=LEVEL) for plane in np.ascontiguousarray(volume, dtype="<u2")]


def encode_volume(volume: NDArray[np.uint16], *, spacing: Sequence[float]) -> bytes:
    """Encode a label volume as TIFF; the same volume gives the same bytes.

    Parameters
    ----------
    volume
        (Z, Y, X) uint16.
    spacing
        Distance of neighbouring voxels along (z, y, x) in µm. x and y stand in the resolution tags (voxels a
        centimetre), all three in ImageJ's description, which ImageJ, Fiji and tifffile read.
    """
    dz, dy, dx = spacing
    description = f"ImageJ=1.54f\nimages={len(volume)}\nslices={len(volume)}\nunit=micron\nspacing={dz!r}\nloop=false\n"
    file = io.BytesIO()
    tifffile.imwrite(
        file,
        np.ascontiguousarray(volume, dtype="<u2"),
        byteorder="<",
        photometric="minisblack",
        metadata=None,
        description=description,
        software=False,
        datetime=False,
        resolution=(1.0 / dx, 1.0 / dy),
        resolutionunit="NONE",
    )
    return file.getvalue()
