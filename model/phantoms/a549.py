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
- True thickness: real filopodia, 0.1 to 0.3 µm thick, vanish on any affordable grid; these are 1.6 µm and more.
- Gaps and distances are checked at 59 times, not between them.

References
----------
Sorokin et al. 2018, FiloGen, doi:10.1109/TMI.2018.2845884.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, TypeVar, cast

import numba
import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from model.phantoms.distance import ShapeFrame

__all__ = ["A549", "make"]

Doubles = NDArray[np.float64]
_Function = TypeVar("_Function", bound=Callable[..., Any])

REACH = 0.93  # radius of the ball that holds the cell, units of Ω: any rotation keeps it inside
BODY_REACH = 0.68  # the same for the body alone, which leaves room for filopodia
FRAME = 2.0 / 29.0  # one frame of a sequence of 30, units of τ
TIMES = np.linspace(-1.0, 1.0, 59)  # frames and the middles between them: when a cell is checked

DEGREE = 5  # of the spherical harmonics
SPANS = 8  # of the splines over τ: a span is about four frames
DEPTH = 0.11  # how far below the membrane filopodia are rooted; at birth they are wholly inside
SHORTEST, LONGEST = 0.12, 0.50  # full lengths of filopodia outside the membrane, units of Ω
BASE_RADIUS, TIP_RADIUS = 0.058, 0.038  # the tip has 1.8 voxels of a 96³ grid
FOOT_RADIUS, FOOT = 0.032, 0.10  # what the flared foot adds to the radius at the membrane, and its extent
BLEND, BRANCH_BLEND = 0.14, 0.12  # widths of the smooth unions with the body and with a parent
GAP, BRANCH_GAP, BODY_GAP = 0.09, 0.05, 0.05  # left free between filopodia, branches of one, either and the body
CROTCH = 0.18  # length of a branch that may be nearer to its parent
LEVELS = 3  # filopodium, branch, branch of a branch
FEWEST, MOST = 3, 9  # filopodia and branches to be seen at any time
SEEN = 0.05  # length from which one is seen, units of Ω
SPEED = 0.05  # of growth and retraction, units of Ω a frame
SWIFTEST = 5.0  # frames from nothing to full length, at least
NODES = 11  # segments of an axis
RESOLUTION = 128  # of the grid on which the surface is found: tips need it
CURVE = 40  # points at which a full axis is computed


def _compiled(function: _Function) -> _Function:
    """Compile with numba, keeping the function's type."""
    return cast(_Function, numba.njit(cache=True, nogil=True, error_model="numpy")(function))


# --- smooth random functions ------------------------------------------------------------------------------------------


def _spline(knots: Doubles, x: Doubles) -> Doubles:
    """Evaluate a uniform cubic B-spline with knots (k, n) over [0, 1] at x (m,), held at the ends: (m, n)."""
    spans = len(knots) - 3
    place = np.clip(x, 0.0, 1.0) * spans
    first = np.minimum(place.astype(np.int64), spans - 1)
    f = place - first
    weights = np.stack([(1 - f) ** 3, 3 * f**3 - 6 * f**2 + 4, -3 * f**3 + 3 * f**2 + 3 * f + 1, f**3], axis=1) / 6.0
    return np.asarray(np.einsum("mj,mjn->mn", weights, knots[first[:, None] + np.arange(4)]))


def _wander(rng: Generator, relaxation: Doubles) -> Doubles:
    """Draw knots over τ of a stationary Ornstein-Uhlenbeck process of unit variance, (k, n), within ±2.2 or so.

    ``relaxation`` (n,) is in units of τ. The spline smooths the process, which the factor ``gain`` makes up for.
    """
    persistence = np.exp(-2.0 / SPANS / relaxation)
    knots = rng.standard_normal((SPANS + 3, len(relaxation)))
    for k in range(1, len(knots)):
        knots[k] = persistence * knots[k - 1] + np.sqrt(1.0 - persistence**2) * knots[k]
    gain = np.sqrt(0.5 + persistence * 4.0 / 9.0 + persistence**2 / 18.0)  # of weights 1/6, 4/6, 1/6
    return np.asarray(2.2 * np.tanh(knots / gain / 2.2))


def _smoothstep(x: Doubles) -> Doubles:
    """Rise smoothly from 0 at 0 to 1 at 1."""
    x = np.clip(x, 0.0, 1.0)
    return x * x * (3.0 - 2.0 * x)


def _unit(vectors: Doubles) -> Doubles:
    """Scale vectors (..., 3) to length 1."""
    return np.asarray(vectors / np.linalg.norm(vectors, axis=-1, keepdims=True))


def _beside(vectors: Doubles, axes: Doubles) -> Doubles:
    """Return unit vectors across ``axes`` (..., 3), as near as possible to ``vectors``."""
    return _unit(vectors - np.sum(vectors * axes, axis=-1, keepdims=True) * axes)


# --- the body ---------------------------------------------------------------------------------------------------------

# Factors that give real spherical harmonics the mean square 1 over the sphere, [degree, order].
NORMS = np.zeros((DEGREE + 1, DEGREE + 1))
for _n in range(DEGREE + 1):
    for _m in range(_n + 1):
        _ratio = math.factorial(_n - _m) / math.factorial(_n + _m)
        NORMS[_n, _m] = math.sqrt((1 if _m == 0 else 2) * (2 * _n + 1) * _ratio)


@_compiled
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


@_compiled
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
        return points, _unit(normals)

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
        swell, centre, axes, shape = np.split(_spline(self.knots, (times + 1.0) / 2.0), [1, 4, 7], axis=1)
        inverse = np.exp(-2.0 * axes)
        harmonics = np.concatenate([np.zeros_like(swell), shape], axis=1)
        for k in range(len(times)):
            cubes = np.exp(3.0 * _log_radii(SPHERE, inverse[k], harmonics[k])[0])
            harmonics[k, 0] = math.log(self.radius) + (swell[k, 0] - math.log(cubes.mean())) / 3.0
        return _BodyPose(centre, inverse, harmonics)


def _draw_body(rng: Generator) -> _Body:
    """Draw a body; one that reaches too far is made smaller."""
    stretch = rng.uniform(0.1, 0.75)  # log ratio of the longest semi-axis to the mean of the others
    flatness = rng.uniform(0.0, 0.35)
    axes = np.array([2.0 * stretch / 3.0, flatness / 2.0 - stretch / 3.0, -flatness / 2.0 - stretch / 3.0])
    degrees = np.repeat(np.arange(1, DEGREE + 1), 2 * np.arange(1, DEGREE + 1) + 1)  # (35,)
    power = rng.uniform(0.7, 1.25) * np.array([0.06, 0.045, 0.04, 0.022, 0.010])[degrees - 1]
    typical = np.concatenate([[0.0], np.zeros(3), axes, 0.85 * power * rng.standard_normal(35)])
    spread = np.concatenate([[0.03], np.full(3, 0.035), np.full(3, 0.07), 0.5 * power])
    relaxation = np.concatenate([[1.5], np.full(3, 1.2), np.full(3, 1.2), 2.0 / (1.0 + degrees / 2.0)])
    knots = typical + spread * _wander(rng, relaxation)
    body = _Body(rng.uniform(0.345, 0.41), knots)
    reach = body.at(TIMES).reach()
    knots[:, 1:4] *= min(1.0, BODY_REACH / reach)
    return _Body(body.radius * min(1.0, BODY_REACH / reach), knots)


# --- filopodia --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _Life:
    """How long a filopodium is over time: it grows, pauses and retracts, coming smoothly to rest in between."""

    times: Doubles  # (k,), units of τ, increasing
    levels: Doubles  # (k,), fractions of its full length; first and last are 0

    def at(self, times: Doubles) -> Doubles:
        """Return the fraction of the full length at times (T,)."""
        place = np.interp(times, self.times, np.arange(len(self.times)))
        before = np.minimum(place.astype(np.int64), len(self.times) - 2)
        rise = self.levels[before + 1] - self.levels[before]
        return np.asarray(self.levels[before] + rise * _smoothstep(place - before))

    def longer_than(self, level: float) -> tuple[float, float]:
        """Return the longest interval of time in which the fraction is above ``level``."""
        times = np.linspace(self.times[0], self.times[-1], 400)
        above = np.concatenate([[0], (self.at(times) > level).astype(np.int64), [0]])
        starts, stops = np.flatnonzero(np.diff(above) == 1), np.flatnonzero(np.diff(above) == -1) - 1
        if len(starts) == 0:
            return 0.0, 0.0
        widest = int(np.argmax(stops - starts))
        return float(times[starts[widest]]), float(times[stops[widest]])


@dataclass(frozen=True, eq=False)
class _Filopodium:
    """A filopodium or a branch: where it is rooted, how its axis runs, and when it lives."""

    level: int  # 1 on the body, 2 a branch, 3 a branch of a branch
    parent: int  # place of its parent among the filopodia; -1 for the body
    anchor: Doubles  # (3,): direction from the body's centre, or, for a branch, the side it leaves its parent on
    along: float  # where on the parent's axis it is rooted, units of Ω
    angle: float  # at which it leaves its parent
    buried: float  # length of the axis below the membrane
    length: float  # full length of the axis outside it, units of Ω
    walk: Doubles  # (k, 2): knots along the axis of its slope sideways
    sway: Doubles  # (k, 2): knots over τ of what is added to the slope at the tip
    reference: Doubles  # (3,): fixes what sideways is
    life: _Life


@dataclass(frozen=True, eq=False)
class _Axis:
    """The axis of a filopodium at T times."""

    points: Doubles  # (T, CURVE, 3): the full axis, evenly spaced; only ``extent`` of it has grown
    tangents: Doubles  # (T, CURVE, 3)
    extent: Doubles  # (T,): length grown, with the part below the membrane
    full: float
    base: Doubles  # (T,): radius at the root
    foot: Doubles  # (T,): what is added to the radius at the membrane
    buried: float

    def place(self, along: Doubles) -> tuple[Doubles, Doubles]:
        """Return points and tangents (T, n, 3) at lengths ``along`` (T, n) from the root."""
        place = along / self.full * (CURVE - 1)
        before = np.minimum(place.astype(np.int64), CURVE - 2)
        f = (place - before)[..., None]
        rows = np.arange(len(place))[:, None]
        points = self.points[rows, before] * (1 - f) + self.points[rows, before + 1] * f
        return points, _unit(self.tangents[rows, before] * (1 - f) + self.tangents[rows, before + 1] * f)

    def radius(self, along: Doubles) -> tuple[Doubles, Doubles]:
        """Return the radius, and its slope, (T, n) each at lengths ``along`` (T, n): a foot, and a taper to the tip."""
        extent = np.maximum(self.extent, 1e-9)[:, None]
        left = np.clip(1.0 - along / extent, 0.0, 1.0)
        past = (along - self.buried) / FOOT
        foot = self.foot[:, None] * np.exp(-(past**2))
        more = self.base[:, None] - TIP_RADIUS + foot
        return TIP_RADIUS + more * left, -2.0 * past / FOOT * foot * left - more / extent

    def chain(self) -> Doubles:
        """Return the nodes of the axis grown so far, (T, NODES + 1, 8): points, radii, and their change a node."""
        along = self.extent[:, None] * np.linspace(0.0, 1.0, NODES + 1)
        points, tangents = self.place(along)
        radii, slopes = self.radius(along)
        changes = np.concatenate([tangents, slopes[..., None]], axis=2) * (self.extent / NODES)[:, None, None]
        return np.concatenate([points, radii[..., None], changes], axis=2)


def _axis(filopodium: _Filopodium, times: Doubles, *, body: _BodyPose, parent: _Axis | None) -> _Axis:
    """Return the axis of a filopodium at times (T,), carried by the body or by its parent."""
    full = filopodium.buried + filopodium.length
    extent = filopodium.life.at(times) * full
    if parent is None:
        root, normals = body.membrane(filopodium.anchor)
        outward = _unit(normals + filopodium.anchor)
        root = root - filopodium.buried * outward
        grown = _smoothstep((extent - filopodium.buried) / 0.25)
        base = TIP_RADIUS + (BASE_RADIUS - TIP_RADIUS) * grown
        foot = FOOT_RADIUS * grown
    else:
        along = np.full((len(times), 1), filopodium.along)
        points, tangents = parent.place(along)
        root, tangent = points[:, 0], tangents[:, 0]
        side = _beside(filopodium.anchor[None], tangent)
        outward = math.cos(filopodium.angle) * tangent + math.sin(filopodium.angle) * side
        thickness = 0.85 * (parent.radius(along)[0][:, 0] - TIP_RADIUS)
        base = TIP_RADIUS + thickness * _smoothstep(extent / 0.15)
        foot = np.zeros_like(base)
    sideways = _beside(filopodium.reference[None], outward)
    fraction = np.linspace(0.0, 1.0, CURVE)
    slopes = _spline(filopodium.walk, fraction)[None] + (
        _spline(filopodium.sway, (times + 1.0) / 2.0)[:, None] * fraction[None, :, None]
    )  # (T, CURVE, 2)
    frames = np.stack([sideways, np.cross(outward, sideways)], axis=1)  # (T, 2, 3)
    tangents = _unit(outward[:, None] + slopes @ frames)
    steps = (tangents[:, 1:] + tangents[:, :-1]) / 2.0 * (full / (CURVE - 1))
    points = root[:, None] + np.concatenate([np.zeros_like(root)[:, None], np.cumsum(steps, axis=1)], axis=1)
    return _Axis(points, tangents, extent, full, base, foot, filopodium.buried)


@dataclass(frozen=True)
class _Temper:
    """What a cell's filopodia have in common."""

    crowd: float  # filopodia alive at a time, on average
    median: float  # of their lengths, units of Ω
    branching: float  # branches per unit of Ω
    curl: float  # standard deviation of the slope gained over a quarter of the axis
    restless: float  # the same of the slope at the tip over time
    front: float  # preference for one end of the body


def _draw_life(rng: Generator, length: float) -> tuple[Doubles, Doubles]:
    """Draw how a filopodium of a length grows, pauses and retracts: durations (k,) in τ, and fractions (k + 1,)."""
    whole = max(SWIFTEST, length / SPEED)
    halfway = rng.uniform(0.45, 0.8) if rng.random() < 0.5 else 1.0
    grow, shrink = whole * rng.uniform(1.0, 1.4, 2)
    pause = min(4.0 + rng.exponential(9.0), max(4.0, 38.0 - grow - shrink))
    if halfway < 1.0:
        frames = np.array([halfway * grow, rng.uniform(1.0, 4.0), max(2.0, (1.0 - halfway) * grow), pause, shrink])
        return frames * FRAME, np.array([0.0, halfway, halfway, 1.0, 1.0, 0.0])
    return np.array([grow, pause, shrink]) * FRAME, np.array([0.0, 1.0, 1.0, 0.0])


def _draw_length(rng: Generator, median: float) -> float:
    """Draw a full length: lognormal, between the shortest and the longest there are."""
    return float(np.clip(median * math.exp(0.35 * rng.standard_normal()), SHORTEST, LONGEST))


def _draw_walk(rng: Generator, temper: _Temper) -> tuple[Doubles, Doubles]:
    """Draw a persistent random walk along the axis, and how the tip sways over time."""
    steps = temper.curl * rng.standard_normal((8, 2))
    steps[0] *= 0.8
    return np.cumsum(steps, axis=0), temper.restless * _wander(rng, np.full(2, 0.6))


def _draw_births(rng: Generator, temper: _Temper) -> list[tuple[float, _Life]]:
    """Draw lengths and lives of the filopodia on the body, born as a Poisson process from long before the sequence."""
    oldest, mean_life = 40.0 * FRAME, 25.0 * FRAME
    count = rng.poisson(temper.crowd / mean_life * (2.0 + oldest))
    births = []
    for start in np.sort(rng.uniform(-1.0 - oldest, 1.0, count)):
        length = _draw_length(rng, temper.median)
        durations, levels = _draw_life(rng, length)
        life = _Life(start + np.concatenate([[0.0], np.cumsum(durations)]), levels)
        if life.at(TIMES).max() > 0.0:
            births.append((length, life))
    return births


class _Nursery:
    """The filopodia of a cell while they are drawn, and their axes at all times that are checked."""

    def __init__(self, rng: Generator, temper: _Temper, *, body: _BodyPose) -> None:
        self._rng = rng
        self._temper = temper
        self._body = body
        self._front = _unit(rng.standard_normal(3) * [1.0, 0.4, 0.4])
        self.filopodia: list[_Filopodium] = []
        self._axes: list[_Axis] = []
        self._chains: list[Doubles] = []

    def plant(self, length: float, life: _Life) -> bool:
        """Place a filopodium on the body, made shorter until there is room; False if there is none."""
        for attempt in range(60):
            walk, sway = _draw_walk(self._rng, self._temper)
            around = self._rng.standard_normal((2, 3))
            anchor = _unit(_unit(around[0]) + self._temper.front * self._rng.random() * self._front)
            shorter = max(SHORTEST, length * 0.98**attempt)
            if self._admit(
                _Filopodium(1, -1, anchor, 0.0, 0.0, DEPTH, shorter, walk, sway, _beside(around[1], anchor), life)
            ):
                return True
        return False

    def branch(self, parent: int) -> None:
        """Try to grow branches on a filopodium, in number proportional to its length, and branches on those."""
        stem = self.filopodia[parent]
        if stem.level == LEVELS:
            return
        for _ in range(self._rng.poisson(self._temper.branching * stem.length)):
            for _ in range(16):
                branch = self._draw_branch(parent)
                if branch is not None and self._admit(branch):
                    self.branch(len(self.filopodia) - 1)
                    break

    def _draw_branch(self, parent: int) -> _Filopodium | None:
        """Draw a branch whose life fits into the time in which its parent reaches past its root."""
        rng, stem = self._rng, self.filopodia[parent]
        full = stem.buried + stem.length
        low, high = stem.buried + (0.10 if stem.level == 1 else 0.07), 0.8 * full
        if low >= high:
            return None
        along = rng.uniform(low, high)
        start, stop = stem.life.longer_than((along + TIP_RADIUS) / full)
        length = _draw_length(rng, 0.7 * self._temper.median)
        durations, levels = _draw_life(rng, length)
        durations[-2] += min(0.0, stop - start - durations.sum())  # a shorter pause
        if durations[-2] < 2.0 * FRAME or stop < -1.0 or start > 1.0:
            return None
        start += rng.uniform(0.0, 0.5) * (stop - start - durations.sum())
        life = _Life(start + np.concatenate([[0.0], np.cumsum(durations)]), levels)
        walk, sway = _draw_walk(rng, self._temper)
        angle = math.radians(rng.uniform(48.0, 80.0))
        side, reference = _unit(rng.standard_normal((2, 3)))
        return _Filopodium(stem.level + 1, parent, side, along, angle, 0.0, length, walk, sway, reference, life)

    def _admit(self, filopodium: _Filopodium) -> bool:
        """Add a filopodium if it keeps inside the ball and clear of the body and of all others."""
        parent = self._axes[filopodium.parent] if filopodium.level > 1 else None
        axis = _axis(filopodium, TIMES, body=self._body, parent=parent)
        chain = axis.chain()
        if not (axis.extent > 0.0).any() or not self._inside(filopodium, axis=axis, chain=chain):
            return False
        along = axis.extent[:, None] * np.linspace(0.0, 1.0, NODES + 1)
        for place, other in enumerate(self._chains):
            clear = np.full_like(along, GAP)
            if place == filopodium.parent:
                clear = np.where(along < CROTCH, -np.inf, BRANCH_GAP)
            elif self._stem(place) == self._stem(filopodium.parent):
                clear[:] = BRANCH_GAP
            both = (axis.extent > 0.0) & (self._axes[place].extent > 0.0)
            gaps = np.linalg.norm(chain[both, :, None, :3] - other[both, None, :, :3], axis=3)
            gaps -= chain[both, :, None, 3] + other[both, None, :, 3]  # (T, NODES + 1, NODES + 1)
            if (gaps.min(axis=2) < clear[both]).any():
                return False
        self.filopodia.append(filopodium)
        self._axes.append(axis)
        self._chains.append(chain)
        return True

    def _stem(self, place: int) -> int:
        """Return the filopodium on the body that one belongs to; -1 for the body."""
        while place >= 0 and self.filopodia[place].parent >= 0:
            place = self.filopodia[place].parent
        return place

    def _inside(self, filopodium: _Filopodium, *, axis: _Axis, chain: Doubles) -> bool:
        """Tell whether an axis stays inside the ball, clear of the body past its foot, and turns with its root."""
        if (np.linalg.norm(chain[..., :3], axis=2) + chain[..., 3]).max() > REACH - 0.01:
            return False
        levels = self._body.levels(chain[..., :3])
        along = axis.extent[:, None] * np.linspace(0.0, 1.0, NODES + 1) - filopodium.buried
        free = (axis.extent > 0.0)[:, None] & (along > (0.16 if filopodium.level == 1 else 0.0))
        if (levels - chain[..., 3] < BODY_GAP)[free].any():
            return False
        if filopodium.level == 1:
            return bool(levels[:, 0].max() < -0.075)  # rooted deep enough to be invisible at birth
        tangents = self._axes[filopodium.parent].place(np.full((len(TIMES), 1), filopodium.along))[1][:, 0]
        return bool(np.linalg.norm(np.cross(tangents, filopodium.anchor), axis=1).min() > 0.5)


def _outside(filopodia: list[_Filopodium] | tuple[_Filopodium, ...], times: Doubles) -> Doubles:
    """Return the lengths (T, f) of filopodia outside the membrane at times (T,)."""
    lengths = [np.maximum(f.life.at(times) * (f.buried + f.length) - f.buried, 0.0) for f in filopodia]
    return np.stack(lengths, axis=1) if lengths else np.zeros((len(times), 0))


def _draw_filopodia(rng: Generator, body: _BodyPose) -> tuple[_Filopodium, ...]:
    """Draw the filopodia of a cell, again until their number is right at all times and some come and go."""
    temper = _Temper(
        crowd=rng.uniform(3.5, 6.0),
        median=rng.uniform(0.30, 0.48),
        branching=rng.uniform(1.0, 10.0),
        curl=rng.uniform(0.2, 0.45),
        restless=rng.uniform(0.08, 0.2),
        front=rng.uniform(0.0, 1.6),
    )
    for _ in range(2000):
        births = _draw_births(rng, temper)
        lengths = [life.at(TIMES) * (length + DEPTH) - DEPTH for length, life in births]
        if len(births) < FEWEST or not _lively(np.stack(lengths, axis=1)):
            continue
        nursery = _Nursery(rng, temper, body=body)
        if not all(nursery.plant(length, life) for length, life in births):
            continue
        for parent in range(len(births)):
            nursery.branch(parent)
        if _lively(_outside(nursery.filopodia, TIMES)):
            return tuple(nursery.filopodia)
    raise RuntimeError("no arrangement of filopodia fits this body")


def _lively(lengths: Doubles) -> bool:
    """Tell whether lengths (T, f) show the right number of filopodia at all times, and births and ends."""
    seen = lengths > SEEN
    counts = seen.sum(axis=1)
    births, ends = (~seen[0] & seen.any(axis=0)).sum(), (~seen[-1] & seen.any(axis=0)).sum()
    return bool(counts.min() >= FEWEST and counts.max() <= MOST and births >= 2 and ends >= 2)


# --- the cell ---------------------------------------------------------------------------------------------------------


@_compiled
def _cone(chain: Doubles, k: int, x: float, y: float, z: float) -> tuple[float, float]:
    """Return the distance from a point to the round cone from node k to the next, and the place of its foot, in nodes.

    A round cone is the union of the spheres between two; radius and centre go linearly from one to the other. For a
    point at r across and h along its axis, the radius falling by δ per unit of length, the nearest sphere is at
    h - rδ/√(1-δ²).
    """
    ax, ay, az = chain[k + 1, 0] - chain[k, 0], chain[k + 1, 1] - chain[k, 1], chain[k + 1, 2] - chain[k, 2]
    px, py, pz = x - chain[k, 0], y - chain[k, 1], z - chain[k, 2]
    length = max(np.sqrt(ax * ax + ay * ay + az * az), 1e-9)
    along = (px * ax + py * ay + pz * az) / length
    across = np.sqrt(max(px * px + py * py + pz * pz - along * along, 0.0))
    taper = max(min((chain[k, 3] - chain[k + 1, 3]) / length, 0.9), -0.9)
    foot = min(max(along - across * taper / np.sqrt(1.0 - taper * taper), 0.0), length)
    return np.sqrt(across * across + (along - foot) ** 2) - chain[k, 3] + taper * foot, k + foot / length


@_compiled
def _tube(chain: Doubles, place: float, x: float, y: float, z: float) -> float:
    """Return the distance from a point to the tube along a smooth axis, from a place, in nodes, near its foot.

    Axis and radius are cubic between nodes. Three Newton steps find the sphere that is nearest, so that unlike the
    chain of round cones the tube has no creases.
    """
    last = len(chain) - 1
    p = (x, y, z)
    for step in range(4):
        k = min(int(place), last - 1)
        f = place - k
        squared, speed, along, bend = 0.0, 0.0, 0.0, 0.0  # |q|², |c'|², q·c' and q·c'' for q = p - c
        radius, slope = 0.0, 0.0
        for axis in range(4):
            start, rate = chain[k, axis], chain[k, 4 + axis]
            whole, end_rate = chain[k + 1, axis] - start, chain[k + 1, 4 + axis]
            second, third = 3.0 * whole - 2.0 * rate - end_rate, rate + end_rate - 2.0 * whole
            value = start + f * (rate + f * (second + f * third))
            change = rate + f * (2.0 * second + 3.0 * f * third)
            if axis == 3:
                radius, slope = value, change
            else:
                q = p[axis] - value
                squared += q * q
                speed += change * change
                along += q * change
                bend += q * (2.0 * second + 6.0 * f * third)
        distance = np.sqrt(squared)
        if step < 3:
            move = (along + slope * distance) / max(speed - bend, 0.3 * speed, 1e-12)
            place = min(max(place + max(min(move, 1.0), -1.0), 0.0), float(last))
    return float(distance - radius)


@_compiled
def _union(values: Doubles, points: Doubles, chains: Doubles, blends: Doubles) -> None:
    """Blend tubes (f, n, 8) into the values (n,) at points (n, 3), one after the other.

    The smooth union is a cubic in the difference of both values, and equals the minimum where that is over the width.
    """
    for f in range(len(chains)):
        chain, blend = chains[f], blends[f]
        cx, cy, cz = chain[:, 0].mean(), chain[:, 1].mean(), chain[:, 2].mean()
        bound = 0.0
        for k in range(len(chain)):
            dx, dy, dz = chain[k, 0] - cx, chain[k, 1] - cy, chain[k, 2] - cz
            bound = max(bound, np.sqrt(dx * dx + dy * dy + dz * dz) + chain[k, 3] + 0.02)
        for i in range(len(points)):
            x, y, z = points[i, 0], points[i, 1], points[i, 2]
            if np.sqrt((x - cx) ** 2 + (y - cy) ** 2 + (z - cz) ** 2) - bound > values[i] + blend:
                continue
            nearest, place = np.inf, 0.0
            for k in range(len(chain) - 1):
                distance, foot = _cone(chain, k, x, y, z)
                if distance < nearest:
                    nearest, place = distance, foot
            if nearest > values[i] + blend + 0.02:
                continue
            nearest = _tube(chain, place, x, y, z)
            overlap = max(blend - abs(values[i] - nearest), 0.0)
            values[i] = min(values[i], nearest)
            if overlap > 0.0:
                values[i] -= overlap * overlap * overlap / (6.0 * blend * blend)


@dataclass(frozen=True, eq=False)
class A549:
    """One A549 cell with filopodia; see :class:`model.phantoms.Phantom`."""

    cell_type: ClassVar[str] = "a549"
    micrometres: ClassVar[float] = 22.0
    minutes: ClassVar[float] = 14.5  # a frame every 30 s, if there are 30

    seed: int
    rotation: Doubles  # (3, 3), of the cell in Ω
    body: _Body
    filopodia: tuple[_Filopodium, ...]

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
        return _outside(self.filopodia, times)

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
        axes: list[_Axis] = []
        chains, blends = [np.zeros((0, NODES + 1, 8))], []
        for filopodium in self.filopodia:
            axis = _axis(filopodium, times, body=pose, parent=axes[filopodium.parent] if filopodium.level > 1 else None)
            axes.append(axis)
            if axis.extent[0] > 0.0:
                width, ramp = (BLEND, 0.11) if filopodium.level == 1 else (BRANCH_BLEND, 0.05)
                chains.append(axis.chain())
                blends.append(width * float(_smoothstep(axis.extent / ramp)[0]) + 1e-6)  # none at birth
        return partial(
            _evaluate,
            rotation=self.rotation,
            body=(pose.centre[0], pose.inverse[0], pose.harmonics[0]),
            chains=np.concatenate(chains),
            blends=np.array(blends),
        )

    def frame(self, t: float) -> ShapeFrame:
        """Return the shape of the cell at time ``t`` of τ = [-1, 1]."""
        return self.shape(t, resolution=RESOLUTION)

    def shape(self, t: float, *, resolution: int) -> ShapeFrame:
        """Return the same, found on a grid of ``resolution`` cells along an edge of Ω: coarser is faster."""
        return ShapeFrame(self.implicit(t), components=1, resolution=resolution, lipschitz=2.0)


def _evaluate(
    points: Doubles, *, rotation: Doubles, body: tuple[Doubles, Doubles, Doubles], chains: Doubles, blends: Doubles
) -> Doubles:
    """Evaluate the implicit function of a cell at points (n, 3) in Ω: (n,)."""
    turned = points @ rotation  # the inverse rotation: into the frame of the cell
    values = _body_levels(turned, *body)
    _union(values, turned, chains, blends)
    return values


def make(seed: int) -> A549:
    """Draw the A549 cell that a seed names, in a random orientation (uniform over rotations).

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
    Most of the time, a few tenths of a second, goes into finding room for the filopodia.
    """
    rng = np.random.default_rng([0xA549, seed])
    rotation = Rotation.from_quat(rng.standard_normal(4)).as_matrix()
    body = _draw_body(rng)
    return A549(seed, rotation, body, _draw_filopodia(rng, body.at(TIMES)))
