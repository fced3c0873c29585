"""Promises of model.engine.narrow_band: near the membrane the function's own distances, a constant beyond."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import shapes
from numpy.typing import NDArray

from model.domain import Grid, Points
from model.engine.narrow_band import NarrowBand, clamp_distance
from model.engine.sparse import SignedDistance, evaluate_dense
from model.errors import InvalidFieldError


@pytest.mark.parametrize("shape", [(48, 48, 48), (30, 61, 44)])
@pytest.mark.parametrize("sdf", [shapes.sphere(0.6), shapes.sphere(1.1), shapes.sphere(0.05)])
def test_of_a_true_distance_the_values_are_the_dense_ones_clipped(
    shape: tuple[int, int, int], sdf: SignedDistance
) -> None:
    grid = Grid(shape)
    dense = evaluate_dense(sdf, grid)
    clamp = clamp_distance(grid)
    asked = counted(sdf)
    values = NarrowBand(asked, grid, inside=lambda: dense < 0).distances
    assert values.dtype == np.float32
    assert np.array_equal(values, np.clip(dense, -clamp, clamp))
    assert clamp == pytest.approx(4 * grid.step.max())
    assert asked.points < grid.size


def test_the_function_is_evaluated_near_the_membrane_only_and_once() -> None:
    grid = Grid((96, 96, 96))
    dense = evaluate_dense(shapes.sphere(0.6), grid)
    asked = counted(shapes.sphere(0.6))
    band = NarrowBand(asked, grid, inside=lambda: dense < 0)
    assert band.distances is band.distances
    assert np.count_nonzero(np.abs(dense) < clamp_distance(grid)) <= asked.points < grid.size // 4


def test_signs_are_those_of_the_labels_where_a_fragment_was_removed() -> None:
    grid = Grid((40, 40, 40))
    whole = evaluate_dense(shapes.sphere(0.5), grid)
    values = NarrowBand(lambda points: -shapes.sphere(0.5)(points), grid, inside=lambda: whole < 0).distances
    assert np.array_equal(values < 0, whole < 0)
    nothing = NarrowBand(shapes.sphere(0.5), grid, inside=lambda: np.zeros(grid.shape, dtype=bool)).distances
    assert (nothing == clamp_distance(grid)).all()


def test_a_zero_inside_stays_inside_and_nan_is_refused() -> None:
    grid = Grid((24, 24, 24))
    inside = evaluate_dense(shapes.sphere(0.5), grid) < 0
    flat = NarrowBand(lambda points: np.zeros(len(points), dtype=np.float32), grid, inside=lambda: inside).distances
    assert np.array_equal(flat < 0, inside)
    nan = NarrowBand(lambda points: np.full(len(points), np.nan, dtype=np.float32), grid, inside=lambda: inside)
    with pytest.raises(InvalidFieldError, match="NaN"):
        _ = nan.distances


class Counted:
    """A signed distance function that counts the points it is asked for."""

    def __init__(self, sdf: Callable[[Points], NDArray[np.float32]]) -> None:
        self.sdf, self.points = sdf, 0

    def __call__(self, points: Points) -> NDArray[np.float32]:
        self.points += len(points)
        return self.sdf(points)


def counted(sdf: SignedDistance) -> Counted:
    return Counted(sdf)
