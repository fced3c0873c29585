"""Administration of the queue: repairing, cleaning, rebuilding, counting, and the list of running workers."""

from __future__ import annotations

import time

import redis

from worker.jobs.reconciliation import Reconciler
from worker.jobs.records import (
    JobStatus,
    Sweep,
    WorkerBeat,
)
from worker.jobs.redis_client import reachable
from worker.jobs.redis_store import Store


class QueueAdmin:
    """The job records as operators and housekeeping use them; made by :class:`worker.jobs.queue.JobQueue`."""

    def __init__(self, client: redis.Redis, store: Store, *, reconciler: Reconciler) -> None:
        self._redis, self._store, self._reconciler = client, store, reconciler

    def sweep(self) -> Sweep:
        """Requeue jobs of dead workers, repeat lost wake-ups and apply retention. Safe in any process at any time."""
        return self._reconciler.sweep()

    def clean(self) -> int:
        """Remove files that belong to no job, and return how many; slower than :meth:`sweep`."""
        return self._reconciler.clean()

    def clean_staging(self) -> int:
        """Remove staging folders of this host that no lease needs, and return how many."""
        return self._reconciler.clean_staging()

    def rebuild(self) -> int:
        """Restore every recorded job after the broker lost its data; returns how many were missing."""
        return self._reconciler.rebuild(suspect=True)

    def assure(self) -> None:
        """Restore the records that the broker may lack; raises ``QueueUnavailableError`` if that fails."""
        self._reconciler.find([])

    def work(self) -> tuple[int, int]:
        """Return how many jobs and shards wait for a worker, and how many are being computed.

        Their sum is the number of workers that could be busy now, which is what a scaler of workers follows.
        """
        return self._store.work()

    def wake_ups_waiting(self) -> int:
        """Return how many wake-ups no worker has taken yet."""
        return self._store.wake_ups_waiting()

    def try_lock(self, name: str, *, seconds: float) -> bool:
        """Take the lock of a task for one worker at a time; returns whether it was free. It expires by itself."""
        return self._store.try_lock(name, seconds=seconds)

    def counts(self) -> dict[JobStatus, int]:
        """Return how many jobs are in each state."""
        return self._store.counts()

    def failure_counts(self) -> dict[str, int]:
        """Return how many leases were lost, jobs failed for that, and damaged files found, since the broker was new."""
        return {"leases_lost": 0, "worker_crashed": 0} | self._store.failure_counts()

    def workers_alive(self, *, within_s: float = 45.0) -> list[WorkerBeat]:
        """Return the workers that announced themselves recently; remove older announcements."""
        return self._store.workers_alive(within_s=within_s)

    def announce(self, *, name: str, hostname: str, pid: int, device: str, ready: bool = True) -> None:
        """Record the announcement of a running worker, and whether it could start a job now."""
        self._store.announce(name, ready=ready, hostname=hostname, pid=pid, device=device)

    def retire(self, name: str) -> None:
        """Remove the announcement of a worker that stops."""
        self._store.retire(name)

    def ping(self) -> float:
        """Return the seconds the broker took to answer; raises ``QueueUnavailableError``."""
        started = time.perf_counter()
        with reachable():
            self._redis.ping()
        return time.perf_counter() - started
