"""Reconstruction of imported training cells by a newly trained model: figures for its card, and a picture.

Promises: the reference is the membrane found at import, sampled on the model's grid. Frames left out of training are
scored as such.
Does not promise: anything about new cells; ``python -m model evaluate`` evaluates them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch

from model.domain import Grid
from model.engine.marching_cubes import Surface, extract_surface
from model.engine.runs import inside
from model.engine.sparse import evaluate_sparse
from model.errors import EmptySurfaceError
from model.evaluation.novelty import card_figures, novelty_of_model, with_novelty
from model.evaluation.reconstruction import FrameScore, dice, summarise
from model.evaluation.sequence_sources import RealSequences
from model.learning.dataset import Dataset
from model.learning.imported_cells import load_shape
from model.learning.sources import ImportedSource
from model.membranes.triangle_distance import CellShape
from model.network.checkpoint import Checkpoint
from model.rendering.render import Picture, Scene, montage, render_frames, write_png
from model.training_spec import FRAMES_SCORED, NEW_CELLS_MAX

FIGURES_FILE, PICTURE_FILE = "figures.json", "figures.png"
PICTURED = 3  # sequences in the picture
MOMENTS = 4  # frames of each sequence in the picture
SIDE = 240  # pixels of one picture


def score_imported(
    checkpoint: Checkpoint,
    dataset: Dataset,
    *,
    held_out: Callable[[int], Sequence[int]],
    frames: Callable[[int], Sequence[int]],
    grid_side: int = 64,
    sequences: Sequence[int] | None = None,
    on_frame: Callable[[FrameScore], None] = lambda _score: None,
) -> list[FrameScore]:
    """Compare reconstructions from learned codes with the cells that were imported.

    Parameters
    ----------
    checkpoint, dataset
        A trained model and what it was trained on.
    held_out, frames
        Give, for a number of frames, those left out of training and those to score.
    grid_side
        Samples along each side of Ω.
    sequences
        Which; all when None.
    """
    grid = Grid((grid_side, grid_side, grid_side))
    scores = []
    for sequence in sequences if sequences is not None else range(len(dataset.names)):
        total = len(dataset.samples[sequence])
        for frame in frames(total):
            truth = inside(evaluate_sparse(_truth(dataset, sequence, frame), grid, lipschitz=1.01, exact="certified"))
            sdf = checkpoint.decoder.fold(
                torch.from_numpy(checkpoint.latent_codes[sequence]), float(dataset.times(sequence)[frame])
            )
            try:
                found = inside(evaluate_sparse(sdf, grid, lipschitz=checkpoint.card.lipschitz))
            except EmptySurfaceError:
                found = np.zeros_like(truth)
            scores.append(FrameScore(sequence, frame, frame in held_out(total), dice(truth, found)))
            on_frame(scores[-1])
    return scores


def write_figures(
    checkpoint: Checkpoint,
    dataset: Dataset,
    folder: Path,
    *,
    held_out: Callable[[int], Sequence[int]],
    new_cells: int = NEW_CELLS_MAX,
    on_frame: Callable[[FrameScore], None] = lambda _score: None,
) -> dict[str, float]:
    """Score a model on a part of its cells; write the figures into its card and folder, and a picture beside them.

    Parameters
    ----------
    folder
        The model's.
    held_out
        Gives, for a number of frames, those left out of training.
    new_cells
        How many are drawn to measure their novelty.
    on_frame
        Called after each frame that was scored.

    Returns
    -------
    dict
        Dice coefficients, as :func:`model.evaluation.reconstruction.summarise` names them, and the novelty of new
        cells (:func:`model.evaluation.novelty.card_figures`), each training cell compared with the others for a
        held-out one.
    """
    total = sum(len(block) for block in dataset.samples)
    every = max(1, -(-total // FRAMES_SCORED))

    def some(count: int) -> list[int]:
        kept = held_out(count)
        return sorted({*kept[::every], *[f for f in range(count) if f not in kept][::every]})

    scores = score_imported(checkpoint, dataset, held_out=held_out, frames=some, on_frame=on_frame)
    training = RealSequences.of(ImportedSource(kind="imported", folder=dataset.folder), has_protrusions=False)
    novelty = novelty_of_model(checkpoint, training, cells=new_cells)
    figures = summarise(scores) | card_figures(novelty)
    rows = [vars(score) for score in scores]
    document = {"model": checkpoint.card.id, "figures": figures, "frames": rows}
    (folder / FIGURES_FILE).write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    card = checkpoint.card.model_copy(update={"quality": {**checkpoint.card.quality, **figures}})
    with_novelty(card, novelty).write(folder)
    write_png(folder / PICTURE_FILE, montage(_pictures(checkpoint, dataset), columns=MOMENTS))
    return figures


def _pictures(checkpoint: Checkpoint, dataset: Dataset) -> list[Picture]:
    """Given cells and, below each, its reconstruction; blank where a frame has no membrane."""
    scenes: list[Scene | None] = []
    for sequence in range(min(PICTURED, len(dataset.names))):
        count = len(dataset.samples[sequence])
        moments = [round(k * (count - 1) / (MOMENTS - 1)) for k in range(MOMENTS)]
        name = dataset.names[sequence]
        scenes += [_given(dataset, sequence, frame, f"{name} {frame} given") for frame in moments]
        scenes += [_learned(checkpoint, dataset, sequence, frame, f"{name} {frame} learned") for frame in moments]
    drawn = [scene for scene in scenes if scene is not None]
    made = iter(render_frames(drawn, size=SIDE, palette="neutral", micrometres=checkpoint.card.micrometres))
    return [np.zeros((SIDE, SIDE, 3), dtype=np.uint8) if scene is None else next(made) for scene in scenes]


def _given(dataset: Dataset, sequence: int, frame: int, caption: str) -> Scene:
    outline = _truth(dataset, sequence, frame).outline
    return Scene(surface=Surface(vertices=outline.vertices.astype(np.float32), faces=outline.faces), caption=caption)


def _learned(checkpoint: Checkpoint, dataset: Dataset, sequence: int, frame: int, caption: str) -> Scene | None:
    grid = Grid((64, 64, 64))
    code = torch.from_numpy(checkpoint.latent_codes[sequence])
    sdf = checkpoint.decoder.fold(code, float(dataset.times(sequence)[frame]))
    try:
        surface = extract_surface(evaluate_sparse(sdf, grid, lipschitz=checkpoint.card.lipschitz), grid)
    except EmptySurfaceError:
        return None
    return Scene(surface=surface, caption=caption)


def _truth(dataset: Dataset, sequence: int, frame: int) -> CellShape:
    return load_shape(dataset.folder, sequence, frame)
