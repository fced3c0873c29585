"""Storage for a signed distance that is known near the membrane only.

Samples are stored in bricks of 8 × 8 × 8. A coarse-to-fine evaluation asks for many samples, farther from the membrane,
that no finer level follows: those whose indices are even lie in a coarse brick of 64 samples until another sample of
the brick is stored. With whole bricks alone, a surface on a grid of 2048³ would take 8 GB. Within a brick, samples
whose indices are divisible by 4 come first, then those divisible by 2: the evaluation finds the samples of its earlier
levels in one cache line. One layer of samples outside Ω is stored too, so that surfaces can be closed there.

Promises: reading and writing take the same time for any grid. Memory that was never written is never touched, so the
resident size follows the surface, but for the table's 4 bytes for each possible brick. One storage serves frame after
frame.
Does not promise: that neighbours of a stored sample are stored.
"""

from __future__ import annotations

import contextlib
import mmap
import sys
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model.domain import Grid
from model.engine.jit import compiled

SIDE = 8  # samples along a brick's side
SAMPLES = SIDE**3
COARSE = 64  # samples of a brick whose indices are even; they come first
BEFORE = SIDE  # offset of Ω's first sample: one brick of storage lies before it

UNKNOWN, BOUND, KNOWN = 0, 1, 2  # what a stored value is: nothing yet, a lower bound of the magnitude, the distance
_LARGE = 2**26  # bytes from which on room is reserved page by page
_NO_RESERVE = 0x4000 if sys.platform == "linux" else 0  # MAP_NORESERVE of mmap(2)
WHAT = 3  # mask of the state's bits that hold UNKNOWN, BOUND or KNOWN
CELL = 4  # bit of the state: the grid cell that begins at this sample meets the membrane


class Bricks:
    """Reusable storage for the samples of one grid, and the layer around it.

    Attributes
    ----------
    table
        (bx, by, bz) int32: number of the brick at each place, −2 − n of the coarse brick n, −1 where there is none.
    values
        (bricks, 512) float32. The first of them hold eight coarse bricks each.
    state
        (bricks, 512) uint8: UNKNOWN, BOUND or KNOWN, and the bit CELL.
    bounds
        (bricks, 512) float32: lower bounds of the magnitudes, with sign; the distance where it is known.
    crossed
        (bricks,) uint8: 1 if a corner of a cell that meets the membrane lies there.
    used
        (2,) int64: bricks in use, from the first on, and coarse bricks.
    """

    def __init__(self, grid: Grid) -> None:
        self.grid = grid
        self.shape = np.array(grid.shape, dtype=np.int64)
        self.table = np.full(tuple(-(-(n + 1 + BEFORE) // SIDE) for n in grid.shape), -1, dtype=np.int32)
        self._coarse = -(-self.table.size * COARSE // SAMPLES)
        room = self._coarse + self.table.size  # for every brick
        self.values = reserve(room, SAMPLES, np.float32)
        self.bounds = reserve(room, SAMPLES, np.float32)
        self.state = reserve(room, SAMPLES, np.uint8)
        self.crossed = np.zeros(room, dtype=np.uint8)
        self.used = np.zeros(2, dtype=np.int64)
        self.clear()

    def clear(self) -> None:
        """Forget all samples; the memory stays for the next frame."""
        self.table.fill(-1)
        self.crossed[: self.used[0]] = 0
        self.used[:] = self._coarse, 0


def reserve(rows: int, columns: int, kind: type[np.generic]) -> NDArray[Any]:
    """Return room (rows, columns) whose pages take memory when they are written, however much room that is.

    Plain allocations of more than the machine's memory are refused by Linux, also if little of them is ever used.
    """
    size = rows * columns * np.dtype(kind).itemsize
    if size < _LARGE:
        return np.empty((rows, columns), dtype=kind)
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _NO_RESERVE
    pages = mmap.mmap(-1, size, flags=flags)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        with contextlib.suppress(OSError):
            pages.madvise(mmap.MADV_HUGEPAGE)  # as numpy asks for its own large arrays
    return np.frombuffer(pages, dtype=kind).reshape(rows, columns)


def _orders() -> NDArray[np.int64]:
    """Place of a sample in its brick: (3, 8) parts by axis and index, to be added."""
    index = np.arange(SIDE)
    along_x = (index & 1) << 8 | (index >> 1 & 1) << 5 | (index >> 2) << 2
    return np.stack([along_x, along_x >> 1, along_x >> 2])


PARTS = _orders()


@compiled
def locate(table: Any, i: int, j: int, k: int) -> Any:
    """Address of a sample, −1 if it has no place; indices from −1 to n."""
    x, y, z = i + BEFORE, j + BEFORE, k + BEFORE
    brick = table[x >> 3, y >> 3, z >> 3]
    sample = PARTS[0, x & 7] | PARTS[1, y & 7] | PARTS[2, z & 7]
    if brick < 0:
        return (-2 - brick) * COARSE + sample if brick < -1 and sample < COARSE else -1
    return brick * SAMPLES + sample


@compiled
def claim(table: Any, values: Any, bounds: Any, state: Any, used: Any, i: int, j: int, k: int) -> Any:
    """Address of a sample, given a place if it has none. A later claim may move it if it lies in a coarse brick."""
    x, y, z = i + BEFORE, j + BEFORE, k + BEFORE
    brick = table[x >> 3, y >> 3, z >> 3]
    sample = PARTS[0, x & 7] | PARTS[1, y & 7] | PARTS[2, z & 7]
    if brick >= 0 or sample >= COARSE:
        return claim_brick(table, values, bounds, state, used, i, j, k)
    if brick == -1:
        brick = -2 - used[1]
        used[1] += 1
        table[x >> 3, y >> 3, z >> 3] = brick
        what = state.reshape(-1)
        what[(-2 - brick) * COARSE : (-1 - brick) * COARSE] = 0
    return (-2 - brick) * COARSE + sample


@compiled
def claim_brick(table: Any, values: Any, bounds: Any, state: Any, used: Any, i: int, j: int, k: int) -> Any:
    """Address of a sample in its brick, for good; the brick is allocated if it does not exist."""
    x, y, z = i + BEFORE, j + BEFORE, k + BEFORE
    brick = table[x >> 3, y >> 3, z >> 3]
    if brick < 0:
        coarse, brick = -2 - brick, used[0]
        used[0] += 1
        table[x >> 3, y >> 3, z >> 3] = brick
        state[brick, :] = 0
        if coarse >= 0:
            value, bound, what = values.reshape(-1), bounds.reshape(-1), state.reshape(-1)
            for sample in range(COARSE):
                here, there = coarse * COARSE + sample, brick * SAMPLES + sample
                value[there], bound[there], what[there] = value[here], bound[here], what[here]
    return brick * SAMPLES + (PARTS[0, x & 7] | PARTS[1, y & 7] | PARTS[2, z & 7])
