"""Labels and priorities: attached to a job beside its spec, kept whatever the broker loses."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
from claims import claim_job
from workbench import submit

from worker.jobs import Job, JobFilter, JobOptions, JobQueue, JobStatus
from worker.storage.artifacts import Artifacts

MakeJobs = Callable[..., JobQueue]
ACTIN = JobOptions(labels={"project": "actin", "run": "7"}, priority=1)


def claim(jobs: JobQueue) -> str:
    lease = jobs.leases.claim(worker="w")
    assert lease is not None
    return lease.job_id


def finish(jobs: JobQueue, artifacts: Artifacts, job: Job) -> None:
    lease = claim_job(jobs, job.id, worker="w")
    assert lease is not None
    staged = artifacts.staging(job.id, lease.token)
    (staged / "manifest.json").write_text(json.dumps({"files": []}))
    artifacts.publish(job.id, staged)
    jobs.leases.finish(lease)


def flush(jobs: JobQueue) -> None:
    for key in jobs._redis.scan_iter(f"{jobs._prefix}*"):
        jobs._redis.delete(key)


def test_options_survive_a_loss_of_the_broker(jobs: JobQueue) -> None:
    labelled, plain = submit(jobs, options=ACTIN), submit(jobs)
    assert (labelled.labels, labelled.priority) == ({"project": "actin", "run": "7"}, 1)
    assert (plain.labels, plain.priority) == ({}, 0)
    flush(jobs)
    assert jobs.admin.rebuild() == 2
    assert (jobs.get(labelled.id).labels, jobs.get(labelled.id).priority) == (labelled.labels, 1)
    last = submit(jobs, options=JobOptions(priority=-1))
    assert [claim(jobs) for _ in range(3)] == [labelled.id, plain.id, last.id]


def test_a_record_of_a_version_without_options_is_read(jobs: JobQueue) -> None:
    job = submit(jobs, options=ACTIN)
    jobs._redis.hdel(f"{jobs._prefix}job:{job.id}", "labels", "priority")
    assert (jobs.get(job.id).labels, jobs.get(job.id).priority) == ({}, 0)
    assert claim(jobs) == job.id


def test_a_priority_orders_the_jobs_of_its_owner_only(jobs: JobQueue) -> None:
    low, normal, high = (submit(jobs, owner="ada", options=JobOptions(priority=number)) for number in (-1, 0, 1))
    later = submit(jobs, owner="ada", options=JobOptions(priority=1))
    other = submit(jobs, owner="bob", options=JobOptions(priority=-1))
    # Nobody has a lease yet and ada came first; then it is bob's turn, however urgent her jobs are.
    assert [claim(jobs) for _ in range(5)] == [high.id, other.id, later.id, normal.id, low.id]


def test_urgent_jobs_of_one_owner_starve_nobody(jobs: JobQueue) -> None:
    """While ada sends one urgent job after another, each of bob's jobs begins at the next claim."""
    for _ in range(20):
        submit(jobs, owner="ada", options=JobOptions(priority=1))
    claim(jobs)
    for _ in range(5):
        job = submit(jobs, owner="bob", options=JobOptions(priority=-1))
        submit(jobs, owner="ada", options=JobOptions(priority=1))
        assert claim(jobs) == job.id
        jobs.cancel(job.id)


def test_shards_of_a_running_job_wait_for_a_more_urgent_one(jobs: JobQueue) -> None:
    large = submit(jobs, shards=3)
    assert claim(jobs) == large.id
    urgent = submit(jobs, options=JobOptions(priority=1))
    assert [claim(jobs) for _ in range(3)] == [urgent.id, large.id, large.id]


def test_a_released_job_keeps_its_priority(jobs: JobQueue) -> None:
    submit(jobs)
    urgent = submit(jobs, options=JobOptions(priority=1))
    lease = jobs.leases.claim(worker="w")
    assert lease is not None
    assert lease.job_id == urgent.id
    jobs.leases.release(lease)
    assert claim(jobs) == urgent.id


def test_a_request_with_other_labels_gets_a_job_of_its_own(jobs: JobQueue, artifacts: Artifacts) -> None:
    first = submit(jobs, digest="d", options=ACTIN)
    finish(jobs, artifacts, first)
    assert submit(jobs, digest="d", options=ACTIN).id == first.id
    assert submit(jobs, digest="d", options=JobOptions(labels=ACTIN.labels)).id == first.id  # of another priority
    plain = submit(jobs, digest="d")
    assert plain.id != first.id
    finish(jobs, artifacts, plain)
    flush(jobs)
    jobs.admin.rebuild()
    assert submit(jobs, digest="d", options=ACTIN).id == first.id
    assert submit(jobs, digest="d").id == plain.id


@pytest.mark.parametrize("owner", ["ada", None])
def test_lists_are_filtered_and_paged(jobs: JobQueue, owner: str | None) -> None:
    wanted = [
        submit(jobs, owner="ada", model_id=model_id, options=JobOptions(labels={"run": run, "a": ""}))
        for model_id, run in 2 * [("n", "0"), ("m", "1"), ("n", "2"), ("m", "0"), ("n", "1"), ("m", "2")]
    ]
    submit(jobs, owner="ada")
    submit(jobs, owner="bob", model_id="n", options=JobOptions(labels={"run": "0"}))

    def listed(where: JobFilter, limit: int = 50) -> list[str]:
        found, cursor = [], None
        while True:
            page = jobs.list(owner=owner, where=where, cursor=cursor, limit=limit)
            found += [job.id for job in page.jobs]
            cursor = page.next_cursor
            if cursor is None:
                return found

    expected = [job.id for job in reversed(wanted) if job.labels["run"] == "0" and job.model_id == "n"]
    where = JobFilter(model_id="n", labels=(("run", "0"), ("a", "")))
    for limit in (1, 2, 50):
        assert listed(where, limit) == expected
    assert listed(JobFilter(labels=(("run", "0"), ("run", "1")))) == []
    middle = wanted[5].created_at
    after, before = listed(JobFilter(created_after=middle)), listed(JobFilter(created_before=middle))
    assert wanted[5].id not in after + before
    assert set(after) >= {job.id for job in wanted[6:]}
    assert before == [job.id for job in reversed(wanted[:5])]
    assert jobs.list(owner="ada", status=JobStatus.RUNNING, where=where).jobs == []
