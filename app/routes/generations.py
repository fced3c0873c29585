"""Request new living-cell sequences, or an estimate of what a request costs."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Body, Response

from app.middleware.strict_bodies import StrictRoute
from app.routes.examples import GENERATIONS
from app.routes.submissions import ACCEPTED, FINISHED, IdempotencyKey, Options, Prefer, accept
from app.schemas import EstimateView, JobView
from app.services.resources import CallerResources
from app.services.submission import estimate
from model.spec import GenerationSpec
from worker.kinds.table import GENERATION

router = APIRouter(tags=["generations"], route_class=StrictRoute)

Spec = Annotated[GenerationSpec, Body(openapi_examples=GENERATIONS)]


@router.post(
    GENERATION.path, operation_id="createGeneration", summary="Generate living-cell sequences", status_code=202,
    response_description=ACCEPTED, response_model=JobView, responses=FINISHED,
)  # fmt: skip
async def create_generation(
    spec: Spec,
    resources: CallerResources,
    response: Response,
    options: Options,
    idempotency_key: IdempotencyKey = None,
    prefer: Prefer = None,
) -> JobView:
    """Queue a job and return it with 202. `Location` is the address of the job.

    The job holds the complete spec, with the seed if the service has drawn it. The same spec and model give the same
    bytes. A request identical to one that was carried out before returns the finished job immediately, with 200.
    """
    return await accept(
        GENERATION, spec, resources, response, idempotency_key=idempotency_key, prefer=prefer, options=options
    )


@router.post(
    "/v1/estimates",
    operation_id="createEstimate",
    response_description="What the job would take.",
    summary="Estimate the cost of a spec",
)
def create_estimate(spec: Spec, resources: CallerResources) -> EstimateView:
    """Return what a spec would take, without running it: grid samples, bytes of files, seconds of one worker.

    The seconds are corrected by jobs that were measured with the same model and formats, and come with their spread.
    """
    return EstimateView.of(estimate(resources, GENERATION, spec), resources.settings)
