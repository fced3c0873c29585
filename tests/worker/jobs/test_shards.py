"""A divided job, step by step and in any order: every shard once, one end, owners in turn."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from uuid import uuid4

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test
from workbench import submit

from worker.errors import JobCanceledError, LeaseLostError
from worker.jobs import SEAL, Job, JobProgress, JobQueue, JobRules, JobShards, JobStatus, Lease
from worker.storage.artifacts import Artifacts

MakeJobs = Callable[..., JobQueue]


def claimed(jobs: JobQueue) -> Lease:
    lease = jobs.leases.claim(worker="w")
    assert lease is not None
    return lease


def finish_all(jobs: JobQueue, job: Job, shards: int) -> None:
    """Finish every shard that is open."""
    for _ in range(shards):
        lease = claimed(jobs)
        assert lease.job_id == job.id
        jobs.leases.finish_shard(lease)


def test_a_divided_job_lives_from_queued_to_succeeded(jobs: JobQueue, wake_ups: list[str]) -> None:
    job = submit(jobs, shards=3)
    assert wake_ups == [job.id] * 3
    assert (job.status, job.shards) == (JobStatus.QUEUED, JobShards(total=3, running=0, done=0))
    assert job.shards is not None
    assert job.shards.open == 3
    leases = [claimed(jobs) for _ in range(3)]
    assert [lease.shard for lease in leases] == [0, 1, 2]
    assert jobs.leases.claim(worker="w") is None
    assert len({lease.token for lease in leases}) == 3
    running = jobs.get(job.id)
    assert (running.status, running.attempts, running.shards) == (
        JobStatus.RUNNING, 1, JobShards(total=3, running=3, done=0),
    )  # fmt: skip
    for lease in (leases[2], leases[0], leases[1]):
        assert jobs.leases.holds(job.id, lease.token)
        jobs.leases.finish_shard(lease)
        jobs.leases.finish_shard(lease)  # once more, after a broken connection
        assert not jobs.leases.holds(job.id, lease.token)
    assert wake_ups == [job.id] * 4  # the last one: for whoever seals it
    seal = claimed(jobs)
    assert seal.shard == SEAL
    assert jobs.leases.claim(worker="w") is None
    jobs.leases.finish(seal)
    jobs.leases.finish(seal)
    done = jobs.get(job.id)
    assert (done.status, done.shards) == (JobStatus.SUCCEEDED, JobShards(total=3, running=0, done=3))
    events = [event for event in jobs.events(job.id) if event.event != "progress"]
    assert [event.data.get("state") for event in events if event.event == "state"] == ["queued", "running", "succeeded"]
    assert [(e.data["shard"], e.data["done"]) for e in events if e.event == "shard"] == [(2, 1), (0, 2), (1, 3)]


def test_work_counts_what_waits_for_a_worker_and_what_workers_hold(jobs: JobQueue) -> None:
    assert jobs.admin.work() == (0, 0)
    divided, whole = submit(jobs, shards=3), submit(jobs)
    assert jobs.admin.work() == (4, 0)
    leases = [claimed(jobs) for _ in range(4)]
    assert jobs.admin.work() == (0, 4)
    jobs.leases.release(leases[0])
    assert jobs.admin.work() == (1, 3)
    jobs.cancel(divided.id)
    jobs.cancel(whole.id)
    assert jobs.admin.work()[0] == 0


def test_progress_is_the_sum_of_all_shards(jobs: JobQueue) -> None:
    job = submit(jobs, shards=2)
    first, second = claimed(jobs), claimed(jobs)

    def report(lease: Lease, frame: int) -> JobProgress:
        jobs.leases.renew(lease, progress=JobProgress(stage="frames", frame=frame, frames=40))
        return jobs.get(job.id).progress

    assert report(first, 4).frame == 4
    assert report(second, 6).fraction == 0.25
    assert report(first, 10).frame == 16
    jobs.leases.release(second)  # what it had made is lost
    assert report(first, 11).frame == 11
    jobs.leases.renew(first)  # a sign of life without news
    assert jobs.get(job.id).progress.frame == 11


def test_a_lost_worker_costs_its_shard_only(make_jobs: MakeJobs) -> None:
    jobs = make_jobs(lease_s=-1.0)
    job = submit(jobs, shards=2)
    lost = claimed(jobs)
    assert lost.shard == 0
    assert jobs.admin.sweep().requeued == [job.id]
    with pytest.raises(LeaseLostError):
        jobs.leases.finish_shard(lost)
    again = claimed(jobs)
    assert (again.shard, again.token > lost.token) == (0, True)
    jobs.leases.finish_shard(again)
    assert jobs.get(job.id).lost == 1
    for _ in range(jobs.rules.max_lost - 1):  # the other shard has losses of its own
        claimed(jobs)
        assert jobs.admin.sweep().requeued == [job.id]
    claimed(jobs)
    assert jobs.admin.sweep().crashed == [job.id]
    failed = jobs.get(job.id)
    assert failed.error is not None
    assert (failed.status, failed.error.code) == (JobStatus.FAILED, "worker_crashed")


@pytest.mark.parametrize("act", ["cancel", "fail"])
def test_the_end_of_the_job_is_the_end_of_every_shard(jobs: JobQueue, act: str) -> None:
    job = submit(jobs, shards=3)
    first, second = claimed(jobs), claimed(jobs)
    if act == "cancel":
        jobs.cancel(job.id)
    else:
        jobs.leases.fail(first, code="c", message="m")
        jobs.leases.fail(first, code="c", message="m")  # once more, after a broken connection
    with pytest.raises(JobCanceledError if act == "cancel" else LeaseLostError):
        jobs.leases.renew(second)
    assert jobs.leases.claim(worker="w") is None
    jobs.delete(job.id)
    left = [key for key in jobs._redis.scan_iter(f"{jobs._prefix}*") if job.id in key]
    assert left == []


def test_the_sealer_gives_back_shards_whose_files_are_gone(jobs: JobQueue) -> None:
    job = submit(jobs, shards=3)
    finish_all(jobs, job, 3)
    jobs.leases.reopen_shards(claimed(jobs), [1])
    assert jobs.get(job.id).shards == JobShards(total=3, running=0, done=2)
    again = claimed(jobs)
    assert again.shard == 1
    jobs.leases.finish_shard(again)
    seal = claimed(jobs)
    assert seal.shard == SEAL
    jobs.leases.release(seal)  # the worker stops
    assert claimed(jobs).shard == SEAL


def test_no_owner_starves_behind_a_large_job(jobs: JobQueue) -> None:
    """While ada's job of a hundred shards runs, bob's jobs are begun at once, in the order he sent them."""
    large = submit(jobs, owner="ada", shards=100)
    for _ in range(4):
        assert claimed(jobs).job_id == large.id
    small = [submit(jobs, owner="bob") for _ in range(3)]
    later = submit(jobs, owner="ada")
    got = [claimed(jobs) for _ in range(3)]
    assert [lease.job_id for lease in got] == [job.id for job in small]
    fourth = claimed(jobs)
    assert fourth.job_id == large.id  # bob has nothing more; of ada's jobs the earlier one
    for lease in got:
        jobs.leases.finish(lease)
    assert jobs.get(later.id).status is JobStatus.QUEUED


def test_wake_ups_that_ran_dry_are_repeated_for_shards(make_jobs: MakeJobs, wake_ups: list[str]) -> None:
    jobs = make_jobs(wake_up_after_s=0.0)
    job = submit(jobs, shards=3)
    claimed(jobs)
    wake_ups.clear()
    assert jobs.admin.sweep().woken == [job.id] * 2
    assert wake_ups == [job.id] * 2


def test_a_queue_that_an_older_version_filled_is_served(jobs: JobQueue) -> None:
    job = submit(jobs)
    for key in ("ready:", "ready_owners"):
        jobs._redis.delete(f"{jobs._prefix}{key}")
    assert claimed(jobs).job_id == job.id


class Divided(RuleBasedStateMachine):
    """One job of three shards, whatever workers, the broker and the disk do; every lease has run out at each sweep."""

    url = ""
    SHARDS = 3

    @initialize()
    def open(self) -> None:
        self.folder = Path(tempfile.mkdtemp())
        self.artifacts = Artifacts(self.folder)
        self.jobs = JobQueue.connect(
            self.url, artifacts=self.artifacts, wake_up=lambda _: None, rules=JobRules(lease_s=-1.0, max_lost=1000),
            prefix=f"{uuid4().hex}:",
        )  # fmt: skip
        self.job = submit(self.jobs, shards=self.SHARDS)
        self.held: dict[int, Lease] = {}  # by token
        self.past: list[Lease] = []
        self.done: set[int] = set()
        self.ended: JobStatus | None = None

    def teardown(self) -> None:
        self.jobs.close()
        shutil.rmtree(self.folder)

    def _publish(self, lease: Lease) -> None:
        staged = self.artifacts.staging(lease.job_id, lease.token)
        (staged / "manifest.json").write_text(json.dumps({"files": []}))
        if isinstance(lease.shard, int):
            self.artifacts.publish_shard(lease.job_id, lease.shard, staged)
        else:
            self.artifacts.publish(lease.job_id, staged)

    def _drop(self, lease: Lease) -> None:
        self.past.append(self.held.pop(lease.token))

    @rule()
    def claim(self) -> None:
        lease = self.jobs.leases.claim(worker="w")
        held = {known.shard for known in self.held.values()}
        free = set(range(self.SHARDS)) - self.done - held
        if self.ended:
            assert lease is None
        elif len(self.done) == self.SHARDS:
            assert (lease is None) == (SEAL in held)
            assert lease is None or lease.shard == SEAL
        else:
            assert (lease.shard if lease else None) == min(free, default=None)
        if lease:
            self.held[lease.token] = lease

    @rule(pick=st.integers(0, 9), act=st.sampled_from(["renew", "finish", "release", "fail_attempt"]))
    def worker_acts(self, pick: int, act: str) -> None:
        known = [*self.held.values(), *self.past]
        if not known:
            return
        lease = known[pick % len(known)]
        holds = lease.token in self.held
        whole = lease.shard == SEAL
        if act == "finish" and holds:
            self._publish(lease)
        words = {"code": "c", "message": "m"} if act == "fail_attempt" else {}
        name = "finish_shard" if act == "finish" and not whole else act
        try:
            getattr(self.jobs.leases, name)(lease, **words)
        except LeaseLostError:
            assert not holds
            return
        except JobCanceledError:
            assert self.ended is JobStatus.CANCELED
            return
        if not holds:
            assert act == "finish"  # its last word, once more
            return
        if act != "renew":
            self._drop(lease)
        if act == "finish" and whole:
            self.ended = JobStatus.SUCCEEDED
        elif act == "finish":
            assert isinstance(lease.shard, int)
            self.done.add(lease.shard)

    @rule()
    def sweep(self) -> None:
        swept = self.jobs.admin.sweep()
        assert swept.requeued == [self.job.id] * len(self.held)
        for lease in list(self.held.values()):
            self._drop(lease)

    @rule()
    def lose_the_broker(self) -> None:
        """Shards that were finished are claimed again, and found on disk by whoever does so."""
        for key in self.jobs._redis.scan_iter(f"{self.jobs._prefix}*"):
            self.jobs._redis.delete(key)
        self.jobs.admin.rebuild()
        for lease in list(self.held.values()):
            self._drop(lease)
        self.past.clear()
        if self.ended is None:
            self.done.clear()

    @rule()
    def reopen(self) -> None:
        seal = next((lease for lease in self.held.values() if lease.shard == SEAL), None)
        if seal:
            self.jobs.leases.reopen_shards(seal, [0, 2])
            self._drop(seal)
            self.done -= {0, 2}

    @invariant()
    def the_record_agrees(self) -> None:
        job = self.jobs.get(self.job.id)
        assert job.shards is not None
        if self.ended:
            assert job.status is self.ended
            return
        running = sum(lease.shard != SEAL for lease in self.held.values())
        assert job.shards == JobShards(total=self.SHARDS, running=running, done=len(self.done))
        for lease in self.held.values():
            assert self.jobs.leases.holds(job.id, lease.token)


def test_no_sequence_of_calls_or_losses_breaks_a_divided_job(broker_url: str) -> None:
    Divided.url = broker_url
    run_state_machine_as_test(
        Divided,
        settings=settings(
            max_examples=50, stateful_step_count=40, report_multiple_bugs=False,
            suppress_health_check=list(HealthCheck),
        ),
    )  # fmt: skip
