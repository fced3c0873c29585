"""Strict reader of one Zarr array of sampled signed distances, version 2 or 3, sent as a zip of its store.

Promises: metadata is bounded and understood member by member; shape, chunks and shards are bounded before a chunk is
unpacked, and a chunk unpacks to exactly its size. Chunks that a shard names do not share bytes. Nothing outside the zip
is opened.
Does not promise: to compare the checksums of chunks (the zip has its own), or to read stores of several arrays,
transposed ones, filters, or codecs other than gzip, zlib, Zstandard, Blosc and sharding.

Formats: Zarr storage specification 2; Zarr core specification 3.1; sharding codec 1.0; Blosc 1 chunk format.
"""

from __future__ import annotations

import itertools
import json
import math
import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import import_module
from pathlib import PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model.errors import UploadError
from model.upload_checks.archives import Member, read_archive, shown

METADATA_MAX = 2**16  # bytes of one document
DOCUMENTS_MAX = 32
CHUNK_MAX = 2**26  # bytes of one chunk, unpacked
CHUNKS_MAX = 2**16  # of the array, those within shards included
SIDE_MAX = 2**20  # of a shape or a chunk, before the shape is looked at as that of frames
EMPTY = 2**64 - 1  # offset and size of a chunk that a shard leaves out
AXES = {("t", "z", "y", "x"): (0, 3, 2, 1), ("t", "x", "y", "z"): (0, 1, 2, 3)}  # to (t, x, y, z)
_KINDS = {"float16": "f2", "float32": "f4", "float64": "f8"}
_TYPES = frozenset(f"{order}f{size}" for order in "<>" for size in (2, 4, 8))
_DOCUMENTS = ("zarr.json", ".zarray", ".zattrs")
_IGNORED = frozenset({".zgroup", ".zmetadata", ".DS_Store"})
_SPECIAL = frozenset({"NaN", "Infinity", "-Infinity"})
_COMPRESSORS = ("gzip", "zlib", "zstd", "blosc")
Unpack = Callable[[bytes, int], bytes]  # packed bytes, and how many they must unpack to


@dataclass(frozen=True)
class ZarrArray:
    """One array of a store: (t, x, y, z) float32, and the distance of samples that it states."""

    values: NDArray[np.float32]
    spacing: Any


@dataclass(frozen=True)
class _Layout:
    """How an array is stored.

    Attributes
    ----------
    shape, chunk
        Of the array, and of what one file of the store holds.
    inner
        Of the chunks within a shard; None: a file is one chunk.
    index_first
        Whether the index of a shard is at its beginning.
    indices
        The key of a file as the numbers of its chunk; None: it is no key.
    """

    shape: tuple[int, ...]
    chunk: tuple[int, ...]
    inner: tuple[int, ...] | None
    kind: np.dtype[Any]
    fill: float
    unpack: Unpack
    order: str
    index_tail: int
    index_first: bool
    indices: Callable[[str], tuple[int, ...] | None]
    names: Any
    attributes: dict[str, Any]


def read_zarr(
    descriptor: int, *, check: Callable[[tuple[int, int, int, int]], None], after_import: Callable[[], None]
) -> ZarrArray:
    """Return the one array of a store.

    Parameters
    ----------
    descriptor
        Of the zip.
    check
        Raises for a shape (T, X, Y, Z) that is not allowed, before anything is unpacked.
    after_import
        Called once codecs are imported, before they see the file.

    Raises
    ------
    UploadError
        If it holds anything else.
    """
    decoders = _decoders()
    after_import()
    folder, layout = _found(descriptor, decoders)
    order = _order(layout)
    whole = layout.shape if len(layout.shape) == 4 else (1, *layout.shape)
    t, x, y, z = (whole[axis] for axis in order)
    check((t, x, y, z))
    _check_chunks(layout)
    values = np.full(layout.shape, layout.fill, np.float32)
    for member in read_archive(descriptor, "zip"):
        key = _key(member, folder)
        if key is None:
            continue
        place = layout.indices(key)
        counts = [-(-side // step) for side, step in zip(layout.shape, layout.chunk, strict=True)]
        if place is None or any(number >= count for number, count in zip(place, counts, strict=True)):
            raise UploadError(f"{shown(member.path)} is no chunk of the array")
        _put(values, layout, place, member.read())
    stated = layout.attributes.get("cytosynth")
    spacing = (stated if isinstance(stated, dict) else layout.attributes).get("spacing_um")
    return ZarrArray(values.reshape(whole).transpose(order), spacing)


def _found(descriptor: int, decoders: dict[str, Unpack]) -> tuple[str, _Layout]:
    """Return the folder of the one array, and how it is stored."""
    documents: dict[str, Any] = {}
    for member in read_archive(descriptor, "zip"):
        if PurePosixPath(member.path).name not in _DOCUMENTS:
            continue
        if member.size > METADATA_MAX or len(documents) == DOCUMENTS_MAX:
            raise UploadError(f"the metadata of the store is too long: {shown(member.path)}")
        documents[member.path] = json.loads(member.read())
        if not isinstance(documents[member.path], dict):
            raise UploadError(f"{shown(member.path)} holds no object")
    arrays = [
        path
        for path, said in documents.items()
        if path.endswith(".zarray") or (path.endswith("zarr.json") and said.get("node_type") == "array")
    ]
    if len(arrays) != 1:
        raise UploadError(f"the store holds {len(arrays)} arrays; send a zip of one array of distances")
    path, said = arrays[0], documents[arrays[0]]
    folder = path.rpartition("/")[0]
    if path.endswith("zarr.json"):
        return folder, _version_3(said, decoders)
    return folder, _version_2(said, documents.get(f"{folder}/.zattrs".lstrip("/"), {}), decoders)


def _key(member: Member, folder: str) -> str | None:
    """Return the key of a file within the array; None for metadata, and what systems put beside."""
    name = PurePosixPath(member.path).name
    if name in _DOCUMENTS or name in _IGNORED or member.path.startswith("__MACOSX/"):
        return None
    if folder and not member.path.startswith(f"{folder}/"):
        raise UploadError(f"{shown(member.path)} is beside the array, which is all that a store may hold")
    return member.path.removeprefix(f"{folder}/") if folder else member.path


def _version_3(said: dict[str, Any], decoders: dict[str, Unpack]) -> _Layout:
    _only(said, "zarr.json", {"zarr_format": (3,), "node_type": ("array",), "storage_transformers": ([], None)})
    grid, keys = said.get("chunk_grid"), said.get("chunk_key_encoding", {"name": "default"})
    if not isinstance(grid, dict) or grid.get("name") != "regular" or not isinstance(keys, dict):
        raise UploadError("the array has no regular grid of chunks")
    if keys.get("name") not in ("default", "v2"):
        raise UploadError("the keys of the chunks are named in a way that is not known")
    default = keys["name"] == "default"
    separator = _configured(keys).get("separator", "/" if default else ".")
    kind, shape = said.get("data_type"), _sides(said.get("shape"), "shape")
    chunk = _sides(_configured(grid).get("chunk_shape"), "chunk_shape", like=shape)
    if kind not in _KINDS:
        raise UploadError(f"the values are of type {str(kind)[:40]!r}, which cannot be distances")
    inner, tail, first, codecs = None, 0, False, _listed(said.get("codecs"))
    if [codec.get("name") for codec in codecs] == ["sharding_indexed"]:
        sharding = _configured(codecs[0])
        inner = _sides(sharding.get("chunk_shape"), "chunk_shape of the shards", like=shape)
        packed = _listed(sharding.get("index_codecs"))
        index = [codec.get("name") for codec in packed]
        if index not in (["bytes"], ["bytes", "crc32c"]) or any(a % b for a, b in zip(chunk, inner, strict=True)):
            raise UploadError("the shards of the array are divided or indexed in a way that is not known")
        tail, first = 4 * (len(index) - 1), sharding.get("index_location", "end") == "start"
        if _endian(packed[0]) != "<":
            raise UploadError("the index of the shards is big-endian")
        codecs = _listed(sharding.get("codecs"))
    order, unpack = _chain(codecs, decoders)
    attributes = said.get("attributes", {})
    return _Layout(
        shape, chunk, inner, np.dtype(order + _KINDS[kind]), _fill(said.get("fill_value")), unpack, "C", tail, first,
        _reader_of_keys(len(shape), separator, prefix="c" if default else ""), said.get("dimension_names"),
        attributes if isinstance(attributes, dict) else {},
    )  # fmt: skip


def _version_2(said: dict[str, Any], attributes: dict[str, Any], decoders: dict[str, Unpack]) -> _Layout:
    _only(said, ".zarray", {"zarr_format": (2,), "filters": ([], None), "order": ("C", "F")})
    kind, shape = said.get("dtype"), _sides(said.get("shape"), "shape")
    if not isinstance(kind, str) or kind not in _TYPES:
        raise UploadError(f"the values are of type {str(kind)[:40]!r}, which cannot be distances")
    compressor = said.get("compressor")
    if compressor is not None and not isinstance(compressor, dict):
        raise UploadError("the compressor of the array is not known")
    unpack = _plain if compressor is None else _decoder(compressor.get("id"), decoders)
    chunk = _sides(said.get("chunks"), "chunks", like=shape)
    keys = _reader_of_keys(len(shape), said.get("dimension_separator", "."), prefix="")
    return _Layout(
        shape, chunk, None, np.dtype(kind), _fill(said.get("fill_value")), unpack, said["order"], 0, False, keys,
        attributes.get("_ARRAY_DIMENSIONS"), attributes,
    )  # fmt: skip


def _only(said: dict[str, Any], name: str, allowed: dict[str, tuple[Any, ...]]) -> None:
    for member, values in allowed.items():
        if said.get(member) not in values:
            raise UploadError(f"{member} in {name} is {str(said.get(member))[:40]!r}, which is not read here")


def _sides(said: Any, name: str, *, like: tuple[int, ...] | None = None) -> tuple[int, ...]:
    if (
        not isinstance(said, list)
        or len(said) not in ((3, 4) if like is None else (len(like),))
        or not all(type(side) is int and 1 <= side <= SIDE_MAX for side in said)
    ):
        raise UploadError(f"{name} is {str(said)[:60]}, not three or four sides")
    return tuple(said)


def _fill(said: Any) -> float:
    if said is None:
        return 0.0
    if type(said) not in (int, float) and said not in _SPECIAL:
        raise UploadError(f"fill_value is {str(said)[:40]!r}, which is no number")
    return float(said)


def _listed(said: Any) -> list[dict[str, Any]]:
    if not isinstance(said, list) or not said or not all(isinstance(one, dict) for one in said):
        raise UploadError("the codecs of the array are not listed")
    return said


def _configured(said: dict[str, Any]) -> dict[str, Any]:
    configuration = said.get("configuration", {})
    return configuration if isinstance(configuration, dict) else {}


def _endian(codec: dict[str, Any]) -> str:
    """Return the order of the bytes of numbers."""
    order = {"little": "<", "big": ">"}.get(str(_configured(codec).get("endian", "little")))
    if codec.get("name") != "bytes" or order is None:
        raise UploadError(f"the codec {str(codec.get('name'))[:40]!r} is not read here")
    return order


def _chain(codecs: list[dict[str, Any]], decoders: dict[str, Unpack]) -> tuple[str, Unpack]:
    """Return the order of bytes and the decoder of ``bytes``, then perhaps a compressor, then perhaps a checksum."""
    order, rest = _endian(codecs[0]), [codec.get("name") for codec in codecs[1:]]
    checked = rest[-1:] == ["crc32c"]
    rest = rest[:-1] if checked else rest
    if len(rest) > 1:
        raise UploadError("the chunks are compressed more than once")
    unpack = _decoder(rest[0], decoders) if rest else _plain
    if not checked:
        return order, unpack
    return order, lambda packed, size: unpack(packed[:-4], size)


def _decoder(name: Any, decoders: dict[str, Unpack]) -> Unpack:
    if not isinstance(name, str) or name not in _COMPRESSORS:
        raise UploadError(f"the chunks are packed by {str(name)[:40]!r}; gzip, zlib, zstd and blosc are read")
    if name not in decoders:
        raise UploadError(f"this installation reads no {name}; write the store with gzip")
    return decoders[name]


def _plain(packed: bytes, _size: int) -> bytes:
    return packed


def _decoders() -> dict[str, Unpack]:
    """Return the decoders that there are, each of which makes no more than it is asked for."""
    found: dict[str, Unpack] = {"gzip": _inflate, "zlib": _inflate}
    try:
        codecs = import_module("imagecodecs")
        zstd, blosc = codecs.zstd_decode, codecs.blosc_decode
    except (ImportError, AttributeError):
        return found

    def unblosc(packed: bytes, size: int) -> bytes:
        # The head of a chunk: what it unpacks to, and how long it is itself.
        if len(packed) < 16 or struct.unpack_from("<I", packed, 4)[0] != size:
            raise UploadError("a chunk unpacks to another size than the array declares")
        if struct.unpack_from("<I", packed, 12)[0] != len(packed):
            raise UploadError("a chunk is cut off")
        return bytes(blosc(packed, out=size))

    return found | {"zstd": lambda packed, size: bytes(zstd(packed, out=size)), "blosc": unblosc}


def _inflate(packed: bytes, size: int) -> bytes:
    return zlib.decompressobj(wbits=47).decompress(packed, size + 1)  # 47: a head of gzip or of zlib


def _reader_of_keys(axes: int, separator: Any, *, prefix: str) -> Callable[[str], tuple[int, ...] | None]:
    if separator not in (".", "/"):
        raise UploadError("the keys of the chunks are named in a way that is not known")

    def indices(key: str) -> tuple[int, ...] | None:
        parts = key.split(separator)
        if prefix:
            if parts[0] != prefix:
                return None
            parts = parts[1:]
        if len(parts) != axes or not all(part.isascii() and part.isdecimal() and len(part) < 8 for part in parts):
            return None
        return tuple(map(int, parts)) if all(str(int(part)) == part for part in parts) else None

    return indices


def _order(layout: _Layout) -> tuple[int, int, int, int]:
    """Return the axes of an array of four axes as (t, x, y, z)."""
    names = layout.names
    if names is None or (isinstance(names, list) and not any(names)):
        return AXES["t", "z", "y", "x"]
    told = tuple(str(name).lower() for name in names) if isinstance(names, list) else ()
    whole = told if len(layout.shape) == 4 else ("t", *told)
    for known, order in AXES.items():
        if whole == known:
            t, x, y, z = order
            return t, x, y, z
    raise UploadError(f"the axes are called {str(names)[:60]}; (t, z, y, x) and (t, x, y, z) are read")


def _check_chunks(layout: _Layout) -> None:
    """Bound the chunks before one is unpacked."""
    smallest = layout.inner or layout.chunk
    if math.prod(smallest) * layout.kind.itemsize > CHUNK_MAX:
        raise UploadError(f"a chunk of the array has {math.prod(smallest):,} samples; write smaller ones")
    files = math.prod(-(-side // step) for side, step in zip(layout.shape, layout.chunk, strict=True))
    within = math.prod(side // step for side, step in zip(layout.chunk, smallest, strict=True))
    if files * within > CHUNKS_MAX:
        raise UploadError(f"the array has {files * within:,} chunks; write larger ones")


def _put(values: NDArray[np.float32], layout: _Layout, place: tuple[int, ...], content: bytes) -> None:
    """Put what a file holds in its place."""
    corner = [number * side for number, side in zip(place, layout.chunk, strict=True)]
    for offset, packed in _chunks(layout, content):
        sides = layout.inner or layout.chunk
        low = [a + b for a, b in zip(corner, offset, strict=True)]
        room = [min(side, end - start) for side, end, start in zip(sides, layout.shape, low, strict=True)]
        if min(room) <= 0:
            continue  # a chunk of a shard beyond the array
        size = math.prod(sides) * layout.kind.itemsize
        try:
            raw = layout.unpack(packed, size)
        except (RuntimeError, zlib.error):
            raise UploadError("a chunk is damaged, or unpacks to more than the array declares") from None
        if len(raw) != size:
            raise UploadError(f"a chunk unpacks to {len(raw):,} bytes, the array declares {size:,}")
        chunk = np.frombuffer(raw, layout.kind).reshape(sides, order="F" if layout.order == "F" else "C")
        with np.errstate(over="ignore"):  # what is too large becomes infinity, which is refused
            values[tuple(slice(a, a + n) for a, n in zip(low, room, strict=True))] = chunk[tuple(map(slice, room))]


def _chunks(layout: _Layout, content: bytes) -> Iterator[tuple[list[int], bytes]]:
    """Yield the chunks of a file, each with its corner in it."""
    if layout.inner is None:
        yield [0] * len(layout.chunk), content
        return
    counts = [side // step for side, step in zip(layout.chunk, layout.inner, strict=True)]
    length = 16 * math.prod(counts) + layout.index_tail
    if len(content) < length:
        raise UploadError("a shard is shorter than its index")
    start = 0 if layout.index_first else len(content) - length
    entries = list(struct.iter_unpack("<QQ", content[start : start + length - layout.index_tail]))
    if sum(size for _, size in entries if size != EMPTY) > len(content) - length:
        raise UploadError("chunks of a shard share bytes")
    for numbers, (at, size) in zip(itertools.product(*map(range, counts)), entries, strict=True):
        if at == size == EMPTY:
            continue
        if at + size > len(content):
            raise UploadError("a chunk lies outside its shard")
        yield [n * step for n, step in zip(numbers, layout.inner, strict=True)], content[at : at + size]
