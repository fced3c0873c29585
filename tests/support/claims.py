"""The lease of one particular job, taken as workers take it: they get the job that is next."""

from __future__ import annotations

from worker.jobs import JobQueue, Lease


def claim_job(jobs: JobQueue, job_id: str, *, worker: str = "w") -> Lease | None:
    """Claim until the lease is this job's, and give the others back; None if the job cannot be claimed."""
    others = []
    while (lease := jobs.leases.claim(worker=worker)) is not None and lease.job_id != job_id:
        others.append(lease)
    for other in reversed(others):
        jobs.leases.release(other)
    return lease
