"""Cells composed of parts of several learned cells: a code for each sector of directions from the middle of Ω.

A code describes a whole cell, and between the codes of cells with many fine protrusions there is no cell: a filopodium
that one of two cells has is half a filopodium between them, a flat flap or nothing. Such cells are recombined in space
instead. Each of a few sectors, around directions from the middle of Ω, follows a code of its own; from one to the next
the signed distances are blended. So a new cell has the protrusions of several cells, each whole, on a body that goes
smoothly from one to another. Learned cells must lie in one pose, and must not divide: then their bodies meet.

A composed code is one list of numbers: the codes of the parts, one after the other, then a direction (x, y, z) each.

Promises: a value depends on its point alone. Parts are evaluated only where they count. A composition of equal codes is
the cell of that code.
Does not promise: distances; near a border between sectors the value is a blend of two. A protrusion that a border cuts
ends there.

References: local codes for parts of a shape, Chabra et al. 2020 (Deep Local Shapes), arXiv:2003.10983.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from model.engine.jit import compiled
from model.network.autodecoder import FoldedDecoder
from model.network.decoder import Decoder
from model.spec import PARTS_MAX, parts_of

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]

__all__ = ["PARTS_MAX", "ComposedDecoder", "Composition", "bind", "draw_directions", "spread_of"]

MIDDLE = 0.1  # of Ω: within about this radius directions lose their meaning, and all sectors count alike
BODY, BEYOND = 0.30, 0.60  # radii up to which there is mostly body, and from which there are only protrusions
WIDE, NARROW = (
    0.8,
    0.3,
)  # width of a border within and beyond, as a difference of cosines: bodies blend, protrusions end


@dataclass(frozen=True)
class Composition:
    """Codes of the parts of a cell, and the directions around which their sectors lie.

    Attributes
    ----------
    codes
        (k, c) float32.
    directions
        (k, 3) float32, of length 1.
    """

    codes: Floats
    directions: Floats

    @classmethod
    def of(cls, values: Floats, latent_size: int) -> Composition | None:
        """Read a composed code; None for the code of one cell.

        Parameters
        ----------
        values
            (c,), or (k · (c + 3),) of a composed one.
        latent_size
            c, numbers in the code of one cell.

        Raises
        ------
        ValueError
            For any other number of values, or a direction of length 0.
        """
        parts = parts_of(len(values), latent_size)
        if parts == 1:
            return None
        if not parts:
            raise ValueError(f"{len(values)} numbers are no code of {latent_size}, alone or composed")
        codes, directions = values[: parts * latent_size], values[parts * latent_size :].reshape(parts, 3)
        lengths = np.linalg.norm(directions.astype(np.float64), axis=1, keepdims=True)
        if not (lengths > 0.0).all():
            raise ValueError("a direction of a composed code has no length")
        return cls(codes.reshape(parts, latent_size), (directions / lengths).astype(np.float32))

    @property
    def values(self) -> Floats:
        """The composed code, (k · (c + 3),) float32."""
        return np.concatenate([self.codes.ravel(), self.directions.ravel()])


def spread_of(code: NDArray[np.floating], spread: Doubles) -> Doubles:
    """Return the spread of each number of a code from that (c,) of codes of one cell; directions have none."""
    parts, rest = divmod(len(code), len(spread))
    return np.concatenate([np.tile(spread, parts), np.zeros(rest)])


def draw_directions(parts: int, rng: np.random.Generator) -> Floats:
    """Draw directions as far apart as so many can be, turned at random: (parts, 3) float32."""
    corners = np.array([[1.0, 1.0, 1.0], [-1.0, -1.0, 1.0], [-1.0, 1.0, -1.0], [1.0, -1.0, -1.0]]) / np.sqrt(3.0)
    if parts == 2:
        corners = np.array([[1.0, 0.0, 0.0], [-1.0, 0.0, 0.0]])
    elif parts == 3:
        angles = np.arange(3) * 2.0 * np.pi / 3.0
        corners = np.stack([np.cos(angles), np.sin(angles), np.zeros(3)], axis=1)
    turn, upper = np.linalg.qr(rng.standard_normal((3, 3)))
    return np.asarray(corners[:parts] @ (turn * np.sign(np.diag(upper))).T, dtype=np.float32)


def bind(decoder: Decoder, code: Floats, time: float, rotation: Tensor | None = None) -> FoldedDecoder:
    """Bind a code, composed or not, a time and a rotation to a network: :meth:`Decoder.fold` for either.

    Parameters
    ----------
    decoder
        The network.
    code
        (c,) or (k · (c + 3),) float32.
    time
        In τ.
    rotation
        As :meth:`Decoder.fold` takes it; directions turn with the cell.
    """
    composition = Composition.of(code, decoder.config.latent_size)
    if composition is None:
        return decoder.fold(torch.from_numpy(code), time, rotation)
    parts = [decoder.fold(torch.from_numpy(part), time, rotation) for part in composition.codes]
    turn = np.eye(3) if rotation is None else rotation.double().numpy()
    return ComposedDecoder(parts, directions=composition.directions.astype(np.float64), turn=turn)


class ComposedDecoder(FoldedDecoder):
    """The decoders of the parts of a cell, blended from sector to sector.

    Parameters
    ----------
    parts
        One for each sector.
    directions
        (k, 3) of length 1, in the cell's own pose.
    turn
        (3, 3): points x of Ω are at xᵀ · turn in the cell's own pose and size.
    """

    def __init__(self, parts: Sequence[FoldedDecoder], *, directions: Doubles, turn: Doubles) -> None:
        self.parts = list(parts)
        self.directions, self.turn = np.ascontiguousarray(directions), np.ascontiguousarray(turn)

    def __call__(self, points: Floats, *, threads: int | None = None) -> Floats:
        """Signed distances (n,) float32 of points (n, 3) float32 in Ω, negative inside; torch's threads when None."""
        shares = self.shares(points)
        values = np.zeros(len(points), dtype=np.float32)
        for number, part in enumerate(self.parts):
            here = np.flatnonzero(shares[:, number])
            if len(here):
                values[here] += shares[here, number] * part(points[here], threads=threads)
        return values

    def shares(self, points: Floats) -> Floats:
        """How much each part counts at points (n, 3): (n, k) float32, of sum 1."""
        shares = np.empty((len(points), len(self.parts)), dtype=np.float32)
        _shares(np.ascontiguousarray(points, dtype=np.float32), self.directions, self.turn, shares)
        return shares

    def scaled(self, size: float) -> ComposedDecoder:
        """Return the decoder with its distances multiplied by a factor."""
        return ComposedDecoder([part.scaled(size) for part in self.parts], directions=self.directions, turn=self.turn)


@compiled
def _shares(points: Floats, directions: Doubles, turn: Doubles, shares: Floats) -> None:
    """Fill ``shares``: the square of how far a direction is from being a border's width behind the nearest one."""
    parts = len(directions)
    cosines = np.empty(parts)
    for i in range(len(points)):
        x, y, z = float(points[i, 0]), float(points[i, 1]), float(points[i, 2])
        own_x = x * turn[0, 0] + y * turn[1, 0] + z * turn[2, 0]
        own_y = x * turn[0, 1] + y * turn[1, 1] + z * turn[2, 1]
        own_z = x * turn[0, 2] + y * turn[1, 2] + z * turn[2, 2]
        radius = np.sqrt(own_x * own_x + own_y * own_y + own_z * own_z)
        most = -2.0
        for k in range(parts):
            along = own_x * directions[k, 0] + own_y * directions[k, 1] + own_z * directions[k, 2]
            cosines[k] = along / (radius + MIDDLE)
            most = max(most, cosines[k])
        outward = min(max((radius - BODY) / (BEYOND - BODY), 0.0), 1.0)
        width = WIDE + (NARROW - WIDE) * outward * outward * (3.0 - 2.0 * outward)
        total = 0.0
        for k in range(parts):
            share = max(1.0 - (most - cosines[k]) / width, 0.0)
            cosines[k] = share * share
            total += cosines[k]
        for k in range(parts):
            shares[i, k] = cosines[k] / total
