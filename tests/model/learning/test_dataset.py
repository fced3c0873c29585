from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tifffile
from tiny_model import FRAMES, SEQUENCES, SIDE, write_masks

from model.errors import DatasetError
from model.learning.dataset import build_dataset, load_dataset, sample_points, surface_variation
from model.learning.sources import MaskSource, PhantomSource, mask_frames
from model.phantoms import make_phantom


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> MaskSource:
    return MaskSource(kind="masks", folder=write_masks(tmp_path_factory.mktemp("masks")), points_per_frame=2048)


def test_distances_of_a_mask_are_those_of_its_shape(tmp_path: Path) -> None:
    """Root mean square near the membrane, in voxels; the plain distance transform is off by 0.45."""
    axis = np.arange(48) - 23.5
    radius = np.sqrt(sum(np.meshgrid(axis**2, axis**2, axis**2, indexing="ij")))
    tifffile.imwrite(tmp_path / "ball.tif", (radius < 14.3)[None].astype(np.uint8), metadata={"axes": "TZYX"})
    source = MaskSource(kind="masks", folder=tmp_path, points_per_frame=4096)
    block = build_dataset(source, tmp_path / "data", workers=1).samples[0][0]
    voxel = 2.0 / 47
    truth = np.linalg.norm(block[:, :3], axis=1) - 14.3 * voxel
    near = np.abs(truth) < 2.0 * voxel
    assert np.sqrt(np.mean((block[near, 3] - truth[near]) ** 2)) < 0.1 * voxel


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


def _ball_with_rod(rng: np.random.Generator) -> np.ndarray:
    """Points spread evenly on a ball of radius 0.4 and, one in nine, on a rod of radius 0.03 that leaves it along x."""
    ball = rng.normal(size=(8000, 3))
    ball *= 0.4 / np.linalg.norm(ball, axis=1, keepdims=True)
    angle = rng.uniform(0, 2 * np.pi, 1000)
    rod = np.column_stack([rng.uniform(0.42, 0.95, 1000), 0.03 * np.cos(angle), 0.03 * np.sin(angle)])
    return np.concatenate([ball, rod]).astype(np.float32)


def test_surface_variation_tells_flat_from_bent() -> None:
    rng = np.random.default_rng(1)
    flat = np.column_stack([rng.uniform(size=(500, 2)), np.zeros(500)])
    assert surface_variation(flat.astype(np.float32)).max() < 1e-12
    variation = surface_variation(_ball_with_rod(rng))
    assert variation.min() >= 0.0
    assert variation.max() <= 1 / 3
    assert np.median(variation[8000:]) > 10 * np.median(variation[:8000])
    few = surface_variation(rng.normal(size=(5, 3)).astype(np.float32))  # fewer than the neighbours looked at
    assert few.shape == (5,)
    assert np.isfinite(few).all()


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_points_gather_where_the_membrane_bends(share: float) -> None:
    """The rod is a ninth of the surface and most of its bending."""
    rng = np.random.default_rng(2)
    surface = _ball_with_rod(rng)
    variation = surface_variation(surface)
    bending = variation[8000:].sum() / variation.sum()
    assert bending > 0.5
    points = sample_points(surface, 20_000, rng, bend_share=share)
    assert points.shape == (20_000, 3)
    near = np.abs(np.linalg.norm(points, axis=1) - 0.4) < 0.02  # the narrow band about the ball, and about the rod
    along = (points[:, 0] > 0.45) & (points[:, 0] < 0.92) & (np.linalg.norm(points[:, 1:], axis=1) < 0.07)
    on_rod, on_ball = along.sum(), near.sum()
    expected = (1 - share) / 9 + share * bending
    assert on_rod / (on_rod + on_ball) == pytest.approx(expected, abs=0.07)


def test_a_membrane_that_bends_nowhere_is_sampled_all_the_same() -> None:
    """One point, many times: no bending, no spread, nothing to divide by."""
    point = np.zeros((100, 3), np.float32)
    assert np.array_equal(surface_variation(point), np.zeros(100))
    points = sample_points(point, 1000, np.random.default_rng(4), bend_share=0.5)
    assert np.array_equal(points, sample_points(point, 1000, np.random.default_rng(4)))


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


def test_masks_that_are_not_cubic_are_sent_to_the_import(tmp_path: Path) -> None:
    volume = np.zeros((1, 8, 12, 12), np.uint8)
    volume[:, 3:5, 4:8, 4:8] = 1
    tifffile.imwrite(tmp_path / "flat.tif", volume, metadata={"axes": "TZYX"})
    with pytest.raises(DatasetError, match="python -m model import takes any shape"):
        build_dataset(MaskSource(kind="masks", folder=tmp_path, points_per_frame=1024), tmp_path / "data", workers=1)


def moments_source(**changes: object) -> PhantomSource:
    values = {"cell_type": "platynereis", "sequences": 3, "moments": 4, "points_per_frame": 1024, "first_seed": 40}
    return PhantomSource.model_validate(values | changes)


@pytest.mark.parametrize("cell_type", ["celegans", "a549", "platynereis", "a549_thin"])
def test_points_at_random_moments_have_the_phantoms_distances(tmp_path: Path, cell_type: str) -> None:
    """Against the exact path: no sign is wrong, the error near the membrane is far below a voxel of 128³ (0.016)."""
    dataset = build_dataset(moments_source(cell_type=cell_type, sequences=1), tmp_path, workers=1)
    errors = []
    for sequence, samples in enumerate(dataset.samples):
        assert samples.dtype == np.float16
        phantom = make_phantom(cell_type, 40 + sequence)
        for t, block in zip(dataset.times(sequence), samples.astype(np.float32), strict=True):
            exact = phantom.frame(float(t))(block[:, :3])
            assert ((block[:, 3] < 0) == (exact < 0))[np.abs(exact) > 1e-3].all()
            near = np.abs(exact) < 0.05
            errors.append(np.abs(block[near, 3] - exact[near]))
            assert np.abs(block[~near, 3] - exact[~near]).max() < 0.03
    error = np.concatenate(errors)
    assert np.quantile(error, 0.99) < 1e-3
    assert error.mean() < 1e-4
    assert error.max() < 0.02


def test_moments_are_spread_over_time_and_differ_between_sequences(tmp_path: Path) -> None:
    dataset = build_dataset(moments_source(), tmp_path, workers=1)
    times = np.stack([dataset.times(sequence) for sequence in range(3)])
    assert (np.diff(times, axis=1) > 0).all()
    assert np.abs(times).max() <= 1.0
    assert len(np.unique(times)) == times.size


def test_a_data_set_of_moments_is_finished_where_it_stopped_with_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("model.learning.dataset.BLOCK", 2)
    folder = tmp_path / "data"
    first = build_dataset(moments_source(), folder, workers=1)
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert len(first.samples) == 3
    (folder / "dataset.json").unlink()
    next(folder.glob("sequences_*.npy")).unlink()
    build_dataset(moments_source(), folder, workers=2)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == files
