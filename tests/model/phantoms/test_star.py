"""Star-shaped bodies: their harmonics, and the gradient and level they claim."""

import numpy as np
import pytest

from model.phantoms.star import degrees_of, log_radii, sphere, star_levels


def gradient(function, points, step):
    shifts = np.eye(3) * step
    return np.stack([(function(points + s) - function(points - s)) / (2.0 * step) for s in shifts], axis=1)


@pytest.mark.parametrize("degree", [5, 6])
def test_the_log_radius_has_the_gradient_it_claims(degree: int) -> None:
    rng = np.random.default_rng(3)
    directions = rng.standard_normal((50, 3))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    inverse, harmonics = np.array([0.7, 1.1, 1.6]), 0.1 * rng.standard_normal((degree + 1) ** 2)
    gradients = log_radii(directions, inverse, harmonics)[1]

    def along_the_sphere(points):
        return log_radii(points / np.linalg.norm(points, axis=1, keepdims=True), inverse, harmonics)[0]

    assert np.abs(gradient(along_the_sphere, directions, 1e-6) - gradients).max() < 1e-8


def test_harmonics_are_orthonormal_over_the_sphere() -> None:
    directions, one = sphere(4000), np.ones(3)
    values = np.stack([log_radii(directions, one, row)[0] for row in np.eye(49)])
    assert np.abs(values @ values.T / len(directions) - np.eye(49)).max() < 0.01


def test_a_harmonic_has_the_degree_of_its_place() -> None:
    """The Laplacian on the sphere multiplies a harmonic of degree n by -n (n + 1); here from differences."""
    degrees = degrees_of(6)
    assert degrees.tolist() == [n for n in range(7) for _ in range(2 * n + 1)]
    directions, one, step = sphere(400), np.ones(3), 1e-3
    helper = np.where(np.abs(directions[:, :1]) < 0.9, [[1.0, 0.0, 0.0]], [[0.0, 1.0, 0.0]])
    first = np.cross(directions, helper)
    first /= np.linalg.norm(first, axis=1, keepdims=True)
    second = np.cross(directions, first)
    for place, row in enumerate(np.eye(49)):
        middle = log_radii(directions, one, row)[0]
        curved = np.zeros(len(directions))
        for along in (first, second):
            for sign in (-1.0, 1.0):
                moved = np.cos(step) * directions + sign * np.sin(step) * along
                curved += (log_radii(moved, one, row)[0] - middle) / step**2
        degree = int(degrees[place])
        assert np.allclose(curved, -degree * (degree + 1) * middle, atol=1e-3 * max(1, degree) ** 4)


def test_the_level_is_zero_on_the_membrane_and_about_a_distance_beside_it() -> None:
    rng = np.random.default_rng(5)
    centre, inverse, harmonics = np.array([0.05, -0.02, 0.03]), np.array([0.8, 1.0, 1.3]), np.zeros(36)
    harmonics[0], harmonics[1:] = -0.8, 0.03 * rng.standard_normal(35)
    directions = sphere(2000)
    membrane = centre + np.exp(log_radii(directions, inverse, harmonics)[0])[:, None] * directions

    def level(points):
        return star_levels(points, centre, inverse, harmonics)

    assert np.abs(level(membrane)).max() < 1e-12
    slopes = np.linalg.norm(gradient(level, membrane, 1e-6), axis=1)
    assert np.abs(slopes - 1.0).max() < 1e-4
