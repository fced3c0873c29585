"""The nearest of many triangles: a tree of boxes over triangles that are sorted along a Morton curve.

The boxes form a complete binary tree: node i has the children 2 i and 2 i + 1, and a leaf holds about four triangles.
The search goes down to the nearer child first and skips boxes that are farther than the nearest triangle found.

Promises: with ``pruning=1`` no triangle is nearer than the one found, up to rounding.
Does not promise: which of several equally near triangles is found; the same last bits on processors of different kinds.

References: nearest point of a triangle by its Voronoi regions, Ericson 2005 (Real-Time Collision Detection, 5.1.5).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from model.engine.jit import compiled_reordered

Doubles = NDArray[np.float64]
Integers = NDArray[np.int64]

_LEAF = 4  # triangles in a leaf, about: more make the tree smaller and each search longer
_CELLS = 1024  # of the Morton curve along each axis


class Nearest(NamedTuple):
    """The nearest triangle of each of n points, and the foot: the point of it that is nearest.

    Attributes
    ----------
    distances
        (n,).
    faces
        (n,) rows of :attr:`TriangleTree.corners`.
    weights
        (n, 3) of the triangle's corners; their weighted sum is the foot.
    features
        (n,) what holds the foot: corners 0, 1, 2; edges 0-1, 1-2, 2-0 as 3, 4, 5; the inside of the triangle as 6.
    """

    distances: Doubles
    faces: Integers
    weights: Doubles
    features: Integers


class TriangleTree:
    """Triangles to be searched.

    Parameters
    ----------
    corners
        (f, 3 corners, 3), at least one triangle.
    low, side
        Lower corner (3,) and side of a cube that holds the triangles: where the Morton curve runs.

    Attributes
    ----------
    order
        (f,) row of the given ``corners`` that each sorted triangle had.
    corners
        (f, 3, 3), sorted.

    Notes
    -----
    Building takes about 1 µs a triangle, a search 3 to 15 µs a point.
    """

    def __init__(self, corners: Doubles, *, low: Doubles, side: float) -> None:
        self.order = np.argsort(_morton(corners.mean(axis=1), low, side))
        self.corners = np.ascontiguousarray(corners[self.order])
        leaves = 1 << max(0, int(np.ceil(np.log2(len(corners) / _LEAF))))
        self._starts = np.linspace(0, len(corners), leaves + 1).astype(np.int64)
        self._boxes = _boxes(self.corners, self._starts)

    def nearest(self, points: Doubles, *, pruning: float = 1.0) -> Nearest:
        """Find the nearest triangle of each point.

        Parameters
        ----------
        points
            (n, 3) float64.
        pruning
            Boxes whose squared distance exceeds this share of the smallest one found are skipped. Below 1 the search is
            shorter and may miss a triangle that is nearer by a smaller share.
        """
        return Nearest(*_nearest(points, self.corners, self._starts, self._boxes, pruning))


def _morton(points: Doubles, low: Doubles, side: float) -> Integers:
    """Place of each point (n, 3) on a Morton curve of 1024³ cells in a cube."""
    cells = np.clip((points - low) * (_CELLS / side), 0, _CELLS - 1).astype(np.int64)
    for shift, mask in ((16, 0x030000FF), (8, 0x0300F00F), (4, 0x030C30C3), (2, 0x09249249)):
        cells = (cells | (cells << shift)) & mask
    return np.asarray(cells[:, 0] | (cells[:, 1] << 1) | (cells[:, 2] << 2))


@compiled_reordered
def _boxes(corners: Doubles, starts: Integers) -> Doubles:
    """Return the boxes of all nodes (2 leaves, 6): lower corner, upper corner."""
    leaves = len(starts) - 1
    boxes = np.empty((2 * leaves, 6))
    boxes[:, :3] = np.inf
    boxes[:, 3:] = -np.inf
    for leaf in range(leaves):
        for face in range(starts[leaf], starts[leaf + 1]):
            for corner in range(3):
                for axis in range(3):
                    value = corners[face, corner, axis]
                    boxes[leaves + leaf, axis] = min(boxes[leaves + leaf, axis], value)
                    boxes[leaves + leaf, 3 + axis] = max(boxes[leaves + leaf, 3 + axis], value)
    for node in range(leaves - 1, 0, -1):
        for axis in range(3):
            boxes[node, axis] = min(boxes[2 * node, axis], boxes[2 * node + 1, axis])
            boxes[node, 3 + axis] = max(boxes[2 * node, 3 + axis], boxes[2 * node + 1, 3 + axis])
    return boxes


@compiled_reordered
def _box_distance(boxes: Doubles, node: int, x: float, y: float, z: float) -> float:
    """Return the squared distance from a point to a node's box."""
    dx = max(boxes[node, 0] - x, 0.0, x - boxes[node, 3])
    dy = max(boxes[node, 1] - y, 0.0, y - boxes[node, 4])
    dz = max(boxes[node, 2] - z, 0.0, z - boxes[node, 5])
    return float(dx * dx + dy * dy + dz * dz)


@compiled_reordered
def _foot(triangle: Doubles, x: float, y: float, z: float) -> tuple[float, float, float, int]:
    """Squared distance from a point to a triangle (3, 3), the foot's weights of corners 1 and 2, and its feature.

    The regions of Voronoi are told apart by signs of dot products (Ericson, Real-Time Collision Detection, §5.1.5).
    """
    abx, aby, abz = triangle[1, 0] - triangle[0, 0], triangle[1, 1] - triangle[0, 1], triangle[1, 2] - triangle[0, 2]
    acx, acy, acz = triangle[2, 0] - triangle[0, 0], triangle[2, 1] - triangle[0, 1], triangle[2, 2] - triangle[0, 2]
    apx, apy, apz = x - triangle[0, 0], y - triangle[0, 1], z - triangle[0, 2]
    bb = abx * abx + aby * aby + abz * abz
    bc = abx * acx + aby * acy + abz * acz
    cc = acx * acx + acy * acy + acz * acz
    pb = abx * apx + aby * apy + abz * apz
    pc = acx * apx + acy * apy + acz * apz
    v = pb * cc - pc * bc
    w = pc * bb - pb * bc
    whole = bb * cc - bc * bc
    if v >= 0.0 and w >= 0.0 and v + w <= whole and whole > 0.0:
        v /= whole
        w /= whole
        feature = 6
    else:
        v, w, feature = 0.0, 0.0, 0
        best = np.inf
        for edge in range(3):
            if edge == 0:  # a to b
                s = min(max(pb / bb, 0.0), 1.0) if bb > 0.0 else 0.0
                tv, tw = s, 0.0
            elif edge == 1:  # a to c
                s = min(max(pc / cc, 0.0), 1.0) if cc > 0.0 else 0.0
                tv, tw = 0.0, s
            else:  # b to c
                length = bb + cc - 2.0 * bc
                s = min(max((bb - bc + pc - pb) / length, 0.0), 1.0) if length > 0.0 else 0.0
                tv, tw = 1.0 - s, s
            # |ap - v ab - w ac|² less its constant |ap|²
            cost = tv * tv * bb + 2.0 * tv * tw * bc + tw * tw * cc - 2.0 * (tv * pb + tw * pc)
            if cost < best:
                best, v, w = cost, tv, tw
                start, stop, between = (0, 1, 3) if edge == 0 else ((0, 2, 5) if edge == 1 else (1, 2, 4))
                feature = start if s <= 0.0 else (stop if s >= 1.0 else between)
    dx, dy, dz = apx - v * abx - w * acx, apy - v * aby - w * acy, apz - v * abz - w * acz
    return dx * dx + dy * dy + dz * dz, v, w, feature


@compiled_reordered
def _nearest(
    points: Doubles, corners: Doubles, starts: Integers, boxes: Doubles, pruning: float
) -> tuple[Doubles, Integers, Doubles, Integers]:
    """Distance of each point to the nearest triangle (n,), its face (n,), weights (n, 3) and feature (n,)."""
    leaves = len(starts) - 1
    distances = np.empty(len(points))
    faces = np.empty(len(points), dtype=np.int64)
    weights = np.empty((len(points), 3))
    features = np.empty(len(points), dtype=np.int64)
    stack = np.empty(64, dtype=np.int64)
    bounds = np.empty(64)
    for i in range(len(points)):
        x, y, z = points[i, 0], points[i, 1], points[i, 2]
        best, face, v, w, feature = np.inf, 0, 0.0, 0.0, 0
        stack[0], bounds[0], height = 1, 0.0, 1
        while height > 0:
            height -= 1
            node = stack[height]
            if bounds[height] >= best * pruning:
                continue
            if node >= leaves:
                for candidate in range(starts[node - leaves], starts[node - leaves + 1]):
                    squared, tv, tw, kind = _foot(corners[candidate], x, y, z)
                    if squared < best:
                        best, face, v, w, feature = squared, candidate, tv, tw, kind
                continue
            left = _box_distance(boxes, 2 * node, x, y, z)
            right = _box_distance(boxes, 2 * node + 1, x, y, z)
            near, far = (2 * node, 2 * node + 1) if left <= right else (2 * node + 1, 2 * node)
            if max(left, right) < best * pruning:
                stack[height], bounds[height] = far, max(left, right)
                height += 1
            if min(left, right) < best:
                stack[height], bounds[height] = near, min(left, right)
                height += 1
        distances[i], faces[i], features[i] = np.sqrt(max(best, 0.0)), face, feature
        weights[i, 0], weights[i, 1], weights[i, 2] = 1.0 - v - w, v, w
    return distances, faces, weights, features
