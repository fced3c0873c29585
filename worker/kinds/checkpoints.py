"""The models that runners work with: found, compared with the job, and kept loaded."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import torch

from model.card import SHIPPED_MODELS, find_model
from model.errors import CheckpointError
from model.network.checkpoint import Checkpoint, load_checkpoint
from worker.jobs import Job
from worker.settings import WorkerSettings

CHECKPOINTS_KEPT = 4  # at most 2 MB each


def checkpoint_of(job: Job, settings: WorkerSettings) -> Checkpoint:
    """Return the model of a job.

    Raises
    ------
    UnknownModelError, CheckpointError
        If it is gone, was replaced, or cannot be read.
    """
    return _checkpoint(model_folder_of(job, settings), job.model_sha256)


def model_folder_of(job: Job, settings: WorkerSettings) -> Path:
    """Return the folder of the model of a job; raises ``UnknownModelError`` if it is gone."""
    return find_model(job.model_id, [*settings.model_dirs, settings.data_dir / "models", SHIPPED_MODELS])


@lru_cache(maxsize=CHECKPOINTS_KEPT)
def _checkpoint(folder: Path, sha256: str) -> Checkpoint:
    """Return a loaded checkpoint; the job named its weights by their checksum, and gets those or none."""
    if threads := WorkerSettings().threads:
        torch.set_num_threads(threads)
    checkpoint = load_checkpoint(folder)
    if checkpoint.card.sha256 != sha256:
        raise CheckpointError(f"the model {folder.name!r} was replaced after this job was accepted; send it again")
    return checkpoint
