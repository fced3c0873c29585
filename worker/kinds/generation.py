"""The kind ``generation``: new cell sequences from a trained model."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from model.output.manifest import MANIFEST_FILE, Manifest, merge_manifests, write_sharded_manifest
from model.spec import GenerationSpec
from model.synthesis import Progress, synthesize
from worker.jobs import Job
from worker.kinds.base import Report
from worker.kinds.checkpoints import checkpoint_of
from worker.settings import WorkerSettings
from worker.storage.durable_files import link_tree


def run(job: Job, folder: Path, report: Report) -> None:
    """Write new cell sequences into ``folder``, a manifest last; a :data:`~worker.kinds.base.Runner`."""
    _synthesize(job, _spec(job), folder, report)


def run_part(job: Job, shard: int, folder: Path, report: Report) -> None:
    """Write the cell sequences of one shard; a :data:`~worker.kinds.base.PartRunner`."""
    _synthesize(job, _spec(job).shard(shard), folder, report)


def seal(job: Job, parts: list[Path], folder: Path, report: Report) -> None:
    """Collect the cells of all shards in ``folder`` and merge their manifests; a :data:`~worker.kinds.base.Sealer`.

    Files are hard links to those of the shards where the file system supports them. Where one manifest cannot list all
    cells, only the root manifest is written, and the shards stay as they are.
    """
    if not _spec(job).is_listed:
        write_sharded_manifest(folder, _counted(parts, report), spec=job.spec)
        return
    manifests = []
    for number, part in enumerate(parts, start=1):
        manifests.append(Manifest.model_validate_json((part / MANIFEST_FILE).read_bytes()))
        link_tree(part, folder, without=MANIFEST_FILE)
        report(stage="sealing", frame=number, frames=len(parts))
    (folder / MANIFEST_FILE).write_bytes(merge_manifests(manifests, job.spec).to_json())


def _counted(parts: list[Path], report: Report) -> Iterator[Path]:
    """Yield the manifests of shards; report each as it is taken."""
    for number, part in enumerate(parts, start=1):
        yield part / MANIFEST_FILE
        report(stage="sealing", frame=number, frames=len(parts))


def _spec(job: Job) -> GenerationSpec:
    return GenerationSpec.model_validate_json(json.dumps(job.spec))


def _synthesize(job: Job, spec: GenerationSpec, folder: Path, report: Report) -> None:
    settings = WorkerSettings()
    checkpoint = checkpoint_of(job, settings)

    def on_progress(progress: Progress) -> None:
        report(stage=progress.stage, frame=progress.frame, frames=progress.frames)

    synthesize(spec, checkpoint, folder, on_progress=on_progress, device=settings.device)
