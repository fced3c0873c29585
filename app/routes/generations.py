"""Ask for new living-cell sequences, or what they would cost."""

from __future__ import annotations

import hashlib
import json
import math
import re
from typing import Annotated

from fastapi import APIRouter, Body, Header, Response

from app.middleware.strict_bodies import StrictRoute
from app.routes.examples import GENERATIONS
from app.schemas import EstimateView, JobView, Limits, SecondsView
from app.services.resources import Desk, DeskNow
from model.spec import GenerationSpec
from worker.jobs import Job

router = APIRouter(prefix="/v1", tags=["generations"], route_class=StrictRoute)

Spec = Annotated[GenerationSpec, Body(openapi_examples=GENERATIONS)]
IdempotencyKey = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        pattern=r"^[!-~]{1,255}$",
        description="Any text of your own, up to 255 printable characters. Sent again with the same request, it "
        "gives the same job; with another, 422. To leave out a member and to send its default is the same request.",
    ),
]
Prefer = Annotated[
    str | None,
    Header(
        max_length=1000,
        description="`wait=N` answers with the finished job if it ends within N seconds (60 at most).",
        examples=["wait=30"],
    ),
]


@router.post(
    "/generations",
    operation_id="createGeneration",
    summary="Generate living-cell sequences",
    status_code=202,
    response_description="The job is queued, or it has not ended within `Prefer: wait`.",
    response_model=JobView,
    responses={
        200: {
            "model": JobView,
            "description": "An identical request has been carried out before, or the job ended within `Prefer: wait`.",
        }
    },
)
async def create_generation(
    spec: Spec, desk: DeskNow, response: Response, idempotency_key: IdempotencyKey = None, prefer: Prefer = None
) -> JobView:
    """Queue a job and answer 202 with its document; `Location` is where to look for it.

    The job carries the complete spec, the drawn seed included: the same spec and model give the same bytes, and a
    request that has been carried out before is answered at once with 200.
    """
    job, cost_s = await desk.submissions.take(_submit, desk, spec, idempotency_key)
    wait = preferred_wait(prefer)
    if wait is not None:
        response.headers["Preference-Applied"] = f"wait={wait}"
        job = await desk.patience(job, wait)
    response.headers["Location"] = f"/v1/jobs/{job.id}"
    if job.status.active:
        response.headers["Retry-After"] = str(max(1, min(60, math.ceil(cost_s / 2))))
    else:
        response.status_code = 200
    return JobView.of(job)


@router.post("/estimates", operation_id="createEstimate", summary="Estimate the cost of a spec")
def create_estimate(spec: Spec, desk: DeskNow) -> EstimateView:
    """Say what a spec would take, without running it: grid samples, bytes of files, seconds of one worker.

    The seconds are corrected by what workers measured for the same model and formats, and given with their spread.
    """
    desk.fitting_card(spec)
    cost, settings, timing = spec.cost(), desk.settings, desk.timing(spec)
    limits = Limits(points=settings.max_points, bytes=settings.max_bytes)
    within = cost.points <= limits.points and cost.bytes <= limits.bytes
    cost = cost.model_copy(update={"seconds": round(timing.expected, 3)})
    seconds = SecondsView(expected=cost.seconds, low=round(timing.low, 3), high=round(timing.high, 3), jobs=timing.jobs)
    return EstimateView(kind="generation", cost=cost, seconds=seconds, limits=limits, within_limits=within)


def _submit(desk: Desk, spec: GenerationSpec, idempotency_key: str | None) -> tuple[Job, float]:
    card = desk.admit(spec)
    complete = spec.completed()
    # Completed but for the seed, which would be drawn anew: leaving out a default is the same request.
    recipe = complete.model_copy(update={"seed": spec.seed})
    asked = json.dumps(["generation", recipe.model_dump(mode="json")], sort_keys=True)
    job, _ = desk.jobs.submit(
        kind="generation",
        spec=complete.model_dump(mode="json"),
        model_id=card.id,
        model_sha256=card.sha256,
        digest=complete.digest(model_sha256=card.sha256),
        idempotency_key=idempotency_key,
        request_digest=hashlib.sha256(asked.encode()).hexdigest(),
    )
    return job, desk.timing(complete).expected


def preferred_wait(prefer: str | None) -> int | None:
    """Read ``wait=N`` out of a Prefer header (RFC 7240); a preference that is not understood is ignored."""
    for preference in (prefer or "").split(","):
        found = re.fullmatch(r'\s*wait\s*=\s*"?(\d{1,9})"?\s*(;.*)?', preference, re.ASCII | re.IGNORECASE)
        if found:
            return min(60, int(found[1]))
    return None
