"""Measures of all cells of a label volume at once: voxels, boxes, centres of mass, and connected bodies.

The volume is cut into runs, stretches of one label along x. Runs that touch in neighbouring rows are joined to bodies,
so that work and memory grow with the surface of the cells, not with their boxes. NumPy only: a process that checks
uploads beside the web application does it too.

Promises: whole numbers; voxels touch by faces, edges or corners.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Whole = NDArray[np.int64]
# Rows that come after a row and touch it: steps along z and y.
_LATER_ROWS = ((0, 1), (1, -1), (1, 0), (1, 1))


@dataclass(frozen=True)
class MeasuredLabel:
    """One label of a volume, in voxels.

    Attributes
    ----------
    low, high
        (3,) first voxel along x, y and z, and the one after the last.
    sums
        (3,) of the voxels' indices along x, y and z, counted from ``low``.
    bodies
        Voxels of each connected body.
    """

    label: int
    voxels: int
    low: Whole
    high: Whole
    sums: Whole
    bodies: Whole


@dataclass(frozen=True)
class _Runs:
    """Runs in the order of the volume: (n,) each."""

    labels: NDArray[Any]
    z: Whole
    y: Whole
    start: Whole
    stop: Whole


def measure_labels(volume: NDArray[Any]) -> list[MeasuredLabel]:
    """Measure the labels of a volume (z, y, x), ascending; 0 is background."""
    runs = _runs_of(volume)
    labels, of_label = np.unique(runs.labels, return_inverse=True)
    root = _joined(runs, volume.shape)
    length = runs.stop - runs.start
    _, body = np.unique(root, return_inverse=True)
    body_sizes = np.bincount(body, weights=length).astype(np.int64)
    label_of_body = np.zeros(len(body_sizes), np.int64)
    label_of_body[body] = of_label
    count = len(labels)
    low, high = np.full((3, count), np.iinfo(np.int64).max), np.zeros((3, count), np.int64)
    for axis, (first, after) in enumerate(((runs.start, runs.stop), (runs.y, runs.y + 1), (runs.z, runs.z + 1))):
        np.minimum.at(low[axis], of_label, first)
        np.maximum.at(high[axis], of_label, after)
    shifted = [runs.start - low[0][of_label], runs.y - low[1][of_label], runs.z - low[2][of_label]]
    twice = (length * (2 * shifted[0] + length - 1), 2 * length * shifted[1], 2 * length * shifted[2])
    sums = [np.bincount(of_label, weights=side, minlength=count).astype(np.int64) // 2 for side in twice]
    voxels = np.bincount(of_label, weights=length, minlength=count).astype(np.int64)
    order = np.argsort(label_of_body, kind="stable")
    sizes = np.split(body_sizes[order], np.cumsum(np.bincount(label_of_body, minlength=count))[:-1]) if count else []
    return [
        MeasuredLabel(
            label=int(labels[k]),
            voxels=int(voxels[k]),
            low=low[:, k],
            high=high[:, k],
            sums=np.array([side[k] for side in sums]),
            bodies=sizes[k],
        )
        for k in range(count)
    ]


def _runs_of(volume: NDArray[Any]) -> _Runs:
    depth, height, width = volume.shape
    rows = np.ascontiguousarray(volume).reshape(depth * height, width)
    inside = rows != 0
    changes = rows[:, 1:] != rows[:, :-1]
    begins, ends = inside.copy(), inside
    begins[:, 1:] &= changes
    ends[:, :-1] &= changes
    first, last = np.flatnonzero(begins), np.flatnonzero(ends)
    z, y = np.divmod(first // width, height)
    return _Runs(rows.reshape(-1)[first], z, y, first % width, last % width + 1)


def _joined(runs: _Runs, shape: tuple[int, ...]) -> Whole:
    """Return the number of the first run of the body that each run belongs to."""
    depth, height, width = shape
    row_length = width + 2  # so that no run reaches into the next row
    row = runs.z * height + runs.y
    begins, ends = row * row_length + runs.start, row * row_length + runs.stop
    parent = np.arange(len(row))
    pairs = []
    for dz, dy in _LATER_ROWS:
        here = np.flatnonzero((runs.z + dz < depth) & (runs.y + dy >= 0) & (runs.y + dy < height))
        offset = (dz * height + dy) * row_length
        low = np.searchsorted(ends, begins[here] + offset, side="left")
        high = np.searchsorted(begins, ends[here] + offset, side="right")
        counts = np.maximum(high - low, 0)
        one = np.repeat(here, counts)
        other = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts) + np.repeat(low, counts)
        alike = runs.labels[one] == runs.labels[other]
        pairs.append((one[alike], other[alike]))
    one, other = (np.concatenate(ends_of_pairs) for ends_of_pairs in zip(*pairs, strict=True))
    while True:
        above, beside = parent[one], parent[other]
        apart = above != beside
        if not apart.any():
            return parent
        above, beside = above[apart], beside[apart]
        np.minimum.at(parent, np.maximum(above, beside), np.minimum(above, beside))
        while not np.array_equal(parent[parent], parent):
            parent = parent[parent]
