"""Label volumes as OME-Zarr (NGFF 0.5, Zarr 3): ``labels.ome.zarr``, axes t, z, y, x, with a pyramid.

The group is a label image: its multiscale holds labels, coarser levels by nearest neighbour, and ``image-label`` names
each label's parent. Every frame of every level is one shard, a file written once; inside it, chunks of at most 64³.

Promises: one frame in memory; the same volumes give the same bytes.

References
----------
OME-NGFF 0.5, doi:10.1038/s41592-021-01326-w; Zarr core specification 3.1; sharding codec 1.0; RFC 3720 (CRC-32C).
"""

from __future__ import annotations

import gzip
import itertools
import json
import struct
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model.output.exporter import CellFiles, ExportFrame, WriteFrame
from model.output.manifest import WrittenCell

NAME = "labels.ome.zarr"
CHUNK = 64  # voxels of a side of a chunk, at most
COARSEST = 32  # voxels of the longest side below which no coarser level is made
LEVEL = 5  # of gzip
EMPTY = 2**64 - 1  # offset and size of a chunk that holds background only


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


def array_metadata(
    shape: tuple[int, ...],
    *,
    data_type: str = "uint16",
    fill: float = 0,
    level: int = LEVEL,
    attributes: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Return the metadata of an array (T, Z, Y, X) whose shards are whole frames, compressed at a level of gzip."""
    chunk = [1, *(min(CHUNK, side) for side in shape[1:])]
    shard = [1, *(-(-side // inner) * inner for side, inner in zip(shape[1:], chunk[1:], strict=True))]
    little = {"name": "bytes", "configuration": {"endian": "little"}}
    sharding = {
        "chunk_shape": chunk,
        "codecs": [little, {"name": "gzip", "configuration": {"level": level}}],
        "index_codecs": [little, {"name": "crc32c"}],
        "index_location": "end",
    }
    return {
        "zarr_format": 3,
        "node_type": "array",
        "shape": list(shape),
        "data_type": data_type,
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": shard}},
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
        "fill_value": fill,
        "codecs": [{"name": "sharding_indexed", "configuration": sharding}],
        "attributes": dict(attributes or {}),
        "dimension_names": ["t", "z", "y", "x"],
    }


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


def encode_shard(volume: NDArray[Any], *, fill: float = 0, level: int = LEVEL) -> bytes:
    """Encode one frame (Z, Y, X) as a shard: its compressed chunks in C order, then their offsets and sizes.

    Chunks that hold nothing but ``fill`` are left out.
    """
    sides = [min(CHUNK, side) for side in volume.shape]
    body, index, at = [], [], 0
    counts = [range(-(-side // inner)) for side, inner in zip(volume.shape, sides, strict=True)]
    for place in itertools.product(*counts):
        part = volume[tuple(slice(n * side, (n + 1) * side) for n, side in zip(place, sides, strict=True))]
        if (part == fill).all():
            index.append((EMPTY, EMPTY))
            continue
        whole = np.full(sides, fill, dtype=volume.dtype.newbyteorder("<"))
        whole[tuple(slice(0, side) for side in part.shape)] = part
        content = gzip.compress(whole.tobytes(), compresslevel=level, mtime=0)
        body.append(content)
        index.append((at, len(content)))
        at += len(content)
    table = b"".join(struct.pack("<QQ", *entry) for entry in index)
    return b"".join(body) + table + struct.pack("<I", crc32c(table))


def decode_shard(content: bytes, shape: tuple[int, int, int], *, kind: str = "<u2", fill: float = 0) -> NDArray[Any]:
    """Read what :func:`encode_shard` wrote for a frame of this shape and kind of number.

    Raises
    ------
    ValueError
        If it is something else.
    """
    sides = [min(CHUNK, side) for side in shape]
    counts = [-(-side // inner) for side, inner in zip(shape, sides, strict=True)]
    table = content[-16 * int(np.prod(counts)) - 4 : -4]
    if struct.pack("<I", crc32c(table)) != content[-4:]:
        raise ValueError("the shard's index does not match its checksum")
    volume = np.full([count * side for count, side in zip(counts, sides, strict=True)], fill, dtype=kind)
    places = itertools.product(*(range(count) for count in counts))
    for place, (at, size) in zip(places, struct.iter_unpack("<QQ", table), strict=True):
        if at != EMPTY:
            chunk = np.frombuffer(gzip.decompress(content[at : at + size]), kind).reshape(sides)
            volume[tuple(slice(n * side, (n + 1) * side) for n, side in zip(place, sides, strict=True))] = chunk
    return volume[tuple(slice(0, side) for side in shape)]


def crc32c(content: bytes) -> int:
    """Return the CRC-32C (Castagnoli) of a few kilobytes."""
    value = 0xFFFFFFFF
    for byte in content:
        value = _CRC[(value ^ byte) & 0xFF] ^ (value >> 8)
    return value ^ 0xFFFFFFFF


def _crc_table() -> list[int]:
    table = []
    for value in range(256):
        for _ in range(8):
            value = (value >> 1) ^ (0x82F63B78 if value & 1 else 0)
        table.append(value)
    return table


_CRC = _crc_table()


def encode_json(document: Mapping[str, Any]) -> bytes:
    """Encode a metadata document."""
    return (json.dumps(document, indent=2, ensure_ascii=True, allow_nan=False) + "\n").encode("ascii")


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
