"""Whether a job sent now would be carried out, as found a moment ago: a hanging disk must not hang the answer."""

from __future__ import annotations

import math
import tempfile
import time
from pathlib import Path

import structlog
from anyio import CapacityLimiter, sleep, to_thread

from model.errors import CytosynthError
from worker.broker.check import check_server
from worker.errors import BrokerAwayError, BrokerError, QueueUnavailableError
from worker.jobs import AsyncJobQueue, JobQueue
from worker.storage.disk import check_reserve

EVERY_S = 2.0
STALE_S = 15.0  # a disk that has taken this long to answer is out of order
TRUST_S = 30.0  # in the settings of a broker that was found in order; they can be changed while it runs

log: structlog.stdlib.BoundLogger = structlog.get_logger("cytosynth.readiness")


class Readiness:
    """Looks at data folder and broker now and again and remembers how that went; counts workers when asked."""

    def __init__(
        self, jobs: JobQueue, async_jobs: AsyncJobQueue, folder: Path, *, broker_url: str, reserve: int
    ) -> None:
        """Know nothing yet; :meth:`check_storage` and :meth:`check_broker` change that."""
        self._jobs, self._async, self._folder, self._reserve = jobs, async_jobs, folder, reserve
        self._broker_url = broker_url
        self._judged_at = -math.inf
        self._unfit: BrokerError | None = None
        # Threads of its own: a busy pool must not make the service look dead.
        self._threads = CapacityLimiter(4)
        self._looked_at = self._counted_at = 0.0
        self._error: CytosynthError | OSError | None = None
        self._room = ""
        self._workers = 0

    async def watch(self) -> None:
        """Look for ever."""
        while True:
            await sleep(EVERY_S)
            await self.check_storage()
            if time.monotonic() - self._judged_at > TRUST_S:
                await self._check_broker_again()

    async def check_storage(self) -> None:
        """Prove that results can be stored, and remember how much room is left or what is wrong."""
        try:
            free = await to_thread.run_sync(_write, self._folder, self._reserve, limiter=self._threads)
        except (CytosynthError, OSError) as error:
            self._error = error
        else:
            self._error, self._room = None, f"{free / 2**30:.1f} GiB free"
        self._looked_at = time.monotonic()

    async def check_broker(self) -> None:
        """Look whether the broker's settings let it lose jobs, if it answers.

        Raises
        ------
        BrokerError
            If they do.
        """
        try:
            await to_thread.run_sync(check_server, self._broker_url, limiter=self._threads)
        except BrokerAwayError as error:
            log.warning("the broker does not answer yet; requests are refused until it does", reason=error.message)
        except BrokerError as error:
            self._unfit = error
            raise
        else:
            self._unfit, self._judged_at = None, time.monotonic()

    async def _check_broker_again(self) -> None:
        try:
            await self.check_broker()
        except BrokerError as error:
            log.critical("the broker may lose jobs", reason=error.message)

    async def broker(self) -> float:
        """Return the seconds the broker took to answer.

        Raises
        ------
        QueueUnavailableError, BrokerError
            If it does not, or if it answers and may lose jobs.
        """
        seconds = await self._async.async_ping()
        if self._judged_at == -math.inf and self._unfit is None:
            await self._check_broker_again()
        if self._unfit is not None:
            raise self._unfit
        return seconds

    async def storage(self) -> str:
        """Say how much room is left.

        Raises
        ------
        DiskFullError, OSError
            What came of the latest look; or that the disk does not answer.
        """
        if self._error is not None:
            raise self._error
        if time.monotonic() - self._looked_at > STALE_S:
            raise TimeoutError(0, f"the disk has not answered for {STALE_S:g} seconds")
        return self._room

    async def workers(self) -> str:
        """Say how many workers live; a good answer holds for a moment, a bad one is looked into again at once.

        Raises
        ------
        QueueUnavailableError
            If there is none, or nobody can tell.
        """
        if self._workers == 0 or time.monotonic() - self._counted_at > EVERY_S:
            self._workers = 0
            self._workers = len(await to_thread.run_sync(self._jobs.admin.workers_alive, limiter=self._threads))
            self._counted_at = time.monotonic()
        if self._workers == 0:
            raise QueueUnavailableError("no worker gave a sign of life lately; jobs are kept until one does")
        return f"{self._workers} alive"


def _write(folder: Path, reserve: int) -> int:
    with tempfile.TemporaryFile(dir=folder) as probe:
        probe.write(b"ready?")
        probe.flush()
    return check_reserve(folder, reserve=reserve, wanted=0)
