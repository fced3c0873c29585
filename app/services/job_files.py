"""The files of finished jobs: which of them exist, and what to answer when they are missing, expired or damaged.

Promises: a file that is missing or damaged is recorded, so that the next identical request computes it again; its
answer holds the spec. Files that disappear while they are read are answered with the reason.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from app.problems.handlers import ProblemError
from app.problems.types import TABLE
from app.responses.zip_stream import Entry
from app.services.resources import Resources
from worker.errors import (
    ArtifactDamagedError,
    ArtifactNotFoundError,
    JobCanceledError,
    JobExpiredError,
    JobFailedError,
    JobNotFinishedError,
)
from worker.jobs import Job, JobStatus
from worker.storage.artifacts import StoredFile, is_for_sealer

MANIFEST = "manifest.json"


def finished_job(resources: Resources, job_id: str) -> Job:
    """Return a job that has files.

    Raises
    ------
    JobNotFoundError, JobNotFinishedError, JobFailedError, JobCanceledError, ProblemError
        If it has none; the problem of an expired job holds the spec, so that the request can be repeated.
    """
    job = resources.jobs.get(job_id)
    match job.status:
        case JobStatus.SUCCEEDED:
            return job
        case JobStatus.EXPIRED:
            detail = "the files of this job were removed after their retention time; POST spec to compute them again"
            raise ProblemError(TABLE[JobExpiredError], detail, spec=job.spec, kind=job.kind)
        case JobStatus.FAILED:
            raise JobFailedError(f"the job failed: {job.error.message if job.error else 'no reason is known'}")
        case JobStatus.CANCELED:
            raise JobCanceledError("the job was canceled and has no files")
        case _:
            raise JobNotFinishedError(f"the job is {job.status}; its files exist when it has succeeded")


@contextmanager
def reading_files(resources: Resources, job_id: str) -> Iterator[Job]:
    """Yield a finished job while its files are read; if they disappear meanwhile, raise the reason.

    Raises
    ------
    JobNotFoundError, JobNotFinishedError, JobFailedError, JobCanceledError
        As :func:`finished_job`, before or after the files are read.
    ProblemError
        As :func:`finished_job`; or 410 if a file is damaged, with the spec, so that the request can be repeated.
    ArtifactNotFoundError
        If the job has no such file.
    """
    job = finished_job(resources, job_id)
    try:
        yield job
    except (ArtifactNotFoundError, ArtifactDamagedError, FileNotFoundError, KeyError) as error:
        job = finished_job(resources, job_id)
        if isinstance(error, ArtifactNotFoundError) and resources.artifacts.exists(job_id):
            raise
        # A succeeded job without files is damaged too.
        resources.jobs.report_damage(job_id)
        detail = "files of this job, or their entries in the manifest, are missing; submit the request again"
        if isinstance(error, ArtifactDamagedError):
            detail = error.message
        raise ProblemError(TABLE[ArtifactDamagedError], detail, spec=job.spec, kind=job.kind) from error


def list_files(resources: Resources, job_id: str) -> list[dict[str, Any]]:
    """Return the entries of a job's files, ordered by name; of a divided job that runs, those of its finished shards.

    Raises
    ------
    Exception
        As :func:`reading_files`.
    """
    job = resources.jobs.get(job_id)
    if job.status.active and job.shards is not None:
        listed: list[dict[str, Any]] = []
        for shard in resources.artifacts.finished_shards(job_id):
            with suppress(ArtifactNotFoundError):  # the job is being sealed
                files = resources.artifacts.manifest(job_id, shard=shard)["files"]
                listed += [entry for entry in files if not is_for_sealer(entry["name"])]
        if listed:
            return sorted(listed, key=lambda entry: str(entry["name"]))
    with reading_files(resources, job_id):
        return list(resources.artifacts.manifest(job_id)["files"])


def find_file(resources: Resources, job_id: str, name: str, *, unread: bool = False) -> tuple[StoredFile, str]:
    """Return where a verified file of a job lies, and its SHA-256; of a job that runs, if its shard is finished.

    Parameters
    ----------
    unread
        Compare its size only: this process does not send it.

    Raises
    ------
    Exception
        As :func:`reading_files`.
    """
    look = resources.artifacts.sized if unread else resources.artifacts.verified
    job = resources.jobs.get(job_id)
    if job.status.active and job.shards is not None and name != MANIFEST and not is_for_sealer(name):
        for shard in resources.artifacts.finished_shards(job_id):
            with suppress(ArtifactNotFoundError):
                path, entry = look(job_id, name, shard=shard)
                return path, str(entry["sha256"])
    with reading_files(resources, job_id):
        if name != MANIFEST:
            path, entry = look(job_id, name)
            return path, str(entry["sha256"])
        resources.artifacts.manifest(job_id)  # a manifest does not list itself
        path = resources.artifacts.path(job_id, name)
        return path, hashlib.sha256(path.read_bytes()).hexdigest()


def archive_entries(resources: Resources, job_id: str, *, cell: int | None) -> tuple[list[Entry], str]:
    """Return the entries of a job's archive, ordered by name, and the SHA-256 that identifies its content.

    Raises
    ------
    ArtifactNotFoundError
        If the job has no such cell.
    ArtifactDamagedError
        If a file differs in size from the manifest.
    """
    manifest = resources.artifacts.path(job_id, MANIFEST)
    entries = [Entry.of(MANIFEST, manifest)]
    folder = "" if cell is None else f"cell_{cell:04d}"
    for name, path, listed in resources.artifacts.all_sized(job_id):
        if not folder or name.startswith(f"{folder}/"):
            entries.append(Entry.of(name, path, sha256=listed["sha256"]))
    if folder and len(entries) == 1:
        raise ArtifactNotFoundError(f"this job has no cell {cell}; its list of files shows its cells")
    entries.sort(key=lambda entry: entry.name)
    return entries, hashlib.sha256(b"zip/1\0" + folder.encode() + manifest.read_bytes()).hexdigest()


def report_damage(resources: Resources, job_id: str, chunks: Iterator[bytes]) -> Iterator[bytes]:
    """Pass an archive on. If a file is damaged, report it and break the connection."""
    try:
        yield from chunks
    except (ArtifactDamagedError, FileNotFoundError):
        resources.jobs.report_damage(job_id)
        raise
