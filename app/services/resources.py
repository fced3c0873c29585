"""The resources that endpoints use: job records, files, models, uploads and limits; opened once per process."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Annotated

import structlog
from anyio import CapacityLimiter, create_task_group, sleep, to_thread
from fastapi import Depends, Request

from app.middleware.authentication import OPEN_OWNER, caller_of
from app.middleware.load_shedding import SubmissionLimiter
from app.services.caller_jobs import CallerJobs
from app.services.model_catalogue import ModelCatalogue
from app.services.readiness import Readiness
from app.settings import AppSettings
from worker.broker.embedded import Broker, start_broker
from worker.jobs import AsyncJobQueue, Batch, Job, JobQueue, JobRules
from worker.jobs.quotas import Quota, Rates
from worker.storage.artifacts import Artifacts
from worker.storage.objects import open_store
from worker.storage.stored_artifacts import open_artifacts
from worker.uploads.store import UploadRules, Uploads
from worker.uploads.validation import CellValidation

log: structlog.stdlib.BoundLogger = structlog.get_logger("cytosynth.resources")

# Longest single wait, in seconds, of a request that waits for a job: after it, the request checks whether the service
# is closing. Raising it delays the end of the service by as much.
WAIT_SLICE_S = 2.0
# Uploads inspected at a time. An inspection may take 2 GiB of memory.
CONCURRENT_INSPECTIONS = 2
# Seconds between two removals of expired uploads.
EXPIRY_INTERVAL_S = 600.0


@dataclass(frozen=True, kw_only=True)
class Resources:
    """Resources of one web process, for one caller.

    ``records`` and ``async_records`` hold the jobs of all callers; endpoints use :attr:`jobs`.
    """

    settings: AppSettings
    records: JobQueue
    async_records: AsyncJobQueue
    artifacts: Artifacts
    catalogue: ModelCatalogue
    quota: Quota
    rates: Rates
    uploads: Uploads
    validation: CellValidation
    readiness: Readiness
    owner: str = OPEN_OWNER
    submissions: SubmissionLimiter = field(default_factory=SubmissionLimiter)
    inspections: CapacityLimiter = field(default_factory=lambda: CapacityLimiter(CONCURRENT_INSPECTIONS))
    closing: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def jobs(self) -> CallerJobs:
        """The caller's jobs."""
        share = None if self.owner == OPEN_OWNER else self.settings.max_active
        return CallerJobs(self.records, self.async_records, self.quota, owner=self.owner, share=share)

    async def wait_until_done(self, job: Job, seconds: float) -> Job:
        """Return the job when it has ended, after ``seconds``, or when the service closes, whichever is first."""
        deadline = time.monotonic() + min(seconds, self.settings.max_wait_seconds)
        while job.status.active and not self.closing.is_set() and (left := deadline - time.monotonic()) > 0:
            job = await self.jobs.async_wait(job.id, timeout_s=min(left, WAIT_SLICE_S))
        return job

    async def wait_until_batch_done(self, batch: Batch, seconds: float) -> Batch:
        """Return the batch when its last job has ended, after ``seconds``, or when the service closes."""
        deadline, after = time.monotonic() + min(seconds, self.settings.max_wait_seconds), "0"
        while batch.active and not self.closing.is_set() and (left := deadline - time.monotonic()) > 0:
            events = await self.jobs.async_batch_events(batch, after=after, block_s=min(left, WAIT_SLICE_S))
            after = events[-1].id if events else after
            batch = await to_thread.run_sync(self.jobs.get_batch, batch.id)
        return batch


@asynccontextmanager
async def open_resources(settings: AppSettings) -> AsyncIterator[Resources]:
    """Open the resources, and the embedded broker if none is configured; close them in reverse order.

    Raises
    ------
    BrokerError
        If the broker cannot be started, or is configured so that it may lose jobs.
    """
    async with AsyncExitStack() as stack:
        url = settings.redis_url
        if url is None:
            broker: Broker = await to_thread.run_sync(start_broker, settings.data_dir / "broker")
            stack.push_async_callback(to_thread.run_sync, broker.close)
            url = broker.url
        artifacts = open_artifacts(settings.data_dir, settings.store)
        rules = JobRules.of(settings)
        jobs = await to_thread.run_sync(lambda: JobQueue.connect(url, artifacts=artifacts, rules=rules))
        stack.push_async_callback(to_thread.run_sync, jobs.close)
        async_jobs = AsyncJobQueue.connect(url, find=jobs.get)
        stack.push_async_callback(async_jobs.aclose)
        quota, rates = Quota.connect(url, assure=jobs.admin.assure, rules=rules), Rates.connect(url)
        stack.push_async_callback(to_thread.run_sync, quota.close)
        stack.push_async_callback(rates.aclose)
        settings.data_dir.mkdir(parents=True, exist_ok=True)
        readiness = Readiness(
            jobs, async_jobs, settings.data_dir, broker_url=url, reserve=settings.disk_reserve_bytes,
            probe_store=artifacts.probe_store,
        )  # fmt: skip
        # A broker that may lose jobs stops the start. A broker that does not answer yet does not: it may come later.
        await readiness.check_broker()
        await readiness.check_storage()
        uploads = Uploads(
            settings.data_dir,
            rules=UploadRules(
                quota_bytes=settings.max_uploads_bytes,
                reserve_bytes=settings.disk_reserve_bytes,
                keep_s=settings.upload_days * 86400.0,
            ),
            store=open_store(settings.store),
        )
        resources = Resources(
            readiness=readiness,
            settings=settings,
            records=jobs,
            async_records=async_jobs,
            artifacts=artifacts,
            catalogue=ModelCatalogue(settings.model_roots, synchronise=uploads.models.synchronise),
            quota=quota,
            rates=rates,
            uploads=uploads,
            validation=CellValidation(uploads),
        )
        background = await stack.enter_async_context(create_task_group())
        background.start_soon(_expire_uploads, resources)
        background.start_soon(readiness.watch)
        stack.callback(background.cancel_scope.cancel)
        yield resources


async def _expire_uploads(resources: Resources) -> None:
    """Remove expired uploads regularly, until cancelled."""
    while True:
        try:
            await to_thread.run_sync(resources.uploads.expire)
        except OSError as error:
            log.warning("expired uploads cannot be removed; tried again later", reason=str(error))
        await sleep(EXPIRY_INTERVAL_S)


async def caller_resources(request: Request) -> Resources:
    """Return the application's resources for the caller of ``request``."""
    resources: Resources = request.app.state.resources
    return replace(resources, owner=caller_of(request).owner)


async def shared_resources(request: Request) -> Resources:
    """Return the application's resources for requests without a caller: health checks and metrics."""
    resources: Resources = request.app.state.resources
    return resources


CallerResources = Annotated[Resources, Depends(caller_resources)]
SharedResources = Annotated[Resources, Depends(shared_resources)]
