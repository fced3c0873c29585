"""Label volumes as one TIFF a frame, for programs that know no time: 3D Slicer, ITK, ilastik, deep learning loaders."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import tifffile

from model.encoding.plane_tiff import frame_file
from model.output.exporter import CellFiles, ExportFrame, WriteFrame
from model.output.manifest import WrittenCell


@contextmanager
def open_writer(cell: CellFiles) -> Iterator[WriteFrame]:
    """Write ``frames/t0000.tif``, one volume (z, y, x) a frame."""
    dx, dy, dz = cell.exporter.units.spacing

    def write(frame: ExportFrame) -> None:
        content = frame.once(frame_file, (dz, dy, dx))
        cell.exporter.write_bytes(f"{cell.name}/frames/t{frame.number:04d}.tif", content)

    yield write


def find_faults(written: WrittenCell) -> Iterator[str]:
    """Read the volumes back with tifffile and compare labels and spacing with the manifest."""
    for name in written.files:
        expected = written.entry.frames[int(Path(name).stem.removeprefix("t"))]["labels"]
        with tifffile.TiffFile(written.folder / name) as tiff:
            volume = tiff.asarray()
            spacing = (tiff.imagej_metadata or {}).get("spacing")
        found = [int(label) for label in np.unique(volume) if label]
        if volume.dtype != np.uint16 or volume.ndim != 3:
            yield f"{name}: {volume.ndim} axes of {volume.dtype}, not 3 of uint16"
        elif found != expected:
            yield f"{name}: holds labels {found}, the manifest says {expected}"
        elif spacing != written.manifest.units.spacing[2]:
            yield f"{name}: planes are {spacing} µm apart, the manifest says {written.manifest.units.spacing[2]}"
