"""Protrusions against a ball with rods of known number, length and thickness."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from model.evaluation.measures.protrusions import equivalent_radius, find_protrusions, thin_parts
from model.evaluation.reconstruction import FrameScore, dice, summarise, surface_distances, thin_dice

Mask = NDArray[np.bool_]
SIDE, BODY, ROD = 72, 15.0, 2.2


def cell(*rods: tuple[tuple[float, float, float], float], width: float = ROD) -> Mask:
    """Ball in the middle, with rods: a direction, and how far the tip is from the ball's surface."""
    places = np.stack(np.meshgrid(*[np.arange(SIDE, dtype=np.float64)] * 3, indexing="ij"), axis=-1) - SIDE / 2
    inside = np.linalg.norm(places, axis=-1) < BODY
    for direction, length in rods:
        unit = np.array(direction) / np.linalg.norm(direction)
        along = np.clip(places @ unit, 0.0, BODY + length - width)
        inside |= np.linalg.norm(places - along[..., None] * unit, axis=-1) < width
    return inside


@pytest.mark.parametrize("length", [10.0, 17.0])
def test_a_rod_is_found_once_with_its_length_and_thickness(length: float) -> None:
    found = find_protrusions(cell(((1.0, 0.3, -0.2), length)))
    assert found.number == 1
    assert found.lengths == pytest.approx([length], abs=2.5)
    assert found.thickness == pytest.approx(2.0 * ROD, abs=1.0)


def test_every_rod_counts_and_lengths_come_in_the_unit_of_the_step() -> None:
    mask = cell(((1, 0, 0), 16.0), ((0, 1, 0.2), 12.0), ((-1, -0.3, -1), 9.0))
    found, scaled = find_protrusions(mask), find_protrusions(mask, step=0.5)
    assert found.number == 3
    assert found.lengths == pytest.approx([16.0, 12.0, 9.0], abs=2.5)
    assert scaled.lengths == pytest.approx(0.5 * found.lengths)
    assert scaled.thickness == pytest.approx(0.5 * found.thickness)
    assert found.total_length == pytest.approx(37.0, abs=6.0)


def test_a_round_body_has_none_and_nothing_has_none() -> None:
    assert find_protrusions(cell()).number == 0
    empty = find_protrusions(np.zeros((8, 8, 8), dtype=np.bool_))
    assert empty.number == 0
    assert np.isnan(empty.thickness)


def test_thin_parts_are_the_rods_and_not_the_body() -> None:
    mask = cell(((1, 0, 0), 14.0))
    thin = thin_parts(mask)
    away = np.linalg.norm(np.argwhere(thin) - SIDE / 2, axis=1)
    assert (away > BODY - 2.0).all()
    rod = cell(((1, 0, 0), 14.0)) & ~cell()
    assert (thin & rod).sum() > 0.75 * rod.sum()
    assert thin_parts(cell()).sum() < 0.03 * cell().sum()
    assert equivalent_radius(cell()) == pytest.approx(BODY, rel=0.02)


def test_a_lost_rod_costs_little_dice_and_all_of_the_thin_dice() -> None:
    truth, without, shifted = cell(((1, 0, 0), 14.0)), cell(), cell(((1, 0.08, 0), 14.0))
    assert dice(truth, without) > 0.97
    lost, near, same = (thin_dice(truth, found) for found in (without, shifted, truth))
    assert lost is not None
    assert near is not None
    assert lost < 0.1 < near < 1.0 == same
    assert thin_dice(without, truth) is None


def test_surfaces_a_step_apart_are_a_step_apart() -> None:
    one, two = cell(), np.zeros((SIDE, SIDE, SIDE), dtype=np.bool_)
    two[1:] = one[:-1]
    apart = surface_distances(one, two)
    assert apart is not None
    assert 0.2 < apart[0] < 1.0
    assert apart[1] == 1.0
    assert surface_distances(one, one) == (0.0, 0.0)
    assert surface_distances(one, np.zeros_like(one)) is None


def test_a_summary_averages_what_was_measured_and_names_the_worst() -> None:
    scores = [
        FrameScore(0, 0, False, 0.9, 0.5, 1.0, 2.0), FrameScore(0, 1, False, 0.7, None, 2.0, 4.0),
        FrameScore(0, 2, True, 0.8),
    ]  # fmt: skip
    assert summarise(scores) == {
        "dice_training_frames": 0.8, "dice_training_frames_worst": 0.7, "thin_dice_training_frames": 0.5,
        "steps_apart_training_frames": 1.5, "steps_apart_95_training_frames": 3.0,
        "dice_left_out_frames": 0.8, "dice_left_out_frames_worst": 0.8,
    }  # fmt: skip
