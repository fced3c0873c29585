"""Batches: many requests in one, followed, canceled and removed as one."""

from __future__ import annotations

import re
from collections.abc import AsyncIterable
from functools import partial
from typing import Annotated, Any

from anyio import to_thread
from fastapi import APIRouter, Body, Depends, Path, Query, Response
from fastapi.responses import JSONResponse
from fastapi.sse import EventSourceResponse, ServerSentEvent

from app.middleware.strict_bodies import StrictRoute
from app.routes.examples import BATCHES
from app.routes.jobs import LastEventId
from app.routes.submissions import IdempotencyKey
from app.schemas import BatchRequest, BatchView
from app.services.batch_submission import submit_batch
from app.services.resources import WAIT_SLICE_S, CallerResources, Resources
from app.services.trainings import end_with_model
from worker.jobs import Batch, JobEvent, JobOptions
from worker.kinds.table import KINDS

router = APIRouter(prefix="/v1/batches", tags=["batches"], route_class=StrictRoute)

BatchId = Annotated[
    str,
    Path(
        alias="id",
        max_length=64,
        description="Identifier of the batch: 32 hexadecimal digits.",
        examples=["0197f3a2b4c55d0e8f6a7b1c2d3e4f51"],
    ),
]


@router.post(
    "",
    operation_id="createBatch",
    summary="Send many requests at once",
    status_code=202,
    response_description="The batch; its jobs are queued.",
)
async def create_batch(
    batch: Annotated[BatchRequest, Body(openapi_examples=BATCHES)],
    resources: CallerResources,
    response: Response,
    idempotency_key: IdempotencyKey = None,
) -> BatchView:
    """Queue all requests of the batch, or none, and return it with 202. `Location` is the address of the batch.

    Each request becomes a job of its own, also where an identical one was carried out before; its files are then not
    computed again. `GET /v1/jobs?batch={id}` lists the jobs.
    """
    options = JobOptions(labels=batch.labels, priority=batch.priority)
    specs = [(KINDS[item.kind], item.spec) for item in batch.jobs]
    accepted: Batch = await resources.submissions.run(
        submit_batch, resources, specs, options, batch.webhook or "", idempotency_key
    )
    response.headers["Location"] = f"/v1/batches/{accepted.id}"
    return BatchView.of(accepted)


@router.get("/{id}", operation_id="getBatch", response_description="The batch as it is now.", summary="Show one batch")
async def get_batch(
    batch_id: BatchId,
    resources: CallerResources,
    response: Response,
    wait: Annotated[
        int, Query(ge=0, le=60, description="Answer when the last job has ended, or after this many seconds.")
    ] = 0,
) -> BatchView:
    """Return a batch with the number of its jobs in each state."""
    batch = await _wait(resources, batch_id, wait)
    if batch.active:
        response.headers["Retry-After"] = "1"
    response.headers["Cache-Control"] = "no-store"
    return BatchView.of(batch)


@router.post(
    "/{id}/cancel",
    operation_id="cancelBatch",
    response_description="The batch; none of its jobs is active, but trainings that keep their model.",
    summary="Cancel all jobs of a batch",
)
def cancel_batch(batch_id: BatchId, resources: CallerResources) -> BatchView:
    """Cancel every queued and running job of the batch. Jobs that have ended stay as they are.

    A training with `keep_on_cancel` ends within minutes with the best model so far, as if it were canceled alone.
    """
    return BatchView.of(resources.jobs.cancel_batch(batch_id, ends_itself=partial(end_with_model, resources)))


@router.delete(
    "/{id}",
    operation_id="deleteBatch",
    response_description="Jobs of the batch were active and are canceled now.",
    summary="Cancel an active batch, or remove a finished one",
    response_model=BatchView,
    responses={204: {"description": "All jobs had ended; they are removed with their files."}},
)
def delete_batch(batch_id: BatchId, resources: CallerResources) -> Response:
    """Cancel the jobs of an active batch (200, the batch); otherwise remove all its jobs with their files (204)."""
    if resources.jobs.get_batch(batch_id).active:
        return JSONResponse(BatchView.of(resources.jobs.cancel_batch(batch_id)).model_dump(mode="json"))
    resources.jobs.delete_batch(batch_id)
    return Response(status_code=204)


async def followed_batch(
    batch_id: BatchId, resources: CallerResources, last_event_id: LastEventId = None
) -> tuple[Batch, str]:
    """Return the batch and the id of the event to continue after; "0" for all stored events."""
    batch = await to_thread.run_sync(resources.jobs.get_batch, batch_id)
    known = last_event_id is not None and re.fullmatch(r"0|\d{1,18}-\d{1,18}", last_event_id, re.ASCII)
    return batch, last_event_id if known and last_event_id else "0"


@router.get(
    "/{id}/events",
    operation_id="followBatch",
    response_description="The stream of events.",
    summary="Follow a batch by server-sent events",
    response_class=EventSourceResponse,
)
async def follow_batch(
    followed: Annotated[tuple[Batch, str], Depends(followed_batch)], resources: CallerResources
) -> AsyncIterable[ServerSentEvent]:
    """Stream an event `job` for each change of state of a job of the batch, then `state` when the last has ended.

    The stored events come first (about the last thousand), or those after `Last-Event-ID`.
    """
    batch, after = followed
    while not resources.closing.is_set():
        for event in await resources.jobs.async_batch_events(batch, after=after, block_s=WAIT_SLICE_S):
            after = event.id
            yield _sent(event)
            if event.event == "state":
                return
        if not (batch := await to_thread.run_sync(resources.jobs.get_batch, batch.id)).active:
            # What was not read yet, or the end without its event: a batch whose last active job was removed.
            for event in await resources.jobs.async_batch_events(batch, after=after):
                yield _sent(event)
                if event.event == "state":
                    return
            yield ServerSentEvent(data={"state": "ended"}, event="state")
            return


def _sent(event: JobEvent) -> ServerSentEvent:
    data: dict[str, Any] = event.data
    return ServerSentEvent(data=data, event=event.event, id=event.id)


async def _wait(resources: Resources, batch_id: str, seconds: float) -> Batch:
    """Return the batch when it has ended, after ``seconds``, or when the service closes."""
    batch = await to_thread.run_sync(resources.jobs.get_batch, batch_id)
    return await resources.wait_until_batch_done(batch, seconds)
