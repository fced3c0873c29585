"""What must hold once all jobs have ended: no file, lease or wake-up without its job, and one final state a job."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator

import redis

from benchmarks.chaos.clients import Ledger
from benchmarks.chaos.service import Service
from worker.broker.urls import redis_url
from worker.jobs import Job, JobStatus
from worker.jobs.redis_store import QUEUE, UNDER_WAY_INDEX

SETTLE_S = 100.0  # seconds; wake-ups whose worker died are removed after a minute


def settle(service: Service) -> list[str]:
    """Let sweeper and janitor do their work; return what they left undone."""
    deadline = time.monotonic() + SETTLE_S
    while (left := list(untidy(service))) and time.monotonic() < deadline:
        time.sleep(1.0)
        service.jobs.admin.clean()
    return left


def untidy(service: Service) -> Iterator[str]:
    """Yield what should not be there."""
    records = {job.id: job for job in every_job(service)}
    active = [job for job in records.values() if job.status.active]
    if active:
        yield f"{len(active)} jobs have not ended"
    with redis.Redis.from_url(redis_url(service.environment()["CYTOSYNTH_REDIS_URL"])) as client:
        for what, count in (
            ("leases", client.zcard("cytosynth:leases")),
            ("wake-ups", client.llen(QUEUE)),
            ("wake-ups in delivery", client.zcard(UNDER_WAY_INDEX)),
        ):
            if count:
                yield f"{count} {what}"
    root = service.data_dir
    for place in ("staging", "trash"):
        if left := _names(root / place):
            yield f"{len(left)} in {place}"
    succeeded = {job.id for job in records.values() if job.status is JobStatus.SUCCEEDED}
    if odd := _names(root / "results") ^ succeeded:
        yield f"{len(odd)} results without their job, or jobs without results"
    requests = {name.removesuffix(".json") for name in _names(root / "requests")}
    if odd := requests ^ set(records):
        yield f"{len(odd)} requests without their record, or records without request"
    ended = {job.id for job in records.values() if job.status in (JobStatus.FAILED, JobStatus.CANCELED)}
    if odd := {name.removesuffix(".json") for name in _names(root / "verdicts")} ^ ended:
        yield f"{len(odd)} verdicts without their job, or jobs without verdict"
    if alone := [blob for blob in (root / "blobs").glob("*/*") if blob.stat().st_nlink < 2]:
        yield f"{len(alone)} contents that no job has"


def check_ends(service: Service, ledger: Ledger) -> int:
    """Hold the records to what clients saw; return how many jobs there are that nobody was promised."""
    records = {job.id: job for job in every_job(service)}
    for job_id in ledger.accepted:
        job = records.get(job_id)
        if job is None:
            if job_id not in ledger.removed:
                ledger.complain("lost", f"job {job_id} was accepted and has no record")
            continue
        if job.status.value != ledger.ended.get(job_id, job.status.value):
            ledger.complain("duplicated", f"job {job_id} ended as {ledger.ended[job_id]} and is {job.status}")
        ends = [e for e in service.jobs.events(job_id) if e.event == "state" and e.data["state"] in ENDS]
        if len(ends) != 1:
            told = json.dumps([event.data for event in ends])
            ledger.complain("duplicated", f"job {job_id} has {len(ends)} ends: {told}")
    return len(set(records) - set(ledger.accepted))


ENDS = frozenset(status.value for status in JobStatus if not status.active)


def every_job(service: Service) -> Iterator[Job]:
    """Yield all records."""
    cursor = None
    while True:
        page = service.jobs.list(cursor=cursor, limit=200)
        yield from page.jobs
        if (cursor := page.next_cursor) is None:
            return


def _names(folder: object) -> set[str]:
    from pathlib import Path

    place = Path(str(folder))
    return {path.name for path in place.iterdir()} if place.is_dir() else set()
