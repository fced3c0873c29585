"""Triangles and runs of many frames at once, in torch, on the device that holds the distances.

The counterpart of :mod:`model.engine.marching_cubes` and :mod:`model.engine.runs` for the grid cells that
:mod:`model.engine.gpu_sparse` has found. Vertices are numbered by cumulative sums of marks; only the ends of the runs
are sorted.

Promises: from the same distances, the same surface as :func:`model.engine.marching_cubes.extract_surface`, with
bit-identical vertices and the same triangles in another order (grid cells ascending along x, y, z); the same runs as
:func:`model.engine.runs.bodies`.
Does not promise: anything for grid cells of which a neighbour is missing.
"""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from model.domain import OMEGA, Grid
from model.engine.case_table import CORNERS, EDGES, triangle_table
from model.engine.marching_cubes import CAP, FARTHEST, NEAREST, Surface
from model.engine.runs import Runs, connected

_TABLE = triangle_table()
_PAGE = 6  # bits of a number that lie in one page
_THREADS = 8  # of the host, for what is done there frame by frame


@dataclass(frozen=True)
class Cells:
    """Grid cells that the membrane crosses, of several frames.

    Attributes
    ----------
    frames
        How many.
    place
        (4, m) int64, in C order: frame, and the indices of a cell's first sample along x, y and z.
    corners
        (8, m) int64: rows of ``nodes``.
    nodes
        (4, u) int64: frame and indices of the samples at the corners; a sample around Ω has an index −1 or n.
    values
        (u,) float32: signed distances of the nodes.
    """

    frames: int
    place: Tensor
    corners: Tensor
    nodes: Tensor
    values: Tensor

    def cases(self) -> Tensor:
        """Which corners are inside, as bits: (m,) int64."""
        inside = self.values < 0.0
        return sum((inside[self.corners[n]].long() << n for n in range(8)), torch.zeros_like(self.place[0]))

    def crossed_edges(self) -> tuple[Tensor, Tensor, Tensor]:
        """Edges of the grid whose ends differ in sign.

        Returns
        -------
        tuple of Tensor
            (e,) edges, ascending: three times the node where one begins, plus its axis; the nodes (e,) where they end;
            and the number of every possible edge (3 u,) among them.
        """
        inside = self.values < 0.0
        crossed = torch.zeros(3 * len(self.values), dtype=torch.bool, device=self.values.device)
        end = torch.zeros(len(crossed), dtype=torch.int64, device=self.values.device)
        for low, axis in EDGES.tolist():
            first, last = self.corners[low], self.corners[low | 4 >> axis]
            crossed[3 * first + axis] = inside[first] != inside[last]  # the same from whichever cell it is seen
            end[3 * first + axis] = last
        edges = crossed.nonzero()[:, 0]
        return edges, end[edges], crossed.cumsum(0) - 1


@dataclass(frozen=True)
class Frame:
    """One frame, on the host.

    Attributes
    ----------
    number
        Of the frame, from 0.
    runs
        The inside samples; label 1 is the largest body.
    surface
        Around all bodies; closed where it leaves Ω.
    evaluations
        Points at which the signed distance was evaluated.
    least
        Samples at the corners of cells that the membrane crosses: no method gets by with fewer evaluations.
    """

    number: int
    runs: Runs
    surface: Surface
    evaluations: int
    least: int
    _inside: NDArray[np.int32]  # (v,) the inside sample beside each vertex

    def largest(self, bodies: int) -> Surface:
        """Surface around the largest bodies alone: what is left when the samples of the others are outside."""
        row = np.repeat(np.arange(len(self.runs.rows) - 1), np.diff(self.runs.rows))
        begins = row * self.runs.shape[2] + self.runs.first
        run = np.searchsorted(begins, self._inside, side="right") - 1
        kept = self.runs.labels[run] <= bodies
        number = np.cumsum(kept, dtype=np.int32) - 1
        faces = self.surface.faces
        return Surface(self.surface.vertices[kept], number[faces[kept[faces[:, 0]]]].astype(np.int32))


def distinct(keys: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Distinct keys, ascending, and the number of each key among them: ``torch.unique`` without a sort.

    Parameters
    ----------
    keys
        Any shape, int64, each 0 ≤ key < ``size``.
    size
        One bit and a half of memory are taken for each number below it.
    """
    page = keys >> _PAGE
    used = torch.zeros((size >> _PAGE) + 1, dtype=torch.int32, device=keys.device)
    used[page.reshape(-1)] = 1
    pages = used.nonzero()[:, 0]
    used = used.cumsum(0, dtype=torch.int32).sub_(1)
    places = (used[page].long() << _PAGE) + (keys & (1 << _PAGE) - 1)
    marks = torch.zeros(len(pages) << _PAGE, dtype=torch.int32, device=keys.device)
    marks[places.reshape(-1)] = 1
    found = marks.nonzero()[:, 0]
    ranks = marks.cumsum(0, dtype=torch.int32).sub_(1)
    return (pages[found >> _PAGE] << _PAGE) + (found & (1 << _PAGE) - 1), ranks[places].long()


def frames_of(cells: Cells, grid: Grid, *, origin: Tensor, evaluations: list[int], first: int) -> list[Frame]:
    """Make surfaces and runs of frames and bring them to the host.

    Parameters
    ----------
    cells
        All cells that the membrane crosses.
    grid
        Where they lie.
    origin
        (frames,) bool: is the sample 0, 0, 0 inside?
    evaluations
        Of each frame.
    first
        Number of the first frame.

    Returns
    -------
    list of Frame
        A frame without cells comes without triangles.
    """
    crossed = torch.bincount(cells.place[0], minlength=cells.frames) > 0
    least = torch.bincount(cells.nodes[0], minlength=cells.frames).tolist()
    starts, ends, walls = _fill(cells, grid, origin & crossed)
    surfaces = _march(_closed(cells, grid, walls), grid)

    def finish(number: int) -> Frame:
        vertices, faces, inside = surfaces[number]
        surface = Surface(vertices, faces)
        _ = surface.volume  # computed here, beside those of other frames, and kept
        runs = _bodies(grid, starts[number], ends[number])
        return Frame(first + number, runs, surface, evaluations[number], least[number], inside)

    with ThreadPoolExecutor(min(cells.frames, _THREADS), thread_name_prefix="frames") as pool:
        return list(pool.map(finish, range(cells.frames)))


_Places = list[NDArray[np.int64]]  # of each frame
_Walls = tuple[Tensor, ...]  # low and high end of x, y and z: which samples there are inside, (frames, …) bool


def _fill(cells: Cells, grid: Grid, origin: Tensor) -> tuple[_Places, _Places, _Walls]:
    """Go from sample to sample and change sides at each crossed edge.

    Returns where the runs of each frame start and stop, as row · (nz + 1) + k, and the border's samples.
    """
    frames, (nx, ny, nz) = cells.frames, grid.shape
    edges, _, _ = cells.crossed_edges()
    axis = edges % 3
    frame, i, j, k = cells.nodes[:, edges // 3]

    def toggled(start: Tensor, shape: tuple[int, ...], *at: Tensor) -> Tensor:
        """Sides along the last axis, from the one before its first sample and the places where they change."""
        turns = torch.zeros(shape, dtype=torch.int32, device=origin.device)
        turns[at] = 1
        return (turns.cumsum(-1, dtype=torch.int32) % 2 == 1) ^ start[..., None]

    along = (axis == 0) & (j == 0) & (k == 0)
    corner = toggled(origin, (frames, nx), frame[along], i[along] + 1)
    along = (axis == 1) & (k == 0)
    low_z = toggled(corner, (frames, nx, ny), frame[along], i[along], j[along] + 1)
    along = axis == 2
    frame, i, j, k = frame[along], i[along], j[along], k[along]
    row = (frame * nx + i) * ny + j
    high_z = (torch.bincount(row, minlength=low_z.numel()) % 2 == 1).view_as(low_z) ^ low_z
    sides = []
    for place, wall, other, count in ((i, 0, j, ny), (i, nx - 1, j, ny), (j, 0, i, nx), (j, ny - 1, i, nx)):
        at = place == wall
        start = low_z[:, wall] if place is i else low_z[:, :, wall]
        sides.append(toggled(start, (frames, count, nz), frame[at], other[at], k[at] + 1))
    turns = [row * (nz + 1) + k + 1]
    turns += [side.reshape(-1).nonzero()[:, 0] * (nz + 1) + end for side, end in ((low_z, 0), (high_z, nz))]
    events = torch.cat(turns).sort().values.view(-1, 2)  # (runs, 2): in a row they alternate
    per_frame = torch.bincount(events[:, 0] // (nx * ny * (nz + 1)), minlength=frames).tolist()
    offset = torch.arange(frames, device=origin.device).repeat_interleave(torch.tensor(per_frame).to(origin.device))
    events = (events - (offset * (nx * ny * (nz + 1)))[:, None]).cpu()
    starts, ends = ([part.numpy() for part in torch.split(events[:, end], per_frame)] for end in range(2))
    return starts, ends, (*sides, low_z, high_z)


def _bodies(grid: Grid, starts: NDArray[np.int64], ends: NDArray[np.int64]) -> Runs:
    """Find the connected bodies, the largest first, as :func:`model.engine.runs.bodies` does."""
    nx, ny, nz = grid.shape
    rows = np.zeros(nx * ny + 1, dtype=np.int64)
    np.cumsum(np.bincount(starts // (nz + 1), minlength=nx * ny), out=rows[1:])
    first, stop = (starts % (nz + 1)).astype(np.int32), (ends % (nz + 1)).astype(np.int32)
    return connected(Runs(grid.shape, rows, first, stop, np.ones(len(first), dtype=np.int32)))


def _closed(cells: Cells, grid: Grid, walls: _Walls) -> Cells:
    """Add the cells between the inside samples on the border of Ω and the samples around it."""
    device = cells.values.device
    samples = []
    for number, wall in enumerate(walls):
        axis, end = number // 2, number % 2 * (grid.shape[number // 2] - 1)
        frame, *others = wall.nonzero().T
        others.insert(axis, torch.full_like(frame, end))
        samples.append(torch.stack([frame, *others]))
    border = torch.cat(samples, dim=1)  # (4, b)
    if border.shape[1] == 0:
        return cells
    size = cells.frames * math.prod(n + 2 for n in grid.shape)
    corner = torch.tensor(np.pad(CORNERS, ((0, 0), (1, 0))), device=device).T  # (4, 8)
    beside = (border[:, None] - corner[:, :, None]).reshape(4, -1)  # cells that have the sample for a corner
    ends = torch.tensor(grid.shape, device=device)[:, None] - 1
    beside = beside[:, ((beside[1:] < 0) | (beside[1:] == ends)).any(0)]
    added, _ = distinct(_key(beside, grid), size)
    place = _place(torch.cat([_key(cells.place, grid), added]).sort().values, grid)
    numbers, corners = distinct(_key(place[:, None] + corner[:, :, None], grid), size)
    nodes = _place(numbers, grid)
    within = ((nodes[1:] >= 0) & (nodes[1:] <= ends)).all(0)
    # a corner in Ω that is not known lies inside, like its neighbour: else the cell beside them were crossed
    values = torch.where(within, -1.0, 1.0).float()
    values[torch.searchsorted(numbers, _key(cells.nodes, grid))] = cells.values
    return Cells(cells.frames, place, corners, nodes, values)


def _key(place: Tensor, grid: Grid) -> Tensor:
    """One number for a frame and indices from −1 to n."""
    nx, ny, nz = grid.shape
    found: Tensor = ((place[0] * (nx + 2) + place[1] + 1) * (ny + 2) + place[2] + 1) * (nz + 2) + place[3] + 1
    return found


def _place(keys: Tensor, grid: Grid) -> Tensor:
    nx, ny, nz = grid.shape
    rest, k = keys // (nz + 2), keys % (nz + 2)
    rest, j = rest // (ny + 2), rest % (ny + 2)
    return torch.stack([rest // (nx + 2), rest % (nx + 2) - 1, j - 1, k - 1])


def _march(cells: Cells, grid: Grid) -> list[tuple[NDArray[np.float32], NDArray[np.int32], NDArray[np.int32]]]:
    """Vertices (v, 3), faces (f, 3) and the inside sample beside each vertex (v,), of each frame."""
    device, step = cells.values.device, grid.step
    edges, end, number = cells.crossed_edges()
    begin, axis = edges // 3, edges % 3
    frame = cells.nodes[0, begin]
    at = cells.nodes[1:, begin].double()  # (3, e)
    nearest, farthest = NEAREST * float(step.min()), FARTHEST * float(step.min())
    here = cells.values[begin].abs().double().clamp(nearest, farthest)
    there = cells.values[end].abs().double().clamp(nearest, farthest)
    own = at.gather(0, axis[None])[0]
    last = torch.tensor(grid.shape, device=device)[axis] - 1
    moved = torch.where(own == last, own + CAP, own + here / (here + there))
    at.scatter_(0, axis[None], torch.where(own < 0, -CAP, moved)[None])
    vertices = (at * torch.tensor(step, device=device)[:, None] + OMEGA[0]).float().T.contiguous().cpu().numpy()
    _, i, j, k = cells.nodes[:, torch.where(cells.values[begin] < 0.0, begin, end)]
    inside = ((i * grid.shape[1] + j) * grid.shape[2] + k).int().cpu().numpy()

    rows = torch.tensor(_TABLE, device=device)[cells.cases()].view(-1, 5, 3).long()
    cell, place = (rows[:, :, 0] >= 0).nonzero().T
    low, along = torch.tensor(EDGES, device=device)[rows[cell, place]].unbind(-1)  # (f, 3) each
    faces = number[3 * cells.corners[low, cell[:, None]] + along]
    count = torch.bincount(frame, minlength=cells.frames)
    of_face = cells.place[0, cell]
    of_face = cells.place[0, cell]
    drawn = (faces - (count.cumsum(0) - count)[of_face][:, None]).int().cpu().numpy()
    cuts = torch.stack([count, torch.bincount(of_face, minlength=cells.frames)]).cumsum(1)[:, :-1].tolist()
    parts = (np.split(vertices, cuts[0]), np.split(drawn, cuts[1]), np.split(inside, cuts[0]))
    return list(zip(*parts, strict=True))
