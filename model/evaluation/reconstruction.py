"""Reconstruction: how well a learned code gives back the sequence it was learned from, unseen frames included.

Promises: truth and reconstruction are sampled on the same grid; the Dice coefficient 2|A∩B| / (|A| + |B|) is taken
frame by frame and averaged.
Does not promise: anything about new codes.

References: Dice 1945, doi:10.2307/1932409.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from model.checkpoint import Checkpoint
from model.dataset import MaskSource, PhantomSource, mask_files, mask_frames
from model.domain import Grid, frame_times
from model.errors import EmptySurfaceError
from model.phantoms import make_phantom
from model.runs import inside
from model.sparse import evaluate_sparse

Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class FrameScore:
    """Agreement of one reconstructed frame with the truth."""

    sequence: int
    frame: int
    held_out: bool
    dice: float


def dice(first: Mask, second: Mask) -> float:
    """Dice coefficient of two masks, in [0, 1]; 1 for two empty ones."""
    size = int(first.sum()) + int(second.sum())
    return 2.0 * int((first & second).sum()) / size if size else 1.0


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
            score = FrameScore(sequence, frame, frame in held_out(total), dice(truth, found))
            scores.append(score)
            on_frame(score)
    return scores


def summarise(scores: list[FrameScore]) -> dict[str, float]:
    """Mean Dice of training frames and of frames left out, and the worst of each."""
    summary: dict[str, float] = {}
    for name, held_out in (("training_frames", False), ("left_out_frames", True)):
        values = [score.dice for score in scores if score.held_out == held_out]
        if values:
            summary[f"dice_{name}"] = round(float(np.mean(values)), 4)
            summary[f"dice_{name}_worst"] = round(float(np.min(values)), 4)
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
