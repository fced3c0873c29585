"""The kind ``training``: a model trained on uploads, private to their owner and usable at once.

The model is installed before the job's files are published, also where they are copied from an earlier job: where a job
has succeeded, its model is there.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import torch

from model.card import CARD_FILE
from model.errors import CheckpointError, ExportError
from model.network.checkpoint import load_checkpoint
from model.training import MODEL_FOLDER, TrainingProgress, train_model
from model.training_spec import TrainingSpec
from worker.errors import CytosynthError
from worker.jobs import Job
from worker.kinds.base import Report
from worker.kinds.uploaded_files import uploaded_files
from worker.settings import WorkerSettings
from worker.storage.objects import open_store
from worker.storage.stored_artifacts import open_artifacts
from worker.uploads.store import Uploads

log = logging.getLogger(__name__)


def run(job: Job, folder: Path, report: Report) -> None:
    """Write the trained model into ``folder``, a manifest last; a :data:`~worker.kinds.base.Runner`."""
    settings = WorkerSettings()
    if settings.threads:
        torch.set_num_threads(settings.threads)
    spec = TrainingSpec.model_validate_json(json.dumps(job.spec))
    artifacts = open_artifacts(settings.data_dir, settings.store)

    @contextmanager
    def sources() -> Iterator[Path]:
        with uploaded_files(job, spec.uploads, spec.upload_sha256, settings, folder=spec.name) as links:
            yield links[0].parent

    def send_state() -> None:
        try:
            artifacts.send_state(job.id, folder.name)
        except CytosynthError as error:
            log.warning("job %s: its state is on this host only: %s", job.id, error.message)

    def on_progress(progress: TrainingProgress) -> None:
        send_state()
        report(**asdict(progress))

    artifacts.fetch_states(job.id)
    try:
        train_model(
            spec, sources, artifacts.state(job.id), folder, attempt=folder.name, on_progress=on_progress,
            should_stop=lambda: artifacts.asked_to_stop(job.id), save_every_s=settings.training_save_seconds,
            device=settings.device,
        )  # fmt: skip
    except BaseException:
        send_state()  # the state was saved once more
        raise


def install(job: Job, folder: Path) -> None:
    """Make the trained model one of the owner's; an :data:`~worker.kinds.base.Installer`."""
    made = folder / MODEL_FOLDER
    try:
        card = load_checkpoint(made).card  # whose weights have the checksum that it states
    except CheckpointError as error:
        raise ExportError(f"the trained model cannot be read: {error.message}") from error
    files = sorted(path for path in made.iterdir() if path.name != CARD_FILE)
    settings = WorkerSettings()
    uploads = Uploads(settings.data_dir, store=open_store(settings.store))
    uploads.models.install_files(job.owner, [(path, path.name) for path in files], card)
