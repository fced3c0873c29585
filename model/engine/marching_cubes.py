"""Marching cubes: closed triangulated surfaces from signed distances.

Promises: any finite field that changes sign gives a closed surface. Every edge belongs to exactly two triangles, which
run along it in opposite directions. Triangles face outward (the enclosed volume is positive). No two vertices coincide.
No vertex lies more than 1e-3 of a step outside Ω. Bodies of the surface are the 18-connected sets of inside samples
that :mod:`model.engine.tracking` labels.
Does not promise: that parts thinner than a step, or sharp edges, survive.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from model.domain import OMEGA, Field, Grid, Points
from model.engine.bricks import BEFORE, CELL, KNOWN, PARTS, SAMPLES, SIDE, WHAT, Bricks, claim_brick, locate
from model.engine.case_table import EDGES, triangle_table
from model.engine.jit import compiled
from model.engine.runs import Runs, bodies
from model.engine.sparse import SparseField
from model.errors import EmptySurfaceError, SurfaceError

NEAREST = 1e-3  # grid steps: least distance of a vertex from a sample, so that vertices do not coincide
FARTHEST = 16.0  # grid steps: larger values are cut to it, which keeps NEAREST valid for slopes up to a thousand
CAP = 1.0 / 1001.0  # grid steps: distance outside Ω of the cap that closes a surface cut by the border
_TABLE = triangle_table()
_COUNTS = (_TABLE >= 0).sum(axis=1) // 3


@dataclass(frozen=True)
class Surface:
    """A triangulated surface.

    Parameters
    ----------
    vertices
        (v, 3) float32 in Ω, columns x, y, z.
    faces
        (f, 3) int32 rows of ``vertices``, anticlockwise seen from outside.
    """

    vertices: Points
    faces: NDArray[np.int32]

    @cached_property
    def volume(self) -> float:
        """Enclosed volume in units of Ω³ (of the box of 8), positive when faces point outward."""
        return float(_measure(self.vertices, self.faces)[0])

    @cached_property
    def area(self) -> float:
        """Surface area in units of Ω²."""
        return float(_measure(self.vertices, self.faces)[1])

    @property
    def euler_number(self) -> int:
        """Vertices − edges + faces: 2 for a ball, 0 for a torus, their sum for several bodies."""
        ends = np.sort(self._directed_edges(), axis=1).astype(np.int64)
        edges = np.unique(ends[:, 0] * len(self.vertices) + ends[:, 1])
        return len(np.unique(self.faces)) - len(edges) + len(self.faces)

    @property
    def is_watertight(self) -> bool:
        """Every edge belongs to exactly two faces, which run along it in opposite directions."""
        edges = self._directed_edges().astype(np.int64)
        forth = np.sort(edges[:, 0] * len(self.vertices) + edges[:, 1])
        back = np.sort(edges[:, 1] * len(self.vertices) + edges[:, 0])
        once = bool((forth[1:] != forth[:-1]).all())
        return len(forth) > 0 and once and np.array_equal(forth, back)

    def components(self) -> tuple[int, NDArray[np.int32]]:
        """Count the connected sheets and number the faces (f,) by them; a cavity's wall is a sheet of its own."""
        ends = self._directed_edges()
        graph = coo_array(
            (np.ones(len(ends), dtype=np.int8), (ends[:, 0], ends[:, 1])), shape=(len(self.vertices),) * 2
        )
        count, of_vertex = connected_components(graph, directed=False)
        return int(count), of_vertex[self.faces[:, 0]].astype(np.int32)

    def _directed_edges(self) -> NDArray[np.int32]:
        return self.faces[:, [0, 1, 1, 2, 2, 0]].reshape(-1, 2)  # (3 f, 2)


def extract_surface(
    field: SparseField | Field, grid: Grid, *, level: float = 0.0, closed: bool = True, inside: Runs | None = None
) -> Surface:
    """Extract a level set as a triangulated surface.

    Marching cubes with Lorensen's choice at ambiguous faces, linear along the edges of the grid, on the cells that the
    surface crosses.

    Parameters
    ----------
    field
        Signed distances, negative inside, in units of Ω; dense ones as (nx, ny, nz).
    grid
        Where they were sampled.
    level
        The signed distance of the surface: negative for a smaller cell. Dense fields only.
    closed
        What is cut by the border of Ω is closed with a flat cap a thousandth of a step outside it; else it stays open.
    inside
        The runs of inside samples, if they are known already.

    Returns
    -------
    Surface
        Outward, without coinciding vertices; the same whether the field is dense or sparse.

    Raises
    ------
    EmptySurfaceError
        If no sample is inside.
    InvalidFieldError
        If a value is NaN or infinite, or the field does not belong to the grid.

    Notes
    -----
    A sample counts as inside when its value is below ``level``. Values nearer to the level than 1e-3 of a step are
    moved to that distance, which keeps vertices apart and moves none by more than 1e-3 of a step. Inside samples are
    joined across an ambiguous face always, so that bodies are exactly the 18-connected sets of inside samples.

    References
    ----------
    Lorensen, Cline 1987, doi:10.1145/37402.37422.
    """
    if isinstance(field, np.ndarray):
        field = SparseField.of(field - np.float32(level), grid)
        inside = None
    elif level != 0.0:
        raise ValueError("a sparse field knows its zero level set only")
    bricks = field.bricks
    runs = bodies(field) if inside is None else inside
    if len(runs.first) == 0:
        raise EmptySurfaceError("no sample of the grid lies inside the cell; try a finer grid or another code")
    if closed:
        _close(
            bricks.table, bricks.values, bricks.bounds, bricks.state, bricks.crossed, bricks.used, bricks.shape,
            runs.rows, runs.first, runs.stop, runs.labels,
        )  # fmt: skip
    surface = _march(bricks, grid)
    if closed and surface.volume <= 0.0:
        raise SurfaceError("the surface encloses no volume; try a finer grid")
    return surface


def _march(bricks: Bricks, grid: Grid) -> Surface:
    live = np.flatnonzero(bricks.crossed[: bricks.used[0]])
    places = np.argwhere(bricks.table >= 0)  # in the order of the table: it does not depend on how samples were found
    numbers = bricks.table[tuple(places.T)]
    keep = bricks.crossed[numbers] == 1
    places, numbers = places[keep], numbers[keep]
    slot = np.full(bricks.used[0], -1, dtype=np.int32)  # crossed bricks alone have vertices
    slot[live] = np.arange(len(live))
    count = _count(bricks.table, bricks.values, bricks.state, places, numbers, _COUNTS)
    step = grid.step
    on_edge = np.full((len(live), 3 * SAMPLES), -1, dtype=np.int32)
    vertices = np.empty((3 * count, 3), dtype=np.float32)
    faces = np.empty((count, 3), dtype=np.int32)
    found = _triangulate(
        bricks.table, bricks.values, bricks.state, bricks.shape, places, numbers, slot, on_edge, _TABLE, EDGES,
        step, OMEGA[0], NEAREST * step.min(), FARTHEST * step.min(), CAP, vertices, faces,
    )  # fmt: skip
    return Surface(vertices=vertices[:found].copy(), faces=faces)


@compiled
def _measure(vertices: Any, faces: Any) -> tuple[float, float]:
    """Volume, by the divergence theorem, and area."""
    volume, area = 0.0, 0.0
    u, v, w = np.zeros(3), np.zeros(3), np.zeros(3)
    for q in range(len(faces)):
        for c in range(3):
            origin = vertices[0, c]  # far surfaces lose no digits
            w[c] = float(vertices[faces[q, 0], c]) - origin
            u[c] = float(vertices[faces[q, 1], c]) - origin - w[c]
            v[c] = float(vertices[faces[q, 2], c]) - origin - w[c]
        x, y, z = u[1] * v[2] - u[2] * v[1], u[2] * v[0] - u[0] * v[2], u[0] * v[1] - u[1] * v[0]
        area += 0.5 * np.sqrt(x * x + y * y + z * z)
        volume += (w[0] * x + w[1] * y + w[2] * z) / 6.0
    return volume, area


@compiled
def _close(
    table: Any, values: Any, bounds: Any, state: Any, crossed: Any, used: Any, shape: Any, rows: Any, first: Any,
    stop: Any, labels: Any,
) -> None:  # fmt: skip
    """Put outside samples around the inside samples on the border of Ω, and mark the cells between them."""
    nx, ny, nz = shape
    for row in range(len(rows) - 1):
        i, j = row // ny, row % ny
        wall = i == 0 or j == 0 or i == nx - 1 or j == ny - 1
        for run in range(rows[row], rows[row + 1]):
            if labels[run] == 0:
                continue
            if wall:
                for k in range(first[run], stop[run]):
                    _wrap(table, values, bounds, state, crossed, used, shape, i, j, k)
            else:
                if first[run] == 0:
                    _wrap(table, values, bounds, state, crossed, used, shape, i, j, 0)
                if stop[run] == nz:
                    _wrap(table, values, bounds, state, crossed, used, shape, i, j, nz - 1)


@compiled
def _wrap(
    table: Any, values: Any, bounds: Any, state: Any, crossed: Any, used: Any, shape: Any, i: int, j: int, k: int
) -> None:
    value, what = values.reshape(-1), state.reshape(-1)
    at = claim_brick(table, values, bounds, state, used, i, j, k)
    if what[at] & WHAT != KNOWN:  # deep inside
        value[at] = -1.0
        what[at] |= KNOWN
    for a, b, c in np.ndindex(2, 2, 2):
        x, y, z = i - a, j - b, k - c  # a cell that has the sample for a corner
        if 0 <= x < shape[0] - 1 and 0 <= y < shape[1] - 1 and 0 <= z < shape[2] - 1:
            continue
        for e, f, g in np.ndindex(2, 2, 2):
            at = claim_brick(table, values, bounds, state, used, x + e, y + f, z + g)
            crossed[at // SAMPLES] = 1
            within = 0 <= x + e < shape[0] and 0 <= y + f < shape[1] and 0 <= z + g < shape[2]
            if what[at] & WHAT != KNOWN:
                # a corner on the border that is not known has the sign of this one: else the cell beside were crossed
                value[at] = -1.0 if within else 1.0
                what[at] |= KNOWN
        what[claim_brick(table, values, bounds, state, used, x, y, z)] |= CELL


@compiled
def _case(table: Any, values: Any, i: int, j: int, k: int, corners: Any) -> int:
    """Addresses of a cell's corners, and which are inside, as bits."""
    case = 0
    for corner in range(8):
        at = locate(table, i + (corner >> 2), j + ((corner >> 1) & 1), k + (corner & 1))
        corners[corner] = at
        if values[at // SAMPLES, at % SAMPLES] < 0.0:
            case |= 1 << corner
    return case


@compiled
def _count(table: Any, values: Any, state: Any, places: Any, numbers: Any, counts: Any) -> int:
    corners = np.empty(8, dtype=np.int64)
    total = 0
    for q in range(len(numbers)):
        for sample in range(SAMPLES):
            i, j, k, at = _place(places, q, sample)
            if state[numbers[q], at] & CELL:
                total += counts[_case(table, values, i, j, k, corners)]
    return total


@compiled
def _place(places: Any, q: int, sample: int) -> tuple[int, int, int, int]:
    """Indices of the samples of a brick along x, y and z, and where in the brick each lies."""
    a, b, c = sample >> 6, sample >> 3 & 7, sample & 7
    return (
        places[q, 0] * SIDE + a - BEFORE,
        places[q, 1] * SIDE + b - BEFORE,
        places[q, 2] * SIDE + c - BEFORE,
        PARTS[0, a] | PARTS[1, b] | PARTS[2, c],
    )


@compiled
def _triangulate(
    table: Any, values: Any, state: Any, shape: Any, places: Any, numbers: Any, slot: Any, on_edge: Any, cases: Any,
    edges: Any, step: Any, origin: float, nearest: float, farthest: float, cap: float, vertices: Any, faces: Any,
) -> int:  # fmt: skip
    """Fill in vertices and faces, in the order of the cells; returns the number of vertices."""
    value = values.reshape(-1)
    corners = np.empty(8, dtype=np.int64)
    place = np.empty(3)
    made, drawn = 0, 0
    for q in range(len(numbers)):
        for sample in range(SAMPLES):
            i, j, k, at = _place(places, q, sample)
            if state[numbers[q], at] & CELL == 0:
                continue
            row = cases[_case(table, values, i, j, k, corners)]
            for n in range(len(row)):
                if row[n] < 0:
                    break
                low, axis = edges[row[n], 0], edges[row[n], 1]
                at = corners[low]
                held, edge = slot[at // SAMPLES], 3 * (at % SAMPLES) + axis
                if on_edge[held, edge] < 0:
                    on_edge[held, edge] = made
                    place[0], place[1], place[2] = i + (low >> 2), j + (low >> 1 & 1), k + (low & 1)
                    if place[axis] < 0:
                        place[axis] = -cap
                    elif place[axis] == shape[axis] - 1:
                        place[axis] += cap
                    else:
                        here = min(max(abs(value[at]), nearest), farthest)
                        there = min(max(abs(value[corners[low | 4 >> axis]]), nearest), farthest)
                        place[axis] += here / (here + there)
                    for c in range(3):
                        vertices[made, c] = place[c] * step[c] + origin
                    made += 1
                faces[drawn // 3, drawn % 3] = on_edge[held, edge]
                drawn += 1
    return made
