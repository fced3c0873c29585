"""Restoring unseen cells: rivals that are exact where they should be, and a small model beside them."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import pytest
from tiny_model import write_masks

from model.domain import Grid, frame_times
from model.evaluation.reconstruction import FrameScore, dice
from model.evaluation.unseen_cells import UnseenCell, shape_of_mask, unseen_cells
from model.evaluation.upsampling import (
    FitScope,
    Restored,
    compare_fits,
    cubic_weights,
    distance_transform,
    linear_weights,
    parts_of,
    restore,
    summarise_fits,
)
from model.fitting.fit import FitPlan
from model.learning.sources import MaskSource, PhantomSource
from model.network.checkpoint import Checkpoint

TIMES = np.array([-1.0, -0.4, 0.1, 0.6, 1.0])


@pytest.mark.parametrize("time", [-1.0, -0.7, -0.4, 0.0, 0.35, 0.9, 1.0])
def test_linear_weights_repeat_lines_and_use_the_neighbours_only(time: float) -> None:
    weights = linear_weights(TIMES, time)
    assert weights.sum() == pytest.approx(1.0)
    assert weights @ TIMES == pytest.approx(time)
    assert (weights >= 0.0).all()
    assert np.flatnonzero(weights).size <= 2


@pytest.mark.parametrize("time", [-1.0, -0.7, -0.4, 0.0, 0.35, 0.9, 1.0])
def test_cubic_weights_repeat_lines_and_pass_through_the_samples(time: float) -> None:
    weights = cubic_weights(TIMES, time)
    assert weights.sum() == pytest.approx(1.0)
    assert weights @ TIMES == pytest.approx(time)
    if time in TIMES:
        assert weights == pytest.approx((time == TIMES).astype(float))


def test_cubic_weights_repeat_parabolas_between_even_samples_where_linear_ones_cannot() -> None:
    times = np.linspace(-1.0, 1.0, 5)
    assert cubic_weights(times, 0.2) @ times**2 == pytest.approx(0.04)
    assert linear_weights(times, 0.2) @ times**2 == pytest.approx(0.1)


def test_the_distance_transform_of_a_wall_is_exact_and_passes_midway() -> None:
    mask = np.zeros((6, 4, 4), dtype=np.bool_)
    mask[:3] = True
    wall = np.broadcast_to((np.arange(6) - 2.5)[:, None, None], mask.shape)
    assert distance_transform(mask) == pytest.approx(wall)


def test_a_phantom_is_the_same_by_its_membrane_and_by_its_formula() -> None:
    (cell,) = unseen_cells(PhantomSource(cell_type="celegans", first_seed=1_000_000, sequences=1), 1, micrometres=14.0)
    grid = Grid((48, 48, 48))
    from model.phantoms import make_phantom

    exact = make_phantom("celegans", 1_000_000).frame(float(cell.times[20])).contains(grid.points())
    assert dice(exact.reshape(grid.shape), cell.truth(20, grid)) > 0.998, "triangles sag where the surface bends"
    assert cell.name == "celegans 1000000"


def test_the_truth_of_a_cell_known_by_masks_is_those_masks(tmp_path: Path) -> None:
    source = MaskSource(kind="masks", folder=write_masks(tmp_path), micrometres=10.0)
    first, last = unseen_cells(source, 2, micrometres=10.0)
    assert (first.name, last.name) == ("cell_0", "cell_2"), "spread over the source"
    grid = first.grid(128)
    assert grid.shape == (24, 24, 24)
    assert first.masks is not None
    assert np.array_equal(first.truth(1, grid), first.masks[1])
    assert dice(shape_of_mask(first.masks[1])(grid.points()).reshape(grid.shape) < 0.0, first.masks[1]) > 0.99
    with pytest.raises(ValueError, match="has no ground truth on another grid"):
        first.truth(1, Grid((32, 32, 32)))


SCOPE = FitScope(
    cells=1, grid_side=48, scored=3,
    plan=FitPlan(restarts=1, steps=30, draws=8, points=128, frames=4, adapt_steps=60, adapt_rate=2e-3),
)  # fmt: skip


@cache
def slow_phantom() -> UnseenCell:
    return UnseenCell(PhantomSource(cell_type="celegans", first_seed=1_000_001, sequences=1, frames=5), 0, 14.0)


def test_in_time_only_frames_between_given_ones_are_scored(tiny_checkpoint: Checkpoint) -> None:
    cell = slow_phantom()
    found = restore(tiny_checkpoint, cell, "time", scope=SCOPE)
    assert {score.frame for score in found.methods["adapted"]} == {1, 2, 3}
    assert set(found.methods) == {"code", "adapted", "linear", "cubic"}
    # frames 0 and 4 are the only ones given: a cubic through two samples is the line
    assert [s.dice for s in found.methods["linear"]] == pytest.approx(
        [s.dice for s in found.methods["cubic"]], abs=1e-3
    )
    grid = cell.grid(SCOPE.grid_side)
    mean = 0.5 * (cell.shape(0)(grid.points()) + cell.shape(4)(grid.points())).reshape(grid.shape)
    assert found.methods["linear"][1].dice == pytest.approx(dice(cell.truth(2, grid), mean < 0.0), abs=1e-6)


def test_in_space_a_found_membrane_is_nearer_than_interpolated_masks(tiny_checkpoint: Checkpoint) -> None:
    found = restore(tiny_checkpoint, slow_phantom(), "space", scope=SCOPE)
    assert set(found.methods) == {
        "code", "adapted", "membrane", "mask_linear", "mask_spline", "distance_linear", "distance_spline",
    }  # fmt: skip
    means = {way: np.mean([score.dice for score in scores]) for way, scores in found.methods.items()}
    rivals = [value for way, value in means.items() if way.startswith(("mask", "distance"))]
    assert min(rivals) > 0.9, "on the grid, in the right place"
    assert means["membrane"] > max(rivals)


def test_masks_are_restored_from_all_and_from_every_fourth_frame(tiny_models: Path, tmp_path: Path) -> None:
    axis = np.linspace(-1.0, 1.0, 24)
    z, y, x = np.meshgrid(axis, axis, axis, indexing="ij")
    import tifffile

    radii = 0.42 + 0.02 * np.arange(5)
    masks = np.array([(x / 0.4) ** 2 + (y / r) ** 2 + (z / 0.5) ** 2 < 1.0 for r in radii], dtype=np.uint8)
    tifffile.imwrite(tmp_path / "new.tif", masks)
    cells = unseen_cells(MaskSource(kind="masks", folder=tmp_path, micrometres=10.0), 4, micrometres=10.0)
    notes: list[str] = []
    summary = compare_fits(tiny_models / "tiny", cells, scope=SCOPE, on_part=notes.append)
    assert [note.split(":")[0] for note in notes] == ["new, all_frames", "new, time"]
    assert summary["cells"] == ["new"]
    assert "space" not in summary, "there is no truth finer than the masks"
    assert summary["time"]["frames"] == 3
    assert summary["time"]["adapted"]["dice"] > 0.95
    ahead = summary["time"]["adapted"]["dice"] - summary["time"]["linear"]["dice"]
    assert summary["time"]["ahead"]["linear"]["dice"] == pytest.approx(ahead, abs=1e-4)


def test_a_part_is_studied_only_where_something_was_withheld(tmp_path: Path) -> None:
    (masks,) = unseen_cells(MaskSource(kind="masks", folder=write_masks(tmp_path)), 1, micrometres=10.0)
    assert parts_of(masks) == ("all_frames",), "of four frames one is given, and nothing finer is known"
    assert parts_of(slow_phantom()) == ("all_frames", "time", "space")


def test_a_summary_is_a_mean_over_cells_of_means_over_frames() -> None:
    def scores(*values: float) -> list[FrameScore]:
        return [FrameScore(0, n, True, value, None, 1.0 - value, 1.0) for n, value in enumerate(values)]

    found = [
        Restored("a", "time", {"code": scores(0.5), "adapted": scores(0.9, 0.7), "linear": scores(0.6, 0.8)}),
        Restored("b", "time", {"code": scores(0.5), "adapted": scores(0.6), "linear": scores(0.8)}),
    ]
    rows = summarise_fits(found)["time"]
    assert rows["adapted"]["dice"] == 0.7
    assert rows["adapted"]["dice_worst_cell"] == 0.6
    assert rows["ahead"]["linear"] == {"dice": -0.05, "dice_least": -0.2, "steps_nearer": -0.05}
    assert "thin_dice" not in rows["adapted"], "no frame had thin parts"


def test_frames_of_phantoms_are_those_of_their_training() -> None:
    assert slow_phantom().times == pytest.approx(frame_times(5))
