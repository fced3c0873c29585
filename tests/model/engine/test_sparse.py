"""Promises of model.engine.sparse: the dense evaluation is the oracle of the sparse one."""

from __future__ import annotations

import numpy as np
import pytest
import shapes
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from model.domain import Field, Grid, Points
from model.engine.bricks import CELL, COARSE, KNOWN, SAMPLES, WHAT, Bricks, locate
from model.engine.marching_cubes import extract_surface
from model.engine.runs import bodies, inside
from model.engine.sparse import (
    _TOUCHED,
    Exact,
    SignedDistance,
    SparseField,
    cpu_frame_batch,
    evaluate_dense,
    evaluate_sequence,
    evaluate_sparse,
)
from model.errors import EmptySurfaceError, InvalidFieldError

sides = st.integers(8, 48)
coordinate = st.floats(-1.125, 1.125, width=32)  # some lie across the border of Ω
balls = st.builds(
    lambda x, y, z, radius: shapes.sphere(radius, centre=(x, y, z)),
    coordinate,
    coordinate,
    coordinate,
    st.floats(0.0625, 0.875, width=32),
)
ways = st.sampled_from(["adaptive", "certified"])


EXACT: list[Exact] = ["adaptive", "certified"]


def crossed_cells(dense: Field) -> np.ndarray:
    """Cells (nx − 1, ny − 1, nz − 1) whose corners differ in sign."""
    outside = np.ones(tuple(n - 1 for n in dense.shape), dtype=int)
    count = outside * 0
    nx, ny, nz = outside.shape
    for a, b, c in np.ndindex(2, 2, 2):
        count += dense[a : nx + a, b : ny + b, c : nz + c] < 0
    return (count > 0) & (count < 8)


def assert_agree(dense: Field, sparse: SparseField) -> None:
    """Same labels, same bits where it matters, nothing else called crossed, the same surface."""
    grid, bricks = sparse.grid, sparse.bricks
    assert np.array_equal(inside(sparse), dense < 0)
    assert np.array_equal(bodies(sparse).volume(), bodies(dense).volume())
    for i, j, k in np.argwhere(crossed_cells(dense))[::7]:
        for a, b, c in np.ndindex(2, 2, 2):
            at = locate(bricks.table, i + a, j + b, k + c)
            assert bricks.state.reshape(-1)[at] & WHAT == KNOWN
            assert bricks.values.reshape(-1)[at] == dense[i + a, j + b, k + c]
        assert bricks.state.reshape(-1)[locate(bricks.table, i, j, k)] & CELL
    for closed in (False, True):
        one, other = extract_surface(dense, grid, closed=closed), extract_surface(sparse, grid, closed=closed)
        assert np.array_equal(one.vertices, other.vertices)
        assert np.array_equal(one.faces, other.faces)


@settings(max_examples=60, deadline=None)
@given(st.lists(balls, min_size=1, max_size=4), st.tuples(sides, sides, sides), st.sampled_from([1.0, 1.7, 6.0]), ways)
@example([shapes.sphere(0.08)], (64, 64, 64), 1.0, "adaptive")
@example([shapes.sphere(0.5), shapes.sphere(0.08, centre=(0.7, 0.6, 0.1))], (64, 70, 33), 1.7, "adaptive")
def test_sparse_equals_dense_on_any_grid(
    parts: list[shapes.Shape], shape: tuple[int, int, int], lipschitz: float, exact: Exact
) -> None:
    cell, grid = shapes.union(*parts), Grid(shape)
    dense = evaluate_dense(cell, grid)
    assume(crossed_cells(dense).any())
    sparse = evaluate_sparse(cell, grid, lipschitz=lipschitz, exact=exact)
    assert_agree(dense, sparse)
    if exact == "certified":
        assert sparse.refuted == 0


@pytest.mark.parametrize(
    "shape",
    [
        (8, 8, 8), (9, 8, 12), (64, 64, 64), (65, 66, 67), (8, 40, 130),
        pytest.param((98, 97, 50), marks=pytest.mark.slow),
    ],
)  # fmt: skip
@pytest.mark.parametrize("slope", [0.3, 1.0, 7.0])
def test_sparse_equals_dense_for_a_cell_with_thin_arms(shape: tuple[int, int, int], slope: float) -> None:
    cell, grid = shapes.scaled(shapes.filopodia_cell(0.2), slope), Grid(shape)
    dense = evaluate_dense(cell, grid)
    for exact in EXACT:
        assert_agree(dense, evaluate_sparse(cell, grid, lipschitz=slope, exact=exact))


@pytest.mark.parametrize(
    ("exact", "radius"), [("adaptive", 2.0), ("adaptive", 3.0), ("certified", 0.3), ("certified", 0.8)]
)
def test_small_detached_components_are_found_wherever_they_lie(exact: Exact, radius: float) -> None:
    """Fragments down to one sample, at every place within a block of four cells."""
    grid = Grid((64, 64, 64))
    step = float(grid.step[0])
    body = shapes.sphere(0.45, centre=(-0.3, 0.0, 0.0))
    rng = np.random.default_rng(4)
    for _ in range(24):
        x, y, z = ((rng.integers(46, 54, 3) + rng.uniform(-0.2, 0.2, 3)) * step - 1.0).tolist()
        cell = shapes.union(body, shapes.sphere(radius * step, centre=(x, y, z)))
        dense = evaluate_dense(cell, grid)
        assert np.array_equal(inside(evaluate_sparse(cell, grid, lipschitz=1.0, exact=exact)), dense < 0)


def test_a_bound_too_small_is_caught_by_the_comparison() -> None:
    grid = Grid((64, 64, 64))
    cell = shapes.union(shapes.sphere(0.3), shapes.sphere(0.05, centre=(0.61, 0.58, 0.55)))
    steep = shapes.scaled(cell, 4.0)
    dense = evaluate_dense(steep, grid)
    assert_agree(dense, evaluate_sparse(steep, grid, lipschitz=4.0))
    with pytest.raises(AssertionError):
        assert_agree(dense, evaluate_sparse(steep, grid, lipschitz=1.5))


def test_evaluations_grow_with_the_surface_not_the_volume() -> None:
    cell, spent = shapes.filopodia_cell(0.0), []
    for n in (64, 128, 256):
        spent.append(evaluate_sparse(cell, Grid((n, n, n)), lipschitz=1.0).evaluations)
    assert spent[1] < 4.3 * spent[0]
    assert spent[2] < 4.3 * spent[1]


def test_evaluations_stay_near_the_least_that_any_method_needs() -> None:
    grid = Grid((128, 128, 128))
    for cell in (shapes.sphere(0.6), shapes.filopodia_cell(0.3), shapes.dividing_cell(0.5)):
        cells = np.pad(crossed_cells(evaluate_dense(cell, grid)), 1)
        corners = np.zeros(grid.shape, dtype=bool)
        for a, b, c in np.ndindex(2, 2, 2):
            corners |= cells[a : 128 + a, b : 128 + b, c : 128 + c]
        for exact, most in zip(EXACT, (1.35, 3.0), strict=True):
            spent = evaluate_sparse(cell, grid, lipschitz=1.25, exact=exact).evaluations
            assert corners.sum() < spent < most * corners.sum(), exact


def test_no_point_is_evaluated_twice() -> None:
    seen: list[Points] = []

    def counted(points: Points) -> Field:
        seen.append(points.copy())
        return shapes.filopodia_cell(0.2)(points)

    found = evaluate_sparse(counted, Grid((40, 56, 33)), lipschitz=1.0)
    points = np.concatenate(seen)
    assert len(np.unique(points, axis=0)) == len(points) == found.evaluations
    assert np.abs(points).max() <= 1.0


def test_storage_is_used_again_without_a_trace() -> None:
    grid = Grid((40, 40, 40))
    bricks = Bricks(grid)
    evaluate_sparse(shapes.filopodia_cell(0.2), grid, lipschitz=1.0, bricks=bricks)
    ball = shapes.sphere(0.3)
    again = evaluate_sparse(ball, grid, lipschitz=1.0, bricks=bricks)
    assert_agree(evaluate_dense(ball, grid), again)


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_a_sequence_comes_in_order_whatever_the_threads(threads: int) -> None:
    grid, times = Grid((40, 33, 36)), [-1.0, -0.3, 0.0, 0.4, 0.8, 0.9, 1.0]
    fields = evaluate_sequence(shapes.dividing_cell, times, grid, lipschitz=1.0, threads=threads)
    for time, field in zip(times, fields, strict=True):
        assert np.array_equal(inside(field), evaluate_dense(shapes.dividing_cell(time), grid) < 0)


def test_fewer_frames_at_once_where_storage_is_dear() -> None:
    assert cpu_frame_batch(Grid((64, 64, 64)), 16) == 16
    assert cpu_frame_batch(Grid((512, 512, 512)), 16) < 8
    assert cpu_frame_batch(Grid((512, 512, 512)), 1) == 1
    assert cpu_frame_batch(Grid((1024, 1024, 1024)), 16) == 1
    assert cpu_frame_batch(Grid((4000, 4000, 4000)), 8) == 1


@pytest.mark.parametrize("side", [128, 256, 384])
def test_memory_follows_the_surface(side: int) -> None:
    """The samples of coarse levels, of which there are ten times as many bricks as the surface crosses, are cheap."""
    bricks = Bricks(Grid((side, side, side)))
    before = int(bricks.used[0])
    evaluate_sparse(shapes.sphere(0.7), bricks.grid, lipschitz=2.0, bricks=bricks)
    whole, coarse = int(bricks.used[0]) - before, int(bricks.used[1])
    assert coarse > 4 * int(bricks.crossed.sum())
    assert whole < 3 * int(bricks.crossed.sum())
    assert 9 * (SAMPLES * whole + COARSE * coarse) < _TOUCHED * side**2


def test_a_sequence_stops_where_nothing_is_left_and_not_before() -> None:
    def vanishing(time: float) -> SignedDistance:
        return shapes.sphere(0.4 if time < 0.5 else -1.0)

    fields = evaluate_sequence(vanishing, [0.0, 0.2, 0.6, 0.8], Grid((20, 20, 20)), lipschitz=1.0, threads=2)
    assert inside(next(fields)).any()
    assert inside(next(fields)).any()
    with pytest.raises(EmptySurfaceError):
        next(fields)


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
    with pytest.raises(InvalidFieldError):
        SparseField.of(np.full((4, 4, 4), poison, dtype=np.float32), Grid((4, 4, 4)))


@pytest.mark.parametrize("everywhere", [5.0, -5.0])
def test_a_domain_without_a_membrane_is_refused(everywhere: float) -> None:
    def constant(points: Points) -> Field:
        return np.full(len(points), everywhere, dtype=np.float32)

    with pytest.raises(EmptySurfaceError, match="nowhere"):
        evaluate_sparse(constant, Grid((16, 16, 16)), lipschitz=1.0)


@pytest.mark.parametrize("lipschitz", [0.0, -1.0, np.nan, np.inf])
def test_a_bound_that_bounds_nothing_is_refused(lipschitz: float) -> None:
    with pytest.raises(ValueError, match="positive"):
        evaluate_sparse(shapes.sphere(), Grid((16, 16, 16)), lipschitz=lipschitz)


@pytest.mark.parametrize("cell", [shapes.sphere(1.3), shapes.sphere(0.5, centre=(1.0, 1.0, 1.0))])
def test_what_leaves_the_domain_is_cut_and_closed(cell: SignedDistance) -> None:
    grid = Grid((33, 40, 37))
    dense, sparse = evaluate_dense(cell, grid), evaluate_sparse(cell, grid, lipschitz=1.0)
    assert_agree(dense, sparse)
    closed = extract_surface(sparse, grid)
    assert closed.is_watertight
    assert not extract_surface(dense, grid, closed=False).is_watertight
