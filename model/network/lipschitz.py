"""A Lipschitz bound for a newly trained network: how fast its distances change in space."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from model.domain import TAU
from model.network.composition import bind
from model.network.decoder import Decoder

POINTS = 8192  # drawn in Ω for each code
TIMES = 9  # evenly spaced over τ


def steepest_slope(decoder: Decoder, codes: Iterable[NDArray[np.float32]]) -> float:
    """Largest gradient length seen over Ω, τ and a set of codes.

    Parameters
    ----------
    decoder
        The network.
    codes
        Codes of cells, composed or not.

    Returns
    -------
    float
        Change of the distance per unit of Ω. A lower bound of the true maximum: the samples are finite.
    """
    rng = np.random.default_rng(0)
    steepest = 0.0
    for code in codes:
        points = rng.uniform(-1.0, 1.0, (POINTS, 3)).astype(np.float32)
        for time in np.linspace(*TAU, TIMES):
            sdf = bind(decoder, code, float(time))
            steepest = max(steepest, float(sdf.slopes(points[:: max(1, TIMES // 2)]).max()))
    return steepest
