"""A smooth warp of space: a bijection that bends a shape, with a bound on how much it stretches.

A point x is moved by u(x) = Σ aₘ bₘ (sin(wₘ·x + φₘ) − sin φₘ), a sum of four plane waves whose wavelengths are 1 to 2
sides of Ω. The sum of |aₘ||wₘ| is the strength k, so that ‖∇u‖ ≤ k everywhere, and the middle of Ω stays where it is.

A shape f is seen at x where it lies at x + u(x).

Promises: for k < 1 the map is a bijection, smooth both ways: bodies stay apart and whole, holes stay holes. Lengths of
the shape change by factors between 1 / (1 + k) and 1 / (1 − k).
Does not promise: that distances stay distances. Of a true distance f, |f(x + u(x))| lies between (1 − k) and (1 + k)
times the distance from the warped surface.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from model.engine.sparse import SignedDistance

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]

WAVES = 4
LONGEST, SHORTEST = 0.5 * np.pi, np.pi  # wave numbers: wavelengths of 4 and 2, Ω being 2 wide


@dataclass(frozen=True)
class Warp:
    """One warp.

    Attributes
    ----------
    strength
        k, the bound of the change of the displacement per unit of length.
    amplitudes
        (waves, 3) aₘ bₘ, in units of Ω.
    waves
        (waves, 3) wₘ.
    phases
        (waves,) φₘ.
    """

    strength: float
    amplitudes: Doubles
    waves: Doubles
    phases: Doubles

    @classmethod
    def draw(cls, strength: float, rng: np.random.Generator) -> Self:
        """Draw a warp of a strength, which must be less than 1."""
        if not 0.0 <= strength < 1.0:
            raise ValueError("a warp has a strength from 0 to below 1")
        directions, moves = (_unit(rng.standard_normal((WAVES, 3))) for _ in range(2))
        lengths = rng.uniform(LONGEST, SHORTEST, WAVES)
        amplitudes = strength / (WAVES * lengths)
        return cls(
            strength, amplitudes[:, None] * moves, lengths[:, None] * directions, rng.uniform(0.0, 2.0 * np.pi, WAVES)
        )

    def moved(self, points: NDArray[np.floating]) -> Floats:
        """Return x + u(x) of points (n, 3)."""
        exact = np.asarray(points, dtype=np.float64)
        waves = np.sin(exact @ self.waves.T + self.phases) - np.sin(self.phases)
        return np.asarray(exact + waves @ self.amplitudes, dtype=np.float32)


@dataclass(frozen=True)
class Warped:
    """A shape seen through a warp: its sign is right, its magnitude within a factor 1 ± k of the distance."""

    shape: SignedDistance
    warp: Warp

    def __call__(self, points: Floats) -> Floats:
        """Values (n,) at points (n, 3)."""
        return self.shape(self.warp.moved(points))


def _unit(vectors: Doubles) -> Doubles:
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True))
