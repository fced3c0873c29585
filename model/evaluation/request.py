"""An evaluation as a request asks for it: its cells, its reference, and the report in a folder with a manifest.

Promises: the figures are those of :mod:`model.evaluation.reports.model_report`, as ``python -m model evaluate`` makes
them; the same spec, checkpoint, uploads and job give the same bytes. Uploads are read as ``python -m model import``
reads files.
Does not promise: the training cells themselves, where the model's recipe does not construct them: the cells of the
learned codes, as the network reconstructs them, replace them then.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from model import __version__
from model.augmentation import AUGMENTATION_FILE, warp_of
from model.card import ModelCard, load_card
from model.domain import Grid
from model.errors import DatasetError, SpecError
from model.evaluation.reports.html_report import NEW_CELLS, ModelReport, write_report
from model.evaluation.reports.model_report import CellSets, Scope, reference_of, report_on_model, report_on_sets
from model.evaluation.sequence_measures import SIDE
from model.evaluation.sequence_sources import (
    CodedCell,
    CodedSequences,
    GeneratedSequences,
    LearnedSequences,
    RealSequences,
    Sequences,
    training_sequences,
)
from model.evaluation_spec import CELLS_MIN, EvaluationSpec, recipe_of_reference
from model.learning.imported_cells import ImportPlan, import_sequences
from model.learning.recipe import TrainConfig
from model.learning.sources import ImportedSource
from model.living_cell import AS_IT_IS, Variation
from model.output.exporter import Exporter
from model.output.manifest import MANIFEST_FILE, WarningEntry, amend_manifest
from model.readers.open import open_recordings
from model.readers.recording import Calibration
from model.readers.survey import Surveyed, survey
from model.synthesis import Progress

POINTS = 1024  # drawn around each membrane at the import; an evaluation uses the membranes only


@dataclass(frozen=True)
class _Reference:
    """Cells compared with, what to call them, and what was left out of them."""

    sequences: Sequences | None
    words: str
    warnings: tuple[str, ...] = ()


def evaluate_request(
    spec: EvaluationSpec,
    place: Path,
    folder: Path,
    *,
    uploads: Path | None = None,
    result: Path | None = None,
    on_progress: Callable[[Progress], None] = lambda _progress: None,
) -> None:
    """Compare cells and write the report into a folder, the manifest last.

    Parameters
    ----------
    spec
        A completed spec.
    place
        Folder of the model that it names.
    folder
        Gets ``report.html``, ``summary.json``, the measurements and figures of the model, and ``manifest.json``.
    uploads
        Holds the files that the spec's uploads name.
    result
        Folder of the job whose cells are evaluated.
    on_progress
        Called after every sequence that was measured; an exception raised there ends the work.

    Raises
    ------
    DatasetError
        If the uploads show too few usable cells, or cells that do not fit into the model's domain.
    """
    card = load_card(place)
    with TemporaryDirectory(prefix="cytosynth-") as scratch:

        def after_frame() -> None:
            on_progress(Progress("reading", 0, 3 * spec.count))

        reference = _uploaded(spec, card, uploads, Path(scratch), on_frame=after_frame) if uploads else None
        step = _Steps(on_progress, total=_steps(spec, reference))
        report = _report(spec, place, card, reference=reference, result=result, on_step=step)
    facts = {
        "command": f"POST /v1/{EvaluationSpec.KIND}s",
        "cells": spec.count,
        **({"job": spec.job} if spec.job else {"seed": spec.seed}),
    }
    write_report(folder, [report], facts=facts)
    written = sorted(folder.iterdir())
    exporter = Exporter(folder, grid=Grid((SIDE, SIDE, SIDE)), micrometres=card.micrometres, minutes=card.minutes)
    exporter.write_manifest(
        spec=spec.model_dump(mode="json"), model_id=card.id, model_sha256=card.sha256, version=__version__,
        device_class="cpu", cells=[],
    )  # fmt: skip
    left_out = reference.warnings if reference else ()
    amend_manifest(
        folder, spec=spec.model_dump(mode="json"), beside=written,
        warnings=[WarningEntry(code="cells_left_out", message=message) for message in left_out],
    )  # fmt: skip


class _Steps:
    """Counts steps; the number of all is an estimate, which is never exceeded."""

    def __init__(self, on_progress: Callable[[Progress], None], *, total: int) -> None:
        self._tell, self._done, self._total = on_progress, 0, total

    def __call__(self, _note: str) -> None:
        self._done = min(self._done + 1, self._total)
        self._tell(Progress("measuring", self._done, self._total))


def _steps(spec: EvaluationSpec, reference: _Reference | None) -> int:
    held = len(reference.sequences) if reference and reference.sequences is not None else spec.count
    return 2 * spec.count + held


def _scope(spec: EvaluationSpec) -> Scope:
    return Scope(
        cells=spec.count, draws=spec.draws, scored=1, every=30, grid_side=SIDE, pictured=1 + spec.count // 10, fits=0
    )


def _report(
    spec: EvaluationSpec,
    place: Path,
    card: ModelCard,
    *,
    reference: _Reference | None,
    result: Path | None,
    on_step: Callable[[str], None],
) -> ModelReport:
    scope, single = _scope(spec), card.topology == "single"
    path = recipe_of_reference(card.id)
    recipe = TrainConfig.read(path) if path is not None else None
    if reference is None and recipe is None:
        raise SpecError(f"model {card.id} has no reference cells of its own: name uploads", pointer="/uploads")
    if reference is None and result is None and recipe is not None:
        return report_on_model(recipe, place, held_out=None, scope=scope, seed=spec.seed, on_step=on_step)
    training: Sequences = LearnedSequences(place, scope.cells, has_protrusions=single)
    if recipe is not None:
        training = training_sequences(recipe.data, scope.cells, has_protrusions=single)
    compared = (
        reference_of(recipe, None, scope.cells, has_protrusions=single)
        if reference is None and recipe is not None
        else (reference.sequences if reference else None, reference.words if reference else "")
    )
    judged: tuple[Sequences, str] = (GeneratedSequences(place, scope.cells, spec.seed, single), NEW_CELLS)
    if result is not None:
        judged = (CodedSequences(place, cells_of_result(result)[: scope.cells], single), f"Cells of job {spec.job}")
    return report_on_sets(
        CellSets(judged=judged, training=training, reference=compared),
        card, identifier=card.id, scope=scope, on_step=on_step,
    )  # fmt: skip


def cells_of_result(folder: Path) -> tuple[CodedCell, ...]:
    """Read the cells of a result by their codes, with the variations of an augmentation."""
    manifest = json.loads((folder / MANIFEST_FILE).read_bytes())
    seed, varied = manifest["spec"].get("seed", 0), dict[int, Mapping[str, Any]]()
    if (folder / AUGMENTATION_FILE).is_file():
        varied = {row["cell"]: row for row in json.loads((folder / AUGMENTATION_FILE).read_bytes())["cells"]}
    return tuple(
        CodedCell(
            latent=tuple(cell["latent"]),
            times=tuple(frame["time"] for frame in cell["frames"]),
            rejected=cell.get("rejected_codes", 0),
            variation=_variation(varied[cell["index"]], seed) if cell["index"] in varied else AS_IT_IS,
        )
        for cell in manifest["cells"]
    )


def _variation(row: Mapping[str, Any], seed: int) -> Variation:
    return Variation(
        mirrored=row["mirrored"], size=row["size"], speed=row["speed"], begin=row["begins_at"],
        warp=warp_of(row.get("warp", 0.0), seed=seed, index=row["cell"]),
    )  # fmt: skip


def _uploaded(
    spec: EvaluationSpec, card: ModelCard, uploads: Path, scratch: Path, *, on_frame: Callable[[], None]
) -> _Reference:
    """Read the uploaded cells as an import does, at the scale of the model.

    Raises
    ------
    DatasetError
        If too few can be used, or one does not fit into the model's domain.
    """
    spacing = None if spec.voxel is None else (spec.voxel[0], spec.voxel[1], spec.voxel[2])
    given = Calibration(spacing=spacing, minutes=spec.interval, spacing_from="voxel", minutes_from="interval")
    recordings = open_recordings(uploads, given=given)
    surveyed = survey(recordings, on_frame=lambda _done, _total: on_frame())
    usable = [one for one in surveyed if one.is_usable]
    left_out = tuple(f"{one.sequence.name} was left out: {_fault(one)}" for one in surveyed if not one.is_usable)
    if len(usable) < CELLS_MIN:
        why = f"; {left_out[0]}" if left_out else ": upload more tracked cells"
        raise DatasetError(f"the uploads show {len(usable)} usable cells, a comparison needs at least {CELLS_MIN}{why}")
    _check_scale(usable, card)
    minutes = next((one.calibration.minutes for one in recordings if one.calibration.minutes), None)
    plan = ImportPlan(points_per_frame=POINTS, minutes=minutes or 1.0, micrometres=card.micrometres)
    import_sequences(recordings, surveyed, scratch, plan=plan, on_frame=lambda _done, _total: on_frame())
    real = RealSequences.of(ImportedSource(kind="imported", folder=scratch), has_protrusions=card.topology == "single")
    chosen = np.unique(np.linspace(0, len(real.chosen) - 1, min(spec.count, len(real.chosen))).round().astype(int))
    some = RealSequences(real.source, tuple(int(number) for number in chosen), real.has_protrusions)
    unknown = () if minutes else ("the minutes between frames are not known, 1 is taken: state them with interval",)
    return _Reference(some, f"cells of {', '.join(spec.uploads)}", (*left_out, *unknown))


def _fault(one: Surveyed) -> str:
    """Say what is wrong with a sequence, by the names that a request has."""
    finding = next(finding for finding in one.findings if finding.severity == "error")
    message = finding.message.replace("--voxel X Y Z (µm; voxel in a request)", "voxel, [x, y, z] in µm")
    where = f" (frame {', '.join(map(str, finding.frames[:3]))})" if finding.frames else ""
    return f"{message}{where}"


def _check_scale(usable: list[Surveyed], card: ModelCard) -> None:
    """Refuse cells that do not fit into the model's domain: a wrong voxel size, or another model's cells."""
    for one in usable:
        reach = float(one.reaches.max())
        if reach > card.micrometres:
            raise DatasetError(
                f"{one.sequence.name}: the cell reaches {reach:.3g} µm from its middle and does not fit into the "
                f"domain of model {card.id}, {2.0 * card.micrometres:.3g} µm: give the right voxel size, or choose "
                "another model"
            )
