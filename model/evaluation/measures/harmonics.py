"""Spherical harmonics with principal components: the baseline that a learned model must beat.

A frame is represented by the radius in each direction from its centroid, expanded in real spherical harmonics. A
sequence is the row of its frames' coefficients, in the cell's own axes. New sequences are drawn from a Gaussian over
the principal components. Cells that divide, fold or have filopodia cannot be represented.

Promises: smooth star-shaped bodies are reproduced; the same generator gives the same sequences.
Does not promise: any other shape.

References: Brechbühler, Gerig and Kübler 1995, doi:10.1006/cviu.1995.1013; Ruan and Murphy 2019,
doi:10.1093/bioinformatics/bty983.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache

import numpy as np
import trimesh
from numpy.typing import NDArray
from scipy.special import sph_harm_y

from model.evaluation.measures.descriptors import Triangles

Doubles = NDArray[np.float64]

DEGREE = 8  # highest degree of the spherical harmonics
PLACES = 1600  # points of a membrane, spread evenly by area, at which its radius is measured
RIDGE = 1e-3  # regularisation of the least squares, relative to the mean of the diagonal
LEAST = 0.05  # least radius of a drawn surface, relative to its mean radius


@dataclass(frozen=True)
class StarSurface:
    """A surface that is one radius in each direction."""

    vertices: Doubles
    faces: NDArray[np.int64]


def harmonics_at(directions: Doubles, *, degree: int = DEGREE) -> Doubles:
    """Values of the real spherical harmonics in unit directions (n, 3): (n, (degree + 1)²)."""
    polar, around = np.arccos(np.clip(directions[:, 2], -1.0, 1.0)), np.arctan2(directions[:, 1], directions[:, 0])
    columns = []
    for n in range(degree + 1):
        for m in range(-n, n + 1):
            value = sph_harm_y(n, abs(m), polar, around)
            columns.append(value.real if m == 0 else math.sqrt(2.0) * (value.imag if m < 0 else value.real))
    return np.stack(columns, axis=1)


def radial_coefficients(surface: Triangles, centre: Doubles, axes: Doubles, *, degree: int = DEGREE) -> Doubles:
    """Fit the radius from a centre by spherical harmonics.

    Parameters
    ----------
    surface
        Any; where a direction meets it several times, the fit goes between.
    centre
        (3,).
    axes
        (3, 3) rows: the frame in which directions are told.
    degree
        Of the harmonics.

    Returns
    -------
    Doubles
        ((degree + 1)²,), in the unit of the vertices.
    """
    vertices, faces = np.asarray(surface.vertices, dtype=np.float64), np.asarray(surface.faces)
    a, b, c = np.moveaxis(vertices[faces], 1, 0)
    areas = np.linalg.norm(np.cross(b - a, c - a), axis=1)
    strata = (np.arange(PLACES) + 0.5) / PLACES * areas.sum()
    chosen = np.searchsorted(np.cumsum(areas), strata).clip(max=len(areas) - 1)
    middle = ((a + b + c)[chosen] / 3.0 - centre) @ axes.T
    radii = np.maximum(np.linalg.norm(middle, axis=1), 1e-12)
    weights = (radii.mean() / radii) ** 2  # about the solid angle that each place stands for
    basis = harmonics_at(middle / radii[:, None], degree=degree)
    normal = basis.T @ (weights[:, None] * basis)
    normal += RIDGE * np.trace(normal) / len(normal) * np.eye(len(normal))
    return np.asarray(np.linalg.solve(normal, basis.T @ (weights * radii)))


def own_axes(surface: Triangles, centre: Doubles) -> Doubles:
    """Axes (3, 3) of a surface's own frame, rows, right-handed: the longest first, pointing to the heavier tail."""
    places = np.asarray(surface.vertices, dtype=np.float64) - centre
    _, vectors = np.linalg.eigh(places.T @ places)
    axes = vectors.T[::-1].copy()
    for row in axes[:2]:
        row *= -1.0 if ((places @ row) ** 3).sum() < 0.0 else 1.0
    axes[2] = np.cross(axes[0], axes[1])
    return axes


def star_surface(coefficients: Doubles) -> StarSurface:
    """Return the surface ((degree + 1)²,) coefficients describe, about the origin."""
    degree = math.isqrt(len(coefficients)) - 1
    directions, faces, basis = _sphere(degree)
    radii = basis @ coefficients
    return StarSurface(directions * np.maximum(radii, LEAST * abs(radii.mean()))[:, None], faces)


@cache
def _sphere(degree: int) -> tuple[Doubles, NDArray[np.int64], Doubles]:
    sphere = trimesh.creation.icosphere(subdivisions=4)
    directions = np.asarray(sphere.vertices, dtype=np.float64)
    directions = directions / np.linalg.norm(directions, axis=1, keepdims=True)
    return directions, np.asarray(sphere.faces, dtype=np.int64), harmonics_at(directions, degree=degree)


def draw_rows(rows: Doubles, count: int, rng: np.random.Generator) -> Doubles:
    """Draw new rows (count, k) from the Gaussian over the principal components of rows (s, k)."""
    mean = rows.mean(axis=0)
    _, singular, axes = np.linalg.svd(rows - mean, full_matrices=False)
    rank = max(1, min(len(rows) - 1, len(singular)))
    scores = rng.standard_normal((count, rank)) * singular[:rank] / math.sqrt(max(len(rows) - 1, 1))
    return np.asarray(mean + scores @ axes[:rank])
