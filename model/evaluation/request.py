"""An evaluation as a request asks for it: its cells, its reference, and the report in a folder with a manifest.

Promises: the figures are those of :mod:`model.evaluation.reports.model_report`, as ``python -m model evaluate`` makes
them; the same spec, checkpoint, uploads and job give the same bytes. Uploads are read as ``python -m model import``
reads files.
Does not promise: the training cells themselves, where the model's recipe does not construct them: the cells of the
learned codes, as the network reconstructs them, replace them then.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

from model import __version__
from model.augmentation import AUGMENTATION_FILE, warp_of
from model.card import ModelCard, load_card
from model.domain import Grid
from model.errors import SpecError
from model.evaluation.comparison import MeasuredSets, put_together
from model.evaluation.measured_file import read_measured, write_measured
from model.evaluation.reports.html_report import NEW_CELLS, write_report
from model.evaluation.reports.model_report import (
    CellSets,
    Scope,
    further_figures,
    measure,
    reference_of,
    report_on_sets,
    sets_of_model,
)
from model.evaluation.sequence_measures import SIDE
from model.evaluation.sequence_sources import (
    CodedCell,
    CodedSequences,
    GeneratedSequences,
    LearnedSequences,
    Sequences,
    training_sequences,
)
from model.evaluation.uploaded_cells import open_uploaded
from model.evaluation_spec import SEARCHED, EvaluationSpec, recipe_of_reference
from model.learning.recipe import TrainConfig
from model.living_cell import AS_IT_IS, Variation
from model.output.contents import Contents
from model.output.exporter import Exporter
from model.output.manifest import MANIFEST_FILE, WarningEntry, amend_manifest
from model.synthesis import Progress


@dataclass(frozen=True)
class _Plan:
    """What an evaluation compares.

    Attributes
    ----------
    sets
        The cells.
    card
        Of the model.
    identifier
        Begins the names of the files.
    scope
        How much is measured.
    beside
        Gives further figures.
    warnings
        Sentences on cells that were left out.
    """

    sets: CellSets
    card: ModelCard
    identifier: str
    scope: Scope
    beside: Callable[[], dict[str, Any]] = dict
    warnings: tuple[str, ...] = ()

    @property
    def steps(self) -> int:
        """Sequences that are measured, or only searched."""
        reference, searched = self.sets.reference[0], self.sets.searched
        measured = len(self.sets.evaluated[0]) + len(self.sets.training) + (0 if reference is None else len(reference))
        return measured + (0 if searched is None or len(searched) <= len(self.sets.training) else len(searched))


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
    plan = _planned(spec, place, uploads=uploads, result=result, on_progress=on_progress)
    step = _Steps(on_progress, total=plan.steps)
    _write(spec, plan, measure(plan.sets, on_step=step), folder, on_step=step)


def measure_part(
    spec: EvaluationSpec,
    number: int,
    place: Path,
    path: Path,
    *,
    uploads: Path | None = None,
    result: Path | None = None,
    on_progress: Callable[[Progress], None] = lambda _progress: None,
) -> None:
    """Measure one shard of an evaluation and write that into a file; other arguments as of :func:`evaluate_request`.

    Parameters
    ----------
    number
        Of the shard, from 0.
    path
        Of the file; see :mod:`model.evaluation.measured_file`.
    """
    plan = _planned(spec, place, uploads=uploads, result=result, on_progress=on_progress)
    step = _Steps(on_progress, total=plan.steps)
    write_measured(measure(plan.sets, part=(number, spec.shards()), on_step=step), path)


def evaluate_measured(
    spec: EvaluationSpec,
    place: Path,
    parts: Sequence[Path],
    folder: Path,
    *,
    uploads: Path | None = None,
    result: Path | None = None,
    on_progress: Callable[[Progress], None] = lambda _progress: None,
) -> None:
    """Compare what :func:`measure_part` has measured, as :func:`evaluate_request` does with the same bytes.

    Parameters
    ----------
    parts
        The files of all shards, in order.
    """
    plan = _planned(spec, place, uploads=uploads, result=result, on_progress=on_progress)
    measured = put_together([read_measured(path) for path in parts])
    _write(spec, plan, measured, folder, on_step=_Steps(on_progress, total=plan.steps))


def _write(
    spec: EvaluationSpec, plan: _Plan, measured: MeasuredSets, folder: Path, *, on_step: Callable[[str], None]
) -> None:
    """Compare, and write the report and the manifest."""
    card = plan.card
    report = report_on_sets(
        plan.sets, card, identifier=plan.identifier, scope=plan.scope, on_step=on_step, beside=plan.beside,
        measured=measured,
    )  # fmt: skip
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
    amend_manifest(
        folder, spec=spec.model_dump(mode="json"), beside=written,
        warnings=[WarningEntry(code="cells_left_out", message=message) for message in plan.warnings],
    )  # fmt: skip


class _Steps:
    """Counts steps; the number of all is an estimate, which is never exceeded."""

    def __init__(self, on_progress: Callable[[Progress], None], *, total: int) -> None:
        self._tell, self._done, self._total = on_progress, 0, total

    def __call__(self, _note: str) -> None:
        self._done = min(self._done + 1, self._total)
        self._tell(Progress("measuring", self._done, self._total))


def _planned(
    spec: EvaluationSpec,
    place: Path,
    *,
    uploads: Path | None,
    result: Path | None,
    on_progress: Callable[[Progress], None],
) -> _Plan:
    """Find the cells that are compared, without measuring any."""
    card = load_card(place)
    scope, single = _scope(spec), card.topology == "single"
    path = recipe_of_reference(card.id)
    recipe = TrainConfig.read(path) if path is not None else None
    uploaded = None
    if uploads is not None:
        uploaded = open_uploaded(spec, card, uploads, on_frame=lambda: on_progress(Progress("reading", 0, spec.cells)))
    if uploaded is None and recipe is None:
        raise SpecError(f"model {card.id} has no reference cells of its own: name uploads", pointer="/uploads")
    if uploaded is None and result is None and recipe is not None:
        return _Plan(
            sets_of_model(recipe, place, card, held_out=None, scope=scope, seed=spec.seed), card, recipe.id, scope,
            beside=partial(further_figures, recipe, place, held_out=None, scope=scope),
        )  # fmt: skip
    training: Sequences = LearnedSequences(place, scope.cells, has_protrusions=single)
    if recipe is not None:
        training = training_sequences(recipe.data, scope.cells, has_protrusions=single)
    compared: tuple[Sequences | None, str] = (None, "")
    if uploaded is not None:
        compared = uploaded.sequences, f"cells of {', '.join(spec.uploads)}"
    elif recipe is not None:
        compared = reference_of(recipe, None, scope.cells, has_protrusions=single)
    evaluated: tuple[Sequences, str] = (GeneratedSequences(place, scope.cells, spec.seed, single), NEW_CELLS)
    if result is not None:
        evaluated = (CodedSequences(place, cells_of_result(result, scope.cells), single), f"Cells of job {spec.job}")
    return _Plan(
        CellSets(evaluated=evaluated, training=training, reference=compared), card, card.id, scope,
        warnings=uploaded.warnings if uploaded is not None else (),
    )  # fmt: skip


def _scope(spec: EvaluationSpec) -> Scope:
    return Scope(
        cells=spec.count,
        draws=spec.draws,
        scored=1,
        every=30,
        grid_side=SIDE,
        pictured=1 + spec.count // 10,
        searched=SEARCHED * spec.count,
        fits=0,
    )


def cells_of_result(folder: Path, most: int) -> tuple[CodedCell, ...]:
    """Read the first cells of a result by their codes, with the variations of an augmentation.

    Parameters
    ----------
    folder
        Of the result; the manifests of shards may be all it has of those, and only of the shards with these cells.
    most
        How many.
    """
    contents = Contents(
        json.loads((folder / MANIFEST_FILE).read_bytes()),
        lambda shard: Contents(json.loads((folder / shard["name"]).read_bytes())),
    )
    seed, varied = contents.manifest["spec"].get("seed", 0), dict[int, Mapping[str, Any]]()
    if (folder / AUGMENTATION_FILE).is_file():
        varied = {row["cell"]: row for row in json.loads((folder / AUGMENTATION_FILE).read_bytes())["cells"]}
    return tuple(
        CodedCell(
            latent=tuple(cell["latent"]),
            times=tuple(frame["time"] for frame in cell["frames"]),
            rejected=cell.get("rejected_codes", 0),
            variation=_variation(varied[cell["index"]], seed) if cell["index"] in varied else AS_IT_IS,
        )
        for cell in islice(contents.cells(), most)
    )


def _variation(row: Mapping[str, Any], seed: int) -> Variation:
    return Variation(
        mirrored=row["mirrored"], size=row["size"], speed=row["speed"], begin=row["begins_at"],
        warp=warp_of(row.get("warp", 0.0), seed=seed, index=row["cell"]),
    )  # fmt: skip
