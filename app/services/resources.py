"""What every endpoint works with: the job records, the files, the models and the budget, opened once a process."""

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
from app.middleware.load_shedding import Turnstile
from app.services.budget import check_budget, check_fits_model
from app.services.caller_jobs import OwnJobs
from app.services.model_catalogue import Catalogue
from app.services.readiness import Readiness
from app.settings import AppSettings
from model.card import ModelCard
from model.spec import GenerationSpec
from worker.broker.embedded import Broker, start_broker
from worker.jobs import AsyncJobQueue, Job, JobQueue, JobRules, Timing
from worker.jobs.quotas import Quota, Rates
from worker.storage.artifacts import Artifacts
from worker.storage.disk import check_reserve
from worker.uploads.store import UploadRules, Uploads

log: structlog.stdlib.BoundLogger = structlog.get_logger("cytosynth.desk")

SLICE_S = 2.0  # how long a waiting call may overlook that the service is closing
# Requests being written down, and waiting for that; with more all wait longer and none more get through.
AT_ONCE, IN_LINE = 2, 3
LOOKERS = 2  # uploads being looked into at once; each may take two gigabytes
TIDY_S = 600.0


@dataclass(frozen=True, kw_only=True)
class Desk:
    """Resources of one web process, as one caller may use them."""

    settings: AppSettings
    records: JobQueue  # everybody's; endpoints use jobs
    async_records: AsyncJobQueue
    artifacts: Artifacts
    catalogue: Catalogue
    quota: Quota
    rates: Rates
    uploads: Uploads
    readiness: Readiness
    owner: str = OPEN_OWNER
    submissions: Turnstile = field(default_factory=lambda: Turnstile(at_once=AT_ONCE, in_line=IN_LINE))
    lookers: CapacityLimiter = field(default_factory=lambda: CapacityLimiter(LOOKERS))
    closing: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def jobs(self) -> OwnJobs:
        """The caller's jobs."""
        share = None if self.owner == OPEN_OWNER else self.settings.max_active
        return OwnJobs(self.records, self.async_records, self.quota, owner=self.owner, share=share)

    def admit(self, spec: GenerationSpec) -> ModelCard:
        """Check a spec against its model and the budget before anything is queued.

        Raises
        ------
        UnknownModelError, SpecError, TooLargeError, DiskFullError
            The message says what is allowed.
        """
        card = self.fitting_card(spec)
        cost = spec.cost()
        check_budget(cost, self.settings)
        check_reserve(self.settings.data_dir, reserve=self.settings.disk_reserve_bytes, wanted=cost.bytes)
        return card

    def fitting_card(self, spec: GenerationSpec) -> ModelCard:
        """Return the card of the model a spec names, after checking the members whose bounds only the card knows."""
        card = self.catalogue.card(spec.model, owner=self.owner)
        check_fits_model(spec, card)
        return card

    def timing(self, spec: GenerationSpec) -> Timing:
        """Estimate the seconds of one worker, corrected by what workers measured; raises ``QueueUnavailableError``."""
        return self.records.timings.expect(
            kind="generation", model_id=spec.model, formats=spec.formats, estimated_s=spec.cost().seconds
        )

    async def patience(self, job: Job, seconds: float) -> Job:
        """Return the job when it has ended or after ``seconds``, whichever is first; at once if the service closes."""
        deadline = time.monotonic() + min(seconds, self.settings.max_wait_seconds)
        while job.status.active and not self.closing.is_set() and (left := deadline - time.monotonic()) > 0:
            job = await self.jobs.async_wait(job.id, timeout_s=min(left, SLICE_S))
        return job


@asynccontextmanager
async def open_desk(settings: AppSettings) -> AsyncIterator[Desk]:
    """Open the resources, and the embedded broker where none is configured; close them in reverse."""
    async with AsyncExitStack() as stack:
        url = settings.redis_url
        if url is None:
            broker: Broker = await to_thread.run_sync(start_broker, settings.data_dir / "broker")
            stack.push_async_callback(to_thread.run_sync, broker.close)
            url = broker.url
        artifacts = Artifacts(settings.data_dir)
        rules = JobRules.of(settings)
        jobs = await to_thread.run_sync(lambda: JobQueue.connect(url, artifacts=artifacts, rules=rules))
        stack.push_async_callback(to_thread.run_sync, jobs.close)
        async_jobs = AsyncJobQueue.connect(url, find=jobs.get)
        stack.push_async_callback(async_jobs.aclose)
        quota, rates = Quota.connect(url, assure=jobs.admin.assure, rules=rules), Rates.connect(url)
        stack.push_async_callback(to_thread.run_sync, quota.close)
        stack.push_async_callback(rates.aclose)
        settings.data_dir.mkdir(parents=True, exist_ok=True)
        readiness = Readiness(jobs, async_jobs, settings.data_dir, broker_url=url, reserve=settings.disk_reserve_bytes)
        await readiness.judge_broker()  # no start on one that may lose jobs; one that is not there yet may come
        await readiness.look()
        desk = Desk(
            readiness=readiness,
            settings=settings,
            records=jobs,
            async_records=async_jobs,
            artifacts=artifacts,
            catalogue=Catalogue(settings.model_roots),
            quota=quota,
            rates=rates,
            uploads=Uploads(
                settings.data_dir,
                rules=UploadRules(
                    quota_bytes=settings.max_uploads_bytes,
                    reserve_bytes=settings.disk_reserve_bytes,
                    keep_s=settings.upload_days * 86400.0,
                ),
            ),
        )
        tidying = await stack.enter_async_context(create_task_group())
        tidying.start_soon(_tidy, desk)
        tidying.start_soon(readiness.watch)
        stack.callback(tidying.cancel_scope.cancel)
        yield desk


async def _tidy(desk: Desk) -> None:
    """Remove expired uploads now and again."""
    while True:
        try:
            await to_thread.run_sync(desk.uploads.expire)
        except OSError as error:
            log.warning("expired uploads cannot be removed; tried again later", reason=str(error))
        await sleep(TIDY_S)


async def current_desk(request: Request) -> Desk:
    """Return the desk of the application that serves ``request``, as its caller may use it."""
    desk: Desk = request.app.state.desk
    return replace(desk, owner=caller_of(request).owner)


async def whole_desk(request: Request) -> Desk:
    """Return the desk for what is said to anybody: health and figures."""
    desk: Desk = request.app.state.desk
    return desk


DeskNow = Annotated[Desk, Depends(current_desk)]
WholeDesk = Annotated[Desk, Depends(whole_desk)]
