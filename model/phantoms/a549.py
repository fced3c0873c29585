"""A549 lung cancer cells: a crawling, star-shaped body with branching filopodia that are born, sway and retract.

The body is an ellipsoid whose log radius also carries real spherical harmonics of degree 1 to 5; all of it follows
smoothed Ornstein-Uhlenbeck processes. Filopodia have the attributes of FiloGen: number, thickness, length, branching
level, lifetime. They are born as a Poisson process, rooted below the membrane, and their axes are persistent random
walks. Body and filopodia are blended smoothly and redistanced by :class:`~model.phantoms.implicit_distance.ShapeFrame`.

Promises
--------
- The same seed gives the same cell.
- At every time the cell is inside the ball of radius `REACH`, its body has the volume prescribed, and all motion is
  continuous: filopodia are born and vanish below the membrane, branches inside their parents.
- A branch appears after its parent has grown past its root and is gone before the parent retracts past it, so the cell
  is always one component; axes keep their distance from each other and from the body, so it has no handles.

Does not promise
----------------
- True thickness: real filopodia, 0.1 to 0.3 µm thick, vanish on any affordable grid; these are 1.7 µm and more.
- Gaps and distances are checked at 59 times, not between them.
- In the crotches of branches about one surface point in a thousand is 0.1 to 0.2 voxel of a 128³ grid off.

References
----------
FiloGen: Sorokin, Peterlík, Ulman, Svoboda and others, IEEE Transactions on Medical Imaging, 2018.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from model.phantoms.filopodia import (
    REACH,
    TIMES,
    Axis,
    Filopodium,
    Style,
    axis_of,
    draw_filopodia,
    outside_lengths,
)
from model.phantoms.implicit_distance import ShapeFrame
from model.phantoms.star import StarBody, degrees_of, log_semi_axes, star_levels
from model.phantoms.tubes import union
from model.phantoms.wandering import smoothstep, wander

__all__ = ["A549", "REACH", "draw_body", "make"]

Doubles = NDArray[np.float64]

DEGREE = 5  # of the spherical harmonics

# --- the body ---------------------------------------------------------------------------------------------------------


def draw_body(rng: Generator, radii: tuple[float, float], reach: float) -> StarBody:
    """Draw a body of a radius between ``radii``; one that reaches too far is made rounder, at the same volume."""
    stretch = rng.uniform(0.1, 0.75)  # log ratio of the longest semi-axis to the mean of the others
    flatness = rng.uniform(0.0, 0.35)
    axes = log_semi_axes(stretch, flatness)
    degrees = degrees_of(DEGREE)[1:]  # (35,)
    power = rng.uniform(0.7, 1.25) * np.array([0.06, 0.045, 0.04, 0.022, 0.010])[degrees - 1]
    typical = np.concatenate([[0.0], np.zeros(3), axes, 0.85 * power * rng.standard_normal(35)])
    spread = np.concatenate([[0.03], np.full(3, 0.035), np.full(3, 0.07), 0.5 * power])
    relaxation = np.concatenate([[1.5], np.full(3, 1.2), np.full(3, 1.2), 2.0 / (1.0 + degrees / 2.0)])
    knots = typical + spread * wander(rng, relaxation)
    return StarBody(rng.uniform(*radii), knots).within(reach, TIMES)


# --- the cell ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class A549:
    """One A549 cell with filopodia; see :class:`model.phantoms.Phantom`."""

    cell_type: ClassVar[str] = "a549"
    micrometres: ClassVar[float] = 22.0
    minutes: ClassVar[float] = 14.5  # a frame every 30 s, if there are 30
    style: ClassVar[Style] = Style()
    body_radii: ClassVar[tuple[float, float]] = (0.345, 0.41)  # least and most, of the sphere of the same volume
    body_reach: ClassVar[float] = 0.70  # radius of the ball that holds the body alone: leaves room for filopodia
    resolution: ClassVar[int] = 128  # of the grid on which the surface is found: tips need it
    coarse: ClassVar[int] = 64  # the same for training points

    seed: int
    body: StarBody
    filopodia: tuple[Filopodium, ...]

    @property
    def levels(self) -> tuple[int, ...]:
        """Branching level of each filopodium: 1 on the body, 2 for its branches, 3 for theirs."""
        return tuple(filopodium.level for filopodium in self.filopodia)

    def lengths(self, times: Doubles) -> Doubles:
        """Return how long each filopodium is outside the membrane.

        Parameters
        ----------
        times
            (T,), in τ.

        Returns
        -------
        Doubles
            (T, f), units of Ω; 0 before birth and after the end. Branches are measured from their parent's axis.
        """
        return outside_lengths(self.filopodia, times)

    def implicit(self, t: float) -> Callable[[Doubles], Doubles]:
        """Return the implicit function of the cell at a time: negative inside, a distance only near its zero set.

        Parameters
        ----------
        t
            Time in τ = [-1, 1].

        Returns
        -------
        Callable
            Maps points (n, 3) float64 in Ω to values (n,) float64.
        """
        times = np.array([t])
        pose = self.body.at(times)
        axes: list[Axis] = []
        chains, blends = [np.zeros((0, self.style.segments + 1, 8))], []
        for filopodium in self.filopodia:
            axis = axis_of(
                filopodium, times, body=pose, parent=axes[filopodium.parent] if filopodium.level > 1 else None
            )
            axes.append(axis)
            if axis.extent[0] > 0.0:
                style = filopodium.style
                width, ramp = (style.blend, style.depth) if filopodium.level == 1 else (style.branch_blend, 0.05)
                chains.append(axis.chain())
                blends.append(width * float(smoothstep(axis.extent / ramp)[0]) + 1e-6)  # none at birth
        return partial(
            _evaluate,
            body=(pose.centre[0], pose.inverse[0], pose.harmonics[0]),
            chains=np.concatenate(chains),
            blends=np.array(blends),
        )

    def frame(self, t: float) -> ShapeFrame:
        """Return the shape of the cell at time ``t`` of τ = [-1, 1]."""
        return self.shape(t, resolution=self.resolution)

    def moment(self, t: float) -> ShapeFrame:
        """Return the shape at a time of τ on a coarse mesh, for :meth:`ShapeFrame.projected`."""
        return self.shape(t, resolution=self.coarse)

    def shape(self, t: float, *, resolution: int) -> ShapeFrame:
        """Return the shape at a time of τ, found on a grid of ``resolution`` cells along an edge of Ω."""
        return ShapeFrame(self.implicit(t), components=1, resolution=resolution, lipschitz=2.0)


def _evaluate(points: Doubles, *, body: tuple[Doubles, Doubles, Doubles], chains: Doubles, blends: Doubles) -> Doubles:
    """Evaluate the implicit function of a cell at points (n, 3) in Ω: (n,)."""
    values = star_levels(points, *body)
    union(values, points, chains, blends)
    return values


def make(seed: int) -> A549:
    """Draw the A549 cell that a seed names, lying along the x axis.

    Parameters
    ----------
    seed
        Non-negative integer.

    Returns
    -------
    A549
        The cell; its frames are computed when asked for.

    Notes
    -----
    About a second, sometimes several, nearly all of it to find room for the filopodia.
    """
    rng = np.random.default_rng([0xA549, seed])
    body = draw_body(rng, A549.body_radii, A549.body_reach)
    return A549(seed, body, draw_filopodia(rng, body.at(TIMES), A549.style))
