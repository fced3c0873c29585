"""Signed distances as one Zarr 3 array: ``distances.zarr``, (t, z, y, x) float32 in µm, a shard of each frame.

Distances beyond the clamp, which the attributes state, are the clamp (:mod:`model.engine.narrow_band`).

Promises: one frame in memory; the same distances give the same bytes.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager

from model.encoding.distances import attributes, clamp_um, distances_um, find_distance_faults
from model.encoding.zarr_arrays import array_metadata, decode_shard, encode_json, encode_shard
from model.output.exporter import CellFiles, ExportFrame, WriteFrame
from model.output.manifest import WrittenCell

NAME = "distances.zarr"
LEVEL = 3  # of gzip: 5 makes shards 5 % smaller and takes 1.7 times as long


@contextmanager
def open_writer(cell: CellFiles) -> Iterator[WriteFrame]:
    """Write the array's metadata first, then a shard a frame."""
    exporter = cell.exporter
    clamp = clamp_um(exporter)
    metadata = array_metadata(
        (len(cell.times), *reversed(exporter.grid.shape)),
        data_type="float32",
        fill=float(clamp),
        level=LEVEL,
        attributes={"cytosynth": attributes(cell)},
    )
    exporter.write_bytes(f"{cell.name}/{NAME}/zarr.json", encode_json(metadata))

    def write(frame: ExportFrame) -> None:
        shard = encode_shard(distances_um(frame, exporter), fill=float(clamp), level=LEVEL)
        exporter.write_bytes(f"{cell.name}/{NAME}/c/{frame.number}/0/0/0", shard)

    yield write


def find_faults(written: WrittenCell) -> Iterator[str]:
    """Read the shards back and compare the volume within their zero level set with the manifest."""
    described = f"{NAME}/zarr.json"
    if described not in written.files:
        return  # reported as missing or damaged
    metadata = json.loads((written.folder / described).read_bytes())
    frames, nz, ny, nx = metadata["shape"]
    if frames != len(written.entry.frames):
        yield f"{NAME}: {frames} frames, the manifest says {len(written.entry.frames)}"
        return
    for number, frame in enumerate(written.entry.frames):
        shard = f"{NAME}/c/{number}/0/0/0"
        if shard in written.files:
            content = (written.folder / shard).read_bytes()
            values = decode_shard(content, (nz, ny, nx), kind="<f4", fill=metadata["fill_value"])
            yield from (f"{shard}: {fault}" for fault in find_distance_faults(values.T, frame, written))
