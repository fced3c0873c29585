"""Warped copies of few training sequences: other shapes, with exact distances to their membranes.

A warp (:mod:`model.engine.warp`) moves each point of Ω by a few long sine waves in random directions. The same warp
holds for all frames of a sequence, so a cell moves as it did. The vertices of its membrane are moved, and the distances
of new training points to the moved triangles are computed as those of the cell itself were: none is interpolated. Each
warped copy has a code of its own, so that a few cells teach the network more shapes than they have.

Promises: a warp is one to one: a membrane that does not meet itself still does not, and its bodies, handles and
cavities stay. A warped sequence has the mean volume of
its own sequence, and lies inside Ω. The same data set and seed give the same bytes with any number of processes.
Does not promise: shapes that live cells take. Sizes remain those that were measured; time never runs backwards.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from model.engine.warp import Warp
from model.errors import DatasetError
from model.learning.dataset import (
    INDEX_FILE,
    SURFACE_POINTS,
    Dataset,
    Samples,
    mask_membranes,
    sample_frame,
    spread_over,
)
from model.learning.imported_cells import load_shape
from model.learning.sources import ImportedSource, MaskSource, mask_files
from model.membranes.triangle_distance import CellShape, Membrane

STRONGEST = 0.35  # bound of how much the displacement changes per unit of length; below 1 a warp is one to one
BORDER = 0.97  # of Ω, inside which a warped cell lies
TRIES = 8  # each with half the displacement of the one before
POINTS_MAX = 8192  # of a warped frame


@dataclass(frozen=True)
class CopyWarp:
    """What makes a warped copy of a sequence: a warp of space, then a factor on lengths about the middle of Ω."""

    warp: Warp
    size: float = 1.0

    def shape(self, shape: CellShape) -> CellShape:
        """Warp a cell in units of Ω."""
        moved = [self.size * self.warp.moved(part.vertices).astype(np.float64) for part in shape.parts]
        return CellShape([Membrane(at, part.faces) for at, part in zip(moved, shape.parts, strict=True)])


def draw_copy_warp(shapes: Callable[[], Iterator[CellShape]], seed: Sequence[int]) -> CopyWarp:
    """Draw a warp that keeps the mean volume of a sequence and leaves every frame inside Ω.

    Parameters
    ----------
    shapes
        Gives the frames of the sequence, in units of Ω, from the first each time.
    seed
        Of the warp. Its strength is ``STRONGEST`` times a uniform number between 1/2 and 1, halved while the cell would
        reach the border of Ω.

    Raises
    ------
    DatasetError
        If a cell lies so near the border of Ω that no warp leaves it inside.
    """
    strength = STRONGEST * float(np.random.default_rng(seed).uniform(0.5, 1.0))
    for _ in range(TRIES):
        drawn = CopyWarp(Warp.draw(strength, np.random.default_rng([*seed, 1])))
        before, after, reach = 0.0, 0.0, 0.0
        for shape in shapes():
            warped = drawn.shape(shape)
            before += sum(part.volume for part in shape.parts)
            after += sum(part.volume for part in warped.parts)
            reach = max(reach, *(float(np.abs(part.vertices).max()) for part in warped.parts))
        size = float(np.cbrt(before / after))
        if size * reach <= BORDER:
            return replace(drawn, size=size)
        strength /= 2.0
    raise DatasetError("a cell reaches the border of Ω, where it cannot be warped: import it with a wider margin")


def with_warps(
    dataset: Dataset,
    warps: int,
    folder: Path,
    *,
    seed: int,
    workers: int | None = None,
    on_sequence: Callable[[int, int], None] = lambda _done, _total: None,
) -> Dataset:
    """Return a data set and, behind its sequences, so many warped copies of each; the same one without warps.

    Parameters
    ----------
    dataset
        Of masks, or imported: its membranes are known.
    warps
        Of each sequence.
    folder
        Where the training points of the copies go; those that are there already are kept.
    seed
        Of the warps and the points.
    workers
        Processes; all cores when None.
    on_sequence
        Called with (copies done, copies in all).

    Raises
    ------
    DatasetError
        If the data set's membranes are not known, or a cell cannot be warped.
    """
    if not warps:
        return dataset
    if not isinstance(dataset.source, MaskSource | ImportedSource):
        raise DatasetError("warped copies are made of a user's own cells; phantoms are drawn in any number")
    made_of = (dataset.folder / INDEX_FILE).read_bytes() + f"seed {seed}".encode()
    folder = folder / hashlib.sha256(made_of).hexdigest()[:16]  # another data set's copies do not count
    folder.mkdir(parents=True, exist_ok=True)
    count = len(dataset.samples)
    jobs = [
        _Copy(dataset.source, dataset.folder, folder, number, copy, seed, *_size(dataset.samples[number]), count)
        for copy in range(warps)
        for number in range(count)
    ]
    names, samples, uneven = list(dataset.names), list(dataset.samples), dict(dataset.uneven)
    with spread_over(workers or os.cpu_count() or 1) as mapped:
        for done, path in enumerate(mapped(_make, jobs)):
            number = done % count
            names.append(f"{dataset.names[number]}, warped {done // count + 1}")
            if number in dataset.uneven:
                uneven[len(samples)] = dataset.uneven[number]
            samples.append(np.load(path, mmap_mode="r"))
            on_sequence(done + 1, len(jobs))
    return replace(dataset, names=names, samples=samples, uneven=uneven)


@dataclass(frozen=True)
class _Copy:
    """A warped copy to be made; light, because it goes to another process."""

    source: MaskSource | ImportedSource
    known: Path  # the data set
    folder: Path  # of the copies
    sequence: int
    copy: int
    seed: int
    frames: int
    points: int  # of a frame of the sequence itself
    count: int  # of sequences

    @property
    def path(self) -> Path:
        return self.folder / f"warped_{self.sequence:04d}_{self.copy:02d}.npy"

    def shapes(self) -> Iterator[CellShape]:
        """Give the frames of the sequence one after the other, in units of Ω."""
        if isinstance(self.source, MaskSource):
            for membrane in mask_membranes(mask_files(self.source)[self.sequence]):
                yield CellShape([membrane])
            return
        for frame in range(self.frames):
            yield load_shape(self.known, self.sequence, frame)


def _size(samples: Samples) -> tuple[int, int]:
    """Frames of a sequence, and points of each."""
    return samples.shape[0], samples.shape[1]


def _make(job: _Copy) -> Path:
    """Draw the training points of one warped copy; its file is written whole, and kept if it is there."""
    if job.path.is_file():
        return job.path
    warp = draw_copy_warp(job.shapes, [29, job.seed, job.sequence, job.copy])
    bend_share = job.source.bend_share if isinstance(job.source, MaskSource) else 0.0
    number = job.count * (job.copy + 1) + job.sequence  # of the copy among all sequences: its points are its own
    blocks = []
    for frame, shape in enumerate(job.shapes()):
        warped = warp.shape(shape)
        surface = warped.sample(SURFACE_POINTS, np.random.default_rng([31, job.seed, number, frame]))
        count = min(job.points, POINTS_MAX)
        blocks.append(sample_frame(warped, surface, count, sequence=number, frame=frame, bend_share=bend_share))
    unfinished = job.path.with_suffix(f".{os.getpid()}.partial")
    with unfinished.open("wb") as file:
        np.save(file, np.stack(blocks))
    unfinished.replace(job.path)
    return job.path
