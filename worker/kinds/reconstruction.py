"""The kind ``reconstruction``: an uploaded cell, or all cells of a recording, fitted and written anew."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from model.fitting.all_cells import fit_part, put_together
from model.fitting.reconstruction import reconstruct
from model.output.manifest import MANIFEST_FILE
from model.reconstruction_spec import ReconstructionSpec
from model.synthesis import Progress
from worker.jobs import Job
from worker.kinds.base import Report
from worker.kinds.checkpoints import checkpoint_of
from worker.kinds.parts import part_file, write_part_manifest
from worker.kinds.uploaded_files import uploaded_files
from worker.settings import WorkerSettings
from worker.storage.artifacts import PART
from worker.storage.durable_files import link_tree

FITS = "fits.json"


def run(job: Job, folder: Path, report: Report) -> None:
    """Write the fitted cell into ``folder``, a manifest last; a :data:`~worker.kinds.base.Runner`."""
    settings, spec = WorkerSettings(), _spec(job)
    checkpoint = checkpoint_of(job, settings)
    with uploaded_files(job, spec.uploads, spec.upload_sha256, settings) as sources:
        reconstruct(spec, checkpoint, sources, folder, on_progress=_shown(report), device=settings.device)


def run_part(job: Job, shard: int, folder: Path, report: Report) -> None:
    """Write the fitted cells of one shard; a :data:`~worker.kinds.base.PartRunner`."""
    settings, spec = WorkerSettings(), _spec(job)
    checkpoint = checkpoint_of(job, settings)
    with uploaded_files(job, spec.uploads, spec.upload_sha256, settings) as sources:
        fit_part(
            spec, shard, checkpoint, sources, folder, part_file(folder, FITS), on_progress=_shown(report),
            device=settings.device,
        )  # fmt: skip
    write_part_manifest(folder)


def seal(job: Job, parts: list[Path], folder: Path, report: Report) -> None:
    """Collect the cells of all shards and write them together; a :data:`~worker.kinds.base.Sealer`.

    Files are hard links to those of the shards where the file system supports them.
    """
    settings, spec = WorkerSettings(), _spec(job)
    checkpoint = checkpoint_of(job, settings)
    for part in parts:
        for found in part.iterdir():
            if found.name not in (PART, MANIFEST_FILE):
                link_tree(found, folder / found.name, without="")
    facts = [part_file(part, FITS) for part in parts]
    with uploaded_files(job, spec.uploads, spec.upload_sha256, settings) as sources:
        put_together(spec, checkpoint, sources, facts, folder, on_progress=_shown(report))


def _spec(job: Job) -> ReconstructionSpec:
    return ReconstructionSpec.model_validate_json(json.dumps(job.spec))


def _shown(report: Report) -> Callable[[Progress], None]:
    def on_progress(progress: Progress) -> None:
        report(stage=progress.stage, frame=progress.frame, frames=progress.frames)

    return on_progress
