"""All frames of a cell at once on a torch device: distances, triangles and runs, level by level.

The ``certified`` method of :mod:`model.engine.sparse` without loops over samples. A lattice over Ω is halved until its
blocks are single grid cells; in each step one tensor holds the blocks of all frames. The number of steps depends on the
grid alone. Each sample gets a bound from the block's corners, by the Lipschitz bound of its frame. The sample is
evaluated only if the bound does not decide its sign, or if the membrane crosses a grid cell beside it.

Promises: with a true Lipschitz bound the signs are those of a dense evaluation by the same arithmetic, everywhere. A
frame does not depend on the other frames. If a distance contradicts the bound, or the surface has a gap, the bound is
doubled and the frames are evaluated again: surfaces are closed whatever the bound. Products are computed in float32,
never in TF32. Memory follows the surfaces of the frames held at once, and two bits a sample.
Does not promise: the last bits of :mod:`model.network.sine_kernel`. A sample within about 1e-6 of the membrane may get
the other label.

References: marching cubes after Lorensen, Cline 1987, doi:10.1145/37402.37422.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from model.domain import Grid
from model.engine.case_table import CORNERS
from model.engine.gpu_marching_cubes import Cells, Frame, distinct, frames_of
from model.errors import EmptySurfaceError, InvalidFieldError, SurfaceError

FrameDistances = Callable[[Tensor, Tensor], Tensor]
"""Maps points (n, 3) float32 in Ω and their frames (n,) int64, ascending, to signed distances (n,) float32."""

_COARSE = 7  # least number of blocks along the longest side of Ω at the first level
_ROUNDING = 1e-5  # units of Ω: allowance for float32 rounding in the signed distance function
_BYTES = 1500  # of working memory for each sample of the largest face, each frame held and unit of the Lipschitz bound
_HOST_BYTES = 2**30  # memory for all frames held at once, where the device is the processor
_NODES = np.array(list(np.ndindex(3, 3, 3)))  # (27, 3) corners, and the middles between them, of a block
_CORNER_NODES = [18 * a + 6 * b + 2 * c for a, b, c in CORNERS.tolist()]


def evaluate_frames(
    sdf: FrameDistances,
    grid: Grid,
    *,
    frames: int,
    lipschitz: float,
    device: torch.device,
    at_once: int | None = None,
) -> Iterator[Frame]:
    """Surfaces and bodies of all frames of a cell.

    Parameters
    ----------
    sdf
        Signed distances of points and frames, on ``device``, as
        :class:`model.network.stacked_decoders.StackedDecoders` gives them.
    grid
        Where to sample; any shape.
    frames
        How many there are.
    lipschitz
        A bound of the change of the distance per unit of Ω, for every frame.
    device
        Where to work; the processor will do.
    at_once
        Frames held at once; by default as many as half of the free memory takes. Changes nothing but the memory.

    Returns
    -------
    Iterator of Frame
        In order.

    Raises
    ------
    EmptySurfaceError
        If in a frame no two neighbouring samples differ in sign; the message names it.
    InvalidFieldError
        If a distance is NaN or infinite.
    SurfaceError
        If a surface encloses no volume.

    Notes
    -----
    One and a half to two and a half evaluations for each corner of a cell that the membrane crosses, by the bound.
    """
    if not 0.0 < lipschitz < np.inf:
        raise ValueError(f"a Lipschitz bound is positive and finite; {lipschitz} was given")
    at_once = at_once or gpu_frame_batch(grid, lipschitz=lipschitz, device=device)
    for first in range(0, frames, at_once):
        count = min(at_once, frames - first)
        with torch.inference_mode(), _plain_products():
            made = _chunk(sdf, grid, first=first, count=count, lipschitz=lipschitz, device=device)
        for frame in made:
            if len(frame.surface.faces) == 0:
                raise EmptySurfaceError(
                    f"frame {frame.number}: the membrane lies nowhere in Ω: the cell fills the whole domain or has "
                    "vanished"
                )
            if frame.surface.volume <= 0.0:
                raise SurfaceError(f"frame {frame.number}: the surface encloses no volume; try a finer grid")
            yield frame


def gpu_frame_batch(grid: Grid, *, lipschitz: float, device: torch.device) -> int:
    """Frames whose work, for a cell of usual size, fits in half of the device's free memory; at least one."""
    free = torch.cuda.mem_get_info(device)[0] // 2 if device.type == "cuda" else _HOST_BYTES
    face = grid.size // min(grid.shape)
    return max(1, int(free / (_BYTES * face * lipschitz + grid.size / 4)))


@contextmanager
def _plain_products() -> Iterator[None]:
    """Multiply matrices in float32: shorter formats move the surface by up to a fifth of a cell."""
    backends = (torch.backends.cuda.matmul, torch.backends.mkldnn.matmul)  # type: ignore[attr-defined]
    before = [backend.fp32_precision for backend in backends]
    for backend in backends:
        backend.fp32_precision = "ieee"
    try:
        yield
    finally:
        for backend, precision in zip(backends, before, strict=True):
            backend.fp32_precision = precision


def _chunk(
    sdf: FrameDistances, grid: Grid, *, first: int, count: int, lipschitz: float, device: torch.device
) -> list[Frame]:
    bounds = torch.full((count,), lipschitz, device=device)
    while True:
        run = GpuEvaluation(sdf, grid, bounds, first=first)
        cells = run.cells()
        if not run.refuted.any():
            break
        bounds = torch.where(run.refuted, 2.0 * bounds, bounds)
    return frames_of(cells, grid, origin=run.origin, evaluations=run.evaluations.tolist(), first=first)


@dataclass(frozen=True)
class _Nodes:
    """Samples of one level.

    Attributes
    ----------
    keys
        (u,) int64, ascending: frame and identifier of a sample in one number.
    values
        (u,) float32: distances, or lower bounds of their magnitudes, with sign.
    known
        (u,) bool: which of them are distances.
    """

    keys: Tensor
    values: Tensor
    known: Tensor


@dataclass(frozen=True)
class _Blocks:
    """Blocks that may meet the membrane: frame and first sample (4, m), and their corners (8, m) as rows of nodes."""

    place: Tensor
    corners: Tensor


class GpuEvaluation:
    """One evaluation of several frames."""

    def __init__(self, sdf: FrameDistances, grid: Grid, bounds: Tensor, *, first: int) -> None:
        device = bounds.device
        self.refuted = torch.zeros(len(bounds), dtype=torch.bool, device=device)
        self.evaluations = torch.zeros(len(bounds), dtype=torch.int64, device=device)
        self.origin = self.refuted
        self._sdf, self._grid, self._bounds, self._first = sdf, grid, bounds, first
        self._axes = [torch.from_numpy(axis).to(device) for axis in grid.axes()]
        self._size = len(bounds) * grid.size

    def cells(self) -> Cells:
        """Find the cells that the membrane crosses, with the distances at their corners."""
        nodes, blocks, side = self._begin()
        self.origin = nodes.values[:: len(nodes.keys) // len(self._bounds)] < 0.0
        while side > 1:
            side //= 2
            nodes, blocks = self._halve(nodes, blocks, side)
        order = self._key(blocks.place).argsort()
        place, corners = blocks.place[:, order], blocks.corners[:, order]
        nodes, corners = self._complete(nodes, corners)
        cells = Cells(len(self._bounds), place, corners, self._place(nodes.keys), nodes.values)
        self._refuse_gaps(cells)
        return cells

    def _begin(self) -> tuple[_Nodes, _Blocks, int]:
        """Evaluate the coarsest lattice; returns its samples, its blocks and their side."""
        shape, device, frames = self._grid.shape, self._bounds.device, len(self._bounds)
        side = max(1, 1 << int(np.log2(max(1.0, (max(shape) - 1) / _COARSE))))
        starts = [torch.arange(0, n - 1, side, device=device) for n in shape]
        along = [torch.cat([a, a.new_tensor([n - 1])]) for a, n in zip(starts, shape, strict=True)]
        every = torch.arange(frames, device=device)
        keys = self._key(torch.stack([a.reshape(-1) for a in torch.meshgrid(every, *along, indexing="ij")]))
        nodes = _Nodes(keys, self._distances(keys), torch.ones_like(keys, dtype=torch.bool))
        numbers = torch.arange(len(keys), device=device).view(frames, *(len(a) for a in along))
        low_high = (slice(None, -1), slice(1, None))
        corners = [numbers[:, low_high[a], low_high[b], low_high[c]].reshape(-1) for a, b, c in CORNERS.tolist()]
        place = torch.stack([a.reshape(-1) for a in torch.meshgrid(every, *starts, indexing="ij")])
        return nodes, self._kept(nodes, _Blocks(place, torch.stack(corners)), side), side

    def _halve(self, nodes: _Nodes, blocks: _Blocks, side: int) -> tuple[_Nodes, _Blocks]:
        """Split blocks into parts of a side; returns the samples at their corners, and the parts not skipped."""
        frame, *first = blocks.place
        ends = [n - 1 for n in self._grid.shape]
        at = [[(low + part * side).clamp(max=end) for part in range(3)] for low, end in zip(first, ends, strict=True)]
        places = (torch.stack([frame, at[0][a], at[1][b], at[2][c]]) for a, b, c in _NODES.tolist())
        keys, numbers = distinct(torch.stack([self._key(place) for place in places]), self._size)  # numbers (27, m)
        found = self._bounded(nodes, blocks, keys, numbers, side)
        parts = []
        for a, b, c in CORNERS.tolist():
            inner = [9 * a + 3 * b + c + n for n in (0, 1, 3, 4, 9, 10, 12, 13)]
            place = blocks.place + side * blocks.place.new_tensor([[0], [a], [b], [c]])
            real = torch.stack([place[1 + axis] < ends[axis] for axis in range(3)]).all(0).nonzero()[:, 0]
            part = _Blocks(place[:, real], numbers[inner][:, real])
            parts.append(self._kept(found, part, side))
        return found, _Blocks(torch.cat([p.place for p in parts], 1), torch.cat([p.corners for p in parts], 1))

    def _kept(self, nodes: _Nodes, blocks: _Blocks, side: int) -> _Blocks:
        """Keep the blocks that may meet the membrane: no point of one is farther from a corner than its centre."""
        values = nodes.values[blocks.corners]  # (8, m)
        inside = (values < 0.0).sum(0)
        kept = (inside > 0) & (inside < 8)
        if side > 1:
            kept |= values.abs().amin(0) <= self._reach(blocks.place[0], side)
        rows = kept.nonzero()[:, 0]
        return _Blocks(blocks.place[:, rows], blocks.corners[:, rows])

    def _bounded(self, nodes: _Nodes, blocks: _Blocks, keys: Tensor, numbers: Tensor, side: int) -> _Nodes:
        """Give every sample of blocks that are split its distance, or a bound of it that tells its sign."""
        away = np.linalg.norm((_NODES[:, None] - 2 * CORNERS[None]) * self._grid.step * side, axis=2)  # (27, 8)
        distance = torch.tensor(away, dtype=torch.float32, device=keys.device)
        slack = torch.where(distance > 0.0, _ROUNDING, 0.0)
        slope = self._bounds[blocks.place[0]]
        above, below = (torch.zeros(len(keys), device=keys.device) for _ in range(2))
        best_above, best_below = (torch.zeros(numbers.shape, device=keys.device) for _ in range(2))
        for corner in range(8):
            loss = slope * distance[:, corner, None] + slack[:, corner, None]  # (27, m)
            value = nodes.values[blocks.corners[corner]]
            torch.maximum(best_above, value - loss, out=best_above)
            torch.maximum(best_below, -value - loss, out=best_below)
        flat = numbers.reshape(-1)
        above.scatter_reduce_(0, flat, best_above.reshape(-1), "amax")
        below.scatter_reduce_(0, flat, best_below.reshape(-1), "amax")

        corners = numbers[_CORNER_NODES]
        known = torch.zeros_like(keys, dtype=torch.bool)
        known[corners] = nodes.known[blocks.corners]
        values = torch.empty_like(above)
        values[corners] = nodes.values[blocks.corners]
        values = torch.where(known, values, torch.where(above > below, above, -below))
        wrong = torch.where(
            known, (above > values.clamp(min=0.0)) | (below > (-values).clamp(min=0.0)), (above > 0.0) & (below > 0.0)
        )
        self._refute(keys[wrong])
        # a bound too weak to skip a part by would be inherited, and hold up blocks for nothing, down to the cells
        useful = self._reach(keys // self._grid.size, side) if side > 1 else 0.0
        self._ask(_Nodes(keys, values, known), ((values.abs() <= useful) & ~known).nonzero()[:, 0])
        return _Nodes(keys, values, known)

    def _complete(self, nodes: _Nodes, corners: Tensor) -> tuple[_Nodes, Tensor]:
        """Evaluate corners that are only bounded, and forget all other samples."""
        used = torch.zeros_like(nodes.known)
        used[corners] = True
        rank = used.cumsum(0) - 1
        rows = used.nonzero()[:, 0]
        nodes = _Nodes(nodes.keys[rows], nodes.values[rows], nodes.known[rows])
        self._ask(nodes, nodes.known.logical_not().nonzero()[:, 0])
        return nodes, rank[corners]

    def _ask(self, nodes: _Nodes, rows: Tensor) -> None:
        """Put distances in the place of bounds; one that contradicts its bound refutes those of its frame."""
        keys, bound = nodes.keys[rows], nodes.values[rows]
        found = self._distances(keys)
        self._refute(keys[((bound > 0.0) & (found < bound)) | ((bound < 0.0) & (found > bound))])
        nodes.values[rows] = found
        nodes.known[rows] = True

    def _reach(self, frames: Tensor, side: int) -> Tensor:
        """How much the distance can change between a corner and the centre of a block of a frame: (n,)."""
        return self._bounds[frames] * (0.5 * side * float(np.linalg.norm(self._grid.step))) + _ROUNDING

    def _refuse_gaps(self, cells: Cells) -> None:
        """Refute the bound of a frame where the membrane leaves a cell and enters none."""
        keys, cases = self._key(cells.place), cells.cases()
        strides = (self._grid.shape[1] * self._grid.shape[2], self._grid.shape[2], 1)
        for axis, high in enumerate((0xF0, 0xCC, 0xAA)):  # corners on the high side of each axis
            for face, stride, border in (
                (high, strides[axis], self._grid.shape[axis] - 2),
                (0xFF ^ high, -strides[axis], 0),
            ):
                bits = cases & face
                through = ((bits != 0) & (bits != face) & (cells.place[1 + axis] != border)).nonzero()[:, 0]
                wanted = keys[through] + stride
                at = torch.searchsorted(keys, wanted).clamp(max=len(keys) - 1)
                self._refute(wanted[keys[at] != wanted])

    def _refute(self, keys: Tensor) -> None:
        self.refuted[keys // self._grid.size] = True

    def _distances(self, keys: Tensor) -> Tensor:
        frame, i, j, k = self._place(keys)
        points = torch.stack([axis[index] for axis, index in zip(self._axes, (i, j, k), strict=True)], dim=1)
        values = self._sdf(points, frame + self._first)
        if not torch.isfinite(values).all():
            broken = int(frame[values.isfinite().logical_not()][0]) + self._first
            raise InvalidFieldError(
                f"frame {broken}: the signed distance function returned NaN or infinity; the checkpoint may be damaged"
            )
        self.evaluations += torch.bincount(frame, minlength=len(self._bounds))
        return values

    def _key(self, place: Tensor) -> Tensor:
        nx, ny, nz = self._grid.shape
        found: Tensor = ((place[0] * nx + place[1]) * ny + place[2]) * nz + place[3]
        return found

    def _place(self, keys: Tensor) -> Tensor:
        nx, ny, nz = self._grid.shape
        rest, k = keys // nz, keys % nz
        rest, j = rest // ny, rest % ny
        return torch.stack([rest // nx, rest % nx, j, k])
