"""What every endpoint works with: the job records, the files, the models and the budget, opened once a process."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from anyio import CapacityLimiter, to_thread
from fastapi import Depends, Request

from app.settings import AppSettings
from model.card import CARD_FILE, ModelCard, find_model, find_models, load_card
from model.errors import CheckpointError, SpecError, TooLargeError
from model.spec import Cost, GenerationSpec
from worker.artifacts import Artifacts
from worker.broker import Broker, start_broker
from worker.jobs import AsyncJobs, Job, JobRules, Jobs

SLICE_S = 2.0  # how long a waiting call may overlook that the service is closing


class Catalogue:
    """The installed models. Folders are looked at anew each time, so that a model appears without a restart."""

    def __init__(self, roots: list[Path]) -> None:
        """Look into ``roots``, the first winning."""
        self._roots = roots
        self._read: dict[Path, tuple[int, ModelCard]] = {}

    def card(self, model_id: str) -> ModelCard:
        """Return one card; raises ``UnknownModelError``, or ``CheckpointError`` if it is damaged."""
        return self._card(find_model(model_id, self._roots))

    def cards(self) -> list[ModelCard]:
        """Return all readable cards, ordered by id; one damaged model must not hide the others."""
        found = []
        for _, folder in sorted(find_models(self._roots).items()):
            try:
                found.append(self._card(folder))
            except (CheckpointError, OSError):
                continue
        return found

    def _card(self, folder: Path) -> ModelCard:
        try:
            changed = (folder / CARD_FILE).stat().st_mtime_ns
        except FileNotFoundError:
            raise CheckpointError(f"the model folder {folder.name!r} has no {CARD_FILE}") from None
        known = self._read.get(folder)
        if known is None or known[0] != changed:
            known = self._read[folder] = (changed, load_card(folder))
        return known[1]


@dataclass(frozen=True, kw_only=True)
class Desk:
    """Resources of one web process."""

    settings: AppSettings
    jobs: Jobs
    async_jobs: AsyncJobs
    artifacts: Artifacts
    catalogue: Catalogue
    closing: asyncio.Event = field(default_factory=asyncio.Event)
    # Health answers from its own threads: a busy pool must not make the service look dead.
    health_threads: CapacityLimiter = field(default_factory=lambda: CapacityLimiter(4))

    def admit(self, spec: GenerationSpec) -> ModelCard:
        """Check a spec against its model and the budget before anything is queued.

        Raises
        ------
        UnknownModelError, SpecError, TooLargeError
            The message says what is allowed.
        """
        card = self.fitting_card(spec)
        check_budget(spec.cost(), self.settings)
        return card

    def fitting_card(self, spec: GenerationSpec) -> ModelCard:
        """Return the card of the model a spec names, after checking the members whose bounds only the card knows."""
        card = self.catalogue.card(spec.model)
        check_fits_model(spec, card)
        return card

    async def patience(self, job: Job, seconds: float) -> Job:
        """Return the job when it has ended or after ``seconds``, whichever is first; at once if the service closes."""
        deadline = time.monotonic() + min(seconds, self.settings.max_wait_seconds)
        while job.status.active and not self.closing.is_set() and (left := deadline - time.monotonic()) > 0:
            job = await self.async_jobs.async_wait(job.id, timeout_s=min(left, SLICE_S))
        return job


def check_fits_model(spec: GenerationSpec, card: ModelCard) -> None:
    """Raise ``SpecError`` where a member does not suit the model."""
    if max(spec.grid_shape) > card.grid_max:
        raise SpecError(f"grid may be at most {card.grid_max} for model {card.id}", pointer="/grid")
    spec.check_fits(latent_codes=card.latent_codes, latent_size=card.latent_size)


def check_budget(cost: Cost, settings: AppSettings) -> None:
    """Refuse what would keep a worker busy, or fill the disk, beyond what the operator allows."""
    if cost.points > settings.max_points:
        raise TooLargeError(
            f"the job takes {cost.points:.3g} grid samples (count x frames x grid samples); at most "
            f"{settings.max_points:.3g} are allowed: lower grid, frames or count"
        )
    if cost.bytes > settings.max_bytes:
        raise TooLargeError(
            f"the job would write about {cost.bytes:.3g} bytes; at most {settings.max_bytes:.3g} are allowed: "
            "lower grid, frames or count, or ask for fewer formats"
        )


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
        rules = JobRules(
            max_queue=settings.max_queue,
            retention_s=settings.retention_days * 86400.0,
            record_s=settings.record_days * 86400.0,
        )
        jobs = await to_thread.run_sync(lambda: Jobs.connect(url, artifacts=artifacts, rules=rules))
        stack.push_async_callback(to_thread.run_sync, jobs.close)
        async_jobs = AsyncJobs.connect(url)
        stack.push_async_callback(async_jobs.aclose)
        yield Desk(
            settings=settings,
            jobs=jobs,
            async_jobs=async_jobs,
            artifacts=artifacts,
            catalogue=Catalogue(settings.model_roots),
        )


async def current_desk(request: Request) -> Desk:
    """Return the desk of the application that serves ``request``."""
    desk: Desk = request.app.state.desk
    return desk


DeskNow = Annotated[Desk, Depends(current_desk)]
