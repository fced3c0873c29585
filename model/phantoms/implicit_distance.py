"""Exact signed distances to the zero set of any implicit function.

A phantom describes a cell by whatever formula is convenient: right sign, right zero set, but not a distance (smooth
unions, cuts and deformations spoil that). :class:`ShapeFrame` meshes the zero set, moves every vertex onto it by
Newton steps, and answers with the distance to the nearest point of the surface: the nearest triangle, then one Newton
step along the surface, whose curvature is known from the turn of the normals.

Promises
--------
- The sign is that of the implicit function at every point.
- The nearest triangle is found to 1e-4 of its squared distance (bounding-volume tree), so |∇d| = 1 off the medial axis.
- Where the radius of curvature is several cells of the sampling grid (2 / ``resolution``) errors are far below
  0.1 voxel at 128³: about 1e-7 for a sphere of radius 0.5, 1e-5 for a rod of radius 0.05. At creases the error is the
  sag of a flat triangle.

Does not promise
----------------
- Parts, gaps and necks thinner than one cell of the sampling grid may be missed: raise ``resolution`` for frames that
  have them.
- Nothing about the implicit function is checked: too small a ``lipschitz`` can lose pieces of the surface.
"""

from collections.abc import Callable
from functools import cached_property
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from skimage.measure import marching_cubes

from model.domain import OMEGA
from model.engine.jit import compiled_reordered
from model.membranes.triangle_tree import Nearest, TriangleTree

__all__ = ["ShapeFrame", "SignedDistance"]

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]
Integers = NDArray[np.int64]

SignedDistance = Callable[[Floats], Floats]
"""Points (n, 3) float32 in Ω to signed distances (n,) float32, in units of Ω, negative inside."""

Implicit = Callable[[Doubles], Doubles]
"""Points (n, 3) float64 in Ω to values (n,) float64, negative inside."""

BLOCK = 4  # cells of the sampling grid along the side of a block that is skipped or kept as one
FINEST_BLOCK = 2  # the same after blocks that are kept were halved; 1 would evaluate more centres than it saves samples
PRUNING = 0.9999  # of the best squared distance: a triangle nearer by less may be missed; the curved step makes it good
SHORTEST = 0.3  # least curvature factor 1 + κ d a step along the surface is divided by
DIFFERENCE = 1e-5  # step of the forward differences that give normals, units of Ω
CREASE = 0.6  # an edge whose ends' normals have a smaller cosine crosses a crease: no curvature is read from it
SURFACE_POINTS = 8192
PROJECTED = 0.12  # distance from the surface up to which it is found by projection, units of Ω
PROJECTIONS = 4  # steps of it; a fifth changes the mean error by less than 1e-6
SLIDE = 0.7  # of the way along the surface that a step goes; 1 overshoots where the surface bends towards the point
LONGEST_STEP = 0.05  # of a Newton step onto the zero set, units of Ω
CONVERGED = 0.02  # value of the implicit function before the last Newton step, beyond which a foot is not trusted


class ShapeFrame:
    """One frame of a phantom: the exact signed distance function of an implicit surface.

    Parameters
    ----------
    implicit
        Maps points (n, 3) float64 in Ω to values (n,) float64: negative inside, zero on the surface, and roughly a
        distance near it (its slope there between about 1/2 and ``lipschitz``). The surface lies inside Ω.
    resolution
        Cells along an edge of Ω of the grid on which the surface is found, a multiple of 4.
    components
        Number of connected components the shape has; recorded, not checked.
    lipschitz
        Fastest change of ``implicit`` per unit of Ω; blocks whose centre value exceeds it times their half-diagonal
        are not looked into.

    Raises
    ------
    ValueError
        If ``resolution`` is not a multiple of 4, or nothing is inside.

    Attributes
    ----------
    components : int
        Number of connected components.

    Notes
    -----
    Building evaluates ``implicit`` at about 20 points per cell that meets the surface: 0.2 million for a sphere of
    radius 0.5, 0.06 s beside the evaluations themselves. A call evaluates it once per point, for the sign, and searches
    the tree in 5 µs (near the surface) to 20 µs (deep inside) a point.
    """

    components: int

    def __init__(
        self, implicit: Implicit, *, resolution: int = 96, components: int = 1, lipschitz: float = 1.5
    ) -> None:
        if resolution % BLOCK:
            raise ValueError(f"resolution is a multiple of {BLOCK}, not {resolution}")
        self.components = components
        self._implicit = implicit
        values = _sample(implicit, resolution=resolution, lipschitz=lipschitz)
        self._vertices, self._normals, self._faces = _mesh(implicit, values)
        self._longest = 0.9 / resolution

    def __call__(self, points: Floats) -> Floats:
        """Return the signed distance of each point to the surface.

        Parameters
        ----------
        points
            (n, 3) float32, in Ω.

        Returns
        -------
        Floats
            (n,) float32, units of Ω, negative inside.
        """
        exact = np.ascontiguousarray(points, dtype=np.float64)
        outside = self._implicit(exact) > 0.0  # (n,)
        return np.asarray(self._surface.distance(exact, outside), dtype=np.float32)

    def scaled(self, factor: float, implicit: Implicit) -> Self:
        """Return the frame of the same shape, larger by a factor, whose implicit function is given."""
        copy = object.__new__(type(self))
        copy.components, copy._implicit = self.components, implicit
        copy._vertices, copy._normals, copy._faces = self._vertices * factor, self._normals, self._faces
        copy._longest = self._longest * factor
        return copy

    def projected(self, points: Floats) -> Floats:
        """Return signed distances by projection onto the zero set: right to 1e-3 also where the mesh is coarse.

        The nearest point of the mesh is moved onto the zero set and along it towards the point, a few times. Beyond
        ``PROJECTED`` from the surface the distance is that of :meth:`__call__`.

        Parameters
        ----------
        points
            (n, 3) float32, in Ω.

        Returns
        -------
        Floats
            (n,) float32, units of Ω, negative inside. The sign is that of the implicit function.
        """
        exact = np.ascontiguousarray(points, dtype=np.float64)
        outside = self._implicit(exact) > 0.0  # (n,)
        distances, feet = self._surface.found(exact, outside)
        near = np.flatnonzero(np.abs(distances) < PROJECTED)
        feet, found = feet[near], np.full(len(near), np.inf)
        for step in range(PROJECTIONS):
            for _ in range(2 if step == 0 else 1):
                levels = self._implicit(feet)
                feet, gradients = _newton(self._implicit, feet, reach=LONGEST_STEP, values=levels)
            normals = gradients / np.maximum(np.linalg.norm(gradients, axis=1, keepdims=True), 1e-12)
            apart = exact[near] - feet
            length = np.linalg.norm(apart, axis=1)
            found = np.where((np.abs(levels) < CONVERGED) & (length < found), length, found)
            along = apart - np.einsum("ij,ij->i", apart, normals)[:, None] * normals
            feet = feet + SLIDE * along
        better = np.isfinite(found)
        distances[near[better]] = np.where(outside[near[better]], found[better], -found[better])
        return np.asarray(distances, dtype=np.float32)

    def contains(self, points: Floats) -> NDArray[np.bool_]:
        """Tell which of the points (n, 3) are inside, (n,): the sign alone, far cheaper than the distance."""
        return np.asarray(self._implicit(np.ascontiguousarray(points, dtype=np.float64)) <= 0.0)

    @cached_property
    def _surface(self) -> "_CurvedSurface":
        return _CurvedSurface(self._vertices, self._normals, faces=self._faces, longest=self._longest)

    @property
    def vertices(self) -> Doubles:
        """Points of the surface that its triangles join, (v, 3) in Ω."""
        return self._vertices

    @property
    def faces(self) -> Integers:
        """Triangles, (f, 3) rows of ``vertices``, anticlockwise seen from outside."""
        return self._faces

    def bodies(self) -> int:
        """Count the connected sheets of the surface."""
        ends = self._faces[:, [0, 1, 1, 2]].reshape(-1, 2)
        graph = coo_array((np.ones(len(ends), np.int8), (ends[:, 0], ends[:, 1])), shape=(len(self._vertices),) * 2)
        _, of_vertex = connected_components(graph, directed=False)
        return len(np.unique(of_vertex[self._faces[:, 0]]))

    def least_slope(self) -> float:
        """Return the least slope of the implicit function across the surface, at every eighth vertex."""
        points, normals = self._vertices[::8], self._normals[::8]
        rise = self._implicit(points + 1e-3 * normals) - self._implicit(points - 1e-3 * normals)
        return float(rise.min() / 2e-3)

    @cached_property
    def volume(self) -> float:
        """Volume inside the surface, cubic units of Ω."""
        corners = self._vertices[self._faces]  # (f, 3, 3)
        cross = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])  # (f, 3)
        flat = np.einsum("ij,ij->", corners[:, 0], cross) / 6.0
        bulges = _bulges(self._vertices, self._normals, faces=self._faces)
        bulged = (0.5 * np.linalg.norm(cross, axis=1) * bulges.sum(axis=1)).sum() / 12.0
        return float(flat + bulged)

    @cached_property
    def farthest(self) -> float:
        """Bound on the distance of the surface from the origin, units of Ω: its vertices', and what bulges beyond."""
        bulges = _bulges(self._vertices, self._normals, faces=self._faces)
        return float(np.linalg.norm(self._vertices, axis=1).max() + bulges.max(initial=0.0) / 3.0 + 1e-6)

    @cached_property
    def area(self) -> float:
        """Area of the surface, square units of Ω."""
        return float(_areas(self._vertices, self._faces).sum())

    @cached_property
    def surface_points(self) -> Floats:
        """Points on the surface, (8192, 3) float32 in Ω, spread evenly by area and in random order of place."""
        areas = _areas(self._vertices, self._faces)
        strata = (np.arange(SURFACE_POINTS) + 0.5) / SURFACE_POINTS * areas.sum()
        chosen = np.minimum(np.searchsorted(np.cumsum(areas), strata), len(areas) - 1)
        # Additive recurrence of the plastic number: low discrepancy in the unit square, folded into a triangle.
        steps = np.arange(1, SURFACE_POINTS + 1)[:, None] * np.array([0.7548776662466927, 0.5698402909980532])
        weights = steps % 1.0
        weights = np.where(weights.sum(axis=1, keepdims=True) > 1.0, 1.0 - weights, weights)
        weights = np.column_stack([1.0 - weights.sum(axis=1), weights])  # (m, 3)
        corners = self._faces[chosen]  # (m, 3)
        flat = np.einsum("ij,ijk->ik", weights, self._vertices[corners])
        normals = np.einsum("ij,ijk->ik", weights, self._normals[corners])
        normals /= np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-12)
        bulges = _bulges(self._vertices, self._normals, faces=corners)
        rise = np.einsum("ij,ij->i", bulges, weights * np.roll(weights, -1, axis=1))
        order = np.random.default_rng(0).permutation(SURFACE_POINTS)
        return np.asarray((flat + rise[:, None] * normals)[order], dtype=np.float32)


def _sample(implicit: Implicit, *, resolution: int, lipschitz: float) -> Doubles:
    """Sample an implicit function on a grid of Ω, in full only in blocks that may meet its zero set.

    Blocks are tested by their centres' values, first those of ``BLOCK`` cells a side, then halves of those that are
    left. Samples elsewhere get a value of the right sign: that of their block's centre.
    """
    side, step = BLOCK, 2.0 / resolution
    near = np.ones((resolution // side,) * 3, dtype=np.bool_)
    levels = np.zeros(near.shape)
    while True:
        at = np.argwhere(near)
        found = implicit(np.asarray(-1.0 + step * side * (at + 0.5), dtype=np.float64))
        levels[near] = found
        near[near] = np.abs(found) <= lipschitz * step * side * np.sqrt(3.0) / 2.0
        if side == FINEST_BLOCK:
            break
        side //= 2
        near, levels = _halved(near), _halved(levels)
    values = np.pad(_repeated(levels, side), (0, 1), mode="edge")
    # A sample is needed if any block that touches it, also by its upper faces, is near.
    needed = np.zeros(values.shape, dtype=np.bool_)
    kept = _repeated(near, side)
    for i in (0, 1):
        for j in (0, 1):
            for k in (0, 1):
                needed[i : i + resolution, j : j + resolution, k : k + resolution] |= kept
    index = np.argwhere(needed)
    values[needed] = implicit(np.asarray(-1.0 + step * index, dtype=np.float64))
    if values.min() >= 0.0:
        raise ValueError("nothing is inside the implicit function")
    return np.asarray(values, dtype=np.float64)


def _repeated(blocks: NDArray[Any], side: int) -> NDArray[Any]:
    """Return an array in which every element of ``blocks`` fills a cube of ``side``³."""
    return blocks.repeat(side, axis=0).repeat(side, axis=1).repeat(side, axis=2)


def _halved(blocks: NDArray[Any]) -> NDArray[Any]:
    return _repeated(blocks, 2)


def _mesh(implicit: Implicit, values: Doubles) -> tuple[Doubles, Doubles, Integers]:
    """Triangulate the zero set: vertices on it (v, 3), outward unit normals (v, 3), outward faces (f, 3)."""
    resolution = values.shape[0] - 1
    step = 2.0 / resolution
    corners, triangles, _, _ = marching_cubes(values, 0.0, allow_degenerate=False)
    vertices = corners.astype(np.float64) * step - 1.0
    faces = triangles.astype(np.int64)
    for reach in (step / 2, step / 4, step / 8):
        vertices, gradients = _newton(implicit, vertices, reach=reach)
    normals = gradients / np.maximum(np.linalg.norm(gradients, axis=1, keepdims=True), 1e-12)
    cross = np.cross(vertices[faces[:, 1]] - vertices[faces[:, 0]], vertices[faces[:, 2]] - vertices[faces[:, 0]])
    if np.einsum("ij,ij->", cross, normals[faces[:, 0]]) < 0.0:
        faces = faces[:, ::-1]
    return vertices, normals, np.ascontiguousarray(faces)


def _newton(
    implicit: Implicit, points: Doubles, *, reach: float, values: Doubles | None = None
) -> tuple[Doubles, Doubles]:
    """Move points one Newton step, of length ``reach`` at most, towards the zero set; also the gradients (n, 3)."""
    values = implicit(points) if values is None else values
    gradients = np.empty_like(points)
    for axis in range(3):
        shifted = points.copy()
        shifted[:, axis] += DIFFERENCE
        gradients[:, axis] = (implicit(shifted) - values) / DIFFERENCE
    squared = np.maximum(np.einsum("ij,ij->i", gradients, gradients), 1e-12)
    steps = -gradients * (values / squared)[:, None]
    lengths = np.linalg.norm(steps, axis=1, keepdims=True)
    return points + steps * np.minimum(1.0, reach / np.maximum(lengths, 1e-12)), gradients


def _edge_bulge(vertices: Doubles, normals: Doubles, *, ends: Integers) -> Doubles:
    """Return κ |e|² / 2 of each edge (e, 2) from the turn of its normals: u v times that is the surface's rise.

    Here u and v are the weights of the edge's ends and κ the curvature along it.
    """
    turn = normals[ends[:, 1]] - normals[ends[:, 0]]
    along = vertices[ends[:, 1]] - vertices[ends[:, 0]]
    smooth = np.einsum("ij,ij->i", normals[ends[:, 0]], normals[ends[:, 1]]) > CREASE
    return np.where(smooth, np.einsum("ij,ij->i", turn, along) / 2.0, 0.0)


def _bulges(vertices: Doubles, normals: Doubles, *, faces: Integers) -> Doubles:
    """Return the bulge of the edges (0, 1), (1, 2), (2, 0) of each face, (f, 3)."""
    return np.stack([_edge_bulge(vertices, normals, ends=faces[:, e]) for e in ([0, 1], [1, 2], [2, 0])], axis=1)


def _areas(vertices: Doubles, faces: Integers) -> Doubles:
    """Return the area of each face, (f,)."""
    corners = vertices[faces]
    cross = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    return np.asarray(0.5 * np.linalg.norm(cross, axis=1))


class _CurvedSurface:
    """Signed distances to the curved surface whose points and normals a mesh holds.

    ``longest`` bounds the step along the surface from the nearest triangle's foot, units of Ω.
    """

    def __init__(self, vertices: Doubles, normals: Doubles, *, faces: Integers, longest: float) -> None:
        self._longest = longest
        self._tree = TriangleTree(vertices[faces], low=np.full(3, OMEGA[0]), side=OMEGA[1] - OMEGA[0])
        faces = faces[self._tree.order]
        self._bulges = _bulges(vertices, normals, faces=faces)
        turns, smooth = _turns(vertices, normals, faces=faces)
        self._normals = normals[faces]  # (f, 3, 3)
        self._turns = turns[faces]  # (f, 3, 3, 3)
        self._smooth: NDArray[np.bool_] = np.all(smooth[faces], axis=1)  # (f,)

    def distance(self, points: Doubles, outside: NDArray[np.bool_]) -> Doubles:
        """Return signed distances (n,), positive where ``outside``."""
        return self._curved(points, outside, self._tree.nearest(points, pruning=PRUNING))

    def found(self, points: Doubles, outside: NDArray[np.bool_]) -> tuple[Doubles, Doubles]:
        """Return the same, and the nearest points of the flat triangles, (n, 3)."""
        nearest = self._tree.nearest(points, pruning=PRUNING)
        feet = np.einsum("ij,ijk->ik", nearest.weights, self._tree.corners[nearest.faces])
        return self._curved(points, outside, nearest), feet

    def _curved(self, points: Doubles, outside: NDArray[np.bool_], nearest: Nearest) -> Doubles:
        return _curved(
            points,
            outside,
            nearest.distances,
            nearest.faces,
            nearest.weights,
            self._tree.corners,
            self._bulges,
            self._normals,
            self._turns,
            self._smooth,
            self._longest,
        )


def _turns(vertices: Doubles, normals: Doubles, *, faces: Integers) -> tuple[Doubles, NDArray[np.bool_]]:
    """Return the shape operator at each vertex, (v, 3, 3), and whether the surface is smooth there, (v,).

    The operator S turns a step along the surface into the turn of the normal, fitted to the edges around the vertex:
    least squares of S e = Δn, with S n = 0.
    """
    starts, stops = faces.ravel(), faces[:, [1, 2, 0]].ravel()
    along, turn = vertices[stops] - vertices[starts], normals[stops] - normals[starts]
    crease = np.einsum("ij,ij->i", normals[starts], normals[stops]) <= CREASE
    count = len(vertices)
    smooth = np.bincount(starts, crease, minlength=count) + np.bincount(stops, crease, minlength=count) == 0.0
    squares, products = np.empty((count, 3, 3)), np.empty((count, 3, 3))
    for i in range(3):
        for j in range(3):
            for total, left in ((squares, along), (products, turn)):
                product = left[:, i] * along[:, j]
                total[:, i, j] = np.bincount(starts, product, minlength=count)
                total[:, i, j] += np.bincount(stops, product, minlength=count)
    scale = np.trace(squares, axis1=1, axis2=2)[:, None, None] + 1e-30
    normal = normals[:, :, None] * normals[:, None, :]
    fitted = products @ np.linalg.inv(squares + scale * (normal + 1e-6 * np.eye(3)))
    tangent = np.eye(3) - normal
    fitted = tangent @ fitted @ tangent
    return (fitted + fitted.transpose(0, 2, 1)) / 2.0, smooth


@compiled_reordered
def _curved(
    points: Doubles,
    outside: NDArray[np.bool_],
    feet: Doubles,
    faces: Integers,
    weights: Doubles,
    corners: Doubles,
    bulges: Doubles,
    normals: Doubles,
    turns: Doubles,
    smooth: NDArray[np.bool_],
    longest: float,
) -> Doubles:
    """Return signed distances to the curved surface, from the nearest points of the flat triangles.

    The foot y is raised onto the surface. If t is the part of p - y along the surface and d its height, one Newton
    step (I + d S)⁻¹ t along the surface reaches the foot of p, S the shape operator interpolated to y.
    """
    distances = np.empty(len(points))
    n, y, t = np.empty(3), np.empty(3), np.empty(3)
    for i in range(len(points)):
        f = faces[i]
        sign = 1.0 if outside[i] else -1.0
        if not smooth[f]:
            distances[i] = sign * feet[i]
            continue
        u, v, w = weights[i, 0], weights[i, 1], weights[i, 2]
        rise = u * v * bulges[f, 0] + v * w * bulges[f, 1] + w * u * bulges[f, 2]
        length = 0.0
        for k in range(3):
            n[k] = u * normals[f, 0, k] + v * normals[f, 1, k] + w * normals[f, 2, k]
            length += n[k] * n[k]
        length = np.sqrt(length)
        height = 0.0
        for k in range(3):
            n[k] /= length
            y[k] = u * corners[f, 0, k] + v * corners[f, 1, k] + w * corners[f, 2, k] + rise * n[k]
            t[k] = points[i, k] - y[k]
            height += t[k] * n[k]
        # A tangent basis (e, g) at y, and in it the step (a, b) and the operator (see, seg, sgg).
        ex, ey, ez = (0.0, -n[2], n[1]) if abs(n[0]) < 0.6 else (n[2], 0.0, -n[0])
        length = np.sqrt(ex * ex + ey * ey + ez * ez)
        ex, ey, ez = ex / length, ey / length, ez / length
        gx, gy, gz = n[1] * ez - n[2] * ey, n[2] * ex - n[0] * ez, n[0] * ey - n[1] * ex
        a = t[0] * ex + t[1] * ey + t[2] * ez
        b = t[0] * gx + t[1] * gy + t[2] * gz
        see, seg, sgg = 0.0, 0.0, 0.0
        for j in range(3):
            ej = ex if j == 0 else (ey if j == 1 else ez)
            gj = gx if j == 0 else (gy if j == 1 else gz)
            for k in range(3):
                ek = ex if k == 0 else (ey if k == 1 else ez)
                gk = gx if k == 0 else (gy if k == 1 else gz)
                s = u * turns[f, 0, j, k] + v * turns[f, 1, j, k] + w * turns[f, 2, j, k]
                see += ej * s * ek
                seg += ej * s * gk
                sgg += gj * s * gk
        # Principal axes; near a centre of curvature (1 + κ d -> 0) the step is held short, the distance hardly changes.
        angle = 0.5 * np.arctan2(2.0 * seg, see - sgg)
        c, s = np.cos(angle), np.sin(angle)
        first = see * c * c + 2.0 * seg * c * s + sgg * s * s
        second = see + sgg - first
        along, across = a * c + b * s, b * c - a * s
        p = along / max(1.0 + height * first, SHORTEST)
        q = across / max(1.0 + height * second, SHORTEST)
        reach = np.sqrt(p * p + q * q)
        if reach > 0.0:
            held = min(1.0, longest / reach)
            p, q = p * held, q * held
        over = height + 0.5 * (first * p * p + second * q * q)
        distances[i] = sign * np.sqrt((along - p) ** 2 + (across - q) ** 2 + over * over)
    return distances
