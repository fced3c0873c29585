"""Reconstruction: agreement of a learned code's cell with the sequence it was learned from, unseen frames included.

Promises: truth and reconstruction are sampled on the same grid. The Dice coefficient 2|A∩B| / (|A| + |B|) is computed
frame by frame and averaged. The Dice coefficient of thin parts counts only what a morphological opening with a ball
removes from either; the ball's radius follows from the truth.
Does not promise: anything about new codes; distances finer than the grid's step.

References: Dice 1945, doi:10.2307/1932409.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage

from model.domain import Grid, frame_times
from model.engine.runs import inside
from model.engine.sparse import evaluate_sparse
from model.errors import EmptySurfaceError
from model.evaluation.measures.protrusions import THIN, equivalent_radius, thin_parts
from model.learning.sources import MaskSource, PhantomSource, mask_files, mask_frames
from model.network.checkpoint import Checkpoint
from model.phantoms import make_phantom

Mask = NDArray[np.bool_]

LEAST_THIN = 0.005  # share of the volume: a smaller thin part is the voxel staircase of a round body


@dataclass(frozen=True)
class FrameScore:
    """Agreement of one reconstructed frame with the truth."""

    sequence: int
    frame: int
    held_out: bool
    dice: float
    thin: float | None = None
    """Dice of the thin parts, None where the truth has none."""
    distance: float | None = None
    """Mean distance between the surfaces, in steps of the grid."""
    distance_95: float | None = None
    """Distance that 95 % of both surfaces keep, in steps."""


def dice(first: Mask, second: Mask) -> float:
    """Dice coefficient of two masks, in [0, 1]; 1 for two empty ones."""
    size = int(first.sum()) + int(second.sum())
    return 2.0 * int((first & second).sum()) / size if size else 1.0


def thin_dice(truth: Mask, found: Mask) -> float | None:
    """Dice of the thin parts of two masks, None if those of the first are too small (``LEAST_THIN``)."""
    radius = THIN * equivalent_radius(truth)
    thin = thin_parts(truth, radius=radius)
    if int(thin.sum()) < LEAST_THIN * int(truth.sum()):
        return None
    return dice(thin, thin_parts(found, radius=radius))


def surface_distances(truth: Mask, found: Mask) -> tuple[float, float] | None:
    """Mean and 95 % distance, in steps, between the borders of two masks, both ways; None if one is empty."""
    if not truth.any() or not found.any():
        return None
    low = np.argwhere(truth | found).min(axis=0)
    high = np.argwhere(truth | found).max(axis=0) + 1
    box = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
    one, two = np.pad(truth[box], 1), np.pad(found[box], 1)
    borders = [mask & ~ndimage.binary_erosion(mask) for mask in (one, two)]
    away = [ndimage.distance_transform_edt(~border) for border in borders]
    both = np.concatenate([away[1][borders[0]], away[0][borders[1]]])
    return float(both.mean()), float(np.quantile(both, 0.95))


def score_frame(sequence: int, frame: int, truth: Mask, found: Mask, *, held_out: bool) -> FrameScore:
    """Compare one reconstructed frame with the truth by every measure."""
    apart = surface_distances(truth, found) or (None, None)
    return FrameScore(sequence, frame, held_out, dice(truth, found), thin_dice(truth, found), *apart)


def score_reconstruction(
    checkpoint: Checkpoint,
    source: PhantomSource | MaskSource,
    *,
    held_out: Callable[[int], Sequence[int]],
    frames: Callable[[int], Sequence[int]],
    grid_side: int = 128,
    sequences: Sequence[int] | None = None,
    on_frame: Callable[[FrameScore], None] = lambda _score: None,
) -> list[FrameScore]:
    """Compare reconstructions from learned codes with the training source.

    Parameters
    ----------
    checkpoint
        A trained model.
    source
        What it was trained on; its sequences are the rows of the latent table.
    held_out
        Gives, for a number of frames, those left out of training.
    frames
        Gives, for a number of frames, those to score.
    grid_side
        Samples along each side of Ω for phantoms; masks are compared on their own grid.
    sequences
        Which; all when None.

    Returns
    -------
    list of FrameScore
    """
    scores = []
    for sequence in sequences if sequences is not None else range(len(checkpoint.latent_codes)):
        for frame, total, truth in _truth(source, sequence, frames, grid_side):
            grid = Grid((truth.shape[0], truth.shape[1], truth.shape[2]))
            code = torch.from_numpy(checkpoint.latent_codes[sequence])
            sdf = checkpoint.decoder.fold(code, float(frame_times(total)[frame]))
            try:
                found = inside(evaluate_sparse(sdf, grid, lipschitz=checkpoint.card.lipschitz))
            except EmptySurfaceError:
                found = np.zeros_like(truth)
            score = score_frame(sequence, frame, truth, found, held_out=frame in held_out(total))
            scores.append(score)
            on_frame(score)
    return scores


def summarise(scores: list[FrameScore]) -> dict[str, float]:
    """Mean of every measure over training frames and over frames left out, and the worst Dice of each."""
    summary: dict[str, float] = {}
    for name, held_out in (("training_frames", False), ("left_out_frames", True)):
        chosen = [score for score in scores if score.held_out == held_out]
        if not chosen:
            continue
        summary[f"dice_{name}"] = round(float(np.mean([score.dice for score in chosen])), 4)
        summary[f"dice_{name}_worst"] = round(float(np.min([score.dice for score in chosen])), 4)
        for measure, title in (("thin", "thin_dice"), ("distance", "steps_apart"), ("distance_95", "steps_apart_95")):
            values = [value for score in chosen if (value := getattr(score, measure)) is not None]
            if values:
                summary[f"{title}_{name}"] = round(float(np.mean(values)), 4)
    return summary


def _truth(
    source: PhantomSource | MaskSource, sequence: int, frames: Callable[[int], Sequence[int]], grid_side: int
) -> Iterator[tuple[int, int, Mask]]:
    if isinstance(source, MaskSource):
        masks = mask_frames(mask_files(source)[sequence])
        for frame in frames(len(masks)):
            yield frame, len(masks), masks[frame]
        return
    phantom = make_phantom(source.cell_type, source.first_seed + sequence)
    grid = Grid((grid_side, grid_side, grid_side))
    for frame in frames(source.frames):
        shape = phantom.frame(float(frame_times(source.frames)[frame]))
        yield frame, source.frames, inside(evaluate_sparse(shape, grid, lipschitz=1.05, exact="certified"))
