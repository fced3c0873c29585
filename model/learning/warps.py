"""Warped copies of few training sequences: other shapes, with exact distances to their membranes.

A warp moves each point x of Ω to x + u(x), where u is a sum of a few long sine waves in random directions. The same
warp holds for all frames of a sequence, so a cell moves as it did. The vertices of its membrane are moved, and the
distances of new training points to the moved triangles are computed as those of the cell itself were: no distance is
interpolated. Each warped copy has a code of its own, so that a few cells teach the network more shapes than they have.

Promises: u changes by at most ``STEEPEST`` of the distance between two points, so a warp is one to one: a membrane that
does not meet itself still does not, and its bodies, handles and cavities stay. A warped sequence has the mean volume of
its own sequence, and lies inside Ω. The same data set and seed give the same bytes with any number of processes.
Does not promise: shapes that live cells take. Sizes remain those that were measured; time never runs backwards.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from model.errors import DatasetError
from model.learning.dataset import INDEX_FILE, SURFACE_POINTS, Dataset, mask_membranes, sample_frame, spread_over
from model.learning.imported_cells import load_shape
from model.learning.sources import ImportedSource, MaskSource, mask_files
from model.membranes.triangle_distance import CellShape, Membrane

Doubles = NDArray[np.float64]

STEEPEST = 0.35  # Lipschitz bound of the displacement; below 1 a warp is one to one
WAVES = 8
LONGEST, SHORTEST = 3.2, 1.3  # wavelengths in units of Ω: a cell bends as a whole, its surface is not roughened
BORDER = 0.97  # of Ω, inside which a warped cell lies
TRIES = 8  # each with half the displacement of the one before
POINTS_MAX = 8192  # of a warped frame


@dataclass(frozen=True)
class Warp:
    """A one-to-one map of space: x + Σ amplitudes[k] · sin(waves[k] · x + phases[k]), times ``size``.

    Attributes
    ----------
    waves
        (k, 3) float64, radians per unit of Ω.
    amplitudes
        (k, 3) float64, units of Ω.
    phases
        (k,) float64.
    size
        Of the result; about the origin, the middle of Ω.
    """

    waves: Doubles
    amplitudes: Doubles
    phases: Doubles
    size: float = 1.0

    def __call__(self, points: Doubles) -> Doubles:
        """Move points (n, 3) of Ω: (n, 3) float64."""
        return np.asarray(self.size * (points + np.sin(points @ self.waves.T + self.phases) @ self.amplitudes))

    @property
    def steepness(self) -> float:
        """Upper bound of how much the displacement changes per unit of length, before the scaling by ``size``."""
        lengths = np.linalg.norm(self.waves, axis=1) * np.linalg.norm(self.amplitudes, axis=1)
        return float(lengths.sum())

    def weaker(self) -> Warp:
        """Return the warp with half the displacement."""
        return replace(self, amplitudes=self.amplitudes / 2.0)

    def shape(self, shape: CellShape) -> CellShape:
        """Warp a cell in units of Ω."""
        return CellShape([Membrane(self(part.vertices), part.faces) for part in shape.parts])


def draw_warp(rng: np.random.Generator) -> Warp:
    """Draw a warp whose bound of steepness is ``STEEPEST`` times a uniform number between 1/2 and 1."""
    directions = rng.standard_normal((WAVES, 3))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    waves = directions * (2.0 * np.pi / rng.uniform(SHORTEST, LONGEST, WAVES))[:, None]
    amplitudes = rng.standard_normal((WAVES, 3)) / np.linalg.norm(waves, axis=1, keepdims=True)
    drawn = Warp(waves, amplitudes, rng.uniform(0.0, 2.0 * np.pi, WAVES))
    return replace(drawn, amplitudes=amplitudes * (STEEPEST * rng.uniform(0.5, 1.0) / drawn.steepness))


def warp_of(shapes: Callable[[], Iterator[CellShape]], rng: np.random.Generator) -> Warp:
    """Draw a warp that keeps the mean volume of a sequence and leaves every frame inside Ω.

    Parameters
    ----------
    shapes
        Gives the frames of the sequence, in units of Ω, from the first each time.
    rng
        Source of randomness.

    Raises
    ------
    DatasetError
        If a cell lies so near the border of Ω that no warp leaves it inside.
    """
    drawn = draw_warp(rng)
    for _ in range(TRIES):
        before, after, reach = 0.0, 0.0, 0.0
        for shape in shapes():
            warped = drawn.shape(shape)
            before += sum(part.volume for part in shape.parts)
            after += sum(part.volume for part in warped.parts)
            reach = max(reach, *(float(np.abs(part.vertices).max()) for part in warped.parts))
        size = float(np.cbrt(before / after))
        if size * reach <= BORDER:
            return replace(drawn, size=size)
        drawn = drawn.weaker()
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
        _Copy(dataset.source, dataset.folder, folder, number, copy, seed, *dataset.samples[number].shape[:2], count)
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


def _make(job: _Copy) -> Path:
    """Draw the training points of one warped copy; its file is written whole, and kept if it is there."""
    if job.path.is_file():
        return job.path
    warp = warp_of(job.shapes, np.random.default_rng([29, job.seed, job.sequence, job.copy]))
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
