"""The web application: :func:`create_app` builds it; importing this module has no side effects.

Run it with ``cytosynth serve`` (with broker and workers) or ``cytosynth web``. Another ASGI server runs it as well, but
without the limits of :mod:`app.server` on slow clients.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import structlog
from asgi_correlation_id import CorrelationIdMiddleware
from fastapi import FastAPI
from prometheus_client import CollectorRegistry

from app.middleware.authentication import AuthenticationMiddleware
from app.middleware.compression import CompressionMiddleware
from app.middleware.head_requests import HeadMiddleware
from app.middleware.load_shedding import LoadSheddingMiddleware
from app.middleware.metrics import MetricsMiddleware, QueueCollector, refusal_counter
from app.middleware.request_logs import configure_logs
from app.middleware.security_headers import SecurityHeadersMiddleware
from app.middleware.strict_bodies import BodyLimitMiddleware
from app.openapi import describe
from app.problems.handlers import UnhandledErrorMiddleware, install_errors
from app.responses.static_files import RevalidatedFiles
from app.routes import (
    augmentations,
    batches,
    evaluations,
    files,
    generations,
    health,
    jobs,
    links,
    models,
    pages,
    reconstructions,
    trainings,
    uploads,
    webhooks,
)
from app.server import STATE, Bounds, Connections
from app.services.resources import open_resources
from app.settings import AppSettings

# Seconds after which a thread must release the interpreter; Python's default is 0.005. A thread that submits a job
# otherwise delays the event loop, and with it the slowest answers.
SWITCH_INTERVAL_S = 0.0005
ROUTERS = (
    generations.router, reconstructions.router, augmentations.router, evaluations.router, trainings.router,
    batches.router, jobs.router, files.router, links.router, webhooks.router, models.router, uploads.router,
    health.router, pages.router,
)  # fmt: skip


def create_app(settings: AppSettings | None = None) -> FastAPI:
    """Build the web application.

    Parameters
    ----------
    settings
        Read from the environment if absent.
    """
    settings = settings or AppSettings()
    registry = CollectorRegistry()
    refusals = refusal_counter(registry)
    connections = Connections(Bounds.of(settings), registry=registry, refusals=refusals)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[Mapping[str, Any]]:
        if not structlog.is_configured():  # started by another server; the default shows local variables, with keys
            configure_logs(settings)
        async with open_resources(settings) as resources:
            sys.setswitchinterval(SWITCH_INTERVAL_S)
            gc.freeze()  # garbage collections skip the objects made at the start, which stay
            app.state.resources = resources
            registry.register(QueueCollector(resources.records))
            yield {STATE: connections}

    app = FastAPI(title="cytosynth", lifespan=lifespan, docs_url=None, redoc_url=None, redirect_slashes=False)
    app.state.registry = registry
    install_errors(app, routes=[route for router in ROUTERS for route in router.routes])
    describe(app)
    for router in ROUTERS:
        app.include_router(router)
    app.mount("/static", RevalidatedFiles(directory=pages.WEB / "static"))
    # The middleware added last is the first to receive a request.
    app.add_middleware(HeadMiddleware, routes=[route for router in ROUTERS for route in router.routes])
    app.add_middleware(LoadSheddingMiddleware)
    app.add_middleware(BodyLimitMiddleware, limit=settings.max_body_bytes, uploads=settings.max_upload_bytes)
    app.add_middleware(AuthenticationMiddleware, settings=settings)
    app.add_middleware(UnhandledErrorMiddleware)
    app.add_middleware(CompressionMiddleware)
    app.add_middleware(MetricsMiddleware, registry=registry, refusals=refusals)
    app.add_middleware(SecurityHeadersMiddleware)
    app.add_middleware(CorrelationIdMiddleware)
    return app
