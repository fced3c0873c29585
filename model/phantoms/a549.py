"""A549 lung cancer cells: a crawling, star-shaped body with branching filopodia that are born, sway and retract.

The body is an ellipsoid whose log radius also carries real spherical harmonics of degree 1 to 5; all of it follows
smoothed Ornstein-Uhlenbeck processes. Filopodia have the attributes of FiloGen: number, thickness, length, branching
level, lifetime. They are born as a Poisson process, rooted below the membrane, and their axes are persistent random
walks. Body and filopodia are blended smoothly and redistanced by :class:`~model.phantoms.distance.ShapeFrame`.

Promises
--------
- The same seed gives the same cell.
- At every time the cell is inside the ball of radius `REACH`, its body has the volume prescribed, and all motion is
  continuous: filopodia are born and vanish below the membrane, branches inside their parents.
- A branch appears after its parent has grown past its root and is gone before the parent retracts past it, so the cell
  is always one component; axes keep their distance from each other and from the body, so it has no handles.

Does not promise
----------------
- True thickness: real filopodia, 0.1 to 0.3 µm thick, vanish on any affordable grid; these are 1.7 µm and more.
- Gaps and distances are checked at 59 times, not between them.
- In the crotches of branches about one surface point in a thousand is 0.1 to 0.2 voxel of a 128³ grid off.

References
----------
FiloGen: Sorokin, Peterlík, Ulman, Svoboda and others, IEEE Transactions on Medical Imaging, 2018.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from model.phantoms.distance import ShapeFrame
from model.phantoms.filopodia import NODES, REACH, TIMES, Axis, Filopodium, axis_of, draw_filopodia, outside_lengths
from model.phantoms.tubes import compiled, union
from model.phantoms.wandering import smoothstep, spline, unit, wander

__all__ = ["A549", "REACH", "make"]

Doubles = NDArray[np.float64]

BODY_REACH = 0.70  # the same for the body alone, which leaves room for filopodia
DEGREE = 5  # of the spherical harmonics
BLEND, BRANCH_BLEND = 0.14, 0.12  # widths of the smooth unions with the body and with a parent
RESOLUTION = 128  # of the grid on which the surface is found: tips need it

# --- the body ---------------------------------------------------------------------------------------------------------

# Factors that give real spherical harmonics the mean square 1 over the sphere, [degree, order].
NORMS = np.zeros((DEGREE + 1, DEGREE + 1))
for _n in range(DEGREE + 1):
    for _m in range(_n + 1):
        _ratio = math.factorial(_n - _m) / math.factorial(_n + _m)
        NORMS[_n, _m] = math.sqrt((1 if _m == 0 else 2) * (2 * _n + 1) * _ratio)


@compiled
def _log_radii(directions: Doubles, inverse: Doubles, harmonics: Doubles) -> tuple[Doubles, Doubles]:
    """Return the log radius (n,) of the body in unit directions (n, 3), and its gradient along the sphere (n, 3).

    An ellipsoid with inverse squared semi-axes (3,), times the exponential of a sum of real spherical harmonics; that
    of degree n and order m, cosine for m ≥ 0, has place n² + n + m in ``harmonics`` (36,). A harmonic is the m-th
    derivative of a Legendre polynomial in z times the real or imaginary part of (x + iy)^m: its gradient is exact.
    """
    values = np.empty(len(directions))
    gradients = np.empty((len(directions), 3))
    legendre = np.zeros((DEGREE + 2, DEGREE + 3))  # [n, m]: m-th derivative of the n-th polynomial
    for i in range(len(directions)):
        x, y, z = directions[i, 0], directions[i, 1], directions[i, 2]
        squared = x * x * inverse[0] + y * y * inverse[1] + z * z * inverse[2]
        value = -0.5 * np.log(squared)
        gx, gy, gz = -x * inverse[0] / squared, -y * inverse[1] / squared, -z * inverse[2] / squared
        legendre[0, 0] = 1.0
        for m in range(DEGREE + 1):
            legendre[m + 1, m] = (2 * m + 1) * z * legendre[m, m]
            legendre[m + 1, m + 1] = (2 * m + 1) * legendre[m, m]
            for n in range(m + 2, DEGREE + 1):
                upper, lower = (2 * n - 1) * z * legendre[n - 1, m], (n + m - 1) * legendre[n - 2, m]
                legendre[n, m] = (upper - lower) / (n - m)
        a, b, a_before, b_before = 1.0, 0.0, 0.0, 0.0
        for m in range(DEGREE + 1):
            for n in range(m, DEGREE + 1):
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
def _body_levels(points: Doubles, centre: Doubles, inverse: Doubles, harmonics: Doubles) -> Doubles:
    """Return the level of the body at points (n, 3): ρ - r(u) over the length of its gradient, about a distance."""
    directions = np.empty_like(points)
    distances = np.empty(len(points))
    for i in range(len(points)):
        x, y, z = points[i, 0] - centre[0], points[i, 1] - centre[1], points[i, 2] - centre[2]
        distance = max(np.sqrt(x * x + y * y + z * z), 1e-9)
        distances[i] = distance
        directions[i, 0], directions[i, 1], directions[i, 2] = x / distance, y / distance, z / distance
    values, gradients = _log_radii(directions, inverse, harmonics)
    for i in range(len(points)):
        radius = np.exp(values[i])
        slope = np.sqrt(gradients[i, 0] ** 2 + gradients[i, 1] ** 2 + gradients[i, 2] ** 2)
        slope *= radius / max(distances[i], 0.5 * radius)
        distances[i] = (distances[i] - radius) / np.sqrt(1.0 + slope * slope)
    return distances


def _sphere(count: int) -> Doubles:
    """Return directions (count, 3) spread evenly over the sphere, on a Fibonacci spiral."""
    z = 1.0 - (2.0 * np.arange(count) + 1.0) / count
    angle = np.arange(count) * math.pi * (3.0 - math.sqrt(5.0))
    across = np.sqrt(1.0 - z * z)
    return np.stack([across * np.cos(angle), across * np.sin(angle), z], axis=1)


SPHERE = _sphere(600)


@dataclass(frozen=True, eq=False)
class _BodyPose:
    """The body at T times, in the frame of the cell."""

    centre: Doubles  # (T, 3)
    inverse: Doubles  # (T, 3), inverse squared semi-axes
    harmonics: Doubles  # (T, 36)

    def membrane(self, direction: Doubles) -> tuple[Doubles, Doubles]:
        """Return the point of the membrane in a direction (3,) from the centre, and the outward normal: (T, 3) each."""
        points, normals = np.empty_like(self.centre), np.empty_like(self.centre)
        for k in range(len(points)):
            values, gradients = _log_radii(direction[None], self.inverse[k], self.harmonics[k])
            points[k] = self.centre[k] + np.exp(values[0]) * direction
            normals[k] = direction - gradients[0]
        return points, unit(normals)

    def levels(self, points: Doubles) -> Doubles:
        """Return the level of the body at points (T, n, 3): (T, n), about a distance, negative inside."""
        poses = zip(points, self.centre, self.inverse, self.harmonics, strict=True)
        return np.stack([_body_levels(p, c, a, h) for p, c, a, h in poses])

    def reach(self) -> float:
        """Return the greatest distance of the body from the origin, at any of the times."""
        farthest = 0.0
        for centre, inverse, harmonics in zip(self.centre, self.inverse, self.harmonics, strict=True):
            radii = np.exp(_log_radii(SPHERE, inverse, harmonics)[0])
            farthest = max(farthest, float(np.linalg.norm(centre + radii[:, None] * SPHERE, axis=1).max()))
        return farthest


@dataclass(frozen=True, eq=False)
class _Body:
    """The body: splines over τ of its position, size and shape."""

    radius: float  # of the sphere of the same volume, units of Ω
    knots: Doubles  # (k, 1 + 3 + 3 + 35): relative log volume, centre, log semi-axes, harmonics of degree 1 to 5

    def at(self, times: Doubles) -> _BodyPose:
        """Return the body at times (T,), scaled to the volume it is to have."""
        swell, centre, axes, shape = np.split(spline(self.knots, (times + 1.0) / 2.0), [1, 4, 7], axis=1)
        inverse = np.exp(-2.0 * axes)
        harmonics = np.concatenate([np.zeros_like(swell), shape], axis=1)
        for k in range(len(times)):
            cubes = np.exp(3.0 * _log_radii(SPHERE, inverse[k], harmonics[k])[0])
            harmonics[k, 0] = math.log(self.radius) + (swell[k, 0] - math.log(cubes.mean())) / 3.0
        return _BodyPose(centre, inverse, harmonics)


def _draw_body(rng: Generator) -> _Body:
    """Draw a body; one that reaches too far is made rounder, at the same volume."""
    stretch = rng.uniform(0.1, 0.75)  # log ratio of the longest semi-axis to the mean of the others
    flatness = rng.uniform(0.0, 0.35)
    axes = np.array([2.0 * stretch / 3.0, flatness / 2.0 - stretch / 3.0, -flatness / 2.0 - stretch / 3.0])
    degrees = np.repeat(np.arange(1, DEGREE + 1), 2 * np.arange(1, DEGREE + 1) + 1)  # (35,)
    power = rng.uniform(0.7, 1.25) * np.array([0.06, 0.045, 0.04, 0.022, 0.010])[degrees - 1]
    typical = np.concatenate([[0.0], np.zeros(3), axes, 0.85 * power * rng.standard_normal(35)])
    spread = np.concatenate([[0.03], np.full(3, 0.035), np.full(3, 0.07), 0.5 * power])
    relaxation = np.concatenate([[1.5], np.full(3, 1.2), np.full(3, 1.2), 2.0 / (1.0 + degrees / 2.0)])
    knots = typical + spread * wander(rng, relaxation)
    body = _Body(rng.uniform(0.345, 0.41), knots)
    while body.at(TIMES).reach() > BODY_REACH:
        knots[:, 1:] *= 0.94
    return body


# --- the cell ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class A549:
    """One A549 cell with filopodia; see :class:`model.phantoms.Phantom`."""

    cell_type: ClassVar[str] = "a549"
    micrometres: ClassVar[float] = 22.0
    minutes: ClassVar[float] = 14.5  # a frame every 30 s, if there are 30

    seed: int
    body: _Body
    filopodia: tuple[Filopodium, ...]

    @property
    def levels(self) -> tuple[int, ...]:
        """Branching level of each filopodium: 1 on the body, 2 for its branches, 3 for theirs."""
        return tuple(filopodium.level for filopodium in self.filopodia)

    def lengths(self, times: Doubles) -> Doubles:
        """Return how long each filopodium is outside the membrane.

        Parameters
        ----------
        times
            (T,), in τ.

        Returns
        -------
        Doubles
            (T, f), units of Ω; 0 before birth and after the end. Branches are measured from their parent's axis.
        """
        return outside_lengths(self.filopodia, times)

    def implicit(self, t: float) -> Callable[[Doubles], Doubles]:
        """Return the implicit function of the cell at a time: negative inside, a distance only near its zero set.

        Parameters
        ----------
        t
            Time in τ = [-1, 1].

        Returns
        -------
        Callable
            Maps points (n, 3) float64 in Ω to values (n,) float64.
        """
        times = np.array([t])
        pose = self.body.at(times)
        axes: list[Axis] = []
        chains, blends = [np.zeros((0, NODES + 1, 8))], []
        for filopodium in self.filopodia:
            axis = axis_of(
                filopodium, times, body=pose, parent=axes[filopodium.parent] if filopodium.level > 1 else None
            )
            axes.append(axis)
            if axis.extent[0] > 0.0:
                width, ramp = (BLEND, 0.11) if filopodium.level == 1 else (BRANCH_BLEND, 0.05)
                chains.append(axis.chain())
                blends.append(width * float(smoothstep(axis.extent / ramp)[0]) + 1e-6)  # none at birth
        return partial(
            _evaluate,
            body=(pose.centre[0], pose.inverse[0], pose.harmonics[0]),
            chains=np.concatenate(chains),
            blends=np.array(blends),
        )

    def frame(self, t: float) -> ShapeFrame:
        """Return the shape of the cell at time ``t`` of τ = [-1, 1]."""
        return self.shape(t, resolution=RESOLUTION)

    def shape(self, t: float, *, resolution: int) -> ShapeFrame:
        """Return the shape at a time of τ, found on a grid of ``resolution`` cells along an edge of Ω."""
        return ShapeFrame(self.implicit(t), components=1, resolution=resolution, lipschitz=2.0)


def _evaluate(points: Doubles, *, body: tuple[Doubles, Doubles, Doubles], chains: Doubles, blends: Doubles) -> Doubles:
    """Evaluate the implicit function of a cell at points (n, 3) in Ω: (n,)."""
    values = _body_levels(points, *body)
    union(values, points, chains, blends)
    return values


def make(seed: int) -> A549:
    """Draw the A549 cell that a seed names, lying along the x axis.

    Parameters
    ----------
    seed
        Non-negative integer.

    Returns
    -------
    A549
        The cell; its frames are computed when asked for.

    Notes
    -----
    About a second, sometimes several, nearly all of it to find room for the filopodia.
    """
    rng = np.random.default_rng([0xA549, seed])
    body = _draw_body(rng)
    return A549(seed, body, draw_filopodia(rng, body.at(TIMES)))
