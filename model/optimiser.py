"""Optimisers of a network together with latent codes: what training and fitting share.

Adam takes everything, or Muon the square matrices of the trunk and Adam what is left. Muon moves a matrix in all its
directions at one rate, where Adam hardly moves those with small gradients; a sine trunk learns fine detail several
times faster by it (docs/science.md).

Promises: every group remembers its rate as ``highest``, for schedules that set ``lr`` as a share of it.
Does not promise: Muon for networks other than ours; theirs mix coordinates into hidden layers.

References: Jordan et al. 2024, "Muon: an optimizer for hidden layers in neural networks", scaled as by Liu et al. 2025,
arXiv:2502.16982.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from model.network import AutoDecoder


def optimisers(
    network: nn.Module, codes: Tensor, *, rate: float, latent_rate: float, hidden_rate: float, fused: bool
) -> list[torch.optim.Optimizer]:
    """Make the optimisers of a network and its codes.

    Parameters
    ----------
    network
        An :class:`~model.network.AutoDecoder`; any other network goes to Adam whole.
    codes
        (s, c), to be optimised together with it.
    rate, latent_rate
        Learning rates of Adam, for the network and for the codes.
    hidden_rate
        That of Muon for the matrices between sine layers; 0: Adam takes them too.
    fused
        One pass over memory for Adam: faster, and different in the last bits.
    """
    hidden = list(network.weights[1:]) if hidden_rate and isinstance(network, AutoDecoder) else []
    apart = {id(matrix) for matrix in hidden}
    others = [parameter for parameter in network.parameters() if id(parameter) not in apart]
    made: list[torch.optim.Optimizer] = [
        torch.optim.Adam([_group(others, rate), _group([codes], latent_rate)], fused=fused)
    ]
    if hidden:
        muon = torch.optim.Muon([_group(hidden, hidden_rate)], weight_decay=0.0, adjust_lr_fn="match_rms_adamw")
        made.append(muon)
    return made


def _group(parameters: list[Any], rate: float) -> dict[str, Any]:
    return {"params": parameters, "lr": rate, "highest": rate}
