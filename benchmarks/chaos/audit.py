"""What must hold once all jobs have ended: no file, lease or wake-up without its job, and one final state a job."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import redis

from benchmarks.chaos.clients import Ledger
from benchmarks.chaos.service import Service
from worker.broker.urls import redis_url
from worker.jobs import Job, JobStatus
from worker.jobs.redis_store import QUEUE, UNDER_WAY_INDEX
from worker.storage.objects import Objects

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
    for place in ("staging", "trash", "parts", "states"):
        if left := _names(root / place) | _stored(service, place):
            yield f"{len(left)} in {place}"
    yield from _odd(service, records)
    if alone := [blob for blob in (root / "blobs").glob("*/*") if blob.stat().st_nlink < 2]:
        yield f"{len(alone)} contents that no job has"


def _odd(service: Service, records: dict[str, Job]) -> Iterator[str]:
    """Yield which files and records do not belong together."""
    succeeded = {job.id for job in records.values() if job.status is JobStatus.SUCCEEDED}
    ended = {job.id for job in records.values() if job.status in (JobStatus.FAILED, JobStatus.CANCELED)}
    batches = {job.batch for job in records.values() if job.batch}
    for place, due, words in (
        ("results", succeeded, "results without their job, or jobs without results"),
        ("requests", set(records), "requests without their record, or records without request"),
        ("verdicts", ended, "verdicts without their job, or jobs without verdict"),
        ("batches", batches, "records of batches without jobs, or jobs without that of their batch"),
    ):
        names = _names(service.data_dir / place) | _stored(service, place)
        if odd := {name.removesuffix(".json") for name in names} ^ due:
            yield f"{len(odd)} {words}"


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


def _stored(service: Service, place: str) -> set[str]:
    """Names of what is at a place of the object store, if there is one."""
    if service.store is None:
        return set()
    # By the keys of objects: SeaweedFS lists folders for a while that have become empty.
    return {info.key.split("/")[1] for info in Objects(service.store).below(f"{place}/")}


def _names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()} if folder.is_dir() else set()
