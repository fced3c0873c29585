"""Cell labels: which samples belong to which cell, and which cell descends from which.

Promises: a body is an 18-connected set of samples with negative distance, exactly what
:func:`model.engine.marching_cubes.extract_surface` makes one surface of. Labels are stable over time: every label is
present in each frame of its track, and a track starts in the frame after its parent's last. One frame and the labels of
the frame before are in memory.
Does not promise: biological meaning. A body counts as a cell by its size alone (2 % of the frame's cell volume).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.optimize import linear_sum_assignment
from scipy.spatial import KDTree

from model.domain import Field
from model.engine.bricks import KNOWN, WHAT, locate
from model.engine.jit import compiled
from model.engine.runs import Labels, Runs, bodies, overlaps, runs_of
from model.engine.sparse import SparseField
from model.errors import EmptySurfaceError

FRAGMENT = 0.02
"""A body smaller than this part of the frame's cell volume is a fragment, not a cell."""

WHOLE_SIDE = 512  # samples a side up to which cells that touch are told apart sample by sample
_COARSE_SIDE = 256  # samples a side at which they are told apart on finer grids, whose volumes would take gigabytes
_MOST = 0.5  # share of a cell's samples of the frame before that lie in one body with another cell: the two touch


@dataclass(frozen=True)
class Track:
    """One label's track, a row of the Cell Tracking Challenge's ``man_track.txt``.

    Parameters
    ----------
    label
        From 1; the cell's value in label volumes.
    first_frame, last_frame
        Both included.
    parent
        The label that divided into this one, 0 if none.
    """

    label: int
    first_frame: int
    last_frame: int
    parent: int


@dataclass(frozen=True)
class LabelledFrame:
    """One frame with labelled cells.

    Parameters
    ----------
    field
        Signed distances, sparse or (nx, ny, nz) float32 as they were given; without the fragments, if they are removed.
        None if none was given.
    runs
        The inside samples with their cells' labels, row by row.
    cells
        Labels present, ascending.
    fragments
        How many fragments were found, removed or not.
    """

    field: SparseField | Field | None
    runs: Runs
    cells: tuple[int, ...]
    fragments: int

    @cached_property
    def labels(self) -> Labels:
        """Label volume (nx, ny, nz) uint16, 0 outside."""
        return self.runs.volume()


def label_volume(field: SparseField | Field) -> Labels:
    """Number the bodies of one frame, the largest first: (nx, ny, nz) uint16, 0 outside."""
    return bodies(field).volume()


def remove_bodies(field: SparseField | Field, found: Runs, keep: int) -> SparseField | Field:
    """Set the samples of all bodies but the first ``keep`` outside, so that no surface remains there.

    A removed sample gets the distance it had, with a positive sign. A sparse field is changed in its storage, a dense
    one is copied.
    """
    if isinstance(field, np.ndarray):
        lost = (field < 0.0) & (found.relabelled(1 * (np.arange(found.labels.max(initial=0) + 1) > keep)).volume() > 0)
        return np.where(lost, -field, field)
    bricks = field.bricks
    _flip(
        bricks.table,
        bricks.values,
        bricks.state,
        found.shape[1],
        found.rows,
        found.first,
        found.stop,
        found.labels,
        keep,
    )
    return field


class CellTracker:
    """Labels for the cells of one sequence, frame by frame.

    The first frame's body is cell 1 (if there are several, 1, 2 … by size). Bodies continue the cells they overlap most
    in the frame before, one to one; bodies that overlap no cell continue cells left over, by least total distance of
    centroids. A body still left over is a daughter of the cell it overlaps most, or of the nearest: that cell has
    divided and ends, and its bodies get the next free labels, the larger first, with it as parent. Cells do not fuse:
    where a body holds most of what were two cells, it is shared, each sample going to the cell whose last samples are
    nearest; on grids over 512 samples a side, the border between them has steps of up to N / 256 samples. A cell that
    nothing continues ends.

    Parameters
    ----------
    fragments
        What becomes of bodies under 2 % of the frame's cell volume: removed from labels and field, or kept with the
        label of the nearest cell. The largest body is never a fragment.
    """

    def __init__(self, *, fragments: Literal["remove", "keep"] = "remove", divides: bool = True) -> None:
        self._keep_fragments = fragments == "keep"
        self._divides = divides
        self._frame = -1
        self._last: Runs | None = None
        self._cells: tuple[int, ...] = ()
        self._first_frame: dict[int, int] = {}
        self._last_frame: dict[int, int] = {}
        self._parent: dict[int, int] = {}

    @property
    def tracks(self) -> tuple[Track, ...]:
        """Tracks so far, by label; a current track ends in the last frame given."""
        return tuple(
            Track(label, first, self._last_frame[label], self._parent[label])
            for label, first in self._first_frame.items()
        )

    @property
    def keeps_fragments(self) -> bool:
        """Whether fragments are kept."""
        return self._keep_fragments

    def update(self, field: SparseField | Field | None, *, found: Runs | None = None) -> LabelledFrame:
        """Label the next frame.

        Parameters
        ----------
        field
            Signed distances, negative inside; dense ones as (nx, ny, nz). A dense field is not changed; from a sparse
            one fragments are removed in its storage. None if only the bodies are known.
        found
            The bodies, the largest first, if they are known already.

        Raises
        ------
        EmptySurfaceError
            If no sample is inside.
        """
        if found is None:
            if field is None:
                raise ValueError("a frame is a field, or its bodies")
            found = bodies(field)
        sizes = found.sizes()[1:]  # descending
        if len(sizes) == 0:
            raise EmptySurfaceError(
                f"no sample of the grid lies inside the cell in frame {self._frame + 1}; try a finer grid or "
                "another code"
            )
        large = max(1, int((sizes >= FRAGMENT * sizes.sum()).sum())) if self._divides else 1
        self._frame += 1
        ranks = np.arange(len(sizes) + 1)
        runs = self._name(found.relabelled(np.where(ranks <= large, ranks, 0)), large)
        if len(sizes) > large:
            if self._keep_fragments:
                labels = runs.volume()
                runs = runs_of(
                    _spread(labels, found.relabelled(np.minimum(ranks, 1)).volume() & (labels == 0) > 0, labels)
                )
            elif field is not None:
                field = remove_bodies(field, found, large)
        self._cells = tuple((np.flatnonzero(runs.sizes()[1:]) + 1).tolist())
        for cell in self._cells:
            self._last_frame[cell] = self._frame
        self._last = runs
        return LabelledFrame(field=field, runs=runs, cells=self._cells, fragments=len(sizes) - large)

    def _name(self, found: Runs, count: int) -> Runs:
        """Give bodies 1 … count the labels of cells."""
        if self._last is None:
            return found.relabelled(np.array([0, *(self._born(0) for _ in range(count))]))
        cells, last = self._cells, self._last
        overlap = overlaps(last, found)[list(cells), 1:]  # (cells, bodies) shared samples
        names: list[list[int]] = [[] for _ in range(count + 1)]
        for row, heirs in enumerate(_heirs(overlap, lambda: _distances(last, cells, found))):
            if len(heirs) == 1:
                names[heirs[0]].insert(0, cells[row])
            elif heirs:
                for body in heirs:
                    names[body].insert(0, self._born(cells[row]))
            else:
                body = int(overlap[row].argmax()) + 1
                if overlap[row, body - 1] > _MOST * last.sizes()[cells[row]]:
                    names[body].append(cells[row])
        named = found.relabelled(np.array([0, *(own[0] for own in names[1:])]))
        if all(len(own) < 2 for own in names):
            return named
        every = 1 if max(found.shape) <= WHOLE_SIDE else -(-max(found.shape) // _COARSE_SIDE)
        labels, painted = named.volume(every=every), found.volume(every=every)
        owner = np.full(len(self._first_frame) + 1, -1, dtype=np.int64)
        for body, own in enumerate(names):
            if len(own) > 1:
                labels = self._shared(labels, painted == body, own, every=every)
                owner[own] = body
        return runs_of(labels) if every == 1 else named.overlaid(labels, every=every, owner=owner, within=found)

    def _shared(self, labels: Labels, body: NDArray[np.bool_], cells: list[int], *, every: int) -> Labels:
        """Divide one body among the cells that have merged in it."""
        if self._last is None:
            return labels
        source, last = np.zeros_like(labels), self._last.volume(every=every)
        for cell in cells:
            # a cell born in this very frame has no last samples: its parent's stand for it
            source[last == (cell if cell in self._cells else self._parent[cell])] = cell
        if not source.any():  # between the samples of a coarse volume
            return labels
        if every > 1:  # the coarse sample beside one on the surface may lie outside
            body = (body | (labels == 0)) & ndimage.binary_dilation(body, np.ones((3, 3, 3)), iterations=2)
        return _spread(labels, body, source)

    def _born(self, parent: int) -> int:
        label = len(self._first_frame) + 1
        self._first_frame[label] = self._frame
        self._last_frame[label] = self._frame
        self._parent[label] = parent
        return label


def _distances(last: Runs, cells: tuple[int, ...], found: Runs) -> NDArray[np.float64]:
    """Distances of centroids: (cells, bodies), in samples."""
    before, now = last.centroids()[list(cells)], found.centroids()[1:]
    return np.asarray(np.linalg.norm(before[:, None] - now[None], axis=2))


@compiled
def _flip(
    table: Any, values: Any, state: Any, ny: int, rows: Any, first: Any, stop: Any, labels: Any, keep: int
) -> None:
    value, what = values.reshape(-1), state.reshape(-1)
    for row in range(len(rows) - 1):
        for run in range(rows[row], rows[row + 1]):
            if labels[run] > keep:
                for k in range(first[run], stop[run]):
                    at = locate(table, row // ny, row % ny, k)
                    if at >= 0 and what[at] & WHAT == KNOWN:
                        value[at] = -value[at]


def _heirs(overlap: NDArray[np.int64], distances: Callable[[], NDArray[np.float64]]) -> list[list[int]]:
    """Find the bodies (from 1) that continue each cell, ascending.

    One to one first: as many overlapping pairs as possible, then the largest overlap, then the least distance for
    bodies that overlap nothing. Bodies left over join the cell they overlap most, or the nearest.
    """
    lone = overlap.sum(axis=0) == 0  # (bodies,)
    score = np.where(overlap > 0, overlap + 1.0 + float(overlap.sum()), 0.0)
    distance = distances() if lone.any() else np.zeros(overlap.shape)  # seldom needed, and slow
    score[:, lone] = 1.0 - distance[:, lone] / (1.0 + distance.max())
    rows, columns = linear_sum_assignment(score, maximize=True)
    heirs: list[list[int]] = [[] for _ in overlap]
    paired = set()
    for row, column in zip(rows.tolist(), columns.tolist(), strict=True):
        if score[row, column] > 0.0:
            heirs[row].append(column + 1)
            paired.add(column)
    for column in range(overlap.shape[1]):
        if column not in paired:
            row = int(distance[:, column].argmin() if lone[column] else overlap[:, column].argmax())
            heirs[row].append(column + 1)
    return [sorted(found) for found in heirs]


def _spread(labels: Labels, into: NDArray[np.bool_], source: Labels) -> Labels:
    """Give samples the label of the nearest sample of ``source``."""
    found = np.where(into & (source > 0), source, labels)
    # the sample nearest to one outside the source lies on the source's border
    known = np.argwhere((source > 0) & np.logical_not(ndimage.binary_erosion(source > 0)))
    wanted = np.argwhere(into & (source == 0))
    if len(wanted):
        found[tuple(wanted.T)] = source[tuple(known[KDTree(known).query(wanted)[1]].T)]
    return found
