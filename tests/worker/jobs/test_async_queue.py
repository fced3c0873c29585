"""Waiting in an event loop gives the events that a thread would get, and does not block the loop."""

from __future__ import annotations

import asyncio
import signal
import time
from pathlib import Path

import psutil
import pytest
from claims import claim_job
from workbench import submit

from worker.broker.embedded import start_broker
from worker.errors import JobNotFoundError, QueueUnavailableError
from worker.jobs import AsyncJobQueue, JobQueue, JobStatus


def test_many_wait_in_one_loop_and_wake_when_their_job_ends(jobs: JobQueue, broker_url: str) -> None:
    async def scene() -> None:
        waiting = AsyncJobQueue.connect(broker_url, find=jobs.get, prefix=jobs._prefix)
        leases = [claim_job(jobs, submit(jobs).id, worker="w") for _ in range(20)]
        waits = [asyncio.create_task(waiting.async_wait(lease.job_id, timeout_s=10)) for lease in leases if lease]
        await asyncio.sleep(0.1)
        assert not any(wait.done() for wait in waits)
        for lease in leases:
            assert lease
            jobs.leases.finish(lease)
        ended = await asyncio.wait_for(asyncio.gather(*waits), 8.0)
        assert {job.status for job in ended} == {JobStatus.SUCCEEDED}
        assert len({job.id for job in ended}) == 20
        job = ended[0]
        assert await waiting.async_get(job.id) == jobs.get(job.id)
        assert await waiting.async_events(job.id) == jobs.events(job.id)
        await waiting.aclose()

    asyncio.run(scene())


def test_waiting_ends_in_time_and_foreign_jobs_are_missing(jobs: JobQueue, broker_url: str) -> None:
    async def scene() -> None:
        waiting = AsyncJobQueue.connect(broker_url, find=jobs.get, prefix=jobs._prefix)
        job = submit(jobs, owner="ada")
        started = time.monotonic()
        assert (await waiting.async_wait(job.id, timeout_s=0.2)).status is JobStatus.QUEUED
        assert await waiting.async_events(job.id, after=jobs.events(job.id)[-1].id, block_s=0.2) == []
        assert time.monotonic() - started > 0.35
        assert 0 < await waiting.async_ping() < 5.0
        for call in (waiting.async_get, lambda i, owner: waiting.async_wait(i, timeout_s=1, owner=owner)):
            with pytest.raises(JobNotFoundError):
                await call(job.id, owner="bob")
        await waiting.aclose()

    asyncio.run(scene())


def test_a_broker_that_is_gone_is_a_clear_error_and_one_that_returns_is_used_again(tmp_path: Path) -> None:
    with start_broker(tmp_path) as broker:
        jobs = JobQueue.connect(broker.url, wake_up=lambda _: None)
        job = submit(jobs)
    for call in (jobs.admin.ping, lambda: jobs.get(job.id), lambda: submit(jobs), jobs.admin.sweep, jobs.admin.counts):
        with pytest.raises(QueueUnavailableError, match="does not answer"):
            call()
    with start_broker(tmp_path):
        assert jobs.get(job.id) == job
    jobs.close()


def test_a_frozen_broker_does_not_hang_its_clients(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worker.jobs.redis_client.SILENCE_S", 0.3)
    with start_broker(tmp_path) as broker:
        jobs = JobQueue.connect(broker.url, wake_up=lambda _: None)
        jobs.admin.ping()
        server = psutil.Process(broker.server_pid)
        server.suspend()
        with pytest.raises(QueueUnavailableError):
            submit(jobs)
        server.send_signal(signal.SIGCONT)
        assert submit(jobs).status is JobStatus.QUEUED
        jobs.close()
