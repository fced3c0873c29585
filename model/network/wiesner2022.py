r"""The network of the method's authors, for their trained weights.

Unlike :mod:`model.network.autodecoder`, code, point and time enter the sine layers together. The input (z, x, y, z, t)
enters the first layer. A layer of ``latent_in`` gets the previous activations and the whole input again; with
``xyz_in_all`` every other layer gets (x, y, z, t) again. Each layer computes sin(30 (W h + b)); the last is linear. For
one code, time and rotation, everything that does not depend on the point is constant and folds into the biases. What
remains are the columns of the activations and those of the point.

Promises: :meth:`ReleasedDecoder.fold` and :meth:`ReleasedDecoder.forward` give what the released forward pass gives, up
to float32 rounding, for any widths, ``latent_in`` and ``xyz_in_all``.
Does not promise: layer normalisation and a final tanh, which no folded sine network can express; both are refused.

References: Wiesner et al. 2022, doi:10.1007/978-3-031-16440-8_6; the layer layout is that of DeepSDF, Park et al. 2019,
doi:10.1109/CVPR.2019.00025.
"""

from __future__ import annotations

from typing import ClassVar, Literal, Self

import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor, nn

from model.network.autodecoder import FoldedDecoder, FoldedLayer

SPACE = 3  # coordinates x, y, z
SPACE_TIME = 4  # and t


class ReleasedConfig(BaseModel):
    """Everything needed to rebuild the released network around its weights."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    architecture: Literal["released"] = "released"
    latent_size: int = Field(ge=1, le=1024, description="CodeLength.")
    dims: list[int] = Field(min_length=1, max_length=32, description="Width of what enters each hidden layer's end.")
    latent_in: list[int] = Field(default=[], description="Layers, from 0, that get the whole input again.")
    xyz_in_all: bool = Field(default=False, description="Whether the other layers get (x, y, z, t) again.")
    frequency: float = Field(default=30.0, gt=0, description="ω₀ of every sine.")

    @model_validator(mode="after")
    def _widths_are_possible(self) -> Self:
        if any(layer < 1 or layer > len(self.dims) for layer in self.latent_in):
            raise ValueError(f"latent_in names layers 1 to {len(self.dims)}, not {self.latent_in}")
        if any(width < 1 or width > 4096 for width in self.dims) or any(n < 1 for _, n in self.shapes):
            raise ValueError(f"dims {self.dims} leave no room for what is put in again")
        return self

    @property
    def shapes(self) -> list[tuple[int, int]]:
        """Inputs and outputs of each linear layer, the last included."""
        whole = self.latent_size + SPACE_TIME
        widths = [whole, *self.dims, 1]
        last = len(widths) - 2
        found = []
        for layer in range(last + 1):
            outputs = widths[layer + 1]
            if layer + 1 in self.latent_in:
                outputs -= whole
            elif self.xyz_in_all and layer != last:
                outputs -= SPACE_TIME
            found.append((widths[layer], outputs))
        return found


class ReleasedDecoder(nn.Module):
    """Signed distance of a point at a time of the cell named by a latent code, as the authors' network gives it.

    Parameters
    ----------
    config
        The network's shape.
    """

    architecture: ClassVar[str] = "cytosynth.released"

    def __init__(self, config: ReleasedConfig) -> None:
        super().__init__()
        self.config = config
        shapes = config.shapes
        self.weights = nn.ParameterList([nn.Parameter(torch.zeros(n_out, n_in)) for n_in, n_out in shapes])
        self.biases = nn.ParameterList([nn.Parameter(torch.zeros(n_out)) for _, n_out in shapes])

    def hidden_matrices(self) -> list[nn.Parameter]:
        """No weights: the point may enter any hidden layer again."""
        return []

    def forward(self, points: Tensor, times: Tensor, latents: Tensor) -> Tensor:
        """Signed distances for a batch of frames.

        Parameters
        ----------
        points
            (b, n, 3) in Ω.
        times
            (b,) in τ, one for each frame.
        latents
            (b, c).

        Returns
        -------
        Tensor
            (b, n), negative inside.
        """
        batch, count, _ = points.shape
        moment = times[:, None, None].expand(batch, count, 1)
        whole = torch.cat([latents[:, None].expand(batch, count, -1), points, moment], dim=2)  # (b, n, c + 4)
        hidden = whole
        for layer, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            if layer in self.config.latent_in:
                hidden = torch.cat([hidden, whole], dim=2)
            elif layer and self.config.xyz_in_all:
                hidden = torch.cat([hidden, whole[..., -SPACE_TIME:]], dim=2)
            hidden = hidden @ weight.T + bias
            if layer < len(self.weights) - 1:
                hidden = torch.sin(self.config.frequency * hidden)
        return hidden[..., 0]

    @torch.no_grad()
    def fold(self, latent: Tensor, time: float, rotation: Tensor | None = None) -> FoldedDecoder:
        """Fold code, time and rotation into a sine network on (x, y, z).

        Parameters
        ----------
        latent
            (c,) float32.
        time
            In τ.
        rotation
            (3, 3) rotation matrix R that turns the cell, or None; the result is f(Rᵀ x), for row vectors f(x R), as the
            release turns its coordinates.

        Returns
        -------
        FoldedDecoder
            A signed distance function; its weights are float32, computed in float64.
        """
        known = torch.cat(
            [latent.double(), torch.tensor([time], dtype=torch.float64)]
        )  # what does not change: (c + 1,)
        turn = torch.eye(SPACE, dtype=torch.float64) if rotation is None else rotation.double()
        folded = []
        for layer, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            factor = self.config.frequency if layer < len(self.weights) - 1 else 1.0
            kernel, constant = factor * weight.double().T, factor * bias.double()  # (inputs, outputs)
            again = 0  # rows at the end that belong to the input
            if layer == 0 or layer in self.config.latent_in:
                again = len(latent) + SPACE_TIME
            elif self.config.xyz_in_all:
                again = SPACE_TIME
            of_hidden, of_input = kernel[: len(kernel) - again], kernel[len(kernel) - again :]
            of_points = None
            if again:
                constant = constant + known[-(again - SPACE) :] @ torch.cat([of_input[:-SPACE_TIME], of_input[-1:]])
                of_points = turn @ of_input[-SPACE_TIME:-1]  # (3, outputs)
            if layer == 0 and of_points is not None:
                of_hidden, of_points = of_points, None
            folded.append(
                FoldedLayer(
                    of_hidden.float().contiguous(),
                    constant.float().contiguous(),
                    None if of_points is None else of_points.float().contiguous(),
                )
            )
        return FoldedDecoder(folded)
