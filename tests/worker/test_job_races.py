"""Many at once: exactly one claim, exactly one end, whatever the order."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from uuid import uuid4

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, rule, run_state_machine_as_test
from workbench import submit

from model.errors import JobActiveError, JobCanceledError, JobNotFoundError, LeaseLostError, QueueUnavailableError
from worker.jobs import Job, JobRules, Jobs, JobStatus, Lease

THREADS = 8


def all_at_once(acts: list[Callable[[], object]]) -> list[object]:
    """Run the acts in threads; an error is a result."""

    def attempt(act: Callable[[], object]) -> object:
        try:
            return act()
        except (LeaseLostError, JobCanceledError) as error:
            return type(error)

    with ThreadPoolExecutor(len(acts)) as pool:
        return list(pool.map(attempt, acts))


def test_one_of_many_workers_gets_a_job(jobs: Jobs) -> None:
    for _ in range(20):
        job = submit(jobs)
        claims = [lambda job=job: jobs.claim(job.id, worker="w")] * THREADS
        assert sum(lease is not None for lease in all_at_once(claims)) == 1


def test_many_workers_empty_a_queue_and_take_each_job_once(jobs: Jobs) -> None:
    submitted = {submit(jobs).id for _ in range(60)}

    def work() -> list[str]:
        taken = []
        while lease := jobs.claim(None, worker="w"):
            jobs.finish(lease, result=lease.job_id)
            taken.append(lease.job_id)
        return taken

    taken = Counter(job_id for one in all_at_once([work] * THREADS) for job_id in one)
    assert set(taken) == submitted
    assert set(taken.values()) == {1}


def test_finish_and_cancel_race_to_exactly_one_end(jobs: Jobs) -> None:
    ends = set()
    for _ in range(40):
        lease = jobs.claim(submit(jobs).id, worker="w")
        assert lease is not None
        finished, *_ = all_at_once(
            [lambda lease=lease: jobs.finish(lease, result="r"), lambda lease=lease: jobs.cancel(lease.job_id)]
        )
        job = jobs.get(lease.job_id)
        ends.add(job.status)
        assert (finished is None) == (job.status is JobStatus.SUCCEEDED)
        assert (finished is JobCanceledError) == (job.status is JobStatus.CANCELED)
        last = [event.data["state"] for event in jobs.events(job.id)][2:]
        assert last == [job.status]
    assert ends <= {JobStatus.SUCCEEDED, JobStatus.CANCELED}


def test_one_idempotency_key_makes_one_job_however_often_it_is_sent_at_once(jobs: Jobs) -> None:
    for _ in range(10):
        key = uuid4().hex
        made = all_at_once([lambda key=key: submit(jobs, idempotency_key=key, digest="d", reuse=False).id] * THREADS)
        assert len(set(made)) == 1


def test_queue_bound_holds_under_a_rush(make_jobs: Callable[..., Jobs]) -> None:
    jobs = make_jobs(max_queue=10)

    def rush() -> int:
        accepted = 0
        for _ in range(5):
            with suppress(QueueUnavailableError):
                submit(jobs)
                accepted += 1
        return accepted

    assert sum(all_at_once([rush] * THREADS)) == 10
    assert jobs.queue_depth() == 10


class JobLife(RuleBasedStateMachine):
    """Any sequence of calls against a plain description of what each may do."""

    url = ""
    jobs_made: Bundle[Job] = Bundle("jobs_made")
    leases: Bundle[Lease] = Bundle("leases")

    def __init__(self) -> None:
        super().__init__()
        rules = JobRules(lease_s=0.0)  # every lease has run out, so every sweep finds them all
        self.jobs = Jobs.connect(self.url, hint=lambda _: None, rules=rules, prefix=f"{uuid4().hex}:")
        self.status: dict[str, JobStatus] = {}
        self.holder: dict[str, int] = {}
        self.lost: Counter[str] = Counter()

    def teardown(self) -> None:
        self.jobs.close()

    @rule(target=jobs_made)
    def submit(self) -> Job:
        job = submit(self.jobs)
        self.status[job.id] = JobStatus.QUEUED
        return job

    @rule(target=leases, job=jobs_made)
    def claim(self, job: Job) -> Lease | None:
        lease = self.jobs.claim(job.id, worker="w")
        assert (lease is not None) == (self.status.get(job.id) is JobStatus.QUEUED)
        if lease is not None:
            self.status[job.id] = JobStatus.RUNNING
            self.holder[job.id] = lease.token
        return lease

    @rule(lease=leases, act=st.sampled_from(["beat", "finish", "fail", "release"]))
    def worker_acts(self, lease: Lease | None, act: str) -> None:
        if lease is None:
            return
        status, holds = self.status.get(lease.job_id), self.holder.get(lease.job_id) == lease.token
        arguments = {"finish": {"result": "r"}, "fail": {"code": "c", "message": "m"}}.get(act, {})
        ends = {"finish": JobStatus.SUCCEEDED, "fail": JobStatus.FAILED, "release": JobStatus.QUEUED}
        said = holds and act in ("finish", "fail") and status is ends[act]  # the last word once more
        try:
            getattr(self.jobs, act)(lease, **arguments)
        except JobCanceledError:
            assert holds
            assert status is JobStatus.CANCELED
        except LeaseLostError:
            assert not (holds and status is JobStatus.RUNNING)
        else:
            assert (holds and status is JobStatus.RUNNING) or said
            if status is JobStatus.RUNNING and act in ends:
                self.status[lease.job_id] = ends[act]
                if act == "release":
                    del self.holder[lease.job_id]

    @rule(job=jobs_made)
    def cancel(self, job: Job) -> None:
        if job.id not in self.status:
            with pytest.raises(JobNotFoundError):
                self.jobs.cancel(job.id)
            return
        if self.status[job.id].active:
            self.status[job.id] = JobStatus.CANCELED
        assert self.jobs.cancel(job.id).status is self.status[job.id]

    @rule(job=jobs_made)
    def delete(self, job: Job) -> None:
        status = self.status.get(job.id)
        if status is None or status.active:
            with pytest.raises(JobActiveError if status else JobNotFoundError):
                self.jobs.delete(job.id)
        else:
            self.jobs.delete(job.id)
            del self.status[job.id]

    @rule()
    def sweep(self) -> None:
        running = {job_id for job_id, status in self.status.items() if status is JobStatus.RUNNING}
        swept = self.jobs.sweep()
        assert set(swept.requeued) | set(swept.crashed) == running
        self.lost.update(running)
        assert set(swept.crashed) == {job_id for job_id in running if self.lost[job_id] >= self.jobs.rules.max_lost}
        for job_id in running:
            del self.holder[job_id]
        self.status |= dict.fromkeys(swept.requeued, JobStatus.QUEUED) | dict.fromkeys(swept.crashed, JobStatus.FAILED)

    @invariant()
    def every_count_and_list_agrees(self) -> None:
        assert self.jobs.counts() == {status: Counter(self.status.values())[status] for status in JobStatus}
        assert {job.id: job.status for job in self.jobs.list(limit=200).jobs} == self.status


def test_no_sequence_of_calls_breaks_the_life_of_a_job(broker_url: str) -> None:
    JobLife.url = broker_url
    run_state_machine_as_test(
        JobLife,
        settings=settings(max_examples=30, stateful_step_count=25, suppress_health_check=list(HealthCheck)),
    )
