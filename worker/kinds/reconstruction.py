"""The kind ``reconstruction``: an uploaded cell, fitted and written at another resolution."""

from __future__ import annotations

import json
from pathlib import Path
from tempfile import TemporaryDirectory

from model.fitting.reconstruction import reconstruct
from model.reconstruction_spec import ReconstructionSpec
from model.synthesis import Progress
from worker.errors import SpecError
from worker.jobs import Job
from worker.kinds.base import Report
from worker.kinds.checkpoints import checkpoint_of
from worker.settings import WorkerSettings
from worker.uploads.store import Uploads


def run(job: Job, folder: Path, report: Report) -> None:
    """Write the fitted cell into ``folder``, a manifest last; a :data:`~worker.kinds.base.Runner`."""
    settings = WorkerSettings()
    spec = ReconstructionSpec.model_validate_json(json.dumps(job.spec))

    def on_progress(progress: Progress) -> None:
        report(stage=progress.stage, frame=progress.frame, frames=progress.frames)

    checkpoint = checkpoint_of(job, settings)
    with TemporaryDirectory(prefix="cytosynth-") as shelf:  # readers go by the names of files
        sources = [
            _named(Path(shelf) / name, job.owner, sha256, Uploads(settings.data_dir))
            for name, sha256 in zip(spec.uploads, spec.upload_sha256 or [], strict=True)
        ]
        reconstruct(spec, checkpoint, sources, folder, on_progress=on_progress, device=settings.device)


def _named(link: Path, owner: str, sha256: str, uploads: Uploads) -> Path:
    """Show the content of an upload under its name.

    Raises
    ------
    UploadNotFoundError, UploadDamagedError, SpecError
        If it was removed, damaged or replaced after the job was accepted.
    """
    content = uploads.content(owner, link.name)
    if uploads.get(owner, link.name).sha256 != sha256:
        raise SpecError(f"the upload {link.name} was replaced after this job was accepted; send the request again")
    link.symlink_to(content.resolve())
    return link
