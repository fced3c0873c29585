from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tifffile
from tiny_model import FRAMES, SEQUENCES, SIDE, write_masks

from model.dataset import (
    MaskSource,
    PhantomSource,
    build_dataset,
    load_dataset,
    mask_distance,
    mask_frames,
    sample_points,
)
from model.errors import DatasetError
from model.phantoms import make_phantom


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> MaskSource:
    return MaskSource(kind="masks", folder=write_masks(tmp_path_factory.mktemp("masks")), points_per_frame=2048)


def test_a_flat_wall_lies_half_a_voxel_before_the_first_voxel_outside() -> None:
    """The plain distance transform never falls below one; a wall between two voxels is half a voxel from each."""
    mask = np.zeros((20, 20, 20), dtype=bool)
    mask[:10] = True
    distance = mask_distance(mask)
    assert distance[9, 10, 10] == pytest.approx(-0.5, abs=1e-6)
    assert distance[10, 10, 10] == pytest.approx(0.5, abs=1e-6)
    assert distance[5, 10, 10] == pytest.approx(-4.5, abs=0.02)


def test_distance_of_a_sphere_is_right_to_a_quarter_voxel_near_the_membrane() -> None:
    """The plain distance transform is off by 0.45 voxel in the mean square."""
    index = np.arange(64) - 31.5
    radius = np.sqrt(sum(np.meshgrid(index**2, index**2, index**2, indexing="ij")))
    distance = mask_distance(radius < 20.3)
    near = np.abs(radius - 20.3) < 2.0
    assert np.sqrt(np.mean((distance - (radius - 20.3))[near] ** 2)) < 0.25


def test_points_gather_around_the_membrane() -> None:
    rng = np.random.default_rng(0)
    sphere = rng.normal(size=(4000, 3))
    sphere *= 0.5 / np.linalg.norm(sphere, axis=1, keepdims=True)
    points = sample_points(sphere.astype(np.float32), 10_000, rng)
    assert points.shape == (10_000, 3)
    assert np.abs(points).max() <= 1.0
    distance = np.abs(np.linalg.norm(points, axis=1) - 0.5)
    assert 0.55 < (distance < 0.05).mean() < 0.75
    for part in np.split(points, 10):  # any run is a fair sample
        assert 0.5 < (np.abs(np.linalg.norm(part, axis=1) - 0.5) < 0.05).mean() < 0.8


def test_data_set_of_masks_agrees_with_the_masks(source: MaskSource, tmp_path: Path) -> None:
    dataset = build_dataset(source, tmp_path / "data", workers=1)
    assert [block.shape for block in dataset.samples] == [(FRAMES, 2048, 4)] * SEQUENCES
    masks = mask_frames(source.folder / "cell_0.tif")
    for frame, mask in enumerate(masks):
        block = dataset.samples[0][frame]
        index = np.rint((block[:, :3] + 1) * (SIDE - 1) / 2).astype(int)
        clear = np.abs(block[:, 3]) > 2 * 2 / (SIDE - 1)  # two voxels from the membrane, rounding cannot matter
        assert ((block[:, 3] < 0) == mask[tuple(index.T)])[clear].all()


def test_building_again_changes_nothing_and_resumes(source: MaskSource, tmp_path: Path) -> None:
    folder = tmp_path / "data"
    first = [block.copy() for block in build_dataset(source, folder, workers=1).samples]
    (folder / "dataset.json").unlink()
    (folder / "sequence_0001.npy").unlink()
    again = build_dataset(source, folder, workers=1)
    assert all(np.array_equal(a, b) for a, b in zip(first, again.samples, strict=True))
    with pytest.raises(DatasetError, match="another source"):
        build_dataset(source.model_copy(update={"points_per_frame": 4096}), folder, workers=1)


def test_phantom_distances_are_those_of_the_phantom(tmp_path: Path) -> None:
    source = PhantomSource(cell_type="celegans", sequences=1, frames=2, first_seed=4, points_per_frame=1024)
    dataset = build_dataset(source, tmp_path / "data", workers=1)
    phantom = make_phantom("celegans", 4)
    assert dataset.micrometres == phantom.micrometres
    block = dataset.samples[0][1]
    assert np.array_equal(phantom.frame(1.0)(np.ascontiguousarray(block[:, :3])), block[:, 3])


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (np.zeros((5, 8, 9), np.uint8), "3 axes"),
        (np.zeros((2, 8, 8, 8), np.uint8), "frame 0 is empty"),
        (np.ones((2, 8, 8, 8), np.uint8), "frame 0 is full"),
    ],
)
def test_unusable_masks_are_refused_with_the_reason(array: np.ndarray, words: str, tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "bad.tif", array)
    with pytest.raises(DatasetError, match=words):
        mask_frames(tmp_path / "bad.tif")


def test_files_that_are_no_data_are_refused(tmp_path: Path) -> None:
    (tmp_path / "bad.tif").write_bytes(b"no tiff")
    with pytest.raises(DatasetError, match="cannot be read"):
        mask_frames(tmp_path / "bad.tif")
    with pytest.raises(DatasetError, match="not a complete data set"):
        load_dataset(tmp_path)
    with pytest.raises(DatasetError, match="no file matches"):
        build_dataset(MaskSource(kind="masks", folder=tmp_path, pattern="*.nope"), tmp_path / "data")
