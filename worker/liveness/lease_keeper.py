"""Renew a lease while its job is computed, and tell the computation when to stop."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Self

from worker.errors import JobCanceledError, LeaseLostError, QueueUnavailableError
from worker.jobs import JobProgress, JobQueue, Lease

log = logging.getLogger(__name__)

PROGRESS_S = 0.2  # at most five reports a second reach the broker, however small the frames


class ShutdownRequestedError(Exception):
    """The worker is to stop and the job is queued again. Not a ``CytosynthError``, because no client ever sees it."""


class LeaseKeeper:
    """Renews a lease from a thread, and with each report of progress; a context manager around the computation.

    Parameters
    ----------
    every_s
        Between two renewals by the thread, which keep the lease while a frame takes minutes.
    draining
        Whether the worker is to stop.
    alive
        Called at every renewal: shows the parent that this process runs, whether or not the broker answers.
    """

    def __init__(
        self,
        jobs: JobQueue,
        lease: Lease,
        *,
        every_s: float,
        draining: Callable[[], bool],
        alive: Callable[[], None] = lambda: None,
    ) -> None:
        self._jobs = jobs
        self._alive = alive
        self._lease = lease
        self._every_s = every_s
        self._draining = draining
        self._reason: JobCanceledError | LeaseLostError | None = None
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._keep_renewing, name="lease-keeper", daemon=True)
        self._started = time.monotonic()
        self._reported = 0.0
        self.frames_of_job: int | None = None  # of all shards, where this lease is for one

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopped.set()
        self._thread.join()

    def report(
        self,
        *,
        stage: str,
        frame: int,
        frames: int,
        fraction: float | None = None,
        eta_s: float | None = None,
        loss: float | None = None,
        dice: float | None = None,
        kept: bool = False,
    ) -> None:
        """Record progress; called between frames, with what :class:`worker.kinds.base.Report` says.

        Raises
        ------
        JobCanceledError, LeaseLostError, ShutdownRequestedError
            To stop the computation.
        """
        if self._reason is not None:
            raise self._reason
        if self._draining():
            raise ShutdownRequestedError
        now = time.monotonic()
        if now - self._reported < PROGRESS_S:
            return
        self._reported = now
        if fraction is None:
            fraction = frame / frames if frames else 0.0
            eta_s = round((now - self._started) / frame * (frames - frame), 1) if frame else None
        progress = JobProgress(
            fraction=fraction, stage=stage, frame=frame, frames=self.frames_of_job or frames, eta_s=eta_s, loss=loss,
            dice=dice,
        )  # fmt: skip
        self._renew(progress, kept=kept)
        if self._reason is not None:
            raise self._reason

    def check(self) -> None:
        """Raise if the lease is known to be lost; called before publishing."""
        self._renew(None)
        if self._reason is not None:
            raise self._reason

    def _keep_renewing(self) -> None:
        while not self._stopped.wait(self._every_s):
            self._renew(None)

    def _renew(self, progress: JobProgress | None, *, kept: bool = False) -> None:
        self._alive()
        try:
            self._jobs.leases.renew(self._lease, progress=progress, kept=kept)
        except (JobCanceledError, LeaseLostError) as error:
            self._reason = error
        except QueueUnavailableError:
            # The computation goes on: usually the broker answers again, and if the lease was lost, its token is
            # refused.
            log.warning(
                "job %s: the broker does not answer, so its lease was not renewed; computing on", self._lease.job_id
            )
