"""Health checks, metrics and the version, for operators and orchestrators."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import PlainTextResponse
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from app.middleware.strict_bodies import StrictRoute
from app.problems.handlers import ProblemError
from app.problems.types import NOT_READY
from app.schemas import CheckView, LiveView, ReadyView, VersionView
from app.services.resources import SharedResources
from model import __version__
from model.errors import CytosynthError

router = APIRouter(tags=["health"], route_class=StrictRoute)


@router.get(
    "/livez",
    operation_id="isAlive",
    response_description="The process answers.",
    summary="Check that the process answers",
)
@router.head("/livez", include_in_schema=False)
async def livez() -> LiveView:
    """Answer without checking anything else."""
    return LiveView()


@router.get(
    "/readyz",
    operation_id="isReady",
    response_description="A job submitted now would be carried out.",
    summary="Check that jobs can be carried out",
)
@router.head("/readyz", include_in_schema=False)
async def readyz(resources: SharedResources) -> ReadyView:
    """Check that the broker answers and loses no jobs, that results can be stored, and that a worker runs."""
    found = await asyncio.gather(
        _check(resources.readiness.broker()),
        _check(resources.readiness.storage()),
        _check(resources.readiness.workers()),
    )
    checks = dict(zip(("broker", "storage", "worker"), found, strict=True))
    missing = [name for name, check in checks.items() if not check.ok]
    if missing:
        shown = {name: check.model_dump() for name, check in checks.items()}
        raise ProblemError(NOT_READY, f"not in order: {', '.join(missing)}", checks=shown)
    return ReadyView(checks=checks)


@router.get(
    "/metrics",
    operation_id="getMetrics",
    response_description="The metrics in Prometheus' text format.",
    summary="Metrics for Prometheus",
    response_class=PlainTextResponse,
)
def metrics(request: Request) -> Response:
    """Return queue depth, jobs by state, running workers, lost leases, refusals and HTTP response times."""
    return Response(generate_latest(request.app.state.registry), media_type=CONTENT_TYPE_LATEST)


@router.get("/v1/version", operation_id="getVersion", response_description="The versions.", summary="Show the version")
async def version() -> VersionView:
    """Return the version of the service and of its API."""
    return VersionView(version=__version__)


async def _check(answer: Awaitable[Any]) -> CheckView:
    try:
        value = await answer
    except CytosynthError as error:
        return CheckView(ok=False, detail=error.message)
    except OSError as error:
        return CheckView(ok=False, detail=error.strerror or "not writable")
    return CheckView(ok=True, detail=f"{1000 * value:.1f} ms" if isinstance(value, float) else value)
