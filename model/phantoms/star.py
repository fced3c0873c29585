"""Star-shaped bodies: an ellipsoid whose log radius also carries real spherical harmonics, all of it moving in time.

Promises: at every time a body has the volume prescribed, by quadrature over 600 directions; its level is about
a distance near the membrane, and its gradient along the sphere is exact; motion has two continuous derivatives.
Does not promise: a distance; :class:`~model.phantoms.implicit_distance.ShapeFrame` makes one of it.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from model.engine.jit import compiled
from model.phantoms.wandering import spline, unit

__all__ = ["StarBody", "StarPose", "degrees_of", "log_radii", "log_semi_axes", "sphere", "star_levels"]

Doubles = NDArray[np.float64]

HIGHEST = 8  # degree of the harmonics that a body may carry; compiled code does not check it

# Factors that give real spherical harmonics the mean square 1 over the sphere, [degree, order].
NORMS = np.zeros((HIGHEST + 1, HIGHEST + 1))
for _n in range(HIGHEST + 1):
    for _m in range(_n + 1):
        _ratio = math.factorial(_n - _m) / math.factorial(_n + _m)
        NORMS[_n, _m] = math.sqrt((1 if _m == 0 else 2) * (2 * _n + 1) * _ratio)


def degrees_of(degree: int) -> NDArray[np.int64]:
    """Return the degree n of the harmonic at each place n² + n + m: ((degree + 1)²,)."""
    return np.repeat(np.arange(degree + 1), 2 * np.arange(degree + 1) + 1)


@compiled
def log_radii(directions: Doubles, inverse: Doubles, harmonics: Doubles) -> tuple[Doubles, Doubles]:
    """Return the log radius (n,) of the body in unit directions (n, 3), and its gradient along the sphere (n, 3).

    An ellipsoid with inverse squared semi-axes (3,), times the exponential of a sum of real spherical harmonics; that
    of degree n and order m, cosine for m ≥ 0, has place n² + n + m in ``harmonics``, ((degree + 1)²,). A harmonic is
    the m-th derivative of a Legendre polynomial in z times the real or imaginary part of (x + iy)^m: its gradient is
    exact.
    """
    degree = int(np.sqrt(len(harmonics))) - 1
    values = np.empty(len(directions))
    gradients = np.empty((len(directions), 3))
    legendre = np.zeros((degree + 2, degree + 3))  # [n, m]: m-th derivative of the n-th polynomial
    for i in range(len(directions)):
        x, y, z = directions[i, 0], directions[i, 1], directions[i, 2]
        squared = x * x * inverse[0] + y * y * inverse[1] + z * z * inverse[2]
        value = -0.5 * np.log(squared)
        gx, gy, gz = -x * inverse[0] / squared, -y * inverse[1] / squared, -z * inverse[2] / squared
        legendre[0, 0] = 1.0
        for m in range(degree + 1):
            legendre[m + 1, m] = (2 * m + 1) * z * legendre[m, m]
            legendre[m + 1, m + 1] = (2 * m + 1) * legendre[m, m]
            for n in range(m + 2, degree + 1):
                upper, lower = (2 * n - 1) * z * legendre[n - 1, m], (n + m - 1) * legendre[n - 2, m]
                legendre[n, m] = (upper - lower) / (n - m)
        a, b, a_before, b_before = 1.0, 0.0, 0.0, 0.0
        for m in range(degree + 1):
            for n in range(m, degree + 1):
                cosine = NORMS[n, m] * harmonics[n * n + n + m]
                sine = NORMS[n, m] * harmonics[n * n + n - m] if m > 0 else 0.0
                value += (cosine * a + sine * b) * legendre[n, m]
                gz += (cosine * a + sine * b) * legendre[n, m + 1]
                gx += m * (cosine * a_before + sine * b_before) * legendre[n, m]
                gy += m * (sine * a_before - cosine * b_before) * legendre[n, m]
            a_before, b_before = a, b
            a, b = x * a_before - y * b_before, x * b_before + y * a_before
        radial = gx * x + gy * y + gz * z
        values[i] = value
        gradients[i, 0], gradients[i, 1], gradients[i, 2] = gx - radial * x, gy - radial * y, gz - radial * z
    return values, gradients


@compiled
def star_levels(points: Doubles, centre: Doubles, inverse: Doubles, harmonics: Doubles) -> Doubles:
    """Return the level of the body at points (n, 3): ρ - r(u) over the length of its gradient, about a distance."""
    directions = np.empty_like(points)
    distances = np.empty(len(points))
    for i in range(len(points)):
        x, y, z = points[i, 0] - centre[0], points[i, 1] - centre[1], points[i, 2] - centre[2]
        distance = max(np.sqrt(x * x + y * y + z * z), 1e-9)
        distances[i] = distance
        directions[i, 0], directions[i, 1], directions[i, 2] = x / distance, y / distance, z / distance
    values, gradients = log_radii(directions, inverse, harmonics)
    for i in range(len(points)):
        radius = np.exp(values[i])
        slope = np.sqrt(gradients[i, 0] ** 2 + gradients[i, 1] ** 2 + gradients[i, 2] ** 2)
        slope *= radius / max(distances[i], 0.5 * radius)
        distances[i] = (distances[i] - radius) / np.sqrt(1.0 + slope * slope)
    return distances


@compiled
def _levels_over_time(points: Doubles, centre: Doubles, inverse: Doubles, harmonics: Doubles) -> Doubles:
    """Return the levels (T, n) of the body at points (T, n, 3), by :func:`star_levels` at each of its T times."""
    levels = np.empty(points.shape[:2])
    for k in range(len(points)):
        levels[k] = star_levels(points[k], centre[k], inverse[k], harmonics[k])
    return levels


def log_semi_axes(stretch: float, flatness: float) -> Doubles:
    """Return the logarithms of semi-axes of product 1, longest along x.

    ``stretch`` is the log ratio of the longest to the mean of the others, ``flatness`` that between these two.
    """
    return np.array([2.0 * stretch / 3.0, flatness / 2.0 - stretch / 3.0, -flatness / 2.0 - stretch / 3.0])


def sphere(count: int) -> Doubles:
    """Return directions (count, 3) spread evenly over the sphere, on a Fibonacci spiral."""
    z = 1.0 - (2.0 * np.arange(count) + 1.0) / count
    angle = np.arange(count) * math.pi * (3.0 - math.sqrt(5.0))
    across = np.sqrt(1.0 - z * z)
    return np.stack([across * np.cos(angle), across * np.sin(angle), z], axis=1)


SPHERE = sphere(600)


@dataclass(frozen=True, eq=False)
class StarPose:
    """The body at T times, in the frame of the cell."""

    centre: Doubles  # (T, 3)
    inverse: Doubles  # (T, 3), inverse squared semi-axes
    harmonics: Doubles  # (T, (degree + 1)²)

    def some(self, chosen: slice) -> "StarPose":
        """Return the body at some of its times."""
        return StarPose(self.centre[chosen], self.inverse[chosen], self.harmonics[chosen])

    def membrane(self, direction: Doubles) -> tuple[Doubles, Doubles]:
        """Return the point of the membrane in a direction (3,) from the centre, and the outward normal: (T, 3) each."""
        points, normals = np.empty_like(self.centre), np.empty_like(self.centre)
        for k in range(len(points)):
            values, gradients = log_radii(direction[None], self.inverse[k], self.harmonics[k])
            points[k] = self.centre[k] + np.exp(values[0]) * direction
            normals[k] = direction - gradients[0]
        return points, unit(normals)

    def levels(self, points: Doubles) -> Doubles:
        """Return the level of the body at points (T, n, 3): (T, n), about a distance, negative inside."""
        return np.asarray(_levels_over_time(points, self.centre, self.inverse, self.harmonics))

    def reach(self) -> float:
        """Return the greatest distance of the body from the origin, at any of the times."""
        farthest = 0.0
        for centre, inverse, harmonics in zip(self.centre, self.inverse, self.harmonics, strict=True):
            radii = np.exp(log_radii(SPHERE, inverse, harmonics)[0])
            farthest = max(farthest, float(np.linalg.norm(centre + radii[:, None] * SPHERE, axis=1).max()))
        return farthest


@dataclass(frozen=True, eq=False)
class StarBody:
    """The body: splines over τ of its position, size and shape."""

    radius: float  # of the sphere of the same volume, units of Ω
    knots: Doubles  # (k, 1 + 3 + 3 + h): relative log volume, centre, log semi-axes, harmonics from degree 1

    def within(self, reach: float, times: Doubles) -> "StarBody":
        """Return the body, made rounder, at the same volume, until it stays within ``reach`` of the origin."""
        body = self
        while body.at(times).reach() > reach:
            body = StarBody(body.radius, np.concatenate([body.knots[:, :1], 0.94 * body.knots[:, 1:]], axis=1))
        return body

    def at(self, times: Doubles) -> StarPose:
        """Return the body at times (T,), scaled to the volume it is to have."""
        swell, centre, axes, shape = np.split(spline(self.knots, (times + 1.0) / 2.0), [1, 4, 7], axis=1)
        inverse = np.exp(-2.0 * axes)
        harmonics = np.concatenate([np.zeros_like(swell), shape], axis=1)
        for k in range(len(times)):
            cubes = np.exp(3.0 * log_radii(SPHERE, inverse[k], harmonics[k])[0])
            harmonics[k, 0] = math.log(self.radius) + (swell[k, 0] - math.log(cubes.mean())) / 3.0
        return StarPose(centre, inverse, harmonics)
