"""Turned and mirrored copies of training sequences."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tiny_model import recipe, write_masks

from model.learning.copies import SYMMETRIES, with_copies
from model.learning.dataset import Dataset, build_dataset
from model.learning.train import TrainingRun, train
from model.network.checkpoint import Checkpoint

RADII = np.array([0.5, 0.3, 0.2])


def ellipsoids(frames: int = 2) -> Dataset:
    """Two sequences whose "distances" are those of an ellipsoid's own function, at points of Ω."""
    rng = np.random.default_rng(0)
    samples = []
    for _ in range(2):
        points = rng.uniform(-1.0, 1.0, (frames, 50, 3)).astype(np.float32)
        samples.append(np.concatenate([points, level(points)[..., None]], axis=2).astype(np.float32))
    source = recipe(Path()).data
    return Dataset(Path(), source, 10.0, 6.0, ["a", "b"], samples, {1: np.array([-1.0, 0.5], dtype=np.float32)})


def level(points: np.ndarray) -> np.ndarray:
    return np.asarray(np.linalg.norm(points / RADII, axis=-1) - 1.0)


def test_the_symmetries_are_those_of_a_cube() -> None:
    matrices = [one.matrix() for one in SYMMETRIES]
    assert len({matrix.tobytes() for matrix in matrices}) == 48
    assert all(np.array_equal(matrix @ matrix.T, np.eye(3)) for matrix in matrices)
    assert sum(np.linalg.det(matrix) for matrix in matrices) == pytest.approx(0.0), "half are mirror images"
    assert np.array_equal(matrices[0], np.eye(3))


def test_a_copy_is_the_shape_turned_with_the_same_distances() -> None:
    dataset = ellipsoids()
    copied = with_copies(dataset, 47, seed=4)
    assert len(copied.samples) == 2 * 48
    assert copied.samples[0] is dataset.samples[0]
    assert copied.samples[1] is dataset.samples[1]
    seen = set()
    for number in range(2, 96):
        frame, original = copied.samples[number][1], dataset.samples[number % 2][1]
        assert np.array_equal(frame[:, 3], original[:, 3])
        turns = [one.matrix() for one in SYMMETRIES if np.array_equal(original[:, :3] @ one.matrix().T, frame[:, :3])]
        assert len(turns) == 1
        assert level(frame[:, :3] @ turns[0]) == pytest.approx(frame[:, 3], abs=1e-5)
        seen.add((number % 2, turns[0].tobytes()))
        assert np.array_equal(copied.times(number), dataset.times(number % 2))
    assert len(seen) == 94, "each copy of a sequence is another"


def test_without_copies_nothing_changes() -> None:
    dataset = ellipsoids()
    assert with_copies(dataset, 0, seed=4) is dataset


@pytest.fixture(scope="module")
def masks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_masks(tmp_path_factory.mktemp("masks"))


def test_copies_are_trained_on_with_codes_of_their_own(masks: Path, tmp_path: Path) -> None:
    config = recipe(masks, steps=12).model_copy(update={"copies": 2})
    dataset = build_dataset(config.data, tmp_path / "data", workers=1)
    trained = train(config, dataset, tmp_path / "one")
    assert trained.latent_codes.shape == (9, 4)
    assert np.array_equal(train(config, dataset, tmp_path / "two").latent_codes, trained.latent_codes)
    run = TrainingRun(config, dataset, "cpu")
    assert {sequence for sequence, _ in run._frames} == set(range(9))
    assert run._recipe()["copies"] == 2
    assert "copies" not in TrainingRun(config.model_copy(update={"copies": 0}), dataset, "cpu")._recipe()


def test_a_trained_model_is_gone_on_from_with_copies(tiny_checkpoint: Checkpoint, masks: Path, tmp_path: Path) -> None:
    config = recipe(masks, steps=5).model_copy(update={"copies": 1})
    dataset = build_dataset(config.data, tmp_path / "data", workers=1)
    codes = TrainingRun(config, dataset, "cpu", tiny_checkpoint).latent_codes.detach().numpy()
    assert np.array_equal(codes[:3], tiny_checkpoint.latent_codes)
    assert np.abs(codes[3:] - tiny_checkpoint.prior.mean).max() < 5 * config.optimisation.latent_spread
    assert replace(dataset).names == ["cell_0", "cell_1", "cell_2"]
