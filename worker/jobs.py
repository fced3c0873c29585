"""The job records: the truth about every request, kept in Redis.

A Celery message is only a hint that there is work; it may be lost or doubled without harm, because every step in the
life of a job is one Lua script here, and the server runs one script at a time (``docs``: durability, §2)::

    submit ─▶ queued ──claim──▶ running ──finish──▶ succeeded ──retention──▶ expired
                ▲  │               │  ├──fail─────▶ failed
                │  └──cancel──┬────┼──┘  (or the third lost lease: worker_crashed)
                │             ▼    │
                │         canceled │
                └──release, lost lease

Promises: exactly one final state a job; a worker whose lease was lost can change nothing; all times are the broker's.
Does not promise: that a job runs once only. It ends once; the digest in its record makes every run give the same bytes.
"""

from __future__ import annotations

import builtins  # because a method here is called list
import hashlib
import json
import logging
import time
from collections.abc import Callable
from dataclasses import asdict
from typing import Any, Self

import redis

from worker.artifacts import Artifacts
from worker.async_jobs import BLOCK_S, PREFIX, AsyncJobs, block_ms, event_id
from worker.connection import connect, reachable
from worker.errors import (
    IdempotencyError,
    JobActiveError,
    JobCanceledError,
    JobNotFoundError,
    LeaseLostError,
    QueueUnavailableError,
    SpecError,
)
from worker.records import (
    Job,
    JobEvent,
    JobFailure,
    JobPage,
    JobProgress,
    JobRules,
    JobStatus,
    Lease,
    Sweep,
    WorkerBeat,
    new_job_id,
    parse_events,
    parse_job,
)
from worker.store import Store

__all__ = [
    "AsyncJobs",
    "Job",
    "JobEvent",
    "JobFailure",
    "JobPage",
    "JobProgress",
    "JobRules",
    "JobStatus",
    "Jobs",
    "Lease",
    "Sweep",
    "WorkerBeat",
]

log = logging.getLogger(__name__)

QUEUE = "cytosynth"  # the list that holds the hints; Celery's queue of the same name
PAGE_MAX = 200
SCAN_MAX = 5000  # records looked at for one page, however rare the filter
CRASHED = (
    "the workers that ran this job died {lost} times (out of memory?); "
    "ask for a smaller grid, fewer frames or a smaller count"
)

HintPublisher = Callable[[str], None]


class Jobs:
    """The job records of one broker. Safe to share between threads, not across a fork.

    Parameters
    ----------
    client
        Connected to a server that :func:`worker.broker.check_server` accepts; :meth:`connect` makes one.
    artifacts
        Where requests are kept a second time, so that :meth:`rebuild` can restore a lost broker.
    hint
        Tells a worker that there is work; it may fail, the sweeper repairs that.
    """

    def __init__(
        self,
        client: redis.Redis,
        *,
        artifacts: Artifacts | None = None,
        hint: HintPublisher | None = None,
        rules: JobRules | None = None,
        prefix: str = PREFIX,
    ) -> None:
        self.rules = rules or JobRules()
        self._redis = client
        self._store = Store(client, prefix=prefix)
        self._prefix = prefix
        self._artifacts = artifacts
        self._hint = hint

    @classmethod
    def connect(
        cls,
        url: str,
        *,
        artifacts: Artifacts | None = None,
        hint: HintPublisher | None = None,
        rules: JobRules | None = None,
        prefix: str = PREFIX,
    ) -> Self:
        """Connect lazily; without ``hint``, hints go through Celery on the same broker."""
        return cls(connect(url), artifacts=artifacts, hint=hint or _celery_hints(url), rules=rules, prefix=prefix)

    def close(self) -> None:
        """Close the connections."""
        self._redis.close()

    def ping(self) -> float:
        """Return the seconds the broker took to answer; raises ``QueueUnavailableError``."""
        started = time.perf_counter()
        with reachable():
            self._redis.ping()
        return time.perf_counter() - started

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
        reuse: bool = True,
    ) -> tuple[Job, bool]:
        """Accept a job, or find the one that answers the same request.

        Parameters
        ----------
        spec
            Complete, JSON-able; kept as it is.
        digest
            Names the result; an identical succeeded job of the owner is returned instead of a new one if ``reuse``.
        idempotency_key
            The same key with the same ``request_digest`` gives the same job.
        request_digest
            Of the request as the client sent it, before a seed was drawn; ``digest`` if absent.

        Returns
        -------
            The job, and whether it is new. When it is, it is on disk twice: in the broker and as ``request.json``.

        Raises
        ------
        IdempotencyError
            If the key was used with another body.
        QueueUnavailableError
            If the queue is full, the broker does not answer or the request cannot be stored.
        """
        job_id = new_job_id()
        text = json.dumps(spec, allow_nan=False, separators=(",", ":"))
        key = _sha256(owner, idempotency_key) if idempotency_key is not None else ""
        answer, found = self._store.run(
            "submit", job_id, kind, owner, text, model_id, model_sha256, digest, request_digest or digest, key,
            int(self.rules.idempotency_s), _sha256(owner, digest), int(reuse), self.rules.max_queue,
        )  # fmt: skip
        if answer == "mismatch":
            raise IdempotencyError("this Idempotency-Key was used with another body; use a new key for a new request")
        if answer == "full":
            raise QueueUnavailableError(
                f"{found} jobs are waiting, which is the most this service queues; try again later"
            )
        job = self.get(found)
        if answer == "created":
            self._record(job)
            self.hint(job_id)
        return job, answer == "created"

    def get(self, job_id: str, *, owner: str | None = None) -> Job:
        """Return one job; without ``owner`` whoever owns it.

        Raises
        ------
        JobNotFoundError
            If it does not exist or belongs to another owner: both look the same.
        """
        jobs = self._store.fetch([job_id])
        if not jobs or (owner is not None and jobs[0].owner != owner):
            raise JobNotFoundError(f"there is no job {job_id[:64]!r}")
        return jobs[0]

    def list(
        self,
        *,
        owner: str | None = None,
        status: JobStatus | None = None,
        kind: str | None = None,
        cursor: str | None = None,
        limit: int = 50,
    ) -> JobPage:
        """Return jobs, newest first.

        A page may hold fewer than ``limit`` jobs (even none) and still have a ``next_cursor``, where the filters are
        rarely met. Jobs that arrive meanwhile do not shift the pages.
        """
        if cursor is not None and not (cursor.isascii() and cursor.isdigit() and len(cursor) < 17):
            raise SpecError("the cursor is not one that this service gave out; start again without it")
        limit = max(1, min(limit, PAGE_MAX))
        index = f"owner:{owner}" if owner is not None else f"status:{status}" if status else "all"
        highest = f"({cursor}" if cursor else "+inf"
        # One more than asked for tells whether there is a next page; filters need a longer look.
        chunk = limit + 1 if kind is None and (status is None or owner is None) else max(limit + 1, 50)
        found: builtins.list[Job] = []
        for _ in range(0, SCAN_MAX, chunk):
            with reachable():
                rows: Any = self._redis.zrange(
                    self._prefix + index, highest, "-inf", desc=True, byscore=True, withscores=True,
                    offset=0, num=chunk,
                )  # fmt: skip
            more = len(rows) == chunk
            positions = {job_id: int(seq) for job_id, seq in rows}
            for job in self._store.fetch(list(positions)):
                if (status is None or job.status is status) and (kind is None or job.kind == kind):
                    found.append(job)
                    if len(found) == limit:
                        last = not more and job.id == rows[-1][0]
                        return JobPage(jobs=found, next_cursor=None if last else str(positions[job.id]))
            if not more:
                return JobPage(jobs=found, next_cursor=None)
            highest = f"({int(rows[-1][1])}"
        return JobPage(jobs=found, next_cursor=highest[1:])

    def cancel(self, job_id: str, *, owner: str | None = None) -> Job:
        """Cancel a job that has not ended; one that has is returned as it is.

        A running job is canceled at once; its worker learns of it with the next frame and drops what it has.
        """
        self.get(job_id, owner=owner)
        if self._store.run("cancel", job_id, self.rules.record_s) and self._artifacts:
            self._artifacts.forget_request(job_id)
        return self.get(job_id, owner=owner)

    def delete(self, job_id: str, *, owner: str | None = None) -> None:
        """Remove a job that has ended, its files first found no more, then gone.

        Raises
        ------
        JobActiveError
            While it is queued or running.
        """
        self.get(job_id, owner=owner)
        answer = self._store.run("delete", job_id)
        if answer == "active":
            raise JobActiveError(f"job {job_id} has not ended; cancel it before removing it")
        if self._artifacts:
            self._artifacts.forget_request(job_id)
            self._artifacts.remove(job_id)

    def events(self, job_id: str, *, after: str = "0", block_s: float = 0.0) -> builtins.list[JobEvent]:
        """Return what happened after the event ``after``, waiting up to ``block_s`` for the first; maybe nothing."""
        key, deadline = self._store.events_key(job_id), time.monotonic() + block_s
        while True:
            left = deadline - time.monotonic()
            with reachable():
                answer: Any = self._redis.xread({key: event_id(after)}, block=block_ms(left))
            if answer or left <= BLOCK_S:
                return parse_events(answer[0][1]) if answer else []

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

    # ------------------------------------------------------------------------------------------------ for the worker

    def claim(self, job_id: str | None, *, worker: str) -> Lease | None:
        """Take a queued job (None: the one that has waited longest); None if there is nothing to take."""
        answer = self._store.run("claim", job_id or "", worker, self.rules.lease_s)
        if not answer:
            return None
        token, flat = answer
        return Lease(job=parse_job(dict(zip(flat[::2], flat[1::2], strict=True))), token=int(token), worker=worker)

    def beat(self, lease: Lease, *, progress: JobProgress | None = None) -> None:
        """Renew a lease and record progress.

        Raises
        ------
        JobCanceledError, LeaseLostError
            If the worker must stop.
        """
        text = json.dumps(asdict(progress), allow_nan=False) if progress else ""
        self._under(lease, "beat", self.rules.lease_s, text)

    def finish(self, lease: Lease, *, result: str) -> None:
        """End a job as succeeded: the only commit of its published files."""
        self._under(lease, "finish", result, self.rules.retention_s)

    def fail(self, lease: Lease, *, code: str, message: str) -> None:
        """End a job as failed; it is not tried again."""
        self._under(lease, "fail", code, message, self.rules.record_s)
        if self._artifacts:
            self._artifacts.forget_request(lease.job_id)

    def release(self, lease: Lease) -> None:
        """Give a job back to the head of the queue; the attempt does not count."""
        self._under(lease, "release")
        self.hint(lease.job_id)

    def announce(self, *, name: str, hostname: str, pid: int, device: str) -> None:
        """Record that a worker lives."""
        text = json.dumps({"hostname": hostname, "pid": pid, "device": device})
        with reachable():
            now = self._store.now()
            self._redis.hset(self._prefix + "worker-facts", name, text)
            self._redis.zadd(self._prefix + "workers", {name: now})

    def retire(self, name: str) -> None:
        """Forget a worker that stops in good order."""
        with reachable():
            self._redis.zrem(self._prefix + "workers", name)
            self._redis.hdel(self._prefix + "worker-facts", name)

    # ------------------------------------------------------------------------------------------ for the whole service

    def hint(self, job_id: str) -> None:
        """Tell the workers that there is work; a failure is logged, not raised."""
        if self._hint is None:
            return
        try:
            self._hint(job_id)
        except Exception as error:  # noqa: BLE001 - a hint is never worth failing for: the sweeper repairs it
            log.warning("job %s: no hint sent (%s); the sweeper will", job_id, error)

    def sweep(self) -> Sweep:
        """Repair what dead workers and lost hints left behind, and apply retention. Safe to run anywhere, any time."""
        lists = self._store.run(
            "sweep", QUEUE, self.rules.hint_after_s, self.rules.max_lost, self.rules.record_s, self.rules.sweep_batch,
            CRASHED.format(lost=self.rules.max_lost),
        )  # fmt: skip
        swept = Sweep(**dict(zip(("requeued", "crashed", "hinted", "expired", "purged"), lists, strict=True)))
        for job_id in dict.fromkeys(swept.requeued + swept.hinted):
            self.hint(job_id)
        if self._artifacts:
            for job_id in swept.crashed + swept.expired + swept.purged:
                self._artifacts.forget_request(job_id)
                self._artifacts.remove(job_id)
        return swept

    def clean(self) -> None:
        """Remove files that belong to no job; slower than :meth:`sweep`, so run it seldom."""
        if self._artifacts is None:
            return
        with reachable():
            leased: Any = self._redis.zrange(self._prefix + "leases", 0, -1)
        stored = self._artifacts.stored()
        with reachable(), self._redis.pipeline(transaction=False) as pipe:
            for job_id in stored:
                pipe.hget(self._store.job_key(job_id), "status")
            statuses: builtins.list[str | None] = pipe.execute()
        known = {job_id: JobStatus(status) for job_id, status in zip(stored, statuses, strict=True) if status}
        ended = [i for i, s in known.items() if not s.active and s is not JobStatus.SUCCEEDED]
        unknown = [i for i in stored if i not in known]
        self._artifacts.sweep(
            leased=set(leased), ended=ended, unknown=unknown, grace_s=self.rules.lease_s, keep_s=self.rules.retention_s
        )

    def try_lock(self, name: str, *, seconds: float) -> bool:
        """Whether the caller may do a chore that one worker at a time should do; the lock runs out by itself."""
        with reachable():
            return bool(self._redis.set(f"{self._prefix}lock:{name}", "1", nx=True, px=max(1, int(seconds * 1000))))

    def restore(self, request: dict[str, Any], *, result: str | None = None) -> bool:
        """Put back a job that the broker has forgotten; False if it is known."""
        return bool(
            self._store.run(
                "restore", request["id"], request["kind"], request["owner"],
                json.dumps(request["spec"], allow_nan=False, separators=(",", ":")), request["model_id"],
                request["model_sha256"], request["digest"], _sha256(request["owner"], request["digest"]),
                request["created_at"], self.rules.retention_s, result or "",
            )
        )  # fmt: skip

    def rebuild(self) -> int:
        """Restore every recorded request after the broker lost its data; returns how many were missing."""
        if self._artifacts is None:
            return 0
        restored = 0
        for request in self._artifacts.requests():
            result = request["id"] if self._artifacts.exists(request["id"]) else None
            restored += self.restore(request, result=result)
        return restored

    def counts(self) -> dict[JobStatus, int]:
        """Return how many jobs are in each state."""
        with reachable(), self._redis.pipeline() as pipe:
            for status in JobStatus:
                pipe.zcard(f"{self._prefix}status:{status}")
            return dict(zip(JobStatus, pipe.execute(), strict=True))

    def queue_depth(self) -> int:
        """Return how many jobs wait."""
        return self.counts()[JobStatus.QUEUED]

    def workers_alive(self, *, within_s: float = 45.0) -> builtins.list[WorkerBeat]:
        """Return the workers that gave a sign of life lately; the long dead are forgotten."""
        with reachable():
            now = self._store.now()
            self._redis.zremrangebyscore(self._prefix + "workers", "-inf", now - 86400.0)
            rows: Any = self._redis.zrange(
                self._prefix + "workers", now - within_s, "+inf", byscore=True, withscores=True
            )
            facts: Any = self._redis.hmget(self._prefix + "worker-facts", [name for name, _ in rows]) if rows else []
        return [
            WorkerBeat(name=name, seen_at=seen, **json.loads(text))
            for (name, seen), text in zip(rows, facts, strict=True)
            if text
        ]

    # ------------------------------------------------------------------------------------------------------- private

    def _under(self, lease: Lease, script: str, *args: str | float) -> None:
        answer = self._store.run(script, lease.job_id, lease.token, *args)
        if answer == "canceled":
            raise JobCanceledError(f"job {lease.job_id} was canceled")
        if answer != "held":
            raise LeaseLostError(f"job {lease.job_id} belongs to another worker now")

    def _record(self, job: Job) -> None:
        if self._artifacts is None:
            return
        request = {
            "id": job.id, "kind": job.kind, "owner": job.owner, "spec": job.spec, "model_id": job.model_id,
            "model_sha256": job.model_sha256, "digest": job.digest, "created_at": job.created_at,
        }  # fmt: skip
        try:
            self._artifacts.record_request(request)
        except OSError as error:
            log.exception("job %s: the request cannot be stored", job.id)
            self._store.run("cancel", job.id, self.rules.record_s)
            self._store.run("delete", job.id)
            raise QueueUnavailableError("the service cannot store more requests at the moment; try later") from error


def _celery_hints(url: str) -> HintPublisher:
    from worker.main import hint_publisher  # celery is slow to import, and nothing but hints needs it

    return hint_publisher(url)


def _sha256(*parts: str) -> str:
    """Return a name of fixed length for what a client may choose freely."""
    return hashlib.sha256("\0".join(parts).encode("utf-8", "surrogatepass")).hexdigest()
