"""Descriptors against bodies whose volume, area, box, axes and curvature have closed forms."""

from __future__ import annotations

import math

import numpy as np
import pytest
import trimesh
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from model.domain import Grid
from model.engine.marching_cubes import extract_surface
from model.evaluation.measures.descriptors import bodies_of, describe

Doubles = NDArray[np.float64]
TURN = Rotation.from_euler("xyz", [0.4, -0.9, 1.3]).as_matrix()


def ball(subdivisions: int = 4) -> trimesh.Trimesh:
    return trimesh.creation.icosphere(subdivisions=subdivisions)


def stretched(axes: tuple[float, float, float]) -> trimesh.Trimesh:
    body = ball(5)
    return trimesh.Trimesh(body.vertices * axes @ TURN.T + 0.2, body.faces, process=False)


def test_a_ball_is_as_round_as_can_be() -> None:
    found = describe(bodies_of(ball())[0])
    assert found.volume == pytest.approx(4.0 / 3.0 * math.pi, rel=5e-3)
    assert found.area == pytest.approx(4.0 * math.pi, rel=3e-3)
    for value in (found.sphericity, found.solidity, found.elongation, found.middle_to_long, found.mean_curvature):
        assert value == pytest.approx(1.0, abs=3e-3)
    assert found.curvature_spread < 0.02
    assert found.concave == 0.0


def test_an_ellipsoid_has_the_axes_the_box_and_the_sphericity_it_was_made_with() -> None:
    long, middle, short = 0.8, 0.5, 0.3
    found = describe(bodies_of(stretched((long, middle, short)))[0])
    assert found.elongation == pytest.approx(long / short, rel=2e-3)
    assert found.middle_to_long == pytest.approx(middle / long, rel=2e-3)
    assert found.short_to_long == pytest.approx(short / long, rel=2e-3)
    box = (found.extent_long, found.extent_middle, found.extent_short)
    assert box == pytest.approx((2 * long, 2 * middle, 2 * short), rel=0.015)
    assert found.solidity == pytest.approx(1.0, abs=1e-3)
    # Thomsen's formula for the area is good to 1.1 %.
    area = (
        4
        * math.pi
        * (((long * middle) ** 1.6075 + (long * short) ** 1.6075 + (middle * short) ** 1.6075) / 3) ** (1 / 1.6075)
    )
    assert found.area == pytest.approx(area, rel=0.012)


def test_a_turned_box_keeps_its_sides_and_its_total_mean_curvature() -> None:
    sides = np.array([0.9, 0.6, 0.4])
    box = trimesh.creation.box(extents=sides).subdivide().subdivide().subdivide()
    body = bodies_of(trimesh.Trimesh(box.vertices @ TURN.T, box.faces, process=False))[0]
    found = describe(body)
    assert sorted((found.extent_long, found.extent_middle, found.extent_short)) == pytest.approx(
        sorted(sides), rel=2e-3
    )
    radius = (3.0 * sides.prod() / (4.0 * math.pi)) ** (1 / 3)
    area = 2.0 * (sides[0] * sides[1] + sides[1] * sides[2] + sides[0] * sides[2])
    assert found.mean_curvature == pytest.approx(math.pi * sides.sum() / area * radius, rel=1e-6)
    assert found.concave == 0.0


def test_the_inner_half_of_a_thick_ring_is_where_mean_curvature_is_least() -> None:
    ring, tube = 0.6, 0.15
    body = bodies_of(trimesh.creation.torus(ring, tube, major_sections=96, minor_sections=48))[0]
    found = describe(body)
    assert found.volume == pytest.approx(2.0 * math.pi**2 * ring * tube**2, rel=5e-3)
    assert found.area == pytest.approx(4.0 * math.pi**2 * ring * tube, rel=3e-3)
    # The integral of the mean curvature over a torus is 2 π² R.
    radius = (3.0 * found.volume / (4.0 * math.pi)) ** (1 / 3)
    assert found.mean_curvature == pytest.approx(2.0 * math.pi**2 * ring / found.area * radius, rel=3e-3)
    hull = math.pi * tube * (2.0 * ring**2 + math.pi * ring * tube + 4.0 / 3.0 * tube**2)
    assert found.solidity == pytest.approx(found.volume / hull, rel=0.01)


def test_a_saddle_between_two_balls_is_concave() -> None:
    grid = Grid((48, 48, 48))
    points = grid.points().astype(np.float64)
    one, two = (np.linalg.norm(points - [x, 0.0, 0.0], axis=1) - 0.4 for x in (-0.32, 0.32))
    h = np.maximum(0.3 - np.abs(one - two), 0.0) / 0.3
    field = (np.minimum(one, two) - h**3 * 0.3 / 6.0).astype(np.float32).reshape(grid.shape)
    found = describe(bodies_of(extract_surface(field, grid))[0])
    assert 0.01 < found.concave < 0.4
    assert found.solidity < 0.99


def test_descriptors_without_a_unit_do_not_depend_on_place_turn_and_scale() -> None:
    first = stretched((0.7, 0.5, 0.4))
    moved = trimesh.Trimesh((first.vertices @ TURN.T) * 12.5 + [3.0, -7.0, 1.0], first.faces, process=False)
    one, two = (describe(bodies_of(body)[0]) for body in (first, moved))
    assert two.volume == pytest.approx(one.volume * 12.5**3, rel=1e-9)
    assert two.area == pytest.approx(one.area * 12.5**2, rel=1e-9)
    for name in ("sphericity", "solidity", "elongation", "mean_curvature", "curvature_spread"):
        assert getattr(two, name) == pytest.approx(getattr(one, name), rel=1e-6)


def test_bodies_are_told_apart_and_fragments_and_cavities_left_out() -> None:
    large, small, fragment = ball(3), ball(3), ball(2)
    small.apply_scale(0.5)
    small.apply_translation([3.0, 0.0, 0.0])
    fragment.apply_scale(0.1)
    fragment.apply_translation([-3.0, 0.0, 0.0])
    cavity = ball(2)
    cavity.apply_scale(0.3)
    cavity.invert()
    found = bodies_of(trimesh.util.concatenate([small, cavity, large, fragment]))
    assert [round(body.volume / found[0].volume, 3) for body in found] == [1.0, 0.125]
    assert found[1].centroid == pytest.approx([3.0, 0.0, 0.0], abs=1e-6)
