"""The arms: which network, points, optimiser and prior each one has.

``released`` is the method's released code, ``ours`` what the recipes train by. The others change one thing, to tell
what is worth how much.

Promises: networks of all arms have equal numbers of weights to 2 %.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from benchmarks.arms import published
from benchmarks.arms.soap import Soap
from model.learning.optimisers import optimisers
from model.learning.recipe import Optimisation
from model.network.autodecoder import AutoDecoder, NetworkConfig
from model.network.decoder import Decoder

OUR_NETWORK = NetworkConfig(latent_size=64, conditioning_width=75)  # 215,387 weights; theirs has 216,137
ADAM_RATE = 2e-4  # of Adam and SOAP in the hidden matrices; more stalled (docs/explanation/science.md)
# Of the recipe by which the first a549 was trained.
OPTIMISATION = Optimisation(
    steps=72_000, frames_per_step=8, points_per_frame=512, learning_rate=5e-4, hidden_learning_rate=5e-4,
    latent_learning_rate=1e-3, warm_up=1000, clip=0.5, precision="bfloat16", full_precision_after=0.9, compiled=True,
)  # fmt: skip


@dataclass(frozen=True)
class Arm:
    """One way to train.

    Attributes
    ----------
    network
        ``released``: code, point and time enter sine layers together. ``ours``: the code scales and shifts a trunk on
        points alone.
    points
        ``released``: voxels with the distance transform of the mask, each frame over its maximum. ``ours``: exact
        distances of one scale, gathered at the membrane.
    optimiser
        ``released``: Adam at the published rates, halved in steps. The others: the recipe's rates with a cosine decay;
        Adam for all weights, or Muon or SOAP for the matrices between sine layers.
    """

    name: str
    title: str
    network: Literal["released", "ours"]
    points: Literal["released", "ours"]
    optimiser: Literal["released", "adam", "muon", "soap"]

    @property
    def in_half_precision(self) -> bool:
        """Whether hidden layers are multiplied in bfloat16: the released network mixes coordinates into them."""
        return self.network == "ours"


ARMS = {
    arm.name: arm
    for arm in (
        Arm("released", "the released method", "released", "released", "released"),
        Arm("ours", "ours", "ours", "ours", "muon"),
        Arm("ours-adam", "ours, Adam for every weight", "ours", "ours", "adam"),
        Arm("ours-soap", "ours, SOAP in Muon's place", "ours", "ours", "soap"),
        Arm("released-points", "released network and optimiser, our points", "released", "ours", "released"),
        Arm("our-network", "our network and optimiser, released points", "ours", "released", "muon"),
    )
}


def our_optimisation() -> Optimisation:
    """Rates, clipping and precision; how long to train is the clock's to say."""
    return OPTIMISATION


def make_network(arm: Arm, generator: torch.Generator) -> Decoder:
    """Make an arm's network with its initial weights."""
    if arm.network == "released":
        return published.initial_decoder(published.NETWORK, generator)
    return AutoDecoder(OUR_NETWORK, generator=generator)


def make_codes(arm: Arm, count: int, generator: torch.Generator) -> torch.nn.Parameter:
    """Make initial codes (count, c)."""
    released = arm.network == "released"
    size = published.NETWORK.latent_size if released else OUR_NETWORK.latent_size
    spread = published.CODE_SPREAD if released else our_optimisation().latent_spread
    return torch.nn.Parameter(torch.randn(count, size, generator=generator) * spread)


def make_optimisers(arm: Arm, decoder: Decoder, codes: torch.nn.Parameter) -> list[torch.optim.Optimizer]:
    """Make an arm's optimisers; each group remembers its ``highest`` rate."""
    released = arm.optimiser == "released"
    plan = our_optimisation()
    if arm.optimiser == "muon":
        return optimisers(
            decoder, codes, rate=plan.learning_rate, latent_rate=plan.latent_learning_rate,
            hidden_rate=plan.hidden_learning_rate, fused=True,
        )  # fmt: skip
    hidden = hidden_matrices(decoder) if arm.optimiser == "soap" else []
    apart = {id(matrix) for matrix in hidden}
    others = [parameter for parameter in decoder.parameters() if id(parameter) not in apart]
    of_codes = published.CODE_RATE if released else plan.latent_learning_rate
    of_others = published.RATE if released else plan.learning_rate if hidden else ADAM_RATE
    groups = [{"params": others, "highest": of_others}, {"params": [codes], "highest": of_codes}]
    made: list[torch.optim.Optimizer] = [torch.optim.Adam(groups, fused=True)]
    if arm.optimiser == "soap":
        made.append(Soap([{"params": hidden, "highest": ADAM_RATE}]))
    return made


def hidden_matrices(decoder: Decoder) -> list[Tensor]:
    """Weights between sine layers: all but the first, and in the released network all but the last too."""
    weights: Iterable[Tensor] = list(decoder.weights)[1:]
    return [weight for weight in weights if len(weight) > 1]


def schedule(arm: Arm, done: float) -> float:
    """Factor on an arm's learning rates after a share ``done``, in [0, 1], of its time."""
    if arm.optimiser == "released":
        return float(0.5 ** int(done * (published.HALVINGS + 1)))
    plan = our_optimisation()
    warm_up = plan.warm_up / plan.steps
    if done < warm_up:
        return done / warm_up
    fall = torch.pi * (done - warm_up) / (1.0 - warm_up)
    return plan.final + (1.0 - plan.final) * 0.5 * (1.0 + float(torch.cos(torch.tensor(fall))))


def penalty(arm: Arm, codes: Tensor, weight: Tensor) -> Tensor:
    """Pull of codes (b, c) toward the origin; ``weight`` is a tensor, so that a compiled loss is compiled once."""
    return weight * (codes.norm(dim=1) if arm.optimiser == "released" else codes.square().sum(dim=1)).mean()


def penalty_weight(arm: Arm, done: float) -> float:
    """Weight of the pull after a share ``done`` of the time."""
    if arm.optimiser == "released":
        return published.PENALTY * min(1.0, done / published.PENALTY_WARM_UP)
    return our_optimisation().latent_penalty
