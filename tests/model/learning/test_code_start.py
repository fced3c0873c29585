from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from tiny_model import recipe, write_masks

from model.learning.code_start import (
    CLAMP,
    SHAPES_FILE,
    TIMES,
    anchors,
    codes_by_shape,
    distances_at,
    keep_shapes,
    principal_codes,
    shape_of,
)
from model.learning.dataset import Dataset, build_dataset, load_dataset
from model.learning.train import TrainingRun

RNG = np.random.default_rng(8)


def sphere(radius: float, count: int = 4096) -> np.ndarray:
    """Samples of a sphere, half of them near its membrane."""
    directions = RNG.normal(size=(count // 2, 3))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    near = directions * (radius + RNG.normal(0.0, 0.05, (count // 2, 1)))
    points = np.concatenate([near, RNG.uniform(-1, 1, (count - count // 2, 3))])
    return np.column_stack([points, np.linalg.norm(points, axis=1) - radius]).astype(np.float32)


def test_distances_near_the_membrane_are_estimated_to_a_hundredth_of_omega() -> None:
    places = anchors()
    true = np.linalg.norm(places, axis=1) - 0.5
    found = distances_at(sphere(0.5), places)
    near = np.abs(true) < 0.1
    assert near.sum() > 100
    assert np.abs(found - true)[near].max() < 0.01
    assert (np.sign(found) == np.sign(true))[np.abs(true) > 0.01].all()
    assert np.abs(found).max() <= np.float32(CLAMP)


def test_distances_of_a_plane_are_found() -> None:
    points = RNG.uniform(-1, 1, (500, 3))
    samples = np.column_stack([points, 0.05 * points[:, 0] - 0.02])
    assert distances_at(samples, anchors()) == pytest.approx(
        0.05 * anchors()[:, 0] - 0.02, abs=2e-4
    )  # but for the ridge


def test_moments_between_frames_are_interpolated() -> None:
    """Three frames at times of their own; a growing sphere's distances are linear in time."""
    times = np.array([-1.0, 0.2, 1.0], dtype=np.float32)
    found = shape_of(np.stack([sphere(0.5 + 0.05 * t) for t in times]), times, anchors())
    wanted = np.linalg.norm(anchors(), axis=1) - (0.5 + 0.05 * np.linspace(-1, 1, TIMES))[:, None]
    near = np.abs(wanted) < 0.08
    assert np.abs(found - wanted)[near].max() < 0.015


def test_codes_are_principal_components_divided_by_the_root_of_their_spread() -> None:
    table = (RNG.normal(size=(50, 4)) * [9.0, 3.0, 1.0, 0.2]) @ np.linalg.qr(RNG.normal(size=(300, 4)))[0].T
    codes = principal_codes(table, 6)
    assert codes.shape == (50, 6)
    assert (codes[:, 4:] == 0).all()
    assert np.abs(codes.mean(axis=0)).max() < 1e-5
    correlation = codes[:, :4].T @ codes[:, :4] / 50
    assert correlation == pytest.approx(np.diag(np.diag(correlation)), abs=1e-4)
    true = np.linalg.svd(table - table.mean(axis=0), compute_uv=False)[:4]
    assert np.diag(correlation) == pytest.approx(true / true[0], rel=1e-3)


def test_one_sequence_and_equal_sequences_have_the_code_zero() -> None:
    assert (principal_codes(np.ones((1, 30), dtype=np.float32), 3) == 0).all()
    assert (principal_codes(np.ones((4, 30), dtype=np.float32), 3) == 0).all()


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    masks = write_masks(tmp_path_factory.mktemp("masks"))
    return build_dataset(recipe(masks).data, tmp_path_factory.mktemp("data") / "set", workers=1)


def test_estimates_that_are_kept_give_the_same_codes(dataset: Dataset, tmp_path: Path) -> None:
    shutil.copytree(dataset.folder, tmp_path / "set")
    keep_shapes(tmp_path / "set", workers=1)
    copied = load_dataset(tmp_path / "set")
    expected = codes_by_shape(dataset, 4)
    assert np.array_equal(codes_by_shape(copied, 4), expected)
    np.save(tmp_path / "set" / SHAPES_FILE, np.zeros((len(copied.samples), 5), dtype=np.float32))
    assert (codes_by_shape(copied, 4) == 0).all()  # they are read
    np.save(tmp_path / "set" / SHAPES_FILE, np.zeros((1, 5), dtype=np.float32))
    assert np.array_equal(codes_by_shape(copied, 4), expected)  # and not those of another number of sequences


def test_a_training_can_begin_there(dataset: Dataset) -> None:
    """And a state of a recipe that says nothing of it is that of a random start."""
    config = recipe(Path("masks"))
    plan = config.optimisation.model_copy(update={"latent_start": "shapes"})
    begun = TrainingRun(config.model_copy(update={"optimisation": plan}), dataset, "cpu")
    assert np.array_equal(begun.latent_codes.detach().numpy(), codes_by_shape(dataset, 4))
    plain = TrainingRun(config, dataset, "cpu")
    assert "latent_start" not in plain._recipe()["optimisation"]
    assert begun._recipe()["optimisation"]["latent_start"] == "shapes"
