"""Smooth random functions, and the little geometry of vectors that phantoms share.

Promises: the same generator gives the same functions; splines have two continuous derivatives.
Does not promise: anything beyond the ends of τ, where functions are held.
"""

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from model.engine.jit import compiled

__all__ = ["beside", "smoothstep", "spline", "unit", "wander"]

Doubles = NDArray[np.float64]

SPANS = 8  # of the splines over τ: a span is about four frames of 30


def spline(knots: Doubles, x: Doubles) -> Doubles:
    """Evaluate a uniform cubic B-spline with knots (k, n) over [0, 1] at x (m,), held at the ends: (m, n)."""
    spans = len(knots) - 3
    place = np.clip(x, 0.0, 1.0) * spans
    first = np.minimum(place.astype(np.int64), spans - 1)
    f = place - first
    weights = np.stack([(1 - f) ** 3, 3 * f**3 - 6 * f**2 + 4, -3 * f**3 + 3 * f**2 + 3 * f + 1, f**3], axis=1) / 6.0
    return np.asarray(np.einsum("mj,mjn->mn", weights, knots[first[:, None] + np.arange(4)]))


def wander(rng: Generator, relaxation: Doubles) -> Doubles:
    """Draw knots over τ of a stationary Ornstein-Uhlenbeck process of unit variance, (k, n), within ±2.2 or so.

    ``relaxation`` (n,) is in units of τ. The spline smooths the process, which the factor ``gain`` makes up for.
    """
    persistence = np.exp(-2.0 / SPANS / relaxation)
    knots = rng.standard_normal((SPANS + 3, len(relaxation)))
    for k in range(1, len(knots)):
        knots[k] = persistence * knots[k - 1] + np.sqrt(1.0 - persistence**2) * knots[k]
    gain = np.sqrt(0.5 + persistence * 4.0 / 9.0 + persistence**2 / 18.0)  # of weights 1/6, 4/6, 1/6
    return np.asarray(2.2 * np.tanh(knots / gain / 2.2))


def smoothstep(x: Doubles) -> Doubles:
    """Rise smoothly from 0 at 0 to 1 at 1."""
    x = np.clip(x, 0.0, 1.0)
    return x * x * (3.0 - 2.0 * x)


def unit(vectors: Doubles) -> Doubles:
    """Scale vectors (..., 3) to length 1."""
    return np.asarray(_unit_rows(np.ascontiguousarray(vectors).reshape(-1, 3)).reshape(vectors.shape))


@compiled
def _unit_rows(vectors: Doubles) -> Doubles:
    """Scale vectors (n, 3) to length 1."""
    scaled = np.empty_like(vectors)
    for i in range(len(vectors)):
        x, y, z = vectors[i, 0], vectors[i, 1], vectors[i, 2]
        length = np.sqrt(x * x + y * y + z * z)
        scaled[i, 0], scaled[i, 1], scaled[i, 2] = x / length, y / length, z / length
    return scaled


def beside(vectors: Doubles, axes: Doubles) -> Doubles:
    """Return unit vectors across ``axes`` (..., 3), as near as possible to ``vectors``."""
    return unit(vectors - np.sum(vectors * axes, axis=-1, keepdims=True) * axes)
