"""The watchdog in a worker's parent: ends a computing process that hangs, and a worker that receives no wake-ups.

The parent reads the shared page (:mod:`worker.liveness.shared_status`) at intervals. Time counts only while the parent
itself runs, so that a suspended machine or a worker that was stopped and resumed is not taken for one that hangs.

Promises: a computing process is killed, and Celery starts another, if it sends no heartbeat for a lease, works on a job
that is no longer its own, or exceeds the time limit. A worker that takes no wake-up although some wait ends itself, and
its supervisor starts another.
Does not promise: anything while the parent itself is frozen; its job goes to another worker when the lease expires.
"""

from __future__ import annotations

import logging
import os
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from worker.errors import JobCanceledError, JobNotFoundError, LeaseLostError
from worker.jobs import JobQueue, Lease
from worker.liveness.shared_status import SharedStatus, StatusSnapshot

log = logging.getLogger(__name__)

TIME_LIMIT = "time_limit"  # code of a job that took too long
BLINK_S = 5.0  # more time may have passed between two checks than this process ran


@dataclass(frozen=True, kw_only=True)
class WatchdogLimits:
    """Time limits after which the watchdog acts, in seconds."""

    heartbeat_timeout_s: float  # without a heartbeat
    lost_lease_grace_s: float  # with a job that is no longer its own
    job_s: float  # with one job, unless it has a limit of its own
    idle_with_work_timeout_s: float  # without taking a wake-up although some wait


class Watchdog:
    """Watches one computing process. ``give_up`` ends this worker."""

    def __init__(
        self, status: SharedStatus, jobs: JobQueue, limits: WatchdogLimits, *, give_up: Callable[[str], None]
    ) -> None:
        self._status, self._jobs, self._limits, self._give_up = status, jobs, limits, give_up
        self._inspected_at = time.monotonic()
        self._seen: StatusSnapshot | None = None
        self._without_beat_s = self._without_lease_s = self._idle_with_work_s = 0.0

    def inspect(self) -> None:
        """Check once; raises ``QueueUnavailableError``, after which the next check tries again."""
        now = time.monotonic()
        passed, self._inspected_at = min(now - self._inspected_at, BLINK_S), now
        snapshot, before = self._status.snapshot(), self._seen
        self._seen = snapshot or before
        if snapshot is None or snapshot.pid == 0:
            self._without_beat_s = self._without_lease_s = 0.0
            self._check_waiting(snapshot, before, passed)
            return
        self._idle_with_work_s = 0.0
        if before is None or (before.pid, before.token) != (snapshot.pid, snapshot.token):
            self._without_beat_s = self._without_lease_s = 0.0
            return
        self._without_beat_s = 0.0 if snapshot.beats != before.beats else self._without_beat_s + passed
        if self._without_beat_s > self._limits.heartbeat_timeout_s:
            self._end(snapshot, f"no heartbeat for {self._without_beat_s:.0f} s")
        elif snapshot.job_id:
            self._check_computing(snapshot, passed, now)

    def _check_computing(self, snapshot: StatusSnapshot, passed: float, now: float) -> None:
        """Check whether the job still belongs to this worker, and how long it has taken."""
        limit_s = snapshot.limit_s or self._limits.job_s
        if now - snapshot.since > limit_s:
            self._end(snapshot, f"over the limit of {limit_s:g} s for one job")
            self._fail(snapshot, limit_s)
            return
        own = self._jobs.leases.holds(snapshot.job_id, snapshot.token)
        self._without_lease_s = 0.0 if own else self._without_lease_s + passed
        if self._without_lease_s > self._limits.lost_lease_grace_s:
            self._end(snapshot, "works on a job that has ended or is another's")

    def _check_waiting(self, snapshot: StatusSnapshot | None, before: StatusSnapshot | None, passed: float) -> None:
        """Check whether an idle worker receives the wake-ups that wait."""
        heard = snapshot is None or before is None or snapshot.taken != before.taken
        if heard or not self._jobs.admin.wake_ups_waiting():
            self._idle_with_work_s = 0.0
            return
        self._idle_with_work_s += passed
        if self._idle_with_work_s > self._limits.idle_with_work_timeout_s:
            self._give_up(f"there has been work for {self._idle_with_work_s:.0f} s and this worker takes none")

    def _end(self, snapshot: StatusSnapshot, reason: str) -> None:
        log.error("computing process %d, job %s: %s; it is killed", snapshot.pid, snapshot.job_id or "-", reason)
        with suppress(ProcessLookupError):
            os.kill(snapshot.pid, signal.SIGKILL)
        self._without_beat_s = self._without_lease_s = 0.0
        self._status.wipe()

    def _fail(self, snapshot: StatusSnapshot, limit_s: float) -> None:
        """Fail a job that exceeded the time limit; another attempt would take as long."""
        with suppress(JobCanceledError, LeaseLostError, JobNotFoundError):
            lease = Lease(job=self._jobs.get(snapshot.job_id), token=snapshot.token, worker="")
            message = (
                f"the job took longer than the {limit_s:g} seconds that one may take here; "
                "ask for a smaller grid, fewer frames or a smaller count"
            )
            self._jobs.leases.fail(lease, code=TIME_LIMIT, message=message)
