"""Batches of training points: the same wherever they are gathered."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from model.learning.dataset import Dataset
from model.learning.point_batches import Batches
from model.learning.sources import PhantomSource

SOURCE = PhantomSource(kind="phantoms", cell_type="celegans", sequences=3, moments=4, points_per_frame=1024)


def dataset(points: tuple[int, ...] = (50, 50, 50)) -> Dataset:
    """Three sequences of four frames with numbers of their own, at times of their own."""
    rng = np.random.default_rng(5)
    samples = [rng.uniform(-1, 1, (4, count, 4)).astype(np.float16) for count in points]
    times = {number: np.sort(rng.uniform(-1, 1, 4)).astype(np.float32) for number in range(3)}
    return Dataset(Path(), SOURCE, 1.0, 1.0, ["a", "b", "c"], samples, times)


def batches(of: Dataset, points_per_frame: int = 20) -> Batches:
    frames = [(sequence, frame) for sequence in range(3) for frame in (0, 1, 3)]
    return Batches(of, frames, frames_per_step=16, points_per_frame=points_per_frame, device="cpu")


def test_a_device_that_holds_all_points_draws_what_the_processor_reads() -> None:
    read, held = batches(dataset()), batches(dataset())
    held._held = held._hold()
    assert held._held is not None
    for seed in range(5):
        one, other = np.random.default_rng(seed), np.random.default_rng(seed)
        for expected, found in zip(read.draw(one), held.draw(other), strict=True):
            assert found.dtype == expected.dtype
            assert torch.equal(found, expected)
        assert one.bit_generator.state == other.bit_generator.state


def test_points_of_a_batch_are_runs_of_one_frame_with_its_time_and_sequence() -> None:
    known = dataset()
    batch = batches(known).draw(np.random.default_rng(0))
    frames = set()
    for points, distances, time, sequence in zip(*batch, strict=True):
        number = int(sequence)
        frame = known.times(number).tolist().index(float(time))
        rows = np.column_stack([points.numpy(), distances.numpy()])
        block: NDArray[np.float32] = known.samples[number][frame].astype(np.float32)
        start = next(n for n in range(31) if np.array_equal(block[n : n + 20], rows))
        frames.add((number, frame, start))
    assert len(frames) > 8
    assert {frame for _, frame, _ in frames} <= {0, 1, 3}


def test_frames_of_unequal_or_too_few_points_are_read_where_they_lie() -> None:
    assert batches(dataset((50, 40, 50)))._hold() is None
    assert batches(dataset(), points_per_frame=60)._hold() is None
