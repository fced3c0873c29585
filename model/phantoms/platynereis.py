"""Cells of a *Platynereis* embryo: star-shaped bodies that grow, drift and are pressed into shape between neighbours.

The body is that of :mod:`model.phantoms.star`: an ellipsoid with spherical harmonics to degree 6, whose amplitudes fall
with their degree l as l^-p, all following smoothed Ornstein-Uhlenbeck processes; its volume grows exponentially.

Promises
--------
- One star-shaped body at all times, within `REACH` of the origin however it is turned.
- Volume follows ``phantom.target_volume``; all motion is continuous.
- Every cell lies in its own pose, its longest axis along x.
- Same seed, same cell.

Does not promise
----------------
- Sizes and times of life: no real cells were at hand to calibrate them; a cell of about 9 µm radius that gains a
  quarter to four fifths in an hour is assumed.
"""

import math
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from model.phantoms.implicit_distance import ShapeFrame
from model.phantoms.star import StarBody, StarPose, degrees_of, log_semi_axes, star_levels
from model.phantoms.wandering import SPANS, wander

__all__ = ["REACH", "Platynereis", "make"]

Doubles = NDArray[np.float64]

REACH = 0.92
DEGREE = 6  # of the spherical harmonics
RADIUS = (0.42, 0.52)  # range of the equivalent radius in the last frame, units of Ω
GROWTH = (1.25, 1.8)  # range of the volume in the last frame over that in the first
POWER = (1.1, 2.2)  # range of p: amplitudes of harmonics fall as l^-p
TIMES = np.linspace(-1.0, 1.0, 59)  # at which a cell is looked at when it is drawn
STREAM = 0x91A7  # sets this cell type's random numbers apart from others of the same seed
RESOLUTION, COARSE = 96, 48  # of the grid on which the surface is found; the same for training points


@dataclass(frozen=True, eq=False)
class Platynereis:
    """One growing cell; see :class:`model.phantoms.Phantom`."""

    cell_type: ClassVar[str] = "platynereis"
    micrometres: ClassVar[float] = 19.0
    minutes: ClassVar[float] = 58.0  # a frame every two minutes, if there are 30

    seed: int
    body: StarBody
    growth: float

    def target_volume(self, t: float) -> float:
        """Return the volume at a time of τ, cubic units of Ω."""
        return 4.0 / 3.0 * math.pi * self.body.radius**3 * math.pow(self.growth, (t - 1.0) / 2.0)

    def frame(self, t: float) -> ShapeFrame:
        """Return the shape of the cell at time ``t`` of τ = [-1, 1]."""
        return self.shape(t, resolution=RESOLUTION)

    def moment(self, t: float) -> ShapeFrame:
        """Return the shape at a time of τ on a coarse mesh, for :meth:`ShapeFrame.projected`."""
        return self.shape(t, resolution=COARSE)

    def shape(self, t: float, *, resolution: int) -> ShapeFrame:
        """Return the shape at a time of τ, found on a grid of ``resolution`` cells along an edge of Ω."""
        return ShapeFrame(_implicit(self.body.at(np.array([t]))), components=1, resolution=resolution, lipschitz=1.6)


def _implicit(pose: StarPose) -> partial[Doubles]:
    return partial(star_levels, centre=pose.centre[0], inverse=pose.inverse[0], harmonics=pose.harmonics[0])


def _draw_body(rng: Generator, growth: float) -> StarBody:
    """Draw a body; one that reaches too far is made rounder, at the same volume."""
    stretch = rng.uniform(0.06, 0.42)  # log ratio of the longest semi-axis to the mean of the others
    flatness = rng.uniform(0.0, 0.30)
    axes = log_semi_axes(stretch, flatness)
    degrees = degrees_of(DEGREE)[1:].astype(np.float64)  # (48,)
    power = rng.uniform(0.034, 0.062) * (degrees / 2.0) ** -rng.uniform(*POWER)
    power[degrees == 1.0] = 0.02  # hardly more than a displacement
    typical = np.concatenate([[0.0], np.zeros(3), axes, 0.8 * power * rng.standard_normal(len(degrees))])
    spread = np.concatenate([[0.0], np.full(3, 0.03), np.full(3, 0.05), 0.6 * power])
    relaxation = np.concatenate([[1.5], np.full(3, 1.5), np.full(3, 1.2), 2.0 / (1.0 + degrees / 2.0)])
    knots = typical + spread * wander(rng, relaxation)
    place = (np.arange(len(knots)) - 1.0) / SPANS  # of each knot over τ, from 0 to 1
    knots[:, 0] += math.log(growth) * (place - 1.0)  # splines repeat straight lines
    return StarBody(rng.uniform(*RADIUS), knots).within(REACH, TIMES)


def make(seed: int) -> Platynereis:
    """Draw the *Platynereis* cell that a seed names.

    Parameters
    ----------
    seed
        Non-negative integer.

    Returns
    -------
    Platynereis
        The cell; its frames are computed when asked for.
    """
    rng = np.random.default_rng([STREAM, seed])
    growth = float(rng.uniform(*GROWTH))
    return Platynereis(seed, _draw_body(rng, growth), growth)
