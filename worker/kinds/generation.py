"""The kind ``generation``: new cell sequences from a trained model."""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path

import torch

from model.card import SHIPPED_MODELS, find_model
from model.errors import CheckpointError
from model.export.manifest import MANIFEST_FILE, Manifest, merge_manifests
from model.network.checkpoint import Checkpoint, load_checkpoint
from model.spec import GenerationSpec
from model.synthesis import Progress, synthesize
from worker.jobs import Job
from worker.kinds.base import Report
from worker.settings import WorkerSettings
from worker.storage.durable_files import link_tree

CHECKPOINTS_KEPT = 4  # at most 2 MB each


def run(job: Job, folder: Path, report: Report) -> None:
    """Write new cell sequences into ``folder``, a manifest last; a :data:`~worker.kinds.base.Runner`."""
    settings = WorkerSettings()
    spec = GenerationSpec.model_validate_json(json.dumps(job.spec))
    roots = [*settings.model_dirs, settings.data_dir / "models", SHIPPED_MODELS]
    checkpoint = _checkpoint(find_model(job.model_id, roots), job.model_sha256)

    def on_progress(progress: Progress) -> None:
        report(stage=progress.stage, frame=progress.frame, frames=progress.frames)

    synthesize(spec, checkpoint, folder, on_progress=on_progress, device=settings.device)


def seal(job: Job, parts: list[Path], folder: Path, report: Report) -> None:
    """Put the cells of all shards into ``folder`` and their manifests together; a :data:`~worker.kinds.base.Sealer`.

    Files become further links to those of the shards where the disk has links.
    """
    manifests = []
    for number, part in enumerate(parts, start=1):
        manifests.append(Manifest.model_validate_json((part / MANIFEST_FILE).read_bytes()))
        link_tree(part, folder, without=MANIFEST_FILE)
        report(stage="sealing", frame=number, frames=len(parts))
    (folder / MANIFEST_FILE).write_bytes(merge_manifests(manifests, job.spec).to_json())


@lru_cache(maxsize=CHECKPOINTS_KEPT)
def _checkpoint(folder: Path, sha256: str) -> Checkpoint:
    """Return a loaded checkpoint; the job named its weights by their checksum, and gets those or none."""
    if threads := WorkerSettings().threads:
        torch.set_num_threads(threads)
    checkpoint = load_checkpoint(folder)
    if checkpoint.card.sha256 != sha256:
        raise CheckpointError(f"the model {folder.name!r} was replaced after this job was accepted; send it again")
    return checkpoint
