"""The napari reader, without napari: what it opens, and where the voxels lie. test_client_wheel.py opens napari."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile

from cytosynth.napari_reader import get_reader, read
from model.export.imagej_tiff import Hyperstack, HyperstackWriter

SHAPE = (3, 4, 5, 6)


def write_hyperstack(path: Path, *, interval_s: float | None) -> Any:
    """Write a label volume as the service does."""
    volume = np.random.default_rng(0).integers(0, 4, SHAPE).astype(np.uint16)
    stack = Hyperstack(shape=SHAPE, spacing=(0.5, 0.25, 0.75), origin=(1.5, 2.0, 2.5), interval_s=interval_s)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        writer = HyperstackWriter(file.write, stack)
        for frame in volume:
            writer.write(frame)
        writer.close()
    return volume


def test_a_hyperstack_is_a_labels_layer_at_scale(tmp_path: Path) -> None:
    path = tmp_path / "cell_0000" / "labels.tif"
    volume = write_hyperstack(path, interval_s=90.0)
    assert get_reader(str(path)) is read
    [(data, arguments, kind)] = read(str(path))
    assert kind == "labels"
    assert np.array_equal(data, volume)
    assert arguments["name"] == "cell_0000 labels"
    assert arguments["scale"] == pytest.approx((1.5, 0.5, 0.25, 0.75))
    assert arguments["translate"] == pytest.approx((0.0, -0.75, -0.5, -1.875))
    assert arguments["units"] == ("min", "um", "um", "um")


def test_times_that_are_not_evenly_spaced_are_counted_in_frames(tmp_path: Path) -> None:
    write_hyperstack(tmp_path / "labels.tif", interval_s=None)
    [(_, arguments, _)] = read(str(tmp_path / "labels.tif"))
    assert arguments["scale"][0] == 1.0
    assert arguments["units"][0] == "pixel"


def test_an_ome_tiff_is_a_labels_layer_at_scale(tmp_path: Path) -> None:
    volume = np.random.default_rng(0).integers(0, 4, SHAPE).astype(np.uint16)
    facts = {"PhysicalSizeX": 0.75, "PhysicalSizeY": 0.25, "PhysicalSizeZ": 0.5, "TimeIncrement": 90.0}
    units = {f"PhysicalSize{axis}Unit": "µm" for axis in "XYZ"} | {"TimeIncrementUnit": "s"}
    path = tmp_path / "labels.ome.tif"
    tifffile.imwrite(path, volume, ome=True, metadata={"axes": "TZYX", **facts, **units})
    [(data, arguments, _)] = read(str(path))
    assert np.array_equal(data, volume)
    assert arguments["scale"] == pytest.approx((1.5, 0.5, 0.25, 0.75))
    assert arguments["translate"] == pytest.approx((0.0, -0.75, -0.5, -1.875))


def test_a_result_is_opened_with_all_of_its_cells_and_nothing_else_is(tmp_path: Path) -> None:
    for cell in range(2):
        write_hyperstack(tmp_path / f"cell_{cell:04d}" / "labels.tif", interval_s=60.0)
    assert get_reader(str(tmp_path)) is None
    (tmp_path / "manifest.json").write_text(json.dumps({"format": "cytosynth-manifest/1"}))
    assert get_reader(str(tmp_path)) is read
    assert [arguments["name"] for _, arguments, _ in read(str(tmp_path))] == ["cell_0000 labels", "cell_0001 labels"]
    for name in ("other.tif", "labels.png", "labels.tif.part", "absent/labels.tif"):
        (tmp_path / "other").mkdir(exist_ok=True)
        assert get_reader(str(tmp_path / "other" / name)) is None
    assert get_reader([]) is None
