"""Conditioning that changes the trunk's matrices by a low rank, not only the scale and shift of its units.

For a time t and a code z every sine layer of the trunk gets, besides a scale and a shift of each unit, the matrix

    W + P · diag(m(t, z)) · Q

with P (width, rank) and Q (rank, inputs) learned once, and the output layer gets weights and a bias of its own. All of
it is constant over a frame, so a network so conditioned folds into a plain sine network as well. A network that learns
a thousand cells keeps more of the detail of cells it has not seen this way (docs/explanation/science.md).

Promises: parameters, names and values of a network without it (rank 0) are not touched.
Does not promise: initial weights that suit a trunk frequency far from 1.

References: Ha, Dai and Le 2017 (HyperNetworks), arXiv:1609.09106; Perez et al. 2018 (FiLM), arXiv:1709.07871.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

HARMONICS = 4  # of the time: sines and cosines of π/2, π, 3π/2, 2π times t
TIME_FEATURES = 1 + 2 * HARMONICS
HEAD_SHARE = 0.3  # of torch's own initial weights: a new network hardly depends on time and code
OUTPUT_SHARE = 0.3  # of the output weights' change, over the root of the width
OUTPUT_BIAS_SHARE = 0.1


@dataclass(frozen=True)
class Modulation:
    """What the conditioning gives for a batch of b times and codes."""

    scale: Tensor  # (b, depth, width), around 1
    shift: Tensor  # (b, depth, width), radians
    mixture: Tensor  # (b, depth, rank), the diagonals m
    out_weight: Tensor  # (b, width), to be added to the output layer's weights
    out_bias: Tensor  # (b, 1)


class LowRankConditioning(nn.Module):
    """Maps times and codes to scales, shifts, low-rank changes of matrices, and an output layer.

    Parameters
    ----------
    latent_size
        Numbers in a code.
    width, depth
        Of the trunk.
    rank
        Of the change of each matrix.
    hidden
        Units of each of the three hidden layers.
    """

    def __init__(self, *, latent_size: int, width: int, depth: int, rank: int, hidden: int) -> None:
        super().__init__()
        self.width, self.depth, self.rank = width, depth, rank
        inputs = [3] + [width] * (depth - 1)
        self.left = nn.ParameterList([nn.Parameter(torch.empty(width, rank)) for _ in inputs])
        self.right = nn.ParameterList([nn.Parameter(torch.empty(rank, n)) for n in inputs])
        features = latent_size + TIME_FEATURES
        self.first = nn.Linear(features, hidden)
        self.second = nn.Linear(hidden + features, hidden)
        self.third = nn.Linear(hidden, hidden)
        self.scale = nn.Linear(hidden, depth * width)
        self.shift = nn.Linear(hidden, depth * width)
        self.mixture = nn.Linear(hidden, depth * rank)
        self.output = nn.Linear(hidden, width + 1)

    @torch.no_grad()
    def initialise(self, generator: torch.Generator | None) -> None:
        """Draw the initial weights."""
        for left, right in zip(self.left, self.right, strict=True):
            left.normal_(0.0, 1.0 / math.sqrt(self.rank), generator=generator)
            right.normal_(0.0, 1.0 / math.sqrt(right.shape[1]), generator=generator)
        for linear in (self.first, self.second, self.third):
            bound = 1.0 / math.sqrt(linear.in_features)
            linear.weight.uniform_(-bound, bound, generator=generator)
            linear.bias.uniform_(-bound, bound, generator=generator)
        for head in (self.scale, self.shift, self.mixture, self.output):
            bound = HEAD_SHARE / math.sqrt(head.in_features)
            head.weight.uniform_(-bound, bound, generator=generator)
            head.bias.zero_()

    def forward(self, times: Tensor, latents: Tensor) -> Modulation:
        """Condition a batch.

        Parameters
        ----------
        times
            (b,) in τ.
        latents
            (b, c).
        """
        orders = torch.arange(1, HARMONICS + 1, dtype=times.dtype, device=times.device) * (math.pi / 2)
        phases = times[:, None] * orders
        given = torch.cat([latents, times[:, None], torch.sin(phases), torch.cos(phases)], dim=1)
        hidden = nn.functional.silu(self.first(given))
        hidden = nn.functional.silu(self.second(torch.cat([hidden, given], dim=1)))
        hidden = nn.functional.silu(self.third(hidden)) + hidden
        output = self.output(hidden)
        return Modulation(
            scale=1.0 + self.scale(hidden).view(-1, self.depth, self.width),
            shift=self.shift(hidden).view(-1, self.depth, self.width),
            mixture=self.mixture(hidden).view(-1, self.depth, self.rank),
            out_weight=output[:, :-1] * (OUTPUT_SHARE / math.sqrt(self.width)),
            out_bias=output[:, -1:] * OUTPUT_BIAS_SHARE,
        )

    def change(self, layer: int, modulation: Modulation) -> Tensor:
        """Return what is added to the matrix of a trunk layer, (b, width, inputs)."""
        return cast(Tensor, (self.left[layer] * modulation.mixture[:, layer, None]) @ self.right[layer])
