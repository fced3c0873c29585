"""The models of jobs: find them, compare their checksums with the job, and keep them loaded."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import torch

from model.card import SHIPPED_MODELS, find_model
from model.errors import CheckpointError
from model.network.checkpoint import Checkpoint, load_checkpoint
from worker.jobs import Job
from worker.settings import WorkerSettings
from worker.storage.objects import open_store
from worker.uploads.store import Uploads

CHECKPOINTS_KEPT = 4  # at most 2 MB each


def checkpoint_of(job: Job, settings: WorkerSettings) -> Checkpoint:
    """Return the model of a job.

    Raises
    ------
    UnknownModelError, CheckpointError
        If it was removed or replaced, or cannot be read.
    """
    return _checkpoint(model_folder_of(job, settings), job.model_sha256)


def model_folder_of(job: Job, settings: WorkerSettings) -> Path:
    """Return the folder of the model of a job; raises ``UnknownModelError`` if it is gone."""
    Uploads(settings.data_dir, store=open_store(settings.store)).models.fetch(job.model_id)
    return find_model(job.model_id, [*settings.model_dirs, settings.data_dir / "models", SHIPPED_MODELS])


@lru_cache(maxsize=CHECKPOINTS_KEPT)
def _checkpoint(folder: Path, sha256: str) -> Checkpoint:
    """Return a loaded checkpoint, whose weights have the checksum that the job names."""
    if threads := WorkerSettings().threads:
        torch.set_num_threads(threads)
    checkpoint = load_checkpoint(folder)
    if checkpoint.card.sha256 != sha256:
        raise CheckpointError(f"the model {folder.name!r} was replaced after this job was accepted; send it again")
    return checkpoint
