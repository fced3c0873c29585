"""Job records and the queue: every change of a job's state is one Lua script in Redis, and requests are also on disk.

Everything above this package may import it: routes and services of ``app``, ``worker.execution``, ``worker.liveness``.
Callers take the names below from the package itself. Read :mod:`worker.jobs.queue` first, then ``lua/``.
"""

from worker.jobs.admin import QueueAdmin
from worker.jobs.async_queue import AsyncJobQueue
from worker.jobs.batches import BATCH_MAX, BatchJob
from worker.jobs.leases import JobLeases
from worker.jobs.outbox import Delivery
from worker.jobs.queue import JobQueue
from worker.jobs.records import (
    SEAL,
    Batch,
    Job,
    JobEvent,
    JobFailure,
    JobFilter,
    JobOptions,
    JobPage,
    JobProgress,
    JobRules,
    JobShards,
    JobStatus,
    Lease,
    Price,
    Sweep,
    Webhook,
    WorkerBeat,
)
from worker.jobs.timings import Timing

__all__ = [
    "BATCH_MAX", "SEAL", "AsyncJobQueue", "Batch", "BatchJob",
    "Delivery", "Job", "JobEvent", "JobFailure", "JobFilter", "JobLeases", "JobOptions",
    "JobPage", "JobProgress", "JobQueue", "JobRules", "JobShards", "JobStatus", "Lease", "Price", "QueueAdmin", "Sweep",
    "Timing", "Webhook", "WorkerBeat",
]  # fmt: skip
