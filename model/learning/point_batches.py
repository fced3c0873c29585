"""Batches of training points: frames drawn at random and, in each, a run of its points.

On the processor frames are read where they lie, from memory-mapped files. An accelerator holds all points itself, where
each frame has equally many and they fit: a batch is then one gather there, and only the numbers of frames go over.

Promises: a batch depends on the generator alone, not on where it is gathered.
Does not promise: room on an accelerator for points that take more than ``SHARE`` of its free memory; those are read as
on the processor.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from model.learning.dataset import Dataset

SHARE = 0.4  # of an accelerator's free memory that training points may take


class Batch(NamedTuple):
    """Training points of some frames.

    Attributes
    ----------
    points
        (b, n, 3) float32 in Ω.
    distances
        (b, n) float32, units of Ω.
    times
        (b,) float32 in τ.
    sequences
        (b,) int64: number of each frame's sequence.
    """

    points: Tensor
    distances: Tensor
    times: Tensor
    sequences: Tensor


class Batches:
    """Draws batches from the frames of a data set.

    Parameters
    ----------
    dataset
        The training sequences.
    frames
        Pairs of a sequence and a frame in it that may be drawn.
    frames_per_step, points_per_frame
        Of a batch; a frame with fewer points gives some of them again.
    device
        Where batches are wanted.
    """

    def __init__(
        self,
        dataset: Dataset,
        frames: Sequence[tuple[int, int]],
        *,
        frames_per_step: int,
        points_per_frame: int,
        device: str,
    ) -> None:
        self._dataset, self._frames, self._device = dataset, frames, device
        self._count, self._points = frames_per_step, points_per_frame
        self._held = self._hold() if torch.device(device).type != "cpu" else None

    def draw(self, rng: np.random.Generator) -> Batch:
        """Draw a batch."""
        chosen = rng.integers(len(self._frames), size=self._count)
        if self._held is not None:
            return self._held.gather(chosen, rng, self._points)
        samples = np.empty((self._count, self._points, 4), dtype=np.float32)
        times = np.empty(self._count, dtype=np.float32)
        sequences = np.empty(self._count, dtype=np.int64)
        for row, index in enumerate(chosen):
            sequence, frame = self._frames[index]
            block = self._dataset.samples[sequence][frame]
            start = rng.integers(max(len(block) - self._points, 0) + 1)
            samples[row] = np.resize(block[start : start + self._points], samples[row].shape)
            times[row] = self._dataset.times(sequence)[frame]
            sequences[row] = sequence
        batch = torch.from_numpy(samples).to(self._device)
        return Batch(
            batch[..., :3].contiguous(),
            batch[..., 3].contiguous(),
            torch.from_numpy(times).to(self._device),
            torch.from_numpy(sequences).to(self._device),
        )

    def _hold(self) -> _Held | None:
        """Copy all frames to the device; None where that is not possible."""
        samples = self._dataset.samples
        sizes = {samples[sequence].shape[1] for sequence, _ in self._frames}
        if len(sizes) != 1 or min(sizes) < self._points:
            return None
        size, first = sizes.pop(), samples[self._frames[0][0]][0]
        need = len(self._frames) * size * first.dtype.itemsize * 4
        if torch.device(self._device).type == "cuda" and need > SHARE * torch.cuda.mem_get_info(self._device)[0]:
            return None
        held = torch.empty((len(self._frames), size, 4), dtype=torch.from_numpy(first[:1].copy()).dtype)
        for row, (sequence, frame) in enumerate(self._frames):
            held[row] = torch.from_numpy(np.array(samples[sequence][frame]))
        times = np.array([self._dataset.times(sequence)[frame] for sequence, frame in self._frames], dtype=np.float32)
        sequences = np.array([sequence for sequence, _ in self._frames], dtype=np.int64)
        return _Held(*(one.to(self._device) for one in (held, torch.from_numpy(times), torch.from_numpy(sequences))))


@dataclass(frozen=True)
class _Held:
    """All frames of a data set, on a device: samples (f, p, 4), times (f,), sequences (f,)."""

    samples: Tensor
    times: Tensor
    sequences: Tensor

    def gather(self, chosen: NDArray[Any], rng: np.random.Generator, points: int) -> Batch:
        size = self.samples.shape[1]
        starts = rng.integers(size - points + 1, size=len(chosen))  # the numbers that one after the other would be
        rows, begins = (torch.from_numpy(both).to(self.samples.device) for both in (chosen, chosen * size + starts))
        wanted = begins[:, None] + torch.arange(points, device=begins.device)
        samples = self.samples.view(-1, 4)[wanted].float()  # (b, n, 4)
        return Batch(
            samples[..., :3].contiguous(), samples[..., 3].contiguous(), self.times[rows], self.sequences[rows]
        )
