"""Promises of model.sparse: the dense evaluation is the oracle of the sparse one."""

from __future__ import annotations

import numpy as np
import pytest
import shapes
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from model.domain import Field, Grid, Points
from model.errors import EmptySurfaceError, InvalidFieldError
from model.sparse import evaluate_dense, evaluate_sparse
from model.surface import extract_surface

BATCH = 2**12
sides = st.integers(8, 48)
coordinate = st.floats(-0.875, 0.875, width=32)
balls = st.builds(
    lambda x, y, z, radius: shapes.sphere(radius, centre=(x, y, z)),
    coordinate,
    coordinate,
    coordinate,
    st.floats(0.0625, 0.875, width=32),
)


def assert_agree(dense: Field, sparse: Field, grid: Grid) -> None:
    """Same sign everywhere, bit-equal where it matters, never an overestimate, the same surface."""
    assert np.array_equal(dense < 0, sparse < 0)
    filled = dense != sparse
    assert (np.abs(sparse[filled]) <= np.abs(dense[filled]) + 1e-5).all()
    one, other = extract_surface(dense, grid), extract_surface(sparse, grid)
    assert np.array_equal(one.vertices, other.vertices)
    assert np.array_equal(one.faces, other.faces)


@settings(max_examples=40, deadline=None)
@given(st.lists(balls, min_size=1, max_size=4), st.tuples(sides, sides, sides), st.sampled_from([1.0, 1.7, 6.0]))
def test_sparse_equals_dense_on_any_grid(
    parts: list[shapes.Shape], shape: tuple[int, int, int], lipschitz: float
) -> None:
    cell, grid = shapes.union(*parts), Grid(shape)
    dense = evaluate_dense(cell, grid, batch_points=BATCH)
    assume((dense < 0).any())
    assert_agree(dense, evaluate_sparse(cell, grid, lipschitz=lipschitz, batch_points=BATCH), grid)


@pytest.mark.parametrize("shape", [(8, 8, 8), (9, 8, 12), (64, 64, 64), (65, 66, 67), (98, 97, 50)])
@pytest.mark.parametrize("slope", [0.3, 1.0, 7.0])
def test_sparse_equals_dense_for_a_cell_with_thin_arms(shape: tuple[int, int, int], slope: float) -> None:
    cell, grid = shapes.scaled(shapes.filopodia_cell(0.2), slope), Grid(shape)
    dense = evaluate_dense(cell, grid)
    assert_agree(dense, evaluate_sparse(cell, grid, lipschitz=slope), grid)


def test_a_bound_too_small_is_caught_by_the_comparison() -> None:
    grid = Grid((64, 64, 64))
    cell = shapes.union(shapes.sphere(0.3), shapes.sphere(0.05, centre=(0.61, 0.58, 0.55)))
    steep = shapes.scaled(cell, 4.0)
    dense = evaluate_dense(steep, grid)
    assert_agree(dense, evaluate_sparse(steep, grid, lipschitz=4.0), grid)
    with pytest.raises(AssertionError):
        assert_agree(dense, evaluate_sparse(steep, grid, lipschitz=2.0), grid)


def test_evaluations_grow_with_the_surface_not_the_volume() -> None:
    calls: list[int] = []

    def counted(points: Points) -> Field:
        calls.append(len(points))
        return cell(points)

    cell, spent = shapes.filopodia_cell(0.0), []
    for n in (48, 96, 192):
        calls.clear()
        evaluate_sparse(counted, Grid((n, n, n)), lipschitz=1.0, batch_points=1024)
        spent.append(sum(calls))
    assert spent[1] < 4.5 * spent[0]
    assert spent[2] < 4.5 * spent[1]
    assert spent[2] < 0.035 * 192**3


@pytest.mark.parametrize("batch", [100, 512, 1000])
def test_every_call_gets_exactly_batch_points(batch: int) -> None:
    calls: list[int] = []

    def counted(points: Points) -> Field:
        calls.append(len(points))
        return shapes.sphere()(points)

    grid = Grid((11, 12, 13))
    evaluate_dense(counted, grid, batch_points=batch)
    assert set(calls) == {batch}
    calls.clear()
    evaluate_sparse(counted, grid, lipschitz=1.0, batch_points=batch)
    assert set(calls) == {batch, 2048}


@pytest.mark.parametrize("poison", [np.nan, np.inf, -np.inf])
def test_a_field_that_is_not_finite_is_refused(poison: float) -> None:
    def broken(points: Points) -> Field:
        values = shapes.sphere()(points)
        values[points[:, 2] == 0] = poison
        return values

    with pytest.raises(InvalidFieldError):
        evaluate_dense(broken, Grid((9, 9, 9)))
    with pytest.raises(InvalidFieldError):
        evaluate_sparse(broken, Grid((9, 9, 9)), lipschitz=1.0)


@pytest.mark.parametrize("everywhere", [5.0, -5.0])
def test_a_domain_without_a_membrane_is_refused(everywhere: float) -> None:
    def constant(points: Points) -> Field:
        return np.full(len(points), everywhere, dtype=np.float32)

    with pytest.raises(EmptySurfaceError, match="nowhere"):
        evaluate_sparse(constant, Grid((16, 16, 16)), lipschitz=1.0)


@pytest.mark.parametrize("lipschitz", [0.0, -1.0, np.nan])
def test_a_bound_that_bounds_nothing_is_refused(lipschitz: float) -> None:
    with pytest.raises(ValueError, match="positive"):
        evaluate_sparse(shapes.sphere(), Grid((16, 16, 16)), lipschitz=lipschitz)
