"""A Lipschitz bound for a newly trained network: how fast its distances change in space."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from model.domain import TAU
from model.network.decoder import Decoder

POINTS = 8192  # drawn in Ω for each code
TIMES = 9  # evenly spaced over τ


def steepest_slope(decoder: Decoder, codes: NDArray[np.float32]) -> float:
    """Largest gradient length seen over Ω, τ and a set of codes.

    Parameters
    ----------
    decoder
        The network.
    codes
        (s, c) learned codes.

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
            sdf = decoder.fold(torch.from_numpy(code), float(time))
            steepest = max(steepest, float(sdf.slopes(points[:: max(1, TIMES // 2)]).max()))
    return steepest
