"""Promises of model.domain."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from model.domain import OMEGA, TAU, Grid, frame_times, frame_to_time
from model.errors import SpecError

shapes = st.tuples(*[st.integers(2, 40)] * 3)


@given(shapes)
def test_index_to_point_to_index_is_the_identity(shape: tuple[int, int, int]) -> None:
    grid = Grid(shape)
    index = np.stack(np.unravel_index(np.arange(grid.size), shape), axis=1)
    found = grid.to_index(grid.points())
    assert np.array_equal(np.rint(found), index)
    assert np.abs(found - index).max() < 1e-4


@given(shapes)
def test_samples_cover_omega_ends_included(shape: tuple[int, int, int]) -> None:
    grid = Grid(shape)
    points = grid.points()
    assert points.dtype == np.float32
    assert points.shape == (grid.size, 3)
    assert points.min() == OMEGA[0]
    assert points.max() == OMEGA[1]
    assert points.flags.c_contiguous


@given(shapes, st.data())
def test_any_choice_of_samples_has_the_points_of_the_whole_bit_by_bit(
    shape: tuple[int, int, int], data: st.DataObject
) -> None:
    grid = Grid(shape)
    start = data.draw(st.integers(0, grid.size))
    ids = np.array(data.draw(st.lists(st.integers(0, grid.size - 1), max_size=9)), dtype=np.int64)
    assert np.array_equal(grid.points(slice(start, start + 50)), grid.points()[start : start + 50])
    assert np.array_equal(grid.points(ids), grid.points()[ids])


@given(shapes)
def test_flat_order_is_that_of_an_array_indexed_x_y_z(shape: tuple[int, int, int]) -> None:
    grid = Grid(shape)
    x, y, z = grid.axes()
    lattice = np.stack(np.meshgrid(x, y, z, indexing="ij"), axis=-1)
    assert np.array_equal(grid.points().reshape(*shape, 3), lattice)


def test_step_is_the_distance_of_neighbours() -> None:
    assert Grid((3, 5, 9)).step.tolist() == [1.0, 0.5, 0.25]


@pytest.mark.parametrize("shape", [(1, 8, 8), (8, 0, 8), (8, 8, -3)])
def test_a_grid_that_cannot_hold_both_ends_is_refused(shape: tuple[int, int, int]) -> None:
    with pytest.raises(SpecError, match="at least 2 samples"):
        Grid(shape)


@given(st.integers(2, 1000))
def test_frames_cover_tau_ends_included(frames: int) -> None:
    times = frame_times(frames)
    assert (times[0], times[-1]) == TAU
    assert (np.diff(times) > 0).all()
    assert np.allclose(times, -times[::-1], atol=1e-7)


@given(st.integers(1, 1000), st.data())
def test_a_frames_time_is_that_of_frame_times_bit_by_bit(frames: int, data: st.DataObject) -> None:
    frame = data.draw(st.integers(0, frames - 1))
    assert np.float32(frame_to_time(frame, frames)) == frame_times(frames)[frame]


def test_a_single_frame_is_the_middle_of_the_life() -> None:
    assert frame_times(1).tolist() == [0.0]


def test_no_frames_are_refused() -> None:
    with pytest.raises(SpecError):
        frame_times(0)
