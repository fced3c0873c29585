"""What ShapeFrame promises: exact signed distances, against shapes whose distance has a closed form."""

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from model.phantoms.implicit_distance import ShapeFrame

Doubles = NDArray[np.float64]
Implicit = Callable[[Doubles], Doubles]

RNG = np.random.default_rng(7)
POINTS = RNG.uniform(-1.0, 1.0, (3000, 3)).astype(np.float32)
VOXEL = 2.0 / 128.0


def sphere(points: Doubles) -> Doubles:
    return np.asarray(np.linalg.norm(points - [0.05, 0.02, -0.03], axis=1) - 0.5)


def capsule(points: Doubles) -> Doubles:
    start, along = np.array([-0.5, -0.2, 0.1]), np.array([0.9, 0.5, -0.2])
    place = np.clip((points - start) @ along / (along @ along), 0.0, 1.0)
    return np.asarray(np.linalg.norm(points - start - place[:, None] * along, axis=1) - 0.2)


def rod(points: Doubles) -> Doubles:
    """As thin as a filopodium: 3 voxels across at 64³."""
    place = np.clip(points[:, 0], -0.6, 0.6)
    return np.asarray(np.hypot(points[:, 0] - place, np.hypot(points[:, 1], points[:, 2])) - 0.05)


def filleted(*, fillet: float, apart: float, first: float = 0.4, second: float = 0.3) -> Implicit:
    """Two spheres on the z axis joined by a fillet torus; the closed form, written apart from the phantom's."""
    a, b = first + fillet, second + fillet
    along = (a * a - b * b + apart * apart) / (2.0 * apart)
    height = np.sqrt(a * a - along * along)
    z1 = -apart / 2.0

    def distance(points: Doubles) -> Doubles:
        z, rho = points[:, 2] - z1, np.hypot(points[:, 0], points[:, 1])
        spheres = np.minimum(np.hypot(z, rho) - first, np.hypot(z - apart, rho) - second)
        inside = (rho * along <= height * z) & (rho * (apart - along) <= height * (apart - z))
        return np.asarray(np.where(inside, fillet - np.hypot(z - along, rho - height), spheres))

    return distance


CLOSED_FORMS = {
    "sphere": sphere,
    "capsule": capsule,
    "rod": rod,
    "necked": filleted(fillet=0.15, apart=0.72),  # neck 0.076
    "parted": filleted(fillet=0.12, apart=0.90),  # the ring is smaller than the fillet: two drops
}


@pytest.fixture(scope="module", params=sorted(CLOSED_FORMS))
def case(request: pytest.FixtureRequest) -> tuple[str, ShapeFrame, Implicit]:
    exact = CLOSED_FORMS[request.param]
    return request.param, ShapeFrame(exact), exact


def distort(exact: Implicit) -> Implicit:
    """Return a function of the same sign and zero set that is no distance."""
    return lambda p: exact(p) * (1.0 + 0.4 * np.sin(4.0 * p[:, 0] + 2.0 * p[:, 1]))


def test_distance_is_the_closed_form_everywhere(case: tuple[str, ShapeFrame, Implicit]) -> None:
    name, shape, exact = case
    error = np.abs(shape(POINTS) - exact(POINTS.astype(np.float64)))
    assert np.median(error) < 1e-5
    assert np.quantile(error, 0.99) < (5e-4 if name == "rod" else 1e-4)  # a rod's radius is 2.4 cells of the grid
    assert error.max() < (1e-2 if name == "parted" else 1e-3)  # drops end in cones, whose last cell is cut off


def test_sign_is_that_of_the_implicit_function_at_every_point(case: tuple[str, ShapeFrame, Implicit]) -> None:
    _, shape, exact = case
    outside = exact(POINTS.astype(np.float64)) > 0.0
    assert np.array_equal(shape(POINTS) > 0.0, outside)
    assert np.array_equal(shape.contains(POINTS), ~outside)


def test_gradient_is_a_unit_vector_in_the_band(case: tuple[str, ShapeFrame, Implicit]) -> None:
    _, shape, _ = case
    surface = shape.surface_points[:2000]
    band = (surface + np.random.default_rng(1).normal(0.0, 0.05, surface.shape)).astype(np.float32)
    band = band[np.abs(shape(band)) < 0.15]
    step = np.float32(2e-3)
    slopes = []
    for axis in range(3):
        shift = np.zeros(3, dtype=np.float32)
        shift[axis] = step
        slopes.append((shape(band + shift) - shape(band - shift)) / (2.0 * step))
    lengths = np.linalg.norm(slopes, axis=0)
    # The rest lies within a step of the medial axis, which a rod of radius 0.05 has in its own band.
    assert (np.abs(lengths - 1.0) < 0.02).mean() > 0.98
    assert np.median(np.abs(lengths - 1.0)) < 2e-4  # eikonal violation


def test_surface_points_lie_on_the_zero_set_and_cover_it(case: tuple[str, ShapeFrame, Implicit]) -> None:
    name, shape, exact = case
    error = np.abs(exact(shape.surface_points.astype(np.float64)))
    assert np.quantile(error, 0.99) < 2e-4
    assert name == "parted" or error.max() < 0.1 * VOXEL
    # Every foot of a far point has a sample near: holes would show as distances too large.
    spacing = np.sqrt(shape.area / len(shape.surface_points))
    nearest, _ = cKDTree(shape.surface_points).query(POINTS)
    far = np.abs(exact(POINTS.astype(np.float64)))
    assert (nearest >= far - 1e-3).all()
    assert (nearest <= np.hypot(far, 3.0 * spacing) + 1e-3).all()


@pytest.mark.parametrize("name", ["sphere", "capsule", "necked"])
def test_a_function_that_is_no_distance_gives_the_same_distances(name: str) -> None:
    exact = CLOSED_FORMS[name]
    found = ShapeFrame(distort(exact))(POINTS)
    assert np.abs(found - exact(POINTS.astype(np.float64))).max() < 1e-3


def test_error_falls_with_the_third_power_of_the_step_or_faster() -> None:
    errors = [np.abs(ShapeFrame(sphere, resolution=n)(POINTS) - sphere(POINTS.astype(np.float64))) for n in (24, 48)]
    assert errors[1].mean() < errors[0].mean() / 8.0


def test_distances_equal_brute_force_for_a_blend_without_closed_form() -> None:
    def blend(points: Doubles) -> Doubles:
        other = np.linalg.norm(points - [0.3, 0.25, 0.1], axis=1) - 0.35
        return np.asarray(-np.log(np.exp(-12.0 * sphere(points)) + np.exp(-12.0 * other)) / 12.0)

    shape = ShapeFrame(blend)
    dense = ShapeFrame(blend, resolution=160)
    # Vertices of a mesh twice as fine are points of the surface: never nearer than the distance, hardly farther.
    nearest, _ = cKDTree(dense.surface_points).query(POINTS)
    found = np.abs(shape(POINTS))
    spacing = np.sqrt(dense.area / len(dense.surface_points))
    assert (found <= nearest + 2e-4).all()
    assert (nearest <= np.hypot(found, 3.0 * spacing) + 1e-3).all()
    assert np.abs(shape(POINTS) - dense(POINTS)).max() < 1e-3


def test_volume_and_area_are_those_of_the_formulas() -> None:
    ball = ShapeFrame(sphere)
    assert ball.volume == pytest.approx(4.0 / 3.0 * np.pi * 0.5**3, rel=1e-5)
    assert ball.area == pytest.approx(4.0 * np.pi * 0.5**2, rel=1e-3)
    length = np.linalg.norm([0.9, 0.5, -0.2])
    assert ShapeFrame(capsule).volume == pytest.approx(np.pi * 0.04 * length + 4.0 / 3.0 * np.pi * 0.008, rel=1e-4)


def test_points_and_distances_are_float32_and_calls_repeat() -> None:
    shape = ShapeFrame(sphere, resolution=48, components=1)
    assert shape(POINTS).dtype == np.float32
    assert shape.surface_points.dtype == np.float32
    assert shape.components == 1
    assert np.array_equal(shape(POINTS), ShapeFrame(sphere, resolution=48)(POINTS))
    assert np.array_equal(shape(POINTS[:50]), shape(POINTS)[:50])


def test_a_shape_that_is_empty_or_a_grid_that_does_not_divide_is_refused() -> None:
    with pytest.raises(ValueError, match="nothing is inside"):
        ShapeFrame(lambda p: np.ones(len(p)))
    with pytest.raises(ValueError, match="multiple of 4"):
        ShapeFrame(sphere, resolution=30)
