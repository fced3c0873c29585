"""Between two steps the broker may lose its data, a process may die, and others may act: nobody is told wrong.

Each test puts one such thing exactly where it would do harm.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any
from uuid import uuid4

import pytest
from claims import claim_job
from workbench import submit

from worker.errors import (
    IdempotencyError,
    JobActiveError,
    JobFailedError,
    JobNotFoundError,
    LeaseLostError,
    QueueUnavailableError,
)
from worker.jobs import Job, JobQueue, JobStatus, Lease
from worker.jobs.quotas import OverShareError, Quota
from worker.storage.artifacts import Artifacts
from worker.storage.journal import Journal

MakeJobs = Callable[..., JobQueue]


def flush(jobs: JobQueue) -> None:
    for key in jobs._redis.scan_iter(f"{jobs._prefix}*"):
        jobs._redis.delete(key)


def claim(jobs: JobQueue, job: Job) -> Lease:
    lease = claim_job(jobs, job.id, worker="w")
    assert lease is not None
    return lease


def finish(jobs: JobQueue, artifacts: Artifacts, job: Job) -> None:
    lease = claim(jobs, job)
    staged = artifacts.staging(job.id, lease.token)
    (staged / "manifest.json").write_text('{"files": []}')
    artifacts.publish(job.id, staged)
    jobs.leases.finish(lease)


def interpose(
    owner: Any, name: str, *, before: Callable[[], object] = bool, after: Callable[[], object] = bool
) -> None:
    """Let something happen once, right before or after the next call of ``owner.name``."""
    call = getattr(owner, name)

    def called(*args: Any, **options: Any) -> Any:
        setattr(owner, name, call)
        before()
        answer = call(*args, **options)
        after()
        return answer

    setattr(owner, name, called)


def on_script(
    jobs: JobQueue, script: str, *, before: Callable[[], object] = bool, after: Callable[[], object] = bool
) -> None:
    """The same, right before or after the next run of a script."""
    run = jobs._store.run

    def ran(name: str, *args: str | float) -> Any:
        if name != script:
            return run(name, *args)
        jobs._store.run = run  # type: ignore[method-assign]
        before()
        answer = run(name, *args)
        after()
        return answer

    jobs._store.run = ran  # type: ignore[method-assign]


class DiedError(BaseException):
    """The process is gone; nothing that could still be done is done."""


def die() -> None:
    raise DiedError


# ------------------------------------------------------------------------------------------------------------- looking


def test_a_list_lacks_no_job_after_a_loss_and_while_others_rebuild(jobs: JobQueue, make_jobs: MakeJobs) -> None:
    other, job = make_jobs(), submit(jobs)
    flush(jobs)
    assert [one.id for one in jobs.list().jobs] == [job.id]
    interpose(jobs._store, "page", before=lambda: flush(jobs), after=other.admin.rebuild)
    assert [one.id for one in jobs.list().jobs] == [job.id]


def test_janitor_takes_no_job_for_unknown_that_the_broker_lost_while_it_looked(
    jobs: JobQueue, artifacts: Artifacts
) -> None:
    done, waiting = submit(jobs), submit(jobs)
    finish(jobs, artifacts, done)
    old = time.time() - 1000.0  # a janitor would clear it away, had it no record
    for path in artifacts.root.rglob("*"):
        os.utime(path, (old, old))
    interpose(jobs._store, "leased", before=lambda: flush(jobs))
    assert jobs.admin.clean() == 0
    jobs.admin.sweep()
    assert [jobs.get(job.id).status for job in (done, waiting)] == [JobStatus.SUCCEEDED, JobStatus.QUEUED]
    assert artifacts.exists(done.id)


def test_a_damaged_request_keeps_no_other_from_being_restored(jobs: JobQueue, artifacts: Artifacts) -> None:
    first, second = submit(jobs), submit(jobs)
    (artifacts.root / "requests" / f"{first.id}.json").write_bytes(b"\0\0")
    flush(jobs)
    assert jobs.get(second.id).status is JobStatus.QUEUED
    with pytest.raises(JobNotFoundError):
        jobs.get(first.id)


# ---------------------------------------------------------------------------------------------------------- submitting


def test_a_request_whose_answer_is_removed_in_that_instant_is_a_new_job(jobs: JobQueue, artifacts: Artifacts) -> None:
    done = submit(jobs, digest="d")
    finish(jobs, artifacts, done)
    interpose(jobs._submission, "submit", after=lambda: jobs.delete(done.id))
    again = submit(jobs, digest="d")
    assert (again.id != done.id, again.status) == (True, JobStatus.QUEUED)


@pytest.mark.parametrize("lost", [False, True])
def test_a_key_has_one_job_though_a_process_died_with_the_request_on_disk(
    jobs: JobQueue, make_jobs: MakeJobs, artifacts: Artifacts, lost: bool
) -> None:
    dying = make_jobs()
    interpose(dying._journal, "record_request", after=die)
    with pytest.raises(DiedError):
        submit(dying, idempotency_key="k", request_digest="r", spec={"seed": 1})
    if lost:
        flush(jobs)
    job = submit(jobs, idempotency_key="k", request_digest="r", spec={"seed": 2})
    assert Journal(artifacts.root).requested() == [job.id]
    assert job.spec == {"seed": 1}  # what is on disk, so a rebuilding gives the same
    flush(jobs)
    jobs.admin.rebuild()
    assert [(one.id, one.spec) for one in jobs.list().jobs] == [(job.id, {"seed": 1})]
    with pytest.raises(IdempotencyError):
        submit(jobs, idempotency_key="k", request_digest="other")


def test_a_request_that_was_left_long_ago_gives_way_to_the_next_of_its_key(
    make_jobs: MakeJobs, artifacts: Artifacts
) -> None:
    jobs = make_jobs(write_s=0.05)
    interpose(jobs._journal, "record_request", after=die)
    with pytest.raises(DiedError):
        submit(jobs, idempotency_key="k", request_digest="r")
    [left] = Journal(artifacts.root).requested()
    time.sleep(0.1)
    job = submit(jobs, idempotency_key="k", request_digest="another")  # nobody was told that the key is taken
    assert job.id != left
    assert Journal(artifacts.root).requested() == [job.id]


def test_two_that_send_the_same_key_at_once_make_one_job_whoever_is_first(
    jobs: JobQueue, make_jobs: MakeJobs, artifacts: Artifacts
) -> None:
    other, met = make_jobs(), []
    interpose(
        jobs._journal, "record_request", before=lambda: met.append(submit(other, idempotency_key="k", digest="d"))
    )
    job = submit(jobs, idempotency_key="k", digest="d")
    assert [one.id for one in met] == [job.id] == Journal(artifacts.root).requested()
    assert jobs.admin.counts()[JobStatus.QUEUED] == 1


def test_a_process_that_sleeps_over_a_request_does_not_submit_what_may_be_cleared_away(
    make_jobs: MakeJobs, artifacts: Artifacts
) -> None:
    jobs = make_jobs(write_s=0.05)
    interpose(jobs._journal, "record_request", after=lambda: time.sleep(0.1))
    job = submit(jobs)
    assert Journal(artifacts.root).has_request(job.id)
    assert len(Journal(artifacts.root).requested()) == 2
    with pytest.raises(JobNotFoundError):
        jobs.get(min(Journal(artifacts.root).requested()))


def test_a_key_that_was_answered_by_an_earlier_job_stands_for_it_after_a_loss(
    make_jobs: MakeJobs, artifacts: Artifacts
) -> None:
    jobs = make_jobs(retention_s=0.0)
    done = submit(jobs, digest="d")
    finish(jobs, artifacts, done)
    assert submit(jobs, digest="d", idempotency_key="k", request_digest="r").id == done.id
    flush(jobs)
    with pytest.raises(IdempotencyError):
        submit(jobs, digest="e", idempotency_key="k", request_digest="other")
    assert jobs.admin.sweep().expired == [done.id]
    for lose in (bool, lambda: flush(jobs)):
        lose()
        assert submit(jobs, digest="d", idempotency_key="k", request_digest="r").id == done.id
    for path in (artifacts.root / "aliases").iterdir():
        os.utime(path, (0, 0))
    assert jobs.admin.clean() == 1


def test_a_share_is_counted_when_every_record_is_back(jobs: JobQueue, broker_url: str) -> None:
    quota = Quota.connect(broker_url, assure=jobs.admin.assure, prefix=jobs._prefix)
    submit(jobs, owner="ada")
    flush(jobs)
    with pytest.raises(OverShareError), quota.reservation("ada", share=1, digest=uuid4().hex):
        pytest.fail("there was no place")
    quota.close()


# ---------------------------------------------------------------------------------------------------- ending, removing


@pytest.mark.parametrize("rebuilt", [False, True])
def test_a_job_is_canceled_though_the_broker_lost_it_meanwhile(
    jobs: JobQueue, make_jobs: MakeJobs, rebuilt: bool
) -> None:
    other = make_jobs()

    def lose() -> None:
        flush(jobs)
        if rebuilt:
            other.admin.rebuild()

    for where in ("before", "after"):
        job = submit(jobs)
        on_script(jobs, "cancel", **{where: lose})
        assert jobs.cancel(job.id).status is JobStatus.CANCELED
        flush(jobs)
        assert jobs.get(job.id).status is JobStatus.CANCELED


def test_nobody_is_told_of_a_cancellation_that_is_not_written_down(jobs: JobQueue, make_jobs: MakeJobs) -> None:
    dying, job = make_jobs(), submit(jobs)
    on_script(dying, "cancel", after=die)
    with pytest.raises(DiedError):
        dying.cancel(job.id)
    assert jobs.cancel(job.id).status is JobStatus.CANCELED
    flush(jobs)
    assert jobs.get(job.id).status is JobStatus.CANCELED


def test_what_expires_while_the_broker_is_lost_keeps_files_and_state_in_step(
    make_jobs: MakeJobs, artifacts: Artifacts
) -> None:
    jobs, other = make_jobs(retention_s=0.0), make_jobs(retention_s=0.0)
    job = submit(jobs)
    finish(jobs, artifacts, job)

    def lose() -> None:
        flush(jobs)
        other.admin.rebuild()

    on_script(jobs, "sweep", after=lose)
    jobs.admin.sweep()
    assert (jobs.get(job.id).status, artifacts.exists(job.id)) == (JobStatus.SUCCEEDED, True)
    jobs.admin.sweep()
    assert (jobs.get(job.id).status, artifacts.exists(job.id)) == (JobStatus.EXPIRED, False)


def test_a_job_that_expires_under_a_rebuilding_comes_back_as_expired(jobs: JobQueue, artifacts: Artifacts) -> None:
    job = submit(jobs)
    finish(jobs, artifacts, job)
    flush(jobs)

    def expire() -> None:
        Journal(artifacts.root).record_outcome(job.id, {"status": "expired", "finished_at": time.time(), "error": None})
        artifacts.remove(job.id)

    interpose(jobs._store, "restore", before=expire)
    assert jobs.get(job.id).status is JobStatus.EXPIRED
    assert submit(jobs, digest=job.digest).id != job.id  # and answers no request


def test_a_job_that_is_removed_under_a_rebuilding_stays_removed(
    jobs: JobQueue, make_jobs: MakeJobs, artifacts: Artifacts
) -> None:
    slow, job = make_jobs(), submit(jobs)
    finish(jobs, artifacts, job)
    flush(jobs)

    def remove_and_lose() -> None:
        jobs.delete(job.id)
        flush(jobs)

    interpose(slow._store, "restore", before=remove_and_lose)
    slow.admin.rebuild()
    with pytest.raises(JobNotFoundError):
        jobs.get(job.id)
    assert jobs.list().jobs == []


def test_a_job_that_goes_on_again_is_not_half_removed(
    jobs: JobQueue, make_jobs: MakeJobs, artifacts: Artifacts
) -> None:
    other, job = make_jobs(), submit(jobs)
    jobs.leases.fail(claim(jobs, job), code="c", message="m")
    (artifacts.root / "verdicts" / f"{job.id}.json").unlink()  # its worker died before it was written

    def lose() -> None:
        flush(jobs)
        other.admin.rebuild()

    interpose(jobs._journal, "forget_request", before=lose)
    with pytest.raises(JobActiveError):
        jobs.delete(job.id)
    flush(jobs)
    assert jobs.get(job.id).status is JobStatus.QUEUED


def test_an_end_that_the_broker_forgot_in_a_power_cut_is_not_followed_by_another(
    jobs: JobQueue, artifacts: Artifacts
) -> None:
    job, told = submit(jobs), {"code": "empty_surface", "message": "no membrane in Ω"}
    lease = claim(jobs, job)
    Journal(artifacts.root).record_outcome(job.id, {"status": "failed", "finished_at": time.time(), "error": told})
    jobs._redis.set(jobs._prefix + "whole", "0" * 40)  # as the number of an earlier run
    with pytest.raises(LeaseLostError):
        jobs.leases.finish(lease)
    assert jobs.leases.claim(worker="w") is None
    failed = jobs.get(job.id)
    assert failed.status is JobStatus.FAILED
    assert failed.error is not None
    assert (failed.error.code, failed.error.message) == ("empty_surface", "no membrane in Ω")


def test_no_token_comes_back_after_a_restart_that_forgot_it(jobs: JobQueue) -> None:
    job = submit(jobs)
    jobs._redis.set(jobs._prefix + "token", 7)
    forgotten = claim(jobs, job)
    jobs._redis.set(jobs._prefix + "token", 7)  # the last second before a power cut
    jobs._redis.set(jobs._prefix + "whole", "0" * 40)
    assert claim(jobs, submit(jobs)).token > forgotten.token


def test_files_are_published_though_what_was_in_their_way_is_removed_just_then(
    artifacts: Artifacts, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id = uuid4().hex
    staged = artifacts.staging(job_id, 1)
    (staged / "manifest.json").write_text('{"files": []}')
    in_the_way = artifacts.root / "results" / job_id / "leftover"
    in_the_way.mkdir(parents=True)
    rename = type(staged).rename

    def renamed(path: Any, target: Any) -> Any:
        try:
            return rename(path, target)
        except OSError:
            monkeypatch.undo()
            artifacts.remove(job_id)
            raise

    monkeypatch.setattr(type(staged), "rename", renamed)
    artifacts.publish(job_id, staged)
    assert artifacts.exists(job_id)


# --------------------------------------------------------------------------------------------------------------- pins


def test_a_pin_is_set_though_the_broker_lost_the_job_meanwhile(jobs: JobQueue, artifacts: Artifacts) -> None:
    job = submit(jobs)
    finish(jobs, artifacts, job)
    on_script(jobs, "pin", before=lambda: flush(jobs))
    assert jobs.pin(job.id).pinned
    on_script(jobs, "pin", after=lambda: flush(jobs))
    assert not jobs.pin(job.id, pinned=False).pinned


def test_a_job_that_fails_while_it_is_pinned_says_so(jobs: JobQueue, artifacts: Artifacts) -> None:
    lease = claim(jobs, submit(jobs))
    on_script(jobs, "pin", before=lambda: jobs.leases.fail(lease, code="c", message="m"))
    with pytest.raises(JobFailedError):
        jobs.pin(lease.job_id)
    assert not Journal(artifacts.root).pinned(lease.job_id)


def test_files_that_were_let_go_stay_as_long_as_was_said_also_after_a_loss(
    make_jobs: MakeJobs, artifacts: Artifacts
) -> None:
    jobs = make_jobs(retention_s=50.0)
    job = submit(jobs)
    finish(jobs, artifacts, job)
    old = time.time() - 100.0  # so that without the pin they would be gone
    os.utime(artifacts.root / "results" / job.id / "manifest.json", (old, old))
    jobs.pin(job.id)
    said = jobs.pin(job.id, pinned=False).expires_at
    flush(jobs)
    assert jobs.admin.sweep().expired == []
    assert jobs.get(job.id).expires_at == pytest.approx(said, abs=1.0)


# ------------------------------------------------------------------------------------------------------------- leases


def out_of_touch(jobs: JobQueue, lease: Lease) -> None:
    """As if the broker had been frozen for a hundred seconds: nobody could sweep, and nobody renew a lease."""
    jobs._redis.set(jobs._prefix + "swept", time.time() - 100.0)
    jobs._redis.zadd(jobs._prefix + "leases", {lease.job_id: time.time() - 40.0})


def test_no_lease_is_lost_because_the_broker_was_away(jobs: JobQueue) -> None:
    lease = claim(jobs, submit(jobs))
    for _ in range(jobs.rules.max_lost + 1):
        out_of_touch(jobs, lease)
        swept = jobs.admin.sweep()
        assert (swept.requeued, swept.crashed) == ([], [])
        jobs.leases.renew(lease)
    assert jobs.admin.failure_counts() == {"leases_lost": 0, "worker_crashed": 0}


def test_a_dead_worker_is_spared_once_however_often_the_broker_is_away(jobs: JobQueue) -> None:
    lease = claim(jobs, submit(jobs))
    out_of_touch(jobs, lease)
    assert jobs.admin.sweep().requeued == []
    out_of_touch(jobs, lease)
    assert jobs.admin.sweep().requeued == [lease.job_id]


def test_lost_leases_and_the_jobs_that_ended_for_them_are_counted(make_jobs: MakeJobs) -> None:
    jobs = make_jobs(lease_s=-1.0)
    poison, unlucky = submit(jobs), submit(jobs)
    assert jobs.admin.failure_counts() == {"leases_lost": 0, "worker_crashed": 0}
    for _ in range(jobs.rules.max_lost):
        claim(jobs, poison)
        jobs.admin.sweep()
    claim(jobs, unlucky)
    jobs.admin.sweep()
    assert jobs.admin.failure_counts() == {"leases_lost": 4, "worker_crashed": 1}


def test_a_broker_that_never_stays_whole_is_said_to_be_out_of_order(jobs: JobQueue) -> None:
    submit(jobs)
    page = jobs._store.page

    def lose(**query: Any) -> Any:
        flush(jobs)
        return page(**query)

    jobs._store.page = lose  # type: ignore[method-assign]
    with pytest.raises(QueueUnavailableError):
        jobs.list()
