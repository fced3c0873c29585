"""Procedural living cells with exact signed distances: training data free of any licence.

One file a cell type; :func:`make_phantom` draws a cell by type and seed. Its frames are
:class:`~model.phantoms.implicit_distance.ShapeFrame`, which are signed distance functions. ``model.learning`` and
``model.evaluation`` import it; it imports the engine's triangle tree and compilation. Read :class:`Phantom` first, then
:mod:`model.phantoms.star`, the simplest body.
"""

import importlib
from collections.abc import Callable
from typing import Protocol, cast

from model.errors import SpecError
from model.phantoms.implicit_distance import ShapeFrame, SignedDistance

__all__ = ["CELL_TYPES", "Phantom", "ShapeFrame", "SignedDistance", "make_phantom"]

CELL_TYPES = ("celegans", "a549", "platynereis", "a549_thin")
"""Names of the cell types that have phantoms; each is a module of this package with a function ``make(seed)``."""


class Phantom(Protocol):
    """One procedural cell, whole: its shape at every time of τ, and what a unit of Ω and of τ is worth."""

    @property
    def cell_type(self) -> str:
        """The cell type, one of :data:`CELL_TYPES`."""
        ...

    @property
    def seed(self) -> int:
        """The seed it was drawn from: same cell type and seed, same cell."""
        ...

    @property
    def micrometres(self) -> float:
        """Length of one unit of Ω, in µm; the same for all phantoms of a cell type."""
        ...

    @property
    def minutes(self) -> float:
        """Duration of the whole of τ, from -1 to 1, in minutes."""
        ...

    def frame(self, t: float) -> ShapeFrame:
        """Return the shape of the cell at time ``t`` of τ = [-1, 1]."""
        ...

    def shape(self, t: float, *, resolution: int) -> ShapeFrame:
        """Return the same, found on a grid of ``resolution`` cells along an edge of Ω: coarser is faster."""
        ...

    def moment(self, t: float) -> ShapeFrame:
        """Return the same on a coarse mesh, for :meth:`ShapeFrame.projected`: training points by the thousand."""
        ...


def make_phantom(cell_type: str, seed: int) -> Phantom:
    """Draw the phantom of a cell type that a seed names.

    Parameters
    ----------
    cell_type
        One of :data:`CELL_TYPES`.
    seed
        Non-negative integer; the same seed gives the same cell.

    Returns
    -------
    Phantom
        The cell; its frames are computed when asked for.

    Raises
    ------
    SpecError
        If there is no such cell type, or the seed is negative.
    """
    if cell_type not in CELL_TYPES:
        known = ", ".join(CELL_TYPES)
        raise SpecError(f"There are no phantoms of cell type {cell_type!r}. Cell types with phantoms: {known}.")
    if seed < 0:
        raise SpecError(f"A seed is a non-negative integer; {seed} is not. Try {-seed}.")
    make = importlib.import_module(f"model.phantoms.{cell_type}").make
    return cast(Callable[[int], Phantom], make)(seed)
