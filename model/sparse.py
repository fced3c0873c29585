"""Signed distances on a grid: everywhere, or only where the membrane can be.

Promises: values at evaluated samples are those of the dense evaluation; with a true Lipschitz bound the signs of the
sparse field equal the dense ones everywhere, and every grid cell that the zero level set crosses has all eight corners
evaluated, so that marching cubes gives the same surface vertex by vertex. All calls that decide a value that leaves
this module hand over exactly ``batch_points`` points, so that a kernel whose last bits depend on the shape of its batch
(torch) cannot let the grid's size into the result.
Does not promise: anything when the bound is too small. Nor distances away from the surface: there the sparse field
holds a lower bound of the magnitude.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from model.domain import Field, Grid, Points
from model.errors import EmptySurfaceError, InvalidFieldError

SignedDistance = Callable[[Points], NDArray[np.float32]]
"""Maps points (n, 3) float32 in Ω to signed distances (n,) float32 in units of Ω, negative inside."""

_Value = TypeVar("_Value", bound=np.generic)

_COARSEST = 64  # grid cells along a side of the first blocks
_LEAF = 2  # cells along a side of the last blocks, whose samples are all evaluated
_CENTRES = 2**11  # centres decide, they are not part of the result: small tiles waste less
_ROUNDING = 1e-5  # slack for float32 arithmetic inside the signed distance function, units of Ω


def evaluate_dense(sdf: SignedDistance, grid: Grid, *, batch_points: int = 2**15) -> Field:
    """Sample a signed distance function at every sample of a grid.

    Parameters
    ----------
    sdf
        Maps points (n, 3) float32 in Ω to signed distances (n,) float32, in units of Ω, negative inside.
    grid
        Where to sample.
    batch_points
        Points in every call of ``sdf``; the last batch is filled up with copies of its last point.

    Returns
    -------
    Field
        (nx, ny, nz) float32, indexed [x, y, z].

    Raises
    ------
    InvalidFieldError
        If a distance is NaN or infinite.
    """
    values = np.empty(grid.size, dtype=np.float32)
    for start in range(0, grid.size, batch_points):
        stop = min(start + batch_points, grid.size)
        values[start:stop] = _evaluate_tile(sdf, grid.points(slice(start, stop)), batch_points)
    return values.reshape(grid.shape)


def evaluate_sparse(sdf: SignedDistance, grid: Grid, *, lipschitz: float, batch_points: int = 2**15) -> Field:
    """Sample a signed distance function on a grid, skipping blocks that cannot meet its zero level set.

    A block with centre ``x`` and half-diagonal ``d`` is skipped when ``|sdf(x)| > lipschitz * d`` and filled with the
    sign found there; otherwise it is split in eight, down to blocks of two grid cells a side, whose samples are all
    evaluated. Blocks are closed: neighbours share the samples between them, so an edge of the grid whose ends differ in
    sign lies in no skipped block.

    Parameters
    ----------
    sdf
        Maps points (n, 3) float32 in Ω to signed distances (n,) float32, in units of Ω, negative inside.
    grid
        Where to sample; any shape.
    lipschitz
        A bound of ``|sdf(a) − sdf(b)| / |a − b|`` over Ω. Too small a bound loses parts of the surface.
    batch_points
        Points in every call of ``sdf`` for samples of the grid; block centres go in calls of 2048.

    Returns
    -------
    Field
        (nx, ny, nz) float32, indexed [x, y, z]: the signed distance at evaluated samples; elsewhere the right sign and
        ``|sdf(x)| − lipschitz * d``, a lower bound of the magnitude.

    Raises
    ------
    EmptySurfaceError
        If no block can meet the zero level set.
    InvalidFieldError
        If a distance is NaN or infinite.

    Notes
    -----
    About A / h² evaluations for a surface of area A and step h, times a factor that grows with ``lipschitz`` over the
    true slope; a dense grid takes 8 / h³.
    """
    if not lipschitz > 0.0:
        raise ValueError(f"a Lipschitz bound is positive; {lipschitz} was given")
    fill, live = _narrow_band(sdf, grid, lipschitz)
    if not live.any():
        raise EmptySurfaceError("the membrane lies nowhere in Ω: the cell fills the whole domain or has vanished")
    block = [np.arange(n) // _LEAF for n in grid.shape]
    field = fill[np.ix_(*(np.minimum(ids, n - 1) for ids, n in zip(block, fill.shape, strict=True)))]
    values = field.reshape(-1)
    ids = np.flatnonzero(_samples_of(live, grid))
    for start in range(0, len(ids), batch_points):
        tile = ids[start : start + batch_points]
        values[tile] = _evaluate_tile(sdf, grid.points(tile), batch_points)
    return field


def _narrow_band(sdf: SignedDistance, grid: Grid, lipschitz: float) -> tuple[Field, NDArray[np.bool_]]:
    """Certify blocks from coarse to fine.

    Returns the lattice of the finest blocks twice: the value that fills each skipped block, and which are not skipped.
    """
    cells = np.array(grid.shape) - 1
    side = _COARSEST
    live = np.ones(_blocks(cells, side), dtype=np.bool_)
    fill = np.zeros(live.shape, dtype=np.float32)
    while True:
        low = np.argwhere(live) * side  # (m, 3) first sample of each block
        high = np.minimum(low + side, cells)  # (m, 3) last sample, shared with the next block
        radius = 0.5 * np.linalg.norm((high - low) * grid.step, axis=1)  # (m,)
        values = _evaluate_tiles(sdf, grid.to_point((low + high) / 2.0), _CENTRES)  # (m,)
        margin = np.abs(values) - np.float32(lipschitz * (1.0 + 1e-6)) * radius
        skipped = margin > _ROUNDING
        fill[live] = np.copysign(np.where(skipped, margin, 0.0), values)
        live[live] = ~skipped
        if side == _LEAF:
            return fill, live
        side //= 2
        finer = _blocks(cells, side)
        fill, live = _split(fill, finer), _split(live, finer)


def _blocks(cells: NDArray[np.int64], side: int) -> tuple[int, int, int]:
    """Blocks of ``side`` cells along each axis, the last one cut off by the end of the grid."""
    bx, by, bz = (-(-cells // side)).tolist()
    return bx, by, bz


def _split(lattice: NDArray[_Value], shape: tuple[int, int, int]) -> NDArray[_Value]:
    """Give each block's value to its eight halves; those beyond the end of the grid do not exist."""
    for axis, n in enumerate(shape):
        lattice = np.repeat(lattice, 2, axis=axis).take(np.arange(n), axis=axis)
    return lattice


def _samples_of(live: NDArray[np.bool_], grid: Grid) -> NDArray[np.bool_]:
    """Mark the samples of live blocks, their shared faces included: (nx, ny, nz) bool."""
    marked = live
    for axis, n in enumerate(grid.shape):
        sample = np.arange(n)
        own = np.minimum(sample // _LEAF, live.shape[axis] - 1)
        previous = np.maximum(-(-sample // _LEAF) - 1, 0)  # differs from own on a shared face only
        marked = marked.take(own, axis=axis) | marked.take(previous, axis=axis)
    return marked


def _evaluate_tiles(sdf: SignedDistance, points: Points, batch_points: int) -> NDArray[np.float32]:
    tiles = (points[start : start + batch_points] for start in range(0, len(points), batch_points))
    found = [_evaluate_tile(sdf, tile, batch_points) for tile in tiles]
    return np.concatenate(found) if found else np.empty(0, dtype=np.float32)


def _evaluate_tile(sdf: SignedDistance, points: Points, batch_points: int) -> NDArray[np.float32]:
    """Evaluate at most ``batch_points`` points as exactly that many."""
    count = len(points)
    if count < batch_points:
        points = np.concatenate([points, np.broadcast_to(points[-1], (batch_points - count, 3))])
    values = np.asarray(sdf(points), dtype=np.float32)[:count]
    if not np.isfinite(values).all():
        raise InvalidFieldError("the signed distance function returned NaN or infinity; the checkpoint may be damaged")
    return values
