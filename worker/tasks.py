"""The Celery task of the computing process: claim the job that has waited longest and run it."""

from __future__ import annotations

import importlib
import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache

from celery import signals

from worker.celery_app import STATUS, celery_app, draining
from worker.errors import QueueUnavailableError
from worker.execution import WorkerContext, work
from worker.jobs import JobQueue, Lease
from worker.jobs.wake_up import TASK
from worker.kinds.table import KINDS
from worker.launch import process_name
from worker.settings import WorkerSettings
from worker.storage.disk import Storage
from worker.storage.stored_artifacts import open_artifacts

log = logging.getLogger(__name__)

BEAT_S = 0.5  # seconds between two heartbeats while the process prepares

_preloading = threading.Lock()  # the first job waits for the thread that began


def _preload() -> None:
    """Import what jobs need, and compile what they compute with.

    Importing torch holds the interpreter, on a cold disk for many seconds in which no lease is renewed; so it comes
    before the first lease. Compiling takes about 40 s of a processor where no earlier process has left the machine
    code in numba's cache.
    """
    with _preloading, _shown_as_busy():
        importlib.import_module("model.synthesis")
        try:
            importlib.import_module("worker.kinds.warm_up").warm_up()
        except Exception as error:  # noqa: BLE001 - the first job compiles, or says what is wrong
            log.warning("not warmed up: %s", error)
        STATUS.record_ready()


@contextmanager
def _shown_as_busy() -> Iterator[None]:
    """Show this process as busy with no job, and alive.

    Where compiling takes minutes, the watchdog would otherwise take it for one that does not hear its wake-ups.
    """
    over = threading.Event()

    def record_heartbeats() -> None:
        while not over.wait(BEAT_S):
            STATUS.record_heartbeat()

    STATUS.hold("", 0)
    heartbeats = threading.Thread(target=record_heartbeats, name="heartbeat", daemon=True)
    heartbeats.start()
    try:
        yield
    finally:
        over.set()
        heartbeats.join()
        STATUS.record_idle()


def _begin_preload(**_: object) -> None:
    """Import while the new process waits for its first job."""
    if WorkerSettings().preload:
        threading.Thread(target=_preload, name="preload", daemon=True).start()
    else:
        STATUS.record_ready()


signals.worker_process_init.connect(_begin_preload)


@lru_cache(maxsize=1)  # made by the first job of each computing process: connections must not cross a fork
def _context() -> WorkerContext:
    settings = WorkerSettings()
    artifacts = open_artifacts(settings.data_dir, settings.store)
    if settings.preload:
        _preload()  # waits for the thread that began it
    storage = Storage(artifacts, reserve=settings.disk_reserve_bytes, alive=STATUS.record_heartbeat, stop=draining)

    def idle_without_disk() -> None:
        STATUS.hold("", 0)  # busy, with no job
        storage.wait()

    return WorkerContext(
        jobs=JobQueue.connect(celery_app.conf.broker_url, artifacts=artifacts, rules=settings.rules),
        artifacts=artifacts,
        storage=storage,
        settings=settings,
        name=process_name(),
        alive=STATUS.record_heartbeat,
        draining=draining,
        idle_without_disk=idle_without_disk,
    )


@celery_app.task(name=TASK)  # type: ignore[untyped-decorator] # celery has no types
def run_job(*_: object) -> None:
    """Run the job that has waited longest; the message says only that one waits.

    So any wake-up can start any job: a lost wake-up delays no particular job, a doubled one finds no job, and a job of
    a worker that died is the next to run. Arguments, which services of older versions send, are ignored.
    """
    context = _context()
    STATUS.take()
    try:
        if draining():
            context.jobs.wake_up("")  # for another worker
        elif not context.storage.is_writable():
            context.idle_without_disk()  # the sweeper sends another wake-up
        elif lease := _claim(context):
            STATUS.hold(lease.job_id, lease.token, limit_s=_limit_s(context, lease))
            work(context, lease)
    finally:
        STATUS.record_idle()


def _limit_s(context: WorkerContext, lease: Lease) -> float:
    """Return the seconds that a job may take, where its kind has a limit of its own; 0 elsewhere."""
    kind = KINDS.get(lease.job.kind)
    return context.settings.training_seconds if kind is not None and kind.is_long else 0.0


def _claim(context: WorkerContext) -> Lease | None:
    try:
        lease = context.jobs.leases.claim(worker=context.name)
    except QueueUnavailableError:
        log.warning("the broker did not answer, so no job was claimed")
        return None
    if lease is None:
        log.debug("no job waits")
    return lease
