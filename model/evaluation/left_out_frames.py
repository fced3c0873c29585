"""Agreement of a network in training with the frames that are left out of its training.

Promises: a measurement takes well under a second a frame and changes nothing of the training.
Does not promise: the figures of the finished model, which :mod:`model.evaluation.imported` takes on a finer grid.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from model.domain import Grid
from model.engine.runs import inside
from model.engine.sparse import evaluate_sparse
from model.evaluation.reconstruction import dice
from model.learning.dataset import Dataset
from model.learning.imported_cells import load_shape
from model.network.autodecoder import AutoDecoder

FRAMES_MEASURED = 12  # at most: each takes about 0.1 s of one core
SIDE = 32  # samples along each side of Ω


class LeftOutFrames:
    """Some left-out frames of an imported data set, sampled once.

    Parameters
    ----------
    dataset
        Holds the membranes found at import.
    held_out
        Gives, for a number of frames, those left out of training.
    """

    def __init__(self, dataset: Dataset, held_out: Callable[[int], Sequence[int]]) -> None:
        self._grid = Grid((SIDE, SIDE, SIDE))
        self._points = torch.from_numpy(self._grid.points())[None]  # (1, n, 3)
        every = [(s, f) for s, block in enumerate(dataset.samples) for f in held_out(len(block))]
        chosen = every[:: max(1, -(-len(every) // FRAMES_MEASURED))]
        self._frames = [(s, float(dataset.times(s)[f]), self._truth(dataset, s, f)) for s, f in chosen]

    def __bool__(self) -> bool:
        """Whether any frame is left out."""
        return bool(self._frames)

    def measure(self, decoder: AutoDecoder, codes: Tensor) -> float:
        """Return the mean Dice coefficient.

        Parameters
        ----------
        decoder
            As it is at the moment.
        codes
            (s, c), one for each sequence of the data set.
        """
        points = self._points.to(codes.device)
        scores = []
        with torch.no_grad():
            for sequence, time, truth in self._frames:
                times = torch.tensor([time], dtype=torch.float32, device=codes.device)
                found = decoder(points, times, codes[sequence : sequence + 1])[0]  # (n,)
                scores.append(dice(truth, (found < 0).cpu().numpy().reshape(truth.shape)))
        return float(np.mean(scores))

    def _truth(self, dataset: Dataset, sequence: int, frame: int) -> np.ndarray[tuple[int, ...], np.dtype[np.bool_]]:
        shape = load_shape(dataset.folder, sequence, frame)
        return inside(evaluate_sparse(shape, self._grid, lipschitz=1.01, exact="certified"))
