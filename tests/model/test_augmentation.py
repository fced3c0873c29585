"""Variations of a cell: rotation, mirror, size and speed change what they say, and nothing else."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import trimesh
from scipy.spatial import KDTree

from model.augmentation import ATTEMPTS, augment, draw_variation
from model.augmentation_spec import AugmentationSpec
from model.domain import Grid, frame_times
from model.errors import SpecError
from model.living_cell import LivingCell, Variation
from model.network.checkpoint import Checkpoint
from model.network.plausibility import bodies_over_time, count_bodies, is_plausible
from model.output.verify import verify_result

POINTS = np.random.default_rng(0).uniform(-0.5, 0.5, (200, 3)).astype(np.float32)
TIMES, GRID = frame_times(3), Grid((40, 40, 40))
STILL = {"noise": 0.0, "rotation": "none", "mirror": False, "size": [1.0, 1.0], "speed": [1.0, 1.0]}


def spec(**changes: Any) -> AugmentationSpec:
    base = {"model": "tiny", "source": {"kind": "learned", "index": 1}, "seed": 5, "count": 2, "frames": 2, "grid": 24}
    return AugmentationSpec.model_validate(base | {"formats": ["stl", "tiff"]} | changes).completed()


def test_mirror_size_and_speed_are_those_of_the_cell(tiny_checkpoint: Checkpoint) -> None:
    code = np.array(tiny_checkpoint.prior.centres[1], dtype=np.float32)
    upright = [1.0, 0.0, 0.0, 0.0]
    plain = LivingCell(tiny_checkpoint, code, upright)
    change = Variation(mirrored=True, size=0.8, speed=0.5, begin=-0.5)
    varied = LivingCell(tiny_checkpoint, code, upright, 0, change)
    for time, moment in ((-1.0, -0.5), (0.0, 0.0), (1.0, 0.5)):
        mirrored = (POINTS * np.array([-1.0, 1.0, 1.0]) / 0.8).astype(np.float32)
        np.testing.assert_allclose(varied.at(time)(POINTS), 0.8 * plain.at(moment)(mirrored), atol=2e-5)


def test_no_variation_gives_the_cell_itself(tiny_checkpoint: Checkpoint, tmp_path: Path) -> None:
    cell, strength = draw_variation(spec(**STILL), tiny_checkpoint, 0)
    np.testing.assert_array_equal(cell.latent, tiny_checkpoint.prior.centres[1])
    assert (strength.noise, strength.code_distance, strength.rejected) == (0.0, 0.0, 0)
    plain = LivingCell(tiny_checkpoint, cell.latent, cell.rotation)
    np.testing.assert_allclose(cell.at(0.3)(POINTS), plain.at(0.3)(POINTS), atol=1e-6)


def test_a_result_reports_the_strength_of_each_variation_and_repeats(
    tiny_checkpoint: Checkpoint, tmp_path: Path
) -> None:
    asked = spec(count=3)
    for name in ("a", "b"):
        augment(asked, tiny_checkpoint, tmp_path / name)
        assert list(verify_result(tmp_path / name)) == []
    files = [path.relative_to(tmp_path / "a") for path in (tmp_path / "a").rglob("*") if path.is_file()]
    assert all((tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes() for name in files)
    manifest = json.loads((tmp_path / "a" / "manifest.json").read_bytes())
    rows = json.loads((tmp_path / "a" / "augmentation.json").read_bytes())["cells"]
    assert manifest["spec"] == asked.model_dump(mode="json")
    assert [row["cell"] for row in rows] == [0, 1, 2]
    for row, entry in zip(rows, manifest["cells"], strict=True):
        assert row["rotation"] == entry["rotation"]
        assert 0.9 <= row["size"] <= 1.1
        assert -1.0 <= row["begins_at"] <= row["begins_at"] + 2.0 * row["speed"] <= 1.0 + 1e-9
    assert len({row["size"] for row in rows}) == 3


def test_no_code_is_less_plausible_than_the_check_allows(tiny_checkpoint: Checkpoint) -> None:
    for index in range(6):
        cell, strength = draw_variation(spec(noise=2.0), tiny_checkpoint, index)
        assert strength.noise == 0.0 or is_plausible(*bodies_over_time(tiny_checkpoint, cell.latent), "single")


def test_a_cell_that_the_model_cannot_have_is_refused() -> None:
    for source, pointer in (
        ({"kind": "learned", "index": 9}, "/source/index"),
        ({"kind": "explicit", "values": [1.0]}, "/source/values"),
    ):
        with pytest.raises(SpecError) as refused:
            spec(source=source).check_fits(latent_codes=3, latent_size=4)
        assert refused.value.pointer == pointer


def test_a_warp_bends_the_cell_within_its_bound_and_keeps_its_bodies(tiny_checkpoint: Checkpoint) -> None:
    still = {**STILL, "warp": 0.3}
    cell, strength = draw_variation(spec(**still), tiny_checkpoint, 0)
    warp = cell.variation.warp
    assert warp is not None
    assert strength.warp == warp.strength == 0.3
    plain = LivingCell(tiny_checkpoint, cell.latent, cell.rotation)
    for bent, straight in zip(cell.frames(TIMES, GRID), plain.frames(TIMES, GRID), strict=True):
        assert bent.surface.euler_number == straight.surface.euler_number == 2
        assert 1.3**-3 < bent.surface.volume / straight.surface.volume < 0.7**-3
        assert abs(bent.surface.volume / straight.surface.volume - 1.0) > 1e-3
        on_membrane = np.asarray(bent.surface.vertices, dtype=np.float32)
        assert np.abs(plain.at(bent.time)(warp.moved(on_membrane))).max() < 0.1 * GRID.step.max()
    again, _ = draw_variation(spec(**still), tiny_checkpoint, 0)
    other, _ = draw_variation(spec(**still), tiny_checkpoint, 1)
    values = [one.shape(0.0)(POINTS) for one in (cell, again, other)]
    np.testing.assert_array_equal(values[0], values[1])
    assert np.abs(values[0] - values[2]).max() > 1e-3


def test_a_cell_without_a_warp_draws_as_before(tiny_checkpoint: Checkpoint) -> None:
    straight, _ = draw_variation(spec(), tiny_checkpoint, 1)
    bent, _ = draw_variation(spec(warp=1e-9), tiny_checkpoint, 1)
    np.testing.assert_array_equal(straight.latent, bent.latent)
    assert straight.variation.warp is None
    assert replace(bent.variation, warp=None) == straight.variation


def test_distances_of_a_warped_cell_are_those_to_the_surface_that_is_written(
    tiny_checkpoint: Checkpoint, tmp_path: Path
) -> None:
    augment(spec(warp=0.4, formats=["stl", "sdf-hdf5"], count=1), tiny_checkpoint, tmp_path)
    assert list(verify_result(tmp_path)) == []
    cell, _ = draw_variation(spec(warp=0.4, formats=["stl", "sdf-hdf5"], count=1), tiny_checkpoint, 0)
    micrometres = tiny_checkpoint.card.micrometres
    mesh = trimesh.load_mesh(tmp_path / "cell_0000" / "frame_0001.stl")
    *_, frame = cell.frames(frame_times(2), Grid((24, 24, 24)))
    given = np.abs(cell.distances(frame.time, frame.surface)(POINTS)) * micrometres
    dense = trimesh.sample.sample_surface(mesh, 400_000, seed=0)[0]
    truth = KDTree(dense).query(POINTS * micrometres)[0]  # a little more than the distance: the samples lie apart
    assert np.all(given <= truth + 1e-3)
    assert np.all(given >= truth - 0.06)
    bent = np.abs(cell.shape(frame.time)(POINTS)) * micrometres
    assert np.abs(bent - given).max() > 0.1, "the warped function itself is no distance"


def test_the_check_sees_the_cell_as_the_warp_bends_it(tiny_checkpoint: Checkpoint) -> None:
    for index in range(4):
        cell, strength = draw_variation(spec(noise=0.0, warp=0.5), tiny_checkpoint, index)
        assert strength.warp == (0.5 * 0.5**strength.rejected if strength.rejected < ATTEMPTS else 0.0)
        assert strength.warp == 0.0 or is_plausible(
            *count_bodies(lambda time, cell=cell: cell.shape(time), lipschitz=10.0),
            "single",  # type: ignore[misc]
        )
