"""One thin task for every kind of job: claim, run, publish, record. The only door to the heavy half of ``model``."""

from __future__ import annotations

import hashlib
import importlib
import json
import logging
import os
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from celery import signals

from model import __version__
from model.card import SHIPPED_MODELS, find_model
from model.spec import Cost, GenerationSpec
from worker.celery_app import PULSE, celery_app, draining
from worker.errors import (
    CytosynthError,
    DiskFullError,
    ExportError,
    JobCanceledError,
    JobNotFoundError,
    LeaseLostError,
    QueueUnavailableError,
    SpecError,
)
from worker.jobs import Job, JobQueue, JobStatus, Lease
from worker.jobs.wake_up import TASK
from worker.liveness.lease_keeper import Heart, ShutdownRequestedError
from worker.settings import WorkerSettings
from worker.storage.artifacts import Artifacts
from worker.storage.disk import Storage

if TYPE_CHECKING:
    from model.network.checkpoint import Checkpoint
    from model.synthesis import Progress

log = logging.getLogger(__name__)

CHECKPOINTS_KEPT = 4  # at most 2 MB each
PATIENCE_S = 600.0  # a result in hand is not thrown away because the broker restarts
UNWRITTEN = "the files of this job could not be written, several times; ask for a smaller grid, fewer frames or formats"
INTERNAL = "something unforeseen went wrong while computing this job; it is in the worker's log under the job's id"


class Report(Protocol):
    """Records progress; raises to stop the work."""

    def __call__(self, *, stage: str, frame: int, frames: int) -> None:
        """Tell that ``frame`` of ``frames`` is done."""


Runner = Callable[[Job, Path, Report], None]
"""Carries out one kind of job: writes its files and, last, ``manifest.json`` into the folder."""


@dataclass(frozen=True, kw_only=True)
class Office:
    """What a computing process works with."""

    jobs: JobQueue
    artifacts: Artifacts
    storage: Storage
    settings: WorkerSettings
    name: str
    warm: threading.Event = field(default_factory=threading.Event)  # this process has computed a job


def _preload() -> None:
    """Import what jobs need.

    Importing torch holds the interpreter, on a cold disk for many seconds in which no heart beats; so it comes before
    the first lease.
    """
    importlib.import_module("model.synthesis")


def _begin_preload(**_: object) -> None:
    """Import while the new process waits for its first job."""
    if WorkerSettings().preload:
        threading.Thread(target=_preload, name="preload", daemon=True).start()


signals.worker_process_init.connect(_begin_preload)


@lru_cache(maxsize=1)  # made by the first job of each computing process: connections must not cross a fork
def _office() -> Office:
    settings = WorkerSettings()
    artifacts = Artifacts(settings.data_dir)
    if settings.preload:
        _preload()  # waits for the thread that began it
    return Office(
        jobs=JobQueue.connect(celery_app.conf.broker_url, artifacts=artifacts, rules=settings.rules),
        artifacts=artifacts,
        storage=Storage(artifacts, reserve=settings.disk_reserve_bytes, alive=PULSE.beat, stop=draining),
        settings=settings,
        name=f"{socket.gethostname()}:{os.getpid()}",
    )


@celery_app.task(name=TASK)  # type: ignore[untyped-decorator] # celery has no types
def run_job(job_id: str) -> None:
    """Do the job that has waited longest; ``job_id`` only says that there is one.

    So any hint can start any job: a lost one delays nobody in particular, a doubled one finds nothing to do, and a job
    that a dead worker gave back is first in line again.
    """
    office = _office()
    PULSE.take()
    try:
        if draining():
            office.jobs.hint(job_id)  # for another worker
        elif not office.storage.fit():
            _wait_for_storage(office)  # the sweeper hints again
        elif lease := _claim(office, job_id):
            _work(office, lease)
    finally:
        PULSE.rest()


def _claim(office: Office, job_id: str) -> Lease | None:
    try:
        lease = office.jobs.leases.claim(None, worker=office.name)
    except QueueUnavailableError:
        log.warning("job %s: the broker went away before it could be claimed", job_id)
        return None
    if lease is None:
        log.debug("job %s: nothing to do", job_id)
    return lease


def _work(office: Office, lease: Lease) -> None:
    PULSE.hold(lease.job_id, lease.token)
    log.info("job %s: attempt %d, %s", lease.job_id, lease.job.attempts, lease.job.kind)
    started = time.monotonic()
    try:
        _carry_out(office, lease)
    except (LeaseLostError, JobCanceledError) as error:
        log.info("job %s: stopped, %s", lease.job_id, error.code)
    except QueueUnavailableError:
        log.exception("job %s: the broker stayed away; the sweeper will find this job", lease.job_id)
    log.info("job %s: %.1f s", lease.job_id, time.monotonic() - started)


def _carry_out(office: Office, lease: Lease) -> None:
    """Run a leased job to its end, whatever that is."""
    jobs, every_s = office.jobs, office.settings.heartbeat_seconds
    try:
        with Heart(jobs, lease, every_s=every_s, draining=draining, alive=PULSE.beat) as heart:
            content = _content(lease.job)
            # An earlier attempt may have published and then lost the broker: the same bytes need no second computing.
            if not _made_already(office, lease.job_id):
                _make(office, lease, heart, content)
            _finish(office, lease, content)
    except ShutdownRequestedError:
        log.info("job %s: given back, this worker stops", lease.job_id)
        jobs.leases.release(lease)
    except (LeaseLostError, JobCanceledError, QueueUnavailableError):
        raise
    except DiskFullError as error:
        log.warning("job %s: waits, %s", lease.job_id, error.message)
        _insist(lambda: jobs.leases.release(lease))  # the broker's log may lie on the same disk
        _wait_for_storage(office)
    except (CytosynthError, OSError) as error:
        if (trouble := office.storage.trouble(error)) is not None:
            _blame(office, lease, trouble)
            return
        code, message = (error.code, error.message) if isinstance(error, CytosynthError) else ("internal", INTERNAL)
        log.info("job %s: failed, %s: %s", lease.job_id, code, error)
        _insist(lambda: jobs.leases.fail(lease, code=code, message=message))
    except Exception:
        log.exception("job %s: failed, internal", lease.job_id)
        _insist(lambda: jobs.leases.fail(lease, code="internal", message=INTERNAL))


def _made_already(office: Office, job_id: str) -> bool:
    """Whether an earlier attempt has published; files that are damaged since are removed."""
    if not office.artifacts.exists(job_id):
        return False
    if office.artifacts.reusable(job_id):
        return True
    office.jobs.leases.report_damage(job_id)
    office.artifacts.remove(job_id)
    office.artifacts.clear_damage(job_id)
    return False


def _make(office: Office, lease: Lease, heart: Heart, content: str) -> None:
    """Publish the files of a job: those of its twin, or computed."""
    artifacts, job_id = office.artifacts, lease.job_id
    staged = artifacts.staging(job_id, lease.token)
    try:
        if (twin := office.jobs.leases.find_job_with_content(content)) is not None:
            if artifacts.copy(twin, staged):
                try:
                    artifacts.publish(job_id, staged)
                except ExportError as error:  # the files of this job are computed
                    log.warning("job %s: the files of job %s are damaged: %s", job_id, twin, error.message)
                    office.jobs.leases.report_damage(twin)
                else:
                    log.info("job %s: has the files of job %s", job_id, twin)
                    return
            staged = artifacts.staging(job_id, lease.token)
        cost = _expected(lease.job)
        office.storage.check(cost.bytes if cost else 0)
        started = time.monotonic()
        _runner(lease.job.kind)(lease.job, staged, heart.report)
        took_s = time.monotonic() - started
        heart.check()
        artifacts.publish(job_id, staged)
        _measured(office, lease.job, cost, took_s)
    finally:
        artifacts.discard(staged)
        office.jobs.leases.report_damage()


def _measured(office: Office, job: Job, cost: Cost | None, took_s: float) -> None:
    """Let later estimates learn from a job; not from the first of a process, which compiles the kernels."""
    if cost is None:
        return
    if not office.warm.is_set():
        office.warm.set()
        return
    with suppress(QueueUnavailableError):  # one measurement less
        office.jobs.timings.record(
            kind=job.kind, model_id=job.model_id, formats=job.spec["formats"], estimated_s=cost.seconds, took_s=took_s
        )


def _blame(office: Office, lease: Lease, trouble: OSError) -> None:
    """Something could not be written: if nothing can be, the job waits; else it is this job's doing, and counts."""
    log.warning("job %s: cannot write: %s", lease.job_id, trouble)
    if office.storage.fit():
        office.jobs.leases.fail_attempt(lease, code="export_failed", message=UNWRITTEN)
    else:
        _insist(lambda: office.jobs.leases.release(lease))
        _wait_for_storage(office)


def _wait_for_storage(office: Office) -> None:
    PULSE.hold("", 0)  # busy, with no job
    office.storage.rest()


def _finish(office: Office, lease: Lease, content: str) -> None:
    warnings = office.artifacts.warnings(lease.job_id)
    try:
        _insist(lambda: office.jobs.leases.finish(lease, content=content, warnings=warnings))
    except (LeaseLostError, JobCanceledError):
        # The files go only if the job can never succeed: another worker may be about to commit these very files.
        try:
            hopeless = office.jobs.get(lease.job_id).status in (JobStatus.FAILED, JobStatus.CANCELED)
        except JobNotFoundError:
            hopeless = True
        if hopeless:
            office.artifacts.remove(lease.job_id)
        raise


def _content(job: Job) -> str:
    """Name what a job makes: its digest, and what else decides its bytes."""
    return hashlib.sha256(json.dumps([job.digest, __version__, WorkerSettings().device]).encode()).hexdigest()


def _expected(job: Job) -> Cost | None:
    """Estimate what a job takes; None for a kind that has no estimate."""
    if job.kind != "generation":
        return None
    return GenerationSpec.model_validate_json(json.dumps(job.spec)).cost()


def _insist(action: Callable[[], None]) -> None:
    """Repeat a last word until the broker hears it; every one of them may be said twice."""
    deadline, pause = time.monotonic() + PATIENCE_S, 0.1
    while True:
        try:
            action()
        except QueueUnavailableError:
            if time.monotonic() > deadline or draining():
                raise
            PULSE.beat()
            time.sleep(pause)
            pause = min(2 * pause, 5.0)
        else:
            return


# --------------------------------------------------------------------------------------------------- the kinds of job


def generate(job: Job, folder: Path, report: Report) -> None:
    """Write new cell sequences."""
    from model.synthesis import synthesize  # torch: after the fork, and only where a job needs it

    settings = WorkerSettings()
    spec = GenerationSpec.model_validate_json(json.dumps(job.spec))
    checkpoint = _checkpoint(
        find_model(job.model_id, [*settings.model_dirs, settings.data_dir / "models", SHIPPED_MODELS]), job.model_sha256
    )

    def on_progress(progress: Progress) -> None:
        report(stage=progress.stage, frame=progress.frame, frames=progress.frames)

    synthesize(spec, checkpoint, folder, on_progress=on_progress, device=settings.device)


RUNNERS: dict[str, Runner] = {"generation": generate}


def _runner(kind: str) -> Runner:
    if kind not in RUNNERS:
        raise SpecError(f"this worker cannot carry out a job of kind {kind!r}; it may be older than the service")
    return RUNNERS[kind]


@lru_cache(maxsize=CHECKPOINTS_KEPT)
def _checkpoint(folder: Path, sha256: str) -> Checkpoint:
    """Return a loaded checkpoint; the job named its weights by their checksum, and gets those or none."""
    import torch

    from model.errors import CheckpointError
    from model.network.checkpoint import load_checkpoint

    if threads := WorkerSettings().threads:
        torch.set_num_threads(threads)
    checkpoint = load_checkpoint(folder)
    if checkpoint.card.sha256 != sha256:
        raise CheckpointError(f"the model {folder.name!r} was replaced after this job was accepted; send it again")
    return checkpoint
