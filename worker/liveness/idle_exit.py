"""End a worker that has had nothing to do for a while, so that a batch system gets its node back."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from worker.jobs import JobQueue
from worker.liveness.shared_status import SharedStatus

__all__ = ["IdleExit"]

log = logging.getLogger(__name__)


class IdleExit:
    """Asks a worker to stop when it has been idle for long enough while no job or shard waited for a worker.

    Parameters
    ----------
    status
        What the computing process shows.
    jobs
        The queue.
    after_s
        How long the worker may be idle, in seconds.
    stop
        Asks the worker to stop; called once.
    """

    def __init__(
        self,
        status: SharedStatus,
        jobs: JobQueue,
        *,
        after_s: float,
        stop: Callable[[], None],
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._status, self._jobs, self._after_s, self._stop, self._now = status, jobs, after_s, stop, now
        self._idle_since: float | None = None
        self._asked = False

    def inspect(self) -> None:
        """Look once; every few seconds is often enough.

        Raises
        ------
        QueueUnavailableError
            If the broker does not answer. The worker is not asked to stop for that.
        """
        seen, now = self._status.snapshot(), self._now()
        if self._asked:
            return
        if seen is None or seen.pid or self._jobs.admin.work()[0]:
            self._idle_since = None
        elif self._idle_since is None:
            self._idle_since = now
        elif now - self._idle_since >= self._after_s:
            self._asked = True
            log.info("nothing to do for %.0f s: this worker ends", now - self._idle_since)
            self._stop()
