"""Request the evaluation of cells, or an estimate of what it costs."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Body, Response

from app.middleware.strict_bodies import StrictRoute
from app.routes.examples import EVALUATIONS
from app.routes.submissions import ACCEPTED, FINISHED, IdempotencyKey, Options, Prefer, accept
from app.schemas import EstimateView, JobView
from app.services.resources import CallerResources
from app.services.submission import estimate
from model.evaluation_spec import EvaluationSpec
from worker.kinds.table import EVALUATION

router = APIRouter(tags=["evaluations"], route_class=StrictRoute)

Spec = Annotated[EvaluationSpec, Body(openapi_examples=EVALUATIONS)]


@router.post(
    EVALUATION.path, operation_id="createEvaluation", summary="Compare cells", status_code=202,
    response_description=ACCEPTED, response_model=JobView, responses=FINISHED,
)  # fmt: skip
async def create_evaluation(
    spec: Spec,
    resources: CallerResources,
    response: Response,
    options: Options,
    idempotency_key: IdempotencyKey = None,
    prefer: Prefer = None,
) -> JobView:
    """Queue a job that compares cells, and return it with 202. `Location` is the address of the job.

    The evaluated cells are new cells of the model, or those of one of your finished jobs. They are compared with cells
    that you upload, or with the model's reference cells, which it was not trained on. The files are `report.html`,
    figures as PNG, and all measurements as JSON. The uploads and the job must stay until the evaluation has read them.
    """
    return await accept(
        EVALUATION, spec, resources, response, idempotency_key=idempotency_key, prefer=prefer, options=options
    )


@router.post(
    "/v1/estimates/evaluations",
    operation_id="createEvaluationEstimate",
    response_description="What the job would take.",
    summary="Estimate the cost of an evaluation",
)
def create_evaluation_estimate(spec: Spec, resources: CallerResources) -> EstimateView:
    """Return what an evaluation would take, without running it: grid samples, bytes, seconds of one worker."""
    return EstimateView.of(estimate(resources, EVALUATION, spec), resources.settings, kind="evaluation")
