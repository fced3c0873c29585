"""Phantoms beside real cells: the calibration that the phantoms of C. elegans claim."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import tifffile

from model.domain import Grid
from model.errors import DatasetError
from model.evaluation.phantom_realism import compare_with_real, phantom_bodies, real_bodies
from model.phantoms import make_phantom

REAL = Path(__file__).resolve().parents[3] / ".." / "shared" / "data"


def test_a_phantom_cut_into_masks_measures_as_the_phantom_itself(tmp_path: Path) -> None:
    """Masks lose no more than their voxels do: both sides of the comparison are measured alike."""
    phantom, grid = make_phantom("celegans", 4), Grid((64, 64, 64))
    shape = phantom.shape(-1.0, resolution=64)
    mask = shape.contains(grid.points()).reshape(grid.shape)
    tifffile.imwrite(tmp_path / "cell.tif", np.stack([mask.transpose(2, 1, 0)] * 2).astype(np.uint8) * 255)
    listing = tmp_path / "listing.json"
    step = float(grid.step[0])
    listing.write_text(json.dumps({"cells": [{"file": "folder/cell.tif", "voxel_size": step}]}))
    ((found, _),) = real_bodies(tmp_path, listing=listing, unit=phantom.micrometres)
    ((truth, *_),) = phantom_bodies("celegans", [4], moments=2)
    assert found.volume == pytest.approx(truth.volume, rel=0.01)
    for name in ("sphericity", "solidity", "elongation", "mean_curvature"):
        assert getattr(found, name) == pytest.approx(getattr(truth, name), abs=0.02), name


def test_a_cell_without_a_voxel_size_is_named(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "cell.tif", np.pad(np.ones((1, 4, 4, 4), dtype=np.uint8), ((0, 0), *[(2, 2)] * 3)))
    listing = tmp_path / "listing.json"
    listing.write_text("[]")
    with pytest.raises(DatasetError, match=r"cell\.tif"):
        real_bodies(tmp_path, listing=listing)


@pytest.mark.slow
def test_phantoms_are_as_real_cells_are() -> None:
    if not (REAL / "celegans").is_dir():
        pytest.skip(f"no real cells to compare with: {REAL} is absent")
    real = real_bodies(REAL / "celegans", listing=REAL / "manifest.json", unit=0.17)
    rows = compare_with_real(real, "celegans", seeds=range(6000, 6024), moments=8)
    for name in ("sphericity", "elongation", "solidity"):
        assert rows[name]["D"] <= 0.2, (name, rows[name])
    for name in ("volume", "area", "volume_of_median"):
        assert rows[name]["D"] <= 0.25, (name, rows[name])
