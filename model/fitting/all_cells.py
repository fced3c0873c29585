"""A reconstruction of all cells of a recording: each is fitted and written by itself, then all are written together.

The first half can be divided: :func:`fit_part` fits some of the cells, and :func:`put_together` needs the files of all.

Promises: the same bytes, into however many parts the fitting is divided.
Does not promise: that a part has a cell; the parts follow from the request, which does not say how many there are.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from model import living_cell
from model.fitting.fit_output import FIT_FILE, fit_model, write_document
from model.fitting.given_cell import ADAPTED_FOLDER, kept_frames, plan_of, triple
from model.fitting.tracked_cells import RECORDING_FOLDER, TrackedRecording, fine_grid, read_tracked, write_recording
from model.living_cell import LivingCell
from model.network.checkpoint import Checkpoint, load_checkpoint
from model.output.manifest import MANIFEST_FILE, Manifest, ModelEntry, WarningEntry, amend_manifest, merge_manifests
from model.reconstruction_spec import ReconstructionSpec
from model.spec import GenerationSpec
from model.synthesis import Device, Progress, synthesize

OnProgress = Callable[[Progress], None]


@dataclass(frozen=True, kw_only=True)
class FittedCell:
    """What is known of a fitted cell beside its files.

    Attributes
    ----------
    number
        Among the cells of the recording.
    document
        What ``fit.json`` says of it.
    recipe
        The spec that makes it, with the adapted network if there is one.
    manifest
        Of its files.
    """

    number: int
    document: dict[str, Any]
    recipe: GenerationSpec
    manifest: Manifest


def reconstruct_all(
    spec: ReconstructionSpec,
    checkpoint: Checkpoint,
    sources: list[Path],
    folder: Path,
    *,
    on_progress: OnProgress = lambda _progress: None,
    device: Device = "cpu",
) -> dict[str, Any]:
    """Fit and write every cell of a recording, and all of them together.

    Arguments are as of :func:`model.fitting.reconstruction.reconstruct`, which calls this.
    """
    found = _read(spec, checkpoint, sources)
    fitted = _fit(spec, checkpoint, found, range(len(found.cells)), folder, on_progress=on_progress, device=device)
    return _write_together(spec, checkpoint, found, fitted, folder, on_progress=on_progress)


def fit_part(
    spec: ReconstructionSpec,
    number: int,
    checkpoint: Checkpoint,
    sources: list[Path],
    folder: Path,
    facts: Path,
    *,
    on_progress: OnProgress = lambda _progress: None,
    device: Device = "cpu",
) -> None:
    """Fit and write the cells of one shard; no manifest.

    Parameters
    ----------
    number
        Of the shard, from 0.
    folder
        Gets ``cell_0007/`` …, and the adapted networks in ``fitted/``.
    facts
        File that gets the rest of what :func:`put_together` needs.
    """
    found = _read(spec, checkpoint, sources)
    count, shards = len(found.cells), spec.shards()
    mine = range(number * count // shards, (number + 1) * count // shards)
    fitted = _fit(spec, checkpoint, found, mine, folder, on_progress=on_progress, device=device)
    (folder / MANIFEST_FILE).unlink(missing_ok=True)  # of the last cell
    facts.write_text(json.dumps([_as_json(cell) for cell in fitted]), encoding="ascii")


def put_together(
    spec: ReconstructionSpec,
    checkpoint: Checkpoint,
    sources: list[Path],
    facts: Sequence[Path],
    folder: Path,
    *,
    on_progress: OnProgress = lambda _progress: None,
) -> dict[str, Any]:
    """Write all cells together, and the manifest last, into the folder that holds the files of every shard.

    Parameters
    ----------
    facts
        The files of that name of all shards, in order.
    """
    fitted = [_of_json(row) for path in facts for row in json.loads(path.read_bytes())]
    return _write_together(spec, checkpoint, _read(spec, checkpoint, sources), fitted, folder, on_progress=on_progress)


def _read(spec: ReconstructionSpec, checkpoint: Checkpoint, sources: list[Path]) -> TrackedRecording:
    found = read_tracked(sources, checkpoint.card, voxel=triple(spec.voxel))
    fine_grid(found.recording, spec.refine)  # too fine a grid is refused before anything is fitted
    return found


def _adapted(folder: Path, number: int) -> Path:
    """Return the folder of the network that was adapted to a cell."""
    return folder / ADAPTED_FOLDER / f"cell_{number:04d}"


def _fit(
    spec: ReconstructionSpec,
    checkpoint: Checkpoint,
    found: TrackedRecording,
    numbers: range,
    folder: Path,
    *,
    on_progress: OnProgress,
    device: Device,
) -> list[FittedCell]:
    """Fit and write some cells."""
    plan, frames = plan_of(spec, seed=spec.seed), spec.written.frame_count
    each = plan.all_steps + frames
    total = len(found.cells) * each + frames
    fitted = []
    for done, number in enumerate(numbers):
        cell = found.cells[number]

        def on_step(step: int, *, stage: str = "fitting", base: int = done * each) -> None:
            on_progress(Progress(stage, base + step, total))

        document, owner, recipe = fit_model(
            checkpoint, cell.target, _adapted(folder, number), plan=plan, score_grid=spec.score_grid,
            on_step=lambda step, _steps, _error: on_step(step),
            spec={"frames": frames, "grid": spec.grid, "formats": spec.formats},
        )  # fmt: skip
        recipe = recipe.model_copy(update={"first_index": number})
        drawn = kept_frames(recipe, owner, cell.target, shift_um=document["shift_um"])
        synthesize(
            recipe, owner, folder, device=device, draw=drawn if spec.keep_given_frames else None,
            on_progress=lambda now: on_step(plan.all_steps + now.frame, stage=now.stage),
        )  # fmt: skip
        manifest = Manifest.model_validate_json((folder / MANIFEST_FILE).read_bytes())
        fitted.append(FittedCell(number=number, document=document, recipe=recipe, manifest=manifest))
    return fitted


def _write_together(
    spec: ReconstructionSpec,
    checkpoint: Checkpoint,
    found: TrackedRecording,
    fitted: Sequence[FittedCell],
    folder: Path,
    *,
    on_progress: OnProgress,
) -> dict[str, Any]:
    """Write the label volume and the lineage of all cells, ``fit.json`` and the manifest."""
    card, plan, frames = checkpoint.card, plan_of(spec, seed=spec.seed), spec.written.frame_count
    done = len(found.cells) * (plan.all_steps + frames)
    whole = write_recording(
        found, [_living(spec, checkpoint, found, cell, folder) for cell in fitted], folder / RECORDING_FOLDER,
        frames=frames, refine=spec.refine, micrometres=card.micrometres,
        after_frame=lambda frame: on_progress(Progress("together", done + frame, done + frames)),
    )  # fmt: skip
    documents = [
        {
            "cell": cell.number,
            "name": found.cells[cell.number].sequence.name,
            "labels": found.cells[cell.number].labels,
            "given_frames": found.cells[cell.number].sequence.frames,
            **cell.document,
        }
        for cell in fitted
    ]
    everything: dict[str, Any] = {"cells": documents}
    write_document(everything, folder / FIT_FILE)
    asked = spec.model_dump(mode="json")
    (folder / MANIFEST_FILE).write_bytes(merge_manifests([cell.manifest for cell in fitted], asked).to_json())
    amend_manifest(
        folder,
        spec=asked,
        generated=False,
        base=ModelEntry(id=card.id, sha256=card.sha256),
        beside=[folder / FIT_FILE, *whole, *sorted((folder / ADAPTED_FOLDER).glob("*/*"))],
        warnings=[WarningEntry(code="doubtful_reading", message=one) for one in dict.fromkeys(found.warnings)],
    )
    return everything


def _living(
    spec: ReconstructionSpec, checkpoint: Checkpoint, found: TrackedRecording, cell: FittedCell, folder: Path
) -> tuple[LivingCell, np.ndarray[Any, np.dtype[np.float64]]]:
    """Return a fitted cell as it was written, and where the middle of its Ω lies."""
    adapted, shift_um = _adapted(folder, cell.number), cell.document["shift_um"]
    owner = load_checkpoint(adapted) if adapted.is_dir() else checkpoint
    draw: Callable[[int], LivingCell] = partial(living_cell.draw, cell.recipe, owner)
    if spec.keep_given_frames:
        draw = kept_frames(cell.recipe, owner, found.cells[cell.number].target, shift_um=shift_um)
    return draw(cell.number), np.array(shift_um) / checkpoint.card.micrometres


def _as_json(cell: FittedCell) -> dict[str, Any]:
    return {
        "number": cell.number,
        "document": cell.document,
        "recipe": cell.recipe.model_dump(mode="json"),
        "manifest": cell.manifest.model_dump(mode="json"),
    }


def _of_json(row: dict[str, Any]) -> FittedCell:
    return FittedCell(
        number=row["number"],
        document=row["document"],
        recipe=GenerationSpec.model_validate_json(json.dumps(row["recipe"])),
        manifest=Manifest.model_validate_json(json.dumps(row["manifest"])),
    )
