"""Shape descriptors: numbers that describe one closed body, computed from its triangles.

All are computed by formulas that are exact for polyhedra (divergence theorem, convex hull, dihedral angles). Only the
oriented bounding box is searched for, and the local curvature is averaged over patches.

Promises: descriptors without a unit do not change when a body is moved, turned or scaled. For convergent surfaces they
converge to those of the smooth body (tests/model/evaluation/measures/test_descriptors.py has spheres, ellipsoids,
boxes, tori).
Does not promise: a meaning for surfaces that are open or intersect themselves.

References: sphericity, Wadell 1935, doi:10.1086/624298; total mean curvature of polyhedra and its share of a patch,
Cohen-Steiner and Morvan 2003, doi:10.1145/777792.777839.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Protocol

import numba
import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.spatial import ConvexHull, KDTree

from model.engine.tracking import FRAGMENT

Doubles = NDArray[np.float64]

PATCH = 0.25  # radius of the patches over which curvature is averaged, in radii of the sphere of the same volume
PATCHES = 320  # evenly spread over a body
CONCAVE = -0.05  # mean curvature, in units of that sphere's, below which a patch counts as concave
BOX_POINTS = 110  # extreme points that represent the hull in the search for its oriented box
BOX_ANGLES = 20  # rotations of the box about each normal that are tried, over a quarter turn


class Triangles(Protocol):
    """A triangulated surface: a ``Surface``, a ``Membrane``, anything with these two."""

    @property
    def vertices(self) -> NDArray[np.floating]:
        """Corners, (v, 3)."""
        ...

    @property
    def faces(self) -> NDArray[np.integer]:
        """Rows of ``vertices``, (f, 3), anticlockwise seen from outside."""
        ...


@dataclass(frozen=True)
class Descriptors:
    """Descriptors of one body. Lengths in the unit of its vertices, the others without unit.

    Attributes
    ----------
    volume, area
        Enclosed volume and area of the membrane.
    sphericity
        (36 π V²)^⅓ / S: 1 for a ball, less for everything else.
    solidity
        Volume over that of the convex hull.
    extent_long, extent_middle, extent_short
        Sides of the oriented box of least volume.
    elongation
        Longest over shortest principal axis of the solid body.
    middle_to_long, short_to_long
        Ratios of its principal axes.
    mean_curvature
        Mean of the mean curvature over the membrane times the radius of the sphere of the same volume: 1 for a ball.
    curvature_spread
        Standard deviation of the same over patches.
    concave
        Share of the membrane, by patches, where it is below -0.05.
    """

    volume: float
    area: float
    sphericity: float
    solidity: float
    extent_long: float
    extent_middle: float
    extent_short: float
    elongation: float
    middle_to_long: float
    short_to_long: float
    mean_curvature: float
    curvature_spread: float
    concave: float

    def as_dict(self) -> dict[str, float]:
        """Names and values."""
        return asdict(self)


@dataclass(frozen=True)
class Body:
    """One closed sheet of a surface.

    Attributes
    ----------
    vertices, faces
        (v, 3) float64 and (f, 3) int64.
    volume
        Enclosed.
    centroid
        Of the solid body, (3,).
    """

    vertices: Doubles
    faces: NDArray[np.int64]
    volume: float
    centroid: Doubles


def bodies_of(surface: Triangles, *, fragment: float = FRAGMENT) -> list[Body]:
    """Split a surface into its closed bodies, the largest first; fragments and walls of cavities are left out.

    Parameters
    ----------
    surface
        Closed sheets, facing outward.
    fragment
        A body with less than this share of the whole volume is a fragment.
    """
    vertices = np.asarray(surface.vertices, dtype=np.float64)
    faces = np.asarray(surface.faces, dtype=np.int64)
    ends = faces[:, [0, 1, 1, 2]].reshape(-1, 2)
    graph = coo_array((np.ones(len(ends), np.int8), (ends[:, 0], ends[:, 1])), shape=(len(vertices),) * 2)
    count, of_vertex = connected_components(graph, directed=False)
    sheets = of_vertex[faces[:, 0]]
    found = []
    for sheet in range(count):
        own = faces[sheets == sheet]
        if len(own):
            used, renumbered = np.unique(own, return_inverse=True)
            found.append(_body(vertices[used], renumbered.reshape(-1, 3)))
    whole = sum(max(body.volume, 0.0) for body in found)
    kept = [body for body in found if body.volume >= max(fragment * whole, 1e-12 * whole) and body.volume > 0.0]
    return sorted(kept, key=lambda body: -body.volume)


def _body(vertices: Doubles, faces: NDArray[np.integer]) -> Body:
    origin = vertices.mean(axis=0)
    a, b, c = np.moveaxis((vertices - origin)[faces], 1, 0)
    parts = np.einsum("ij,ij->i", a, np.cross(b, c)) / 6.0  # tetrahedra to the origin
    volume = float(parts.sum())
    centre = origin + ((a + b + c) * parts[:, None]).sum(axis=0) / (4.0 * volume) if volume != 0.0 else origin
    return Body(vertices, faces.astype(np.int64), volume, centre)


def describe(body: Body) -> Descriptors:
    """Measure one body.

    Notes
    -----
    About 40 ms for 10,000 triangles.
    """
    corners = (body.vertices - body.centroid)[body.faces]  # (f, 3, 3)
    area = float(0.5 * np.linalg.norm(_cross(corners), axis=1).sum())
    hull = ConvexHull(body.vertices)
    long, middle, short = _box(body.vertices[hull.vertices])
    axes = _principal_axes(corners, body.volume)  # longest first
    mean, spread, concave = _curvature(body, area)
    return Descriptors(
        volume=body.volume,
        area=area,
        sphericity=(36.0 * math.pi * body.volume**2) ** (1.0 / 3.0) / area,
        solidity=body.volume / float(hull.volume),
        extent_long=long,
        extent_middle=middle,
        extent_short=short,
        elongation=float(axes[0] / axes[2]),
        middle_to_long=float(axes[1] / axes[0]),
        short_to_long=float(axes[2] / axes[0]),
        mean_curvature=mean,
        curvature_spread=spread,
        concave=concave,
    )


def _cross(corners: Doubles) -> Doubles:
    return np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])


def _principal_axes(corners: Doubles, volume: float) -> Doubles:
    """Semi-axes (3,), longest first, of the ellipsoid with the body's second moments; corners are from its centroid."""
    parts = np.einsum("ij,ij->i", corners[:, 0], np.cross(corners[:, 1], corners[:, 2]))  # 6 x tetrahedra
    sums = corners.sum(axis=1)
    moments = np.einsum("f,fki,fkj->ij", parts, corners, corners) + np.einsum("f,fi,fj->ij", parts, sums, sums)
    values = np.linalg.eigvalsh(moments / (120.0 * volume))
    return np.asarray(np.sqrt(5.0 * np.maximum(values[::-1], 1e-30)))


def _directions(count: int) -> Doubles:
    """Directions (count, 3) spread evenly over the sphere, on a Fibonacci spiral."""
    z = 1.0 - (2.0 * np.arange(count) + 1.0) / count
    angle = np.arange(count) * math.pi * (3.0 - math.sqrt(5.0))
    across = np.sqrt(1.0 - z * z)
    return np.stack([across * np.cos(angle), across * np.sin(angle), z], axis=1)


_EXTREMES = _directions(4 * BOX_POINTS)
_TURNS: Doubles = np.asarray(np.arange(BOX_ANGLES) * (0.5 * np.pi / BOX_ANGLES), dtype=np.float64)
_FINE: Doubles = np.asarray(np.arange(-20, 21) / 20.0 * _TURNS[1], dtype=np.float64)


def _box(points: Doubles) -> tuple[float, float, float]:
    """Sides of the oriented box of least volume around points (n, 3), longest first.

    The box is sought among those with a side on a face of the hull of the extreme points, turned in steps about its
    normal; then the best one is turned finely around all points.
    """
    some = points[np.unique((points @ _EXTREMES.T).argmax(axis=0))] if len(points) > BOX_POINTS else points
    normals = ConvexHull(some).equations[:, :3]
    normals = np.unique(np.round(normals * np.where(normals[:, 2:] < 0.0, -1.0, 1.0), 6), axis=0)
    normals /= np.linalg.norm(normals, axis=1, keepdims=True)
    helper = np.where(np.abs(normals[:, :1]) < 0.9, [[1.0, 0.0, 0.0]], [[0.0, 1.0, 0.0]])
    first = np.cross(normals, helper)
    first /= np.linalg.norm(first, axis=1, keepdims=True)
    second = np.cross(normals, first)
    widths, depths = _sides(first @ some.T, second @ some.T, _TURNS)  # (m, turns)
    heights = np.ptp(normals @ some.T, axis=1)  # (m,)
    face, turn = np.unravel_index(np.argmin(widths * depths * heights[:, None]), widths.shape)
    turns: Doubles = np.asarray(_TURNS[turn] + _FINE, dtype=np.float64)
    widths, depths = _sides((first[face] @ points.T)[None], (second[face] @ points.T)[None], turns)
    best = int(np.argmin(widths[0] * depths[0]))
    sides = (float(widths[0, best]), float(depths[0, best]), float(np.ptp(points @ normals[face])))
    short, middle, long = sorted(sides)
    return long, middle, short


@numba.njit(cache=True, nogil=True, fastmath=True)
def _sides(u: Doubles, v: Doubles, turns: Doubles) -> tuple[Doubles, Doubles]:
    """Widths and depths (m, turns) of points at (u, v), (m, n) each, in frames turned about the origin."""
    widths, depths = np.empty((len(u), len(turns))), np.empty((len(u), len(turns)))
    for row in range(len(u)):
        for turn in range(len(turns)):
            c, s = np.cos(turns[turn]), np.sin(turns[turn])
            left, right, low, high = 1e300, -1e300, 1e300, -1e300
            for i in range(u.shape[1]):
                across, along = c * u[row, i] + s * v[row, i], c * v[row, i] - s * u[row, i]
                left, right = min(left, across), max(right, across)
                low, high = min(low, along), max(high, along)
            widths[row, turn], depths[row, turn] = right - left, high - low
    return widths, depths


def _curvature(body: Body, area: float) -> tuple[float, float, float]:
    """Mean of the mean curvature, its spread over patches, and the concave share; times the equivalent radius.

    The mean curvature of a polyhedron is on its edges: half the angle between the faces times the length.
    """
    radius = (3.0 * body.volume / (4.0 * math.pi)) ** (1.0 / 3.0)
    vertices, faces = body.vertices, body.faces
    cross = _cross(vertices[faces])
    double = np.linalg.norm(cross, axis=1)
    normals = cross / np.maximum(double, 1e-30)[:, None]
    starts, stops = faces.ravel(), faces[:, [1, 2, 0]].ravel()
    forth, back = starts * len(vertices) + stops, stops * len(vertices) + starts
    owner = np.repeat(np.arange(len(faces)), 3)
    order, reverse = np.argsort(forth), np.argsort(back)
    opposite = np.empty(len(owner), dtype=np.int64)
    opposite[reverse] = owner[order]  # face on the other side of each directed edge
    along = vertices[stops] - vertices[starts]
    length = np.linalg.norm(along, axis=1)
    turn = np.einsum("ij,ij->i", np.cross(normals[owner], normals[opposite]), along) / np.maximum(length, 1e-30)
    angle = np.arctan2(turn, np.einsum("ij,ij->i", normals[owner], normals[opposite]))  # positive where convex
    share = 0.25 * angle * length  # an edge is met twice, once from each side
    whole = float(share.sum())
    count = len(vertices)
    curved = np.bincount(starts, 0.5 * share, minlength=count) + np.bincount(stops, 0.5 * share, minlength=count)
    covered = np.bincount(faces.ravel(), np.repeat(double / 6.0, 3), minlength=count)
    places = np.searchsorted(np.cumsum(covered), (np.arange(PATCHES) + 0.5) / PATCHES * area).clip(max=count - 1)
    near = KDTree(vertices).query_ball_point(vertices[places], PATCH * radius)
    sizes = np.array([len(members) for members in near])
    members = np.concatenate([np.asarray(one, dtype=np.int64) for one in near])
    bounds = np.concatenate([[0], np.cumsum(sizes)[:-1]])
    local = np.add.reduceat(curved[members], bounds) / np.maximum(np.add.reduceat(covered[members], bounds), 1e-30)
    return radius * whole / area, float(radius * local.std()), float((radius * local < CONCAVE).mean())
