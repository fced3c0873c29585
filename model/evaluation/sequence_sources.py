"""Sources of the sequences to be measured: phantoms, imported cells, masks, cells of a model.

Promises: a sequence does not depend on which others were read before. Every frame comes with its surface, the inside
samples on the grid, and its time.
Does not promise: frames between those that real cells have; the nearest ones are taken.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from model import living_cell
from model.card import load_card
from model.domain import OMEGA, Grid, frame_times
from model.engine.marching_cubes import extract_surface
from model.engine.runs import inside
from model.engine.sparse import SignedDistance, evaluate_sparse
from model.errors import SurfaceError
from model.evaluation.measures.descriptors import Triangles
from model.learning.dataset import load_dataset
from model.learning.imported_cells import load_shape
from model.learning.sources import AnySource, ImportedSource, MaskSource, mask_files, mask_frames
from model.living_cell import AS_IT_IS, LivingCell, Variation
from model.membranes.mask_surface import membrane_of_mask
from model.membranes.triangle_distance import CellShape
from model.network.checkpoint import Checkpoint, load_checkpoint
from model.phantoms import ShapeFrame, make_phantom
from model.spec import GenerationSpec

HELD_OUT_SEED = 1_000_000  # first seed of held-out phantoms; no recipe trains on seeds so large
"""First seed of the phantoms that no model is trained on."""
UPRIGHT = [1.0, 0.0, 0.0, 0.0]


@dataclass(frozen=True)
class Snapshot:
    """One frame of a sequence.

    Attributes
    ----------
    minute
        Its time.
    surface
        In Ω, facing outward.
    inside
        (nx, ny, nz) on the grid that was asked for.
    rejected
        Codes refused before the cell was drawn.
    """

    minute: float
    surface: Triangles
    inside: NDArray[np.bool_]
    rejected: int = 0


class Sequences(Protocol):
    """Sequences that can be measured one by one; instances travel between processes."""

    @property
    def micrometres(self) -> float:
        """Length of one unit of Ω."""
        ...

    @property
    def has_protrusions(self) -> bool:
        """Whether to look for protrusions."""
        ...

    def __len__(self) -> int: ...

    def name(self, index: int) -> str:
        """Name of a sequence."""
        ...

    def snapshots(self, index: int, *, moments: int, grid: Grid) -> Iterator[Snapshot]:
        """Yield frames of a sequence at ``moments`` times spread over it."""
        ...


@dataclass(frozen=True)
class PhantomSequences:
    """Procedural cells of consecutive seeds."""

    cell_type: str
    first_seed: int
    count: int
    has_protrusions: bool = False

    @property
    def micrometres(self) -> float:
        """Length of one unit of Ω."""
        return _scale_of(self.cell_type)

    def __len__(self) -> int:
        return self.count

    def name(self, index: int) -> str:
        """Cell type and seed."""
        return f"{self.cell_type} {self.first_seed + index}"

    def snapshots(self, index: int, *, moments: int, grid: Grid) -> Iterator[Snapshot]:
        """Yield frames of a phantom."""
        phantom = make_phantom(self.cell_type, self.first_seed + index)
        for t in frame_times(moments):
            shape = phantom.shape(float(t), resolution=grid.shape[0])
            yield Snapshot((float(t) + 1.0) / 2.0 * phantom.minutes, shape, _contained(shape, grid))


def _contained(shape: ShapeFrame, grid: Grid) -> NDArray[np.bool_]:
    """Return which samples are inside, evaluating only the bounding box of the surface."""
    low = np.floor(grid.to_index(shape.vertices.min(axis=0)[None])[0]).astype(np.int64).clip(min=0)
    high = np.ceil(grid.to_index(shape.vertices.max(axis=0)[None])[0]).astype(np.int64) + 1
    ids = np.arange(grid.size).reshape(grid.shape)[tuple(slice(a, b) for a, b in zip(low, high, strict=True))]
    found = np.zeros(grid.size, dtype=np.bool_)
    found[ids.ravel()] = shape.contains(grid.points(ids.ravel()))
    return found.reshape(grid.shape)


@cache
def _scale_of(cell_type: str) -> float:
    return make_phantom(cell_type, 0).micrometres


@dataclass(frozen=True)
class RealSequences:
    """Cells of a user: an imported data set, or a folder of masks; all of them, or some."""

    source: ImportedSource | MaskSource
    chosen: tuple[int, ...]
    has_protrusions: bool = False

    @classmethod
    def of(cls, source: ImportedSource | MaskSource, *, has_protrusions: bool) -> RealSequences:
        """Take all sequences of a source."""
        count = len(mask_files(source)) if isinstance(source, MaskSource) else len(load_dataset(source.folder).names)
        return cls(source, tuple(range(count)), has_protrusions)

    @property
    def micrometres(self) -> float:
        """Length of one unit of Ω."""
        if isinstance(self.source, MaskSource):
            return self.source.micrometres
        return load_dataset(self.source.folder).micrometres

    def __len__(self) -> int:
        return len(self.chosen)

    def name(self, index: int) -> str:
        """Name of the file or of the imported track."""
        if isinstance(self.source, MaskSource):
            return mask_files(self.source)[self.chosen[index]].stem
        return load_dataset(self.source.folder).names[self.chosen[index]]

    def snapshots(self, index: int, *, moments: int, grid: Grid) -> Iterator[Snapshot]:
        """Yield frames of a real cell, the nearest to times spread evenly."""
        source = self.source
        if isinstance(source, MaskSource):
            shapes = self._masks(source, index, moments)
        else:
            shapes = self._shapes(source, index, moments)
        for minute, shape in shapes:
            yield sampled(shape, grid, minute)

    def _masks(self, source: MaskSource, index: int, moments: int) -> Iterator[tuple[float, CellShape]]:
        masks = mask_frames(mask_files(source)[self.chosen[index]])
        times = frame_times(len(masks))
        step = Grid((masks.shape[1], masks.shape[2], masks.shape[3])).step
        for frame in nearest_frames(times, moments):
            membrane = membrane_of_mask(masks[frame], (float(step[0]), float(step[1]), float(step[2])))
            minute = (float(times[frame]) + 1.0) / 2.0 * source.minutes
            yield minute, CellShape([membrane.placed(np.full(3, -OMEGA[0]), 1.0)])

    def _shapes(self, source: ImportedSource, index: int, moments: int) -> Iterator[tuple[float, CellShape]]:
        dataset = load_dataset(source.folder)
        times = dataset.times(self.chosen[index])
        for frame in nearest_frames(times, moments):
            minute = (float(times[frame]) + 1.0) / 2.0 * dataset.minutes
            yield minute, load_shape(dataset.folder, self.chosen[index], frame)


def nearest_frames(times: NDArray[np.float32], moments: int) -> list[int]:
    """Return the frames nearest to ``moments`` times spread over τ, each once."""
    wanted = frame_times(min(moments, len(times)))
    return sorted({int(np.abs(times - t).argmin()) for t in wanted})


def sampled(shape: SignedDistance, grid: Grid, minute: float) -> Snapshot:
    """Return a frame of a cell whose exact distances are known."""
    field = evaluate_sparse(shape, grid, lipschitz=1.02)
    return Snapshot(minute, extract_surface(field, grid), inside(field))


@dataclass(frozen=True)
class GeneratedSequences:
    """New cells of a model, as one request for ``count`` of them makes them, without rotation."""

    folder: Path
    count: int
    seed: int = 0
    has_protrusions: bool = False

    @property
    def micrometres(self) -> float:
        """Length of one unit of Ω."""
        return _loaded(self.folder).card.micrometres

    def __len__(self) -> int:
        return self.count

    def name(self, index: int) -> str:
        """Model and index."""
        return f"{self.folder.name} {index}"

    def cell(self, index: int) -> LivingCell:
        """Draw a cell."""
        spec = GenerationSpec(model=self.folder.name, seed=self.seed, count=self.count)
        return living_cell.draw(spec, _loaded(self.folder), index)

    def snapshots(self, index: int, *, moments: int, grid: Grid) -> Iterator[Snapshot]:
        """Yield frames of a new cell."""
        yield from _snapshots(self.cell(index), frame_times(moments), grid, name=self.name(index))


@dataclass(frozen=True)
class LearnedSequences:
    """The cells that a model learned, as it reconstructs them; up to ``count``."""

    folder: Path
    count: int
    has_protrusions: bool = False

    @property
    def micrometres(self) -> float:
        """Length of one unit of Ω."""
        return _loaded(self.folder).card.micrometres

    def __len__(self) -> int:
        return min(self.count, len(_loaded(self.folder).latent_codes))

    def name(self, index: int) -> str:
        """Model and number of the code."""
        return f"{self.folder.name}, learned {index}"

    def snapshots(self, index: int, *, moments: int, grid: Grid) -> Iterator[Snapshot]:
        """Yield frames of a learned cell."""
        checkpoint = _loaded(self.folder)
        cell = LivingCell(checkpoint, checkpoint.latent_codes[index], UPRIGHT)
        yield from _snapshots(cell, frame_times(moments), grid, name=self.name(index))


@dataclass(frozen=True)
class CodedCell:
    """A cell of a result: its code, its variation, and the times of its frames in τ."""

    latent: tuple[float, ...]
    times: tuple[float, ...]
    rejected: int = 0
    variation: Variation = AS_IT_IS


@dataclass(frozen=True)
class CodedSequences:
    """Cells that a model made earlier, from their codes, in the model's own orientation.

    The frames that were made are measured, those nearest to evenly spread times.
    """

    folder: Path
    cells: tuple[CodedCell, ...]
    has_protrusions: bool = False

    @property
    def micrometres(self) -> float:
        """Length of one unit of Ω."""
        return _loaded(self.folder).card.micrometres

    def __len__(self) -> int:
        return len(self.cells)

    def name(self, index: int) -> str:
        """Number of the cell."""
        return f"cell {index}"

    def snapshots(self, index: int, *, moments: int, grid: Grid) -> Iterator[Snapshot]:
        """Yield frames of a cell."""
        coded = self.cells[index]
        cell = LivingCell(
            _loaded(self.folder), np.array(coded.latent, dtype=np.float32), UPRIGHT, coded.rejected, coded.variation
        )
        times = np.array(coded.times, dtype=np.float32)
        yield from _snapshots(cell, times[nearest_frames(times, moments)], grid, name=self.name(index))


def _snapshots(cell: LivingCell, times: NDArray[np.float32], grid: Grid, *, name: str) -> Iterator[Snapshot]:
    minutes = cell.checkpoint.card.minutes
    for time, labelled, surface in cell.frames(times, grid):
        if not len(surface.faces):
            raise SurfaceError(f"{name} has no membrane at t = {time:.3f}")
        yield Snapshot((time + 1.0) / 2.0 * minutes, surface, labelled.labels > 0, cell.rejected_codes)


def _loaded(folder: Path) -> Checkpoint:
    return _loaded_as(folder, load_card(folder).sha256)


@lru_cache(maxsize=4)
def _loaded_as(folder: Path, _sha256: str) -> Checkpoint:
    return load_checkpoint(folder)


def training_sequences(source: AnySource, count: int, *, has_protrusions: bool) -> Sequences:
    """Return up to ``count`` of the sequences that a model was trained on."""
    if isinstance(source, ImportedSource | MaskSource):
        real = RealSequences.of(source, has_protrusions=has_protrusions)
        return RealSequences(source, real.chosen[:count], has_protrusions)
    return PhantomSequences(source.cell_type, source.first_seed, min(count, source.sequences), has_protrusions)
