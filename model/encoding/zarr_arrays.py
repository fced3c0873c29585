"""Zarr 3 arrays over (t, z, y, x) whose shards are whole frames, and their metadata.

A shard holds chunks of at most 64³, compressed by gzip; chunks that hold only the fill value are left out.

Promises: the same values give the same bytes.

References
----------
Zarr core specification 3.1; sharding codec 1.0; RFC 3720 (CRC-32C).
"""

from __future__ import annotations

import gzip
import itertools
import json
import struct
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

CHUNK = 64  # samples of a side of a chunk, at most
LEVEL = 5  # of gzip
EMPTY = 2**64 - 1  # offset and size of a chunk that holds the fill value only


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
