"""Arrays of signed distances: what is read, byte for byte, and hostile files, which the sandboxed child refuses."""

from __future__ import annotations

import io
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from hostile import corpus_zarr
from numpy.typing import NDArray

from model.errors import UploadError
from model.readers.open import open_recordings
from model.readers.recording import Calibration
from worker.uploads.sandbox import inspect_and_copy, kind_of

SHAPE = (2, 10, 12, 14)  # t, x, y, z
SPACING = (0.5, 0.5, 0.25)  # µm


def distances(radius: float = 1.5) -> NDArray[np.float32]:
    """Signed distances (t, x, y, z) in µm of a ball that grows."""
    places = np.meshgrid(
        *((np.arange(n) - (n - 1) / 2) * step for n, step in zip(SHAPE[1:], SPACING, strict=True)), indexing="ij"
    )
    away = np.sqrt(sum(place**2 for place in places))
    return np.stack([away - radius, away - radius - 0.1]).astype(np.float32)


def npy(values: NDArray[Any], *, by_column: bool = False) -> bytes:
    target = io.BytesIO()
    np.save(target, np.asfortranarray(values) if by_column else np.ascontiguousarray(values), allow_pickle=True)
    return target.getvalue()


def npz(*, packed: bool = True, **arrays: NDArray[Any]) -> bytes:
    target = io.BytesIO()
    (np.savez_compressed if packed else np.savez)(target, **arrays)  # type: ignore[arg-type]
    return target.getvalue()


def hdf5(write: Callable[[h5py.File], object]) -> bytes:
    target = io.BytesIO()
    with h5py.File(target, "w") as file:
        write(file)
    return target.getvalue()


def stored(values: NDArray[Any], **options: Any) -> Callable[[h5py.File], object]:
    return lambda file: file.create_dataset("sdf_vid", data=values.transpose(3, 1, 2, 0), **options)


def described(header: str, data: bytes = b"") -> bytes:
    return b"\x93NUMPY\1\0" + struct.pack("<H", len(header)) + header.encode() + data


def header(**changes: object) -> str:
    return repr({"descr": "<f4", "fortran_order": False, "shape": SHAPE} | changes)


def inspected(folder: Path, name: str, content: bytes) -> tuple[dict[str, Any], Path]:
    path, copy = folder / f"sent-{name}", folder / "copy.npy"
    path.write_bytes(content)
    facts, parts = inspect_and_copy(path, kind_of(name), copy)
    assert [(part.offset, part.bytes) for part in parts] == [(0, copy.stat().st_size)]
    return facts, copy


GOOD: dict[str, tuple[str, Callable[[], bytes], Any]] = {
    **{f"Zarr {name}": ("a.zarr.zip", case, np.float32) for name, case in corpus_zarr.GOOD.items()},
    "by rows": ("a.npy", lambda: npy(distances()), np.float32),
    "by columns": ("a.npy", lambda: npy(distances(), by_column=True), np.float32),
    "half": ("a.npy", lambda: npy(distances().astype(np.float16)), np.float16),
    "double, big-endian": ("a.npy", lambda: npy(distances().astype(">f8")), np.float32),
    "alone": ("a.npz", lambda: npz(cell=distances()), np.float32),
    "alone, not packed": ("a.npz", lambda: npz(packed=False, cell=distances()), np.float32),
    "plain": ("a.h5", lambda: hdf5(stored(distances())), np.float32),
    "chunks": (
        "a.hdf5",
        lambda: hdf5(stored(distances(), chunks=(7, 5, 12, 1), compression="gzip", shuffle=True)),
        np.float32,
    ),
}


@pytest.mark.parametrize("case", GOOD)
def test_arrays_of_distances_are_read_and_copied_plainly(case: str, tmp_path: Path) -> None:
    name, content, kind = GOOD[case]
    facts, copy = inspected(tmp_path, name, content())
    wanted = distances().astype(kind).astype(np.float32)
    values = np.load(copy, allow_pickle=False)
    assert (values.dtype, values.flags.c_contiguous) == (np.dtype("<f4"), True)
    assert np.array_equal(values, wanted)
    assert facts == {
        "axes": "TXYZ", "shape": list(SHAPE), "smallest": float(wanted.min()), "largest": float(wanted.max()),
        "touches_border": False, "voxel": [None, None, None],
    }  # fmt: skip
    (recording,) = open_recordings(copy, given=Calibration(SPACING))
    for frame, radius in ((0, 1.5), (1, 1.6)):
        (seen,) = recording.observations(frame)
        assert seen.volume == pytest.approx(4.0 / 3.0 * np.pi * radius**3, rel=0.05)


def test_one_frame_needs_no_axis_of_time_and_hdf5_says_its_spacing(tmp_path: Path) -> None:
    facts, _ = inspected(tmp_path, "one.npy", npy(distances()[0]))
    assert facts["shape"] == [1, *SHAPE[1:]]
    (tmp_path / "copy.npy").unlink()

    def write(file: h5py.File) -> None:
        data = file.create_dataset("sdf_vid", data=distances().transpose(3, 1, 2, 0))
        data.attrs["spacing_um"] = SPACING

    assert inspected(tmp_path, "one.h5", hdf5(write))[0]["voxel"] == list(SPACING)


def test_the_format_sdf_comes_back_as_an_upload_with_its_spacing(tmp_path: Path) -> None:
    facts, copy = inspected(tmp_path, "distances.zarr.zip", corpus_zarr.sharded())
    assert np.array_equal(np.load(copy), np.minimum(distances(), np.float32(0.75)))
    assert (facts["shape"], facts["voxel"]) == ([*SHAPE], [*SPACING])
    (tmp_path / "copy.npy").unlink()
    one = corpus_zarr.store({
        "zarr.json": corpus_zarr.described(
            shape=[10, 12, 14], dimension_names=["x", "y", "z"],
            chunk_grid={"name": "regular", "configuration": {"chunk_shape": [10, 12, 14]}},
        ),
        "c/0/0/0": corpus_zarr.gzipped(distances()[0].tobytes()),
    })  # fmt: skip
    assert inspected(tmp_path, "one.zarr.zip", one)[0]["shape"] == [1, *SHAPE[1:]]
    assert np.array_equal(np.load(copy), distances()[:1])


def with_value(value: float) -> NDArray[np.float32]:
    values = distances()
    values[1, 2, 2, 2] = value
    return values


def virtual(file: h5py.File) -> None:
    layout = h5py.VirtualLayout(shape=(14, 10, 12, 2), dtype="f4")
    layout[:] = h5py.VirtualSource("/etc/passwd", "x", shape=(14, 10, 12, 2))
    file.create_virtual_dataset("sdf_vid", layout)


def soft(file: h5py.File) -> None:
    file["other"] = distances().transpose(3, 1, 2, 0)
    file["sdf_vid"] = h5py.SoftLink("/other")


def elsewhere(file: h5py.File) -> None:
    file["sdf_vid"] = h5py.ExternalLink("/etc/passwd", "/x")


def outside(file: h5py.File) -> None:
    file.create_dataset("sdf_vid", shape=(14, 10, 12, 2), dtype="f4", external=[("/etc/passwd", 0, 4 * 3360)])


def bomb() -> bytes:
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.npy", described(header(shape=(1, 512, 512, 512)), bytes(2**26)))
    return target.getvalue()


def spoiled(offset: int) -> bytes:
    content = bytearray(hdf5(stored(distances(), chunks=(7, 5, 12, 1), compression="gzip")))
    content[offset : offset + 64] = bytes(range(0x80, 0xC0))
    return bytes(content)


HOSTILE: dict[str, tuple[str, Callable[[], bytes], str]] = {
    **{f"Zarr: {name}": ("a.zarr.zip", *case) for name, case in corpus_zarr.HOSTILE.items()},
    "no magic": ("a.npy", lambda: b"numpy" * 20, "does not begin"),
    "cut in the header": ("a.npy", lambda: npy(distances())[:40], "cut off"),
    "long header": ("a.npy", lambda: b"\x93NUMPY\2\0" + struct.pack("<I", 2**31) + b"{", "too long"),
    "a call": ("a.npy", lambda: described("__import__('os').abort()"), "cannot be understood"),
    "deep": ("a.npy", lambda: described("(" * 4000), "cannot be understood"),
    "no dictionary": ("a.npy", lambda: described("[1, 2]"), "other members"),
    "one member more": ("a.npy", lambda: described(header(pickle=True)), "other members"),
    "pickled objects": ("a.npy", lambda: npy(np.array([[[{}]]], dtype=object)), "cannot be distances"),
    "structured": ("a.npy", lambda: described(header(descr=[("a", "<f4")])), "cannot be distances"),
    "labels": ("a.npy", lambda: npy(distances().astype(np.int16)), "integers are labels"),
    "long doubles": ("a.npy", lambda: described(header(descr="<f16")), "cannot be distances"),
    "two axes": ("a.npy", lambda: npy(distances()[0, 0]), "neither"),
    "five axes": ("a.npy", lambda: described(header(shape=(1, *SHAPE))), "neither"),
    "negative side": ("a.npy", lambda: described(header(shape=(2, -10, 12, 14))), "none of an array"),
    "boolean side": ("a.npy", lambda: described(header(shape=(2, True, 12, 14))), "none of an array"),
    "no frame": ("a.npy", lambda: described(header(shape=(0, 10, 12, 14))), "0 frames"),
    "thin": ("a.npy", lambda: npy(distances()[:, :, :, 5:7]), "2 samples along z"),
    "declared bomb": ("a.npy", lambda: described(header(shape=(2000, 1024, 1024, 1024))), "samples"),
    "overflowing bomb": ("a.npy", lambda: described(header(shape=(2**62, 4, 4, 4))), "frames"),
    "fewer samples": ("a.npy", lambda: npy(distances())[:-4], "the header speaks of"),
    "more samples": ("a.npy", lambda: npy(distances()) + bytes(4), "the header speaks of"),
    "not a number": ("a.npy", lambda: npy(with_value(np.nan)), "frame 1 holds NaN"),
    "infinity": ("a.npy", lambda: npy(with_value(-np.inf)), "frame 1 holds NaN"),
    "no cell": ("a.npy", lambda: npy(np.abs(distances())), "no value below 0"),
    "no outside": ("a.npy", lambda: npy(-np.abs(distances()) - 1.0), "no value above 0"),
    "two arrays": ("a.npz", lambda: npz(a=distances(), b=distances()), "one array"),
    "no array": ("a.npz", lambda: npz(), "no array"),
    "pickle in a zip": ("a.npz", lambda: npz(a=np.array([[[{}]]], dtype=object)), "cannot be distances"),
    "no zip": ("a.npz", lambda: npy(distances()), "zip"),
    "packed bomb": ("a.npz", bomb, "the header speaks of"),
    "no HDF5": ("a.h5", lambda: b"\x89HDF\r\n\x1a\n" + bytes(4096), "cannot be read as HDF5"),
    "cut": ("a.h5", lambda: hdf5(stored(distances()))[:3000], "cannot be read as HDF5"),
    "another name": ("a.h5", lambda: hdf5(lambda file: file.create_dataset("x", data=1.0)), "no data set"),
    "a group": ("a.h5", lambda: hdf5(lambda file: file.create_group("sdf_vid")), "no data set"),
    "soft link": ("a.h5", lambda: hdf5(soft), "no data set"),
    "external link": ("a.h5", lambda: hdf5(elsewhere), "no data set"),
    "virtual": ("a.h5", lambda: hdf5(virtual), "in other files"),
    "external": ("a.h5", lambda: hdf5(outside), "in other files"),
    "integers": ("a.h5", lambda: hdf5(stored(distances().astype(np.int32))), "axes of int32"),
    "nothing written": (
        "a.h5",
        lambda: hdf5(lambda file: file.create_dataset("sdf_vid", (1024, 1024, 1024, 2000), "f4", chunks=True)),
        "samples",
    ),
    "one chunk": (
        "a.h5",
        lambda: hdf5(
            lambda file: file.create_dataset(
                "sdf_vid", shape=(512, 512, 500, 1), dtype="f4", chunks=(512, 512, 500, 1), compression="gzip"
            )
        ),
        "a chunk",
    ),
    "spacing of another sort": (
        "a.h5",
        lambda: hdf5(lambda file: stored(distances())(file).attrs.update(spacing_um=[1.0, np.nan])),  # type: ignore[attr-defined]
        "three lengths",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_arrays_are_refused_with_what_is_allowed(case: str, tmp_path: Path) -> None:
    name, content, words = HOSTILE[case]
    with pytest.raises(UploadError) as refused:
        inspected(tmp_path, name, content())
    assert words in refused.value.message
    assert "Allowed: signed distances" in refused.value.message


@pytest.mark.parametrize("offset", [8, 24, 96, 200, 800, 2000])
def test_spoiled_hdf5_is_refused_or_read(offset: int, tmp_path: Path) -> None:
    try:
        facts, _ = inspected(tmp_path, "a.h5", spoiled(offset))
    except UploadError:
        return
    assert facts["shape"] == list(SHAPE)
