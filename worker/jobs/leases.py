"""Leases: how a worker claims a job, renews its lease, and ends the job or gives it back.

Promises: a worker whose lease was lost can change nothing (every call carries the lease's token, and the broker
compares it); a job ends exactly once.
Does not promise: that a job is computed once only. A worker that is cut off computes on until it learns that its lease
was lost.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress

from worker.errors import (
    JobCanceledError,
    LeaseLostError,
    QueueUnavailableError,
)
from worker.jobs.reconciliation import Reconciler
from worker.jobs.records import (
    SEAL,
    JobProgress,
    JobRules,
    Lease,
    parse_job,
)
from worker.jobs.redis_store import Store
from worker.storage.artifacts import Artifacts

log = logging.getLogger(__name__)


class JobLeases:
    """The job records as workers use them; made by :class:`worker.jobs.queue.JobQueue`."""

    def __init__(
        self,
        store: Store,
        artifacts: Artifacts | None,
        rules: JobRules,
        *,
        reconciler: Reconciler,
        wake_up: Callable[[str], None],
    ) -> None:
        self._store, self._artifacts, self._rules = store, artifacts, rules
        self._reconciler, self._wake_up = reconciler, wake_up

    def claim(self, *, worker: str) -> Lease | None:
        """Lease the next queued job, or an open shard of one, to the process ``worker``; None if nothing is queued.

        Next is, of the owner who has the fewest leases, the job of the highest priority that was submitted first.
        """
        answer = self._reconciler.run("claim", worker, self._rules.lease_s)
        if not answer:
            return None
        token, flat, shard = answer
        return Lease(
            job=parse_job(dict(zip(flat[::2], flat[1::2], strict=True))),
            token=int(token),
            worker=worker,
            shard=SEAL if shard == SEAL else int(shard) if shard else None,
        )

    def renew(self, lease: Lease, *, progress: JobProgress | None = None, kept: bool = False) -> None:
        """Renew a lease and record progress.

        Parameters
        ----------
        kept
            The next attempt would begin further on than this one did: leases that were lost before count no more.

        Raises
        ------
        JobCanceledError, LeaseLostError
            If the worker must stop.
        """
        text = progress.to_json() if progress else ""
        self._under(lease, "renew", self._rules.lease_s, text, "1" if kept else "")

    def holds(self, job_id: str, token: int) -> bool:
        """Whether the lease with this token is still held."""
        return self._store.holds(job_id, token)

    def finish(self, lease: Lease, *, content: str = "", warnings: Sequence[Mapping[str, str]] = ()) -> None:
        """End a job as succeeded: the only commit of its published files.

        Parameters
        ----------
        content
            Names the files for :meth:`find_job_with_content`.
        warnings
            The warnings in the manifest, each with a ``code`` and a ``message``.
        """
        text = json.dumps(list(warnings)) if warnings else ""
        self._under(lease, "finish", lease.job_id, self._rules.retention_s, content, text)

    def finish_shard(self, lease: Lease) -> None:
        """Record that the files of a shard are published; after the last one the job waits to be sealed."""
        if self._under(lease, "finish_shard", lease.shard or 0) == "last":
            self._wake_up(lease.job_id)

    def reopen_shards(self, lease: Lease, shards: Sequence[int]) -> None:
        """Give back the lease for sealing, and queue these shards again because their files are missing."""
        self._under(lease, "reopen", *shards)
        for _ in shards:
            self._wake_up(lease.job_id)

    def find_job_with_content(self, content: str) -> str | None:
        """Return a job of any owner that has this content already, to copy its files; None if there is none."""
        return self._store.find_job_with_content(content) if self._rules.reuse else None

    def fail(self, lease: Lease, *, code: str, message: str) -> None:
        """End a job as failed; it is not tried again."""
        self._under(lease, "fail", code, message, self._rules.record_s)
        self._record_end(lease.job_id)

    def fail_attempt(self, lease: Lease, *, code: str, message: str) -> None:
        """Queue a job again after an error that it caused: counts as a lost lease, and too many fail the job."""
        if self._under(lease, "fail_attempt", self._rules.max_lost, self._rules.record_s, code, message) == "failed":
            self._record_end(lease.job_id)
        else:
            self._wake_up(lease.job_id)

    def release(self, lease: Lease) -> None:
        """Give a job back to the head of the queue; the attempt does not count."""
        self._under(lease, "release")
        self._wake_up(lease.job_id)

    def report_damage(self, job_id: str | None = None) -> None:
        """Count the damaged files that were found; the job ``job_id`` answers no other request from now on.

        If the disk or the broker refuses that, it is logged and no exception is raised.
        """
        if self._artifacts is None:
            return
        try:
            if job_id is not None:
                self._artifacts.mark_damaged(job_id)
        except OSError as error:
            log.warning("job %s: its damage cannot be recorded: %s", job_id, error)
        if damages := self._artifacts.take_damages():
            with suppress(QueueUnavailableError):  # the damage is in the log
                self._store.count("contents_damaged", damages)

    def _under(self, lease: Lease, script: str, *args: str | float) -> str:
        answer = str(self._reconciler.run(script, lease.job_id, lease.token, *args))
        if answer == "canceled":
            raise JobCanceledError(f"job {lease.job_id} was canceled")
        if answer == "lost":
            raise LeaseLostError(f"job {lease.job_id} belongs to another worker now")
        return answer

    def _record_end(self, job_id: str) -> None:
        with suppress(QueueUnavailableError):  # cleaning records the outcome later
            for job in self._reconciler.find([job_id]):
                self._reconciler.record_end(job)
