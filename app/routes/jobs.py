"""List jobs, show, follow, cancel, pin and remove them."""

from __future__ import annotations

import re
from collections.abc import AsyncIterable
from datetime import UTC, datetime
from typing import Annotated
from urllib.parse import urlencode

from fastapi import APIRouter, Depends, Header, Path, Query, Response
from fastapi.responses import JSONResponse
from fastapi.sse import EventSourceResponse, ServerSentEvent
from pydantic import BeforeValidator
from starlette.exceptions import HTTPException

from app.middleware.strict_bodies import StrictRoute
from app.routes.submissions import LABELS_PATTERN, labels_of
from app.schemas import JobList, JobView
from app.services.resources import WAIT_SLICE_S, CallerResources
from app.services.trainings import end_with_model
from worker.jobs import Job, JobEvent, JobFilter, JobStatus

router = APIRouter(prefix="/v1/jobs", tags=["jobs"], route_class=StrictRoute)

JobId = Annotated[
    str,
    Path(
        alias="id",
        max_length=64,
        description="Identifier of the job: 32 hexadecimal digits.",
        examples=["0197f3a2b4c55d0e8f6a7b1c2d3e4f50"],
    ),
]

LastEventId = Annotated[
    str | None,
    Header(
        alias="Last-Event-ID",
        max_length=64,
        description="Id of the last event received; the stream continues after it. `0`: send all stored events.",
    ),
]


def _written_as_date(value: object) -> object:
    """Refuse a bare number, which pydantic would read as seconds since 1970; raises ``ValueError``."""
    if isinstance(value, str) and re.fullmatch(r"\s*[+-]?[\d.]+\s*", value):
        raise ValueError("must be a date and time, such as 2026-03-02T12:00:00Z")
    return value


Instant = Annotated[datetime, BeforeValidator(_written_as_date)]


def _seconds(moment: datetime | None) -> float | None:
    """Return seconds since 1970; a time without a zone is UTC."""
    if moment is None:
        return None
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


@router.get(
    "",
    operation_id="listJobs",
    response_description="One page of jobs, newest first.",
    summary="List jobs, newest first",
)
def list_jobs(
    resources: CallerResources,
    response: Response,
    state: Annotated[JobStatus | None, Query(description="Only jobs in this state.")] = None,
    kind: Annotated[
        str | None, Query(pattern=r"^[a-z]{1,32}$", description="Only jobs of this kind.", examples=["generation"])
    ] = None,
    model_id: Annotated[
        str | None,
        Query(
            alias="model",
            pattern=r"^[a-z0-9][a-z0-9_-]{0,63}$",
            description="Only jobs of this model.",
            examples=["celegans"],
        ),
    ] = None,
    created_after: Annotated[
        Instant | None,
        Query(
            description="Only jobs created after this time (ISO 8601; UTC unless it has an offset).",
            examples=["2026-03-02T12:00:00Z"],
        ),
    ] = None,
    created_before: Annotated[
        Instant | None,
        Query(description="Only jobs created before this time.", examples=["2026-03-03T12:00:00Z"]),
    ] = None,
    labels: Annotated[
        str | None,
        Query(
            pattern=LABELS_PATTERN,
            max_length=2048,
            description="Only jobs that have all of these labels, `name=value,name=value`.",
            examples=["project=actin"],
        ),
    ] = None,
    batch: Annotated[str | None, Query(pattern=r"^[0-9a-f]{32}$", description="Only jobs of this batch.")] = None,
    cursor: Annotated[
        str | None, Query(pattern=r"^[0-9]{1,16}$", description="Taken from `next` of the previous page.")
    ] = None,
    limit: Annotated[int, Query(ge=1, le=200, description="Jobs per page.")] = 50,
) -> JobList:
    """Return one page of jobs. `next`, also in the `Link` header, is the address of the next page.

    New jobs do not shift the pages. A page may hold fewer jobs than `limit`, or none, if few jobs match.
    """
    where = JobFilter(
        model_id=model_id,
        created_after=_seconds(created_after),
        created_before=_seconds(created_before),
        labels=tuple(labels_of(labels)),
        batch=batch,
    )
    page = resources.jobs.list(status=state, kind=kind, where=where, cursor=cursor, limit=limit)
    following = None
    if page.next_cursor is not None:
        query = {
            "state": state, "kind": kind, "model": model_id,
            "created_after": created_after and created_after.isoformat(),
            "created_before": created_before and created_before.isoformat(), "labels": labels, "batch": batch,
            "cursor": page.next_cursor, "limit": limit,
        }  # fmt: skip
        following = "/v1/jobs?" + urlencode({name: value for name, value in query.items() if value is not None})
        response.headers["Link"] = f'<{following}>; rel="next"'
    return JobList(jobs=[JobView.of(job) for job in page.jobs], next=following)


@router.get("/{id}", operation_id="getJob", response_description="The job as it is now.", summary="Show one job")
async def get_job(
    job_id: JobId,
    resources: CallerResources,
    response: Response,
    wait: Annotated[
        int, Query(ge=0, le=60, description="Answer when the job has ended, or after this many seconds.")
    ] = 0,
) -> JobView:
    """Return a job. With `wait`, the answer is sent when the job has ended (long polling)."""
    job = await resources.wait_until_done(await resources.jobs.async_get(job_id), wait)
    if job.status.active:
        response.headers["Retry-After"] = "1"
    response.headers["Cache-Control"] = "no-store"
    return JobView.of(job)


@router.post(
    "/{id}/cancel",
    operation_id="cancelJob",
    response_description="The job, canceled or as it had ended before.",
    summary="Cancel a job",
)
def cancel_job(job_id: JobId, resources: CallerResources) -> JobView:
    """Cancel a queued or running job immediately. A job that has ended is returned unchanged.

    A training with `keep_on_cancel` that has begun to learn is not canceled: it ends with the best model so far, and
    succeeds within minutes. `DELETE` cancels it.
    """
    if end_with_model(resources, resources.jobs.get(job_id)):
        return JobView.of(resources.jobs.get(job_id))
    return JobView.of(resources.jobs.cancel(job_id))


@router.delete(
    "/{id}",
    operation_id="deleteJob",
    response_description="The job was active and is canceled now.",
    summary="Cancel an active job, or remove a finished one",
    response_model=JobView,
    responses={204: {"description": "The job had ended; its record and its files are removed."}},
)
def delete_job(job_id: JobId, resources: CallerResources) -> Response:
    """Cancel a queued or running job (200, the canceled job); otherwise remove it with its files (204)."""
    if resources.jobs.get(job_id).status.active:
        job = resources.jobs.cancel(job_id)
        if job.status is JobStatus.CANCELED:
            return JSONResponse(JobView.of(job).model_dump(mode="json"))
    resources.jobs.delete(job_id)
    return Response(status_code=204)


@router.put(
    "/{id}/pin",
    operation_id="pinJob",
    response_description="The job, which is pinned now.",
    summary="Keep the files of a job",
)
def pin_job(job_id: JobId, resources: CallerResources) -> JobView:
    """Keep the files beyond their retention time, until the pin is removed. Active jobs can be pinned too."""
    return JobView.of(resources.jobs.pin(job_id, pinned=True))


@router.delete(
    "/{id}/pin",
    operation_id="unpinJob",
    response_description="The job, which is not pinned any more.",
    summary="Unpin a job",
)
def unpin_job(job_id: JobId, resources: CallerResources) -> JobView:
    """Remove the pin. The retention time of the files starts again. A job that is not pinned is returned unchanged."""
    return JobView.of(resources.jobs.pin(job_id, pinned=False))


async def followed_job(
    job_id: JobId,
    resources: CallerResources,
    last_event_id: LastEventId = None,
) -> tuple[Job, str]:
    """Return the job and the id of the event to continue after; "" if the client names none.

    Browsers reconnect after the end of a stream by themselves. 204 tells a client that has received the last event to
    stop.
    """
    job = await resources.jobs.async_get(job_id)
    known = last_event_id is not None and re.fullmatch(r"0|\d{1,18}-\d{1,18}", last_event_id, re.ASCII)
    after = last_event_id if known and last_event_id else ""
    if after not in ("", "0") and not job.status.active and not await resources.jobs.async_events(job, after=after):
        raise HTTPException(204)
    return job, after


@router.get(
    "/{id}/events",
    operation_id="followJob",
    response_description="The stream of events.",
    summary="Follow a job by server-sent events",
    response_class=EventSourceResponse,
    responses={204: {"description": "The job has ended, and there is no event after Last-Event-ID."}},
)
async def follow_job(
    followed: Annotated[tuple[Job, str], Depends(followed_job)], resources: CallerResources
) -> AsyncIterable[ServerSentEvent]:
    """Stream the latest state and progress of a job, then each new event, until the job ends.

    With `Last-Event-ID`, the stream continues after that event; with `0`, all stored events are sent first. Events are
    `state` and `progress`, each with an id and JSON data; the last one is a `state` event with a final state. Comments
    keep idle connections open.
    """
    job, after = followed
    first = latest(await resources.jobs.async_events(job)) if not after else []
    while not resources.closing.is_set():
        for event in first or await resources.jobs.async_events(job, after=after or "0", block_s=WAIT_SLICE_S):
            after = event.id
            yield ServerSentEvent(data=event.data, event=event.event, id=event.id)
            if event.event == "state" and not JobStatus(event.data["state"]).active:
                return
        first = []
        job = await resources.jobs.async_get(job.id)
        if not job.status.active and not await resources.jobs.async_events(job, after=after or "0"):
            # Events are kept for a shorter time than the job: report the final state without its event.
            yield ServerSentEvent(data={"state": job.status}, event="state")
            return


def latest(events: list[JobEvent]) -> list[JobEvent]:
    """Return the latest state event of a job and the latest progress event after it, for a new subscriber."""
    state = max((number for number, event in enumerate(events) if event.event == "state"), default=-1)
    return events[max(0, state) : state + 1] + events[state + 1 :][-1:]
