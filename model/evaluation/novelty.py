"""Novelty: whether a model's new cells are as different from its training cells as unseen cells are.

The measure is the overlap (Dice) of two sequences in their poses in Ω, over all times together: 1 for a copy. Every new
cell and every held-out cell is compared with every training cell, not only with those whose descriptors are measured.
The overlaps of held-out cells show how close an unseen cell of the same distribution comes by chance.

Promises: a copy of any training cell that was searched is found. All sets are sampled at the same points and moments.
Does not promise: that a copy which is turned, mirrored or faster is found.

References: Dice 1945, doi:10.2307/1932409; the comparison with held-out samples, Meehan, Chaudhuri and Dasgupta 2020
(arXiv:2004.05675).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from model.card import ModelCard
from model.domain import Grid, frame_times
from model.errors import EmptySurfaceError, InvalidFieldError, SurfaceError
from model.evaluation.sequence_measures import MOMENTS, SIDE, SequenceMeasures
from model.evaluation.sequence_sources import PhantomSequences, Sequences
from model.living_cell import LivingCell
from model.network.checkpoint import Checkpoint
from model.phantoms import ShapeFrame, make_phantom
from model.training_spec import NEW_CELLS_MAX

Doubles = NDArray[np.float64]
Integers = NDArray[np.int64]

SAMPLED = 5  # every n-th sample of the grid is used for overlaps; 5 and 64 share no divisor
USUAL = 0.95  # quantile of the held-out cells' overlaps beyond which a new cell counts as near its training cell
AT_ONCE = 64  # sequences that are compared at once, to bound memory: 0.2 GB of samples
FEW = 300  # sequences; models of 96 and 100 repeat them, one of 340 finds unseen cells (docs/explanation/science.md)
# New cells of few sequences do not count as repetitions if so many were compared, with at most that memorisation rate.
MANY, REPEATED = 100, 0.5
CARD_FIGURES = (
    "memorisation_rate", "dice_with_nearest_training", "dice_with_nearest_training_of_held_out", "new_cells",
)  # fmt: skip


@dataclass(frozen=True)
class Floor:
    """What a model of a cell type should reach."""

    memorisation_rate: float
    dice_above_held_out: float | None = None


FLOORS = {"celegans": Floor(0.10, 0.05), "a549": Floor(0.15, 0.07), "platynereis": Floor(0.10, 0.05)}
REAL_CELLS = Floor(0.25)
"""Floors by cell type, and for all other cells: largest memorisation rate, and largest median Dice with the nearest
training cell above that of held-out cells, if there is one."""


@dataclass(frozen=True)
class Outline:
    """Where one sequence is inside the membrane.

    Attributes
    ----------
    name
        Of the sequence.
    samples
        (T, bytes): every ``SAMPLED``-th sample of a grid of 64³, eight to a byte.
    """

    name: str
    samples: NDArray[np.uint8]

    def at(self, moments: int) -> NDArray[np.float32]:
        """Samples (n,) at ``moments`` times spread over the sequence, 0 or 1."""
        frames = np.linspace(0, len(self.samples) - 1, moments).round().astype(np.int64)
        return np.unpackbits(self.samples[frames], axis=1).ravel().astype(np.float32)


def outline_of(measures: SequenceMeasures) -> Outline:
    """Take the outline of a sequence that was measured."""
    inside = np.unpackbits(measures.masks, axis=1)[:, ::SAMPLED]
    return Outline(measures.name, np.packbits(inside, axis=1))


def find_outline(source: Sequences, index: int) -> Outline:
    """Find where a sequence is inside, without measuring it; phantoms need no mesh for that and take half a second."""
    grid = Grid((SIDE, SIDE, SIDE))
    if isinstance(source, PhantomSequences):
        phantom = make_phantom(source.cell_type, source.first_seed + index)
        rows = [_contained(phantom.moment(float(t)), grid) for t in frame_times(MOMENTS)]
    else:
        rows = [one.inside.ravel()[::SAMPLED] for one in source.snapshots(index, moments=MOMENTS, grid=grid)]
    return Outline(source.name(index), np.packbits(np.stack(rows), axis=1))


def find_outlines(
    source: Sequences,
    *,
    indices: Sequence[int] | None = None,
    mapped: Callable[..., Iterable[Outline]] = map,
    on_sequence: Callable[[str], None] = lambda _name: None,
) -> list[Outline]:
    """Find the outlines of the sequences of a source, of all or of those of ``indices``."""
    found = []
    wanted = range(len(source)) if indices is None else indices
    for outline in mapped(find_outline, [source] * len(wanted), wanted):
        found.append(outline)
        on_sequence(outline.name)
    return found


def _contained(shape: ShapeFrame, grid: Grid) -> NDArray[np.bool_]:
    """Return which of the samples are inside, evaluating only the bounding box of the surface."""
    numbers = np.arange(0, grid.size, SAMPLED)
    points = grid.points(numbers)
    margin = 2.0 * float(grid.step[0])  # the mesh is coarse
    low, high = shape.vertices.min(axis=0) - margin, shape.vertices.max(axis=0) + margin
    near = ((points >= low) & (points <= high)).all(axis=1)
    found = np.zeros(len(numbers), dtype=np.bool_)
    found[near] = shape.contains(points[near])
    return found


def overlaps(first: Sequence[Outline], second: Sequence[Outline]) -> Doubles:
    """Dice, over all moments together, of each sequence with each other: (n, m).

    Both are taken at as many moments as every sequence has.
    """
    moments = min(len(outline.samples) for outline in (*first, *second))
    found = np.empty((len(first), len(second)))
    for start in range(0, len(first), AT_ONCE):
        rows = np.stack([outline.at(moments) for outline in first[start : start + AT_ONCE]])
        for place in range(0, len(second), AT_ONCE):
            others = np.stack([outline.at(moments) for outline in second[place : place + AT_ONCE]])
            sizes = rows.sum(axis=1)[:, None] + others.sum(axis=1)
            found[start : start + len(rows), place : place + len(others)] = 2.0 * rows @ others.T / sizes.clip(1.0)
    return found


@dataclass(frozen=True)
class Nearest:
    """Each new cell's nearest training cell.

    Attributes
    ----------
    indices, dice
        (n,): which training cell, and the overlap with it.
    """

    indices: Integers
    dice: Doubles


def nearest_training(generated: Sequence[Outline], training: Sequence[Outline]) -> Nearest:
    """Find each new cell's nearest training cell."""
    table = overlaps(generated, training)
    return Nearest(table.argmax(axis=1), table.max(axis=1))


def novelty_figures(
    generated: Sequence[Outline], training: Sequence[Outline], held_out: Sequence[Outline] | None
) -> dict[str, float]:
    """Compare new cells' nearest training cells with those of held-out cells.

    Parameters
    ----------
    generated, training
        New cells, and all cells that the model was trained on.
    held_out
        Cells of the same kind that it was not trained on. Without any, each training cell stands for one, compared with
        the others.

    Returns
    -------
    dict
        ``memorisation_rate``: share of new cells that overlap their nearest training cell more than 95 % of the
        held-out cells overlap theirs. ``dice_with_nearest_training``: that overlap of the new cells, its median, with
        ``…_largest``, the largest, and ``…_of_held_out``, the median of held-out cells. ``dice_above_held_out``: the
        difference of the medians. ``new_cells``: how many were compared. ``dice_with_nearest_held_out``: median overlap
        of new cells with their nearest held-out cell; ``dice_with_as_many_training``: with their nearest of as many
        training cells, spread over all, to be compared with it. ``training_searched``: number of training cells.
        Without held-out cells the two that need them are missing.
    """
    table = overlaps(generated, training)
    near = table.max(axis=1)
    if held_out is None:
        among = overlaps(training, training)
        np.fill_diagonal(among, 0.0)
        usual = among.max(axis=1)
    else:
        usual = overlaps(held_out, training).max(axis=1)
    middle, reference = float(np.median(near)), float(np.median(usual))
    figures = {
        "memorisation_rate": float((near > np.quantile(usual, USUAL)).mean()),
        "dice_with_nearest_training": middle,
        "dice_with_nearest_training_largest": float(near.max()),
        "dice_with_nearest_training_of_held_out": reference,
        "dice_above_held_out": middle - reference,
        "training_searched": float(len(training)),
        "new_cells": float(len(generated)),
    }
    if held_out is not None:
        spread = np.unique(np.linspace(0, len(training) - 1, min(len(held_out), len(training))).round().astype(int))
        figures["dice_with_nearest_held_out"] = float(np.median(overlaps(generated, held_out).max(axis=1)))
        figures["dice_with_as_many_training"] = float(np.median(table[:, spread].max(axis=1)))
    return {name: round(value, 4) for name, value in figures.items()}


def floor_for(cell_type: str) -> Floor:
    """Return what a model of a cell type should reach."""
    return FLOORS.get(cell_type, REAL_CELLS)


def card_figures(novelty: Mapping[str, float]) -> dict[str, float]:
    """Pick the figures that a model's card states."""
    return {name: novelty[name] for name in CARD_FIGURES if name in novelty}


def novelty_of_model(checkpoint: Checkpoint, training: Sequences, *, cells: int = NEW_CELLS_MAX) -> dict[str, float]:
    """Draw a few new cells of a model and compare them with its training cells, without held-out ones.

    First draws are taken, without the plausibility check, which takes long where a model is poor. Cells without a
    membrane are left out; a model that makes no other has no novelty, and the result is empty.

    Parameters
    ----------
    checkpoint
        The model.
    training
        What it was trained on.
    cells
        How many new cells; :func:`model.training_spec.new_cells_of` suits it to a training.
    """
    grid, drawn = Grid((SIDE, SIDE, SIDE)), []
    for index in range(cells):
        code = checkpoint.prior.draw(np.random.default_rng([index, 0]))
        cell = LivingCell(checkpoint, code, [1.0, 0.0, 0.0, 0.0])
        with suppress(SurfaceError, EmptySurfaceError, InvalidFieldError):
            frames = cell.frames(frame_times(MOMENTS), grid)
            rows = [frame.labelled.labels.ravel()[::SAMPLED] > 0 for frame in frames]
            drawn.append(Outline(str(index), np.packbits(np.stack(rows), axis=1)))
    return novelty_figures(drawn, find_outlines(training), None) if drawn else {}


def warnings_for(card: ModelCard, novelty: Mapping[str, float]) -> list[str]:
    """Say in sentences what a user of new cells must know of a model.

    Parameters
    ----------
    card
        Of the model.
    novelty
        As :func:`novelty_figures` returns it; may be empty where it was not measured.
    """
    found = []
    sequences, measured = card.training.sequences, novelty.get("memorisation_rate")
    if sequences < FEW and not (
        novelty.get("new_cells", 0.0) >= MANY and measured is not None and measured <= REPEATED
    ):
        found.append(
            f"Learned from {sequences} sequences, too few for new shapes: new cells repeat them in other poses, times "
            f"and resolutions. Models of fewer than about {FEW} are better used to vary and restore cells."
        )
    drawn = f"{novelty['new_cells']:.0f} " if "new_cells" in novelty else ""
    rate, floor = measured or 0.0, floor_for(card.cell_type).memorisation_rate
    if rate > floor:
        found.append(
            f"{rate:.0%} of {drawn}new cells are nearer to a training cell than 95 % of unseen cells are; at most "
            f"{floor:.0%} should be."
        )
    return found


def with_novelty(card: ModelCard, novelty: Mapping[str, float]) -> ModelCard:
    """Return a card that states a novelty, and the warnings that follow from it."""
    quality = {**card.quality, **card_figures(novelty)}
    return card.model_copy(update={"quality": quality, "warnings": warnings_for(card, novelty)})
