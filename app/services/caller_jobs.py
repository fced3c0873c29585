"""The jobs of one caller. Endpoints use only this class, so that none of them can reach the jobs of another caller.

Promises: a job of another caller is answered like a job that does not exist. A caller never has more active jobs than
its share. A refusal because of the share or a full queue says when to try again.
"""

from __future__ import annotations

import builtins  # because a method here is called list
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import structlog

from app.problems.handlers import ProblemError
from app.problems.types import OVER_SHARE, TABLE
from worker.errors import QueueUnavailableError
from worker.jobs import (
    AsyncJobQueue,
    Batch,
    BatchJob,
    Job,
    JobEvent,
    JobFilter,
    JobOptions,
    JobPage,
    JobQueue,
    JobStatus,
)
from worker.jobs.quotas import OverShareError, Quota

log: structlog.stdlib.BoundLogger = structlog.get_logger("cytosynth.jobs")


class CallerJobs:
    """The jobs of ``owner``, of which ``share`` may be active; without ``share``, as many as the queue holds."""

    def __init__(
        self, jobs: JobQueue, async_jobs: AsyncJobQueue, quota: Quota, *, owner: str, share: int | None
    ) -> None:
        """Use the records of ``jobs`` and ``async_jobs``."""
        self._jobs, self._async, self._quota = jobs, async_jobs, quota
        self._owner, self._share = owner, share

    def submit(
        self, *, digest: str, idempotency_key: str | None = None, options: JobOptions | None = None, **request: Any
    ) -> tuple[Job, bool]:
        """Accept a job, as :meth:`worker.jobs.JobQueue.submit` does.

        Raises
        ------
        ProblemError
            429 if the caller has as many active jobs as its share, 503 if the queue is full or the broker does not
            answer; both with Retry-After.
        IdempotencyError
            If the key was used with another request.
        """
        request |= {"digest": digest, "idempotency_key": idempotency_key, "owner": self._owner, "options": options}
        with self._places(digest=digest, idempotency_key=idempotency_key, options=options):
            job, new = self._jobs.submit(**request)
        log.info("job accepted" if new else "job exists", job_id=job.id, kind=job.kind, state=job.status.value)
        return job, new

    def submit_batch(
        self,
        jobs: Sequence[BatchJob],
        *,
        request_digest: str,
        options: JobOptions,
        webhook: str,
        idempotency_key: str | None,
    ) -> Batch:
        """Accept all jobs of a batch, or none, as :meth:`worker.jobs.batches.Batches.submit` does.

        Raises
        ------
        ProblemError, IdempotencyError
            As :meth:`submit`.
        """
        batches = self._jobs.batches
        if idempotency_key is not None:
            known = batches.find(owner=self._owner, request_digest=request_digest, idempotency_key=idempotency_key)
            if known is not None:
                return known
        with self._places(digest=request_digest, places=len(jobs)):
            batch, new = batches.submit(
                jobs, owner=self._owner, request_digest=request_digest, options=options, webhook=webhook,
                idempotency_key=idempotency_key,
            )  # fmt: skip
        log.info("batch accepted" if new else "batch exists", batch_id=batch.id, jobs=len(jobs))
        return batch

    def get_batch(self, batch_id: str) -> Batch:
        """Return one batch; raises ``BatchNotFoundError``."""
        return self._jobs.batches.get(batch_id, owner=self._owner)

    def cancel_batch(self, batch_id: str, *, ends_itself: Callable[[Job], bool] = lambda _job: False) -> Batch:
        """Cancel every job of a batch that has not ended, but those that end by themselves."""
        batch = self._jobs.batches.cancel(
            batch_id, owner=self._owner, ends_itself=lambda job_id: ends_itself(self._jobs.get(job_id))
        )
        log.info("batch canceled", batch_id=batch.id)
        return batch

    def delete_batch(self, batch_id: str) -> None:
        """Remove a batch whose jobs have ended, with the jobs and their files."""
        self._jobs.batches.delete(batch_id, owner=self._owner)
        log.info("batch removed", batch_id=batch_id)

    @contextmanager
    def _places(self, *, digest: str, places: int = 1, **request: Any) -> Iterator[None]:
        """Hold places in the caller's share while jobs are submitted; raises ``ProblemError`` as :meth:`submit`."""
        try:
            if self._share is None:
                yield
            else:
                with self._quota.reservation(self._owner, share=self._share, digest=digest, places=places, **request):
                    yield
        except OverShareError as error:
            again = error.throughput.until_one_of_own_ends()
            detail = f"this key has {error.throughput.own} jobs queued or running; at most {self._share} are allowed"
            raise ProblemError(OVER_SHARE, detail, headers={"Retry-After": str(again)}) from None
        except QueueUnavailableError as error:
            raise ProblemError(TABLE[QueueUnavailableError], error.message, headers=self._retry_after()) from None

    def get(self, job_id: str) -> Job:
        """Return one job; raises ``JobNotFoundError``."""
        return self._jobs.get(job_id, owner=self._owner)

    def list(
        self,
        *,
        status: JobStatus | None = None,
        kind: str | None = None,
        where: JobFilter | None = None,
        cursor: str | None = None,
        limit: int = 50,
    ) -> JobPage:
        """Return a page of jobs, newest first."""
        return self._jobs.list(owner=self._owner, status=status, kind=kind, where=where, cursor=cursor, limit=limit)

    def cancel(self, job_id: str) -> Job:
        """Cancel a job that has not ended."""
        job = self._jobs.cancel(job_id, owner=self._owner)
        log.info("job canceled", job_id=job.id, state=job.status.value)
        return job

    def pin(self, job_id: str, *, pinned: bool) -> Job:
        """Pin or unpin a job; raises :class:`JobError` if it has no files to keep."""
        job = self._jobs.pin(job_id, pinned=pinned, owner=self._owner)
        log.info("job pinned" if pinned else "job unpinned", job_id=job.id)
        return job

    def delete(self, job_id: str) -> None:
        """Remove a job that has ended, and its files."""
        self._jobs.delete(job_id, owner=self._owner)
        log.info("job removed", job_id=job_id)

    def report_damage(self, job_id: str) -> None:
        """Record that a file of this job is damaged, so that the next identical request computes it again."""
        self._jobs.leases.report_damage(job_id)

    async def async_get(self, job_id: str) -> Job:
        """Return one job; raises ``JobNotFoundError``."""
        return await self._async.async_get(job_id, owner=self._owner)

    async def async_wait(self, job_id: str, *, timeout_s: float) -> Job:
        """Return the job when it has ended, or after ``timeout_s`` seconds."""
        return await self._async.async_wait(job_id, owner=self._owner, timeout_s=timeout_s)

    async def async_batch_events(self, batch: Batch, *, after: str, block_s: float = 0.0) -> builtins.list[JobEvent]:
        """Return the events of a batch after the event ``after``; the batch must come from this class."""
        return await self._async.async_events(batch.id, after=after, block_s=block_s)

    async def async_events(self, job: Job, *, after: str = "0", block_s: float = 0.0) -> builtins.list[JobEvent]:
        """Return the events of a job after the event ``after``; the job must come from this class."""
        return await self._async.async_events(job.id, after=after, block_s=block_s)

    def _retry_after(self) -> dict[str, str]:
        try:
            return {"Retry-After": str(self._quota.throughput(self._owner).until_room())}
        except QueueUnavailableError:
            return {}  # unknown; the kind of problem has a default
