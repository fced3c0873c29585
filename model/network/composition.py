"""Cells composed of parts of several learned cells: a code for each sector of directions from the middle of Ω.

A code describes a whole cell, and between the codes of cells with many fine protrusions there is no cell: a filopodium
that one of two cells has is half a filopodium between them, a flat flap or nothing. Such cells are recombined in space
instead. Each of a few sectors, around directions from the middle of Ω, follows a code of its own. Past the border of
its sector a part is lifted: a growing length is added to its distances, so that it becomes thinner and ends. The cell
is the smooth union of all parts. So a new cell has the protrusions of several cells, each whole or tapering across a
border, on a body that goes smoothly from one to another. Learned cells must lie in one pose, and must not divide: then
their bodies meet.

Where mirror images of cells are as likely as the cells, a part may be one.

A composed code is one list of numbers: the codes of the parts, one after the other, then for each part a direction
(x, y, z), then for each three signs, -1 for axes along which the part is mirrored.

Promises: a value depends on its point alone. A part is evaluated only where it can count. A composition of equal codes
is the cell of that code, grown by at most a third of ``SMOOTH`` along borders.
Does not promise: distances; near a border the value is less than the distance. Bodies grow a little there: the union
takes the larger of two.

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

__all__ = ["PARTS_MAX", "ComposedDecoder", "Composition", "bind", "draw_directions", "smooth_union", "spread_of"]

MIDDLE = 0.05  # of Ω: within about this radius directions lose their meaning, and all parts count
RISE = 0.3  # of the lift, per unit of length past a border, at first
STEEPER = 4.0  # how much faster it grows farther on, times the squared difference of cosines
HIGHEST = 0.8  # of Ω: lift beyond which a part no longer counts; distances of two cells at a point differ by less
SMOOTH = 0.08  # of Ω: width of the smooth union


@dataclass(frozen=True)
class Composition:
    """Codes of the parts of a cell, and the directions around which their sectors lie.

    Attributes
    ----------
    codes
        (k, c) float32.
    directions
        (k, 3) float32, of length 1.
    signs
        (k, 3) float32: -1 for axes along which a part is mirrored, else 1.
    """

    codes: Floats
    directions: Floats
    signs: Floats

    @classmethod
    def of(cls, values: Floats, latent_size: int) -> Composition | None:
        """Read a composed code; None for the code of one cell.

        Parameters
        ----------
        values
            (c,), or (k · (c + 6),) of a composed one.
        latent_size
            c, numbers in the code of one cell.

        Raises
        ------
        ValueError
            For any other number of values, a direction of length 0, or a sign that is neither 1 nor -1.
        """
        parts = parts_of(len(values), latent_size)
        if parts == 1:
            return None
        if not parts:
            raise ValueError(f"{len(values)} numbers are no code of {latent_size}, alone or composed")
        codes, rest = values[: parts * latent_size], values[parts * latent_size :].reshape(2, parts, 3)
        lengths = np.linalg.norm(rest[0].astype(np.float64), axis=1, keepdims=True)
        if not (lengths > 0.0).all() or not (np.abs(rest[1]) == 1.0).all():
            raise ValueError("a direction of a composed code has no length, or a sign is neither 1 nor -1")
        return cls(codes.reshape(parts, latent_size), (rest[0] / lengths).astype(np.float32), rest[1])

    @property
    def values(self) -> Floats:
        """The composed code, (k · (c + 6),) float32."""
        return np.concatenate([self.codes.ravel(), self.directions.ravel(), self.signs.ravel()])


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
        (c,) or (k · (c + 6),) float32.
    time
        In τ.
    rotation
        As :meth:`Decoder.fold` takes it; directions turn with the cell.
    """
    composition = Composition.of(code, decoder.config.latent_size)
    if composition is None:
        return decoder.fold(torch.from_numpy(code), time, rotation)
    turn = np.eye(3) if rotation is None else rotation.double().numpy()
    parts = [
        decoder.fold(torch.from_numpy(part), time, torch.from_numpy(turn * sign))
        for part, sign in zip(composition.codes, composition.signs.astype(np.float64), strict=True)
    ]
    return ComposedDecoder(parts, directions=composition.directions.astype(np.float64), turn=turn)


class ComposedDecoder(FoldedDecoder):
    """The decoders of the parts of a cell, united.

    Parameters
    ----------
    parts
        One for each sector.
    directions
        (k, 3) of length 1, in the cell's own pose.
    turn
        (3, 3): points x of Ω are at xᵀ · turn in the cell's own pose and size.
    size
        Factor on all distances.
    """

    def __init__(
        self, parts: Sequence[FoldedDecoder], *, directions: Doubles, turn: Doubles, size: float = 1.0
    ) -> None:
        self.parts, self.size = list(parts), size
        self.directions, self.turn = np.ascontiguousarray(directions), np.ascontiguousarray(turn)

    def __call__(self, points: Floats, *, threads: int | None = None) -> Floats:
        """Signed distances (n,) float32 of points (n, 3) float32 in Ω, negative inside; torch's threads when None."""
        lifts = self.lifts(points)
        values = np.full(len(points), np.inf, dtype=np.float32)
        for number, part in enumerate(self.parts):
            here = np.flatnonzero(np.isfinite(lifts[:, number]))
            if len(here):
                lifted = part(points[here], threads=threads) + lifts[here, number]
                values[here] = smooth_union(values[here], lifted, self.size * SMOOTH)
        return values

    def lifts(self, points: Floats) -> Floats:
        """Return what is added to the distances of each part at points (n, 3): (n, k); ∞ far from its sector."""
        lifts = np.empty((len(points), len(self.parts)), dtype=np.float32)
        _lift(np.ascontiguousarray(points, dtype=np.float32), self.directions, self.turn, self.size, lifts)
        return lifts

    def scaled(self, size: float) -> ComposedDecoder:
        """Return the decoder with its distances multiplied by a factor."""
        return ComposedDecoder(
            [part.scaled(size) for part in self.parts],
            directions=self.directions,
            turn=self.turn,
            size=self.size * size,
        )


def smooth_union(first: Floats, second: Floats, width: float) -> Floats:
    """Return the union of two shapes by their distances (n,), rounded where they differ by less than a width."""
    with np.errstate(invalid="ignore"):  # ∞ - ∞
        overlap = np.fmax(np.float32(width) - np.abs(first - second), np.float32(0.0))
    return np.asarray(np.minimum(first, second) - overlap * overlap * overlap / np.float32(6.0 * width * width))


@compiled
def _lift(points: Floats, directions: Doubles, turn: Doubles, size: float, lifts: Floats) -> None:
    """Fill ``lifts`` (n, k): 0 in a part's sector, from its border on growing with the length past it."""
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
        for k in range(parts):
            past = most - cosines[k]
            lift = RISE * radius * past * (1.0 + STEEPER * past * past)
            lifts[i, k] = size * lift if lift < HIGHEST else np.inf
