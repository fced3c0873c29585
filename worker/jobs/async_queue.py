"""Waiting for jobs in an event loop, without a thread for each client that waits."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any, Self

import redis.asyncio

from worker.errors import JobNotFoundError
from worker.jobs.records import Job, JobEvent, JobStatus, parse_events, parse_job
from worker.jobs.redis_client import BLOCK_S, PREFIX, block_ms, connect_async, event_id, reachable


class AsyncJobQueue:
    """The waiting calls of :class:`worker.jobs.JobQueue` for an event loop; a waiting call occupies no thread.

    Parameters
    ----------
    find
        :meth:`worker.jobs.JobQueue.get`, called in a thread for a job that the broker does not know, because the
        broker may have lost records.
    """

    def __init__(self, client: redis.asyncio.Redis, *, find: Callable[..., Job], prefix: str = PREFIX) -> None:
        self._redis = client
        self._find = find
        self._prefix = prefix

    @classmethod
    def connect(cls, url: str, *, find: Callable[..., Job], prefix: str = PREFIX) -> Self:
        """Connect lazily; use it within one event loop."""
        return cls(connect_async(url), find=find, prefix=prefix)

    async def aclose(self) -> None:
        """Close the connections."""
        await self._redis.aclose()

    async def async_ping(self) -> float:
        """Return the seconds the broker took to answer; raises ``QueueUnavailableError``."""
        started = time.perf_counter()
        with reachable():
            await self._redis.ping()
        return time.perf_counter() - started

    async def async_get(self, job_id: str, *, owner: str | None = None) -> Job:
        """Return one job, as :meth:`worker.jobs.JobQueue.get` does."""
        with reachable():
            async with self._redis.pipeline() as pipe:
                pipe.hgetall(f"{self._prefix}job:{job_id}")
                pipe.zrank(f"{self._prefix}status:{JobStatus.QUEUED}", job_id)
                fields, rank = await pipe.execute()
        if not fields:  # unknown, or its record was lost; finding out may restore all records, which takes time
            return await asyncio.to_thread(self._find, job_id, owner=owner)
        if owner is not None and fields["owner"] != owner:
            raise JobNotFoundError(f"there is no job {job_id[:64]!r}")
        return parse_job(fields, rank=rank)

    async def async_events(self, job_id: str, *, after: str = "0", block_s: float = 0.0) -> list[JobEvent]:
        """Return what happened after the event ``after``, as :meth:`worker.jobs.JobQueue.events` does."""
        key, deadline = f"{self._prefix}events:{job_id}", time.monotonic() + block_s
        while True:
            left = deadline - time.monotonic()
            with reachable():
                answer: Any = await self._redis.xread({key: event_id(after)}, block=block_ms(left))
            if answer or left <= BLOCK_S:
                return parse_events(answer[0][1]) if answer else []

    async def async_wait(self, job_id: str, *, timeout_s: float, owner: str | None = None) -> Job:
        """Return the job as soon as it has ended, or as it is after ``timeout_s``."""
        deadline = time.monotonic() + timeout_s
        with reachable():
            last: Any = await self._redis.xrevrange(f"{self._prefix}events:{job_id}", count=1)
        after = str(last[0][0]) if last else "0"
        job = await self.async_get(job_id, owner=owner)
        while job.status.active and (left := deadline - time.monotonic()) > 0:
            events = await self.async_events(job_id, after=after, block_s=left)
            after = events[-1].id if events else after
            if any(event.event == "state" for event in events):
                job = await self.async_get(job_id, owner=owner)
        return job
