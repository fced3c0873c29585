"""The case table of marching cubes, derived by a program instead of listed.

Corner (a, b, c) of a grid cell has the number 4 a + 2 b + c. A case is the set of corners inside, as bits. On each face
of the cell the surface separates each connected group of outside corners, so that inside corners on a face's diagonal
are joined. The lines on the six faces form closed loops. Each loop is cut into triangles without a diagonal between two
edges of one face. The neighbouring cell draws the same lines on the shared face, so every edge of the surface belongs
to exactly two triangles, whatever the signs.

References: Lorensen, Cline 1987, doi:10.1145/37402.37422.
"""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray

CORNERS = np.array([(n >> 2 & 1, n >> 1 & 1, n & 1) for n in range(8)], dtype=np.int64)
"""(8, 3) place of each corner in its cell."""

EDGES = np.array([(n, axis) for axis in range(3) for n in range(8) if not n & 4 >> axis], dtype=np.int64)
"""(12, 2) edges of a cell: number of the lower corner, and axis."""

MOST = 5  # triangles in one grid cell, at most

_Loop = tuple[int, ...]  # edges, the outside on the right hand of one who walks on the outer side


def triangle_table() -> NDArray[np.int8]:
    """Triangles of each case: (256, 15) rows of edge numbers, three a triangle, outward, filled up with −1."""
    table = np.full((256, 3 * MOST), -1, dtype=np.int8)
    for case in range(256):
        triangles = [edge for loop in _loops(case) for triangle in _cut(loop)[1] for edge in triangle]
        table[case, : len(triangles)] = triangles
    return table


def _loops(case: int) -> list[_Loop]:
    following = {}
    for face in _faces():
        inside = [bool(case >> corner & 1) for corner in face]
        for first in range(4):
            if not inside[first] or inside[(first + 1) % 4]:
                continue
            last = first + 1  # walk along the outside corners
            while not inside[(last + 1) % 4]:
                last += 1
            leave = _edge(face[first], face[(first + 1) % 4])
            enter = _edge(face[last % 4], face[(last + 1) % 4])
            following[enter] = leave
    loops = []
    while following:
        loop = [min(following)]
        while loop[0] != (edge := following.pop(loop[-1])):
            loop.append(edge)
        loops.append(tuple(loop))
    return loops


@cache
def _faces() -> list[tuple[int, ...]]:
    """Corners of the six faces, anticlockwise seen from outside the cell."""
    faces = []
    for axis in range(3):
        u, v = 4 >> (axis + 1) % 3, 4 >> (axis + 2) % 3
        around = (0, u, u | v, v)  # anticlockwise seen from the end of the axis
        faces.append(tuple(n | 4 >> axis for n in around))
        faces.append(tuple(reversed(around)))
    return faces


@cache
def _edge(first: int, second: int) -> int:
    low, axis = min(first, second), {4: 0, 2: 1, 1: 2}[first ^ second]
    return next(n for n, edge in enumerate(EDGES.tolist()) if edge == [low, axis])


@cache
def _share_a_face(first: int, second: int) -> bool:
    ends = [{int(corner), int(corner) | 4 >> int(axis)} for corner, axis in EDGES[[first, second]]]
    return any(ends[0] <= set(face) and ends[1] <= set(face) for face in _faces())


@cache
def _cut(loop: _Loop) -> tuple[float, tuple[_Loop, ...]]:
    """Cut a loop into triangles: the least sum of squared diagonals, none of them within a face."""
    if len(loop) == 3:
        return 0.0, (loop,)
    best: tuple[float, tuple[_Loop, ...]] = (np.inf, ())
    first, last = loop[0], loop[-1]
    for n in range(1, len(loop) - 1):  # the triangle at the side from last to first
        cost = 0.0
        triangles: tuple[_Loop, ...] = ((first, loop[n], last),)
        for part in (loop[: n + 1], loop[n:]):
            if len(part) > 2:
                own, more = _cut(part)
                cost += own + _diagonal(part[0], part[-1])
                triangles += more
        if cost < best[0]:
            best = (cost, triangles)
    return best


def _diagonal(first: int, second: int) -> float:
    if _share_a_face(first, second):
        return float("inf")
    middle = CORNERS[EDGES[[first, second], 0]] + 0.5 * np.eye(3)[EDGES[[first, second], 1]]
    return float(((middle[0] - middle[1]) ** 2).sum())
