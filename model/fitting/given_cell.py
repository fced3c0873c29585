"""The cell that a request gives: its frames, how hard its code is looked for, and its frames in the fitted cell."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from model import living_cell
from model.card import ModelCard
from model.fitting.fit import FitPlan, TargetFrame
from model.fitting.fit_targets import check_scale, read_target
from model.living_cell import LivingCell
from model.membranes.triangle_distance import CellShape
from model.network.checkpoint import Checkpoint
from model.reconstruction_spec import GivenCell
from model.spec import GenerationSpec

ADAPTED_FOLDER = "fitted"  # of the adapted network's weights and card, in the result


def kept_frames(
    recipe: GenerationSpec, owner: Checkpoint, target: list[TargetFrame], *, shift_um: list[float]
) -> Callable[[int], LivingCell]:
    """Return what draws the fitted cell with its given frames in it.

    Parameters
    ----------
    recipe, owner
        The spec that makes the fitted cell, and its model.
    target
        The given frames.
    shift_um
        Where the middle of the model's Ω lies in that of the frames, in µm.
    """
    shift = np.array(shift_um) / owner.card.micrometres
    kept = tuple((frame.time, CellShape([part.placed(shift, 1.0) for part in frame.shape.parts])) for frame in target)
    return lambda index: replace(living_cell.draw(recipe, owner, index), kept=kept)


def read_given(given: GivenCell, sources: list[Path], card: ModelCard) -> tuple[list[TargetFrame], list[str]]:
    """Read the frames of an uploaded cell, and tell what was doubtful about them.

    Raises
    ------
    DatasetError
        If the files do not show one cell of the model's size.
    """
    warnings: list[str] = []
    target = read_target(
        sources, micrometres=card.micrometres, voxel=triple(given.voxel), place=given.place, times=given.given_times,
        labels=given.labels, on_warning=warnings.append,
    )  # fmt: skip
    check_scale(target, card)
    return target, warnings


def plan_of(given: GivenCell, *, seed: int) -> FitPlan:
    """Return how hard to look for the code of an uploaded cell."""
    return FitPlan(orientations=given.orientations, shift=given.shift, adapt_steps=given.adapt_steps, seed=seed)


def triple(voxel: list[float] | None) -> tuple[float, float, float] | None:
    """Return the distances of voxels along x, y and z, where they are given."""
    if voxel is None:
        return None
    x, y, z = voxel
    return (x, y, z)
