"""A reconstruction: frames of one cell are fitted, and the cell is written at any resolution, with its score.

Promises: the same files as ``python -m model fit`` writes for the same frames and plan, byte for byte; only their
folders and the manifest differ.
Does not promise: that the given frames are reproduced exactly, unless ``keep_given_frames`` is set; ``fit.json`` says
how well they are. Where the position is fitted too, kept frames lie where the fit puts the cell.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model import living_cell
from model.card import ModelCard
from model.domain import Grid
from model.fitting.fit import FitPlan, TargetFrame, fit_cell, score_fit
from model.fitting.fit_output import FIT_FILE, fit_model, score_rows, write_document
from model.fitting.fit_targets import check_scale, read_target
from model.fitting.tracked_cells import RECORDING_FOLDER, fine_grid, read_tracked, write_recording
from model.living_cell import LivingCell
from model.membranes.triangle_distance import CellShape
from model.network.checkpoint import Checkpoint
from model.output.manifest import (
    MANIFEST_FILE,
    Manifest,
    ModelEntry,
    WarningEntry,
    amend_manifest,
    merge_manifests,
)
from model.reconstruction_spec import GivenCell, ReconstructionSpec
from model.spec import GenerationSpec
from model.synthesis import Device, Progress, synthesize

ADAPTED_FOLDER = "fitted"  # of the adapted network's weights and card, in the result


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
        What ``fit.json`` holds: of all cells, if they are asked for, ``cells``, a list.

    Raises
    ------
    DatasetError
        If the files do not show one cell of the model's size, or no tracked ones where all are asked for.
    """
    if spec.cells == "all":
        return _reconstruct_all(spec, checkpoint, sources, folder, on_progress=on_progress, device=device)
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

    kept = kept_frames(recipe, owner, target, shift_um=document["shift_um"]) if spec.keep_given_frames else None
    synthesize(recipe, owner, folder, on_progress=after_frame, device=device, draw=kept)
    amend_manifest(
        folder,
        spec=spec.model_dump(mode="json"),
        generated=kept is None,
        base=ModelEntry(id=card.id, sha256=card.sha256),
        beside=[folder / FIT_FILE, *sorted((folder / ADAPTED_FOLDER).glob("*"))],
        warnings=[WarningEntry(code="doubtful_reading", message=one) for one in doubts],
    )
    return document


def _reconstruct_all(
    spec: ReconstructionSpec,
    checkpoint: Checkpoint,
    sources: list[Path],
    folder: Path,
    *,
    on_progress: Callable[[Progress], None],
    device: Device,
) -> dict[str, Any]:
    """Fit and write every tracked cell of one recording, and all of them together."""
    card = checkpoint.card
    found = read_tracked(sources, card, voxel=_triple(spec.voxel))
    fine_grid(found.recording, spec.refine)
    plan = plan_of(spec, seed=spec.seed)
    frames = spec.written.frame_count
    each = plan.all_steps + frames
    total = len(found.cells) * each + frames
    documents: list[dict[str, Any]] = []
    manifests: list[Manifest] = []
    fitted: list[tuple[LivingCell, NDArray[np.float64]]] = []
    for number, cell in enumerate(found.cells):

        def on_step(step: int, *, stage: str = "fitting", base: int = number * each) -> None:
            on_progress(Progress(stage, base + step, total))

        document, owner, recipe = fit_model(
            checkpoint, cell.target, folder / ADAPTED_FOLDER / f"cell_{number:04d}", plan=plan,
            score_grid=spec.score_grid, on_step=lambda step, _steps, _error: on_step(step),
            spec={"frames": frames, "grid": spec.grid, "formats": spec.formats},
        )  # fmt: skip
        recipe = recipe.model_copy(update={"first_index": number})
        documents.append({"cell": number, "name": cell.sequence.name, "labels": cell.labels,
                          "given_frames": cell.sequence.frames, **document})  # fmt: skip
        drawn = kept_frames(recipe, owner, cell.target, shift_um=document["shift_um"])
        draw = drawn if spec.keep_given_frames else partial(living_cell.draw, recipe, owner)
        synthesize(
            recipe, owner, folder, device=device, draw=drawn if spec.keep_given_frames else None,
            on_progress=lambda done: on_step(plan.all_steps + done.frame, stage=done.stage),
        )  # fmt: skip
        manifests.append(Manifest.model_validate_json((folder / MANIFEST_FILE).read_bytes()))
        fitted.append((draw(number), np.array(document["shift_um"]) / card.micrometres))
    whole = write_recording(
        found, fitted, folder / RECORDING_FOLDER, frames=frames, refine=spec.refine, micrometres=card.micrometres,
        after_frame=lambda done: on_progress(Progress("together", len(found.cells) * each + done, total)),
    )  # fmt: skip
    everything: dict[str, Any] = {"cells": documents}
    write_document(everything, folder / FIT_FILE)
    asked = spec.model_dump(mode="json")
    (folder / MANIFEST_FILE).write_bytes(merge_manifests(manifests, asked).to_json())
    amend_manifest(
        folder,
        spec=asked,
        generated=False,
        base=ModelEntry(id=card.id, sha256=card.sha256),
        beside=[folder / FIT_FILE, *whole, *sorted((folder / ADAPTED_FOLDER).glob("*/*"))],
        warnings=[WarningEntry(code="doubtful_reading", message=one) for one in dict.fromkeys(found.doubts)],
    )
    return everything


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
    doubts: list[str] = []
    target = read_target(
        sources, micrometres=card.micrometres, voxel=_triple(given.voxel), place=given.place, times=given.given_times,
        labels=given.labels, on_doubt=doubts.append,
    )  # fmt: skip
    check_scale(target, card)
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


def _triple(voxel: list[float] | None) -> tuple[float, float, float] | None:
    if voxel is None:
        return None
    x, y, z = voxel
    return (x, y, z)
