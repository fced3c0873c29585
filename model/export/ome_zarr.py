"""Label volumes as OME-Zarr (NGFF 0.5, Zarr 3): ``labels.ome.zarr``, axes t, z, y, x, with a pyramid.

The group is a label image: its multiscale holds labels, coarser levels by nearest neighbour, and ``image-label`` names
each label's parent. Every frame of every level is one shard, a file written once; inside it, chunks of at most 64³.

Promises: one frame in memory; the same volumes give the same bytes.

References
----------
OME-NGFF 0.5, doi:10.1038/s41592-021-01326-w; Zarr core specification 3.1; sharding codec 1.0; RFC 3720 (CRC-32C).
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from model.encoding.zarr_arrays import array_metadata, decode_shard, encode_json, encode_shard
from model.output.exporter import CellFiles, ExportFrame, WriteFrame
from model.output.manifest import WrittenCell

NAME = "labels.ome.zarr"
COARSEST = 32  # voxels of the longest side below which no coarser level is made


@contextmanager
def open_writer(cell: CellFiles) -> Iterator[WriteFrame]:
    """Write the arrays' metadata first, a shard a level and frame, and the group's metadata last."""
    exporter = cell.exporter
    nx, ny, nz = exporter.grid.shape
    root = f"{cell.name}/{NAME}"
    steps = [1]
    while -(-max(nx, ny, nz) // steps[-1]) > COARSEST:
        steps.append(2 * steps[-1])
    for number, step in enumerate(steps):
        shape = (len(cell.times), *(-(-side // step) for side in (nz, ny, nx)))
        exporter.write_bytes(f"{root}/{number}/zarr.json", encode_json(array_metadata(shape)))

    def write(frame: ExportFrame) -> None:
        volume = frame.label_volume
        for number, step in enumerate(steps):
            shard = encode_shard(volume[::step, ::step, ::step])
            exporter.write_bytes(f"{root}/{number}/c/{frame.number}/0/0/0", shard)

    yield write
    exporter.write_bytes(f"{root}/zarr.json", encode_json(_group_metadata(cell, steps)))


def _group_metadata(cell: CellFiles, steps: list[int]) -> dict[str, Any]:
    exporter = cell.exporter
    spacing = list(reversed(exporter.units.spacing))
    minutes = [exporter.minutes_at(time) for time in cell.times]
    interval = (minutes[-1] - minutes[0]) / (len(minutes) - 1) if len(minutes) > 1 else exporter.minutes
    # The centre of Ω is the origin, as in meshes. A coarser level keeps every second sample, so all levels begin there.
    corner = [-(side - 1) / 2 * d for side, d in zip(reversed(exporter.grid.shape), spacing, strict=True)]
    datasets = [
        {
            "path": str(number),
            "coordinateTransformations": [
                {"type": "scale", "scale": [interval, *(step * d for d in spacing)]},
                {"type": "translation", "translation": [minutes[0], *corner]},
            ],
        }
        for number, step in enumerate(steps)
    ]
    axes = [{"name": "t", "type": "time", "unit": "minute"}]
    axes += [{"name": name, "type": "space", "unit": "micrometer"} for name in "zyx"]
    properties = [{"label-value": track.label, "parent": track.parent} for track in cell.tracks()]
    ome = {
        "version": "0.5",
        "multiscales": [{"name": "labels", "axes": axes, "datasets": datasets, "type": "nearest"}],
        "image-label": {"properties": properties} if properties else {},
    }
    return {"zarr_format": 3, "node_type": "group", "attributes": {"ome": ome, "cytosynth": {"minutes": minutes}}}


def find_faults(written: WrittenCell) -> Iterator[str]:
    """Read the finest level back and compare shape and labels with the manifest."""
    described = f"{NAME}/0/zarr.json"
    if described not in written.files:
        return  # reported as missing or damaged
    shape = json.loads((written.folder / described).read_bytes())["shape"]
    if shape[0] != len(written.entry.frames):
        yield f"{NAME}: {shape[0]} frames, the manifest says {len(written.entry.frames)}"
        return
    for number, frame in enumerate(written.entry.frames):
        shard = f"{NAME}/0/c/{number}/0/0/0"
        if shard not in written.files:
            continue
        volume = decode_shard((written.folder / shard).read_bytes(), (shape[1], shape[2], shape[3]))
        found = [int(label) for label in np.unique(volume) if label]
        if found != frame["labels"]:
            yield f"{shard}: holds labels {found}, the manifest says {frame['labels']}"
