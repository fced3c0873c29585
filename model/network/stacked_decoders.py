"""The decoders of several frames of one cell, evaluated together on a torch device.

Promises: a value depends on its point and its frame only, not on the other points of a call.
Does not promise: the last bits of :mod:`model.network.sine_kernel`, which computes in another order.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from model.network.autodecoder import FoldedDecoder
from model.network.composition import HIGHEST, MIDDLE, RISE, SMOOTH, STEEPER, ComposedDecoder

_TILE = 2048  # points of one frame in one matrix product
_TILES = 32  # matrix products at once on an accelerator: enough to occupy it


class StackedDecoders:
    """Folded decoders of several frames, evaluated together.

    Points are sorted into tiles of one frame each; every product has the shape of a full tile, so that a value does not
    depend on the other points.

    Parameters
    ----------
    decoders
        One for each frame, of the same network.
    device
        Where to evaluate.
    tiles
        Tiles at once; by default as many as fill the device.
    """

    def __init__(self, decoders: Sequence[FoldedDecoder], device: torch.device, *, tiles: int | None = None) -> None:
        self._tiles = tiles or (1 if device.type == "cpu" else _TILES)
        self._frames = len(decoders)
        self._layers = []
        composed = [decoder for decoder in decoders if isinstance(decoder, ComposedDecoder)]
        self._composed = _Sectors(composed, device) if composed else None
        if composed:  # the frames of one cell: all or none
            decoders = [part for decoder in composed for part in decoder.parts]
        for layers in zip(*(decoder.layers for decoder in decoders), strict=True):
            weight = torch.stack([layer.weight for layer in layers]).to(device)
            bias = torch.stack([layer.bias for layer in layers])[:, None].to(device)
            again = [layer.point_weight for layer in layers if layer.point_weight is not None]
            self._layers.append((weight, bias, torch.stack(again).to(device) if again else None))

    def __call__(self, points: Tensor, frames: Tensor) -> Tensor:
        """Signed distances (n,) of points (n, 3) of frames (n,), which ascend."""
        if self._composed is None:
            return self._evaluated(points, frames, self._frames)
        lifts = self._composed.lifts(points, frames)  # (n, k)
        parts, width = lifts.shape[1], self._composed.width[frames]
        values = torch.full((len(points),), torch.inf, device=points.device)
        for part in range(parts):
            here = lifts[:, part].isfinite().nonzero()[:, 0]
            if len(here):
                found = self._evaluated(points[here], frames[here] * parts + part, self._frames * parts)
                first, second = values[here], found + lifts[here, part]
                overlap = (width[here] - (first - second).abs()).clamp(min=0.0)
                values[here] = torch.minimum(first, second) - overlap**3 / (6.0 * width[here] ** 2)
        return values

    def _evaluated(self, points: Tensor, frames: Tensor, total: int) -> Tensor:
        count = torch.bincount(frames, minlength=total)
        tiles = (count + _TILE - 1) // _TILE  # of each frame
        slot = torch.arange(len(points), device=points.device)
        slot += ((tiles.cumsum(0) - tiles) * _TILE - (count.cumsum(0) - count))[frames]
        of_tile = torch.arange(total, device=points.device).repeat_interleave(tiles)
        rest = -len(of_tile) % self._tiles
        of_tile = torch.cat([of_tile, of_tile.new_zeros(rest)])
        padded = points.new_zeros(len(of_tile) * _TILE, 3)
        padded[slot] = points
        values = torch.empty(len(padded), device=points.device)
        x, out = padded.view(-1, _TILE, 3), values.view(-1, _TILE)
        for start in range(0, len(of_tile), self._tiles):
            part = slice(start, start + self._tiles)
            out[part] = self._values(x[part], of_tile[part])
        return values[slot]

    def _values(self, x: Tensor, frames: Tensor) -> Tensor:
        hidden = x  # (tiles, points, 3)
        for number, (weight, bias, again) in enumerate(self._layers):
            hidden = torch.baddbmm(bias[frames], hidden, weight[frames])
            if again is not None:
                hidden.baddbmm_(x, again[frames])
            if number < len(self._layers) - 1:
                hidden.sin_()
        return hidden[..., 0]


class _Sectors:
    """The sectors of composed cells on a device, as :mod:`model.network.composition` has them."""

    def __init__(self, decoders: Sequence[ComposedDecoder], device: torch.device) -> None:
        self._directions = torch.from_numpy(np.stack([one.directions for one in decoders])).float().to(device)
        self._turns = torch.from_numpy(np.stack([one.turn for one in decoders])).float().to(device)
        self._sizes = torch.tensor([one.size for one in decoders], device=device)

    @property
    def width(self) -> Tensor:
        """Of the smooth unions, (frames,)."""
        return self._sizes * SMOOTH

    def lifts(self, points: Tensor, frames: Tensor) -> Tensor:
        """Return what is added to the distances of each part at points (n, 3) of frames (n,): (n, k)."""
        own = torch.bmm(points[:, None], self._turns[frames])[:, 0]  # (n, 3)
        radius = own.norm(dim=1, keepdim=True)
        cosines = torch.bmm(self._directions[frames], own[:, :, None])[..., 0] / (radius + MIDDLE)  # (n, k)
        past = cosines.amax(dim=1, keepdim=True) - cosines
        lifts = RISE * radius * past * (1.0 + STEEPER * past * past)
        return torch.where(lifts < HIGHEST, self._sizes[frames, None] * lifts, torch.inf)
