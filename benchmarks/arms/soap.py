"""SOAP: Adam in the eigenbasis of Shampoo's preconditioner, for the matrices between sine layers.

Promises: deterministic on one machine and number of threads.

References: Vyas et al. 2024, "SOAP: improving and stabilizing Shampoo using Adam", arXiv:2409.11321.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, overload

import torch
from torch import Tensor

EVERY = 20  # steps between two turns of the basis: a decomposition costs as much as several steps
TINY = 1e-8


class Soap(torch.optim.Optimizer):
    """Optimiser of matrices (m, n).

    Parameters
    ----------
    groups
        With their parameters and other members.
    lr
        Learning rate, as Adam's.
    betas
        Of the mean gradient, and of its squares and products.
    """

    def __init__(
        self, groups: Iterable[dict[str, Any]], *, lr: float = 1e-3, betas: tuple[float, float] = (0.95, 0.95)
    ) -> None:
        super().__init__(groups, {"lr": lr, "betas": betas})

    @overload
    def step(self, closure: None = None) -> None: ...
    @overload
    def step(self, closure: Callable[[], float]) -> float: ...
    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """Move every matrix that has a gradient."""
        for group in self.param_groups:
            for matrix in group["params"]:
                if matrix.grad is not None:
                    self._move(matrix, matrix.grad, group["lr"], group["betas"])
        return None if closure is None else closure()

    def _move(self, matrix: Tensor, gradient: Tensor, rate: float, betas: tuple[float, float]) -> None:
        state = self.state[matrix]
        if not state:
            rows, columns = matrix.shape
            state.update(
                step=0, mean=torch.zeros_like(matrix), square=torch.zeros_like(matrix),
                left=torch.zeros(rows, rows), right=torch.zeros(columns, columns),
                rows=torch.eye(rows), columns=torch.eye(columns),
            )  # fmt: skip
        first, second = betas
        state["left"].lerp_(gradient @ gradient.mT, 1.0 - second)  # (m, m)
        state["right"].lerp_(gradient.mT @ gradient, 1.0 - second)  # (n, n)
        if state["step"] % EVERY == 0:
            self._turn(state)
        state["step"] += 1
        turned = state["rows"].mT @ gradient @ state["columns"]
        state["mean"].lerp_(gradient, 1.0 - first)
        state["square"].lerp_(turned.square(), 1.0 - second)
        mean = state["rows"].mT @ state["mean"] @ state["columns"] / (1.0 - first ** state["step"])
        size = (state["square"] / (1.0 - second ** state["step"])).sqrt() + TINY
        matrix.sub_(state["rows"] @ (mean / size) @ state["columns"].mT, alpha=rate)

    @staticmethod
    def _turn(state: dict[str, Any]) -> None:
        """Follow the eigenbasis: decomposed at first, then one step of orthogonal iteration at a time."""
        for products, basis in (("left", "rows"), ("right", "columns")):
            if state["step"] == 0:
                state[basis] = torch.linalg.eigh(state[products])[1]
            else:
                state[basis] = torch.linalg.qr(state[products] @ state[basis])[0]
