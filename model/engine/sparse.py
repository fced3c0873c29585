"""Evaluate a signed distance function on a grid: at every sample, or near its zero level set only.

The sparse evaluation goes from coarse to fine. A block of grid cells is skipped if its corners lie farther from the
membrane than the signed distance can change across the block. The other blocks are split, down to single grid cells.
Grid cells whose corners differ in sign meet the membrane. From them the evaluation continues across every face that the
membrane crosses, until no new grid cell is found.

    >>> from model.engine.marching_cubes import extract_surface
    >>> grid = Grid((129, 129, 129))
    >>> field = evaluate_sparse(lambda points: np.linalg.norm(points, axis=1) - 0.5, grid, lipschitz=1.0)
    >>> round(extract_surface(field, grid).volume, 3)  # a ball of radius 0.5 has 0.524
    0.523
    >>> field.evaluations < grid.size // 50
    True

Promises: a value stored as known equals the dense evaluation bit for bit. With a true Lipschitz bound,
``exact="certified"`` gives the dense signs everywhere, and every grid cell that the zero level set crosses has all
eight corners known. The default, ``"adaptive"``, uses slopes measured in the block itself for the last levels: it loses
nothing that is connected to a part it has found. Detached components are found from a radius of two grid steps on; of
smaller ones, a few samples each, about one in five is missed (measured beside a perfect ball; no shipped model missed
any). ``"certified"`` misses none and takes about twice the evaluations.
Does not promise: anything when the Lipschitz bound is too small.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from model.domain import Field, Grid, Points
from model.engine.bricks import Bricks, reserve
from model.engine.refine import (
    claim_all,
    coordinates,
    keep_crossed,
    list_corners,
    list_neighbours,
    split_blocks,
    store,
    take_field,
)
from model.errors import EmptySurfaceError, InvalidFieldError

SignedDistance = Callable[[Points], NDArray[np.float32]]
"""Maps points (n, 3) float32 in Ω to signed distances (n,) float32 in units of Ω, negative inside."""

Exact = Literal["adaptive", "certified"]

_COARSE = 7  # least number of blocks along the longest side of Ω at the first level
_LOCAL = 4  # grid cells a side: blocks up to this size are decided by the slopes at their corners in adaptive mode
_FINE = 64  # samples along the longest side: coarser grids are always certified, adaptive saves little there
_MEMORY = 2.7e9  # bytes of all storages of a sequence together; larger allows more frames at once on fine grids
_TOUCHED = 1200.0  # bytes of a storage over N²; 900 is the most that a shipped model takes
_BATCH = 2**18  # points in one call of the dense path; bounds its memory


@dataclass(frozen=True)
class SparseField:
    """A signed distance near its zero level set. Valid until its storage is used for the next frame.

    Attributes
    ----------
    bricks
        The samples.
    evaluations
        Points at which the signed distance function was evaluated.
    refuted
        Evaluations that contradicted a bound: with a true Lipschitz bound there is none.
    """

    bricks: Bricks
    evaluations: int
    refuted: int

    @property
    def grid(self) -> Grid:
        """The grid of the samples."""
        return self.bricks.grid

    @classmethod
    def of(cls, field: Field, grid: Grid) -> SparseField:
        """Convert a dense field: keep the corners of the grid cells that the surface crosses.

        Raises
        ------
        InvalidFieldError
            If the field does not belong to the grid, or holds NaN or infinity.
        """
        if field.shape != grid.shape:
            raise InvalidFieldError(f"a field of shape {field.shape} does not belong to a grid of shape {grid.shape}")
        bricks = Bricks(grid)
        take_field(
            bricks.table, bricks.values, bricks.bounds, bricks.state, bricks.crossed, bricks.used,
            _finite(np.ascontiguousarray(field, dtype=np.float32)),
        )  # fmt: skip
        return cls(bricks, evaluations=field.size, refuted=0)


def evaluate_dense(sdf: SignedDistance, grid: Grid) -> Field:
    """Sample a signed distance function at every sample of a grid.

    Parameters
    ----------
    sdf
        Maps points (n, 3) float32 in Ω to signed distances (n,) float32, in units of Ω, negative inside.
    grid
        Where to sample.

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
    for start in range(0, grid.size, _BATCH):
        stop = min(start + _BATCH, grid.size)
        values[start:stop] = _finite(sdf(grid.points(slice(start, stop))))
    return values.reshape(grid.shape)


def evaluate_sparse(
    sdf: SignedDistance,
    grid: Grid,
    *,
    lipschitz: float,
    exact: Exact = "adaptive",
    bricks: Bricks | None = None,
) -> SparseField:
    """Sample a signed distance function on a grid near its zero level set.

    Parameters
    ----------
    sdf
        Maps points (n, 3) float32 in Ω to signed distances (n,) float32, in units of Ω, negative inside. A value must
        not depend on the other points of the call.
    grid
        Where to sample; any shape.
    lipschitz
        A bound of ``|sdf(a) − sdf(b)| / |a − b|`` over Ω. Too small a bound loses parts of the surface.
    exact
        ``adaptive``: blocks of four cells and less trust the slope between their corners; ``certified``: nothing is
        skipped but by ``lipschitz``.
    bricks
        Storage of an earlier frame on the same grid, to be overwritten; new if None.

    Raises
    ------
    EmptySurfaceError
        If no two neighbouring samples differ in sign.
    InvalidFieldError
        If a distance is NaN or infinite.

    Notes
    -----
    About three evaluations per cell that the surface meets: they grow with the square of the resolution.
    """
    if not 0.0 < lipschitz < np.inf:
        raise ValueError(f"a Lipschitz bound is positive and finite; {lipschitz} was given")
    if bricks is None:
        bricks = Bricks(grid)
    bricks.clear()
    run = SparseEvaluation(sdf, bricks)
    blocks, side = run.begin()
    local = exact == "adaptive" and max(grid.shape) >= _FINE
    while side > 1:
        blocks = run.split(blocks, side, lipschitz=lipschitz, adaptive=local and side <= _LOCAL)
        side //= 2
    cells = run.crossed(blocks)
    if len(cells) == 0:
        raise EmptySurfaceError("the membrane lies nowhere in Ω: the cell fills the whole domain or has vanished")
    while len(cells):
        cells = run.spread(cells)
    return SparseField(bricks, run.evaluations, run.refuted)


def cpu_frame_batch(grid: Grid, threads: int) -> int:
    """Number of frames of a sequence to evaluate at the same time: one a thread, as memory allows."""
    return max(1, min(threads, _storages(grid) - 1))


def _storages(grid: Grid) -> int:
    """Storages that memory allows."""
    return max(1, int(_MEMORY // (_TOUCHED * math.prod(grid.shape) ** (2.0 / 3.0))))


def evaluate_sequence(
    at: Callable[[float], SignedDistance],
    times: Sequence[float],
    grid: Grid,
    *,
    lipschitz: float,
    exact: Exact = "adaptive",
    threads: int = 1,
) -> Iterator[SparseField]:
    """Evaluate the frames of a sequence, several at once, and yield them in order.

    Parameters
    ----------
    at
        Gives the signed distance function at a time; called from several threads. What it returns should keep to one
        thread itself.
    times
        In τ.
    threads
        Frames evaluated at the same time. Memory grows with it, not with the number of frames.

    Yields
    ------
    SparseField
        Valid until the next one is asked for.

    Raises
    ------
    EmptySurfaceError, InvalidFieldError
        When the frame that has no membrane, or NaN, is asked for.
    """

    def evaluate(time: float, bricks: Bricks) -> SparseField:
        return evaluate_sparse(at(time), grid, lipschitz=lipschitz, exact=exact, bricks=bricks)

    # One more than threads, for a frame is used meanwhile; on the finest grids they take turns.
    idle = [Bricks(grid) for _ in range(min(threads + 1, len(times), max(threads, _storages(grid))))]
    ahead: deque[Future[SparseField]] = deque()
    with ThreadPoolExecutor(threads, thread_name_prefix="frames") as pool:
        try:
            for time in times:
                if not idle:
                    field = ahead.popleft().result()
                    yield field
                    idle.append(field.bricks)
                ahead.append(pool.submit(evaluate, time, idle.pop()))
            while ahead:
                yield ahead.popleft().result()
        finally:  # the caller has stopped; cancel the frames not begun
            for future in ahead:
                future.cancel()


class SparseEvaluation:
    """One evaluation: the compiled steps list the samples they need; this class evaluates them."""

    def __init__(self, sdf: SignedDistance, bricks: Bricks) -> None:
        self.sdf = sdf
        self.bricks = bricks
        self.evaluations = 0
        self.refuted = 0
        self._axes = bricks.grid.axes()
        self._slope = np.inf  # median slope in the blocks of the last step that were not skipped

    def begin(self) -> tuple[NDArray[np.int32], int]:
        """Evaluate the coarsest lattice; return its blocks (m, 3), as their first samples, and their side in cells."""
        shape = self.bricks.shape
        side = max(1, 1 << int(np.log2(max(1.0, (shape.max() - 1) / _COARSE))))
        starts = [np.arange(0, n - 1, side) for n in shape]
        nodes = [np.append(a, n - 1) for a, n in zip(starts, shape, strict=True)]
        lattice = np.stack(np.meshgrid(*nodes, indexing="ij"), axis=-1).reshape(-1, 3).astype(np.int32)
        b = self.bricks
        claim_all(b.table, b.values, b.bounds, b.state, b.used, lattice)
        self._evaluate(lattice)
        blocks = np.stack(np.meshgrid(*starts, indexing="ij"), axis=-1).reshape(-1, 3).astype(np.int32)
        return blocks, side

    def split(self, blocks: NDArray[np.int32], side: int, *, lipschitz: float, adaptive: bool) -> NDArray[np.int32]:
        """Skip blocks that cannot meet the membrane; return the parts of the others that may."""
        b = self.bricks
        wanted, parts = reserve(27 * len(blocks), 3, np.int32), reserve(8 * len(blocks), 3, np.int32)
        slopes = np.empty(len(blocks), dtype=np.float32)
        usual = self._slope if adaptive else np.inf
        asked, made, kept = split_blocks(
            b.table, b.values, b.bounds, b.state, b.used, b.shape, b.grid.step, blocks, side, usual, lipschitz,
            wanted, parts, slopes,
        )  # fmt: skip
        self._evaluate(wanted[:asked])
        if kept:
            self._slope = float(np.median(slopes[:kept]))
        return parts[:made]

    def crossed(self, cells: NDArray[np.int32]) -> NDArray[np.int32]:
        """Return those of the cells (m, 3) whose corners differ in sign, and evaluate their corners."""
        b = self.bricks
        found = np.empty_like(cells)
        count = keep_crossed(b.table, b.values, b.state, cells, found)
        self._corners(found[:count])
        return found[:count]

    def spread(self, cells: NDArray[np.int32]) -> NDArray[np.int32]:
        """Return the cells not seen before behind the crossed faces of these, and evaluate their corners."""
        b = self.bricks
        found = np.empty((6 * len(cells), 3), dtype=np.int32)
        count = list_neighbours(b.table, b.values, b.bounds, b.state, b.used, b.shape, cells, found)
        self._corners(found[:count])
        return found[:count]

    def _corners(self, cells: NDArray[np.int32]) -> None:
        b = self.bricks
        wanted = reserve(8 * len(cells), 3, np.int32)
        asked = list_corners(b.table, b.values, b.bounds, b.state, b.crossed, b.used, cells, wanted)
        self._evaluate(wanted[:asked])

    def _evaluate(self, samples: NDArray[np.int32]) -> None:
        if len(samples) == 0:
            return
        points = np.empty((len(samples), 3), dtype=np.float32)
        coordinates(samples, *self._axes, points)
        values = _finite(self.sdf(points))
        self.evaluations += len(samples)
        b = self.bricks
        self.refuted += store(b.table, b.values, b.bounds, b.state, samples, values)


def _finite(values: NDArray[np.float32]) -> NDArray[np.float32]:
    values = np.asarray(values, dtype=np.float32)
    if not np.isfinite(values).all():
        raise InvalidFieldError("the signed distance function returned NaN or infinity; the checkpoint may be damaged")
    return values
