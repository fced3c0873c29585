"""Cells that a model has not seen: an evaluation gives the model a part of a cell and compares the whole.

Promises: shapes are in the units of the model's Ω, with exact distances. If only masks of a cell exist, they are the
ground truth, on their own grid.
Does not promise: that the model has not seen them; the caller chooses the source.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from model.domain import OMEGA, Grid, frame_times
from model.engine.runs import inside
from model.engine.sparse import evaluate_sparse
from model.learning.dataset import load_dataset
from model.learning.imported_cells import load_shape
from model.learning.sources import AnySource, ImportedSource, MaskSource, PhantomSource, mask_files, mask_frames
from model.membranes.mask_surface import membrane_of_mask
from model.membranes.triangle_distance import CellShape, Membrane
from model.phantoms import make_phantom

Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class UnseenCell:
    """One cell of a source.

    Attributes
    ----------
    source
        Phantoms, masks, or an imported data set.
    index
        Which of its cells.
    micrometres
        Length of one unit of Ω in the evaluated model: imported cells may have been given another.
    """

    source: AnySource
    index: int
    micrometres: float
    _shapes: dict[int, CellShape] = field(default_factory=dict, init=False, repr=False, compare=False)

    @property
    def name(self) -> str:
        """Seed, file or track."""
        source = self.source
        if isinstance(source, PhantomSource):
            return f"{source.cell_type} {source.first_seed + self.index}"
        if isinstance(source, MaskSource):
            return mask_files(source)[self.index].stem
        return load_dataset(source.folder).names[self.index]

    @cached_property
    def masks(self) -> Mask | None:
        """(T, nx, ny, nz) where the cell is known by masks only."""
        return mask_frames(mask_files(self.source)[self.index]) if isinstance(self.source, MaskSource) else None

    @cached_property
    def times(self) -> NDArray[np.float32]:
        """(T,) in τ."""
        if isinstance(self.source, ImportedSource):
            return load_dataset(self.source.folder).times(self.index)
        if isinstance(self.source, PhantomSource):
            return frame_times(self.source.frames)
        assert self.masks is not None
        return frame_times(len(self.masks))

    def grid(self, side: int) -> Grid:
        """Grid on which the cell can be compared: ``side`` samples along each axis of Ω, or the masks' own."""
        if self.masks is not None:
            return Grid((self.masks.shape[1], self.masks.shape[2], self.masks.shape[3]))
        return Grid((side, side, side))

    def shape(self, frame: int) -> CellShape:
        """Shape in one frame, in units of Ω; found once."""
        if frame not in self._shapes:
            self._shapes[frame] = self._found(frame)
        return self._shapes[frame]

    def _found(self, frame: int) -> CellShape:
        source = self.source
        if isinstance(source, PhantomSource):
            exact = make_phantom(source.cell_type, source.first_seed + self.index).frame(float(self.times[frame]))
            return CellShape([Membrane(exact.vertices.astype(np.float64), exact.faces.astype(np.int32))])
        if isinstance(source, ImportedSource):
            factor = self.micrometres / load_dataset(source.folder).micrometres
            parts = load_shape(source.folder, self.index, frame).parts
            return CellShape([part.placed(np.zeros(3), factor) for part in parts])
        assert self.masks is not None
        return shape_of_mask(self.masks[frame])

    def truth(self, frame: int, grid: Grid) -> Mask:
        """Return which samples of a grid are inside; a cell known by masks only has them on its own grid."""
        if self.masks is not None:
            if grid != self.grid(0):
                raise ValueError("a cell that is known by masks only has no ground truth on another grid")
            return np.asarray(self.masks[frame])
        return inside(evaluate_sparse(self.shape(frame), grid, lipschitz=1.01, exact="certified"))


def shape_of_mask(mask: Mask) -> CellShape:
    """Find the shape that a mask (nx, ny, nz) shows; its first and last samples lie on the border of Ω."""
    step = Grid((mask.shape[0], mask.shape[1], mask.shape[2])).step
    membrane = membrane_of_mask(mask, (float(step[0]), float(step[1]), float(step[2])))
    return CellShape([membrane.placed(np.full(3, -OMEGA[0]), 1.0)])


def unseen_cells(source: AnySource, count: int, *, micrometres: float) -> list[UnseenCell]:
    """Return up to ``count`` cells of a source, spread over it.

    Parameters
    ----------
    source
        Cells that the model was not trained on.
    count
        Of phantoms the first so many seeds, of real cells so many spread over all.
    micrometres
        Length of one unit of the model's Ω.
    """
    if isinstance(source, PhantomSource):
        return [UnseenCell(source, index, micrometres) for index in range(count)]
    total = len(mask_files(source)) if isinstance(source, MaskSource) else len(load_dataset(source.folder).names)
    chosen = np.unique(np.linspace(0, total - 1, min(count, total)).round().astype(int))
    return [UnseenCell(source, int(index), micrometres) for index in chosen]
