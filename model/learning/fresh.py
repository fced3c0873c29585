"""Training points drawn while training: with every epoch each sequence is seen at other moments and other points.

A sequence keeps its seed and its code; what is drawn again are the moments of its life at which it is sampled, and the
points. An epoch is as many steps as it takes to see as many points as the data set has. While one is trained on, the
next is drawn by processes beside it. The first epoch is the data set that lies in the folder anyway.

Promises: the data of a step depend only on the recipe and the number of the step, so a run that was stopped and resumed
equals one that was not. At most two epochs lie on disk beside the first.
Does not promise: that drawing keeps up with training; a step waits for its data.
"""

from __future__ import annotations

import os
import shutil
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Self

from model.learning.dataset import Dataset, build_dataset
from model.learning.recipe import TrainConfig
from model.learning.sources import PhantomSource


def steps_of_epoch(config: TrainConfig, dataset: Dataset) -> int:
    """Count the steps in which training sees as many points as a data set has, at least 1."""
    points = sum(samples.shape[0] * samples.shape[1] for samples in dataset.samples)
    plan = config.optimisation
    return max(1, -(-points // (plan.frames_per_step * plan.points_per_frame)))


class Epochs:
    """The data sets of a training, one an epoch; a context that stops drawing when it is left.

    Parameters
    ----------
    config
        The recipe. Unless its data are fresh, every epoch is the first.
    first
        The data set of the first epoch.
    folder
        Where the others go, one folder each.
    workers
        Processes that draw; all cores but one when None.
    """

    def __init__(self, config: TrainConfig, first: Dataset, folder: Path, *, workers: int | None = None) -> None:
        self._source = config.data if isinstance(config.data, PhantomSource) and config.data.fresh else None
        self._config, self._first, self._folder = config, first, folder
        self._workers = workers or max(1, (os.cpu_count() or 2) - 1)
        self._length = steps_of_epoch(config, first)
        self._last = (config.optimisation.steps - 1) // self._length
        self._drawing = ThreadPoolExecutor(1)
        self._asked: dict[int, Future[Dataset]] = {}
        self._epoch = -1
        self._current = first

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._drawing.shutdown(wait=True, cancel_futures=True)

    def at(self, step: int) -> Dataset:
        """Return the data set of a step; waits until it is drawn."""
        epoch = step // self._length if self._source else 0
        if epoch != self._epoch:
            self._current = self._ask(epoch).result() if epoch else self._first
            self._epoch = epoch
            self._remove_all_but({epoch, epoch + 1})
            if self._source and epoch < self._last:
                self._ask(epoch + 1)
        return self._current

    def _ask(self, epoch: int) -> Future[Dataset]:
        if epoch not in self._asked:
            assert self._source is not None
            self._asked[epoch] = self._drawing.submit(
                build_dataset, self._source, self._place(epoch), epoch=(self._config.seed, epoch), workers=self._workers
            )
        return self._asked[epoch]

    def _place(self, epoch: int) -> Path:
        return self._folder / f"epoch-{epoch:06d}"

    def _remove_all_but(self, kept: set[int]) -> None:
        places = {self._place(epoch) for epoch in kept}
        for place in self._folder.glob("epoch-*"):
            if place not in places:
                shutil.rmtree(place)
        self._asked = {epoch: asked for epoch, asked in self._asked.items() if epoch in kept}
