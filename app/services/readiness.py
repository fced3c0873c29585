"""Whether a job submitted now would be carried out: the state of disk, broker and workers.

The disk is checked in the background and the answer gives the latest result, so that a disk that hangs does not delay
the answer.
"""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import structlog
from anyio import CapacityLimiter, sleep, to_thread

from model.errors import CytosynthError
from worker.broker.check import check_server
from worker.errors import BrokerAwayError, BrokerError, QueueUnavailableError
from worker.jobs import AsyncJobQueue, JobQueue
from worker.storage.disk import check_reserve

CHECK_INTERVAL_S = 2.0  # seconds between two checks of the disk, and the age at which a count of workers is renewed
DISK_TIMEOUT_S = 15.0  # a check of the disk that takes longer counts as failed
# Seconds between two checks of the broker's configuration, which may be changed while it runs.
BROKER_INTERVAL_S = 30.0

log: structlog.stdlib.BoundLogger = structlog.get_logger("cytosynth.readiness")


class Readiness:
    """Checks data folder and broker regularly and keeps the latest results; counts workers when asked."""

    def __init__(
        self,
        jobs: JobQueue,
        async_jobs: AsyncJobQueue,
        folder: Path,
        *,
        broker_url: str,
        reserve: int,
        probe_store: Callable[[], None],
    ) -> None:
        """Start without results; :meth:`check_storage` and :meth:`check_broker` provide them."""
        self._probe_store = probe_store
        self._jobs, self._async, self._folder, self._reserve = jobs, async_jobs, folder, reserve
        self._broker_url = broker_url
        self._broker_checked_at = -math.inf
        self._broker_error: BrokerError | None = None
        # Its own threads: a busy shared pool must not make the service appear down.
        self._threads = CapacityLimiter(4)
        self._disk_checked_at = self._workers_counted_at = 0.0
        self._disk_error: CytosynthError | OSError | None = None
        self._free = ""
        self._workers = 0

    async def watch(self) -> None:
        """Check regularly, until cancelled."""
        while True:
            await sleep(CHECK_INTERVAL_S)
            await self.check_storage()
            if time.monotonic() - self._broker_checked_at > BROKER_INTERVAL_S:
                await self._check_broker_again()

    async def check_storage(self) -> None:
        """Write to the data folder and to the object store, if any; keep the free space or the error."""
        try:
            free = await to_thread.run_sync(_write, self._folder, self._reserve, limiter=self._threads)
            await to_thread.run_sync(self._probe_store, limiter=self._threads)
        except (CytosynthError, OSError) as error:
            self._disk_error = error
        else:
            self._disk_error, self._free = None, f"{free / 2**30:.1f} GiB free"
        self._disk_checked_at = time.monotonic()

    async def check_broker(self) -> None:
        """Check the configuration of the broker, if the broker answers.

        Raises
        ------
        BrokerError
            If it may lose jobs.
        """
        try:
            await to_thread.run_sync(check_server, self._broker_url, limiter=self._threads)
        except BrokerAwayError as error:
            log.warning("the broker does not answer yet; requests are refused until it does", reason=error.message)
        except BrokerError as error:
            self._broker_error = error
            raise
        else:
            self._broker_error, self._broker_checked_at = None, time.monotonic()

    async def _check_broker_again(self) -> None:
        try:
            await self.check_broker()
        except BrokerError as error:
            log.critical("the broker may lose jobs", reason=error.message)

    async def broker(self) -> float:
        """Return the seconds that the broker takes to answer.

        Raises
        ------
        QueueUnavailableError, BrokerError
            If it does not answer, or if its configuration may lose jobs.
        """
        seconds = await self._async.async_ping()
        if self._broker_checked_at == -math.inf and self._broker_error is None:
            await self._check_broker_again()
        if self._broker_error is not None:
            raise self._broker_error
        return seconds

    async def storage(self) -> str:
        """Return the free space in words.

        Raises
        ------
        DiskFullError, OSError
            The error of the latest check; or that the disk does not answer.
        """
        if self._disk_error is not None:
            raise self._disk_error
        if time.monotonic() - self._disk_checked_at > DISK_TIMEOUT_S:
            raise TimeoutError(0, f"the disk has not answered for {DISK_TIMEOUT_S:g} seconds")
        return self._free

    async def workers(self) -> str:
        """Return in words how many workers are ready for a job. A count above zero is kept for a moment.

        Raises
        ------
        QueueUnavailableError
            If there is none, or the broker does not answer.
        """
        preparing = 0
        if self._workers == 0 or time.monotonic() - self._workers_counted_at > CHECK_INTERVAL_S:
            self._workers = 0
            beats = await to_thread.run_sync(self._jobs.admin.workers_alive, limiter=self._threads)
            self._workers = sum(beat.ready for beat in beats)
            preparing = len(beats) - self._workers
            self._workers_counted_at = time.monotonic()
        if self._workers == 0 and preparing:
            raise QueueUnavailableError(f"{preparing} of the workers still prepare; jobs are kept until one is ready")
        if self._workers == 0:
            raise QueueUnavailableError("no worker has sent a heartbeat recently; jobs are kept until a worker starts")
        return f"{self._workers} alive"


def _write(folder: Path, reserve: int) -> int:
    with tempfile.TemporaryFile(dir=folder) as probe:
        probe.write(b"ready?")
        probe.flush()
    return check_reserve(folder, reserve=reserve, wanted=0)
