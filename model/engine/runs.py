"""Label volumes as run-length encoding: the inside samples, row by row along z.

A surface of area A on a grid of step h leaves about A / h² runs, where a label volume has 8 / h³ samples. Bodies are
separated, measured and compared without a label volume.

Promises: bodies are the 18-connected sets of inside samples, the same that :mod:`model.engine.marching_cubes` closes a
surface around.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model.domain import Field
from model.engine.bricks import BEFORE, KNOWN, PARTS, SAMPLES, SIDE, WHAT, locate
from model.engine.jit import compiled
from model.engine.sparse import SparseField

Labels = NDArray[np.uint16]
LABEL_MAX = 65_535  # the largest of a label volume


@dataclass(frozen=True)
class Runs:
    """Samples with a label, row by row.

    Attributes
    ----------
    shape
        Of the grid, (nx, ny, nz).
    rows
        (nx · ny + 1,) int64: the runs of row (i, j) are ``rows[i · ny + j]`` to ``rows[i · ny + j + 1]``.
    first, stop
        (r,) int32: a run holds the samples k with first ≤ k < stop.
    labels
        (r,) int32, from 1; 0 for runs that belong to nothing.
    """

    shape: tuple[int, int, int]
    rows: NDArray[np.int64]
    first: NDArray[np.int32]
    stop: NDArray[np.int32]
    labels: NDArray[np.int32]

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Samples in each run."""
        return (self.stop - self.first).astype(np.int64)

    def sizes(self) -> NDArray[np.int64]:
        """Samples of each label; element 0 counts those without."""
        count = int(self.labels.max(initial=0)) + 1
        return np.bincount(self.labels, weights=self.lengths, minlength=count).astype(np.int64)

    def centroids(self) -> NDArray[np.float64]:
        """Mean index (labels + 1, 3) of the samples of each label, NaN for a label without samples."""
        row = np.repeat(np.arange(len(self.rows) - 1), np.diff(self.rows))
        axes = (row // self.shape[1], row % self.shape[1], (self.first + self.stop - 1) / 2.0)
        count = int(self.labels.max(initial=0)) + 1
        sums = [np.bincount(self.labels, weights=axis * self.lengths, minlength=count) for axis in axes]
        with np.errstate(invalid="ignore"):
            return np.stack(sums, axis=1) / self.sizes()[:, None]

    def relabelled(self, names: NDArray[np.integer]) -> Runs:
        """Give label n the number ``names[n]``."""
        return replace(self, labels=np.asarray(names, dtype=np.int32)[self.labels])

    def volume(self, *, every: int = 1) -> Labels:
        """Label volume (nx, ny, nz) uint16, 0 outside; labels above 65,535 have no number and become 0.

        ``every``: of each axis only every so many samples, from the first on.
        """
        nx, ny, nz = (-(-n // every) for n in self.shape)
        painted = np.zeros((nx, ny, nz), dtype=np.uint16)
        _paint(self.shape[1], self.rows, self.first, self.stop, self.labels, every, painted)
        return painted

    def turned_volume(self) -> Labels:
        """Return :meth:`volume` with its axes in the opposite order, (nz, ny, nx), as image files have them."""
        painted = np.zeros(self.shape[::-1], dtype=np.uint16)
        _paint_turned(self.rows, self.first, self.stop, self.labels, painted)
        return painted

    def present(self) -> tuple[int, ...]:
        """Labels that some sample of the volume has, ascending."""
        return tuple(int(label) for label in np.unique(self.labels) if 0 < label <= LABEL_MAX)

    def at(self, samples: NDArray[np.int64]) -> Labels:
        """Labels (n,) of samples (n, 3) as :meth:`volume` has them."""
        found = np.zeros(len(samples), dtype=np.uint16)
        _look_up(self.shape[1], self.rows, self.first, self.stop, self.labels, samples, found)
        return found

    def overlaid(self, labels: Labels, *, every: int, owner: NDArray[np.int64], within: Runs) -> Runs:
        """Take labels over from a coarser volume, run by run.

        Parameters
        ----------
        labels
            As :meth:`volume` gives them with the same ``every``.
        owner
            The body to which each label belongs, −1 for those that are not taken over.
        within
            These runs with the numbers of their bodies: a sample takes the label of the coarse sample beside it if that
            belongs to its own body, else it keeps its own.
        """
        size = np.empty(1, dtype=np.int64)
        empty = np.empty(0, dtype=np.int32)
        rows = np.empty_like(self.rows)
        given = (self.shape[1], self.rows, self.first, self.stop, self.labels, within.labels, labels, every, owner)
        _overlay(*given, rows, empty, empty, empty, size)
        first, stop, names = (np.empty(int(size[0]), dtype=np.int32) for _ in range(3))
        _overlay(*given, rows, first, stop, names, size)
        return Runs(self.shape, rows, first, stop, names)


def bodies(field: SparseField | Field) -> Runs:
    """Find the connected bodies of a frame, the largest first.

    Parameters
    ----------
    field
        Signed distances, negative inside; dense as (nx, ny, nz).

    Returns
    -------
    Runs
        Label 1 is the largest body. Equal sizes keep their order along x, y, z.
    """
    return connected(_scan(field))


def connected(found: Runs) -> Runs:
    """Find the connected bodies of inside runs, the largest first; given labels are ignored."""
    labels = np.empty(len(found.first), dtype=np.int32)
    count = _connect(found.shape[1], found.rows, found.first, found.stop, labels)
    sizes = np.bincount(labels, weights=found.lengths, minlength=count)
    rank = np.empty(count, dtype=np.int32)
    rank[np.argsort(-sizes, kind="stable")] = np.arange(1, count + 1)
    return replace(found, labels=rank[labels])


def inside(field: SparseField | Field) -> NDArray[np.bool_]:
    """Mark the samples inside: (nx, ny, nz) bool."""
    return _scan(field).volume() > 0


def runs_of(labels: Labels) -> Runs:
    """Take the runs of equal labels of a label volume (nx, ny, nz)."""
    shape = (labels.shape[0], labels.shape[1], labels.shape[2])
    padded = np.zeros((shape[0] * shape[1], shape[2] + 2), dtype=np.int32)
    padded[:, 1:-1] = labels.reshape(-1, shape[2])
    change = padded[:, 1:] != padded[:, :-1]
    row, first = np.nonzero(change & (padded[:, 1:] > 0))
    _, stop = np.nonzero(change & (padded[:, :-1] > 0))
    rows = np.searchsorted(row, np.arange(shape[0] * shape[1] + 1))
    return Runs(shape, rows, first.astype(np.int32), stop.astype(np.int32), padded[row, first + 1])


def overlaps(before: Runs, after: Runs) -> NDArray[np.int64]:
    """Count the samples that a label of one frame shares with a label of the other: (labels + 1, labels + 1)."""
    table = np.zeros((int(before.labels.max(initial=0)) + 1, int(after.labels.max(initial=0)) + 1), dtype=np.int64)
    _overlap(
        before.rows, before.first, before.stop, before.labels, after.rows, after.first, after.stop, after.labels, table
    )
    return table


def _scan(field: SparseField | Field) -> Runs:
    if isinstance(field, np.ndarray):
        return runs_of((field < 0.0).astype(np.uint16))
    bricks, shape = field.bricks, field.grid.shape
    rows = np.empty(shape[0] * shape[1] + 1, dtype=np.int64)
    room = 4 * len(rows)
    while True:
        first, stop = np.empty(room, dtype=np.int32), np.empty(room, dtype=np.int32)
        count = _inside(bricks.table, bricks.values, bricks.state, bricks.crossed, bricks.shape, rows, first, stop)
        if count <= room:
            first, stop = first[:count].copy(), stop[:count].copy()
            return Runs(shape, rows, first, stop, np.ones(count, dtype=np.int32))
        room = count


@compiled
def _inside(table: Any, values: Any, state: Any, crossed: Any, shape: Any, rows: Any, first: Any, stop: Any) -> int:
    """List the inside runs; a sample that is not known has the sign of the one before. Returns their number."""
    nx, ny, nz = shape
    count = 0
    plane = line = False
    for i in range(nx):
        for j in range(ny):
            rows[i * ny + j] = count
            if j == 0:
                line = plane
            at = locate(table, i, j, 0)
            if at >= 0 and state[at // SAMPLES, at % SAMPLES] & WHAT == KNOWN:
                line = values[at // SAMPLES, at % SAMPLES] < 0.0
            if j == 0:
                plane = line
            count = _row(table, values, state, crossed, i, j, nz, line, first, stop, count)
    rows[nx * ny] = count
    return count


@compiled
def _row(
    table: Any, values: Any, state: Any, crossed: Any, i: int, j: int, nz: int, inside: bool, first: Any, stop: Any,
    count: int,
) -> int:  # fmt: skip
    """List the runs of one row that begins inside or not; those beyond the room are only counted."""
    begin = 0
    place = PARTS[0, (i + BEFORE) & 7] | PARTS[1, (j + BEFORE) & 7]
    for tall in range(table.shape[2]):
        brick = table[(i + BEFORE) >> 3, (j + BEFORE) >> 3, tall]
        if brick < 0 or crossed[brick] == 0:
            continue
        for c in range(SIDE):
            k, sample = tall * SIDE + c - BEFORE, place | PARTS[2, c]
            known = 0 <= k < nz and state[brick, sample] & WHAT == KNOWN
            if not known or (values[brick, sample] < 0.0) == inside:
                continue
            if inside:
                if count < len(first):
                    first[count], stop[count] = begin, k
                count += 1
            inside, begin = not inside, k
    if inside:
        if count < len(first):
            first[count], stop[count] = begin, nz
        count += 1
    return count


@compiled
def _connect(ny: int, rows: Any, first: Any, stop: Any, labels: Any) -> int:
    """Number the 18-connected bodies from 0, in the order of their first run; returns how many there are."""
    parent = np.arange(len(first))
    for row in range(len(rows) - 1):
        j = row % ny
        if j > 0:
            _join(parent, rows, first, stop, row - 1, row, 1)
        for side in range(-1, 2):
            if row >= ny and 0 <= j + side < ny:
                # along a straight neighbour diagonals count; along a diagonal one they would join corners
                _join(parent, rows, first, stop, row - ny + side, row, 1 if side == 0 else 0)
    count = 0
    for run in range(len(first)):
        root = _root(parent, run)
        if root == run:
            labels[run] = count
            count += 1
        else:
            labels[run] = labels[root]
    return count


@compiled
def _join(parent: Any, rows: Any, first: Any, stop: Any, before: int, row: int, slack: int) -> None:
    """Join the runs of two rows that overlap, or with ``slack`` 1 come within one sample."""
    p, q = rows[before], rows[row]
    while p < rows[before + 1] and q < rows[row + 1]:
        if first[p] < stop[q] + slack and first[q] < stop[p] + slack:
            a, b = _root(parent, p), _root(parent, q)
            parent[max(a, b)] = min(a, b)
        if stop[p] < stop[q]:
            p += 1
        else:
            q += 1


@compiled
def _root(parent: Any, run: int) -> int:
    while parent[run] != run:
        parent[run] = parent[parent[run]]
        run = parent[run]
    return run


@compiled
def _overlap(
    rows: Any, first: Any, stop: Any, labels: Any, rows2: Any, first2: Any, stop2: Any, labels2: Any, table: Any
) -> None:
    for row in range(len(rows) - 1):
        p, q = rows[row], rows2[row]
        while p < rows[row + 1] and q < rows2[row + 1]:
            shared = min(stop[p], stop2[q]) - max(first[p], first2[q])
            if shared > 0:
                table[labels[p], labels2[q]] += shared
            if stop[p] < stop2[q]:
                p += 1
            else:
                q += 1


@compiled
def _paint(ny: int, rows: Any, first: Any, stop: Any, labels: Any, every: int, volume: Any) -> None:
    for row in range(len(rows) - 1):
        i, j = row // ny, row % ny
        if i % every or j % every:
            continue
        for run in range(rows[row], rows[row + 1]):
            if labels[run] <= LABEL_MAX:
                low, high = -(-first[run] // every), -(-stop[run] // every)
                volume[i // every, j // every, low:high] = labels[run]


@compiled
def _paint_turned(rows: Any, first: Any, stop: Any, labels: Any, volume: Any) -> None:
    ny = volume.shape[1]
    for row in range(len(rows) - 1):
        for run in range(rows[row], rows[row + 1]):
            if labels[run] <= LABEL_MAX:
                volume[first[run] : stop[run], row % ny, row // ny] = labels[run]


@compiled
def _look_up(ny: int, rows: Any, first: Any, stop: Any, labels: Any, samples: Any, found: Any) -> None:
    for q in range(len(samples)):
        row, k = samples[q, 0] * ny + samples[q, 1], samples[q, 2]
        for run in range(rows[row], rows[row + 1]):
            if first[run] <= k < stop[run] and labels[run] <= LABEL_MAX:
                found[q] = labels[run]


@compiled
def _overlay(
    ny: int, rows: Any, first: Any, stop: Any, labels: Any, bodies: Any, coarse: Any, every: int, owner: Any,
    new_rows: Any, new_first: Any, new_stop: Any, new_labels: Any, size: Any,
) -> None:  # fmt: skip
    """Divide runs where the label beside them changes; without room only their number is found."""
    count = 0
    for row in range(len(rows) - 1):
        new_rows[row] = count
        i = min((row // ny + every // 2) // every, coarse.shape[0] - 1)
        j = min((row % ny + every // 2) // every, coarse.shape[1] - 1)
        for run in range(rows[row], rows[row + 1]):
            begin, name = first[run], -1
            for k in range(first[run], stop[run]):
                beside = coarse[i, j, min((k + every // 2) // every, coarse.shape[2] - 1)]
                label = beside if owner[beside] == bodies[run] else labels[run]
                if name < 0:
                    name = label
                elif label != name:
                    if len(new_first):
                        new_first[count], new_stop[count], new_labels[count] = begin, k, name
                    count, begin, name = count + 1, k, label
            if len(new_first):
                new_first[count], new_stop[count], new_labels[count] = begin, stop[run], name
            count += 1
    new_rows[len(rows) - 1] = count
    size[0] = count
