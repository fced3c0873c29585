"""The kind ``reconstruction``: an uploaded cell, fitted and written at another resolution."""

from __future__ import annotations

import json
from pathlib import Path

from model.fitting.reconstruction import reconstruct
from model.reconstruction_spec import ReconstructionSpec
from model.synthesis import Progress
from worker.jobs import Job
from worker.kinds.base import Report
from worker.kinds.checkpoints import checkpoint_of
from worker.kinds.uploaded_files import uploaded_files
from worker.settings import WorkerSettings


def run(job: Job, folder: Path, report: Report) -> None:
    """Write the fitted cell into ``folder``, a manifest last; a :data:`~worker.kinds.base.Runner`."""
    settings = WorkerSettings()
    spec = ReconstructionSpec.model_validate_json(json.dumps(job.spec))

    def on_progress(progress: Progress) -> None:
        report(stage=progress.stage, frame=progress.frame, frames=progress.frames)

    checkpoint = checkpoint_of(job, settings)
    with uploaded_files(job, spec.uploads, spec.upload_sha256, settings) as sources:
        reconstruct(spec, checkpoint, sources, folder, on_progress=on_progress, device=settings.device)
