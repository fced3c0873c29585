"""The kind ``augmentation``: variations of one cell."""

from __future__ import annotations

import json
from pathlib import Path

from model.augmentation import augment
from model.augmentation_spec import AugmentationSpec, UploadedCell
from model.synthesis import Progress
from worker.jobs import Job
from worker.kinds.base import Report
from worker.kinds.checkpoints import checkpoint_of
from worker.kinds.uploaded_files import uploaded_files
from worker.settings import WorkerSettings


def run(job: Job, folder: Path, report: Report) -> None:
    """Write the variations into ``folder``, a manifest last; a :data:`~worker.kinds.base.Runner`."""
    settings = WorkerSettings()
    spec = AugmentationSpec.model_validate_json(json.dumps(job.spec))

    def on_progress(progress: Progress) -> None:
        report(stage=progress.stage, frame=progress.frame, frames=progress.frames)

    checkpoint = checkpoint_of(job, settings)
    checksums = spec.source.upload_sha256 if isinstance(spec.source, UploadedCell) else None
    with uploaded_files(job, spec.uploads, checksums, settings) as sources:
        augment(spec, checkpoint, folder, sources=sources, on_progress=on_progress, device=settings.device)
