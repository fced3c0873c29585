"""Storage for a signed distance that is known near the membrane only.

Samples are stored in bricks of 8 × 8 × 8. A brick takes memory when its first sample is stored. Within a brick, samples
whose indices are divisible by 4 come first, then those divisible by 2: a coarse-to-fine evaluation finds the samples of
its earlier levels in one cache line. One layer of samples outside Ω is stored too, so that surfaces can be closed
there.

Promises: reading and writing take the same time for any grid. Memory that was never written is never touched, so the
resident size follows the surface, not the volume. One storage serves frame after frame.
Does not promise: that neighbours of a stored sample are stored.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from model.domain import Grid
from model.engine.jit import compiled

SIDE = 8  # samples along a brick's side
SAMPLES = SIDE**3
BEFORE = SIDE  # offset of Ω's first sample: one brick of storage lies before it

UNKNOWN, BOUND, KNOWN = 0, 1, 2  # what a stored value is: nothing yet, a lower bound of the magnitude, the distance
WHAT = 3  # mask of the state's bits that hold UNKNOWN, BOUND or KNOWN
CELL = 4  # bit of the state: the grid cell that begins at this sample meets the membrane


class Bricks:
    """Reusable storage for the samples of one grid, and the layer around it.

    Attributes
    ----------
    table
        (bx, by, bz) int32: number of the brick at each place, −1 where there is none.
    values
        (bricks, 512) float32.
    state
        (bricks, 512) uint8: UNKNOWN, BOUND or KNOWN, and the bit CELL.
    bounds
        (bricks, 512) float32: lower bounds of the magnitudes, with sign; the distance where it is known.
    crossed
        (bricks,) uint8: 1 if a corner of a cell that meets the membrane lies there.
    used
        (1,) int64: bricks in use.
    """

    def __init__(self, grid: Grid) -> None:
        self.grid = grid
        self.shape = np.array(grid.shape, dtype=np.int64)
        self.table = np.full(tuple(-(-(n + 1 + BEFORE) // SIDE) for n in grid.shape), -1, dtype=np.int32)
        # room for every brick; pages that are never written take no memory
        self.values = np.empty((self.table.size, SAMPLES), dtype=np.float32)
        self.bounds = np.empty_like(self.values)
        self.state = np.empty((self.table.size, SAMPLES), dtype=np.uint8)
        self.crossed = np.zeros(self.table.size, dtype=np.uint8)
        self.used = np.zeros(1, dtype=np.int64)

    def clear(self) -> None:
        """Forget all samples; the memory stays for the next frame."""
        self.table.fill(-1)
        self.crossed[: self.used[0]] = 0
        self.used[0] = 0


def _orders() -> NDArray[np.int64]:
    """Place of a sample in its brick: (3, 8) parts by axis and index, to be added."""
    index = np.arange(SIDE)
    along_x = (index & 1) << 8 | (index >> 1 & 1) << 5 | (index >> 2) << 2
    return np.stack([along_x, along_x >> 1, along_x >> 2])


PARTS = _orders()


@compiled
def locate(table: Any, i: int, j: int, k: int) -> Any:
    """Address of a sample, −1 if its brick does not exist; indices from −1 to n."""
    x, y, z = i + BEFORE, j + BEFORE, k + BEFORE
    brick = table[x >> 3, y >> 3, z >> 3]
    if brick < 0:
        return -1
    return brick * SAMPLES + (PARTS[0, x & 7] | PARTS[1, y & 7] | PARTS[2, z & 7])


@compiled
def claim(table: Any, state: Any, used: Any, i: int, j: int, k: int) -> Any:
    """Address of a sample; its brick is allocated if it does not exist."""
    x, y, z = i + BEFORE, j + BEFORE, k + BEFORE
    brick = table[x >> 3, y >> 3, z >> 3]
    if brick < 0:
        brick = used[0]
        used[0] += 1
        table[x >> 3, y >> 3, z >> 3] = brick
        state[brick, :] = 0
    return brick * SAMPLES + (PARTS[0, x & 7] | PARTS[1, y & 7] | PARTS[2, z & 7])
