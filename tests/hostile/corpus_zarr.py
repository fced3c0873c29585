"""Zarr stores of signed distances, good and hostile, as zips; arrays are stored as (t, z, y, x)."""

from __future__ import annotations

import gzip
import io
import itertools
import json
import struct
import zipfile
import zlib
from collections.abc import Callable
from typing import Any

import imagecodecs
import numpy as np
from numpy.typing import NDArray

from model.encoding.zarr_arrays import array_metadata, encode_shard

SHAPE = (2, 14, 12, 10)  # t, z, y, x
CHUNK = (1, 7, 12, 4)
SPACING = (0.5, 0.5, 0.25)  # µm, x, y, z
LITTLE = {"name": "bytes", "configuration": {"endian": "little"}}
GZIP = {"name": "gzip", "configuration": {"level": 5}}
Pack = Callable[[bytes], bytes]


def distances() -> NDArray[np.float32]:
    """A growing ball, (t, z, y, x) in µm; those of :mod:`test_distance_arrays`, transposed."""
    places = np.meshgrid(
        *((np.arange(n) - (n - 1) / 2) * step for n, step in zip(SHAPE[:0:-1], SPACING, strict=True)), indexing="ij"
    )
    away = np.sqrt(sum(place**2 for place in places))
    return np.stack([away - 1.5, away - 1.6]).astype(np.float32).transpose(0, 3, 2, 1)


def store(files: dict[str, Any]) -> bytes:
    """A zip of files; objects are written as JSON."""
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for path, content in files.items():
            archive.writestr(path, content if isinstance(content, bytes) else json.dumps(content))
    return target.getvalue()


def blosc(content: bytes) -> bytes:
    return bytes(imagecodecs.blosc_encode(content, compressor="lz4", shuffle=1, typesize=4))


def zstd(content: bytes) -> bytes:
    return bytes(imagecodecs.zstd_encode(content))


def gzipped(content: bytes) -> bytes:
    return gzip.compress(content, mtime=0)


def chunks_of(
    values: NDArray[Any], chunk: tuple[int, ...], key: Callable[[tuple[int, ...]], str], pack: Pack, order: Any = "C"
) -> dict[str, bytes]:
    """The files of an array, whole chunks also at its end."""
    files = {}
    for place in itertools.product(*(range(-(-n // step)) for n, step in zip(values.shape, chunk, strict=True))):
        part = values[tuple(slice(k * step, (k + 1) * step) for k, step in zip(place, chunk, strict=True))]
        whole = np.full(chunk, 9.0, values.dtype)
        whole[tuple(map(slice, part.shape))] = part
        files[key(place)] = pack(whole.tobytes(order=order))
    return files


def described(**changes: Any) -> dict[str, Any]:
    """Metadata of version 3."""
    return {
        "zarr_format": 3, "node_type": "array", "shape": list(SHAPE), "data_type": "float32", "fill_value": 9.0,
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": list(CHUNK)}},
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}}, "codecs": [LITTLE, GZIP],
        "dimension_names": ["t", "z", "y", "x"], "attributes": {},
    } | changes  # fmt: skip


def version_3(
    values: NDArray[Any] | None = None, *, pack: Pack = gzipped, folder: str = "cell.zarr/", separator: str = "/",
    **changes: Any,
) -> bytes:  # fmt: skip
    values = distances() if values is None else values
    keys = chunks_of(values, CHUNK, lambda place: separator.join(["c", *map(str, place)]), pack)
    said = described(**changes)
    said["chunk_key_encoding"] = {"name": "default", "configuration": {"separator": separator}}
    return store({f"{folder}zarr.json": said} | {f"{folder}{key}": content for key, content in keys.items()})


def version_2(
    values: NDArray[Any] | None = None, *, pack: Pack = blosc, separator: str = ".", attributes: Any = None,
    **changes: Any,
) -> bytes:  # fmt: skip
    values = distances() if values is None else values
    said = {
        "zarr_format": 2, "shape": list(SHAPE), "chunks": list(CHUNK), "dtype": values.dtype.str, "fill_value": 9.0,
        "order": "C", "filters": None, "compressor": {"id": "blosc", "cname": "lz4", "clevel": 5, "shuffle": 1},
    } | changes  # fmt: skip
    if separator == "/":
        said["dimension_separator"] = "/"
    files = chunks_of(values, CHUNK, lambda place: separator.join(map(str, place)), pack, said["order"])
    return store({".zarray": said, ".zattrs": attributes or {}} | files)


def sharded(*, files: dict[str, bytes] | None = None, **changes: Any) -> bytes:
    """As the format ``sdf`` writes it: a shard a frame, chunks of nothing but the fill value left out."""
    values = np.minimum(distances(), np.float32(0.75))
    said = array_metadata(
        SHAPE, data_type="float32", fill=0.75, attributes={"cytosynth": {"spacing_um": SPACING, "clamp_um": 0.75}}
    )
    shards = {f"c/{t}/0/0/0": encode_shard(frame, fill=0.75) for t, frame in enumerate(values)}
    written = {"zarr.json": said | changes} | (shards if files is None else files)
    return store({f"distances.zarr/{path}": content for path, content in written.items()})


def shard(*entries: tuple[int, int], body: bytes = b"", tail: bytes = bytes(4)) -> bytes:
    return body + b"".join(struct.pack("<QQ", *entry) for entry in entries) + tail


def small_shards(*entries: tuple[int, int], body: bytes) -> bytes:
    """Two frames in shards of two chunks of 7 x 12 x 10."""
    sharding = {
        "chunk_shape": [1, 7, 12, 10], "codecs": [LITTLE, GZIP], "index_location": "end",
        "index_codecs": [LITTLE, {"name": "crc32c"}],
    }  # fmt: skip
    said = described(
        chunk_grid={"name": "regular", "configuration": {"chunk_shape": [1, *SHAPE[1:]]}},
        codecs=[{"name": "sharding_indexed", "configuration": sharding}],
    )
    return store({"zarr.json": said, "c/0/0/0/0": shard(*entries, body=body)})


def with_files(**files: Any) -> bytes:
    return store({"zarr.json": described()} | {path.replace("__", "/"): content for path, content in files.items()})


def linked() -> bytes:
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w") as archive:
        archive.writestr("zarr.json", json.dumps(described()))
        link = zipfile.ZipInfo("c/0/0/0/0")
        link.create_system, link.external_attr = 3, 0o120777 << 16
        archive.writestr(link, "/etc/passwd")
    return target.getvalue()


def large(shape: list[int], chunk: list[int], **changes: Any) -> bytes:
    grid = {"name": "regular", "configuration": {"chunk_shape": chunk}}
    return store({"zarr.json": described(shape=shape, chunk_grid=grid, **changes), "c/0/0/0/0": gzipped(bytes(8))})


def lying_blosc(size: int) -> bytes:
    content = bytearray(blosc(bytes(4 * 7 * 12 * 4)))
    struct.pack_into("<I", content, 4, size)
    return bytes(content)


BLOSC = {"name": "blosc", "configuration": {"cname": "lz4"}}
ZSTD = {"name": "zstd", "configuration": {"level": 3}}
CRC = {"name": "crc32c"}

# Good stores, and whether they state the spacing.
GOOD: dict[str, Callable[[], bytes]] = {
    "3, gzip": version_3,
    "3, zstd and checksums": lambda: version_3(pack=lambda raw: zstd(raw) + bytes(4), codecs=[LITTLE, ZSTD, CRC]),
    "3, blosc": lambda: version_3(pack=blosc, codecs=[LITTLE, BLOSC]),
    "3, plain, at the root, points": lambda: version_3(pack=bytes, codecs=[LITTLE], folder="", separator="."),
    "3, big-endian doubles": lambda: version_3(
        distances().astype(">f8"), data_type="float64",
        codecs=[{"name": "bytes", "configuration": {"endian": "big"}}, GZIP],
    ),
    "3, without names": lambda: version_3(dimension_names=None),
    "3, names without letters": lambda: version_3(dimension_names=[None] * 4),
    "2, blosc": version_2,
    "2, zlib, by columns": lambda: version_2(pack=zlib.compress, compressor={"id": "zlib"}, order="F"),
    "2, zstd, folders": lambda: version_2(pack=zstd, compressor={"id": "zstd"}, separator="/", filters=[]),
    "2, plain, named as xarray does": lambda: version_2(
        pack=bytes, compressor=None, attributes={"_ARRAY_DIMENSIONS": ["t", "z", "y", "x"]}
    ),
}  # fmt: skip

HOSTILE: dict[str, tuple[Callable[[], bytes], str]] = {
    "no zip": (lambda: b"zarr" * 100, "zip"),
    "cut": (lambda: version_3()[:-30], "zip"),
    "nothing": (lambda: store({"a.txt": b"x"}), "0 arrays"),
    "two arrays": (lambda: store({"a/zarr.json": described(), "b/zarr.json": described()}), "2 arrays"),
    "both versions": (lambda: store({"zarr.json": described(), ".zarray": {"zarr_format": 2}}), "2 arrays"),
    "a group": (lambda: store({"zarr.json": {"zarr_format": 3, "node_type": "group"}}), "0 arrays"),
    "metadata without end": (lambda: store({"zarr.json": b"[" * 2**17}), "too long"),
    "deep metadata": (lambda: store({"zarr.json": b"[" * 60_000}), "damaged"),
    "metadata of another sort": (lambda: store({"zarr.json": b"[1]"}), "no object"),
    "no JSON": (lambda: store({"zarr.json": b"\xff\xfe"}), "damaged"),
    "version 4": (lambda: version_3(zarr_format=4), "zarr_format"),
    "transformers": (lambda: version_3(storage_transformers=[{"name": "x"}]), "storage_transformers"),
    "filters": (lambda: version_2(filters=[{"id": "delta"}]), "filters"),
    "pickled objects": (lambda: version_2(dtype="|O", filters=None), "cannot be distances"),
    "pickle as a filter": (lambda: version_2(filters=[{"id": "pickle"}]), "filters"),
    "integers": (lambda: version_3(data_type="int32"), "cannot be distances"),
    "structured": (lambda: version_2(dtype=[["a", "<f4"]]), "cannot be distances"),
    "an unknown codec": (lambda: version_3(codecs=[LITTLE, {"name": "lzma"}]), "packed by 'lzma'"),
    "a codec of a path": (lambda: version_2(compressor={"id": "../../etc/passwd"}), "packed by"),
    "compressed twice": (lambda: version_3(codecs=[LITTLE, GZIP, GZIP]), "more than once"),
    "transposed": (lambda: version_3(codecs=[{"name": "transpose"}, LITTLE]), "'transpose'"),
    "no codecs": (lambda: version_3(codecs=[]), "not listed"),
    "shards in shards": (
        lambda: sharded(codecs=[{"name": "sharding_indexed", "configuration": {
            "chunk_shape": [1, 14, 12, 10], "index_codecs": [LITTLE], "codecs": [{"name": "sharding_indexed"}],
        }}]),
        "'sharding_indexed'",
    ),
    "two axes": (lambda: version_3(shape=[14, 12]), "three or four sides"),
    "a side of 0": (lambda: version_3(shape=[2, 0, 12, 10]), "three or four sides"),
    "a side of 2^40": (lambda: version_3(shape=[2, 2**40, 12, 10]), "three or four sides"),
    "a boolean side": (lambda: version_3(shape=[2, True, 12, 10]), "three or four sides"),
    "axes of colours": (lambda: version_3(dimension_names=["c", "z", "y", "x"]), "the axes are called"),
    "no fill": (lambda: version_3(fill_value=["x"]), "damaged"),
    "fill of words": (lambda: version_3(fill_value="0x7fc0"), "no number"),
    "fill without end": (lambda: version_3(fill_value=10**400), "damaged"),
    "declared bomb": (lambda: large([2000, 1024, 1024, 1024], [1, 64, 64, 64]), "samples"),
    "a huge chunk": (lambda: large([1, 512, 512, 512], [1, 512, 512, 512]), "a chunk of the array"),
    "a chunk beyond the array": (lambda: large([1, 16, 16, 16], [1, 2**20, 2**20, 16]), "a chunk of the array"),
    "a million chunks": (lambda: large([1, 512, 512, 512], [1, 4, 4, 4]), "chunks; write larger ones"),
    "nothing but the fill": (lambda: store({"zarr.json": described()}), "no value below 0"),
    "nothing, as large as is allowed": (
        lambda: store({"zarr.json": described(
            shape=[1, 512, 512, 512],
            chunk_grid={"name": "regular", "configuration": {"chunk_shape": [1, 128, 128, 128]}},
        )}),
        "no value below 0",
    ),
    "fill that is no number": (lambda: store({"zarr.json": described(fill_value="NaN")}), "NaN"),
    "gzip bomb": (lambda: version_3(pack=lambda _: gzip.compress(bytes(2**26))), "unpacks to"),
    "zlib bomb": (lambda: version_2(pack=lambda _: zlib.compress(bytes(2**26)), compressor={"id": "zlib"}), "unpacks"),
    "zstd bomb": (lambda: version_3(pack=lambda _: zstd(bytes(2**28)), codecs=[LITTLE, ZSTD]), "unpacks to more"),
    "blosc bomb": (lambda: version_2(pack=lambda _: blosc(bytes(2**26))), "another size"),
    "blosc that lies": (lambda: version_2(pack=lambda raw: lying_blosc(len(raw))[:-4]), "cut off"),
    "blosc of noise": (
        lambda: version_2(pack=lambda raw: struct.pack("<4B3I", 2, 1, 1, 4, len(raw), 64, 80) + bytes(range(64))),
        "damaged",
    ),
    "less than a chunk": (lambda: version_3(pack=lambda raw: gzipped(raw[:-4])), "unpacks to"),
    "no chunk": (lambda: with_files(readme=b"x"), "no chunk of the array"),
    "a chunk elsewhere": (lambda: with_files(c__9__0__0__0=gzipped(bytes(1344))), "no chunk of the array"),
    "a key of another form": (lambda: with_files(c__00__0__0__0=gzipped(bytes(1344))), "no chunk of the array"),
    "a negative key": (lambda: store({"zarr.json": described(), "c/-1/0/0/0": b"x"}), "no chunk of the array"),
    "a link": (linked, "link"),
    "a path upwards": (lambda: store({"zarr.json": described(), "../c/0/0/0/0": b"x"}), "not relative and plain"),
    "files beside": (lambda: store({"a/zarr.json": described(), "b/c/0/0/0/0": b"x"}), "beside the array"),
    "a shard without an index": (lambda: sharded(files={"c/0/0/0/0": b"short"}), "shorter than its index"),
    "a chunk outside its shard": (lambda: sharded(files={"c/0/0/0/0": shard((0, 50), body=bytes(10))}), "share bytes"),
    "an offset of 2^63": (lambda: sharded(files={"c/0/0/0/0": shard((2**63, 10), body=bytes(10))}), "outside"),
    "chunks that share bytes": (
        lambda: small_shards((0, 40), (0, 40), body=gzipped(bytes(7 * 12 * 10 * 4))[:40].ljust(40, b"\0")),
        "share bytes",
    ),
    "bomb in a shard": (lambda: small_shards((0, 260), (2**64 - 1, 2**64 - 1), body=gzipped(bytes(2**18))[:260]),
                        "unpacks to"),
    "spacing of another sort": (lambda: version_3(attributes={"spacing_um": {"x": 1}}), "three lengths"),
    "spacing of 0": (lambda: version_3(attributes={"spacing_um": [0, 1, 1]}), "three lengths"),
}  # fmt: skip
