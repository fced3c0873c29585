"""The report on one model or on given cells: what is measured, against which reference, and which figures show it.

Promises: the same recipe, checkpoint and scope give the same report.
Does not promise: held-out sequences of a user's own cells, unless they are given.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from model.card import ModelCard, load_card
from model.evaluation.comparison import BODY_NAMES, MeasuredSets, Sides, compare_sides, measure_sets, sides_of
from model.evaluation.imported import score_imported
from model.evaluation.novelty import floor_for, nearest_training
from model.evaluation.reconstruction import FrameScore, score_reconstruction, summarise
from model.evaluation.reports import figures
from model.evaluation.reports.html_report import NEW_CELLS, ModelReport, Picture
from model.evaluation.sequence_sources import (
    HELD_OUT_SEED,
    GeneratedSequences,
    PhantomSequences,
    RealSequences,
    Sequences,
    training_sequences,
)
from model.evaluation.unseen_cells import unseen_cells
from model.evaluation.upsampling import FitScope, compare_fits
from model.learning.dataset import INDEX_FILE, load_dataset
from model.learning.recipe import TrainConfig
from model.learning.sources import AnySource, ImportedSource, MaskSource, PhantomSource
from model.network.checkpoint import Checkpoint, load_checkpoint
from model.rendering.render import PALETTES


@dataclass(frozen=True, kw_only=True)
class Scope:
    """Size of an evaluation.

    Attributes
    ----------
    cells
        Sequences of each set.
    scored
        Learned sequences whose reconstruction is scored.
    every
        Every n-th training frame of those; frames left out always.
    grid_side
        On which.
    draws
        Resamples and exchanges of each comparison.
    pictured
        Cells of each set in the pictures.
    paired
        New cells that are pictured beside their nearest training cell.
    searched
        Training sequences, at most, among which the nearest is looked for; half a second of one core each.
    fits
        Unseen cells that are restored from a part (:mod:`model.evaluation.upsampling`).
    """

    cells: int = 60
    scored: int = 6
    every: int = 12
    grid_side: int = 128
    draws: int = 1000
    pictured: int = 4
    paired: int = 8
    searched: int = 4000
    fits: int = 2

    @classmethod
    def quick(cls) -> Scope:
        """Little of everything: minutes become seconds, intervals become wide."""
        return cls(cells=6, scored=1, every=30, grid_side=64, draws=200, pictured=1, paired=2, searched=60, fits=0)


@dataclass(frozen=True, kw_only=True)
class CellSets:
    """The sets of a comparison.

    Attributes
    ----------
    evaluated
        The evaluated cells, and their name at the beginning of a sentence.
    training
        Cells that the model learned.
    reference
        Cells compared with, and what to call them; without any the training cells are halved.
    searched
        All cells that the model learned, for the nearest of them; ``training`` when None.
    """

    evaluated: tuple[Sequences, str]
    training: Sequences
    reference: tuple[Sequences | None, str]
    searched: Sequences | None = None


def report_on_sets(
    sets: CellSets,
    card: ModelCard,
    *,
    identifier: str,
    scope: Scope,
    workers: int = 1,
    on_step: Callable[[str], None] = lambda _note: None,
    beside: Callable[[], dict[str, Any]] = dict,
    measured: MeasuredSets | None = None,
) -> ModelReport:
    """Compare sets of cells.

    Parameters
    ----------
    sets
        The cells.
    card
        Of the model that made the evaluated cells, or is stated for them.
    identifier
        Begins the names of the files.
    scope, workers, on_step
        As for :func:`report_on_model`.
    beside
        Gives further figures of the report; called once the sets are measured.
    measured
        What was measured of the sets before; they are measured here when None.
    """
    (evaluated, subject), (reference, words) = sets.evaluated, sets.reference
    sides = sides_of(measured or measure(sets, workers=workers, on_step=on_step))
    found = compare_sides(sides, topology=card.topology, rng=np.random.default_rng(1), draws=scope.draws)
    found |= beside()
    shown = {"held-out": reference or sets.training, "generated": evaluated}
    return ModelReport(
        identifier=identifier,
        title=card.title,
        subject=subject,
        reference=words,
        figures=found,
        pictures=[
            *_pictures(sides, shown, list(found["descriptors"]), scope, card.cell_type),
            _pairs(sides, evaluated, sets.searched or sets.training, scope, card.cell_type),
        ],
        floor=floor_for(card.cell_type),
    )


def measure(
    sets: CellSets,
    *,
    part: tuple[int, int] = (0, 1),
    workers: int = 1,
    on_step: Callable[[str], None] = lambda _note: None,
) -> MeasuredSets:
    """Measure sets of cells, or a part of each; see :func:`model.evaluation.comparison.measure_sets`."""
    return measure_sets(
        generated=sets.evaluated[0], training=sets.training, held_out=sets.reference[0], searched=sets.searched,
        part=part, workers=workers, on_sequence=on_step,
    )  # fmt: skip


def report_on_model(
    recipe: TrainConfig,
    folder: Path,
    *,
    held_out: Path | None,
    scope: Scope,
    seed: int = 0,
    workers: int = 1,
    on_step: Callable[[str], None] = lambda _note: None,
) -> ModelReport:
    """Evaluate one model.

    Parameters
    ----------
    recipe
        It was trained with; its data are the training side.
    folder
        Of the model.
    held_out
        Data set or masks that it was not trained on; phantoms of fresh seeds for models of phantoms.
    scope
        How much to measure.
    seed
        Of the new cells.
    workers
        Processes.
    on_step
        Called with a note after every sequence and frame.
    """
    card = load_card(folder)
    further = partial(further_figures, recipe, folder, held_out=held_out, scope=scope, workers=workers, on_step=on_step)
    return report_on_sets(
        sets_of_model(recipe, folder, card, held_out=held_out, scope=scope, seed=seed), card, identifier=recipe.id,
        scope=scope, workers=workers, on_step=on_step, beside=further,
    )  # fmt: skip


def sets_of_model(
    recipe: TrainConfig, folder: Path, card: ModelCard, *, held_out: Path | None, scope: Scope, seed: int
) -> CellSets:
    """Return the sets that a report on one model compares; arguments as of :func:`report_on_model`."""
    single = card.topology == "single"
    return CellSets(
        evaluated=(GeneratedSequences(folder, scope.cells, seed, has_protrusions=single), NEW_CELLS),
        training=training_sequences(recipe.data, scope.cells, has_protrusions=single),
        reference=reference_of(recipe, held_out, scope.cells, has_protrusions=single),
        searched=training_sequences(recipe.data, scope.searched, has_protrusions=single),
    )


def further_figures(
    recipe: TrainConfig,
    folder: Path,
    *,
    held_out: Path | None,
    scope: Scope,
    workers: int = 1,
    on_step: Callable[[str], None] = lambda _note: None,
) -> dict[str, Any]:
    """Score the learned codes of a model, and its fits of unseen cells if the scope has any."""
    checkpoint = load_checkpoint(folder)
    scores = score_learned(
        checkpoint, recipe, grid_side=scope.grid_side, every=scope.every,
        sequences=range(min(scope.scored, len(checkpoint.latent_codes))),
        on_frame=lambda s: on_step(f"{s.dice:.4f}"),
    )  # fmt: skip
    found: dict[str, Any] = {"reconstruction": summarise(scores)}
    unseen = unseen_source(recipe, held_out)
    if scope.fits and unseen is not None:
        found["fitting"] = compare_fits(
            folder, unseen_cells(unseen, scope.fits, micrometres=checkpoint.card.micrometres),
            scope=FitScope(grid_side=scope.grid_side), workers=workers, on_part=on_step,
        )  # fmt: skip
    return found


def score_learned(
    checkpoint: Checkpoint,
    recipe: TrainConfig,
    *,
    grid_side: int,
    every: int,
    sequences: Sequence[int],
    on_frame: Callable[[FrameScore], None] = lambda _score: None,
) -> list[FrameScore]:
    """Score the learned codes on the frames left out, and on every n-th of the others.

    Parameters
    ----------
    checkpoint, recipe
        A model and how it was trained.
    grid_side
        Samples along each side of Ω; masks keep their own grid.
    every
        Which training frames.
    sequences
        Which sequences.
    on_frame
        Called after each.
    """

    def to_score(total: int) -> list[int]:
        left_out = recipe.held_out.frames(total)
        return sorted({*left_out, *[f for f in range(total) if f not in left_out][::every]})

    if isinstance(recipe.data, ImportedSource):
        return score_imported(
            checkpoint, load_dataset(recipe.data.folder), held_out=recipe.held_out.frames, frames=to_score,
            grid_side=grid_side, sequences=sequences, on_frame=on_frame,
        )  # fmt: skip
    return score_reconstruction(
        checkpoint, recipe.data, held_out=recipe.held_out.frames, frames=to_score, grid_side=grid_side,
        sequences=sequences, on_frame=on_frame,
    )  # fmt: skip


def unseen_source(recipe: TrainConfig, held_out: Path | None) -> AnySource | None:
    """Return a source of cells that the model has not seen: those given, phantoms of fresh seeds, or none.

    Parameters
    ----------
    recipe
        The model was trained with it.
    held_out
        Imported data set or folder of masks; masks are read as those of the recipe are.
    """
    if held_out is None:
        fresh = {"first_seed": HELD_OUT_SEED}
        return recipe.data.model_copy(update=fresh) if isinstance(recipe.data, PhantomSource) else None
    if (held_out / INDEX_FILE).is_file():
        return ImportedSource(kind="imported", folder=held_out)
    if isinstance(recipe.data, MaskSource):
        return recipe.data.model_copy(update={"folder": held_out})
    return MaskSource(kind="masks", folder=held_out)


def reference_of(
    recipe: TrainConfig, held_out: Path | None, count: int, *, has_protrusions: bool
) -> tuple[Sequences | None, str]:
    """Return up to ``count`` sequences that the model has not seen, if there are any, and what to call them."""
    source = unseen_source(recipe, held_out)
    if held_out is not None:
        assert isinstance(source, ImportedSource | MaskSource)
        real = RealSequences.of(source, has_protrusions=has_protrusions)
        return replace(real, chosen=real.chosen[:count]), f"the cells of {held_out.name}"
    if isinstance(source, PhantomSource):
        fresh = PhantomSequences(source.cell_type, source.first_seed, count, has_protrusions)
        return fresh, f"phantoms of the seeds from {HELD_OUT_SEED}, which no model was trained on"
    return None, "half of its training cells, because no others were given: it has seen them"


def _pairs(sides: Sides, generated: Sequences, searched: Sequences, scope: Scope, cell_type: str) -> Picture:
    nearest = nearest_training(sides.outlines, sides.training_outlines)
    pairs = list(zip(range(len(generated)), nearest.indices.tolist(), nearest.dice.tolist(), strict=True))
    palette = cell_type if cell_type in PALETTES else "neutral"
    return Picture(
        "nearest", "New cells beside their nearest training cells",
        "A row a new cell: over time on the left, on the right the training cell that it overlaps most, at the same "
        "moments, scale and direction of view.",
        figures.picture_png(figures.picture_pairs(generated, searched, pairs[: scope.paired], palette=palette)),
    )  # fmt: skip


def _pictures(
    sides: Sides, shown: dict[str, Sequences], names: list[str], scope: Scope, cell_type: str
) -> list[Picture]:
    sets = sides.named()
    palette = cell_type if cell_type in PALETTES else "neutral"
    grid = figures.picture_grid(shown, cells=scope.pictured, palette=palette)
    bodies = [name for name in names if name in BODY_NAMES]
    return [
        Picture(
            "cells", "Cells side by side",
            "A row a cell, time from left to right; reference cells first, then new ones.", figures.picture_png(grid),
        ),
        Picture(
            "quantiles", "Quantiles against held-out cells", "On the line, the distributions agree.",
            figures.quantile_plots(sets, names),
        ),
        Picture(
            "boxes", "Distributions", "Median, quartiles, and 5 to 95 %.", figures.box_plots(sets, names),
        ),
        Picture(
            "courses", "Over time", "Median and quartiles of the largest body.",
            figures.courses({side: sequences for side, sequences in sets.items() if bodies}),
        ),
    ]  # fmt: skip
