"""Signed distances as HDF5: ``distances.h5`` with a dataset ``sdf_vid``, as the authors of the method publish theirs.

Axes are (z, x, y, t), which MATLAB shows as (t, y, x, z); values are those of :mod:`model.encoding.distances`.
:mod:`model.readers.meshes` reads such files.

Promises: one frame in memory; the same distances and version of h5py give the same bytes.

References
----------
Wiesner et al. 2022, doi:10.1007/978-3-031-16440-8_6.
"""

from __future__ import annotations

import itertools
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager

import h5py
import numpy as np

from model.domain import Field
from model.encoding.distances import attributes, clamp_um, distances_um, find_distance_faults
from model.output.exporter import CellFiles, ExportFrame, WriteFrame
from model.output.manifest import WrittenCell

NAME = "distances.h5"
DATASET = "sdf_vid"
CHUNK = 64  # samples of a side of a chunk, at most
LEVEL = 3  # of gzip, as model.export.sdf_zarr
PIECE = 2**20


@contextmanager
def open_writer(cell: CellFiles) -> Iterator[WriteFrame]:
    """Write the frames to a temporary file, because HDF5 is not written forward, and copy it at the end."""
    exporter = cell.exporter
    nx, ny, nz = exporter.grid.shape
    with (
        exporter.open(f"{cell.name}/{NAME}") as file,
        tempfile.TemporaryFile(dir=exporter.folder, prefix=".h5-") as buffer,
    ):
        with h5py.File(buffer, "w") as container:
            stored = container.create_dataset(
                DATASET,
                shape=(nz, nx, ny, len(cell.times)),
                dtype="<f4",
                chunks=(*(min(CHUNK, side) for side in (nz, nx, ny)), 1),
                compression="gzip",
                compression_opts=LEVEL,
                shuffle=True,
                fillvalue=clamp_um(exporter),
                track_times=False,
            )
            for key, value in attributes(cell).items():
                stored.attrs[key] = value

            def write(frame: ExportFrame) -> None:
                values = distances_um(frame, exporter).swapaxes(1, 2)  # (z, x, y)
                for first, chunk in encode_chunks(values, fill=clamp_um(exporter)):
                    stored.id.write_direct_chunk((*first, frame.number), chunk)

            yield write
        buffer.seek(0)
        while piece := buffer.read(PIECE):
            file.write(piece)


def encode_chunks(values: Field, *, fill: np.float32) -> Iterator[tuple[tuple[int, ...], bytes]]:
    """Yield the first sample and the bytes, shuffled and compressed, of each chunk of a frame (z, x, y).

    HDF5 makes the same bytes, but takes longer to find them. Chunks that hold nothing but ``fill`` are left out.
    """
    sides = [min(CHUNK, side) for side in values.shape]
    for first in itertools.product(*(range(0, n, side) for n, side in zip(values.shape, sides, strict=True))):
        part = values[tuple(slice(at, at + side) for at, side in zip(first, sides, strict=True))]
        if (part == fill).all():
            continue
        whole = np.full(sides, fill, dtype="<f4")
        whole[tuple(slice(0, side) for side in part.shape)] = part
        shuffled = np.ascontiguousarray(whole.reshape(-1).view(np.uint8).reshape(-1, 4).T)  # HDF5's filter "shuffle"
        yield first, zlib.compress(shuffled.tobytes(), level=LEVEL)


def find_faults(written: WrittenCell) -> Iterator[str]:
    """Read the frames back and compare the volume within their zero level set with the manifest."""
    for name in written.files:
        with h5py.File(written.folder / name, "r") as container:
            stored = container[DATASET]
            if stored.shape[-1] != len(written.entry.frames):
                yield f"{name}: {stored.shape[-1]} frames, the manifest says {len(written.entry.frames)}"
                return
            for number, frame in enumerate(written.entry.frames):
                values = np.asarray(stored[..., number]).transpose(1, 2, 0)
                yield from (f"{name}: {fault}" for fault in find_distance_faults(values, frame, written))
