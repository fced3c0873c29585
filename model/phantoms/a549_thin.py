"""A549 lung cancer cells with many long, thin filopodia.

The cell of :mod:`model.phantoms.a549` with filopodia as thin as a grid of 128³ carries: 1.5 of its steps in radius at
the base, where a flared foot joins them to the body, and 1.2 at the tip. They are round and taper. Six to eighteen are
seen at a time, up to 13 µm long, on a body that is a little smaller, so that they have room. One unit of Ω is 22 µm.

Promises: those of :mod:`model.phantoms.a549`.
Does not promise: true thickness. Radii are 0.42 to 0.52 µm; real filopodia are 0.1 to 0.3 µm thick and would need
a grid several times finer.
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from model.phantoms.a549 import A549, draw_body
from model.phantoms.filopodia import TIMES, Style, draw_filopodia

__all__ = ["ThinA549", "make"]

THIN = Style(
    shortest=0.15,
    longest=0.60,
    median=(0.34, 0.50),
    base_radius=0.0236,  # 1.5 steps of a 128³ grid
    tip_radius=0.019,  # 1.2
    foot_radius=0.013,
    foot=0.09,
    gap=0.065,
    branch_gap=0.05,
    body_gap=0.05,
    blend=0.06,
    branch_blend=0.045,
    fewest=6,
    most=18,
    crowd=(7.5, 12.0),
    branching=(0.3, 2.5),
    depth=0.07,
    hidden=0.04,
    departure=0.5,
    segments=16,
)


@dataclass(frozen=True, eq=False)
class ThinA549(A549):
    """One A549 cell with thin filopodia; see :class:`model.phantoms.Phantom`."""

    cell_type: ClassVar[str] = "a549_thin"
    style: ClassVar[Style] = THIN
    body_radii: ClassVar[tuple[float, float]] = (0.32, 0.38)
    body_reach: ClassVar[float] = 0.62
    resolution: ClassVar[int] = 192
    coarse: ClassVar[int] = 96


def make(seed: int) -> ThinA549:
    """Draw the A549 cell with thin filopodia that a seed names, lying along the x axis.

    Parameters
    ----------
    seed
        Non-negative integer.

    Returns
    -------
    ThinA549
        The cell; its frames are computed when asked for.
    """
    rng = np.random.default_rng([0xA549, 0x7417, seed])
    body = draw_body(rng, ThinA549.body_radii, ThinA549.body_reach)
    return ThinA549(seed, body, draw_filopodia(rng, body.at(TIMES), ThinA549.style))
