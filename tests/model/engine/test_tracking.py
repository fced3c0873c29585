"""Promises of model.engine.tracking."""

from __future__ import annotations

import numpy as np
import pytest
import shapes
from hypothesis import given, settings
from hypothesis import strategies as st

from model.domain import Field, Grid, frame_times
from model.engine.marching_cubes import extract_surface
from model.engine.runs import bodies
from model.engine.sparse import SparseField, evaluate_dense
from model.engine.tracking import CellTracker, LabelledFrame, Track, label_volume, remove_bodies
from model.errors import EmptySurfaceError

GRID = Grid((40, 40, 40))
Ball = tuple[float, float, float, float]


def field_of(*balls: Ball, grid: Grid = GRID) -> Field:
    cell = shapes.union(*(shapes.sphere(radius, centre=(x, y, z)) for x, y, z, radius in balls))
    return evaluate_dense(cell, grid)


def follow(*frames: tuple[Ball, ...]) -> tuple[list[LabelledFrame], tuple[Track, ...]]:
    tracker = CellTracker()
    return [tracker.update(field_of(*frame)) for frame in frames], tracker.tracks


MOTHER = (0.0, 0.0, 0.0, 0.5)
LEFT, RIGHT = (-0.45, 0.0, 0.0, 0.38), (0.45, 0.0, 0.0, 0.32)


def test_bodies_are_numbered_by_size_and_cover_the_inside() -> None:
    field = field_of(RIGHT, LEFT)
    labels = label_volume(field)
    assert labels.dtype == np.uint16
    assert np.array_equal(labels > 0, field < 0)
    assert labels[9, 20, 20] == 1
    assert labels[30, 20, 20] == 2


def test_bodies_are_those_of_the_surface() -> None:
    rng = np.random.default_rng(1)
    for _ in range(30):
        field = rng.standard_normal((6, 6, 6)).astype(np.float32) + 0.9
        field[2, 2, 2] = -1
        labels = label_volume(field)
        sheets = extract_surface(field, Grid(field.shape)).components()[0]
        assert labels.max() == sheets  # too sparse for cavities
        grid = Grid(field.shape)
        alone = extract_surface(remove_bodies(field, bodies(field), 1), grid)
        assert alone.components()[0] == 1
        sparse = SparseField.of(field, grid)
        same = extract_surface(remove_bodies(sparse, bodies(sparse), 1), grid)
        assert np.array_equal(alone.vertices, same.vertices)
        assert np.array_equal(alone.faces, same.faces)


def test_nothing_inside_is_all_background_and_no_frame() -> None:
    field = np.ones(GRID.shape, dtype=np.float32)
    assert not label_volume(field).any()
    with pytest.raises(EmptySurfaceError):
        CellTracker().update(field)


def test_a_mother_is_1_and_her_daughters_are_2_and_3_the_larger_first() -> None:
    frames, tracks = follow((MOTHER,), (MOTHER,), (RIGHT, LEFT), (LEFT, RIGHT))
    assert tracks == (Track(1, 0, 1, 0), Track(2, 2, 3, 1), Track(3, 2, 3, 1))
    assert [frame.cells for frame in frames] == [(1,), (1,), (2, 3), (2, 3)]
    for frame in frames[2:]:
        assert frame.labels[9, 20, 20] == 2
        assert frame.labels[30, 20, 20] == 3


def test_daughters_keep_their_labels_when_their_order_of_size_changes() -> None:
    frames, tracks = follow((MOTHER,), (LEFT, RIGHT), ((-0.45, 0, 0, 0.3), (0.45, 0, 0, 0.4)))
    assert len(tracks) == 3
    assert frames[2].labels[9, 20, 20] == 2


def test_daughters_that_jump_further_than_their_size_are_found_by_distance() -> None:
    frames, tracks = follow(
        (MOTHER,),
        ((-0.6, 0, 0, 0.2), (0.6, 0, 0, 0.2)),
        ((-0.6, 0.5, 0, 0.2), (0.6, 0.5, 0, 0.2)),
    )
    assert len(tracks) == 3
    for label in (2, 3):
        before, after = (np.argwhere(frame.labels == label).mean(axis=0)[0] for frame in frames[1:])
        assert before == pytest.approx(after, abs=1)


def test_daughters_that_touch_again_stay_two_cells() -> None:
    touching = ((-0.33, 0, 0, 0.38), (0.33, 0, 0, 0.38))
    frames, tracks = follow((MOTHER,), (LEFT, RIGHT), touching, touching, (LEFT, RIGHT))
    assert label_volume(field_of(*touching)).max() == 1
    assert tracks == (Track(1, 0, 0, 0), Track(2, 1, 4, 1), Track(3, 1, 4, 1))
    for frame in frames[1:]:
        assert frame.labels[9, 20, 20] == 2
        assert frame.labels[30, 20, 20] == 3
    assert np.array_equal(frames[2].labels > 0, frames[2].field < 0)


def test_cells_that_touch_on_a_fine_grid_are_told_apart_on_a_coarser_one(monkeypatch: pytest.MonkeyPatch) -> None:
    touching = ((-0.33, 0, 0, 0.38), (0.33, 0, 0, 0.38))
    grid = Grid((64, 60, 61))
    exact, coarse = CellTracker(), CellTracker()
    for balls in ((MOTHER,), (LEFT, RIGHT), touching, touching):
        field = field_of(*balls, grid=grid)
        with monkeypatch.context() as patch:
            one = exact.update(field)
            patch.setattr("model.engine.tracking.WHOLE_SIDE", 32)
            patch.setattr("model.engine.tracking._COARSE_SIDE", 16)
            other = coarse.update(field)
        assert np.array_equal(one.labels > 0, other.labels > 0)
        differ = np.argwhere(one.labels != other.labels)
        assert one.cells == other.cells
        assert len(differ) < 0.05 * (one.labels > 0).sum()
        # Only beside the border, which lies in the middle.
        assert (np.abs(grid.axes()[0][differ[:, 0]]) < 4 * 2 / 63).all()
    assert coarse.tracks == exact.tracks == (Track(1, 0, 0, 0), Track(2, 1, 3, 1), Track(3, 1, 3, 1))
    assert len(differ) > 0


def test_a_cell_that_vanishes_ends_and_the_other_goes_on() -> None:
    _, tracks = follow((MOTHER,), (LEFT, RIGHT), (LEFT,), (LEFT,))
    assert tracks == (Track(1, 0, 0, 0), Track(2, 1, 3, 1), Track(3, 1, 1, 1))


def test_a_daughter_can_divide_again() -> None:
    small = ((0.4, -0.4, 0, 0.25), (0.5, 0.4, 0, 0.22))
    _, tracks = follow((MOTHER,), (LEFT, RIGHT), (LEFT, *small))
    assert tracks[3:] == (Track(4, 2, 2, 3), Track(5, 2, 2, 3))


def test_several_first_bodies_have_no_parent() -> None:
    _, tracks = follow((LEFT, RIGHT), (LEFT, RIGHT))
    assert tracks == (Track(1, 0, 1, 0), Track(2, 0, 1, 0))


SPECK = (0.8, 0.8, 0.8, 0.1)


def test_a_removed_fragment_is_gone_from_labels_and_mesh_and_counted() -> None:
    field = field_of(LEFT, RIGHT, SPECK)
    original = field.copy()
    frame = CellTracker().update(field)
    assert np.array_equal(field, original)
    assert frame.fragments == 1
    assert frame.cells == (1, 2)
    assert extract_surface(frame.field, GRID).components()[0] == 2
    assert np.array_equal(frame.labels, label_volume(field_of(LEFT, RIGHT)))
    kept = frame.field == field
    assert (frame.field[~kept] == -field[~kept]).all()


def test_a_kept_fragment_has_the_label_of_the_nearest_cell() -> None:
    field = field_of(LEFT, RIGHT, SPECK)
    frame = CellTracker(fragments="keep").update(field)
    assert frame.fragments == 1
    assert frame.field is field
    assert np.array_equal(frame.labels > 0, field < 0)
    assert frame.labels[35, 35, 35] == frame.labels[30, 20, 20] == 2


def test_noise_keeps_its_largest_body() -> None:
    rng = np.random.default_rng(0)
    field = np.where(rng.random((48, 48, 48)) < 0.02, -1.0, 1.0).astype(np.float32)
    frame = CellTracker().update(field)
    assert frame.cells == (1,)
    assert label_volume(frame.field).max() == 1


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from(["remove", "keep"]))
def test_tracks_and_volumes_tell_the_same_story_whatever_happens(seed: int, fragments: str) -> None:
    rng = np.random.default_rng(seed)
    grid, tracker = Grid((16, 18, 20)), CellTracker(fragments=fragments)  # type: ignore[arg-type]
    seen: dict[int, list[int]] = {}
    balls = rng.uniform(-0.8, 0.8, (4, 3))
    for frame in range(8):
        balls += rng.normal(0, 0.15, balls.shape)
        shown = balls[rng.random(4) < 0.8] if frame else balls
        if len(shown) == 0:
            shown = balls[:1]
        field = field_of(*((*np.clip(b, -0.9, 0.9), rng.uniform(0.15, 0.4)) for b in shown), grid=grid)
        result = tracker.update(field)
        assert np.array_equal(result.labels > 0, result.field < 0)
        assert tuple(np.unique(result.labels[result.labels > 0])) == result.cells
        for cell in result.cells:
            seen.setdefault(cell, []).append(frame)
    tracks = {track.label: track for track in tracker.tracks}
    assert list(tracks) == list(range(1, len(tracks) + 1))
    assert seen == {label: list(range(t.first_frame, t.last_frame + 1)) for label, t in tracks.items()}
    for track in tracks.values():
        if track.parent:
            assert tracks[track.parent].last_frame == track.first_frame - 1
        else:
            assert track.first_frame == 0


def test_a_dividing_cell_gives_three_tracks_with_one_division() -> None:
    tracker = CellTracker()
    for time in frame_times(12):
        tracker.update(evaluate_dense(shapes.dividing_cell(float(time)), GRID))
    assert [(track.label, track.parent) for track in tracker.tracks] == [(1, 0), (2, 1), (3, 1)]
    assert tracker.tracks[0].last_frame + 1 == tracker.tracks[1].first_frame == tracker.tracks[2].first_frame
    assert tracker.tracks[1].last_frame == tracker.tracks[2].last_frame == 11


def test_a_cell_that_never_divides_keeps_its_largest_body_only() -> None:
    field = np.ones((12, 12, 12), dtype=np.float32)
    field[1:7, 1:7, 1:7] = -1.0
    field[9:11, 9:11, 9:11] = -1.0  # 4 % of the volume: a daughter, if the cell could divide
    assert CellTracker().update(field).cells == (1, 2)
    alone = CellTracker(divides=False).update(field)
    assert (alone.cells, alone.fragments) == ((1,), 1)
    assert (alone.field[9:11, 9:11, 9:11] > 0).all()
    kept = CellTracker(fragments="keep", divides=False).update(field)
    assert (kept.labels[9:11, 9:11, 9:11] == 1).all()
