"""What later readers open is a plain copy, and it is to them what the original is."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import trimesh

from model.readers.meshes import read_mesh
from model.readers.planes import read_contents, read_frame
from model.upload_checks.label_tiff import read_labels
from worker.uploads.sandbox import inspect_and_copy

SCALE = {"PhysicalSizeX": 0.123456789, "PhysicalSizeY": 0.1, "PhysicalSizeZ": 1 / 3, "TimeIncrement": 30.5}
OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {}, "named axes": {"metadata": {"axes": "TZYX"}}, "big-endian": {"byteorder": ">", "bigtiff": True},
    "lzw": {"compression": "lzw"}, "strips": {"compression": "zlib", "rowsperstrip": 3},
    "tiles": {"compression": "zstd", "predictor": True, "tile": (16, 32), "photometric": "minisblack"},
    "ome": {"ome": True, "metadata": {"axes": "TZYX", "TimeIncrementUnit": "s", **SCALE}},
    "ome, nm": {"ome": True, "metadata": {"axes": "TZYX", **SCALE, "PhysicalSizeXUnit": "nm"}},
    "imagej": {
        "imagej": True, "resolution": (1 / 0.123, 1 / 0.345),
        "metadata": {"axes": "TZYX", "unit": "\\u00B5m", "spacing": 0.37, "finterval": 33.3, "tunit": "min"},
    },
    "imagej without spacing": {"imagej": True, "resolution": (3, 3), "metadata": {"axes": "TZYX", "unit": "micron"}},
    "imagej with another unit": {"imagej": True, "resolution": (3, 3), "metadata": {"axes": "TZYX", "unit": "furlong"}},
}  # fmt: skip


def cells(kind: Any = np.uint16) -> Any:
    """Three frames of two cells, (t, z, y, x)."""
    volumes = np.zeros((3, 6, 40, 37), kind)
    volumes[:, 2:4, 3:30, 2:20], volumes[2, 2:4, 3:5, 22:25] = 1, 9
    return volumes


def copied(path: Path, kind: str, place: Path) -> tuple[dict[str, Any], Path]:
    copy = place / f"copy.{'tif' if kind == 'tiff' else 'ply'}"
    copy.unlink(missing_ok=True)
    facts, parts = inspect_and_copy(path, kind, copy)
    assert [(part.offset, part.bytes) for part in parts] == [(0, copy.stat().st_size)]
    return facts, copy


@pytest.mark.parametrize("name", OPTIONS)
@pytest.mark.parametrize("kind", [np.uint8, np.uint16, np.uint32, np.float32])
def test_readers_find_the_same_in_a_copy_of_labels(tmp_path: Path, name: str, kind: Any) -> None:
    options = OPTIONS[name]
    if options.get("imagej") and kind == np.uint32:
        pytest.skip("ImageJ knows no such type")
    path = tmp_path / "cells.tif"
    tifffile.imwrite(path, cells(kind), **options)
    copy = tmp_path / "copy.tif"
    with copy.open("wb") as file:
        read_labels(memoryview(path.read_bytes()), copy=file)
    original, plain = read_contents(path), read_contents(copy)
    for what in ("frames", "has_time", "axes", "calibration", "warnings"):
        assert getattr(plain, what) == getattr(original, what), what
    assert all(np.array_equal(read_frame(copy, frame), read_frame(path, frame)) for frame in range(3))


def test_one_frame_without_a_description_stays_one(tmp_path: Path) -> None:
    path = tmp_path / "cells.tif"
    with tifffile.TiffWriter(path) as file:
        for plane in cells()[0]:
            file.write(plane, metadata=None, contiguous=False, compression="lzw")
    _, copy = copied(path, "tiff", tmp_path)
    assert read_contents(copy).has_time is False
    assert np.array_equal(read_frame(copy, 0), cells()[0])


@pytest.mark.parametrize(
    ("kind", "large"), [(np.uint64, 2**63 - 1), (np.uint32, 70_000), (np.float64, 2.0**40), (np.int64, 65_536)]
)
def test_labels_over_65535_are_renumbered_in_the_copy(tmp_path: Path, kind: Any, large: float) -> None:
    path, volumes = tmp_path / "cells.tif", cells(kind)
    volumes[volumes == 9] = large
    tifffile.imwrite(path, volumes, compression="lzw", metadata={"axes": "TZYX"})
    facts, copy = copied(path, "tiff", tmp_path)
    assert facts["renumbered"] == {"1": 1, str(int(large)): 2}
    assert facts["largest_label"] == large
    found = tifffile.imread(copy)
    assert found.dtype == np.uint16
    assert np.array_equal(found, np.where(cells() == 9, 2, cells()))


def test_a_copy_holds_nothing_that_was_skipped(tmp_path: Path) -> None:
    secret = b"not to be seen again"
    path = tmp_path / "cells.tif"
    extra = [(65000, 7, len(secret), secret, True), (305, 2, 0, secret.decode(), True)]
    tifffile.imwrite(
        path, cells(), description=b"", metadata={"axes": "TZYX", "note": secret.decode()}, extratags=extra
    )
    assert secret in path.read_bytes()
    assert secret not in copied(path, "tiff", tmp_path)[1].read_bytes()
    trimesh.creation.box().export(tmp_path / "cell.obj")
    (tmp_path / "cell.obj").write_bytes(b"mtllib " + secret + b"\n" + (tmp_path / "cell.obj").read_bytes())
    assert secret not in copied(tmp_path / "cell.obj", "obj", tmp_path)[1].read_bytes()


def test_axes_that_label_volumes_do_not_have_are_refused(tmp_path: Path) -> None:
    from model.errors import UploadError

    tifffile.imwrite(tmp_path / "cells.tif", cells(), metadata={"axes": "ZTYX"})
    with pytest.raises(UploadError, match="other axes"):
        read_labels(memoryview((tmp_path / "cells.tif").read_bytes()), copy=io.BytesIO())


@pytest.mark.parametrize("ending", ["stl", "stl_ascii", "obj", "ply", "ply_ascii"])
def test_readers_find_the_same_in_a_copy_of_a_surface(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"cell.{ending[:3]}"
    options: dict[str, Any] = {"encoding": "ascii"} if ending == "ply_ascii" else {}
    shape = trimesh.creation.annulus(r_min=3.0, r_max=6.0, height=4.0)
    shape.export(path, file_type=ending.replace("ply_ascii", "ply"), **options)
    _, copy = copied(path, ending[:3], tmp_path)
    original, plain = read_mesh(path).membrane, read_mesh(copy).membrane
    assert np.array_equal(original.vertices, plain.vertices)
    assert np.array_equal(original.faces, plain.faces)
