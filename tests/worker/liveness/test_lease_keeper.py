"""Promises of worker.liveness.lease_keeper: a lease is renewed while its job computes, whether or not it reports."""

from __future__ import annotations

import time
from collections.abc import Callable

from claims import claim_job
from workbench import submit

from worker.jobs import JobQueue
from worker.liveness.lease_keeper import LeaseKeeper

LEASE_S = 2.0


def test_a_job_that_reports_nothing_for_longer_than_a_lease_keeps_it(make_jobs: Callable[..., JobQueue]) -> None:
    jobs = make_jobs(lease_s=LEASE_S)
    job = submit(jobs)
    lease = claim_job(jobs, job.id, worker="w")
    assert lease is not None
    with LeaseKeeper(jobs, lease, every_s=LEASE_S / 10, draining=lambda: False) as keeper:
        time.sleep(1.4 * LEASE_S)
        assert jobs.admin.sweep().requeued == []
        assert jobs.leases.holds(job.id, lease.token)
        keeper.check()


def test_a_lease_that_nobody_keeps_runs_out(make_jobs: Callable[..., JobQueue]) -> None:
    """The other half: what the test above would see if the lease were not renewed."""
    jobs = make_jobs(lease_s=0.2)
    job = submit(jobs)
    assert claim_job(jobs, job.id, worker="w") is not None
    time.sleep(0.4)
    assert jobs.admin.sweep().requeued == [job.id]
