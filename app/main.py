"""The web service: ``create_app`` builds it, importing this has no effect.

Run it with ``cytosynth serve`` (broker and worker included), or with ``uvicorn --factory app.main:create_app``.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from asgi_correlation_id import CorrelationIdMiddleware
from fastapi import FastAPI
from fastapi.staticfiles import StaticFiles
from prometheus_client import CollectorRegistry

from app.border import BodyLimit, SecurityHeaders
from app.desk import open_desk
from app.errors import UnforeseenErrors, install_errors
from app.metrics import HttpTimes, QueueFigures
from app.openapi import describe
from app.routes import files, generations, health, jobs, models, pages
from app.settings import AppSettings

ROUTERS = (generations.router, jobs.router, files.router, models.router, health.router, pages.router)


def create_app(settings: AppSettings | None = None) -> FastAPI:
    """Build the service.

    Parameters
    ----------
    settings
        From the environment if absent.
    """
    settings = settings or AppSettings()
    registry = CollectorRegistry()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with open_desk(settings) as desk:
            app.state.desk = desk
            registry.register(QueueFigures(desk.jobs))
            yield

    app = FastAPI(title="cytosynth", lifespan=lifespan, docs_url=None, redoc_url=None, redirect_slashes=False)
    app.state.registry = registry
    install_errors(app, routes=[route for router in ROUTERS for route in router.routes])
    describe(app)
    for router in ROUTERS:
        app.include_router(router)
    app.mount("/static", StaticFiles(directory=pages.WEB / "static"))
    # The last one added is the first to see a request.
    app.add_middleware(BodyLimit, limit=settings.max_body_bytes)
    app.add_middleware(UnforeseenErrors)
    app.add_middleware(HttpTimes, registry=registry)
    app.add_middleware(SecurityHeaders)
    app.add_middleware(CorrelationIdMiddleware)
    return app
