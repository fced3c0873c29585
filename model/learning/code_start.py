"""Initial latent codes that already tell training sequences apart: principal components of their distances.

Codes that begin at random must all be found by gradient descent, each from the few steps in which its sequence is
drawn; among thousands of sequences that is the slow part. Here the distances of each sequence at a grid of anchors and
times are estimated from its training points, and their principal components are the codes to begin with. Components
are divided by the root of their spread, so that fine ones are not lost beside coarse ones.

Promises: the same data set gives the same codes on the same machine; a sequence's estimate depends on no other.
Does not promise: exact distances at the anchors; they are extrapolated from near points, and clamped.

References: principal components by the Gram matrix, Turk and Pentland 1991, doi:10.1162/jocn.1991.3.1.71; local linear
fits, Cleveland 1979, doi:10.1080/01621459.1979.10481038.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import KDTree

from model.domain import Grid, frame_times
from model.learning.dataset import Dataset, Samples, load_dataset

Floats = NDArray[np.float32]

SIDE, REACH = 13, 0.9  # anchors along an axis, from -REACH to REACH: 0.15 apart
TIMES = 8  # moments at which anchors are read
CLAMP = 0.15  # units of Ω; what lies farther from the membrane says little
NEIGHBOURS = 12  # points of a local linear fit
RIDGE = 1e-4  # of a fit: keeps it solvable where its points lie in a plane
NOISE = 1e-10  # share of the largest variance under which one is rounding
LEAST_WIDTH = 0.02  # of a fit's weights, units of Ω
SHAPES_FILE = "shapes.npy"  # beside the points of a data set, where the estimates are kept


def anchors() -> Floats:
    """Points at which sequences are compared, (SIDE³, 3) float32 in Ω."""
    return np.asarray(REACH * Grid((SIDE, SIDE, SIDE)).points(), dtype=np.float32)


def distances_at(samples: Floats, places: Floats) -> Floats:
    """Estimate the distance at some places from the samples of one frame by local linear fits.

    Parameters
    ----------
    samples
        (n, 4): x, y, z and signed distance.
    places
        (m, 3).

    Returns
    -------
    Floats
        (m,) float32, clamped to ±CLAMP.
    """
    known = np.asarray(samples, dtype=np.float64)
    count = min(NEIGHBOURS, len(known))
    lengths, nearest = KDTree(known[:, :3]).query(places, k=count)
    lengths, nearest = lengths.reshape(len(places), count), nearest.reshape(len(places), count)
    offsets = known[nearest, :3] - places[:, None]  # (m, k, 3)
    width = np.maximum(lengths.mean(axis=1, keepdims=True), LEAST_WIDTH)
    share = np.exp(-0.5 * (lengths / width) ** 2)
    share /= share.sum(axis=1, keepdims=True)
    terms = np.concatenate([np.ones((*offsets.shape[:2], 1)), offsets / width[..., None]], axis=2)  # (m, k, 4)
    weighted = terms * share[..., None]
    normal = terms.transpose(0, 2, 1) @ weighted + RIDGE * np.eye(4)
    values = np.linalg.solve(normal, (weighted * known[nearest, 3][..., None]).sum(axis=1)[..., None])[:, 0, 0]
    return np.clip(values, -CLAMP, CLAMP).astype(np.float32)


def shape_of(samples: Samples, times: Floats, places: Floats) -> Floats:
    """Estimate a sequence's distances at places and at ``TIMES`` even times, (TIMES, m) float32.

    Between its own frames they are interpolated linearly in time; before the first and after the last, held.

    Parameters
    ----------
    samples
        (frames, n, 4).
    times
        (frames,) in τ, increasing.
    places
        (m, 3).
    """
    wanted = frame_times(TIMES)
    position = np.interp(wanted, times, np.arange(len(times)))
    below = np.floor(position).astype(int)
    above = np.minimum(below + 1, len(times) - 1)
    found = {frame: distances_at(samples[frame], places) for frame in sorted({*below, *above})}
    part = (position - below).astype(np.float32)[:, None]
    first, second = (np.stack([found[frame] for frame in each]) for each in (below, above))
    return np.asarray((1 - part) * first + part * second, dtype=np.float32)


def codes_by_shape(dataset: Dataset, size: int) -> Floats:
    """Return a code for each sequence of a data set.

    Parameters
    ----------
    dataset
        The training sequences.
    size
        Numbers in a code; those beyond one less than the sequences are 0.

    Returns
    -------
    Floats
        (s, size) float32; the first has a standard deviation of 1, the others less.
    """
    kept = dataset.folder / SHAPES_FILE
    if kept.is_file() and len(table := np.load(kept, mmap_mode="r")) == len(dataset.samples):
        return principal_codes(table, size)
    return principal_codes(np.stack([_shape(dataset, number) for number in range(len(dataset.samples))]), size)


def keep_shapes(folder: Path, *, workers: int | None = None) -> None:
    """Estimate the shapes of a data set's sequences in several processes and keep them beside its points.

    :func:`codes_by_shape` takes a tenth of a second a sequence otherwise, each time that a training begins.

    Parameters
    ----------
    folder
        Of the data set.
    workers
        Processes; all cores when None.
    """
    if (folder / SHAPES_FILE).is_file():
        return
    count, size = len(load_dataset(folder).samples), 16
    parts = [range(first, min(first + size, count)) for first in range(0, count, size)]
    with ProcessPoolExecutor(workers or os.cpu_count(), mp_context=get_context("spawn")) as pool:
        rows = [row for part in pool.map(partial(_shapes_in, folder), parts) for row in part]
    beside = folder / f"{SHAPES_FILE}.partial"
    with beside.open("wb") as file:
        np.save(file, np.stack(rows))
    beside.replace(folder / SHAPES_FILE)


def _shapes_in(folder: Path, numbers: Iterable[int]) -> list[Floats]:
    dataset = load_dataset(folder)
    return [_shape(dataset, number) for number in numbers]


def _shape(dataset: Dataset, number: int) -> Floats:
    """Estimate one sequence's distances, (TIMES · SIDE³,)."""
    return shape_of(dataset.samples[number], dataset.times(number), anchors()).ravel()


def principal_codes(table: Floats, size: int) -> Floats:
    """Return principal components of rows (s, m), divided by the root of their spread: (s, size) float32."""
    codes = np.zeros((len(table), size), dtype=np.float32)
    centred = table - table.mean(axis=0)
    variances, axes = np.linalg.eigh((centred @ centred.T).astype(np.float64))
    kept = min(size, len(table) - 1)
    variances, axes = variances[::-1][:kept], axes[:, ::-1][:, :kept]  # (k,) decreasing, and (s, k), unit columns
    if not kept or variances[0] <= 0:
        return codes
    axes = axes * np.where(axes[np.abs(axes).argmax(axis=0), np.arange(kept)] < 0, -1.0, 1.0)  # of two equal choices
    spread = (np.maximum(variances, 0.0) / variances[0]) ** 0.25  # root of the standard deviation, the first being 1
    codes[:, :kept] = axes * np.sqrt(len(table)) * np.where(variances > NOISE * variances[0], spread, 0.0)
    return codes
