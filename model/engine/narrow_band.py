"""Signed distances on a whole grid: those of the function near the membrane, a constant beyond.

    >>> from model.engine.sparse import evaluate_dense
    >>> grid = Grid((65, 65, 65))
    >>> ball = lambda points: np.linalg.norm(points, axis=1) - 0.5
    >>> band = NarrowBand(ball, grid, inside=lambda: evaluate_dense(ball, grid) < 0)
    >>> band.distances.shape, float(band.distances.max())
    ((65, 65, 65), 0.0625)

The evaluation begins at the corners of the grid cells that the membrane crosses and goes on, from sample to neighbour,
as long as distances are smaller than the clamp. Samples that the search for the membrane has evaluated already are
taken over (:func:`take_known`).

Promises: of a true signed distance the values are exactly those of a dense evaluation, clipped to ± the clamp, also
where a cell leaves Ω. Signs are those of ``inside``, whatever the function says: removed fragments stay removed.
Does not promise: for a function that is no true distance, that every sample whose value is smaller than the clamp is
found; of the shipped models fewer than one in a hundred is not, and holds the clamp. Nor the distances of outside
samples to a membrane beyond Ω.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model.domain import Field, Grid
from model.engine.bricks import BEFORE, KNOWN, SAMPLES, SIDE, WHAT, locate
from model.engine.jit import compiled
from model.engine.sparse import SignedDistance, SparseField
from model.errors import InvalidFieldError

BAND = 2  # of the largest grid step: the distance beyond which values are constant; 3 takes twice the evaluations
_BATCH = 2**18  # points in one call; bounds memory
_LEAST = np.float32(1e-30)  # magnitude of an inside sample: its sign stays negative
_UNKNOWN = np.float32(-1.0)  # in place of a magnitude
_ROUNDING = 1.0001  # allowance for float32 rounding in the signed distance function


@dataclass(frozen=True)
class KnownSamples:
    """Samples that were evaluated before.

    Attributes
    ----------
    index
        (n,) int64: positions in the grid's points, in C order.
    values
        (n,) float32: distances in units of Ω, whose signs are not used.
    """

    index: NDArray[np.int64]
    values: NDArray[np.float32]


def take_known(field: SparseField) -> KnownSamples:
    """Copy the samples of a sparse evaluation whose distances are known, before its storage serves the next frame."""
    bricks = field.bricks
    index, values = np.empty(field.evaluations, dtype=np.int64), np.empty(field.evaluations, dtype=np.float32)
    count = _list_known(bricks.table, bricks.values, bricks.state, bricks.shape, index, values)
    return KnownSamples(index[:count], values[:count])


def clamp_distance(grid: Grid) -> np.float32:
    """Return the largest magnitude of a distance, in units of Ω: two of the largest grid steps."""
    return np.float32(BAND * grid.step.max())


@dataclass(frozen=True)
class NarrowBand:
    """Distances of one frame, evaluated on first use.

    Parameters
    ----------
    sdf
        Maps points (n, 3) float32 in Ω to signed distances (n,) float32, negative inside. A value must not depend on
        the other points of the call.
    grid
        Where to sample.
    inside
        Gives which samples lie inside, (nx, ny, nz) bool.
    known
        Samples of the same function and grid that need not be evaluated.
    """

    sdf: SignedDistance
    grid: Grid
    inside: Callable[[], NDArray[np.bool_]]
    known: KnownSamples | None = None

    @cached_property
    def distances(self) -> Field:
        """(nx, ny, nz) float32 in units of Ω, negative inside, between ± :func:`clamp_distance`.

        Raises
        ------
        InvalidFieldError
            If a distance is NaN or infinite.
        """
        inside, clamp = self.inside(), clamp_distance(self.grid)
        values = np.full(self.grid.size, _UNKNOWN, dtype=np.float32)  # magnitudes first
        if self.known is not None:
            values[self.known.index] = np.abs(self.known.values)
        seeds = _crossed_corners(inside)
        seen, ids = seeds.reshape(-1), np.flatnonzero(seeds)
        reach = np.float32(_ROUNDING * _reach(self.grid))
        while len(ids):
            self._evaluate(ids, values)
            near = ids[values[ids] < reach]
            ahead = np.empty(6 * len(near), dtype=np.int64)
            ids = ahead[: _list_neighbours(near, *self.grid.shape, seen, ahead)]
        _give_signs(values, seen, inside.reshape(-1), clamp, _LEAST)
        return values.reshape(self.grid.shape)

    def _evaluate(self, ids: NDArray[np.int64], values: NDArray[np.float32]) -> None:
        """Fill in the magnitudes of those samples that are not known."""
        ids = ids[values[ids] < 0.0]
        for start in range(0, len(ids), _BATCH):
            some = ids[start : start + _BATCH]
            found = np.abs(np.asarray(self.sdf(self.grid.points(some)), dtype=np.float32))
            if not np.isfinite(found).all():
                raise InvalidFieldError("the signed distance function returned NaN or infinity")
            values[some] = found


def _reach(grid: Grid) -> float:
    """Return the distance from which on a sample's neighbours are no nearer to the membrane than the clamp.

    Let p be the point of the membrane nearest to a sample at a distance r. A step h along an axis, towards p, changes
    the squared distance to p by h² − 2 h r n, where n ≥ 0 is the normal's component along that axis. The best of the
    three axes lowers it by at least c. The worst normal lowers it by c along all three: n = (c + h²) / 2 h r, and the
    squares of the n sum up to 1. So every sample nearer than the clamp has a neighbour nearer than √(clamp² − c).
    """
    step = grid.step.astype(np.float64)
    clamp = float(clamp_distance(grid))
    a, c = (1.0 / step**2).sum(), (step**2).sum() - 4.0 * clamp**2
    lowered = (-6.0 + np.sqrt(36.0 - 4.0 * a * c)) / (2.0 * a)
    return float(np.sqrt(clamp**2 - lowered))


def _crossed_corners(inside: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Mark the corners of grid cells that hold both signs; beyond Ω all is outside, so cells that leave Ω end there."""
    count = np.pad(inside.astype(np.uint8), 1)
    for axis in range(3):
        low, high = _ends(count, axis)
        count = low + high
    crossed = (count > 0) & (count < 8)
    for axis in range(3):
        low, high = _ends(crossed, axis)
        crossed = low | high
    return np.ascontiguousarray(crossed)


def _ends(volume: NDArray[Any], axis: int) -> tuple[NDArray[Any], NDArray[Any]]:
    """Views of a volume without its last and without its first layer along an axis."""
    before: list[slice] = [slice(None)] * 3
    after = list(before)
    before[axis], after[axis] = slice(None, -1), slice(1, None)
    return volume[tuple(before)], volume[tuple(after)]


@compiled
def _list_neighbours(near: Any, nx: int, ny: int, nz: int, seen: Any, ahead: Any) -> int:
    """List the neighbours along the axes, not seen before, of samples; return how many there are."""
    found = 0
    for q in range(len(near)):
        at = near[q]
        x, y, z = at // (ny * nz), at // nz % ny, at % nz
        for way in range(6):
            axis, up = way >> 1, way & 1
            place = (x, y, z)[axis]
            last = (nx, ny, nz)[axis] - 1
            if (up == 0 and place == 0) or (up == 1 and place == last):
                continue
            other = at + (2 * up - 1) * (ny * nz, nz, 1)[axis]
            if not seen[other]:
                seen[other] = True
                ahead[found] = other
                found += 1
    return found


@compiled
def _give_signs(values: Any, seen: Any, inside: Any, clamp: Any, least: Any) -> None:
    """Turn magnitudes of samples that were seen into distances, and all others into ± the clamp."""
    for q in range(len(values)):
        size = min(values[q], clamp) if seen[q] else clamp
        values[q] = -max(size, least) if inside[q] else size


@compiled
def _list_known(table: Any, values: Any, state: Any, shape: Any, index: Any, found: Any) -> int:
    """List positions and distances of the samples of a storage that are known; return how many there are."""
    value, what = values.reshape(-1), state.reshape(-1)
    count = 0
    for bx in range(table.shape[0]):
        for by in range(table.shape[1]):
            for bz in range(table.shape[2]):
                if table[bx, by, bz] == -1:
                    continue
                for n in range(SAMPLES):
                    i, j, k = n >> 6, n >> 3 & 7, n & 7
                    x, y, z = bx * SIDE + i - BEFORE, by * SIDE + j - BEFORE, bz * SIDE + k - BEFORE
                    if x < 0 or y < 0 or z < 0 or x >= shape[0] or y >= shape[1] or z >= shape[2]:
                        continue
                    at = locate(table, x, y, z)
                    if at >= 0 and what[at] & WHAT == KNOWN:
                        index[count] = (x * shape[1] + y) * shape[2] + z
                        found[count] = value[at]
                        count += 1
    return count
