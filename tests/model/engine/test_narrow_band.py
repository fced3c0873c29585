"""Promises of model.engine.narrow_band: near the membrane the function's own distances, a constant beyond."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import shapes
from numpy.typing import NDArray

from model.card import SHIPPED_MODELS
from model.domain import Grid, Points
from model.engine.narrow_band import NarrowBand, clamp_distance, take_known
from model.engine.sparse import SignedDistance, evaluate_dense, evaluate_sparse
from model.errors import InvalidFieldError
from model.living_cell import draw
from model.network.checkpoint import load_checkpoint
from model.spec import GenerationSpec


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
    assert clamp == pytest.approx(2 * grid.step.max())
    assert asked.points < grid.size


def test_the_function_is_evaluated_near_the_membrane_only_and_once() -> None:
    grid = Grid((96, 96, 96))
    dense = evaluate_dense(shapes.sphere(0.6), grid)
    asked = counted(shapes.sphere(0.6))
    band = NarrowBand(asked, grid, inside=lambda: dense < 0)
    assert band.distances is band.distances
    assert np.count_nonzero(np.abs(dense) < clamp_distance(grid)) <= asked.points < grid.size // 4


def test_samples_that_are_known_are_not_evaluated_again_and_change_nothing() -> None:
    grid = Grid((64, 60, 72))
    sdf = shapes.union(shapes.sphere(0.4, centre=(-0.5, 0, 0)), shapes.sphere(0.3, centre=(0.5, 0, 0)))
    field = evaluate_sparse(sdf, grid, lipschitz=1.0)
    known = take_known(field)
    points = grid.points(known.index)
    assert len(known.index) == len(np.unique(known.index)) == field.evaluations
    assert np.array_equal(known.values, sdf(points))
    dense = evaluate_dense(sdf, grid)
    alone, helped = counted(sdf), counted(sdf)
    expected = NarrowBand(alone, grid, inside=lambda: dense < 0).distances
    assert np.array_equal(NarrowBand(helped, grid, inside=lambda: dense < 0, known=known).distances, expected)
    assert np.array_equal(expected, np.clip(dense, -clamp_distance(grid), clamp_distance(grid)))
    needed = np.abs(dense) < clamp_distance(grid)
    assert alone.points < 1.3 * needed.sum()
    assert helped.points < 0.5 * alone.points


@pytest.mark.parametrize("model", ["celegans", "a549"])
def test_of_a_shipped_model_few_values_below_the_clamp_are_missed(model: str) -> None:
    grid = Grid((48, 48, 48))
    cell = draw(GenerationSpec(model=model, seed=7).completed(), load_checkpoint(SHIPPED_MODELS / model), 0)
    dense = evaluate_dense(cell.at(1.0), grid)
    values = NarrowBand(cell.at(1.0), grid, inside=lambda: dense < 0).distances
    clamp = clamp_distance(grid)
    missed = values != np.clip(dense, -clamp, clamp)
    assert np.array_equal(np.abs(values[missed]), np.full(missed.sum(), clamp))
    assert missed.sum() < 0.01 * (np.abs(dense) < clamp).sum()


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
