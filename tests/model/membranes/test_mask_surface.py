from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import shapes
from numpy.typing import NDArray
from scipy import ndimage

from model.errors import DatasetError
from model.membranes.mask_surface import membrane_of_field, membrane_of_mask

Doubles = NDArray[np.float64]
Formula = Callable[[Doubles], Doubles]
SIDE = 64


def ball(radius: float) -> Formula:
    return lambda p: np.linalg.norm(p - [31.7, 31.2, 32.1], axis=-1) - radius


def ring(p: Doubles) -> Doubles:
    x, y, z = np.moveaxis(p - [31.7, 31.2, 32.1], -1, 0)
    return np.asarray(np.hypot(np.hypot(x, y) - 14.2, z) - 4.3)


def rod(radius: float) -> Formula:
    a, b = np.array([16.6, 22.8, 28.1]), np.array([46.1, 39.4, 41.3])

    def distance(p: Doubles) -> Doubles:
        along = np.clip(((p - a) @ (b - a)) / ((b - a) @ (b - a)), 0.0, 1.0)
        return np.asarray(np.linalg.norm(p - a - along[..., None] * (b - a), axis=-1) - radius)

    return distance


def places(spacing: tuple[float, float, float]) -> Doubles:
    return np.stack(np.meshgrid(*(np.arange(0.0, SIDE, s) for s in spacing), indexing="ij"), axis=-1)


def plain_distance(mask: NDArray[np.bool_]) -> Doubles:
    """What one would do at first: distances to the nearest voxel of the other kind."""
    outside, inside = ndimage.distance_transform_edt(~mask), ndimage.distance_transform_edt(mask)
    return np.asarray(np.where(mask, -inside, outside))


@pytest.mark.parametrize(
    "formula", [ball(20.3), ball(8.2), ball(4.1), ring, rod(3.1), rod(2.0)],
    ids=["ball 20", "ball 8", "ball 4", "ring", "rod 3", "rod 2"],
)  # fmt: skip
def test_distances_from_a_mask_are_right_to_an_eighth_of_a_voxel(formula: Formula) -> None:
    """Root mean square over everything within five voxels; the plain transform is off by half a voxel."""
    grid = places((1.0, 1.0, 1.0))
    truth = formula(grid)
    mask = truth < 0
    membrane = membrane_of_mask(mask, (1.0, 1.0, 1.0))
    assert membrane.is_closed
    assert len(membrane.bodies()) == 1
    off = formula(membrane.vertices)
    assert np.sqrt(np.mean(off**2)) < 0.12
    assert abs(off.mean()) < 0.04  # neither shrunk nor grown

    near = np.abs(truth) < 5.0
    found = membrane.distance()(grid[near].astype(np.float32))
    error = np.sqrt(np.mean((found - truth[near]) ** 2))
    plain = np.sqrt(np.mean((plain_distance(mask)[near] - truth[near]) ** 2))
    assert error < 0.125
    assert error < plain / 3.5


def test_distances_from_a_mask_change_by_one_a_unit() -> None:
    formula = ball(12.4)
    membrane = membrane_of_mask(formula(places((1.0, 1.0, 1.0))) < 0, (1.0, 1.0, 1.0))
    rng = np.random.default_rng(0)
    points = rng.uniform(8, 56, (20_000, 3))
    points = points[np.abs(formula(points)) < 4.0]
    distance, h = membrane.distance(), 2e-3
    slope = [
        (distance((points + h * axis).astype("f4")) - distance((points - h * axis).astype("f4"))) / (2 * h)
        for axis in np.eye(3)
    ]
    length = np.linalg.norm(slope, axis=0)
    assert abs(np.median(length) - 1.0) < 1e-3
    assert np.mean(np.abs(length - 1.0) < 0.02) > 0.97  # the rest lies on the inner skeleton of the facets


@pytest.mark.parametrize(
    ("spacing", "limit"), [((1.0, 1.0, 3.0), 0.16), ((1.0, 1.0, 5.0), 0.36), ((1.2, 1.0, 1.0), 0.11)]
)
def test_uneven_voxels_are_filled_in_by_shape(spacing: tuple[float, float, float], limit: float) -> None:
    """For a ball of radius 20 with slices five apart: a third of a voxel, a fifteenth of a slice."""
    formula = ball(20.3)
    membrane = membrane_of_mask(formula(places(spacing)) < 0, spacing)
    assert np.sqrt(np.mean(formula(membrane.vertices) ** 2)) < limit
    assert membrane.volume == pytest.approx(4 / 3 * np.pi * 20.3**3, rel=0.02)


@pytest.mark.parametrize("width", [1, 2])
def test_the_thinnest_parts_stay_whole(width: int) -> None:
    mask = np.zeros((40, 40, 40), dtype=bool)
    mask[12:28, 12:28, 8:16] = True
    mask[19 : 19 + width, 19 : 19 + width, 16:36] = True
    membrane = membrane_of_mask(mask, (1.0, 1.0, 1.0))
    assert len(membrane.bodies()) == 1
    assert membrane.vertices[:, 2].max() > 34.0
    single = np.zeros((9, 9, 9), dtype=bool)
    single[4, 4, 4] = True
    assert membrane_of_mask(single, (1.0, 1.0, 1.0)).volume > 0


def test_where_the_mask_lies_and_what_a_voxel_measures_are_kept() -> None:
    grid = places((1.0, 1.0, 1.0))
    plain = membrane_of_mask(ball(6.0)(grid) < 0, (1.0, 1.0, 1.0))
    moved = membrane_of_mask(np.roll(ball(6.0)(grid) < 0, (5, -3, 2), axis=(0, 1, 2)), (1.0, 1.0, 1.0))
    assert np.allclose(moved.centroid - plain.centroid, [5, -3, 2], atol=1e-6)
    scaled = membrane_of_mask(ball(6.0)(grid) < 0, (0.25, 0.25, 0.25))
    assert np.allclose(scaled.vertices, 0.25 * plain.vertices)
    assert np.allclose(plain.centroid, [31.7, 31.2, 32.1], atol=0.05)


def test_needlessly_fine_masks_are_averaged_without_moving() -> None:
    side = 500
    i, j, k = np.ogrid[:side, :40, :40]
    mask = ((i - 251.3) / 220.0) ** 2 + ((j - 19.6) / 15.0) ** 2 + ((k - 20.2) / 15.0) ** 2 < 1
    membrane = membrane_of_mask(mask, (0.1, 0.3, 0.3))
    assert np.allclose(membrane.centroid, [25.13, 5.88, 6.06], atol=0.02)
    assert membrane.volume == pytest.approx(4 / 3 * np.pi * 22.0 * 4.5 * 4.5, rel=0.01)


def test_a_sampled_function_gives_its_zero_level_set_whatever_its_scale() -> None:
    grid = places((1.0, 1.0, 1.0))
    field = 7.5 * np.tanh(ball(14.0)(grid) / 9.0)  # no distance, and no metric
    membrane = membrane_of_field(field, (0.5, 0.5, 0.5))
    assert membrane.is_closed
    assert np.sqrt(np.mean(ball(14.0)(2.0 * membrane.vertices) ** 2)) < 0.03
    assert membrane.volume == pytest.approx(4 / 3 * np.pi * 7.0**3, rel=5e-3)


def test_the_distance_to_a_membrane_is_that_to_its_nearest_triangle() -> None:
    """A box has faces, edges and corners, and its distance is known."""
    box = shapes.box((0.5, 0.4, 0.3))
    grid = np.stack(np.meshgrid(*[np.arange(49) / 24.0 - 1.0] * 3, indexing="ij"), axis=-1)
    field = box(grid.reshape(-1, 3).astype(np.float32)).reshape(49, 49, 49)
    membrane = membrane_of_field(field, (1 / 24,) * 3).placed(np.ones(3), 1.0)
    points = np.random.default_rng(1).uniform(-1, 1, (20_000, 3)).astype(np.float32)
    found, exact = membrane.distance()(points), box(points)
    far = np.abs(exact) > 0.02
    assert (np.sign(found) == np.sign(exact))[far].all()
    assert np.abs(found - exact).max() < 0.03  # edges of the box are cut by less than a step
    # against every triangle in turn
    few = points[:200].astype(np.float64)
    corners = membrane.corners
    weights = np.random.default_rng(2).dirichlet(np.ones(3), 40)
    dense = np.einsum("wk,fkc->fwc", weights, corners).reshape(-1, 3)
    for point, distance in zip(few, found[:200], strict=True):
        assert np.abs(distance) <= np.linalg.norm(dense - point, axis=1).min() + 1e-6


def test_nothing_inside_is_refused() -> None:
    with pytest.raises(DatasetError, match="empty"):
        membrane_of_mask(np.zeros((5, 5, 5), dtype=bool), (1.0, 1.0, 1.0))
    with pytest.raises(DatasetError, match="no sample is inside"):
        membrane_of_field(np.ones((5, 5, 5)), (1.0, 1.0, 1.0))
    with pytest.raises(DatasetError, match="NaN"):
        membrane_of_field(np.full((5, 5, 5), np.nan), (1.0, 1.0, 1.0))
