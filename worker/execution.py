"""Run one leased job of any kind: compute and publish its files, and record its outcome.

:func:`run` computes and publishes, and returns the outcome as a value; :func:`report` records it, the only place that
ends a job or gives it back. Both run inside a :class:`~worker.liveness.lease_keeper.LeaseKeeper`, which keeps renewing
the lease.
"""

from __future__ import annotations

import hashlib
import json
import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from model import __version__
from worker.errors import (
    ArtifactDamagedError,
    ArtifactNotFoundError,
    CytosynthError,
    DiskFullError,
    ExportError,
    JobCanceledError,
    JobNotFoundError,
    LeaseLostError,
    QueueUnavailableError,
    StoreUnavailableError,
)
from worker.jobs import SEAL, Job, JobQueue, JobStatus, Lease, Price
from worker.kinds.table import install, kind_of, part_runner_of, price_of, runner_of, sealer_of, shard_of
from worker.liveness.lease_keeper import LeaseKeeper, ShutdownRequestedError
from worker.settings import WorkerSettings
from worker.storage.artifacts import Artifacts
from worker.storage.disk import Storage

log = logging.getLogger(__name__)

STOPPED_EARLY = "stopped_early"  # the warning of a long job that its owner or a time limit has ended

# Seconds for which a final update is retried, so that a restart of the broker does not discard a result.
ACKNOWLEDGEMENT_S = 600.0
UNWRITTEN = "the files of this job could not be written, several times; ask for a smaller grid, fewer frames or formats"
INTERNAL = "something unforeseen went wrong while computing this job; it is in the worker's log under the job's id"


@dataclass(frozen=True, kw_only=True)
class WorkerContext:
    """What a computing process needs to run jobs.

    Attributes
    ----------
    name
        Of this process, in job records.
    alive
        Shows the parent that this process runs.
    draining
        Whether the worker is to stop.
    idle_without_disk
        Waits a while for the disk; the parent sees a process that is busy with no job.
    warm
        Set once this process has computed a job.
    """

    jobs: JobQueue
    artifacts: Artifacts
    storage: Storage
    settings: WorkerSettings
    name: str
    alive: Callable[[], None]
    draining: Callable[[], bool]
    idle_without_disk: Callable[[], None]
    warm: threading.Event = field(default_factory=threading.Event)


@dataclass(frozen=True, kw_only=True)
class Succeeded:
    """The job's files are published; ``content`` names them."""

    content: str
    warnings: Sequence[Mapping[str, str]] = ()


@dataclass(frozen=True, kw_only=True)
class Failed:
    """The job cannot succeed; it ends with a stable code and a sentence for the client."""

    code: str
    message: str


@dataclass(frozen=True, kw_only=True)
class GiveBack:
    """Another attempt may succeed.

    Attributes
    ----------
    counted
        Count a failed attempt, which ends the job after several; otherwise the job is queued again as if it had not
        started.
    disk
        Wait for the disk afterwards.
    """

    counted: bool = False
    disk: bool = False


@dataclass(frozen=True, kw_only=True)
class Stopped:
    """The job is no longer this worker's: it was canceled, or the lease was lost. There is nothing to record."""

    code: str


@dataclass(frozen=True, kw_only=True)
class ShardFinished:
    """The files of the leased shard are published."""


@dataclass(frozen=True, kw_only=True)
class ShardsMissing:
    """The job cannot be sealed: the files of these shards are missing and must be computed again."""

    shards: Sequence[int]


Outcome = Succeeded | Failed | GiveBack | Stopped | ShardFinished | ShardsMissing


def work(context: WorkerContext, lease: Lease) -> None:
    """Run a leased job to its outcome and record that."""
    shard = "" if lease.shard is None else f", shard {lease.shard}"
    log.info("job %s: attempt %d, %s%s", lease.job_id, lease.job.attempts, lease.job.kind, shard)
    started = time.monotonic()
    keeper = LeaseKeeper(
        context.jobs, lease, every_s=context.settings.heartbeat_seconds, draining=context.draining, alive=context.alive
    )
    try:
        with keeper:
            outcome = run(context, lease, keeper)
            report(context, lease, outcome)
    except (LeaseLostError, JobCanceledError) as error:
        log.info("job %s: stopped, %s", lease.job_id, error.code)
    except QueueUnavailableError:
        log.exception("job %s: the broker stayed away; the sweeper will find this job", lease.job_id)
    else:
        if isinstance(outcome, GiveBack) and outcome.disk:
            context.idle_without_disk()
    log.info("job %s: %.1f s", lease.job_id, time.monotonic() - started)


def run(context: WorkerContext, lease: Lease, keeper: LeaseKeeper) -> Outcome:
    """Compute and publish the files of a leased job.

    Raises
    ------
    QueueUnavailableError
        If the broker cannot be asked for a result to copy; the sweeper will find the job.
    """
    try:
        if isinstance(lease.shard, int):
            _make_shard(context, lease, keeper, lease.shard)
            return ShardFinished()
        return _make_job(context, lease, keeper)
    except ShutdownRequestedError:
        log.info("job %s: given back, this worker stops", lease.job_id)
        return GiveBack()
    except (LeaseLostError, JobCanceledError) as error:
        return Stopped(code=error.code)
    except QueueUnavailableError:
        raise
    except DiskFullError as error:
        log.warning("job %s: waits, %s", lease.job_id, error.message)
        return GiveBack(disk=True)
    except (CytosynthError, OSError) as error:
        if (cause := context.storage.storage_error(error)) is not None:
            return _handle_write_error(context, lease, cause)
        code, message = (error.code, error.message) if isinstance(error, CytosynthError) else ("internal", INTERNAL)
        log.info("job %s: failed, %s: %s", lease.job_id, code, error)
        return Failed(code=code, message=message)
    except Exception:
        log.exception("job %s: failed, internal", lease.job_id)
        return Failed(code="internal", message=INTERNAL)


def report(context: WorkerContext, lease: Lease, outcome: Outcome) -> None:
    """Record an outcome.

    Raises
    ------
    LeaseLostError, JobCanceledError
        If the job is no longer this worker's. Files of a job that can never succeed are removed first.
    QueueUnavailableError
        If the broker did not acknowledge it in time.
    """
    leases = context.jobs.leases
    match outcome:
        case Succeeded() | ShardFinished():
            _commit(context, lease, outcome)
        case ShardsMissing(shards=shards):
            _retry_until_acknowledged(context, lambda: leases.reopen_shards(lease, shards))
        case Failed(code=code, message=message):
            _retry_until_acknowledged(context, lambda: leases.fail(lease, code=code, message=message))
        case GiveBack(counted=True):
            _retry_until_acknowledged(
                context, lambda: leases.fail_attempt(lease, code="export_failed", message=UNWRITTEN)
            )
        case GiveBack():
            _retry_until_acknowledged(context, lambda: leases.release(lease))
        case Stopped(code=code):
            log.info("job %s: stopped, %s", lease.job_id, code)


def _is_made(context: WorkerContext, job_id: str) -> bool:
    """Whether an earlier attempt has published; files that are damaged since are removed."""
    if not context.artifacts.exists(job_id):
        return False
    if context.artifacts.reusable(job_id):
        return True
    context.jobs.leases.report_damage(job_id)
    context.artifacts.remove(job_id)
    context.artifacts.clear_damage(job_id)
    return False


def _commit(context: WorkerContext, lease: Lease, outcome: Succeeded | ShardFinished) -> None:
    """Record that files are published: the only commit of a job, or of one shard."""
    leases = context.jobs.leases

    def commit() -> None:
        if isinstance(outcome, ShardFinished):
            leases.finish_shard(lease)
        else:
            leases.finish(lease, content=outcome.content, warnings=outcome.warnings)

    try:
        _retry_until_acknowledged(context, commit)
    except (LeaseLostError, JobCanceledError):
        _remove_if_hopeless(context, lease.job_id)
        raise


def _make_job(context: WorkerContext, lease: Lease, keeper: LeaseKeeper) -> Succeeded | ShardsMissing:
    content = _content(lease.job)
    # An earlier attempt may have published and then lost the connection to the broker; its files are the same bytes.
    if not _is_made(context, lease.job_id) and (missing := _make(context, lease, keeper, content)):
        return ShardsMissing(shards=missing)
    return Succeeded(content=content, warnings=context.artifacts.warnings(lease.job_id))


def _make_shard(context: WorkerContext, lease: Lease, keeper: LeaseKeeper, shard: int) -> None:
    """Publish the files of one shard of a job, unless an earlier attempt has."""
    artifacts, job_id = context.artifacts, lease.job_id
    if artifacts.shard(job_id, shard) is not None:
        return
    price, keeper.frames_of_job = shard_of(lease.job, shard)
    staged = artifacts.staging(job_id, lease.token)
    try:
        context.storage.check(price.bytes)
        started = time.monotonic()
        part_runner_of(lease.job)(lease.job, shard, staged, keeper.report)
        took_s = time.monotonic() - started
        keeper.check()
        artifacts.publish_shard(job_id, shard, staged)
        if price.seconds > 0.0:
            _record_timing(context, lease.job, price, took_s)
    finally:
        artifacts.discard(staged)


def _seal(context: WorkerContext, lease: Lease, keeper: LeaseKeeper, staged: Path) -> list[int]:
    """Fill a folder with the files of all shards of a job; return the shards whose files are missing."""
    total = lease.job.shards.total if lease.job.shards else 0
    laid_out = kind_of(lease.job).reads_parts
    found = [context.artifacts.shard(lease.job_id, number, laid_out=laid_out) for number in range(total)]
    parts = [folder for folder in found if folder is not None]
    if len(parts) == total:
        sealer_of(lease.job)(lease.job, parts, staged, keeper.report)
    return [number for number, folder in enumerate(found) if folder is None]


def _make(context: WorkerContext, lease: Lease, keeper: LeaseKeeper, content: str) -> list[int]:
    """Publish the files of a job: copied from an existing result, put together from its shards, or computed.

    Returns
    -------
        Shards whose files are missing; if there are any, nothing is published.
    """
    artifacts, job_id = context.artifacts, lease.job_id
    staged = artifacts.staging(job_id, lease.token)
    try:
        if _copy_existing_result(context, lease, staged, content):
            return []
        staged = artifacts.staging(job_id, lease.token)
        price = price_of(lease.job)
        written = lease.shard != SEAL or kind_of(lease.job).reads_parts  # otherwise the files of shards are linked
        context.storage.check(price.bytes if price and written else 0)
        is_long, goes_on = kind_of(lease.job).is_long, artifacts.has_state(job_id)
        started = time.monotonic()
        if lease.shard == SEAL:
            if missing := _seal(context, lease, keeper, staged):
                return missing
        else:
            runner_of(lease.job)(lease.job, staged, keeper.report)
        took_s = time.monotonic() - started
        keeper.check()
        install(lease.job, staged)
        artifacts.publish(job_id, staged)
        # Of a long job, this attempt may be the last part, and an early end tells nothing of the whole.
        if lease.shard is None and not (is_long and (goes_on or artifacts.warnings(job_id, code=STOPPED_EARLY))):
            _record_timing(context, lease.job, price, took_s, counts_first=is_long and context.settings.preload)
        return []
    finally:
        artifacts.discard(staged)
        context.jobs.leases.report_damage()


def _copy_existing_result(context: WorkerContext, lease: Lease, staged: Path, content: str) -> bool:
    """Publish the files of another job that made this content; False if there is none, or its files are damaged."""
    existing = context.jobs.leases.find_job_with_content(content)
    if existing is None or not context.artifacts.copy(existing, staged):
        return False
    try:
        if kind_of(lease.job).installer:
            with context.artifacts.laid_out(existing) as folder:
                install(lease.job, folder)
        context.artifacts.publish(lease.job_id, staged)
    except (ExportError, ArtifactNotFoundError, ArtifactDamagedError) as error:  # the files of this job are computed
        log.warning("job %s: the files of job %s are damaged: %s", lease.job_id, existing, error.message)
        context.jobs.leases.report_damage(existing)
        return False
    log.info("job %s: has the files of job %s", lease.job_id, existing)
    return True


def _record_timing(
    context: WorkerContext, job: Job, price: Price | None, took_s: float, *, counts_first: bool = False
) -> None:
    """Record a job's duration for later estimates, except for the first of a process, which compiles the kernels.

    ``counts_first``: also for the first, because they were compiled before, and it takes much longer than what is left.
    A job that makes its model is one of its kind only: no later job has the same model.
    """
    if price is None:
        return
    if not context.warm.is_set():
        context.warm.set()
        if not counts_first:
            return
    with suppress(QueueUnavailableError):  # only this measurement is missing
        context.jobs.timings.record(
            kind=job.kind, model_id=job.model_id if job.model_sha256 else "", formats=job.spec.get("formats", []),
            estimated_s=price.seconds, took_s=took_s,
        )  # fmt: skip


def _handle_write_error(context: WorkerContext, lease: Lease, cause: OSError) -> GiveBack:
    """If the disk accepts no write at all, requeue without counting; otherwise count a failed attempt.

    A failure of the object store never counts: it may refuse one request and take the next.
    """
    log.warning("job %s: cannot write: %s", lease.job_id, cause)
    if isinstance(cause, StoreUnavailableError):
        return GiveBack(disk=True)
    return GiveBack(counted=True) if context.storage.is_writable() else GiveBack(disk=True)


def _remove_if_hopeless(context: WorkerContext, job_id: str) -> None:
    """Remove files that no job can commit any more; otherwise another worker may be about to commit them."""
    try:
        hopeless = context.jobs.get(job_id).status in (JobStatus.FAILED, JobStatus.CANCELED)
    except JobNotFoundError:
        hopeless = True
    if hopeless:
        context.artifacts.remove(job_id)


def _content(job: Job) -> str:
    """Return the name of a job's content: its digest, and what else determines its bytes."""
    return hashlib.sha256(json.dumps([job.digest, __version__, WorkerSettings().device]).encode()).hexdigest()


def _retry_until_acknowledged(context: WorkerContext, update: Callable[[], None]) -> None:
    """Retry a final update until the broker acknowledges it. Safe: all final updates are idempotent."""
    deadline, pause = time.monotonic() + ACKNOWLEDGEMENT_S, 0.1
    while True:
        try:
            update()
        except QueueUnavailableError:
            if time.monotonic() > deadline or context.draining():
                raise
            context.alive()
            time.sleep(pause)
            pause = min(2 * pause, 5.0)
        else:
            return
