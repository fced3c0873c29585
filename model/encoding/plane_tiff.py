"""A label volume as one plain TIFF: uncompressed, one page a plane, with its spacing.

Shared by the formats that write a file a frame. The whole file is made in memory: it is one frame.
"""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
import tifffile
from numpy.typing import NDArray


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
