"""Which cells are measured: new, learned and interpolated ones, at the moments that are hardest to get right."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from model import living_cell
from model.card import SHIPPED_MODELS
from model.domain import Grid, frame_times
from model.engine.bricks import Bricks
from model.engine.marching_cubes import extract_surface
from model.engine.runs import bodies
from model.engine.sparse import evaluate_sparse
from model.living_cell import LivingCell
from model.network.autodecoder import FoldedDecoder
from model.network.checkpoint import load_checkpoint
from model.spec import GenerationSpec

MODELS = ("celegans", "a549")
LATENTS: tuple[Mapping[str, object], ...] = (
    {"kind": "sampled"},
    {"kind": "interpolated", "first": 3, "second": 8},
    {"kind": "sampled", "temperature": 1.5},
    {"kind": "learned", "index": 5},
)
_SCAN = 64  # side of the grid on which moments are looked for; the least that thin arms survive
_MOMENTS = 24


@dataclass(frozen=True)
class Case:
    """One frame to be measured: a cell and a time in τ.

    Attributes
    ----------
    lipschitz
        The bound that the service would use for this cell.
    """

    name: str
    title: str
    cell: LivingCell
    time: float
    lipschitz: float

    def decoder(self) -> FoldedDecoder:
        """Fold the decoder for this frame, as the service does for each."""
        return self.cell.at(self.time)


def cases(name: str, latents: Sequence[Mapping[str, object]] = LATENTS) -> Iterator[Case]:
    """Yield the frames to measure of a shipped model, the hardest moments of each cell first."""
    checkpoint = load_checkpoint(SHIPPED_MODELS / name)
    for number, latent in enumerate(latents):
        spec = GenerationSpec.model_validate({"model": name, "seed": number, "rotation": "random", "latent": latent})
        cell = living_cell.draw(spec.completed(), checkpoint, 0)
        lipschitz = cell.lipschitz()
        for moment, time in _moments(cell, lipschitz).items():
            yield Case(name, f"{latent['kind']} {number}, {moment}", cell, time, lipschitz)


def _moments(cell: LivingCell, lipschitz: float) -> dict[str, float]:
    """Find a cell's hardest moments.

    For one that divides, the last frame before and the first after; else the frame with most surface for its volume. A
    frame in which a fragment lies apart is one more.
    """
    grid = Grid((_SCAN, _SCAN, _SCAN))
    bricks, counts, slender = Bricks(grid), [], []
    times = frame_times(_MOMENTS)
    for time in times:
        field = evaluate_sparse(cell.at(float(time)), grid, lipschitz=lipschitz, bricks=bricks)
        runs = bodies(field)
        surface = extract_surface(field, grid, inside=runs)
        counts.append(len(runs.sizes()) - 1)
        slender.append(surface.area / surface.volume ** (2.0 / 3.0))
    divides = cell.checkpoint.card.topology == "division"
    grown = np.flatnonzero(np.diff(counts) > 0)
    if divides and len(grown):
        after = int(grown[0]) + 1
        found = {"just divided": after, "about to divide": after - 1}
    else:
        found = {"most slender": int(np.argmax(slender))}
    apart = np.flatnonzero(np.array(counts) > (2 if divides else 1))
    if len(apart):
        found["a fragment apart"] = int(apart[0])
    return {moment: float(times[frame]) for moment, frame in found.items()}
