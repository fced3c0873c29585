"""The job records in Redis, which decide the state of every request.

A Celery message is only a wake-up. It may be lost or doubled without harm, because every change of a job's state is one
Lua script, and the server runs one script at a time (docs/explanation/reliability.md)::

    submit ─▶ queued ──claim──▶ running ──finish──▶ succeeded ──retention──▶ expired
                ▲  │               │  ├──fail─────▶ failed
                │  └──cancel──┬────┼──┘  (or the third lost lease: worker_crashed)
                │             ▼    │
                │         canceled │
                └──release, lost lease

Promises: every job has exactly one final state. A worker whose lease was lost can change nothing. All times are those
of the broker's clock.
Does not promise: that a job runs only once. It ends once, and every run gives the same bytes.
"""

from __future__ import annotations

import builtins  # because a method here is called list
import logging
import time
from contextlib import suppress
from dataclasses import asdict
from typing import Any, Self

import redis

from worker.errors import (
    JobActiveError,
    JobCanceledError,
    JobError,
    JobExpiredError,
    JobFailedError,
    JobNotFoundError,
    QueueUnavailableError,
    SpecError,
)
from worker.jobs.admin import QueueAdmin
from worker.jobs.batches import Batches
from worker.jobs.leases import JobLeases
from worker.jobs.outbox import Outbox
from worker.jobs.reconciliation import Reconciler
from worker.jobs.records import (
    Job,
    JobEvent,
    JobFilter,
    JobOptions,
    JobPage,
    JobRules,
    JobStatus,
    Price,
)
from worker.jobs.redis_client import PREFIX, connect
from worker.jobs.redis_store import Store
from worker.jobs.submission import Submission
from worker.jobs.timings import Timings
from worker.jobs.wake_up import WakeUpSender, wake_up_sender
from worker.storage.artifacts import Artifacts
from worker.storage.journal import Journal

log = logging.getLogger(__name__)

PAGE_MAX = 200
WAKE_UPS_MAX = 256  # sent at once for one job; the sweeper sends more while its shards wait
ATTEMPTS = 5  # of an operation that a loss of the broker, or another process, undoes between two steps
NO_FILES: dict[JobStatus, type[JobError]] = {JobStatus.FAILED: JobFailedError, JobStatus.CANCELED: JobCanceledError}


class JobQueue:
    """The job records of one broker. Safe to share between threads, not across a fork.

    Parameters
    ----------
    client
        Connected to a server that :func:`worker.broker.check.check_server` accepts; :meth:`connect` makes one.
    artifacts
        The data folder, which holds requests too, so that the records of a broker that lost its data can be restored.
    wake_up
        Sends a wake-up to the workers. It may fail; the sweeper sends lost wake-ups again.
    """

    def __init__(
        self,
        client: redis.Redis,
        *,
        artifacts: Artifacts | None = None,
        wake_up: WakeUpSender | None = None,
        rules: JobRules | None = None,
        prefix: str = PREFIX,
    ) -> None:
        self.rules = rules or JobRules()
        self._redis = client
        self._store = Store(client, prefix=prefix)
        self.timings = Timings(self._store)
        self._prefix = prefix
        self._artifacts = artifacts
        self._wake_up = wake_up
        self._journal = Journal(artifacts.records) if artifacts else None
        self._reconciler = Reconciler(self._store, artifacts, self._journal, self.rules, wake_up=self.wake_up)
        self.leases = JobLeases(self._store, artifacts, self.rules, reconciler=self._reconciler, wake_up=self.wake_up)
        self.batches = Batches(
            self._store, self._journal, self.rules,
            reconciler=self._reconciler, wake_up=self.wake_up, cancel=self.cancel, delete=self.delete,
        )  # fmt: skip
        self.outbox = Outbox(self._store, self._journal)
        self.admin = QueueAdmin(client, self._store, reconciler=self._reconciler)
        self._submission = Submission(
            self._store, artifacts, self._journal, self.rules, restore=lambda: self._reconciler.find([])
        )

    @classmethod
    def connect(
        cls,
        url: str,
        *,
        artifacts: Artifacts | None = None,
        wake_up: WakeUpSender | None = None,
        rules: JobRules | None = None,
        prefix: str = PREFIX,
    ) -> Self:
        """Connect lazily; without ``wake_up``, wake-ups go through Celery on the same broker."""
        return cls(
            connect(url), artifacts=artifacts, wake_up=wake_up or wake_up_sender(url), rules=rules, prefix=prefix
        )

    def close(self) -> None:
        """Close the connections."""
        self._redis.close()

    # ------------------------------------------------------------------------------------------------ for the client

    def submit(
        self,
        *,
        kind: str,
        spec: dict[str, Any],
        model_id: str,
        model_sha256: str,
        digest: str,
        owner: str = "",
        idempotency_key: str | None = None,
        request_digest: str | None = None,
        price: Price | None = None,
        shards: int = 1,
        options: JobOptions | None = None,
    ) -> tuple[Job, bool]:
        """Accept a job, or find the one that answers the same request.

        Parameters
        ----------
        spec
            The completed spec as JSON members; stored unchanged.
        digest
            Names the result. A succeeded job of the owner with the same digest is returned instead of a new one, if the
            rules allow reuse.
        idempotency_key
            The same key with the same ``request_digest`` gives the same job.
        request_digest
            Of the request as the client sent it, before a seed was drawn; ``digest`` if absent.
        price
            The expected bytes and seconds, kept in the record for the worker.
        shards
            The number of shards, each leased by itself; 1: the job is leased as a whole.
        options
            What the caller attaches to it. A job with other labels does not answer the request.

        Returns
        -------
            The job, and whether it is new. Its request is on disk before the broker has the record.

        Raises
        ------
        IdempotencyError
            If the key was used with another body.
        QueueUnavailableError
            If the queue is full, the broker does not answer or the request cannot be stored.
        """
        request: dict[str, Any] = {
            "kind": kind, "owner": owner, "spec": spec, "model_id": model_id, "model_sha256": model_sha256,
            "digest": digest, "request_digest": request_digest or digest, **(options or JobOptions()).members(),
        }  # fmt: skip
        if price is not None:
            request["price"] = asdict(price)
        if shards > 1:
            request["shards"] = shards
        for _ in range(ATTEMPTS):
            job_id, new = self._submission.submit(request, idempotency_key=idempotency_key)
            if new:
                for _ in range(min(shards, WAKE_UPS_MAX)):
                    self.wake_up(job_id)
            with suppress(JobNotFoundError):  # its client has just removed it
                return self.get(job_id), new
        raise QueueUnavailableError("every job that answers this request is removed at once; try again in a moment")

    def get(self, job_id: str, *, owner: str | None = None) -> Job:
        """Return one job, of any owner if ``owner`` is None.

        Raises
        ------
        JobNotFoundError
            If it does not exist or belongs to another owner.
        QueueUnavailableError
            If the broker does not answer, or has lost its data and cannot be rebuilt.
        """
        jobs = self._store.fetch([job_id]) or self._reconciler.find([job_id])
        if not jobs or (owner is not None and jobs[0].owner != owner):
            raise JobNotFoundError(f"there is no job {job_id[:64]!r}")
        return jobs[0]

    def list(
        self,
        *,
        owner: str | None = None,
        status: JobStatus | None = None,
        kind: str | None = None,
        where: JobFilter | None = None,
        cursor: str | None = None,
        limit: int = 50,
    ) -> JobPage:
        """Return jobs, newest first.

        A page may hold fewer than ``limit`` jobs (even none) and still have a ``next_cursor``, if few jobs pass the
        filters. Jobs that are submitted between two calls do not shift the pages.
        """
        if cursor is not None and not (cursor.isascii() and cursor.isdigit() and len(cursor) < 17):
            raise SpecError("the cursor is not one that this service gave out; start again without it")
        limit = max(1, min(limit, PAGE_MAX))
        where = where or JobFilter()
        return self._reconciler.page(owner=owner, status=status, kind=kind, where=where, cursor=cursor, limit=limit)

    def cancel(self, job_id: str, *, owner: str | None = None) -> Job:
        """Cancel a job that has not ended; one that has is returned as it is.

        A running job is canceled at once. Its worker notices after the next frame and discards the files.
        """
        job, left = self.get(job_id, owner=owner), ATTEMPTS
        while job.status.active and left:  # the broker may have lost the record, and it is restored
            self._store.run("cancel", job_id, self.rules.record_s)
            job, left = self.get(job_id, owner=owner), left - 1
        if job.status is JobStatus.CANCELED and not self._reconciler.recorded_end(job_id):
            self._reconciler.record_end(job)  # also if another process canceled it and died
        return job

    def delete(self, job_id: str, *, owner: str | None = None) -> None:
        """Delete a finished job: unpublish its files, then remove them.

        Raises
        ------
        JobActiveError
            While it is queued or running.
        """
        if self.get(job_id, owner=owner).status.active:
            raise JobActiveError(f"job {job_id} has not ended; cancel it before removing it")
        if not self._reconciler.remove(job_id):
            raise JobActiveError(f"job {job_id} is being carried out again; cancel it before removing it")

    def pin(self, job_id: str, *, pinned: bool = True, owner: str | None = None) -> Job:
        """Keep a job's files until it is unpinned, when their retention time restarts; returns the job.

        Raises
        ------
        JobExpiredError, JobFailedError, JobCanceledError
            If it has no files and will have none.
        """
        for _ in range(ATTEMPTS):
            job = self.get(job_id, owner=owner)
            if not (job.status.active or job.status is JobStatus.SUCCEEDED):
                raise NO_FILES.get(job.status, JobExpiredError)(f"job {job_id} has no files that could be kept")
            if self._reconciler.pin(job_id, pinned=pinned):
                return self.get(job_id, owner=owner)
        raise QueueUnavailableError("this job changes faster than it can be looked at; try again in a moment")

    def events(self, job_id: str, *, after: str = "0", block_s: float = 0.0) -> builtins.list[JobEvent]:
        """Return the events after ``after``, possibly none; waits up to ``block_s`` seconds for the first."""
        return self._store.events(job_id, after=after, block_s=block_s)

    def wait(self, job_id: str, *, timeout_s: float, owner: str | None = None) -> Job:
        """Return the job as soon as it has ended, or as it is after ``timeout_s``."""
        deadline = time.monotonic() + timeout_s
        after = self._store.last_event(job_id)
        job = self.get(job_id, owner=owner)
        while job.status.active and (left := deadline - time.monotonic()) > 0:
            events = self.events(job_id, after=after, block_s=left)
            after = events[-1].id if events else after
            if any(event.event == "state" for event in events):
                job = self.get(job_id, owner=owner)
        return job

    # ------------------------------------------------------------------------------------------ for the whole service

    def wake_up(self, job_id: str) -> None:
        """Send a wake-up to the workers; a failure is logged, not raised."""
        if self._wake_up is None:
            return
        try:
            self._wake_up(job_id)
        except Exception as error:  # noqa: BLE001 - a wake-up is never worth failing for: the sweeper repairs it
            log.warning("job %s: no wake-up sent (%s); the sweeper will", job_id, error)
