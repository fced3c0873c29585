"""Warped copies of training sequences: other shapes, exact distances, and nothing else changed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tifffile
import trimesh
from tiny_model import FRAMES, SEQUENCES, SIDE, recipe, write_masks

from model.errors import DatasetError
from model.learning.dataset import Dataset, build_dataset, mask_membranes
from model.learning.recipe import TrainConfig
from model.learning.sources import PhantomSource
from model.learning.train import TrainingRun, train
from model.learning.warps import BORDER, POINTS_MAX, STRONGEST, draw_copy_warp, with_warps
from model.membranes.triangle_distance import CellShape, Membrane

SEED = 5


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> TrainConfig:
    return recipe(write_masks(tmp_path_factory.mktemp("masks")), steps=8)


@pytest.fixture(scope="module")
def dataset(config: TrainConfig, tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return build_dataset(config.data, tmp_path_factory.mktemp("data"), workers=1)


@pytest.fixture(scope="module")
def warped(dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return with_warps(dataset, 2, tmp_path_factory.mktemp("warped"), seed=SEED, workers=1)


def shapes_of(dataset: Dataset, sequence: int) -> list[CellShape]:
    return [CellShape([one]) for one in mask_membranes(dataset.source.folder / f"cell_{sequence}.tif")]  # type: ignore[union-attr]


def test_copies_come_behind_the_sequences_with_their_times(dataset: Dataset, warped: Dataset) -> None:
    assert warped.names[: SEQUENCES + 2] == [*dataset.names, "cell_0, warped 1", "cell_1, warped 1"]
    assert len(warped.samples) == len(set(warped.names)) == SEQUENCES * 3
    assert all(a is b for a, b in zip(warped.samples[:SEQUENCES], dataset.samples, strict=True))
    assert {block.shape for block in warped.samples} == {(FRAMES, 4096, 4)}
    uneven = np.array([-1.0, -0.5, 0.0, 1.0], dtype=np.float32)
    later = with_warps(replace(dataset, uneven={1: uneven}), 2, warped.samples[-1].filename.parents[1], seed=SEED)  # type: ignore[attr-defined]
    assert [number for number in range(9) if np.array_equal(later.times(number), uneven)] == [1, 4, 7]
    assert with_warps(dataset, 0, dataset.folder / "none", seed=SEED) is dataset
    assert not (dataset.folder / "none").exists()


def test_distances_are_those_to_the_warped_membrane(dataset: Dataset, warped: Dataset) -> None:
    """The nearest of all triangles, by another library; the warp is that of the second sequence's first copy."""
    shapes = shapes_of(dataset, 1)
    warp = draw_copy_warp(lambda: iter(shapes), [29, SEED, 1, 0])
    before, after = [one.parts[0].volume for one in shapes], [warp.shape(one).parts[0].volume for one in shapes]
    assert np.mean(after) == pytest.approx(np.mean(before))
    for frame in (0, FRAMES - 1):
        membrane = warp.shape(shapes[frame]).parts[0]
        assert membrane.is_closed
        assert np.abs(membrane.vertices).max() <= BORDER
        block = warped.samples[SEQUENCES + 1][frame][:100]
        for point, distance in zip(block[:, :3].astype(np.float64), block[:, 3], strict=True):
            feet = trimesh.triangles.closest_point(membrane.corners, np.tile(point, (len(membrane.faces), 1)))
            exact = np.linalg.norm(feet - point, axis=1).min()
            assert distance == pytest.approx(-exact if _winding(membrane, point) > 0.5 else exact, abs=2e-6)
        assert np.abs(block[:, 3] - shapes[frame](block[:, :3])).max() > 0.01, "it is another shape"


def test_any_number_of_processes_gives_the_same_bytes_and_made_copies_are_kept(
    dataset: Dataset, warped: Dataset, tmp_path: Path
) -> None:
    done: list[tuple[int, int]] = []
    others = with_warps(dataset, 2, tmp_path, seed=SEED, workers=2, on_sequence=lambda *at: done.append(at))
    assert done == [(number, 6) for number in range(1, 7)]
    for one, other in zip(warped.samples, others.samples, strict=True):
        assert np.array_equal(np.asarray(one), np.asarray(other))
    made = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.npy")}
    assert len(made) == 6
    with_warps(dataset, 2, tmp_path, seed=SEED, workers=1)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.npy")} == made
    again = with_warps(dataset, 1, tmp_path, seed=SEED + 1, workers=1)
    assert not np.array_equal(again.samples[SEQUENCES], warped.samples[SEQUENCES])
    assert len(list(tmp_path.rglob("*.npy"))) == 9, "copies of another seed do not replace them"


def test_a_training_gives_each_copy_a_code(config: TrainConfig, warped: Dataset, tmp_path: Path) -> None:
    config = config.model_copy(update={"warps": 2, "copies": 1})
    assert train(config, warped, tmp_path).latent_codes.shape == (SEQUENCES * 3 * 2, 4)
    assert TrainingRun(config, warped, "cpu")._recipe()["warps"] == 2
    assert "warps" not in TrainingRun(config.model_copy(update={"warps": 0}), warped, "cpu")._recipe()


def test_a_cell_at_the_border_is_warped_less_and_one_beyond_is_refused(tmp_path: Path) -> None:
    shape = CellShape([next(mask_membranes(_ball(tmp_path, 0.94)))])
    warp = draw_copy_warp(lambda: iter([shape]), [2])
    assert 0.0 < warp.warp.strength < STRONGEST / 2
    assert np.abs(warp.shape(shape).parts[0].vertices).max() <= BORDER
    beyond = CellShape([Membrane(part.vertices * 1.05, part.faces) for part in shape.parts])
    with pytest.raises(DatasetError, match="wider margin"):
        draw_copy_warp(lambda: iter([beyond]), [2])


def test_phantoms_are_not_warped(dataset: Dataset, tmp_path: Path) -> None:
    source = PhantomSource(cell_type="celegans", sequences=1)
    with pytest.raises(DatasetError, match="own cells"):
        with_warps(replace(dataset, source=source), 1, tmp_path, seed=0)


def test_a_frame_has_so_many_points_at_most(config: TrainConfig, tmp_path: Path) -> None:
    source = config.data.model_copy(update={"points_per_frame": 2 * POINTS_MAX})
    dataset = build_dataset(source, tmp_path / "data", workers=1)
    copied = with_warps(dataset, 1, tmp_path / "warped", seed=SEED, workers=1)
    assert [block.shape[1] for block in copied.samples] == [2 * POINTS_MAX] * 3 + [POINTS_MAX] * 3


def _ball(folder: Path, radius: float) -> Path:
    axis = np.linspace(-1.0, 1.0, SIDE)
    z, y, x = np.meshgrid(axis, axis, axis, indexing="ij")
    path = folder / f"ball_{radius}.tif"
    tifffile.imwrite(path, np.array([x**2 + y**2 + z**2 < radius**2], dtype=np.uint8))
    return path


def _winding(membrane: Membrane, point: np.ndarray) -> float:
    """How often a membrane surrounds a point: the solid angles of its triangles, over 4π."""
    a, b, c = np.moveaxis(membrane.corners - point, 1, 0)
    la, lb, lc = (np.linalg.norm(one, axis=1) for one in (a, b, c))
    dots = [np.einsum("ij,ij->i", one, other) for one, other in ((a, b), (b, c), (c, a))]
    triple = np.einsum("ij,ij->i", a, np.cross(b, c))
    angles = 2.0 * np.arctan2(triple, la * lb * lc + dots[0] * lc + dots[1] * la + dots[2] * lb)
    return float(angles.sum() / (4.0 * np.pi))
