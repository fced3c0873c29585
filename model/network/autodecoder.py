r"""The auto-decoder f_θ(x, t, z): a sine network that gives the signed distance to a cell's membrane.

The trunk is a multi-layer perceptron on the point x alone. A small conditioning network maps the time t and the latent
code z to one scale and one shift for every sine unit of the trunk (Park et al. 2019
concatenate the code instead). Each pre-activation becomes

    (1 + scale(t, z)) · (W h + b) + shift(t, z)

so for a given time and code the whole conditioning folds into the trunk's own weights: :meth:`AutoDecoder.fold` returns
a plain sine network on three coordinates that costs nothing extra per point. With a ``rank`` the conditioning also
changes the matrices W themselves, by that rank, and the output layer (:mod:`model.network.low_rank`); it folds as well.

Promises: folding is exact up to float32 rounding; rotation folds into the first layer.
Does not promise: that the value is a true distance; the network was trained to it, and :class:`model.card.ModelCard`
says how fast it can change (``lipschitz``).

References: Wiesner et al. 2022, doi:10.1007/978-3-031-16440-8_6; Park et al. 2019 (DeepSDF),
doi:10.1109/CVPR.2019.00025; Sitzmann et al. 2020 (SIREN), arXiv:2006.09661.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, SerializerFunctionWrapHandler, model_serializer
from torch import Tensor, nn

from model.network.low_rank import LowRankConditioning
from model.network.sine_kernel import Kernel


class NetworkConfig(BaseModel):
    """Everything needed to rebuild the network around its weights."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    latent_size: int = Field(default=64, ge=1, le=1024)
    width: int = Field(default=128, ge=8, le=1024, description="Sine units of each trunk layer.")
    depth: int = Field(default=6, ge=2, le=16, description="Sine layers of the trunk.")
    frequency: float = Field(default=15.0, gt=0, description="ω₀ of the hidden trunk layers.")
    space_frequency: float = Field(default=8.0, gt=0, description="ω₀ of the first trunk layer: cycles in space.")
    time_frequency: float = Field(default=4.0, gt=0, description="ω₀ of the conditioning's first layer.")
    conditioning_width: int = Field(default=128, ge=8, le=1024)
    rank: int = Field(
        default=0,
        ge=0,
        le=256,
        description="Of the change that code and time make to each matrix; 0: only to its units.",
    )

    @model_serializer(mode="wrap")
    def _without_what_is_not_used(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out a rank of 0: files of networks without one stay as they were, to the byte."""
        members: dict[str, Any] = handler(self)
        if not self.rank:
            members.pop("rank", None)
        return members


DIFFERENCE = np.float32(2.0**-10)  # a power of two: points move by exactly so much, unless they are tiny


@dataclass(frozen=True)
class FoldedLayer:
    """One layer of a folded decoder: ``sin(h @ weight + x @ point_weight + bias)``, or linear for the last."""

    weight: Tensor  # (inputs, outputs) float32
    bias: Tensor  # (outputs,) float32
    point_weight: Tensor | None = None  # (3, outputs) float32; the point x itself, where a layer sees it again


class FoldedDecoder:
    """The decoder bound to a code, a time and a rotation: a signed distance function of points alone.

    A value depends neither on its neighbours nor on the number of threads: see :mod:`model.network.sine_kernel`.
    """

    def __init__(self, layers: list[FoldedLayer]) -> None:
        self.layers = layers

    def __call__(self, points: NDArray[np.float32], *, threads: int | None = None) -> NDArray[np.float32]:
        """Signed distances (n,) float32 of points (n, 3) float32 in Ω, negative inside; torch's threads when None."""
        return self._kernel(points, threads=torch.get_num_threads() if threads is None else threads)

    def slopes(self, points: NDArray[np.float32]) -> NDArray[np.float32]:
        """Length of the gradient at points (n, 3), (n,) float32: how fast the distance changes there.

        From differences over 1e-3 of Ω: right to about 1e-3 where the distance does not bend sharply.
        """
        moved = points + DIFFERENCE * np.eye(4, 3, k=0, dtype=np.float32)[:, None]  # (4, n, 3): x, y, z, unmoved
        values = self(moved.reshape(-1, 3)).reshape(4, -1).astype(np.float64)
        return np.asarray(np.linalg.norm(values[:3] - values[3], axis=0) / DIFFERENCE, dtype=np.float32)

    def scaled(self, size: float) -> FoldedDecoder:
        """Return the decoder with its distances multiplied by a factor: its last layer is linear."""
        last = self.layers[-1]
        return FoldedDecoder([*self.layers[:-1], replace(last, weight=last.weight * size, bias=last.bias * size)])

    @cached_property
    def _kernel(self) -> Kernel:
        return Kernel(
            [
                (
                    layer.weight.numpy(),
                    None if layer.point_weight is None else layer.point_weight.numpy(),
                    layer.bias.numpy(),
                )
                for layer in self.layers
            ]
        )


class AutoDecoder(nn.Module):
    """Signed distance of a point at a time of the cell named by a latent code.

    Parameters
    ----------
    config
        The network's shape.
    generator
        Source of the initial weights; torch's own when None (for weights that are about to be replaced).
    """

    architecture: ClassVar[str] = "cytosynth.network"

    def __init__(self, config: NetworkConfig, *, generator: torch.Generator | None = None) -> None:
        super().__init__()
        self.config = config
        width, depth, hidden = config.width, config.depth, config.conditioning_width
        inputs = [3] + [width] * (depth - 1)
        self.weights = nn.ParameterList([nn.Parameter(torch.empty(width, n)) for n in inputs])
        self.biases = nn.ParameterList([nn.Parameter(torch.empty(width)) for _ in inputs])
        self.out_weight = nn.Parameter(torch.empty(1, width))
        self.out_bias = nn.Parameter(torch.zeros(1))
        if config.rank:
            self.low_rank = LowRankConditioning(
                latent_size=config.latent_size, width=width, depth=depth, rank=config.rank, hidden=hidden
            )
        else:
            self.time_in = nn.Linear(1, hidden)
            self.latent_in = nn.Linear(config.latent_size, hidden, bias=False)
            self.mix = nn.Linear(hidden, hidden)
            self.latent_mix = nn.Linear(config.latent_size, hidden, bias=False)
            self.modulation = nn.Linear(hidden, 2 * depth * width)
        self._initialise(generator)
        self._double: tuple[tuple[int, ...], AutoDecoder] | None = None

    @torch.no_grad()
    def _initialise(self, generator: torch.Generator | None) -> None:
        """Start as SIREN prescribes, every layer by its own number of inputs; the method's release did not."""
        config = self.config

        def uniform(tensor: Tensor, bound: float) -> None:
            tensor.uniform_(-bound, bound, generator=generator)

        for layer, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            uniform(weight, 1.0 / 3.0 if layer == 0 else math.sqrt(6.0 / config.width) / config.frequency)
            uniform(bias, math.pi / self._frequency(layer))
        uniform(self.out_weight, 0.1 * math.sqrt(6.0 / config.width))
        if config.rank:
            self.low_rank.initialise(generator)
            return
        uniform(self.time_in.weight, 1.0)
        uniform(self.time_in.bias, math.pi / config.time_frequency)
        for linear in (self.latent_in, self.mix, self.latent_mix):
            uniform(linear.weight, 1.0 / math.sqrt(linear.in_features))
        uniform(self.mix.bias, 1.0 / math.sqrt(config.conditioning_width))
        uniform(self.modulation.weight, 0.3 / math.sqrt(config.conditioning_width))
        self.modulation.bias.zero_()

    def _frequency(self, layer: int) -> float:
        return self.config.space_frequency if layer == 0 else self.config.frequency

    def hidden_matrices(self) -> list[nn.Parameter]:
        """Weights (width, width) between sine layers of the trunk."""
        return list(self.weights)[1:]

    def modulate(self, times: Tensor, latents: Tensor) -> tuple[Tensor, Tensor]:
        """Scale and shift of every trunk unit, for a network without a rank.

        Parameters
        ----------
        times
            (b,) in τ.
        latents
            (b, c).

        Returns
        -------
        tuple of Tensor
            Two (b, depth, width): factors around 1, and shifts in radians.
        """
        config = self.config
        phase = config.time_frequency * self.time_in(times[:, None])
        hidden = torch.sin(phase + self.latent_in(latents))
        hidden = torch.sin(self.mix(hidden) + self.latent_mix(latents))
        both = self.modulation(hidden).view(-1, 2, config.depth, config.width)
        return 1.0 + both[:, 0], both[:, 1]

    def frame_weights(
        self, times: Tensor, latents: Tensor
    ) -> tuple[list[tuple[Tensor, Tensor]], tuple[Tensor, Tensor]]:
        """Fold frequency and conditioning into the network's weights for a batch of (time, code).

        Returns
        -------
        tuple
            For each sine layer a weight (b, inputs, width) and a bias (b, 1, width); and the output layer, a weight
            (b, width, 1) and a bias (b, 1, 1), where b is 1 if it is the same for all.
        """
        modulation = self.low_rank(times, latents) if self.config.rank else None
        scale, shift = (modulation.scale, modulation.shift) if modulation else self.modulate(times, latents)
        layers = []
        for layer, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            factor = self._frequency(layer) * scale[:, layer]  # (b, width)
            matrix = weight + self.low_rank.change(layer, modulation) if modulation else weight
            folded = (factor[:, :, None] * matrix).transpose(1, 2)
            layers.append((folded, (factor * bias + shift[:, layer])[:, None]))
        out_weight, out_bias = self.out_weight, self.out_bias[None]  # (1, width), (1, 1)
        if modulation:
            out_weight, out_bias = out_weight + modulation.out_weight, out_bias + modulation.out_bias
        return layers, (out_weight[:, :, None], out_bias[:, :, None])

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
            (b, n), units of Ω, negative inside.
        """
        layers, (out_weight, out_bias) = self.frame_weights(times, latents)
        hidden = points
        for layer, (weight, bias) in enumerate(layers):
            if layer == 0:  # coordinates lose too much in half precision; three columns cost nothing
                with torch.autocast(points.device.type, enabled=False):
                    pre = torch.baddbmm(bias.float(), hidden.float(), weight.float())
            else:
                pre = torch.baddbmm(bias, hidden, weight)
            hidden = torch.sin(pre)
        with torch.autocast(points.device.type, enabled=False):
            if self.config.rank:
                return (hidden.float() @ out_weight.float() + out_bias.float())[..., 0]
            return (hidden.float() @ self.out_weight.T + self.out_bias)[..., 0]

    def _in_double(self) -> AutoDecoder:
        """Return a copy in float64, made again when a weight has changed."""
        version = tuple(weight._version for weight in self.parameters())
        held = self._double
        if held is None or held[0] != version:  # two threads may both come here, and make the same
            copied = AutoDecoder(self.config)
            copied.load_state_dict(self.state_dict())
            held = self._double = (version, copied.double())
        return held[1]

    @torch.no_grad()
    def fold(self, latent: Tensor, time: float, rotation: Tensor | None = None) -> FoldedDecoder:
        """Fold code, time and rotation into a plain sine network on (x, y, z).

        Parameters
        ----------
        latent
            (c,) float32.
        time
            In τ.
        rotation
            (3, 3) rotation matrix R that turns the cell, or None; the result is f(Rᵀ x).

        Returns
        -------
        FoldedDecoder
            A signed distance function; its weights are float32, computed in float64.
        """
        double = self._in_double()
        layers, (out_weight, out_bias) = double.frame_weights(
            torch.tensor([time], dtype=torch.float64), latent.double()[None]
        )
        folded = []
        for layer, (weight, bias) in enumerate(layers):
            kernel = weight[0]  # (inputs, width)
            if layer == 0 and rotation is not None:
                kernel = rotation.double() @ kernel  # x @ (R W) is (Rᵀ x) @ W for row vectors x
            folded.append(FoldedLayer(kernel.float().contiguous(), bias[0, 0].float().contiguous()))
        folded.append(FoldedLayer(out_weight[0].float().contiguous(), out_bias[0, 0].float().contiguous()))
        return FoldedDecoder(folded)
