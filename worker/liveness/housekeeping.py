"""What every worker does besides jobs, in threads of its parent: announce itself, sweep, clean, watch, scrub, notify.

Promises: one running worker is enough to repair what all others left behind. A worker whose computing process hangs, or
whose connection delivers no wake-ups any more, is restarted (:mod:`worker.liveness.watchdog`).
Does not promise: to notice that this process itself is frozen; its announcement expires, and so does its lease.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import ClassVar

from worker.errors import CytosynthError, QueueUnavailableError
from worker.jobs import JobQueue
from worker.launch import process_name
from worker.liveness.idle_exit import IdleExit
from worker.liveness.shared_status import SharedStatus
from worker.liveness.watchdog import Watchdog, WatchdogLimits
from worker.scrub import Damage, Scrub
from worker.settings import WorkerSettings
from worker.storage.artifacts import Artifacts
from worker.storage.stored_artifacts import open_artifacts
from worker.webhooks.delivery import WebhookDelivery

log = logging.getLogger(__name__)

ANNOUNCEMENT_S = 15.0  # seconds, the longest pause between two announcements, however long the heartbeat is set
INSPECTION_S = 5.0  # seconds between two checks of the computing process
SCRUB_S = 5.0  # seconds between two rounds of reading stored files
SCRUB_EVERY_S = 86_400.0  # seconds from the beginning of a pass to that of the next
NOTIFY_S = 1.0  # between two searches for webhooks that are due
SCRUB_FILE = 4096  # bytes added for each file, because opening it takes time too
GRACE_S = 20.0  # seconds for a worker that receives no wake-ups to stop by itself
UNRESPONSIVE = 75  # exit status of a worker that did not stop by itself; EX_TEMPFAIL


class Housekeeping:
    """The housekeeping threads; one instance a process."""

    _running: ClassVar[Housekeeping | None] = None

    def __init__(self, jobs: JobQueue, artifacts: Artifacts, settings: WorkerSettings, status: SharedStatus) -> None:
        self._jobs = jobs
        self._settings = settings
        self._artifacts = artifacts
        self._scrubbing: Iterator[Damage | None] | None = None
        self._scrub_debt = 0.0
        limits = WatchdogLimits(
            heartbeat_timeout_s=settings.lease_seconds,
            lost_lease_grace_s=settings.lease_seconds,
            job_s=settings.job_seconds,
            idle_with_work_timeout_s=settings.deaf_seconds,
        )
        self._watchdog = Watchdog(status, jobs, limits, give_up=_give_up)
        self._idle_exit = IdleExit(status, jobs, after_s=settings.idle_exit_seconds, stop=_stop)
        self._status, self._announced_ready = status, False
        self._name = process_name()
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._work, name="housekeeping", daemon=True)
        # A thread of its own: reading a large file from a slow disk takes longer than the pause between announcements.
        # With an object store too: a request to one that does not answer takes longer than that pause.
        self._sweep_thread = threading.Thread(target=self._sweep_for_ever, name="sweep", daemon=True)
        # The same for cleaning: deleting a job of a million files takes longer still, and no lease may wait for that.
        self._clean_thread = threading.Thread(target=self._clean_for_ever, name="clean", daemon=True)
        self._scrub_thread = threading.Thread(target=self._scrub_for_ever, name="scrub", daemon=True)
        self._notify_thread = threading.Thread(target=self._notify_for_ever, name="webhooks", daemon=True)
        self._unheard_since: float | None = None
        self._next_local_cleaning = 0.0

    @classmethod
    def start(cls, url: str, settings: WorkerSettings, status: SharedStatus) -> None:
        """Start the thread."""
        artifacts = open_artifacts(settings.data_dir, settings.store, forks=True)
        jobs = JobQueue.connect(url, artifacts=artifacts, rules=settings.rules)
        cls._running = cls(jobs, artifacts, settings, status)
        cls._running._thread.start()
        cls._running._clean_thread.start()
        if settings.store is not None:
            cls._running._sweep_thread.start()
        if settings.scrub_bytes_per_second > 0:
            cls._running._scrub_thread.start()
        if settings.webhook_secret is not None:
            cls._running._notify_thread.start()

    @classmethod
    def stop(cls) -> None:
        """Stop the thread and remove the worker's announcement."""
        housekeeping, cls._running = cls._running, None
        if housekeeping is not None:
            housekeeping._stopped.set()
            housekeeping._thread.join(5.0)
            try:
                housekeeping._jobs.admin.retire(housekeeping._name)
            except QueueUnavailableError:
                log.info("the broker has stopped already; the announcement expires by itself")

    def _work(self) -> None:
        settings = self._settings
        next_announcement = next_sweep = next_inspection = 0.0
        inspection_s = min(INSPECTION_S, settings.lease_seconds / 4)
        while not self._stopped.is_set():
            now = time.monotonic()
            if now >= next_announcement or self._status.ready != self._announced_ready:
                next_announcement = now + min(settings.heartbeat_seconds, ANNOUNCEMENT_S)
                self._try(self._announce)
            if now >= next_sweep:
                next_sweep = now + settings.sweep_seconds
                if settings.store is None:
                    self._try(self._sweep)
            if now >= next_inspection:
                next_inspection = now + inspection_s
                self._try(self._watchdog.inspect)
                if settings.idle_exit_seconds > 0:
                    self._try(self._idle_exit.inspect)
            self._stopped.wait(max(0.05, min(next_announcement, next_sweep, next_inspection) - time.monotonic()))

    def _sweep_for_ever(self) -> None:
        while not self._stopped.wait(self._settings.sweep_seconds):
            self._try(self._sweep)

    def _clean_for_ever(self) -> None:
        while not self._stopped.wait(self._settings.sweep_seconds):
            self._try(self._clean)

    def _scrub_for_ever(self) -> None:
        while not self._stopped.wait(SCRUB_S):
            self._try(self._scrub)

    def _notify_for_ever(self) -> None:
        """Deliver webhooks, in a thread of its own: a receiver may take long to answer."""
        secret, private = self._settings.webhook_secret or "", self._settings.webhook_private
        delivery = WebhookDelivery(self._jobs, secret=secret, allow_private=private)

        def deliver() -> None:
            while not self._stopped.is_set() and delivery.deliver_one():
                pass

        while not self._stopped.wait(NOTIFY_S):
            self._try(deliver)

    def _try(self, task: Callable[[], None]) -> None:
        try:
            task()
        except QueueUnavailableError as error:
            now = time.monotonic()
            self._unheard_since = self._unheard_since or now
            log.warning("no broker for %.0f s: %s", now - self._unheard_since, error)
        except (CytosynthError, OSError):
            log.exception("a task failed; the next round tries again")
        else:
            self._unheard_since = None

    def _announce(self) -> None:
        ready = self._status.ready
        self._jobs.admin.announce(
            name=self._name, hostname=socket.gethostname(), pid=os.getpid(), device=self._settings.device, ready=ready
        )
        self._announced_ready = ready

    def _sweep(self) -> None:
        # One worker in each round; the lock expires a little early, so that no round is skipped because of it.
        if self._jobs.admin.try_lock("sweep", seconds=self._settings.sweep_seconds * 0.8):
            swept = self._jobs.admin.sweep()
            if any((swept.requeued, swept.crashed, swept.woken, swept.expired, swept.purged)):
                log.info("swept: %s", swept)

    def _clean(self) -> None:
        if self._jobs.admin.try_lock("clean", seconds=self._settings.janitor_seconds) and (
            removed := self._jobs.admin.clean()
        ):
            log.info("cleaned: %d things that no job needed", removed)
        if self._settings.store is not None and time.monotonic() >= self._next_local_cleaning:
            self._next_local_cleaning = time.monotonic() + self._settings.janitor_seconds
            self._jobs.admin.clean_staging()  # hosts share a store, but each has staging folders of its own

    def _scrub(self) -> None:
        """Read as many stored files as the rate allows; after a large file, later rounds read less."""
        self._scrub_debt = max(0.0, self._scrub_debt - SCRUB_S * self._settings.scrub_bytes_per_second)
        if self._scrubbing is None:
            if not self._jobs.admin.try_lock("scrub", seconds=SCRUB_EVERY_S):
                return
            self._scrubber = Scrub(self._artifacts)
            self._scrubbing = self._scrubber.steps()
        while self._scrub_debt < SCRUB_S * self._settings.scrub_bytes_per_second:
            before = self._scrubber.bytes
            try:
                damage = next(self._scrubbing)
            except StopIteration:
                self._scrubbing = None
                log.info("scrubbed: %d files, %d bytes read", self._scrubber.files, self._scrubber.bytes)
                break
            self._scrub_debt += self._scrubber.bytes - before + SCRUB_FILE
            if damage is not None:
                log.error("damaged: %s: %s; %s", damage.path, damage.reason, damage.advice)
            if self._stopped.is_set():
                break
        self._jobs.leases.report_damage()


def _stop() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def _give_up(reason: str) -> None:
    """End this worker, by a warm shutdown if that still works; its supervisor starts another."""
    log.critical("this worker ends: %s", reason)
    threading.Timer(GRACE_S, os._exit, (UNRESPONSIVE,)).start()
    os.kill(os.getpid(), signal.SIGTERM)
