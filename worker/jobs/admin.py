"""Administration of the queue: repairing, cleaning, rebuilding, counting, and the workers that live."""

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
    """The operator's and the housekeeping's side of the job records; made by :class:`worker.jobs.queue.JobQueue`."""

    def __init__(self, client: redis.Redis, store: Store, *, reconciler: Reconciler) -> None:
        self._redis, self._store, self._reconciler = client, store, reconciler

    def sweep(self) -> Sweep:
        """Requeue jobs of dead workers, repeat lost wake-ups and apply retention. Safe to run anywhere, any time."""
        return self._reconciler.sweep()

    def clean(self) -> int:
        """Remove files that belong to no job, and return how many; slower than :meth:`sweep`, so run it seldom."""
        return self._reconciler.clean()

    def rebuild(self) -> int:
        """Restore every recorded job after the broker lost its data; returns how many were missing."""
        return self._reconciler.rebuild(suspect=True)

    def assure(self) -> None:
        """Restore whatever the broker may lack; raises ``QueueUnavailableError`` where that cannot be done."""
        self._reconciler.find([])

    def wake_ups_waiting(self) -> int:
        """Return how many wake-ups no worker has taken yet."""
        return self._store.wake_ups_waiting()

    def try_lock(self, name: str, *, seconds: float) -> bool:
        """Whether the caller may do a task that one worker at a time should do; the lock runs out by itself."""
        return self._store.try_lock(name, seconds=seconds)

    def counts(self) -> dict[JobStatus, int]:
        """Return how many jobs are in each state."""
        return self._store.counts()

    def failure_counts(self) -> dict[str, int]:
        """Return how many leases were lost, jobs ended for it, damages found, since the broker began to count."""
        return {"leases_lost": 0, "worker_crashed": 0} | self._store.failure_counts()

    def workers_alive(self, *, within_s: float = 45.0) -> list[WorkerBeat]:
        """Return the workers that gave a sign of life lately; the long dead are forgotten."""
        return self._store.workers_alive(within_s=within_s)

    def announce(self, *, name: str, hostname: str, pid: int, device: str) -> None:
        """Record that a worker lives."""
        self._store.announce(name, hostname=hostname, pid=pid, device=device)

    def retire(self, name: str) -> None:
        """Forget a worker that stops in good order."""
        self._store.retire(name)

    def ping(self) -> float:
        """Return the seconds the broker took to answer; raises ``QueueUnavailableError``."""
        started = time.perf_counter()
        with reachable():
            self._redis.ping()
        return time.perf_counter() - started
