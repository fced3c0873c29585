"""A reconstruction: frames of one cell are fitted, and the cell is written at any resolution, with its score.

Promises: the same files as ``python -m model fit`` writes for the same frames and plan, byte for byte; only their
folders and the manifest differ.
Does not promise: that the given frames are reproduced exactly, unless ``keep_given_frames`` is set; ``fit.json`` says
how well they are. Where the position is fitted too, kept frames lie where the fit puts the cell.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from model.domain import Grid
from model.fitting.all_cells import reconstruct_all
from model.fitting.fit import FitPlan, TargetFrame, fit_cell, score_fit
from model.fitting.fit_output import FIT_FILE, fit_model, score_rows, write_document
from model.fitting.given_cell import ADAPTED_FOLDER, kept_frames, plan_of, read_given
from model.network.checkpoint import Checkpoint
from model.output.manifest import ModelEntry, WarningEntry, amend_manifest
from model.reconstruction_spec import ReconstructionSpec
from model.synthesis import Device, Progress, synthesize


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
        return reconstruct_all(spec, checkpoint, sources, folder, on_progress=on_progress, device=device)
    card = checkpoint.card
    target, warnings = read_given(spec, sources, card)
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
        warnings=[WarningEntry(code="doubtful_reading", message=one) for one in warnings],
    )
    return document


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
