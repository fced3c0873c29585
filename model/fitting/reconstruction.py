"""A reconstruction: frames of one cell are fitted, and the cell is written at any resolution, with its score.

Promises: the same files as ``python -m model fit`` writes for the same frames and plan, byte for byte; only their
folders and the manifest differ.
Does not promise: that the given frames are reproduced exactly; ``fit.json`` says how well they are.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from model.card import ModelCard
from model.domain import Grid
from model.errors import DatasetError
from model.fitting.fit import FitPlan, TargetFrame, fit_cell, score_fit
from model.fitting.fit_output import FIT_FILE, fit_model, score_rows, write_document
from model.fitting.fit_targets import read_target
from model.network.checkpoint import Checkpoint
from model.output.manifest import ModelEntry, WarningEntry, amend_manifest
from model.reconstruction_spec import GivenCell, ReconstructionSpec
from model.synthesis import Device, Progress, synthesize

ADAPTED_FOLDER = "fitted"  # of the adapted network's weights and card, in the result
SMALLEST = 0.05  # of Ω's side; a cell that is smaller has another scale than the model's


def reconstruct(
    spec: ReconstructionSpec,
    checkpoint: Checkpoint,
    sources: list[Path],
    folder: Path,
    *,
    on_progress: Callable[[Progress], None] = lambda _progress: None,
    device: Device = "cpu",
) -> dict[str, Any]:
    """Fit the cell that the files show, and write it into a folder, the manifest last.

    Parameters
    ----------
    spec
        A completed spec.
    checkpoint
        The model it names.
    sources
        The files that its uploads name, in their order.
    folder
        Gets ``cell_0000/``, ``fit.json``, the adapted network in ``fitted/``, and ``manifest.json``.
    on_progress
        Called after every step of a fit and every frame; an exception raised there ends the work.
    device
        Where the cell is computed once it is fitted.

    Returns
    -------
    dict
        What ``fit.json`` holds.

    Raises
    ------
    DatasetError
        If the files do not show one cell of the model's size.
    """
    card = checkpoint.card
    target, doubts = read_given(spec, sources, card)
    plan = plan_of(spec, seed=spec.seed)
    fits = 2 if spec.held_out else 1
    total = fits * plan.all_steps + spec.written.frame_count

    def after_step(number: int) -> Callable[[int, int, float], None]:
        return lambda step, _steps, _error: on_progress(Progress("fitting", number * plan.all_steps + step, total))

    document, owner, recipe = fit_model(
        checkpoint, target, folder / ADAPTED_FOLDER, plan=plan, score_grid=spec.score_grid, on_step=after_step(0),
        spec={"frames": spec.frames, "times": spec.times, "grid": spec.grid, "formats": spec.formats},
    )  # fmt: skip
    if spec.held_out:
        document["held_out"] = _held_out(
            checkpoint, target, plan=plan, score_grid=spec.score_grid, on_step=after_step(1)
        )
    write_document(document, folder / FIT_FILE)

    def after_frame(progress: Progress) -> None:
        on_progress(Progress(progress.stage, fits * plan.all_steps + progress.frame, total))

    synthesize(recipe, owner, folder, on_progress=after_frame, device=device)
    amend_manifest(
        folder,
        spec=spec.model_dump(mode="json"),
        base=ModelEntry(id=card.id, sha256=card.sha256),
        beside=[folder / FIT_FILE, *sorted((folder / ADAPTED_FOLDER).glob("*"))],
        warnings=[WarningEntry(code="doubtful_reading", message=one) for one in doubts],
    )
    return document


def read_given(given: GivenCell, sources: list[Path], card: ModelCard) -> tuple[list[TargetFrame], list[str]]:
    """Read the frames of an uploaded cell, and tell what was doubtful about them.

    Raises
    ------
    DatasetError
        If the files do not show one cell of the model's size.
    """
    doubts: list[str] = []
    target = read_target(
        sources, micrometres=card.micrometres, voxel=_triple(given.voxel), place=given.place, times=given.given_times,
        labels=given.labels, on_doubt=doubts.append,
    )  # fmt: skip
    _check_scale(target, card)
    return target, doubts


def plan_of(given: GivenCell, *, seed: int) -> FitPlan:
    """Return how hard to look for the code of an uploaded cell."""
    return FitPlan(orientations=given.orientations, shift=given.shift, adapt_steps=given.adapt_steps, seed=seed)


def _held_out(
    checkpoint: Checkpoint,
    target: list[TargetFrame],
    *,
    plan: FitPlan,
    score_grid: int,
    on_step: Callable[[int, int, float], None],
) -> dict[str, Any]:
    """Fit without the frame in the middle, and measure on it."""
    middle = len(target) // 2
    fit = fit_cell(checkpoint, [*target[:middle], *target[middle + 1 :]], plan=plan, on_step=on_step)
    grid = Grid((score_grid, score_grid, score_grid))
    rows = score_rows(score_fit(fit, [target[middle]], grid=grid), checkpoint.card.micrometres)
    return {"frame": middle, **rows["frames"][0]}


def _check_scale(target: list[TargetFrame], card: ModelCard) -> None:
    """Refuse a cell that does not fit into Ω, or is a speck in it."""
    for number, frame in enumerate(target):
        points = frame.shape.outline.vertices
        reach, side = float(np.abs(points).max()), float(np.ptp(points, axis=0).max())
        if reach > 1.0 or side < 2.0 * SMALLEST:
            what = "does not fit into" if reach > 1.0 else "is too small for"
            raise DatasetError(
                f"frame {number}: the cell is {side * card.micrometres:.3g} µm long and {what} the domain of model "
                f"{card.id}, {2.0 * card.micrometres:.3g} µm: give the right voxel size, or choose another model"
            )


def _triple(voxel: list[float] | None) -> tuple[float, float, float] | None:
    if voxel is None:
        return None
    x, y, z = voxel
    return (x, y, z)
