"""The domain of a cell, Ω = [−1, 1]³ in space and τ = [−1, 1] in time, and the samples in it.

Promises: sample ``i`` of ``n`` lies at ``2 i / (n − 1) − 1``, ends included, in space and in time. Coordinates are
computed in float64 and rounded once, so that rounding :meth:`Grid.to_index` gives the index back. No other file
converts between indices and coordinates.
Does not promise: physical units; :mod:`model.output.exporter` alone knows micrometres and minutes.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from model.errors import SpecError

OMEGA: tuple[float, float] = (-1.0, 1.0)
"""Ends of the spatial domain along each of x, y and z."""

TAU: tuple[float, float] = (-1.0, 1.0)
"""Ends of the temporal domain: the first frame and the last."""

Points = NDArray[np.float32]
Field = NDArray[np.float32]


@dataclass(frozen=True)
class Grid:
    """Regular samples covering Ω, ends included.

    Parameters
    ----------
    shape
        Samples along (x, y, z), at least two each. Arrays on the grid are indexed ``[x, y, z]`` in C order, so the
        flat identifier of a sample is ``(ix · ny + iy) · nz + iz``.
    """

    shape: tuple[int, int, int]

    def __post_init__(self) -> None:
        """Refuse a grid with fewer than two samples along an axis."""
        if len(self.shape) != 3 or any(n < 2 for n in self.shape):
            raise SpecError(
                f"a grid needs at least 2 samples along x, y and z; {self.shape} was asked", pointer="/grid"
            )

    @property
    def size(self) -> int:
        """Number of samples."""
        nx, ny, nz = self.shape
        return nx * ny * nz

    @property
    def step(self) -> NDArray[np.float64]:
        """Distance of neighbouring samples along x, y and z, (3,) float64, in units of Ω."""
        return (OMEGA[1] - OMEGA[0]) / (np.array(self.shape, dtype=np.float64) - 1.0)

    def axes(self) -> tuple[Points, Points, Points]:
        """Coordinates of the samples along x, y and z, float32."""
        x, y, z = self._axes
        return x.copy(), y.copy(), z.copy()

    def points(self, ids: slice | NDArray[np.int64] | None = None) -> Points:
        """Coordinates of samples.

        Parameters
        ----------
        ids
            Flat identifiers (n,), or a slice of them, or nothing for the whole grid.

        Returns
        -------
        Points
            (n, 3) float32 in Ω, columns x, y, z, in C order.
        """
        if ids is None:
            ids = slice(None)
        if isinstance(ids, slice):
            ids = np.arange(*ids.indices(self.size), dtype=np.int64)
        found = np.empty((len(ids), 3), dtype=np.float32)
        for column, (axis, index) in enumerate(zip(self._axes, np.unravel_index(ids, self.shape), strict=True)):
            found[:, column] = axis[index]
        return found

    def to_index(self, points: Points) -> NDArray[np.float64]:
        """Indices (n, 3) float64 of points (n, 3) in Ω; a point between samples has a fraction."""
        return (np.asarray(points, dtype=np.float64) - OMEGA[0]) / self.step

    @cached_property
    def _axes(self) -> tuple[Points, Points, Points]:
        x, y, z = (_ends_included(n) for n in self.shape)
        return x, y, z


def frame_times(frames: int) -> NDArray[np.float32]:
    """Spread frames evenly over τ.

    Parameters
    ----------
    frames
        How many, at least one.

    Returns
    -------
    NDArray[np.float32]
        (frames,) increasing from −1 to 1, ends included. A single frame is the middle of the life, t = 0.
    """
    if frames < 1:
        raise SpecError(f"a sequence has at least 1 frame; {frames} was asked", pointer="/frames")
    return _ends_included(frames) if frames > 1 else np.zeros(1, dtype=np.float32)


def frame_to_time(frame: float, frames: int) -> float:
    """Time in τ of a frame, which may lie between two."""
    return TAU[0] + (TAU[1] - TAU[0]) * frame / (frames - 1) if frames > 1 else sum(TAU) / 2


def _ends_included(samples: int) -> NDArray[np.float32]:
    index = np.arange(samples, dtype=np.float64)
    return (index * (2.0 / (samples - 1)) - 1.0).astype(np.float32)
