"""The baseline of spherical harmonics against smooth star-shaped bodies."""

from __future__ import annotations

import math

import numpy as np
import pytest
import trimesh

from model.evaluation.measures.descriptors import bodies_of
from model.evaluation.measures.harmonics import draw_rows, harmonics_at, own_axes, radial_coefficients, star_surface


def test_harmonics_are_orthonormal_over_the_sphere() -> None:
    heights, weights = np.polynomial.legendre.leggauss(12)  # exact for products of these
    turns = 2.0 * math.pi * np.arange(24) / 24
    across = np.sqrt(1.0 - heights**2)[:, None]
    directions = np.stack(
        [across * np.cos(turns), across * np.sin(turns), np.broadcast_to(heights[:, None], (12, 24))], axis=-1
    ).reshape(-1, 3)
    basis = harmonics_at(directions, degree=4)
    gram = basis.T @ (np.repeat(weights, 24)[:, None] * (2.0 * math.pi / 24) * basis)
    assert gram == pytest.approx(np.eye(25), abs=1e-12)


def test_a_smooth_body_comes_back() -> None:
    sphere = trimesh.creation.icosphere(subdivisions=5)
    x, y, z = np.asarray(sphere.vertices).T
    radii = 5.0 * (1.0 + 0.2 * x + 0.15 * (y * y - z * z) + 0.1 * x * y * z)
    body = trimesh.Trimesh(sphere.vertices * radii[:, None], sphere.faces, process=False)
    coefficients = radial_coefficients(body, np.zeros(3), np.eye(3))
    found = bodies_of(star_surface(coefficients))[0]
    assert found.volume == pytest.approx(body.volume, rel=0.01)
    away = np.linalg.norm(found.vertices, axis=1)
    u = found.vertices / away[:, None]
    truth = 5.0 * (1.0 + 0.2 * u[:, 0] + 0.15 * (u[:, 1] ** 2 - u[:, 2] ** 2) + 0.1 * u.prod(axis=1))
    assert np.abs(away / truth - 1.0).max() < 0.02


def test_own_axes_turn_with_the_body() -> None:
    sphere = trimesh.creation.icosphere(subdivisions=4)
    x, y, _ = np.asarray(sphere.vertices).T
    body = trimesh.Trimesh(
        sphere.vertices * (2.0 + x + 0.3 * y)[:, None] * [1.0, 0.7, 0.4], sphere.faces, process=False
    )
    turn = trimesh.transformations.rotation_matrix(1.1, [0.3, -0.5, 0.8])[:3, :3]
    turned = trimesh.Trimesh(body.vertices @ turn.T, body.faces, process=False)
    axes, after = own_axes(body, np.zeros(3)), own_axes(turned, np.zeros(3))
    assert after == pytest.approx(axes @ turn.T, abs=1e-9)
    assert np.linalg.det(axes) == pytest.approx(1.0)


def test_drawn_rows_have_the_mean_and_the_covariance_of_the_rows() -> None:
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((40, 6)) @ rng.standard_normal((6, 6)) + 3.0
    drawn = draw_rows(rows, 20_000, rng)
    assert drawn.mean(axis=0) == pytest.approx(rows.mean(axis=0), abs=0.1)
    assert np.cov(drawn.T) == pytest.approx(np.cov(rows.T), abs=0.35)
    few = draw_rows(rows[:3], 50, rng)
    assert np.linalg.matrix_rank(few - rows[:3].mean(axis=0), tol=1e-8) == 2
