"""The interface of a trained network, whatever its architecture."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Protocol, Self

from torch import Tensor, nn

from model.network.autodecoder import FoldedDecoder


class DecoderConfig(Protocol):
    """The shape of a network, from which it is rebuilt around its weights."""

    @property
    def latent_size(self) -> int:
        """Numbers in a latent code."""
        ...

    def model_dump_json(self) -> str:
        """Return the configuration as JSON, as a checkpoint holds it."""
        ...


class Decoder(Protocol):
    """A network f_θ(x, t, z): a torch module with a configuration, which folds for one code and one time.

    Attributes
    ----------
    architecture
        Member of a checkpoint file's metadata that holds the configuration: tells which network the weights are of.
    """

    architecture: ClassVar[str]

    @property
    def config(self) -> DecoderConfig:
        """The network's shape."""
        ...

    def __call__(self, points: Tensor, times: Tensor, latents: Tensor) -> Tensor:
        """Signed distances (b, n) of points (b, n, 3) at times (b,) of codes (b, c)."""
        ...

    def fold(self, latent: Tensor, time: float, rotation: Tensor | None = None) -> FoldedDecoder:
        """Bind code (c,), time and rotation (3, 3): a signed distance function of points alone."""
        ...

    def hidden_matrices(self) -> list[nn.Parameter]:
        """Weights of one square shape that map activations to activations; none where points enter again.

        Muon optimises them, and they may multiply in bfloat16: coordinates do not pass through them.
        """
        ...

    def parameters(self, recurse: bool = True) -> Iterator[nn.Parameter]:
        """All weights, as a torch module gives them."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """All weights by name, as a torch module gives them."""
        ...

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> Any:
        """Take over weights by name."""
        ...

    def requires_grad_(self, requires_grad: bool = True) -> Self:
        """Switch gradients of all weights on or off."""
        ...

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget the gradients."""
        ...
