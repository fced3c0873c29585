"""The files of finished jobs: which of them exist, and what to answer when they are missing, expired or damaged.

Promises: a file that is missing or damaged is recorded, so that the next identical request computes it again; its
answer holds the spec. Files that disappear while they are read are answered with the reason.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from typing import Any

from app.problems.handlers import ProblemError
from app.problems.types import TABLE
from app.responses.zip_stream import Entry, archive_length
from app.services.resources import Resources
from model.output.contents import CELL, Position
from model.spec import LISTED_MAX, GenerationSpec
from worker.errors import (
    ArtifactDamagedError,
    ArtifactNotFoundError,
    JobCanceledError,
    JobExpiredError,
    JobFailedError,
    JobNotFinishedError,
)
from worker.jobs import Job, JobStatus
from worker.storage.artifacts import Artifacts, StoredFile, is_for_sealer

MANIFEST = "manifest.json"
PAGE = 10_000  # files of a page of a list that would be too long
LENGTHS: dict[str, int] = {}  # of archives of which all manifests must be read to know it; by their ETag
LENGTHS_MAX, LENGTHS_LOCK = 100, threading.Lock()


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


@dataclass(frozen=True, kw_only=True)
class Page:
    """Some of a job's files; ``following`` is where the next page starts, None after the last."""

    entries: list[Mapping[str, Any]]
    following: Position | None


def list_files(resources: Resources, job_id: str, *, start: Position, limit: int | None) -> Page:
    """Return the entries of a job's files; of a divided job that runs, those of its finished shards.

    Parameters
    ----------
    start
        The first file.
    limit
        The most files; None: all, where one manifest lists them, else :data:`PAGE`. All are ordered by name, pages in
        the order of the manifest.

    Raises
    ------
    Exception
        As :func:`reading_files`.
    """
    job = resources.jobs.get(job_id)
    if job.status.active and job.shards is not None:
        numbers = [number for number in resources.artifacts.finished_shards(job_id) if number >= start.shard]
        many = job.shards.total > 1 and job.spec.get("count", 1) > LISTED_MAX
        page = _page(_finished_files(resources, job_id, numbers, start), PAGE if limit is None and many else limit)
        if page.entries or start != Position():
            return page if limit is not None else replace(page, entries=sorted(page.entries, key=_name))
    with reading_files(resources, job_id):
        contents = resources.artifacts.contents(job_id)
        if start.shard and not contents.is_sharded:
            start = Position()  # the cursor is of while the job ran, in another order
        return _page(contents.files(start=start), PAGE if limit is None and contents.is_sharded else limit)


def _finished_files(
    resources: Resources, job_id: str, shards: Sequence[int], start: Position
) -> Iterator[tuple[Position, Mapping[str, Any]]]:
    for shard in shards:
        with suppress(ArtifactNotFoundError):  # the job is being sealed
            first = Position(file=start.file if shard == start.shard else 0)
            for position, entry in resources.artifacts.contents(job_id, shard=shard).files(start=first):
                if not is_for_sealer(entry["name"]):
                    yield Position(shard, position.file), entry


def _page(found: Iterator[tuple[Position, Mapping[str, Any]]], limit: int | None) -> Page:
    entries = [entry for _, entry in islice(found, limit)]
    return Page(entries=entries, following=next(found, (None, None))[0])


def _name(entry: Mapping[str, Any]) -> str:
    return str(entry["name"])


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
        for shard in _shards_with(job, name, resources):
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


def _shards_with(job: Job, name: str, resources: Resources) -> Sequence[int]:
    """Return the shards of a running job that may have a file: where the spec says which, that one only."""
    cell = CELL.match(name)
    if job.kind == GenerationSpec.KIND and cell:
        number = GenerationSpec.model_validate_json(json.dumps(job.spec)).shard_of_cell(int(cell[1]))
        return [] if number is None else [number]
    return resources.artifacts.finished_shards(job.id)


@dataclass(frozen=True, kw_only=True)
class ArchiveContents:
    """The files of an archive; each iteration goes through them anew."""

    resources: Resources
    job_id: str
    cell: int | None

    def __iter__(self) -> Iterator[Entry]:
        artifacts, job_id = self.resources.artifacts, self.job_id
        manifest = Entry.of(MANIFEST, artifacts.path(job_id, MANIFEST))
        contents = artifacts.contents(job_id)
        if contents.is_sharded:
            # In the order of the manifest, and compared with their entries when they are read: there are too many to
            # look at each before.
            yield manifest
            found = contents.files_of_cell(self.cell) if self.cell is not None else (e for _, e in contents.files())
            for listed in found:
                name = str(listed["name"])
                yield Entry(name, listed["bytes"], listed["sha256"], partial(_path, artifacts, job_id, name))
            return
        folder = "" if self.cell is None else f"cell_{self.cell:04d}/"
        entries = [
            Entry.of(name, path, sha256=listed["sha256"])
            for name, path, listed in artifacts.all_sized(job_id)
            if name.startswith(folder)
        ]
        yield from sorted([manifest, *entries], key=lambda entry: entry.name)


def _path(artifacts: Artifacts, job_id: str, name: str) -> StoredFile:
    return artifacts.path(job_id, name)


def archive_entries(resources: Resources, job_id: str, *, cell: int | None) -> tuple[Iterable[Entry], int, str]:
    """Return the entries of a job's archive, its length, and the SHA-256 that identifies its content.

    They are ordered by name; where the manifests of shards list the files, they follow from one to the next, never all
    in memory.

    Raises
    ------
    ArtifactNotFoundError
        If the job has no such cell.
    ArtifactDamagedError
        If a file differs in size from the manifest.
    """
    manifest = resources.artifacts.path(job_id, MANIFEST).read_bytes()
    folder = "" if cell is None else f"cell_{cell:04d}"
    sha256 = hashlib.sha256(b"zip/1\0" + folder.encode() + manifest).hexdigest()
    entries: Iterable[Entry] = ArchiveContents(resources=resources, job_id=job_id, cell=cell)
    if cell is not None or not resources.artifacts.contents(job_id).is_sharded:
        entries = list(entries)
        if cell is not None and len(entries) == 1:
            raise ArtifactNotFoundError(f"this job has no cell {cell}; its list of files shows its cells")
        return entries, archive_length(entries), sha256
    with LENGTHS_LOCK:
        length = LENGTHS.get(sha256)
    if length is None:
        length = archive_length(entries)
        with LENGTHS_LOCK:
            LENGTHS[sha256] = length
            while len(LENGTHS) > LENGTHS_MAX:
                del LENGTHS[next(iter(LENGTHS))]
    return entries, length, sha256


def report_damage(resources: Resources, job_id: str, chunks: Iterator[bytes]) -> Iterator[bytes]:
    """Pass an archive on. If a file is damaged, report it and break the connection."""
    try:
        yield from chunks
    except (ArtifactDamagedError, FileNotFoundError):
        resources.jobs.report_damage(job_id)
        raise
