"""The application itself, without a server between: hostile requests by the hundred, in one process."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest
import structlog
from starlette.testclient import TestClient

from app.main import create_app
from app.settings import AppSettings
from worker.broker.embedded import start_broker


@pytest.fixture(scope="session")
def victim(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    """A client of an application with the shipped models, that serves this machine."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    data_dir = tmp_path_factory.mktemp("victim")
    with start_broker(data_dir / "broker") as broker:
        settings = AppSettings(_env_file=None, redis_url=broker.url, data_dir=data_dir)  # type: ignore[call-arg]
        app = create_app(settings)
        with TestClient(
            app, base_url="http://127.0.0.1", client=("127.0.0.1", 50000), raise_server_exceptions=False
        ) as client:
            yield client
