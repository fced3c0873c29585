r"""What the method's released code does where ours does something else: initial weights, distances, points, new codes.

The baseline of the comparison, rebuilt from its published description; nothing of it is used by the product. Its
forward pass is :class:`model.network.wiesner2022.ReleasedDecoder`, which the importer of the authors' own weights uses
as well.

- Weights of a sine layer with n inputs start uniform within √(6/n)/30; those of the first within 1/n, where n counts
  the code too (196 instead of 4), so that coordinates enter with frequencies 49 times too low. Biases are torch's own.
- Distances are those from a voxel to the nearest voxel of the other side, so never below one voxel; each frame is
  divided by its own largest one.
- Of each frame 6 % of the voxels are kept: 70 % of these within 0.3 of the membrane, 30 % beyond.
- New codes come from N(0, 0.1²) for *C. elegans*; others are a learned code with noise N(0, 0.01²).

Promises: distances are those of the Euclidean distance transform of the voxelised mask, to float32.
Does not promise: the authors' batches, which need an accelerator with 80 GB; both arms take equal ones.

References: Wiesner et al. 2022, doi:10.1007/978-3-031-16440-8_6; Sitzmann et al. 2020 (SIREN), arXiv:2006.09661.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial import KDTree

from model.domain import Grid
from model.network.wiesner2022 import ReleasedConfig, ReleasedDecoder

Floats = NDArray[np.float32]
Mask = NDArray[np.bool_]

NETWORK = ReleasedConfig(
    latent_size=192,
    dims=[128, 128, 128, 320, 128, 128, 320, 128, 128, 128],
    latent_in=[4, 7],
    xyz_in_all=True,
)
CODE_SPREAD = math.sqrt(1.0 / 192.0)  # of the initial codes
PENALTY = 1e-4  # on the length of the codes, not squared
PENALTY_WARM_UP = 1000 / 15_000  # of the run: its longest warm-up over its nominal length, both in epochs
RATE, CODE_RATE = 1e-4, 1e-3
# Rates are halved every 350 of 15,000 epochs. 43 halvings would end the learning after a fifth of a run as short as
# ours, so there are as many as bring them to where our own schedule ends.
HALVINGS = 7

SHARE = 0.06  # of the voxels of a frame
NEAR, NEAR_SHARE = 0.3, 0.7
LOOKED_AT = 6  # voxels whose distance is found for each that is kept


def initial_decoder(config: ReleasedConfig, generator: torch.Generator) -> ReleasedDecoder:
    """Make the network with the weights that the release starts from."""
    decoder = ReleasedDecoder(config)
    with torch.no_grad():
        for layer, (weight, bias) in enumerate(zip(decoder.weights, decoder.biases, strict=True)):
            inputs = weight.shape[1]
            bound = 1.0 / inputs if layer == 0 else math.sqrt(6.0 / inputs) / config.frequency
            weight.uniform_(-bound, bound, generator=generator)
            bias.uniform_(-1.0 / math.sqrt(inputs), 1.0 / math.sqrt(inputs), generator=generator)
    return decoder


class VoxelDistance:
    """Signed distance of the voxels of a mask as a distance transform of both sides gives it, in units of Ω.

    Parameters
    ----------
    mask
        (nx, ny, nz), True inside, something on both sides.
    grid
        Where its voxels lie.
    """

    def __init__(self, mask: Mask, grid: Grid) -> None:
        self.mask, self.grid = mask, grid
        # The nearest voxel of the other side touches its own side: no transform of the whole grid is needed.
        cross = ndimage.generate_binary_structure(3, 1)
        inner = mask & ~ndimage.binary_erosion(mask, cross, border_value=1)
        outer = ~mask & ndimage.binary_dilation(mask, cross)
        self._to_inner, self._to_outer = (
            KDTree(grid.points(np.flatnonzero(border)).astype(np.float64)) for border in (inner, outer)
        )

    def __call__(self, ids: NDArray[np.int64]) -> Floats:
        """Signed distances (n,) float32 of voxels with flat identifiers (n,), negative inside."""
        points, within = self.grid.points(ids).astype(np.float64), self.mask.ravel()[ids]
        found = np.empty(len(ids), dtype=np.float32)
        found[within] = -self._to_outer.query(points[within])[0]
        found[~within] = self._to_inner.query(points[~within])[0]
        return found

    def largest(self) -> float:
        """Largest distance of the frame, sought on every fourth voxel and the last of each axis."""
        nx, ny, nz = (np.unique([*range(0, n, 4), n - 1]) for n in self.grid.shape)
        ids = np.ravel_multi_index(np.meshgrid(nx, ny, nz, indexing="ij"), self.grid.shape).ravel()
        return float(np.abs(self(ids)).max())


def sampled_frame(mask: Mask, rng: np.random.Generator, *, most: int) -> Floats:
    """Draw the training points of one frame as the release does.

    Parameters
    ----------
    mask
        (nx, ny, nz), True inside.
    rng
        Source of randomness.
    most
        Points that are kept of the 6 %: a run as short as ours meets no more.

    Returns
    -------
    Floats
        (n, 4) float32, x, y, z in Ω and the distance over the frame's largest, in random order.
    """
    grid = Grid((mask.shape[0], mask.shape[1], mask.shape[2]))
    distance = VoxelDistance(mask, grid)
    count = min(round(SHARE * grid.size), most)
    ids = rng.choice(grid.size, size=min(LOOKED_AT * count, grid.size), replace=False)
    values = distance(ids) / np.float32(distance.largest())
    near = np.abs(values) <= NEAR
    wanted = round(NEAR_SHARE * count)
    rows = np.concatenate([_some(np.flatnonzero(near), wanted, rng), _some(np.flatnonzero(~near), count - wanted, rng)])
    rng.shuffle(rows)
    return np.column_stack([grid.points(ids[rows]), values[rows]]).astype(np.float32)


def _some(rows: NDArray[np.int64], count: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Choose ``count`` of the rows; some come twice if there are too few."""
    return rng.choice(rows, size=count, replace=len(rows) < count) if len(rows) else rows


def new_code(codes: Floats, rng: np.random.Generator, *, around_learned: bool) -> Floats:
    """Draw a code (c,) float32 as published: around one of the learned codes (s, c), or from N(0, 0.1²)."""
    noise = rng.standard_normal(codes.shape[1])
    code = codes[rng.integers(len(codes))] + 0.01 * noise if around_learned else 0.1 * noise
    return np.asarray(code, dtype=np.float32)
