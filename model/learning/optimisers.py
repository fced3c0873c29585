"""Optimisers of a network together with latent codes, for training and fitting.

Adam optimises everything; or Muon the hidden matrices, and Adam the rest. Muon moves a matrix in all singular
directions at one rate, where Adam hardly moves those with small gradients; a sine network learns fine detail several
times faster by it (docs/explanation/science.md).

Hidden layers may multiply in bfloat16. Training is then about twice as fast on processors with units for it, and ten
times slower on others: :func:`multiplies_bfloat16` tells. For the same reason Muon is implemented here, in float32 and
for all matrices at once; torch's own orthogonalises in bfloat16.

Promises: every parameter group holds its full rate as ``highest``, for schedules that set ``lr`` as a share of it.
Does not promise: Muon for networks without hidden matrices; the same weights on processors with and without bfloat16.

References: Jordan et al. 2024, "Muon: an optimizer for hidden layers in neural networks", scaled as by Liu et al. 2025,
arXiv:2502.16982.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import cache
from typing import Any

import torch
from torch import Tensor

from model.network.decoder import Decoder

MOMENTUM = 0.95  # of Muon, as published
STEPS = 5  # iterations that orthogonalise a momentum, as published
COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # of the iteration's polynomial, as published: steep at 0, then near 1


@cache
def multiplies_bfloat16(device: str) -> bool:
    """Tell whether a device multiplies matrices in bfloat16 faster than in float32.

    Parameters
    ----------
    device
        As torch names it.
    """
    if torch.device(device).type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    units = torch.cpu.get_capabilities()
    return any(units.get(name, False) for name in ("avx512_bf16", "amx_bf16", "bf16", "sve_bf16"))


class Muon(torch.optim.Optimizer):
    """Steps along the orthogonalised momentum of matrices.

    Parameters
    ----------
    groups
        Groups with ``params``, matrices of one shape, and ``lr``; the root mean square of a step's entries is about a
        fifth of it, as with Adam.
    """

    def __init__(self, groups: Iterable[dict[str, Any]]) -> None:
        super().__init__(groups, {"lr": 1e-3})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Take one step."""
        if closure is not None:
            raise ValueError("Muon takes no closure")
        for group in self.param_groups:
            moved = [matrix for matrix in group["params"] if matrix.grad is not None]
            if not moved:
                continue
            ahead = []
            for matrix in moved:
                state = self.state[matrix]
                if not state:
                    state["momentum_buffer"] = torch.zeros_like(matrix)
                momentum = state["momentum_buffer"]
                momentum.lerp_(matrix.grad, 1.0 - MOMENTUM)
                ahead.append(matrix.grad.lerp(momentum, MOMENTUM))  # Nesterov's
            directions = orthogonalised(torch.stack(ahead))
            scale = 0.2 * max(moved[0].shape) ** 0.5
            for matrix, direction in zip(moved, directions, strict=True):
                matrix.add_(direction, alpha=-group["lr"] * scale)


def orthogonalised(matrices: Tensor) -> Tensor:
    """Bring the singular values of matrices (n, a, b) near 1, their singular vectors kept.

    Five steps of Newton and Schulz's iteration with a quintic polynomial: singular values above a hundredth of the
    matrix's norm end between 0.65 and 1.25, smaller ones on the way there.
    """
    tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.transpose(1, 2) if tall else matrices
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp(min=1e-7)
    a, b, c = COEFFICIENTS
    for _ in range(STEPS):
        gram = x @ x.transpose(1, 2)
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.transpose(1, 2) if tall else x


def optimisers(
    network: Decoder, codes: Tensor, *, rate: float, latent_rate: float, hidden_rate: float, fused: bool
) -> list[torch.optim.Optimizer]:
    """Make the optimisers of a network and its codes.

    Parameters
    ----------
    network
        Without hidden matrices it goes to Adam whole.
    codes
        (s, c), to be optimised together with it.
    rate, latent_rate
        Learning rates of Adam, for the network and for the codes.
    hidden_rate
        That of Muon for the matrices between sine layers; 0: Adam takes them too.
    fused
        One pass over memory for Adam: faster, and different in the last bits.
    """
    hidden = network.hidden_matrices() if hidden_rate else []
    apart = {id(matrix) for matrix in hidden}
    others = [parameter for parameter in network.parameters() if id(parameter) not in apart]
    made: list[torch.optim.Optimizer] = [
        torch.optim.Adam([_group(others, rate), _group([codes], latent_rate)], fused=fused)
    ]
    if hidden:
        made.append(Muon([_group(hidden, hidden_rate)]))
    return made


def _group(parameters: list[Any], rate: float) -> dict[str, Any]:
    return {"params": parameters, "lr": rate, "highest": rate}
