"""What restores the records, ends what cannot go on, and clears what nobody needs."""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import pytest
from claims import claim_job
from workbench import submit

from worker.errors import JobFailedError, JobNotFoundError, LeaseLostError, QueueUnavailableError
from worker.jobs import AsyncJobQueue, Job, JobQueue, JobStatus
from worker.jobs.redis_store import UNDER_WAY, UNDER_WAY_INDEX
from worker.storage.artifacts import Artifacts
from worker.storage.journal import Journal

MakeJobs = Callable[..., JobQueue]


def flush(jobs: JobQueue) -> None:
    for key in jobs._redis.scan_iter(f"{jobs._prefix}*"):
        jobs._redis.delete(key)


async def looked_at(jobs: JobQueue, broker_url: str, job_id: str) -> JobStatus:
    """Return what one who waits in an event loop sees."""
    waiting = AsyncJobQueue.connect(broker_url, find=jobs.get, prefix=jobs._prefix)
    try:
        return (await waiting.async_get(job_id)).status
    finally:
        await waiting.aclose()


def finish(jobs: JobQueue, artifacts: Artifacts, job: Job, *, content: str = "") -> None:
    lease = claim_job(jobs, job.id, worker="w")
    assert lease is not None
    staged = artifacts.staging(job.id, lease.token)
    (staged / "manifest.json").write_text(json.dumps({"files": []}))
    artifacts.publish(job.id, staged)
    jobs.leases.finish(lease, content=content)


def test_every_end_is_restored_as_the_client_was_told(jobs: JobQueue, artifacts: Artifacts) -> None:
    done, failed, canceled, _queued = (submit(jobs, owner="ada", digest=f"d{n}") for n in range(4))
    finish(jobs, artifacts, done)
    lease = claim_job(jobs, failed.id, worker="w")
    assert lease is not None
    jobs.leases.fail(lease, code="empty_surface", message="no membrane in Ω")
    jobs.cancel(canceled.id)
    before = {job.id: job for job in jobs.list(owner="ada").jobs}
    flush(jobs)
    assert jobs.admin.rebuild() == 4
    after = {job.id: job for job in jobs.list(owner="ada").jobs}
    assert list(after) == list(before)
    for job_id, job in after.items():
        assert (job.status, job.error, job.spec) == (before[job_id].status, before[job_id].error, before[job_id].spec)
    ended = after[done.id].finished_at
    assert ended == pytest.approx(before[done.id].finished_at, abs=5.0)
    assert after[done.id].expires_at == pytest.approx(ended + jobs.rules.retention_s, abs=0.1)
    assert submit(jobs, owner="ada", digest="d0").id == done.id  # an identical request finds it again


def test_warnings_are_those_of_the_manifest_before_and_after_a_loss(jobs: JobQueue, artifacts: Artifacts) -> None:
    warning = {"code": "implausible_cell", "message": "cell 0: all draws were rejected"}
    job = submit(jobs)
    lease = claim_job(jobs, job.id, worker="w")
    assert lease is not None
    staged = artifacts.staging(job.id, lease.token)
    (staged / "manifest.json").write_text(json.dumps({"files": [], "warnings": [warning]}))
    artifacts.publish(job.id, staged)
    jobs.leases.finish(lease, warnings=artifacts.warnings(job.id))
    assert [asdict(found) for found in jobs.get(job.id).warnings] == [warning]
    flush(jobs)
    assert [asdict(found) for found in jobs.get(job.id).warnings] == [warning]


def test_an_expired_job_comes_back_as_expired(make_jobs: MakeJobs, artifacts: Artifacts) -> None:
    jobs = make_jobs(retention_s=0.0)
    job = submit(jobs, spec={"seed": 7})
    finish(jobs, artifacts, job)
    assert jobs.admin.sweep().expired == [job.id]
    flush(jobs)
    jobs.admin.sweep()  # finds out by itself
    back = jobs.get(job.id)
    assert (back.status, back.spec) == (JobStatus.EXPIRED, {"seed": 7})


def test_one_key_stands_for_one_job_before_and_after_a_loss(jobs: JobQueue) -> None:
    first = submit(jobs, idempotency_key="k", request_digest="r")
    flush(jobs)
    assert submit(jobs, idempotency_key="k", request_digest="r").id == first.id
    assert jobs.admin.counts()[JobStatus.QUEUED] == 1


def test_a_flushed_broker_calls_no_job_unknown_before_it_was_rebuilt(jobs: JobQueue, broker_url: str) -> None:
    job = submit(jobs)
    flush(jobs)
    assert asyncio.run(looked_at(jobs, broker_url, job.id)) is JobStatus.QUEUED
    flush(jobs)
    assert jobs.get(job.id).status is JobStatus.QUEUED
    with pytest.raises(JobNotFoundError):
        jobs.get("f" * 32)


def test_a_job_is_not_called_unknown_when_somebody_else_rebuilds_between_two_looks(
    jobs: JobQueue, make_jobs: MakeJobs, broker_url: str
) -> None:
    def fetch_then_rebuild(job_ids: list[str]) -> list[Job]:
        found = fetch(job_ids)
        other.admin.rebuild()
        return found

    other, job, fetch = make_jobs(), submit(jobs), jobs._store.fetch
    jobs._store.fetch = fetch_then_rebuild  # type: ignore[method-assign]
    for ask in (lambda: jobs.get(job.id).status, lambda: asyncio.run(looked_at(jobs, broker_url, job.id))):
        flush(jobs)
        assert ask() is JobStatus.QUEUED
    with pytest.raises(JobNotFoundError):
        jobs.get("f" * 32)


def test_a_disk_that_takes_no_change_is_no_fault_of_the_client(
    jobs: JobQueue, artifacts: Artifacts, tmp_path: Path
) -> None:
    job = submit(jobs)
    finish(jobs, artifacts, job)
    for folder, change in (("pins", jobs.pin), ("requests", jobs.delete)):
        (tmp_path / folder).mkdir(exist_ok=True)
        (tmp_path / folder).rename(tmp_path / "aside")
        (tmp_path / folder).write_text("in the way, also of the superuser")
        with pytest.raises(QueueUnavailableError, match="try again"):
            change(job.id)
        (tmp_path / folder).unlink()
        (tmp_path / "aside").rename(tmp_path / folder)
        change(job.id)
    with pytest.raises(JobNotFoundError):
        jobs.get(job.id)


def test_a_lease_of_before_a_loss_changes_nothing_after_it(jobs: JobQueue) -> None:
    job = submit(jobs)
    old = claim_job(jobs, job.id, worker="before")
    assert old is not None
    flush(jobs)
    jobs.admin.rebuild()
    new = claim_job(jobs, job.id, worker="after")
    assert new is not None
    assert new.token > old.token  # though the counter began anew
    for act in (
        lambda: jobs.leases.renew(old),
        lambda: jobs.leases.finish(old),
        lambda: jobs.leases.release(old),
    ):
        with pytest.raises(LeaseLostError):
            act()
    assert jobs.get(job.id).status is JobStatus.RUNNING


def test_a_broker_that_was_restarted_is_looked_through_before_it_is_trusted(jobs: JobQueue) -> None:
    kept, forgotten = submit(jobs), submit(jobs)
    for key in (f"job:{forgotten.id}", f"events:{forgotten.id}"):  # the last second before a power cut
        jobs._redis.delete(jobs._prefix + key)
    for index in ("status:queued", "all", "owner:"):
        jobs._redis.zrem(jobs._prefix + index, forgotten.id)
    jobs._redis.set(jobs._prefix + "whole", "0" * 40)  # as the number of an earlier run
    jobs.admin.sweep()
    assert [jobs.get(job.id).status for job in (kept, forgotten)] == [JobStatus.QUEUED] * 2


def test_a_cancellation_that_the_broker_forgot_is_carried_out_again(jobs: JobQueue, artifacts: Artifacts) -> None:
    job = submit(jobs)
    Journal(artifacts.root).record_outcome(job.id, {"status": "canceled", "finished_at": time.time(), "error": None})
    jobs.admin.rebuild()
    assert jobs.get(job.id).status is JobStatus.CANCELED


def test_requests_that_cannot_be_read_are_not_taken_for_none(jobs: JobQueue, artifacts: Artifacts) -> None:
    job = submit(jobs)
    flush(jobs)
    requests = artifacts.root / "requests"
    aside = requests.rename(artifacts.root / "aside")
    requests.write_text("in the way")
    with pytest.raises(OSError, match="Not a directory"):
        jobs.admin.rebuild()
    with pytest.raises(QueueUnavailableError):
        submit(jobs)
    requests.unlink()
    aside.rename(requests)
    jobs.admin.sweep()
    assert jobs.get(job.id).status is JobStatus.QUEUED


def test_a_request_is_on_disk_before_the_broker_knows_of_it(
    jobs: JobQueue, artifacts: Artifacts, monkeypatch: pytest.MonkeyPatch
) -> None:
    submit(jobs)
    seen = []

    def look(_: Journal, request: dict[str, object]) -> dict[str, object]:
        seen.append(jobs.admin.counts()[JobStatus.QUEUED])
        return request

    monkeypatch.setattr(Journal, "record_request", look)
    submit(jobs)
    assert seen == [1]


def test_a_pinned_job_keeps_its_files_until_it_is_let_go(make_jobs: MakeJobs, artifacts: Artifacts) -> None:
    jobs = make_jobs(retention_s=0.0)
    early, late = submit(jobs), submit(jobs)
    assert jobs.pin(early.id).pinned  # while it waits
    for job in (early, late):
        finish(jobs, artifacts, job)
    assert jobs.get(early.id).expires_at is None
    jobs.pin(late.id)
    flush(jobs)
    jobs.admin.rebuild()
    assert jobs.admin.sweep().expired == []
    assert jobs.get(early.id).pinned
    jobs.pin(early.id, pinned=False)
    assert jobs.admin.sweep().expired == [early.id]
    assert (artifacts.exists(early.id), artifacts.exists(late.id)) == (False, True)


def test_a_job_without_files_cannot_be_pinned(jobs: JobQueue) -> None:
    lease = claim_job(jobs, submit(jobs).id, worker="w")
    assert lease is not None
    jobs.leases.fail(lease, code="c", message="m")
    with pytest.raises(JobFailedError):
        jobs.pin(lease.job_id)


def test_a_job_that_its_worker_blames_three_times_fails_with_the_reason(jobs: JobQueue, artifacts: Artifacts) -> None:
    job = submit(jobs)
    for attempt in (1, 2, 3):
        lease = jobs.leases.claim(worker="w")
        assert lease is not None
        assert lease.job.attempts == attempt
        jobs.leases.fail_attempt(lease, code="export_failed", message="it would not fit")
    failed = jobs.get(job.id)
    assert failed.status is JobStatus.FAILED
    assert failed.error is not None
    assert (failed.error.code, failed.error.message) == ("export_failed", "it would not fit")
    assert Journal(artifacts.root).outcome(job.id)["error"]["code"] == "export_failed"  # type: ignore[index]
    jobs.leases.fail_attempt(lease, code="export_failed", message="it would not fit")  # the same word once more


def test_a_content_is_found_whoever_made_it_until_its_files_go(make_jobs: MakeJobs, artifacts: Artifacts) -> None:
    jobs, plain = make_jobs(), make_jobs(reuse=False)
    job = submit(jobs, owner="ada")
    finish(jobs, artifacts, job, content="c")
    assert jobs.leases.find_job_with_content("c") == job.id
    assert plain.leases.find_job_with_content("c") is None
    assert jobs.leases.find_job_with_content("other") is None
    jobs.delete(job.id)
    assert jobs.leases.find_job_with_content("c") is None


def test_janitor_writes_down_verdicts_and_clears_drafts_and_what_has_no_record(
    make_jobs: MakeJobs, artifacts: Artifacts
) -> None:
    jobs = make_jobs(lease_s=1.0)
    canceled = submit(jobs)
    jobs.cancel(canceled.id)
    (artifacts.root / "verdicts" / f"{canceled.id}.json").unlink()  # the disk was full at that moment
    stray = "0" * 32
    Journal(artifacts.root).record_request({"id": stray})
    fresh = "1" * 32
    Journal(artifacts.root).record_request({"id": fresh})  # being submitted just now
    draft = artifacts.root / "requests" / ".left.json.0"
    draft.write_text("{")
    old = time.time() - 11.0
    for path in (draft, artifacts.root / "requests" / f"{stray}.json"):
        os.utime(path, (old, old))
    assert jobs.admin.clean() == 3
    assert Journal(artifacts.root).outcome(canceled.id) is not None
    assert Journal(artifacts.root).requested() == sorted((canceled.id, fresh))
    assert not draft.exists()
    assert jobs.admin.clean() == 0


def test_wake_ups_that_died_with_their_worker_are_cleared(jobs: JobQueue) -> None:
    jobs._redis.hset(UNDER_WAY, mapping={"old": "x", "new": "y"})
    jobs._redis.zadd(UNDER_WAY_INDEX, {"old": time.time() - 100, "new": time.time()})
    jobs.admin.sweep()
    assert jobs._redis.hkeys(UNDER_WAY) == jobs._redis.zrange(UNDER_WAY_INDEX, 0, -1) == ["new"]
    jobs._redis.delete(UNDER_WAY, UNDER_WAY_INDEX)


@pytest.mark.parametrize("content", ["", "[]", "{", '{"id": "ID"}', '{"id": "ID", "created_at": NaN, "spec": 3}'])
def test_damaged_records_keep_no_other_from_being_restored(jobs: JobQueue, artifacts: Artifacts, content: str) -> None:
    lost, canceled, kept = (submit(jobs) for _ in range(3))
    jobs.cancel(canceled.id)
    (artifacts.root / "requests" / f"{lost.id}.json").write_text(content.replace("ID", lost.id))
    (artifacts.root / "verdicts" / f"{canceled.id}.json").write_text(content)
    (artifacts.root / "aliases").mkdir()
    (artifacts.root / "aliases" / "a.json").write_text(content)
    jobs.admin.clean()  # the end of a known job is written down anew
    assert Journal(artifacts.root).outcome(canceled.id) is not None
    flush(jobs)
    assert jobs.admin.rebuild() == 2
    assert {job.id: job.status for job in jobs.list().jobs} == {
        canceled.id: JobStatus.CANCELED, kept.id: JobStatus.QUEUED,
    }  # fmt: skip
