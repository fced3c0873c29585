"""The kind ``evaluation``: cells of a model or of a job, compared with reference cells."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from model.evaluation.request import evaluate_measured, evaluate_request, measure_part
from model.evaluation_spec import EvaluationSpec
from model.output.contents import Contents
from model.output.manifest import MANIFEST_FILE
from model.synthesis import Progress
from worker.errors import ArtifactNotFoundError, SpecError
from worker.jobs import Job
from worker.kinds.base import Report
from worker.kinds.checkpoints import checkpoint_of, model_folder_of
from worker.kinds.parts import part_file, write_part_manifest
from worker.kinds.uploaded_files import uploaded_files
from worker.settings import WorkerSettings
from worker.storage.artifacts import Artifacts
from worker.storage.stored_artifacts import open_artifacts

MEASURED = "measured.npz"


def run(job: Job, folder: Path, report: Report) -> None:
    """Write the report into ``folder``, a manifest last; a :data:`~worker.kinds.base.Runner`."""
    with _given(job, report) as given:
        evaluate_request(given.spec, given.place, folder, **given.sources)


def run_part(job: Job, shard: int, folder: Path, report: Report) -> None:
    """Write what one shard measures; a :data:`~worker.kinds.base.PartRunner`."""
    with _given(job, report) as given:
        measure_part(given.spec, shard, given.place, part_file(folder, MEASURED), **given.sources)
    write_part_manifest(folder)


def seal(job: Job, parts: list[Path], folder: Path, report: Report) -> None:
    """Compare what all shards have measured and write the report; a :data:`~worker.kinds.base.Sealer`."""
    with _given(job, report) as given:
        measured = [part_file(part, MEASURED) for part in parts]
        evaluate_measured(given.spec, given.place, measured, folder, **given.sources)


@dataclass(frozen=True)
class _Given:
    """What an evaluation is made of: its spec, the folder of its model, and where its cells come from."""

    spec: EvaluationSpec
    place: Path
    sources: dict[str, Any]


@contextmanager
def _given(job: Job, report: Report) -> Iterator[_Given]:
    settings = WorkerSettings()
    spec = EvaluationSpec.model_validate_json(json.dumps(job.spec))
    checkpoint_of(job, settings)  # the model is still the one that the job was accepted for

    def on_progress(progress: Progress) -> None:
        report(stage=progress.stage, frame=progress.frame, frames=progress.frames)

    with ExitStack() as stack:
        files = stack.enter_context(uploaded_files(job, spec.uploads, spec.upload_sha256, settings))
        sources = {
            "uploads": files[0].parent if files else None,
            "result": stack.enter_context(_result(spec, settings)) if spec.job else None,
            "on_progress": on_progress,
        }
        yield _Given(spec, model_folder_of(job, settings), sources)


@contextmanager
def _result(spec: EvaluationSpec, settings: WorkerSettings) -> Iterator[Path]:
    """Yield a folder with the files of the job whose cells are evaluated.

    Raises
    ------
    SpecError
        If its files were removed or replaced after the evaluation was accepted.
    """
    with ExitStack() as stack:
        try:
            artifacts = open_artifacts(settings.data_dir, settings.store)
            contents = artifacts.contents(spec.job or "")
            if contents.is_sharded:
                folder = Path(stack.enter_context(TemporaryDirectory(prefix="cytosynth-")))
                _copy_manifests(artifacts, spec, contents, folder)
            else:
                folder = stack.enter_context(artifacts.laid_out(spec.job or ""))
            unchanged = hashlib.sha256((folder / MANIFEST_FILE).read_bytes()).hexdigest() == spec.job_sha256
        except (ArtifactNotFoundError, FileNotFoundError):
            unchanged = False
        if not unchanged:
            raise SpecError("the files of the job were removed after this request was accepted; submit that job again")
        yield folder


def _copy_manifests(artifacts: Artifacts, spec: EvaluationSpec, contents: Contents, folder: Path) -> None:
    """Fill a folder with the root manifest of a result, and those of the shards whose cells are evaluated."""
    names, cells = [MANIFEST_FILE], 0
    for shard in contents.shards:
        if cells < spec.count:
            names.append(shard["name"])
        cells += shard["cells"]
    for name in names:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(artifacts.path(spec.job or "", name).read_bytes())
