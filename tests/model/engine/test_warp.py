"""The smooth warp of space: a bijection with the bound that it states."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from model.engine.warp import Warp, Warped

POINTS = np.random.default_rng(0).uniform(-1.0, 1.0, (400, 3)).astype(np.float32)


@given(seed=st.integers(0, 2**32), strength=st.floats(0.0, 0.99))
def test_distances_of_any_two_points_change_by_no_more_than_the_strength(seed: int, strength: float) -> None:
    warp = Warp.draw(strength, np.random.default_rng(seed))
    moved = warp.moved(POINTS).astype(np.float64)
    first, second = np.array_split(np.arange(len(POINTS)), 2)
    before = np.linalg.norm(POINTS[first].astype(np.float64) - POINTS[second], axis=1)
    after = np.linalg.norm(moved[first] - moved[second], axis=1)
    assert np.all(after <= (1.0 + strength) * before + 1e-5)
    assert np.all(after >= (1.0 - strength) * before - 1e-5)
    assert np.abs(warp.moved(np.zeros((1, 3), dtype=np.float32))).max() < 1e-6, "the middle of Ω stays"


@pytest.mark.parametrize("strength", [0.1, 0.5])
def test_values_of_a_warped_ball_are_within_the_factors_of_the_distance(strength: float) -> None:
    warp = Warp.draw(strength, np.random.default_rng(1))
    ball = Warped(lambda points: np.linalg.norm(points, axis=1) - 0.6, warp)
    # Points of the warped sphere, by inverting the map: x = y − u(x).
    directions = np.random.default_rng(2).standard_normal((20_000, 3))
    sphere = 0.6 * directions / np.linalg.norm(directions, axis=1, keepdims=True)
    surface = sphere.copy()
    for _ in range(80):
        surface = sphere - (warp.moved(surface) - surface.astype(np.float32))
    assert np.abs(ball(surface.astype(np.float32))).max() < 1e-4
    some = POINTS[:60]
    distance = np.array([np.linalg.norm(surface - point, axis=1).min() for point in some])
    values = np.abs(ball(some))
    assert np.all(values <= (1.0 + strength) * distance + 1e-4)
    assert np.all(values >= (1.0 - strength) * distance - 0.02), "the nearest of so many points is near the nearest"


def test_a_warp_that_might_fold_is_refused() -> None:
    with pytest.raises(ValueError, match="below 1"):
        Warp.draw(1.0, np.random.default_rng(0))
