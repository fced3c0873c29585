"""Signed distances on a whole grid: those of the function near the membrane, a constant beyond.

    >>> from model.engine.sparse import evaluate_dense
    >>> grid = Grid((65, 65, 65))
    >>> ball = lambda points: np.linalg.norm(points, axis=1) - 0.5
    >>> band = NarrowBand(ball, grid, inside=lambda: evaluate_dense(ball, grid) < 0)
    >>> band.distances.shape, float(band.distances.max())
    ((65, 65, 65), 0.125)

Promises: of a true signed distance the values are exactly those of a dense evaluation, clipped to ± the clamp, also
where a cell leaves Ω. Signs are those of ``inside``, whatever the function says: removed fragments stay removed.
Does not promise: for a function that is no true distance, that a sample at ± the clamp lies that far from the membrane;
it lies at least four grid steps from it. Nor the distances of outside samples to a membrane beyond Ω.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import maximum_filter1d, minimum_filter1d

from model.domain import Field, Grid
from model.engine.sparse import SignedDistance
from model.errors import InvalidFieldError

BAND = 4  # of the largest grid step: the distance beyond which values are constant
_BATCH = 2**18  # points in one call; bounds memory
_LEAST = np.float32(1e-30)  # magnitude of an inside sample: its sign stays negative


def clamp_distance(grid: Grid) -> np.float32:
    """Return the largest magnitude of a distance, in units of Ω: four of the largest grid steps."""
    return np.float32(BAND * grid.step.max())


@dataclass(frozen=True)
class NarrowBand:
    """Distances of one frame, evaluated on first use.

    Parameters
    ----------
    sdf
        Maps points (n, 3) float32 in Ω to signed distances (n,) float32, negative inside.
    grid
        Where to sample.
    inside
        Gives which samples lie inside, (nx, ny, nz) bool.
    """

    sdf: SignedDistance
    grid: Grid
    inside: Callable[[], NDArray[np.bool_]]

    @cached_property
    def distances(self) -> Field:
        """(nx, ny, nz) float32 in units of Ω, negative inside, between ± :func:`clamp_distance`.

        Raises
        ------
        InvalidFieldError
            If a distance is NaN or infinite.
        """
        inside, clamp = self.inside(), clamp_distance(self.grid)
        values = np.where(inside, -clamp, clamp)
        flat, signs = values.reshape(-1), inside.reshape(-1)
        near = np.flatnonzero(self._near(inside))
        for start in range(0, len(near), _BATCH):
            ids = near[start : start + _BATCH]
            found = np.abs(np.asarray(self.sdf(self.grid.points(ids)), dtype=np.float32))
            if not np.isfinite(found).all():
                raise InvalidFieldError("the signed distance function returned NaN or infinity")
            found = np.minimum(found, clamp)
            flat[ids] = np.where(signs[ids], -np.maximum(found, _LEAST), found)
        return values

    def _near(self, inside: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Find the samples that one of the other sign is near: in a box that reaches the clamp and a step farther.

        Beyond Ω all is outside: a cell that leaves Ω has a membrane there.
        """
        least: NDArray[np.uint8] = inside.astype(np.uint8)
        most = least
        for axis, step in enumerate(self.grid.step):
            size = 2 * (int(np.ceil(clamp_distance(self.grid) / step)) + 1) + 1
            least = minimum_filter1d(least, size, axis=axis, mode="constant")
            most = maximum_filter1d(most, size, axis=axis, mode="constant")
        return np.asarray(least != most)
