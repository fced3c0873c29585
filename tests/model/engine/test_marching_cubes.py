"""Promises of model.engine.marching_cubes."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import shapes
import trimesh
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from model.domain import Field, Grid
from model.engine.marching_cubes import Surface, extract_surface
from model.engine.sparse import evaluate_dense
from model.errors import EmptySurfaceError, InvalidFieldError

CUBE = Grid((64, 64, 64))


def surface_of(shape: shapes.Shape, grid: Grid = CUBE) -> Surface:
    return extract_surface(evaluate_dense(shape, grid), grid)


KNOWN = {
    "sphere": shapes.sphere(),
    "torus": shapes.torus(),
    "capsule": shapes.capsule((-0.4, -0.3, 0.1), (0.4, 0.3, -0.2), 0.25),
    "two spheres": shapes.union(shapes.sphere(0.3, centre=(-0.5, 0, 0)), shapes.sphere(0.4, centre=(0.4, 0.1, 0))),
}


@pytest.mark.parametrize("name", KNOWN)
def test_volume_and_area_are_within_one_percent_and_topology_is_exact(name: str) -> None:
    shape, grid = KNOWN[name], Grid((96, 96, 96))
    surface = surface_of(shape, grid)
    assert surface.volume == pytest.approx(shape.volume, rel=0.01)
    assert surface.area == pytest.approx(shape.area, rel=0.01)
    assert surface.euler_number == shape.euler_number
    assert surface.components()[0] == shape.components
    assert surface.is_watertight


@pytest.mark.parametrize("name", ["sphere", "torus"])
def test_the_error_of_the_volume_falls_as_the_square_of_the_step(name: str) -> None:
    shape = KNOWN[name]
    errors = [abs(surface_of(shape, Grid((n, n, n))).volume / shape.volume - 1) for n in (25, 49, 97)]
    orders = [math.log2(a / b) for a, b in itertools.pairwise(errors)]
    assert orders == pytest.approx([2.0, 2.0], abs=0.15)


@pytest.mark.parametrize("shape", [(40, 70, 55), (64, 33, 90)])
def test_axes_are_not_mixed_on_grids_that_are_not_cubic(shape: tuple[int, int, int]) -> None:
    cell = shapes.box((0.7, 0.5, 0.3))
    vertices = surface_of(cell, Grid(shape)).vertices
    assert np.abs(vertices).max(axis=0) == pytest.approx([0.7, 0.5, 0.3], abs=0.02)


def test_vertices_lie_on_the_zero_level_set() -> None:
    surface = surface_of(KNOWN["sphere"])
    assert np.abs(KNOWN["sphere"](surface.vertices)).max() < 0.02 * CUBE.step[0]


def test_a_level_moves_the_surface_along_its_normal() -> None:
    field = evaluate_dense(shapes.sphere(0.5), CUBE)
    smaller = extract_surface(field, CUBE, level=-0.2)
    assert smaller.volume == pytest.approx(shapes.sphere(0.3).volume, rel=0.02)


noise = st.builds(
    lambda shape, seed, kind: _noise(shape, seed, kind),
    st.tuples(*[st.integers(2, 7)] * 3),
    st.integers(0, 2**32 - 1),
    st.sampled_from(["normal", "signs", "tiny", "zeros", "steep"]),
)


def _noise(shape: tuple[int, int, int], seed: int, kind: str) -> Field:
    rng = np.random.default_rng(seed)
    values = {
        "normal": lambda: rng.standard_normal(shape),
        "signs": lambda: rng.choice([-1.0, 1.0], size=shape),
        "tiny": lambda: rng.choice([-1.0, -1e-30, 1e-30, 1.0], size=shape),
        "zeros": lambda: rng.choice([-1.0, 0.0, 1.0], size=shape),
        "steep": lambda: rng.choice([-1e30, -1e-9, 1e-9, 1e30], size=shape),
    }[kind]()
    values.flat[rng.integers(values.size)] = -1.0
    return values.astype(np.float32)


@settings(max_examples=250, deadline=None)
@given(noise)
def test_any_field_gives_a_closed_outward_surface_without_coinciding_vertices(field: Field) -> None:
    grid = Grid(field.shape)
    surface = extract_surface(field, grid)
    assert surface.is_watertight
    assert surface.volume > 0
    assert (np.abs(surface.vertices) <= 1.0 + 1e-3 * grid.step).all()
    assert len(np.unique(surface.vertices, axis=0)) == len(surface.vertices)
    assert len(np.unique(surface.faces)) == len(surface.vertices)


@settings(max_examples=200, deadline=None)
@given(noise)
def test_sheets_are_the_borders_between_bodies_and_cavities_exactly(field: Field) -> None:
    inside = np.pad(field < 0, 1)
    bodies = ndimage.label(inside, structure=ndimage.generate_binary_structure(3, 2))[1]
    outside = ndimage.label(~inside, structure=ndimage.generate_binary_structure(3, 1))[1]
    assert extract_surface(field, Grid(field.shape)).components()[0] == bodies + outside - 1


def test_a_cell_cut_by_the_border_of_omega_is_closed_by_a_flat_cap() -> None:
    half = shapes.sphere(0.5, centre=(1.0, 0.0, 0.0))
    surface = surface_of(half, Grid((49, 49, 49)))
    assert surface.is_watertight
    assert surface.euler_number == 2
    assert surface.volume == pytest.approx(half.volume / 2, rel=0.01)
    assert surface.area == pytest.approx(half.area / 2 + math.pi * 0.5**2, rel=0.01)
    assert surface.vertices[:, 0].max() == pytest.approx(1.0, abs=1e-3 / 24)


def test_a_cell_that_fills_omega_is_a_box() -> None:
    surface = extract_surface(np.full((9, 9, 9), -1.0, dtype=np.float32), Grid((9, 9, 9)))
    assert surface.is_watertight
    assert surface.volume == pytest.approx(8.0, rel=1e-3)


def test_samples_exactly_on_the_membrane_make_no_degenerate_triangles() -> None:
    surface = surface_of(shapes.box((0.5, 0.5, 0.5)), Grid((17, 17, 17)))
    assert surface.is_watertight
    assert len(np.unique(surface.vertices, axis=0)) == len(surface.vertices)
    corner = surface.vertices[surface.faces].astype(np.float64)
    assert np.linalg.norm(np.cross(corner[:, 1] - corner[:, 0], corner[:, 2] - corner[:, 0]), axis=1).min() > 0


def test_pushing_samples_off_the_membrane_moves_vertices_less_than_a_thousandth_of_a_step() -> None:
    grid = Grid((17, 17, 17))
    plane = np.broadcast_to(grid.axes()[0][:, None, None], grid.shape).astype(np.float32)  # zero on the middle samples
    vertices = extract_surface(plane, grid).vertices
    middle = vertices[np.abs(vertices[:, 0]) < 0.5 * grid.step[0]]
    assert len(middle) == 17 * 17
    assert np.abs(middle[:, 0]).max() <= 1.001e-3 * grid.step[0]


def test_trimesh_agrees_on_watertightness_volume_area_and_topology() -> None:
    surface = surface_of(shapes.filopodia_cell(0.0))
    mesh = trimesh.Trimesh(surface.vertices, surface.faces, process=False)
    assert mesh.is_watertight
    assert mesh.is_winding_consistent
    assert mesh.volume == pytest.approx(surface.volume, rel=1e-6)
    assert mesh.area == pytest.approx(surface.area, rel=1e-6)
    assert mesh.euler_number == surface.euler_number


def test_a_hole_and_a_flipped_triangle_are_noticed() -> None:
    whole = surface_of(shapes.sphere(), Grid((12, 12, 12)))
    assert not Surface(vertices=whole.vertices, faces=whole.faces[1:]).is_watertight
    flipped = whole.faces.copy()
    flipped[0] = flipped[0, ::-1]
    assert not Surface(vertices=whole.vertices, faces=flipped).is_watertight
    assert Surface(vertices=whole.vertices, faces=whole.faces[:, ::-1]).volume < 0


def test_a_field_without_inside_is_refused() -> None:
    with pytest.raises(EmptySurfaceError):
        extract_surface(np.ones((8, 8, 8), dtype=np.float32), Grid((8, 8, 8)))


@pytest.mark.parametrize("poison", [np.nan, np.inf])
def test_a_field_that_is_not_finite_is_refused(poison: float) -> None:
    field = evaluate_dense(shapes.sphere(), Grid((8, 8, 8)))
    field[3, 3, 3] = poison
    with pytest.raises(InvalidFieldError):
        extract_surface(field, Grid((8, 8, 8)))


def test_a_field_of_another_grid_is_refused() -> None:
    with pytest.raises(InvalidFieldError, match="does not belong"):
        extract_surface(np.ones((8, 8, 8), dtype=np.float32), Grid((8, 8, 9)))
