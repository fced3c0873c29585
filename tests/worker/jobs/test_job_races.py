"""Many at once: exactly one claim, exactly one end, whatever the order."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from uuid import uuid4

from claims import claim_job
from workbench import submit

from worker.errors import JobCanceledError, LeaseLostError, QueueUnavailableError
from worker.jobs import JobQueue, JobStatus

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


def test_one_of_many_workers_gets_a_job(jobs: JobQueue) -> None:
    for _ in range(20):
        job = submit(jobs)
        leases = all_at_once([lambda: jobs.leases.claim(worker="w")] * THREADS)
        assert [lease.job_id for lease in leases if lease is not None] == [job.id]


def test_many_workers_empty_a_queue_and_take_each_job_once(jobs: JobQueue) -> None:
    submitted = {submit(jobs).id for _ in range(60)}

    def work() -> list[str]:
        taken = []
        while lease := jobs.leases.claim(worker="w"):
            jobs.leases.finish(lease)
            taken.append(lease.job_id)
        return taken

    taken = Counter(job_id for one in all_at_once([work] * THREADS) for job_id in one)
    assert set(taken) == submitted
    assert set(taken.values()) == {1}


def test_finish_and_cancel_race_to_exactly_one_end(jobs: JobQueue) -> None:
    ends = set()
    for _ in range(40):
        lease = claim_job(jobs, submit(jobs).id, worker="w")
        assert lease is not None
        finished, *_ = all_at_once(
            [lambda lease=lease: jobs.leases.finish(lease), lambda lease=lease: jobs.cancel(lease.job_id)]
        )
        job = jobs.get(lease.job_id)
        ends.add(job.status)
        assert (finished is None) == (job.status is JobStatus.SUCCEEDED)
        assert (finished is JobCanceledError) == (job.status is JobStatus.CANCELED)
        last = [event.data["state"] for event in jobs.events(job.id)][2:]
        assert last == [job.status]
    assert ends <= {JobStatus.SUCCEEDED, JobStatus.CANCELED}


def test_one_idempotency_key_makes_one_job_however_often_it_is_sent_at_once(
    make_jobs: Callable[..., JobQueue],
) -> None:
    jobs = make_jobs(reuse=False)  # the key alone makes them one
    for _ in range(10):
        key = uuid4().hex
        made = all_at_once([lambda key=key: submit(jobs, idempotency_key=key, digest="d").id] * THREADS)
        assert len(set(made)) == 1


def test_queue_bound_holds_under_a_rush(make_jobs: Callable[..., JobQueue]) -> None:
    jobs = make_jobs(max_queue=10)

    def rush() -> int:
        accepted = 0
        for _ in range(5):
            with suppress(QueueUnavailableError):
                submit(jobs)
                accepted += 1
        return accepted

    assert sum(all_at_once([rush] * THREADS)) == 10
    assert jobs.admin.counts()[JobStatus.QUEUED] == 10
