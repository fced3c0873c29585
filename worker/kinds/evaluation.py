"""The kind ``evaluation``: cells of a model or of a job, compared with reference cells."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from model.evaluation.request import evaluate_request
from model.evaluation_spec import EvaluationSpec
from model.output.manifest import MANIFEST_FILE
from model.synthesis import Progress
from worker.errors import ArtifactNotFoundError, SpecError
from worker.jobs import Job
from worker.kinds.base import Report
from worker.kinds.checkpoints import checkpoint_of, model_folder_of
from worker.kinds.uploaded_files import uploaded_files
from worker.settings import WorkerSettings
from worker.storage.artifacts import Artifacts


def run(job: Job, folder: Path, report: Report) -> None:
    """Write the report into ``folder``, a manifest last; a :data:`~worker.kinds.base.Runner`."""
    settings = WorkerSettings()
    spec = EvaluationSpec.model_validate_json(json.dumps(job.spec))
    checkpoint_of(job, settings)  # the model is still the one that the job was accepted for

    def on_progress(progress: Progress) -> None:
        report(stage=progress.stage, frame=progress.frame, frames=progress.frames)

    with uploaded_files(job, spec.uploads, spec.upload_sha256, settings) as sources:
        evaluate_request(
            spec,
            model_folder_of(job, settings),
            folder,
            uploads=sources[0].parent if sources else None,
            result=_result(spec, settings) if spec.job else None,
            on_progress=on_progress,
        )


def _result(spec: EvaluationSpec, settings: WorkerSettings) -> Path:
    """Return the folder of the job whose cells are evaluated.

    Raises
    ------
    SpecError
        If its files were removed or replaced after the evaluation was accepted.
    """
    try:
        path = Artifacts(settings.data_dir).path(spec.job or "", MANIFEST_FILE)
        unchanged = hashlib.sha256(path.read_bytes()).hexdigest() == spec.job_sha256
    except (ArtifactNotFoundError, FileNotFoundError):
        unchanged = False
    if not unchanged:
        raise SpecError("the files of the job were removed after this request was accepted; submit that job again")
    return path.parent
