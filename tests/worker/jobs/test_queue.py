"""The life of a job, step by step, on a real broker."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from uuid import uuid4

import pytest
from claims import claim_job
from workbench import submit

from model.errors import SpecError
from worker.errors import (
    IdempotencyError,
    JobActiveError,
    JobCanceledError,
    JobNotFoundError,
    LeaseLostError,
    QueueUnavailableError,
)
from worker.jobs import JobFailure, JobProgress, JobQueue, JobStatus
from worker.storage.artifacts import Artifacts
from worker.storage.journal import Journal

MakeJobs = Callable[..., JobQueue]


def states(jobs: JobQueue, job_id: str) -> list[str]:
    return [event.data["state"] for event in jobs.events(job_id) if event.event == "state"]


def test_a_job_lives_from_queued_to_succeeded(jobs: JobQueue, wake_ups: list[str]) -> None:
    spec = {"seed": 2**64 - 1, "grid": [8, 9, 10], "µ": None}
    job, created = jobs.submit(
        kind="generation", spec=spec, model_id="m", model_sha256="0" * 64, digest="d", owner="ada"
    )
    assert created
    assert wake_ups == [job.id]
    assert (job.status, job.spec, job.attempts, job.queue_position) == (JobStatus.QUEUED, spec, 0, 1)

    lease = claim_job(jobs, job.id, worker="w")
    assert lease is not None
    assert lease.job.spec == spec
    progress = JobProgress(fraction=0.5, stage="frames", frame=1, frames=2, eta_s=3.0)
    jobs.leases.renew(lease, progress=progress)
    running = jobs.get(job.id)
    assert (running.status, running.progress, running.attempts) == (JobStatus.RUNNING, progress, 1)
    assert running.queue_position is None
    assert running.started_at is not None
    assert running.started_at >= job.created_at

    jobs.leases.finish(lease)
    done = jobs.get(job.id)
    assert (done.status, done.result, done.progress.fraction) == (JobStatus.SUCCEEDED, job.id, 1.0)
    assert done.finished_at is not None
    assert done.expires_at == pytest.approx(done.finished_at + jobs.rules.retention_s, abs=0.01)
    assert states(jobs, job.id) == ["queued", "running", "succeeded"]


def test_ids_are_hexadecimal_and_sort_by_time(jobs: JobQueue) -> None:
    first = submit(jobs).id
    time.sleep(0.002)
    second = submit(jobs).id
    assert first < second
    assert len(first) == 32
    assert set(first + second) <= set("0123456789abcdef")


def test_a_failed_job_says_why_and_is_not_run_again(jobs: JobQueue) -> None:
    job = submit(jobs)
    lease = claim_job(jobs, job.id, worker="w")
    assert lease is not None
    jobs.leases.fail(lease, code="empty_surface", message='no "membrane" in Ω')
    failed = jobs.get(job.id)
    assert failed.status is JobStatus.FAILED
    assert failed.error == JobFailure(code="empty_surface", message='no "membrane" in Ω')
    assert jobs.events(job.id)[-1].data["error"] == {"code": "empty_surface", "message": 'no "membrane" in Ω'}
    assert claim_job(jobs, job.id, worker="w") is None
    assert jobs.admin.sweep().requeued == []


def test_queue_is_first_in_first_out(jobs: JobQueue) -> None:
    submitted = [submit(jobs).id for _ in range(4)]
    assert [jobs.get(i).queue_position for i in submitted] == [1, 2, 3, 4]
    jobs.cancel(submitted[0])
    assert [jobs.get(i).queue_position for i in submitted] == [None, 1, 2, 3]
    claimed = [jobs.leases.claim(worker="w") for _ in range(3)]
    assert [lease.job_id for lease in claimed if lease] == submitted[1:]
    assert jobs.leases.claim(worker="w") is None


def test_full_queue_refuses_and_keeps_nothing(make_jobs: MakeJobs, artifacts: Artifacts) -> None:
    jobs = make_jobs(max_queue=2)
    kept = {submit(jobs).id, submit(jobs).id}
    with pytest.raises(QueueUnavailableError, match="2 jobs are waiting"):
        submit(jobs, idempotency_key="k")
    assert jobs.admin.counts()[JobStatus.QUEUED] == 2
    assert {request["id"] for request in Journal(artifacts.root).requests()} == kept
    assert jobs.leases.claim(worker="w")
    assert submit(jobs, idempotency_key="k").status is JobStatus.QUEUED


def test_same_idempotency_key_gives_the_same_job_and_refuses_another_body(jobs: JobQueue) -> None:
    key = "k" * 10_000
    # The seed was drawn anew for the second call, so only the request's own digest is the same.
    first = submit(jobs, idempotency_key=key, request_digest="r", digest="1")
    second = submit(jobs, idempotency_key=key, request_digest="r", digest="2")
    assert second.id == first.id
    assert submit(jobs, idempotency_key=key, request_digest="r", owner="other").id != first.id
    with pytest.raises(IdempotencyError):
        submit(jobs, idempotency_key=key, request_digest="s")
    jobs.cancel(first.id)
    assert submit(jobs, idempotency_key=key, request_digest="r").status is JobStatus.CANCELED
    jobs.delete(first.id)
    assert submit(jobs, idempotency_key=key, request_digest="s").id != first.id


def test_identical_succeeded_result_is_reused_by_its_owner_only(
    jobs: JobQueue, make_jobs: Callable[..., JobQueue], artifacts: Artifacts
) -> None:
    first = submit(jobs, digest="d", owner="ada")
    assert submit(jobs, digest="d", owner="ada").id != first.id  # not finished yet
    lease = claim_job(jobs, first.id, worker="w")
    assert lease is not None
    staged = artifacts.staging(first.id, lease.token)
    (staged / "manifest.json").write_text('{"files": []}')
    artifacts.publish(first.id, staged)
    jobs.leases.finish(lease)
    again, created = jobs.submit(kind="probe", spec={}, model_id="m", model_sha256="0" * 64, digest="d", owner="ada")
    assert (again.id, created) == (first.id, False)
    assert submit(jobs, digest="d", owner="bob").id != first.id
    assert submit(make_jobs(reuse=False), digest="d", owner="ada").id != first.id
    jobs.delete(first.id)
    assert submit(jobs, digest="d", owner="ada").id != first.id


def test_lost_lease_goes_back_to_the_head_and_the_third_ends_the_job(make_jobs: MakeJobs, wake_ups: list[str]) -> None:
    jobs = make_jobs(lease_s=0.05)
    poison, other = submit(jobs), submit(jobs)
    for attempt in (1, 2):
        lease = jobs.leases.claim(worker="w")
        assert lease is not None
        assert (lease.job_id, lease.job.attempts) == (poison.id, attempt)
        time.sleep(0.06)
        wake_ups.clear()
        assert jobs.admin.sweep().requeued == [poison.id]
        assert wake_ups == [poison.id]
        assert [jobs.get(j.id).queue_position for j in (poison, other)] == [1, 2]
    assert jobs.leases.claim(worker="w")
    time.sleep(0.06)
    assert jobs.admin.sweep().crashed == [poison.id]
    failed = jobs.get(poison.id)
    assert (failed.status, failed.attempts) == (JobStatus.FAILED, 3)
    assert failed.error is not None
    assert failed.error.code == "worker_crashed"
    assert states(jobs, poison.id)[-2:] == ["running", "failed"]


def test_heartbeats_keep_a_lease(make_jobs: MakeJobs) -> None:
    jobs = make_jobs(lease_s=0.8)
    lease = claim_job(jobs, submit(jobs).id, worker="w")
    assert lease is not None
    for _ in range(5):
        time.sleep(0.2)
        jobs.leases.renew(lease)
        assert jobs.admin.sweep().requeued == []


def test_old_lease_can_change_nothing(make_jobs: MakeJobs) -> None:
    jobs = make_jobs(lease_s=0.05)
    job = submit(jobs)
    old = claim_job(jobs, job.id, worker="frozen")
    time.sleep(0.06)
    jobs.admin.sweep()
    new = claim_job(jobs, job.id, worker="fresh")
    assert old is not None
    assert new is not None
    assert new.token > old.token
    acts: list[Callable[[], None]] = [
        lambda: jobs.leases.renew(old),
        lambda: jobs.leases.finish(old),
        lambda: jobs.leases.fail(old, code="c", message="m"),
        lambda: jobs.leases.release(old),
    ]
    for act in acts:
        with pytest.raises(LeaseLostError):
            act()
    assert jobs.get(job.id).status is JobStatus.RUNNING
    jobs.leases.finish(new)
    for act in acts:
        with pytest.raises(LeaseLostError):
            act()
    assert jobs.get(job.id).result == job.id


def test_a_lease_past_its_time_still_finishes_if_nobody_took_the_job(make_jobs: MakeJobs) -> None:
    jobs = make_jobs(lease_s=0.05)
    lease = claim_job(jobs, submit(jobs).id, worker="w")
    assert lease is not None
    time.sleep(0.06)
    jobs.leases.finish(lease)
    assert jobs.get(lease.job_id).status is JobStatus.SUCCEEDED


def test_last_words_may_be_said_twice(jobs: JobQueue) -> None:
    lease = claim_job(jobs, submit(jobs).id, worker="w")
    assert lease is not None
    jobs.leases.finish(lease)
    jobs.leases.finish(lease)
    assert states(jobs, lease.job_id).count("succeeded") == 1
    with pytest.raises(LeaseLostError):
        jobs.leases.fail(lease, code="c", message="m")


def test_release_gives_the_job_back_without_counting(jobs: JobQueue, wake_ups: list[str]) -> None:
    job = submit(jobs)
    for _ in range(5):
        lease = claim_job(jobs, job.id, worker="w")
        assert lease is not None
        wake_ups.clear()
        jobs.leases.release(lease)
        assert wake_ups == [job.id]
        back = jobs.get(job.id)
        assert (back.status, back.attempts, back.started_at) == (JobStatus.QUEUED, 0, None)


def test_canceling_a_running_job_stops_its_worker(jobs: JobQueue) -> None:
    lease = claim_job(jobs, submit(jobs).id, worker="w")
    assert lease is not None
    assert jobs.cancel(lease.job_id).status is JobStatus.CANCELED
    with pytest.raises(JobCanceledError):
        jobs.leases.renew(lease)
    with pytest.raises(JobCanceledError):
        jobs.leases.finish(lease)
    assert jobs.get(lease.job_id).status is JobStatus.CANCELED
    assert jobs.admin.sweep().requeued == []


def test_cancel_leaves_an_ended_job_as_it_is(jobs: JobQueue) -> None:
    lease = claim_job(jobs, submit(jobs).id, worker="w")
    assert lease is not None
    jobs.leases.finish(lease)
    assert jobs.cancel(lease.job_id) == jobs.get(lease.job_id)
    assert jobs.get(lease.job_id).status is JobStatus.SUCCEEDED


def test_a_foreign_job_looks_like_a_missing_one(jobs: JobQueue) -> None:
    job = submit(jobs, owner="ada")
    asks: list[Callable[[str, str], object]] = [
        lambda i, o: jobs.get(i, owner=o),
        lambda i, o: jobs.cancel(i, owner=o),
        lambda i, o: jobs.delete(i, owner=o),
        lambda i, o: jobs.wait(i, timeout_s=0, owner=o),
    ]
    for ask in asks:
        with pytest.raises(JobNotFoundError) as foreign:
            ask(job.id, "bob")
        with pytest.raises(JobNotFoundError) as missing:
            ask("f" * 32, "bob")
        assert str(foreign.value).replace(job.id, "") == str(missing.value).replace("f" * 32, "")
    assert jobs.get(job.id, owner="ada").status is JobStatus.QUEUED


def test_delete_removes_ended_jobs_only_and_leaves_no_trace(
    jobs: JobQueue, artifacts: Artifacts, broker_url: str
) -> None:
    job = submit(jobs, idempotency_key=None)
    with pytest.raises(JobActiveError):
        jobs.delete(job.id)
    lease = claim_job(jobs, job.id, worker="w")
    assert lease is not None
    with pytest.raises(JobActiveError):
        jobs.delete(job.id)
    staged = artifacts.staging(job.id, lease.token)
    (staged / "manifest.json").write_text('{"files": []}')
    artifacts.publish(job.id, staged)
    jobs.leases.finish(lease)
    jobs.delete(job.id)
    assert not artifacts.exists(job.id)
    assert list(Journal(artifacts.root).requests()) == []
    assert sum(jobs.admin.counts().values()) == 0
    left = {key.rpartition(":")[2] for key in jobs._redis.scan_iter(f"{jobs._prefix}*")}
    assert left == {"seq", "token", "whole"}
    with pytest.raises(JobNotFoundError):
        jobs.delete(job.id)


def test_list_pages_newest_first_and_is_not_shifted_by_new_jobs(jobs: JobQueue) -> None:
    submitted = [submit(jobs, owner="ada" if n % 2 else "bob").id for n in range(11)]
    seen, cursor = [], None
    while True:
        page = jobs.list(cursor=cursor, limit=4)
        seen += [job.id for job in page.jobs]
        submit(jobs)
        if (cursor := page.next_cursor) is None:
            break
    assert seen == submitted[::-1]
    assert [job.id for job in jobs.list(owner="ada").jobs] == submitted[1::2][::-1]
    assert jobs.list(owner="ada", limit=5).next_cursor is None
    assert jobs.list(owner="ada", limit=4).next_cursor is not None
    assert jobs.list(owner="ada", limit=5, status=JobStatus.QUEUED).next_cursor is None


def test_list_filters_by_state_and_kind(jobs: JobQueue) -> None:
    rare = submit(jobs, kind="rare").id
    common = [submit(jobs).id for _ in range(120)]
    jobs.cancel(common[7])
    assert [job.id for job in jobs.list(kind="rare", limit=2).jobs] == [rare]
    assert [job.id for job in jobs.list(status=JobStatus.CANCELED).jobs] == [common[7]]
    assert [job.id for job in jobs.list(owner="", status=JobStatus.CANCELED).jobs] == [common[7]]
    assert jobs.list(owner="nobody").jobs == []
    assert jobs.admin.counts()[JobStatus.QUEUED] == 120


@pytest.mark.parametrize("cursor", ["", "-1", "(5", "1e3", "٣", "9" * 40, "x"])
def test_a_made_up_cursor_is_refused(jobs: JobQueue, cursor: str) -> None:
    with pytest.raises(SpecError):
        jobs.list(cursor=cursor)


def test_events_resume_after_any_id(jobs: JobQueue) -> None:
    lease = claim_job(jobs, submit(jobs).id, worker="w")
    assert lease is not None
    for frame in range(5):
        jobs.leases.renew(lease, progress=JobProgress(fraction=frame / 5, stage="s", frame=frame, frames=5))
    events = jobs.events(lease.job_id)
    assert [event.event for event in events] == ["state"] * 2 + ["progress"] * 5
    for n, event in enumerate(events):
        assert jobs.events(lease.job_id, after=event.id) == events[n + 1 :]
    for nonsense in ("", "$", "x-y", "1-2-3", "9" * 30, "-"):
        assert jobs.events(lease.job_id, after=nonsense) == events


def test_events_of_a_long_job_do_not_pile_up(jobs: JobQueue) -> None:
    lease = claim_job(jobs, submit(jobs).id, worker="w")
    assert lease is not None
    for frame in range(1500):
        jobs.leases.renew(lease, progress=JobProgress(frame=frame, frames=1500))
    assert len(jobs.events(lease.job_id)) < 1300
    jobs.leases.finish(lease)
    left = jobs.events(lease.job_id)
    assert len(left) <= 16
    assert left[-1].data["state"] == "succeeded"


def test_wait_wakes_when_the_job_ends(jobs: JobQueue) -> None:
    lease = claim_job(jobs, submit(jobs).id, worker="w")
    assert lease is not None
    timer = threading.Timer(0.2, lambda: jobs.leases.finish(lease))
    timer.start()
    started = time.monotonic()
    assert jobs.wait(lease.job_id, timeout_s=120).status is JobStatus.SUCCEEDED
    assert time.monotonic() - started < 60.0  # not when its time was over
    timer.join()
    assert jobs.wait(lease.job_id, timeout_s=10).status is JobStatus.SUCCEEDED


def test_wait_gives_up_in_time(jobs: JobQueue) -> None:
    job = submit(jobs)
    started = time.monotonic()
    assert jobs.wait(job.id, timeout_s=0.3).status is JobStatus.QUEUED
    assert time.monotonic() - started > 0.25


def test_results_expire_but_the_spec_stays_until_the_record_goes(make_jobs: MakeJobs, artifacts: Artifacts) -> None:
    jobs = make_jobs(retention_s=0.5, record_s=0.2)
    job = submit(jobs, spec={"seed": 7}, digest="d")
    lease = claim_job(jobs, job.id, worker="w")
    assert lease is not None
    staged = artifacts.staging(job.id, lease.token)
    (staged / "manifest.json").write_text('{"files": []}')
    artifacts.publish(job.id, staged)
    jobs.leases.finish(lease)
    assert jobs.admin.sweep().expired == []
    time.sleep(0.52)
    assert jobs.admin.sweep().expired == [job.id]
    expired = jobs.get(job.id)
    assert (expired.status, expired.spec) == (JobStatus.EXPIRED, {"seed": 7})
    assert not artifacts.exists(job.id)
    assert submit(jobs, digest="d").id != job.id
    time.sleep(0.22)
    assert job.id in jobs.admin.sweep().purged
    with pytest.raises(JobNotFoundError):
        jobs.get(job.id)


def test_lost_wake_ups_are_sent_again_and_never_more_than_jobs_wait(make_jobs: MakeJobs, wake_ups: list[str]) -> None:
    jobs = make_jobs(wake_up_after_s=0.5)
    waiting = [submit(jobs).id for _ in range(3)]
    wake_ups.clear()
    assert jobs.admin.sweep().woken == []
    time.sleep(0.52)
    assert jobs.admin.sweep().woken == waiting
    assert wake_ups == waiting


def test_a_wake_up_that_cannot_be_sent_does_not_refuse_the_job(broker_url: str) -> None:
    def broken(job_id: str) -> None:
        raise OSError("no way through")

    jobs = JobQueue.connect(broker_url, wake_up=broken, prefix=f"{uuid4().hex}:")
    assert submit(jobs).status is JobStatus.QUEUED
    jobs.close()


def test_a_request_that_cannot_be_stored_is_not_accepted(
    jobs: JobQueue, artifacts: Artifacts, wake_ups: list[str]
) -> None:
    first = submit(jobs)
    (artifacts.root / "requests").rename(artifacts.root / "aside")
    (artifacts.root / "requests").write_text("a file where the folder should be")
    with pytest.raises(QueueUnavailableError, match="cannot store"):
        submit(jobs)
    assert sum(jobs.admin.counts().values()) == 1
    assert wake_ups == [first.id]


def test_rebuild_restores_every_job_that_a_flushed_broker_forgot(jobs: JobQueue, artifacts: Artifacts) -> None:
    done, running, queued, canceled = (submit(jobs, spec={"n": n}, owner="ada") for n in range(4))
    lease = claim_job(jobs, done.id, worker="w")
    assert lease is not None
    staged = artifacts.staging(done.id, lease.token)
    (staged / "manifest.json").write_text('{"files": []}')
    artifacts.publish(done.id, staged)
    jobs.leases.finish(lease)
    claim_job(jobs, running.id, worker="w")
    jobs.cancel(canceled.id)
    for key in jobs._redis.scan_iter(f"{jobs._prefix}*"):
        jobs._redis.delete(key)
    jobs.admin.clean()
    assert artifacts.exists(done.id)  # the janitor must not take a lost broker for lost jobs

    assert jobs.admin.rebuild() == 4
    assert jobs.admin.rebuild() == 0
    assert jobs.get(done.id, owner="ada").status is JobStatus.SUCCEEDED
    assert [jobs.get(j.id).queue_position for j in (running, queued)] == [1, 2]
    assert jobs.get(queued.id).spec == {"n": 2}
    assert jobs.get(queued.id).created_at == pytest.approx(queued.created_at, abs=1e-3)
    assert jobs.get(canceled.id).status is JobStatus.CANCELED


def test_janitor_removes_files_of_ended_jobs_and_abandoned_staging(make_jobs: MakeJobs, artifacts: Artifacts) -> None:
    jobs = make_jobs(lease_s=0.05)
    canceled, running = submit(jobs), submit(jobs)
    jobs.cancel(canceled.id)
    lease = claim_job(jobs, running.id, worker="w")
    assert lease is not None
    late = artifacts.staging(canceled.id, 1)  # a worker that did not yet know
    (late / "manifest.json").write_text('{"files": []}')
    artifacts.publish(canceled.id, late)
    abandoned, used = artifacts.staging("e" * 32, 1), artifacts.staging(running.id, lease.token)
    time.sleep(0.1)
    jobs.admin.clean()
    assert not artifacts.exists(canceled.id)
    assert not abandoned.exists()
    assert used.exists()


def test_workers_are_alive_as_long_as_they_say_so(jobs: JobQueue) -> None:
    jobs.admin.announce(name="h:1", hostname="h", pid=1, device="cpu")
    jobs.admin.announce(name="h:2", hostname="h", pid=2, device="cuda")
    assert [(w.name, w.hostname, w.pid, w.device) for w in jobs.admin.workers_alive()] == [
        ("h:1", "h", 1, "cpu"),
        ("h:2", "h", 2, "cuda"),
    ]
    jobs.admin.retire("h:1")
    time.sleep(0.1)
    assert [w.name for w in jobs.admin.workers_alive()] == ["h:2"]
    assert jobs.admin.workers_alive(within_s=0.05) == []


def test_one_at_a_time_holds_a_lock(jobs: JobQueue) -> None:
    assert jobs.admin.try_lock("sweep", seconds=0.5)
    assert not jobs.admin.try_lock("sweep", seconds=0.5)
    assert jobs.admin.try_lock("clean", seconds=0.5)
    time.sleep(0.52)
    assert jobs.admin.try_lock("sweep", seconds=0.5)


def test_a_job_that_comes_further_each_time_is_not_ended_by_lost_leases(make_jobs: Callable[..., JobQueue]) -> None:
    jobs = make_jobs(lease_s=0.02, max_lost=3)
    for kept, end in ((True, JobStatus.QUEUED), (False, JobStatus.FAILED)):
        job = submit(jobs)
        for _ in range(5):
            lease = jobs.leases.claim(worker="w")
            if lease is None:
                break
            jobs.leases.renew(lease, progress=JobProgress(), kept=kept)
            time.sleep(0.03)
            jobs.admin.sweep()
        assert jobs.get(job.id).status is end
        jobs.cancel(job.id)
