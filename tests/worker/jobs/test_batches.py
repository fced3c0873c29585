"""Batches: accepted all or none, whoever dies in between; ended once; removed as a whole."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from claims import claim_job

from worker.errors import BatchNotFoundError, IdempotencyError, JobActiveError, QueueUnavailableError
from worker.jobs import Batch, BatchJob, JobFilter, JobOptions, JobQueue, JobStatus, Price
from worker.jobs.batches import Batches
from worker.jobs.quotas import OverShareError, Quota
from worker.storage.artifacts import Artifacts

MakeJobs = Callable[..., JobQueue]


def batch_jobs(count: int, **changes: Any) -> list[BatchJob]:
    common: dict[str, Any] = {"kind": "probe", "spec": {}, "model_id": "m", "model_sha256": "0" * 64} | changes
    return [BatchJob(**{"digest": uuid4().hex} | common) for _ in range(count)]


def send(jobs: JobQueue, count: int = 3, **changes: Any) -> Batch:
    options = {"owner": "ada", "request_digest": "r", "options": JobOptions(labels={"a": "b"}, priority=1)} | changes
    wanted = options.pop("wanted", None) or batch_jobs(count)
    return jobs.batches.submit(wanted, **options)[0]


def ids(jobs: JobQueue, batch: Batch) -> list[str]:
    return [job.id for job in reversed(jobs.list(owner="ada", where=JobFilter(batch=batch.id)).jobs)]


def flush(jobs: JobQueue) -> None:
    for key in jobs._redis.scan_iter(f"{jobs._prefix}*"):
        jobs._redis.delete(key)


def counts(batch: Batch) -> dict[str, int]:
    return {status.value: count for status, count in batch.counts.items() if count}


def finish(jobs: JobQueue, artifacts: Artifacts, job_id: str) -> None:
    lease = claim_job(jobs, job_id, worker="w")
    assert lease is not None
    staged = artifacts.staging(job_id, lease.token)
    (staged / "manifest.json").write_text(json.dumps({"files": []}))
    artifacts.publish(job_id, staged)
    jobs.leases.finish(lease)


def test_a_batch_lives_from_its_jobs_to_its_end(jobs: JobQueue, artifacts: Artifacts, wake_ups: list[str]) -> None:
    batch = send(jobs, webhook="https://a.example/")
    assert (counts(batch), batch.active, batch.labels, batch.ended_at) == ({"queued": 3}, True, {"a": "b"}, None)
    first, second, third = ids(jobs, batch)
    assert wake_ups == [first, second, third]
    for job_id in (first, second, third):
        job = jobs.get(job_id, owner="ada")
        assert (job.batch, job.labels, job.priority, job.webhook) == (batch.id, {"a": "b"}, 1, None)
    finish(jobs, artifacts, first)
    jobs.cancel(second)
    assert counts(jobs.batches.get(batch.id)) == {"succeeded": 1, "canceled": 1, "queued": 1}
    assert jobs.outbox.take() is None
    finish(jobs, artifacts, third)
    ended = jobs.batches.get(batch.id, owner="ada")
    assert (counts(ended), ended.active) == ({"succeeded": 2, "canceled": 1}, False)
    assert ended.ended_at is not None
    events = [(event.event, event.data.get("job"), event.data["state"]) for event in jobs.events(batch.id)]
    assert events[:3] == [("job", job_id, "queued") for job_id in (first, second, third)]
    assert events[-2:] == [("job", third, "succeeded"), ("state", None, "ended")]
    due = jobs.outbox.take()
    assert due is not None
    assert (due.id, due.kind, due.owner, due.state) == (batch.id, "batch", "ada", "ended")
    assert due.data["jobs"]["succeeded"] == 2
    assert jobs.outbox.take() is None
    jobs.outbox.settle(due, "delivered")
    webhook = jobs.batches.get(batch.id).webhook
    assert webhook is not None
    assert webhook.state == "delivered"


def test_nobody_else_sees_a_batch(jobs: JobQueue) -> None:
    batch = send(jobs)
    for act in (jobs.batches.get, jobs.batches.cancel, jobs.batches.delete):
        with pytest.raises(BatchNotFoundError):
            act(batch.id, owner="bob")
    assert jobs.list(owner="bob", where=JobFilter(batch=batch.id)).jobs == []
    with pytest.raises(BatchNotFoundError):
        jobs.batches.get("0" * 32)


def test_a_full_queue_takes_none_of_a_batch(make_jobs: MakeJobs, tmp_path: Path) -> None:
    jobs = make_jobs(max_queue=4)
    send(jobs, count=2)
    with pytest.raises(QueueUnavailableError):
        send(jobs, count=3)
    assert jobs.admin.counts()[JobStatus.QUEUED] == 2
    assert len(list((tmp_path / "requests").iterdir())) == 2
    assert len(list((tmp_path / "batches").iterdir())) == 1
    send(jobs, count=2)


def test_a_share_takes_none_of_a_batch_that_is_too_large(jobs: JobQueue, broker_url: str) -> None:
    quota = Quota.connect(broker_url, assure=jobs.admin.assure, prefix=jobs._prefix)
    send(jobs, count=2)
    with pytest.raises(OverShareError), quota.reservation("ada", share=4, digest="x", places=3):
        pytest.fail("there was no place")
    taken = quota.reservation("ada", share=4, digest="x", places=2)
    with taken, pytest.raises(OverShareError), quota.reservation("ada", share=4, digest="y"):
        pytest.fail("there was no place")
    with quota.reservation("ada", share=4, digest="x", places=2):
        send(jobs, count=2)
    quota.close()


def test_one_key_gives_one_batch_before_and_after_a_loss(jobs: JobQueue) -> None:
    first = send(jobs, idempotency_key="k")
    again, new = jobs.batches.submit(
        batch_jobs(3), owner="ada", request_digest="r", options=JobOptions(), idempotency_key="k"
    )
    assert (again.id, new) == (first.id, False)
    assert jobs.batches.find(owner="ada", request_digest="r", idempotency_key="k") == again
    assert jobs.batches.find(owner="bob", request_digest="r", idempotency_key="k") is None
    flush(jobs)
    assert send(jobs, idempotency_key="k").id == first.id
    assert jobs.admin.counts()[JobStatus.QUEUED] == 3
    with pytest.raises(IdempotencyError):
        send(jobs, idempotency_key="k", request_digest="other")
    with pytest.raises(IdempotencyError):
        jobs.batches.find(owner="ada", request_digest="other", idempotency_key="k")
    assert send(jobs, idempotency_key="k", owner="bob").id != first.id


def test_identical_requests_of_a_batch_are_jobs_of_their_own(jobs: JobQueue, artifacts: Artifacts) -> None:
    same = batch_jobs(2, digest="d")
    batch = send(jobs, wanted=same)
    for job_id in ids(jobs, batch):
        finish(jobs, artifacts, job_id)
    other = send(jobs, wanted=same)
    assert counts(other) == {"queued": 2}
    assert set(ids(jobs, other)).isdisjoint(ids(jobs, batch))


def test_a_loss_of_the_broker_loses_nothing_of_a_batch(jobs: JobQueue, artifacts: Artifacts) -> None:
    active = send(jobs, wanted=batch_jobs(3, price=Price(bytes=1, seconds=2.0), shards=2), webhook="https://a.example/")
    ended = send(jobs, count=2, webhook="https://b.example/")
    told = send(jobs, count=1, webhook="https://c.example/")
    jobs.cancel(ids(jobs, active)[0])
    for batch in (ended, told):
        jobs.batches.cancel(batch.id)
    due = [jobs.outbox.take(), jobs.outbox.take()]
    jobs.outbox.settle(next(one for one in due if one and one.id == told.id), "delivered")
    before = {batch.id: ids(jobs, batch) for batch in (active, ended, told)}
    flush(jobs)
    assert jobs.admin.rebuild() == 6
    for batch in (active, ended, told):
        now = jobs.batches.get(batch.id, owner="ada")
        assert (ids(jobs, batch), now.labels, now.created_at) == (before[batch.id], batch.labels, batch.created_at)
    assert counts(jobs.batches.get(active.id)) == {"queued": 2, "canceled": 1}
    assert jobs.get(before[active.id][1]).shards is not None
    again = jobs.outbox.take()
    assert again is not None
    assert again.id == ended.id  # what was told is not told again, what goes on is not told yet
    assert jobs.outbox.take() is None
    jobs.batches.cancel(active.id)
    last = jobs.outbox.take()
    assert last is not None
    assert last.id == active.id


@pytest.mark.parametrize("step", ["requests", "record"])
def test_a_process_that_dies_over_a_batch_leaves_all_of_it_or_nothing(
    make_jobs: MakeJobs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """Killed after it wrote the requests: none is restored. Killed after the batch's own record: all are."""
    jobs = make_jobs(lease_s=0.0)

    class Killed(BaseException):
        pass

    def killed(*_: object, **__: object) -> None:
        raise Killed

    keep = Batches._keep
    if step == "requests":
        monkeypatch.setattr("worker.storage.journal.Journal.record_batch", killed)
    else:

        def keep_and_die(self: Batches, *arguments: Any) -> None:
            keep(self, *arguments)
            raise Killed

        monkeypatch.setattr(Batches, "_keep", keep_and_die)
    with pytest.raises(Killed):
        send(jobs, idempotency_key="k")
    monkeypatch.undo()
    assert len(list((tmp_path / "requests").iterdir())) == 3
    flush(jobs)
    assert jobs.admin.rebuild() == (0 if step == "requests" else 3)
    assert jobs.admin.counts()[JobStatus.QUEUED] == (0 if step == "requests" else 3)
    batch = send(jobs, idempotency_key="k")
    assert counts(batch) == {"queued": 3}
    assert jobs.admin.counts()[JobStatus.QUEUED] == 3
    jobs.admin.clean()
    assert len(list((tmp_path / "requests").iterdir())) == 3


def test_what_was_written_and_never_accepted_is_removed(make_jobs: MakeJobs, tmp_path: Path) -> None:
    jobs = make_jobs(lease_s=0.0)
    kept = send(jobs)
    lost = send(jobs)
    for job_id in ids(jobs, lost):
        jobs._store.run("delete", job_id, "1")
    assert not jobs._store.batch(lost.id)
    time.sleep(0.02)
    jobs.admin.clean()
    assert [path.stem for path in (tmp_path / "batches").iterdir()] == [kept.id]
    assert len(list((tmp_path / "requests").iterdir())) == 3


def test_a_batch_is_removed_with_its_jobs_and_leaves_nothing(
    jobs: JobQueue, artifacts: Artifacts, tmp_path: Path
) -> None:
    batch = send(jobs, webhook="https://a.example/")
    with pytest.raises(JobActiveError):
        jobs.batches.delete(batch.id)
    finish(jobs, artifacts, ids(jobs, batch)[0])
    assert counts(jobs.batches.cancel(batch.id)) == {"succeeded": 1, "canceled": 2}
    due = jobs.outbox.take()
    assert due is not None
    jobs.outbox.settle(due, "delivered")
    jobs.batches.delete(batch.id)
    with pytest.raises(BatchNotFoundError):
        jobs.batches.get(batch.id)
    assert [key for key in jobs._redis.scan_iter(f"{jobs._prefix}*") if batch.id in key] == []
    for folder in ("requests", "batches", "webhooks", "verdicts", "results"):
        assert not list((tmp_path / folder).iterdir()), folder


def test_a_batch_goes_with_its_last_job(jobs: JobQueue, tmp_path: Path) -> None:
    batch = send(jobs, count=2)
    jobs.batches.cancel(batch.id)
    first, second = ids(jobs, batch)
    jobs.delete(first)
    assert counts(jobs.batches.get(batch.id)) == {"canceled": 1}
    flush(jobs)
    assert jobs.admin.rebuild() == 1
    assert counts(jobs.batches.get(batch.id)) == {"canceled": 1}
    jobs.delete(second)
    with pytest.raises(BatchNotFoundError):
        jobs.batches.get(batch.id)
    assert list((tmp_path / "batches").iterdir()) == []


def test_an_urgent_batch_does_not_starve_another_owner(jobs: JobQueue) -> None:
    send(jobs, count=50)
    other = jobs.submit(
        kind="probe", spec={}, model_id="m", model_sha256="0" * 64, digest="d", owner="bob",
        options=JobOptions(priority=-1),
    )[0]  # fmt: skip
    claimed = [jobs.leases.claim(worker="w") for _ in range(2)]
    assert other.id in [lease.job_id for lease in claimed if lease]
