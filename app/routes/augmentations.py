"""Request the variations of a cell, or an estimate of what they cost."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Body, Response

from app.middleware.strict_bodies import StrictRoute
from app.routes.examples import AUGMENTATIONS
from app.routes.submissions import ACCEPTED, FINISHED, IdempotencyKey, Options, Prefer, accept
from app.schemas import EstimateView, JobView
from app.services.resources import CallerResources
from app.services.submission import estimate
from model.augmentation_spec import AugmentationSpec
from worker.kinds.table import AUGMENTATION

router = APIRouter(tags=["augmentations"], route_class=StrictRoute)

Spec = Annotated[AugmentationSpec, Body(openapi_examples=AUGMENTATIONS)]


@router.post(
    AUGMENTATION.path, operation_id="createAugmentation", summary="Vary a cell", status_code=202,
    response_description=ACCEPTED, response_model=JobView, responses=FINISHED,
)  # fmt: skip
async def create_augmentation(
    spec: Spec,
    resources: CallerResources,
    response: Response,
    options: Options,
    idempotency_key: IdempotencyKey = None,
    prefer: Prefer = None,
) -> JobView:
    """Queue a job that writes variations of one cell, and return it with 202. `Location` is the address of the job.

    The cell is a learned one, one with an explicit code, or a cell of an earlier job with the same model. The file
    `augmentation.json` holds the strength of each variation. Codes that the plausibility check rejects are not used.
    """
    return await accept(
        AUGMENTATION, spec, resources, response, idempotency_key=idempotency_key, prefer=prefer, options=options
    )


@router.post(
    "/v1/estimates/augmentations",
    operation_id="createAugmentationEstimate",
    response_description="What the job would take.",
    summary="Estimate the cost of an augmentation",
)
def create_augmentation_estimate(spec: Spec, resources: CallerResources) -> EstimateView:
    """Return what an augmentation would take, without running it: grid samples, bytes, seconds of one worker."""
    return EstimateView.of(estimate(resources, AUGMENTATION, spec), resources.settings, kind="augmentation")
