"""Request the training of a model on uploaded cells, or an estimate of what it costs."""

from __future__ import annotations

from typing import Annotated

from anyio import to_thread
from fastapi import APIRouter, Body, Response

from app.middleware.strict_bodies import StrictRoute
from app.routes.examples import TRAININGS
from app.routes.submissions import ACCEPTED, FINISHED, IdempotencyKey, Options, Prefer, accept
from app.schemas import EstimateView, JobView
from app.services.resources import CallerResources
from app.services.submission import estimate
from app.services.trainings import check_cells, training_limits
from model.training_spec import TrainingSpec
from worker.kinds.table import TRAINING

router = APIRouter(tags=["trainings"], route_class=StrictRoute)

Spec = Annotated[TrainingSpec, Body(openapi_examples=TRAININGS)]


@router.post(
    TRAINING.path, operation_id="createTraining", summary="Train a model on your cells", status_code=202,
    response_description=ACCEPTED, response_model=JobView, responses=FINISHED,
)  # fmt: skip
async def create_training(
    spec: Spec,
    resources: CallerResources,
    response: Response,
    options: Options,
    idempotency_key: IdempotencyKey = None,
    prefer: Prefer = None,
) -> JobView:
    """Queue a job that trains a model on your uploads, and return it with 202. `Location` is the address of the job.

    `model.id` of the job is the model that it makes: private to you, and usable as soon as the job has succeeded. The
    cells are checked first, as by `python -m model validate`; if none can be trained on, the request is refused with
    `bad_dataset` and all findings, or, where the check takes too long for a request, the job fails with them. A
    training goes on where it was if its worker stops or dies. The uploads must stay until they have been read.
    """
    resources.submissions.check()
    await to_thread.run_sync(check_cells, resources, spec, limiter=resources.inspections)
    return await accept(
        TRAINING, spec, resources, response, idempotency_key=idempotency_key, prefer=prefer, options=options
    )


@router.post(
    "/v1/estimates/trainings",
    operation_id="createTrainingEstimate",
    response_description="What the job would take.",
    summary="Estimate the cost of a training",
)
def create_training_estimate(spec: Spec, resources: CallerResources) -> EstimateView:
    """Return what a training would take, without running it: points, bytes that are kept meanwhile, seconds."""
    found = estimate(resources, TRAINING, spec)
    return EstimateView.of_training(found, spec, resources.settings, training_limits(resources.settings))
