"""Plausibility of new cells: the share accepted by the check, and the share that stays plausible on a finer grid."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from model.domain import Grid
from model.network.checkpoint import Checkpoint
from model.network.plausibility import bodies_over_time, draw_plausible_code, is_plausible
from model.spec import SampledLatent

LARGEST_JUMP_OF_30 = 0.15  # largest plausible change of volume from one frame of 30 to the next, relative


def score_plausibility(
    checkpoint: Checkpoint,
    samples: int,
    *,
    grid_side: int = 64,
    frames: int = 30,
    on_cell: Callable[[], None] = lambda: None,
) -> dict[str, float]:
    """Draw new cells and check them on a finer grid and at more frames than the plausibility check uses.

    Parameters
    ----------
    checkpoint
        The model.
    samples
        Seeds 0 … samples − 1.

    Returns
    -------
    dict
        ``plausible_before_gate``: accepted first draws; ``plausible_after_gate``: cells that are plausible
        on the finer grid; ``largest_volume_jump`` from frame to frame; ``rejected_per_cell``: mean number of redraws.
    """
    grid = Grid((grid_side, grid_side, grid_side))
    rejected, jumps, passed = [], [], 0
    for seed in range(samples):
        rng = np.random.default_rng([seed, 0])
        code, count = draw_plausible_code(SampledLatent(), checkpoint, rng)
        rejected.append(count)
        counts, volumes = bodies_over_time(checkpoint, code, grid=grid, frames=frames)
        passed += is_plausible(counts, volumes, checkpoint.card.topology, largest_jump=LARGEST_JUMP_OF_30)
        if len(volumes) > 1:
            jumps.append(float(np.max(np.abs(np.diff(volumes)) / volumes[:-1])))
        on_cell()
    return {
        "plausible_before_gate": round(float(np.mean([count == 0 for count in rejected])), 4),
        "plausible_after_gate": round(passed / samples, 4),
        "largest_volume_jump": round(max(jumps, default=float("nan")), 4),
        "rejected_per_cell": round(float(np.mean(rejected)), 4),
    }
