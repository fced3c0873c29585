"""Promises of model.rendering.label_colours, and what ImageJ's TIFF holds beside the voxels."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import tifffile
from skimage.color import rgb2lab

from model.card import SHIPPED_MODELS
from model.domain import Grid
from model.engine.marching_cubes import Surface
from model.engine.runs import runs_of
from model.export.imagej_tiff import open_writer
from model.network.checkpoint import load_checkpoint
from model.output.exporter import CellFiles, Exporter, ExportFrame
from model.output.verify import verify_result
from model.rendering.label_colours import label_colours, to_cielab
from model.spec import GenerationSpec
from model.synthesis import synthesize

SPEC = {"model": "celegans", "seed": 7, "formats": ["ply", "tiff"], "separate_bodies": True}
GRID = Grid((6, 5, 4))
NO_SURFACE = Surface(vertices=np.zeros((0, 3), np.float32), faces=np.zeros((0, 3), np.int32))


def hyperstack(folder: Path, volume: Any, spec: Any) -> Path:
    """Write one frame."""
    exporter = Exporter(folder, grid=GRID, micrometres=2.0, minutes=1.0)
    with open_writer(CellFiles(exporter=exporter, name="cell_0000", times=[0.0], spec=spec)) as write:
        write(ExportFrame(number=0, time=0.0, surface=NO_SURFACE, labelled=SimpleNamespace(runs=runs_of(volume))))
    return folder / "cell_0000/labels.tif"


def test_any_two_labels_have_different_colours_and_the_first_very_different_ones() -> None:
    colours = label_colours()
    assert colours[0].tolist() == [0, 0, 0]
    assert len(np.unique(colours, axis=0)) == len(colours) == 256
    lab = rgb2lab(colours / 255.0)
    assert (lab[1:, 0] > 39).all()  # seen on black
    for count, least in ((4, 80), (16, 40), (256, 8)):  # of ΔE, just noticeable is about 2
        gaps = np.linalg.norm(lab[:count, None] - lab[None, :count], axis=2)
        assert gaps[~np.eye(count, dtype=bool)].min() > least


def test_the_conversion_agrees_with_scikit_image() -> None:
    colours = np.random.default_rng(0).integers(0, 256, (500, 3))
    assert np.abs(to_cielab(colours) - rgb2lab(colours / 255.0)).max() < 0.02


def test_the_table_is_the_same_everywhere() -> None:
    digest = hashlib.sha256(label_colours().tobytes()).hexdigest()
    assert digest == "9018f3dbd0435b0cdf77de2a30e75184372a008b08c2cd35171855b55ac580e7"


def test_imagej_finds_the_lookup_table_and_the_spec_and_the_voxels_are_the_same(tmp_path: Path) -> None:
    volume = np.random.default_rng(1).integers(0, 65536, GRID.shape).astype(np.uint16)
    with tifffile.TiffFile(hyperstack(tmp_path, volume, SPEC)) as tiff:
        page, facts = tiff.pages[0], tiff.imagej_metadata
        assert isinstance(page, tifffile.TiffPage)
        assert np.array_equal(tiff.asarray(), volume.T)
        assert page.photometric == tifffile.PHOTOMETRIC.MINISBLACK
        assert np.array_equal(np.asarray(page.tags["ColorMap"].value).reshape(3, 256), label_colours().T * 257.0)
        assert [tag.code for tag in page.tags] == sorted(tag.code for tag in page.tags)
        assert "ColorMap" not in tiff.pages[1].tags
    assert facts is not None
    assert (facts["min"], facts["max"]) == (0.0, 255.0)  # so the entry of a label is its number
    assert json.loads(facts["Info"]) == {"model": "celegans", "seed": 7, "formats": ["tiff"]}


def test_without_a_spec_there_is_no_info(tmp_path: Path) -> None:
    with tifffile.TiffFile(hyperstack(tmp_path, np.ones(GRID.shape, np.uint16), {})) as tiff:
        assert tiff.imagej_metadata is not None
        assert "Info" not in tiff.imagej_metadata


def test_the_spec_in_a_file_gives_the_file_and_verify_compares_it(tmp_path: Path) -> None:
    checkpoint = load_checkpoint(SHIPPED_MODELS / "celegans")
    spec = GenerationSpec(
        model="celegans", seed=7, count=2, frames=2, grid=48, formats=["ply", "tiff"], separate_bodies=True
    )
    synthesize(spec.completed(), checkpoint, tmp_path / "two")
    assert list(verify_result(tmp_path / "two")) == []
    file = tmp_path / "two/cell_0001/labels.tif"
    with tifffile.TiffFile(file) as tiff:
        assert tiff.imagej_metadata is not None
        stated = json.loads(tiff.imagej_metadata["Info"])
    synthesize(GenerationSpec.model_validate(stated), checkpoint, tmp_path / "again")
    assert (tmp_path / "again/cell_0001/labels.tif").read_bytes() == file.read_bytes()
    manifest = json.loads((tmp_path / "two/manifest.json").read_bytes())
    manifest["spec"]["seed"] = 8
    (tmp_path / "two/manifest.json").write_text(json.dumps(manifest))
    assert list(verify_result(tmp_path / "two")) == [
        f"cell_000{index}/labels.tif: Info does not hold the manifest's spec" for index in range(2)
    ]
