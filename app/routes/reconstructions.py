"""Request the reconstruction of an uploaded cell, or an estimate of what it costs."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Body, Response

from app.middleware.strict_bodies import StrictRoute
from app.routes.examples import RECONSTRUCTIONS
from app.routes.submissions import ACCEPTED, FINISHED, IdempotencyKey, Options, Prefer, accept
from app.schemas import EstimateView, JobView
from app.services.resources import CallerResources
from app.services.submission import estimate
from model.reconstruction_spec import ReconstructionSpec
from worker.kinds.table import RECONSTRUCTION

router = APIRouter(tags=["reconstructions"], route_class=StrictRoute)

Spec = Annotated[ReconstructionSpec, Body(openapi_examples=RECONSTRUCTIONS)]


@router.post(
    RECONSTRUCTION.path, operation_id="createReconstruction", summary="Reconstruct an uploaded cell", status_code=202,
    response_description=ACCEPTED, response_model=JobView, responses=FINISHED,
)  # fmt: skip
async def create_reconstruction(
    spec: Spec,
    resources: CallerResources,
    response: Response,
    options: Options,
    idempotency_key: IdempotencyKey = None,
    prefer: Prefer = None,
) -> JobView:
    """Queue a job that fits the cell of your uploads, and return it with 202. `Location` is the address of the job.

    The files are the cell at the asked resolution, `fit.json` with the latent code and the agreement of every given
    frame, and, if the network was adapted, its weights in `fitted/weights.safetensors`. The steps of the fit count in
    the job's progress. The uploads must stay until the job has read them.
    """
    return await accept(
        RECONSTRUCTION, spec, resources, response, idempotency_key=idempotency_key, prefer=prefer, options=options
    )


@router.post(
    "/v1/estimates/reconstructions",
    operation_id="createReconstructionEstimate",
    response_description="What the job would take.",
    summary="Estimate the cost of a reconstruction",
)
def create_reconstruction_estimate(spec: Spec, resources: CallerResources) -> EstimateView:
    """Return what a reconstruction would take, without running it: grid samples, bytes, seconds of one worker."""
    return EstimateView.of(estimate(resources, RECONSTRUCTION, spec), resources.settings, kind="reconstruction")
