"""The ways from a decoder to labels and triangles that are compared: the method's own, dense, and ours.

Promises: the dense ways do what the method's own code does, with nothing taken away and nothing added: code, time and
coordinates are expanded for each point, chunks have 65,536 points, every thread of torch is used, no gradients; then
scikit-image's marching cubes and scipy's labels on the whole volume.
Does not promise: the same last bits; sums are ordered otherwise.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from skimage.measure import marching_cubes
from torch.nn.functional import linear

from benchmarks.engine.cells import Case
from model.domain import Field, Grid, Points
from model.engine.bricks import CELL, PARTS, SIDE, Bricks
from model.engine.marching_cubes import Surface, extract_surface
from model.engine.runs import Labels, Runs, bodies
from model.engine.sparse import Exact, SignedDistance, SparseField, evaluate_sparse
from model.network.autodecoder import AutoDecoder
from model.network.latent import rotation_matrix

CHUNK = 2**16
_TOUCHING = ndimage.generate_binary_structure(3, 2)  # 18 neighbours, as model.engine.runs has it


def timed(function: Callable[[], object]) -> float:
    """Return the seconds that a call takes."""
    begun = time.perf_counter()
    function()
    return time.perf_counter() - begun


def method_decoder(case: Case) -> SignedDistance:
    """Return the network as it was trained, with code and time expanded for every point of a chunk."""
    decoder, rotation, latent = _parts(case)

    @torch.no_grad()
    def distances(points: Points) -> NDArray[np.float32]:
        hidden = torch.from_numpy(points) @ rotation  # rows: f(Rᵀ x)
        moment = torch.full((len(points),), case.time)
        codes = latent.expand(len(points), -1).contiguous()
        given = decoder.low_rank(moment, codes) if decoder.config.rank else None
        scale, shift = (given.scale, given.shift) if given else decoder.modulate(moment, codes)  # (n, depth, width)
        for layer, (weight, bias) in enumerate(zip(decoder.weights, decoder.biases, strict=True)):
            frequency = decoder.config.space_frequency if layer == 0 else decoder.config.frequency
            sums = linear(hidden, weight, bias)
            if given:  # P diag(m) Q h, from the right: no matrix of a point is built
                mixed = given.mixture[:, layer] * linear(hidden, decoder.low_rank.right[layer])  # (n, rank)
                sums = sums + linear(mixed, decoder.low_rank.left[layer])
            hidden = torch.sin(frequency * scale[:, layer] * sums + shift[:, layer])
        found = linear(hidden, decoder.out_weight, decoder.out_bias)[:, 0]
        if given:
            found = found + (hidden * given.out_weight).sum(dim=1) + given.out_bias[:, 0]
        values: NDArray[np.float32] = found.numpy()
        return values

    return distances


def batched_decoder(case: Case) -> SignedDistance:
    """Return the network in torch with code and time entering once a chunk: dense, but not wasteful."""
    decoder, rotation, latent = _parts(case)

    @torch.no_grad()
    def distances(points: Points) -> NDArray[np.float32]:
        turned = torch.from_numpy(points) @ rotation
        found: NDArray[np.float32] = decoder(turned[None], torch.tensor([case.time]), latent[None])[0].numpy()
        return found

    return distances


def shipped_network(case: Case) -> AutoDecoder:
    """Return the network of a shipped model."""
    decoder = case.cell.checkpoint.decoder
    if not isinstance(decoder, AutoDecoder):
        raise TypeError("the dense path is written for the shipped network")
    return decoder


def _parts(case: Case) -> tuple[AutoDecoder, torch.Tensor, torch.Tensor]:
    decoder = shipped_network(case)
    rotation = torch.from_numpy(rotation_matrix(case.cell.rotation)).float()
    return decoder, rotation, torch.from_numpy(case.cell.latent)


def chunks(grid: Grid) -> int:
    """Count the chunks that the samples of a grid make."""
    return -(-grid.size // CHUNK)


def evaluate_chunks(sdf: SignedDistance, grid: Grid, numbers: NDArray[np.int64], field: Field) -> list[float]:
    """Evaluate chunks of a grid into ``field``, flat (n,); return the seconds each took."""
    return [timed(lambda number=number: _chunk(sdf, grid, int(number), field)) for number in numbers]  # type: ignore[misc]


def _chunk(sdf: SignedDistance, grid: Grid, number: int, field: Field) -> None:
    part = slice(number * CHUNK, min((number + 1) * CHUNK, grid.size))
    field[part] = sdf(grid.points(part))


def volume_stages(field: Field) -> dict[str, float]:
    """Seconds of marching cubes and of labels on a whole volume."""
    return {
        "mesh": timed(lambda: marching_cubes(field, 0.0)),
        "labels": timed(lambda: ndimage.label(field < 0.0, structure=_TOUCHING)),
    }


@dataclass(frozen=True)
class Ours:
    """What our way gives for one frame, and the seconds of its stages."""

    stages: dict[str, float]
    field: SparseField
    runs: Runs
    labels: Labels
    surface: Surface
    minimal: int  # samples that every exact way needs: the corners of crossed cells

    @property
    def seconds(self) -> float:
        """Everything that a frame takes, from folding to the painted label volume and the surface."""
        return sum(self.stages.values())


def ours(case: Case, grid: Grid, bricks: Bricks, *, exact: Exact = "adaptive") -> Ours:
    """Take one frame our way. What comes after the surface (counting the minimal set) is not timed."""
    clock = [time.perf_counter()]
    sdf = case.decoder()
    sdf(np.zeros((1, 3), dtype=np.float32))  # packs the kernel
    clock.append(time.perf_counter())
    field = evaluate_sparse(sdf, grid, lipschitz=case.lipschitz, exact=exact, bricks=bricks)
    clock.append(time.perf_counter())
    runs = bodies(field)
    clock.append(time.perf_counter())
    labels = runs.volume()
    clock.append(time.perf_counter())
    minimal = minimal_set(field)
    clock.append(time.perf_counter())
    surface = extract_surface(field, grid, inside=runs)
    clock.append(time.perf_counter())
    seconds = np.diff(clock).tolist()
    names = ("fold", "evaluate", "bodies", "paint", "", "mesh")
    stages = {name: second for name, second in zip(names, seconds, strict=True) if name}
    return Ours(stages, field, runs, labels, surface, minimal)


def minimal_set(field: SparseField) -> int:
    """Count the samples that are corners of cells that the surface crosses; before the surface is closed."""
    bricks = field.bricks
    places = np.argwhere(bricks.table >= 0)
    order = PARTS[0][:, None, None] | PARTS[1][None, :, None] | PARTS[2][None, None, :]  # (8, 8, 8) place in a brick
    crossed = bricks.state[bricks.table[tuple(places.T)]][:, order] & CELL  # (bricks, 8, 8, 8)
    found = np.argwhere(crossed)
    cells = places[found[:, 0]] * SIDE + found[:, 1:]  # (m, 3); an offset cancels in the count
    ny, nz = SIDE * bricks.table.shape[1], SIDE * bricks.table.shape[2]
    corners = (np.indices((2, 2, 2)).reshape(3, 8) * [[ny * nz], [nz], [1]]).sum(axis=0)
    first = (cells[:, 0] * ny + cells[:, 1]) * nz + cells[:, 2]
    return len(np.unique(first[:, None] + corners))


def differing_labels(dense: Field, found: Ours) -> int:
    """Count samples whose label, or whose side of the membrane, the dense volume says otherwise."""
    wrong = (bodies(dense).volume() != found.labels) | ((dense < 0.0) != (found.labels > 0))
    return int(wrong.sum())


def differing_triangles(one: Surface, other: Surface) -> int:
    """Count triangles that only one of two surfaces has, corners compared bit by bit, in their order."""
    first, second = (
        np.unique(np.ascontiguousarray(s.vertices[s.faces].reshape(-1, 9)).view(np.dtype((np.void, 36)))[:, 0])
        for s in (one, other)
    )
    return len(np.setxor1d(first, second, assume_unique=True)) + abs(len(one.faces) - len(other.faces))
